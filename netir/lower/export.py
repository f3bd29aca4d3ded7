"""From a graph to an ONNX file that is proved: kept only if ONNX Runtime computes what it means."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir

from netir.errors import NetirError, NetirWarning
from netir.ir import Graph, expect_graph
from netir.latency import Latency, latency
from netir.lower.agree import Case, cases
from netir.lower.exporter import exported
from netir.lower.onnx import onnx_model, without_lowering
from netir.lower.onnx_file import drafted
from netir.lower.proof import proved
from netir.lower.session import onnx_runtime, open_session
from netir.ops.base import NoLowering

DIRECT, EXPORTER = "direct", "torch.onnx.export"


@dataclass(frozen=True)
class OnnxReport:
    """What was written, and how it was proved.

    `error` is the largest that ONNX Runtime makes, relative to the output's largest entry, and
    `allowed` what was allowed there: ten times what separates PyTorch from float64. `bytes`
    counts the tensors in a file of their own too. `way` is `direct` or `torch.onnx.export`.
    """

    path: Path
    opset: int
    nodes: int
    bytes: int
    way: str
    provider: str
    error: float
    allowed: float
    cases: tuple[str, ...]
    seconds: float
    note: str = ""
    latency: Latency | None = None

    def __str__(self) -> str:
        text = (
            f"{self.path.name}: {self.nodes} nodes of opset {self.opset}, "
            f"{self.bytes / 1e6:.3g} MB, {self.way}; off by {self.error:.1e} at most, "
            f"{self.allowed:.1e} allowed, in ONNX Runtime on {self.provider} "
            f"({len(self.cases)} inputs, unoptimised and optimised)"
        )
        if self.latency:
            text += f"; {self.latency}"
        return f"{text}; {self.note}" if self.note else text


def to_onnx(
    graph: Graph,
    path: str | os.PathLike[str],
    args: tuple[Any, ...] | Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    external: bool | None = None,
    provider: str | None = None,
    timed: bool = False,
) -> OnnxReport:
    """Write a graph as an ONNX file, once ONNX Runtime has shown that it computes the same.

    It is tried on random and edge inputs, and on `args` and `kwargs` if they are given; `sizes`
    gives numbers to symbolic sizes. `external` puts the tensors into a file of their own, which
    happens by itself beyond 2 GB. ONNX Runtime runs on `provider`, by default on the GPU if there
    is one. If anything fails, the file that was there before stays. With `timed` the report tells
    the latency too.
    """
    expect_graph(graph)
    start = time.perf_counter()
    onnx_runtime()
    _expect_real(graph)
    given = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    tried = cases(graph, given, kwargs, sizes)
    model, way = written(graph, tried[0])
    with drafted(model, Path(path), external) as draft:
        size = sum(file.stat().st_size for file in draft.parent.iterdir())
        proof = proved(graph, draft, tried, provider, strict=way == DIRECT)
        taken = _timed(draft, tried[0], provider) if timed and not proof.note else None
    return OnnxReport(
        path=Path(path), opset=model.opset_imports[""], nodes=model.graph.num_nodes(), bytes=size,
        way=way, provider=proof.provider, error=proof.error, allowed=proof.allowed,
        cases=tuple(filter(None, (case.label for case in tried))),
        seconds=time.perf_counter() - start, note=proof.note, latency=taken,
    )  # fmt: skip


def _expect_real(graph: Graph) -> None:
    """Refuse complex inputs and outputs; torch.onnx.export may know how to do without inside."""
    for name in (*graph.inputs, *graph.outputs):
        kind = graph.type_of(name)
        if kind.dtype.is_complex:
            what = "input" if name in graph.inputs else "output"
            raise NetirError(
                f"ONNX operators take no complex numbers, and the {what} '{name}' has some",
                f"%{name}: {kind}",
                "let the model take and return real and imaginary parts: torch.view_as_complex "
                "and torch.view_as_real",
            )


def written(graph: Graph, case: Case) -> tuple[onnx_ir.Model, str]:
    """The model, and by what it was written: by netir if it can write every node."""
    try:
        return onnx_model(graph), DIRECT
    except NoLowering:
        problems = without_lowering(graph)
    named = "; ".join(f"{p.where}: {p.what}" for p in problems[:3])
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    warnings.warn(
        f"the graph goes through torch.onnx.export, because of {named}{more}", NetirWarning,
        stacklevel=3,
    )  # fmt: skip
    return exported(graph, case.inputs), EXPORTER


def _timed(draft: Path, case: Case, provider: str | None) -> Latency:
    session = open_session(draft, provider=provider)
    return latency(session, tuple(case.inputs.values()))


__all__ = ["DIRECT", "EXPORTER", "OnnxReport", "to_onnx", "written"]
