"""The events of a run in words, for the log and for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from netir.runs.journal import Event


def told(event: Event) -> Iterator[str]:
    """The lines that tell an event."""
    make = _WORDS.get(event.kind)
    if make is not None:
        yield from make(event)


def _begun(event: Event) -> Iterator[str]:
    yield f"run of '{event['name']}', seed {event['seed']}"


def _resumed(event: Event) -> Iterator[str]:
    yield f"goes on after {event['finished']} finished steps"
    yield from (f"  note: {note}" for note in event["notes"])


def _step_begun(event: Event) -> Iterator[str]:
    which = "the network" if event["index"] < 0 else f"step {event['index']}"
    yield f"{which}: {event['text']}"


def _epoch(event: Event) -> Iterator[str]:
    epoch, of = event["epoch"], event["epochs"]
    parts = [f"loss {_short(epoch.get('loss'))}"]
    if epoch.get("metric") is not None:
        parts.append(f"{event['metric']} {metric(event['metric'], epoch['metric'])}")
    yield f"  epoch {event['number']}{f' of {of}' if of else ''}: {', '.join(parts)}"


def _grown(event: Event) -> Iterator[str]:
    facts = [event.data.get("init", "")]
    if event.data.get("value") is not None:
        facts.append(f"the trigger saw {_short(event['value'])}")
    facts.append(event.data.get("note", ""))
    yield (f"  at step {event['step']}: {event['space']} {event['before']} → {event['after']} "
           f"({', '.join(filter(None, facts))})")  # fmt: skip


def _step(event: Event) -> Iterator[str]:
    stage = event["stage"]
    found = stage.get("measured", {})
    parts = []
    if stage.get("contract"):
        parts.append(f"{stage['contract']}: {_proof(stage)}")
    if found.get("parameters") is not None:
        parts.append(f"{found['parameters']:,} parameters")
    if found.get("metric") is not None:
        parts.append(f"{event['metric']} {metric(event['metric'], found['metric'])}")
    yield f"  {', '.join(parts)} ({stage.get('seconds', 0):.1f} s)"
    yield from (f"  note: {note}" for note in event["notes"])


def _proof(stage: Mapping[str, Any]) -> str:
    if stage.get("error") is None:
        return "not verified"
    return "sound" if stage["contract"] == "changed" else f"holds, error {stage['error']:.2g}"


def _exported(event: Event) -> Iterator[str]:
    for item in event["exports"]:
        proof = ""
        if item.get("error") is not None:
            proof = (
                f"; off by {item['error']:.1e}, {item['allowed']:.1e} allowed, in ONNX Runtime "
                f"on {item['provider']}"
            )
        yield f"wrote {item['file']} ({item['bytes']:,} bytes{proof})"


def _judged(event: Event) -> Iterator[str]:
    for target in event["targets"]:
        met = "met" if target["met"] else "NOT MET"
        yield f"target {target['name']}: wanted {target['wanted']}, got {target['got']}: {met}"


def _finished(event: Event) -> Iterator[str]:
    yield "finished" if event["met"] else "finished; a target was not met"


def _failed(event: Event) -> Iterator[str]:
    yield from f"error: {event['what']}".splitlines()
    yield from (f"  {part}" for part in (event["where"], event["fix"]) if part)


def _interrupted(event: Event) -> Iterator[str]:
    yield "interrupted; the same command goes on from here"


_WORDS = {
    "begun": _begun,
    "resumed": _resumed,
    "step-begun": _step_begun,
    "epoch": _epoch,
    "grown": _grown,
    "step": _step,
    "exported": _exported,
    "judged": _judged,
    "finished": _finished,
    "failed": _failed,
    "interrupted": _interrupted,
}


def metric(name: str, value: float | None) -> str:
    """A metric as people write it: shares in percent."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if is_share(name) else _short(value)


def is_share(name: str) -> bool:
    """Whether a metric lies between 0 and 1."""
    return name in ("accuracy", "top5")


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


__all__ = ["is_share", "metric", "told"]
