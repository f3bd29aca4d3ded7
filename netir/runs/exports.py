"""What a run exports, into a folder of its own in the folder of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netir.calibration import arguments
from netir.ir import Graph
from netir.lower.export import to_onnx
from netir.lower.python import to_python
from netir.report import Export, codec
from netir.runs.folder import RunFolder
from netir.runs.measure import sizes_of
from netir.spec import Export as Wanted
from netir.spec import Spec
from netir.store import save

FOLDER = "exports"


def export(graph: Graph, spec: Spec, place: RunFolder) -> list[dict[str, Any]]:
    """Write all files that the spec wants, in one go, and tell of each."""
    if not spec.exports:
        return []
    with place.making(place.inside(FOLDER)) as draft:
        return [codec.plain(_written(graph, spec, e, draft / e.file)) for e in spec.exports]


def _written(graph: Graph, spec: Spec, wanted: Wanted, target: Path) -> Export:
    name = f"{FOLDER}/{wanted.file}"
    match wanted.format:
        case "onnx":
            return _onnx(graph, spec, target, name)
        case "python":
            to_python(graph, target, overwrite=True)
        case "netir":
            save(graph, target)
    return Export(name, wanted.format, target.stat().st_size)


def _onnx(graph: Graph, spec: Spec, target: Path, name: str) -> Export:
    """An ONNX file is proved on data of the task too, if there is one."""
    args: Any = ()
    kwargs = None
    if spec.task is not None:
        args, kwargs = arguments(spec.task.example())
    sizes = sizes_of(graph, spec)
    done = to_onnx(graph, target, tuple(args), kwargs, sizes=sizes, timed=True)
    return Export(
        name, "onnx", done.bytes, done.opset, done.provider, done.error, done.allowed,
        None if done.latency is None else 1e3 * done.latency.seconds,
    )  # fmt: skip


__all__ = ["FOLDER", "export"]
