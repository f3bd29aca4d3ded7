"""Whether a run reached what its spec wants."""

from __future__ import annotations

from collections.abc import Iterator

from netir.report import Measured, Story, Target
from netir.runs.words import metric
from netir.spec import Spec

LATENCY = "latency_ms"


def judge(story: Story, spec: Spec) -> Iterator[Target]:
    """Every target: what was wanted, what was got, and whether that is enough.

    The latency is that in ONNX Runtime if the spec exports to ONNX, else that in PyTorch. What
    could not be measured is not met.
    """
    last = story.stages[-1].measured or Measured()
    exported = any(export.format == "onnx" for export in spec.exports)
    latency = last.latency_onnx if exported else last.latency_torch
    got = {
        "parameters": last.parameters,
        "macs": last.macs,
        "bytes": last.bytes,
        LATENCY: latency,
        "accuracy": last.metric,
    }
    for name, wanted in spec.targets.given().items():
        value = got[name]
        if name == "accuracy":
            met = value is not None and value >= wanted
            yield Target(name, f"at least {_shown(name, wanted)}", _shown(name, value), met)
        else:
            met = value is not None and value <= wanted
            yield Target(name, f"at most {_shown(name, wanted)}", _shown(name, value), met)


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "not measured"
    if name == "accuracy":
        return metric(name, value)
    return f"{value:.3g} ms" if name == LATENCY else f"{value:,}"


__all__ = ["judge"]
