"""The proof of an ONNX file: the checker takes it, and ONNX Runtime computes what the graph means.

It runs without and with graph optimisation. Where ONNX Runtime has no code for an element type,
the same network in float32 is proved instead, and the proof says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from netir.errors import NetirError, blaming, first_line
from netir.ir import Graph, Node, TensorType
from netir.lower.agree import Agreement, Case, agreement, measured
from netir.lower.onnx import onnx_model
from netir.lower.onnx_file import drafted
from netir.lower.session import open_session, provider_of, run_session
from netir.ops.base import NoLowering

_NARROW = (torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Proof:
    """How far ONNX Runtime is off at most, on what it ran, and what has to be said about it."""

    error: float
    allowed: float
    provider: str
    note: str = ""


def proved(
    graph: Graph, draft: Path, cases: Sequence[Case], provider: str | None, *, strict: bool = True
) -> Proof:
    """Raise unless the file is sound and agrees with the graph on all cases.

    `strict` has the checker infer all types and shapes too.
    """
    _check(draft, strict)
    try:
        return _compared(graph, draft, cases, provider)
    except _Unsupported as error:
        missing = str(error)
    try:
        wide = in_float32(graph)
        model = onnx_model(wide)
    except (NoLowering, NetirError):
        raise _rejected(f"ONNX Runtime cannot run it: {missing}") from None
    again = [measured(wide, c.name, {n: _wide(t) for n, t in c.inputs.items()}) for c in cases]
    with drafted(model, draft.with_name(f"{draft.stem[:100]}.in_float32.onnx"), None) as second:
        found = _compared(wide, second, again, provider)
    return replace(found, note=f"proved on the same network in float32: {missing}")


def _check(draft: Path, strict: bool) -> None:
    import onnx

    try:
        onnx.checker.check_model(os.fspath(draft), full_check=strict)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _rejected(f"the ONNX checker does not take it: {first_line(error)}") from error


def _compared(
    graph: Graph, draft: Path, cases: Sequence[Case], provider: str | None
) -> Proof:
    worst, used = Agreement(), ""
    for optimise in (False, True):
        session = _opened(draft, optimise, provider)
        used = provider_of(session)
        found = agreement(graph, cases, partial(_run, session))
        if not found:
            how = "with" if optimise else "without"
            raise _rejected(
                f"ONNX Runtime on {used}, {how} optimisation, is off by {found.error:.1e} "
                f"on {found.where}; {found.allowed:.1e} is allowed"
            )
        worst = max(found, worst, key=lambda each: each.excess)  # the first, if all is equal
    return Proof(worst.error, worst.allowed, used)


def _run(session: Any, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    def told(error: Exception) -> Exception:
        if "does not support" in str(error):  # which it finds out only now
            return _Unsupported(first_line(error).rpartition("Status Message: ")[2])
        return _rejected(f"ONNX Runtime fails on it: {first_line(error)}")

    with blaming(told):  # ONNX Runtime's own exceptions have no common type
        return run_session(session, inputs)


def _opened(draft: Path, optimise: bool, provider: str | None) -> Any:
    def told(error: Exception) -> Exception:
        if type(error).__name__ == "NotImplemented":
            return _Unsupported(first_line(error).rpartition("NOT_IMPLEMENTED : ")[2])
        return _rejected(f"ONNX Runtime does not take it: {first_line(error)}")

    with blaming(told):  # ONNX Runtime's own exceptions have no common type
        return open_session(draft, optimise=optimise, provider=provider)


class _Unsupported(Exception):
    """ONNX Runtime has no code for an operator on some element type."""


def in_float32(graph: Graph) -> Graph:
    """The same network with float32 in place of all other floats."""
    kinds = {t.dtype for t in graph.types.values()} | {p.data.dtype for p in graph.params.values()}
    if kinds.isdisjoint(_NARROW):
        raise NetirError("the graph is in float32 already")
    return graph.replace(
        inputs={name: _wide_type(kind) for name, kind in graph.inputs.items()},
        params={name: replace(p, data=_wide(p.data)) for name, p in graph.params.items()},
        nodes={name: _wide_node(node) for name, node in graph.nodes.items()},
    )


def _wide_node(node: Node) -> Node:
    op = node.op
    if getattr(op, "dtype", None) in _NARROW:
        op = replace(op, dtype=torch.float32)  # type: ignore[call-arg]
    return replace(node, op=op, types=tuple(_wide_type(kind) for kind in node.types))


def _wide_type(kind: TensorType) -> TensorType:
    return TensorType(torch.float32, kind.shape) if kind.dtype in _NARROW else kind


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in _NARROW else tensor


def _rejected(what: str) -> NetirError:
    return NetirError(
        f"the ONNX file is not kept: {what}",
        fix="it should not happen: please report the network; if a warning said that the graph "
        "goes through torch.onnx.export, remove the operators that it named",
    )


__all__ = ["Proof", "in_float32", "proved"]
