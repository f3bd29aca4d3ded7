"""What a run measures of a network: what it costs, how well it does its task, how long it takes."""

from __future__ import annotations

from typing import Any

import onnx_ir

from netir.cost import cost
from netir.errors import NetirError
from netir.ir import Graph
from netir.latency import Latency, latencies
from netir.lower.onnx import onnx_model
from netir.lower.onnx_file import LIMIT, size_of_tensors
from netir.lower.session import open_session
from netir.report import Measured
from netir.samples import random_arguments
from netir.score import Score, evaluate
from netir.spec import Spec


def measured(graph: Graph, spec: Spec, score: Score | None = None) -> Measured:
    """Costs for one example, and the score on the task if there is one."""
    if score is None and spec.task is not None:
        score = evaluate(graph, spec.task, "auto")
    try:
        found = cost(graph, sizes_of(graph, spec))
    except NetirError:  # a size besides the batch is open, and the spec does not tell it
        found = None
    return Measured(
        parameters=_trained(graph) if found is None else found.parameters,
        macs=None if found is None else found.macs,
        bytes=sum(p.data.numel() * p.data.itemsize for p in graph.params.values()),
        metric=None if score is None else score.metric,
        loss=None if score is None else score.loss,
    )


def _trained(graph: Graph) -> int:
    return sum(p.data.numel() for p in graph.params.values() if p.kind == "param" and p.trainable)


def sizes_of(graph: Graph, spec: Spec) -> dict[str, int]:
    """The sizes that the spec tells and the network has."""
    return {name: size for name, size in spec.sizes.items() if name in graph.symbols}


def widths(graph: Graph) -> dict[str, int]:
    """The size of every space that can change."""
    return {space.name: space.size for space in graph.spaces() if not space.frozen}


def timed(first: Graph, last: Graph, spec: Spec) -> dict[str, Any]:
    """Milliseconds for one example, before and after, in PyTorch and in ONNX Runtime.

    All are called in turn, so that whatever else the machine does disturbs all alike.
    """
    try:
        batch = random_arguments(first, {"batch": 1, **sizes_of(first, spec)})
    except NetirError:
        return {"timing": "", "latency": {}}
    networks: dict[str, Any] = {"before torch": first, "after torch": last}
    sessions = {"before onnx": session_of(first), "after onnx": session_of(last)}
    if all(sessions.values()):
        networks |= sessions
    found = latencies(networks, batch)
    numbers = {name: 1e3 * latency.seconds for name, latency in found.items()}
    return {"timing": _told(found, batch), "latency": numbers}


def session_of(graph: Graph, threads: int | None = None) -> Any:
    """The network in ONNX Runtime on the CPU; None where that cannot be."""
    try:
        model = onnx_model(graph)
    except NetirError:
        return None  # an operator that cannot be written; an export says which
    if size_of_tensors(model) > LIMIT:
        return None
    content = onnx_ir.serde.serialize_model(model).SerializeToString()
    try:
        return open_session(content, provider="CPU", threads=threads)
    except Exception:  # noqa: BLE001 - ONNX Runtime's own exceptions have no common type
        return None  # the latency stays unknown; an export says what is wrong


def _told(found: dict[str, Latency], batch: dict[str, Any]) -> str:
    calls = min(len(latency.times) for latency in found.values())
    one = found["after torch"]
    threads = "" if one.threads is None else f", threads: {one.threads}"
    return (
        f"Median of {calls} calls with one example, all networks in turn, on {one.device}{threads}"
    )


__all__ = ["measured", "session_of", "sizes_of", "timed", "widths"]
