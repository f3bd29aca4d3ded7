"""Names of an ONNX file as names of netir: of values, parameters, sizes and modules.

Exporters write names such as `/layer1/conv1/Conv_output_0`, `conv1.weight` or
`StatefulPartitionedCall/sequential/dense/MatMul:0`.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Container
from functools import cache

from torch import fx, nn

from netir.ir import DTYPES

RESERVED = frozenset({"None", "True", "False", "inf", "nan", "max", "min", *DTYPES})
"""Words that cannot name a size."""
_SKIPPED = frozenset({"StatefulPartitionedCall", "PartitionedCall", "ReadVariableOp"})
_SCOPES = re.compile(r"'([^']*)'")


def identifier(name: str, fallback: str = "x") -> str:
    """A plain word that looks like `name`."""
    found = re.sub(r"[^A-Za-z0-9]+", "_", name[:200]).strip("_") or fallback
    found = f"{fallback}_{found}" if found[0].isdigit() else found
    return f"{found}_" if keyword.iskeyword(found) or found in ("self", "None") else found


def free(name: str, taken: Container[str]) -> str:
    """`name`, or one like it that is not taken."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found


def parts_of(name: str) -> list[str]:
    """The steps of a path, as exporters write it; `/layer1/layer1.0/conv` says `layer1` once."""
    found: list[str] = []
    for piece in re.split(r"[/]", name[:400].partition(":")[0]):
        steps = [re.sub(r"[^A-Za-z0-9_]+", "_", p).strip() for p in piece.split(".")]
        if piece in _SKIPPED:
            continue
        if len(steps) > 1 and found and found[-len(steps) + 1 :] == steps[:-1]:
            steps = steps[-1:]
        found += [s for s in steps if s]
    return found


def parameter(name: str) -> str:
    """A path that a parameter of this name can have in a module."""
    steps = parts_of(name) or ["parameter"]
    return ".".join(f"{s}_" if s in _attributes() else s for s in steps)


def module_path(name: str, operator: str, scopes: str | None) -> str:
    """The path of the module that a node comes from, or '' where nothing tells it."""
    if scopes:
        paths = [s for s in _SCOPES.findall(scopes[:4000])[:-1] if s and s[0] != "_"]
        return parameter(paths[-1]) if paths else ""
    steps = parts_of(name)
    if len(steps) < 2:
        return ""
    return parameter("/".join(steps[:-1]))


@cache
def _attributes() -> frozenset[str]:
    """What modules have already, and so cannot be the name of a part."""
    return frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))
