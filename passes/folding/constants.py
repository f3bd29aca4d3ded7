"""The rule of `Fold` that computes what no input and no trained parameter has a part in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from netir.dims import Sym
from netir.edit import Edit
from netir.evaluate import device_of, results_of
from netir.ir import Graph, Kind, Node, Param
from netir.passes.folding.rules import Nodes, exactly, steady, written
from netir.rewrite import Left, Site

_LARGE = 65536
"""A longer result is worth its memory only if what it is made from is as long."""


def constants(graph: Graph, chosen: Nodes, freeze: bool = False) -> Iterator[Site | Left]:
    """Values made of constants, buffers and numbers alone; with `freeze` of parameters too.

    Each is computed as the network does it and once more in float64. Where the two differ by more
    than rounding, or by anything in whole numbers, which of them is meant cannot be told.
    """
    fixed = fixed_values(graph, _untrained(graph, freeze))
    found: dict[str, Kind] = {}
    for value in _frontier(graph, fixed):
        made_of = sources(fixed, value)
        sizes = [graph.params[name].data.numel() for name in made_of]
        if graph.producers[value].name in chosen and _size(graph, value) <= max(_LARGE, sum(sizes)):
            lasting = any(graph.params[name].kind != "const" for name in made_of)
            found[value] = "buffer" if lasting else "const"
    plain, wide = computed(graph, fixed, found), computed(graph, fixed, found, wide=True)
    for value, kind in found.items():
        data = wide[value].to(plain[value].dtype)
        if _agree(plain[value], data):
            yield exactly(value, _put, value=value, param=Param(data, kind, False))
        else:
            yield Left(value, "what it is depends on how it is rounded")


def _put(edit: Edit, value: str, param: Param) -> None:
    edit.replace(value, edit.add_param(edit.fresh(value.replace(".", "_")), param))


def _untrained(graph: Graph, freeze: bool) -> set[str]:
    """The parameters that stay as they are for good."""
    still = {n for n, p in graph.params.items() if freeze or p.kind != "param"}
    return still - written(graph)


def fixed_values(graph: Graph, params: set[str]) -> dict[str, Node]:
    """The values that only these parameters and numbers decide, with the nodes that make them."""
    found: dict[str, Node] = {}
    for node in graph.nodes.values():
        known = all(
            o is None or (o[1:] in params if o[0] == "@" else o in found) for o in node.operands
        )
        if known and steady(node.op) and not _open(node):
            found.update(dict.fromkeys(node.results, node))
    return found


def _open(node: Node) -> bool:
    """Whether a size that is known only when the network runs has a part in a node."""
    sizes = [size for kind in node.types for size in kind.shape]
    return _named(tuple(sizes)) or any(_named(getattr(node.op, f.name)) for f in fields(node.op))


def _named(value: Any) -> bool:
    return isinstance(value, Sym) or (isinstance(value, tuple) and any(map(_named, value)))


def _frontier(graph: Graph, fixed: Mapping[str, Node]) -> list[str]:
    """The fixed values that something else reads; what is only repeated is not written out."""
    found: dict[str, None] = {}
    for value in fixed:
        users = graph.users.get(value, ())
        outside = value in graph.outputs or any(node.results[0] not in fixed for node, _ in users)
        while outside and value in fixed and fixed[value].op.name == "expand":
            value = fixed[value].operands[0] or ""
        if outside and value in fixed:
            found[value] = None
    return list(found)


def needed(fixed: Mapping[str, Node], values: Iterable[str]) -> set[str]:
    """The fixed values that some of them are computed from, and these themselves."""
    found = set(values)
    for value in reversed(list(fixed)):
        if value in found:
            found.update(v for v in fixed[value].values)
    return found


def sources(fixed: Mapping[str, Node], value: str) -> set[str]:
    """The parameters that a fixed value is computed from."""
    return {param for v in needed(fixed, [value]) for param in fixed[v].params}


def _size(graph: Graph, value: str) -> int:
    total = 1
    for size in graph.types[value].shape:
        assert isinstance(size, int)
        total *= size
    return total


def computed(
    graph: Graph, fixed: Mapping[str, Node], wanted: Collection[str], wide: bool = False
) -> dict[str, Tensor]:
    """The values wanted, as the network computes them or with all its numbers in float64."""
    steps, dtype = needed(fixed, wanted), torch.float64 if wide else None
    device = device_of(graph, {})
    values: dict[str, Tensor] = {}
    nodes = dict.fromkeys(fixed[v].name for v in fixed if v in steps)
    with torch.no_grad():
        for node in map(graph.node, nodes):
            operands = [o and _operand(graph, values, o, wide) for o in node.operands]
            values.update(results_of(node, operands, {}, dtype, device))
    return {v: values[v].clone(memory_format=torch.contiguous_format) for v in wanted}


def _operand(graph: Graph, values: Mapping[str, Tensor], operand: str, wide: bool) -> Tensor:
    if operand[0] != "@":
        return values[operand]
    data = graph.params[operand[1:]].data.detach()
    return data.double() if wide and data.is_floating_point() else data


def _agree(plain: Tensor, wide: Tensor) -> bool:
    """Whether two results differ by no more than rounding; whole numbers must be equal."""
    if not plain.is_floating_point():
        return bool(torch.equal(plain, wide))
    close = torch.finfo(plain.dtype).eps ** 0.5
    finite = plain[plain.isfinite()].abs()
    scale = float(finite.max()) if len(finite) else 0.0
    return torch.allclose(plain, wide, rtol=close, atol=close * min(scale, 1.0), equal_nan=True)


__all__ = ["computed", "constants", "fixed_values", "needed", "sources"]
