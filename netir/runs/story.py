"""The story of a run, made of its journal and, for the drawings, of the networks in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from netir.errors import NetirError
from netir.losses import METRICS
from netir.report import Export, Measured, Stage, Story, Target, codec, drawing
from netir.runs.folder import RunFolder
from netir.runs.journal import Event, Journal, damaged
from netir.runs.state import GRAPH
from netir.runs.words import is_share
from netir.store import load


def story_of(journal: Journal, folder: RunFolder | None = None) -> Story:
    """All that the journal tells; with the folder also how the networks look."""
    begun = journal.last("begun")
    if begun is None:
        raise NetirError(
            "no run has begun in this folder", str(journal.path.parent),
            "name the folder of a run, as in `netir run spec.yaml --out FOLDER`",
        )  # fmt: skip
    with damaged(journal.path):
        timed, exported, judged = map(journal.last, ("measured", "exported", "judged"))
        known = METRICS.get(begun["metric"])
        return Story(
            title=begun["name"],
            spec=begun["spec"],
            seed=begun["seed"],
            versions=dict(begun["versions"]),
            machine=begun["machine"],
            timing="" if timed is None else timed["timing"],
            started=begun.time,
            seconds=_seconds(journal),
            metric=begun["metric"] or "accuracy",
            share=is_share(begun["metric"] or "accuracy"),
            higher_is_better=known is None or known.higher,
            stages=tuple(_stages(journal, folder, timed)),
            targets=_listed(Target, judged, "targets"),
            exports=_listed(Export, exported, "exports"),
        )


def baseline(stages: Sequence[Stage]) -> int:
    """The stage that the result is compared with: the last one before the first rewrite."""
    return max(0, next((i for i, stage in enumerate(stages) if stage.rewrites), 0) - 1)


def stages_of(events: Sequence[Event]) -> list[Stage]:
    """The stages that these events tell, each with its own count of steps."""
    return [codec.read(Stage, event["stage"], "stage") for event in events]


def _listed(kind: Any, event: Event | None, name: str) -> tuple[Any, ...]:
    return () if event is None else tuple(codec.read(kind, item, name) for item in event[name])


def _stages(journal: Journal, folder: RunFolder | None, timed: Event | None) -> Iterator[Stage]:
    events = list(journal.all("step"))
    stages = stages_of(events)
    before = baseline(stages)
    trained = 0
    for place, (event, stage) in enumerate(zip(events, stages, strict=True)):
        epochs = tuple(replace(epoch, step=trained + epoch.step) for epoch in stage.epochs)
        growth = tuple(replace(each, step=trained + each.step) for each in stage.growth)
        trained = epochs[-1].step if epochs else trained
        stage = replace(stage, epochs=epochs, growth=growth, step=trained)
        if timed is not None and (place <= before or place == len(events) - 1):
            when = "before" if place <= before else "after"
            stage = replace(stage, measured=_with_latency(stage.measured, timed, when))
        if folder is not None and (stage.kind != "train" or stage.rewrites):
            graph = load(folder.step(event["index"], event["name"]) / GRAPH)
            stage = replace(stage, drawing=drawing(graph))
        yield stage


def _with_latency(found: Measured | None, timed: Event, when: str) -> Measured:
    return replace(
        found or Measured(),
        latency_torch=timed["latency"].get(f"{when} torch"),
        latency_onnx=timed["latency"].get(f"{when} onnx"),
    )


def _seconds(journal: Journal) -> float:
    """The time in which the run ran: from each begin to what came last before the next one."""
    total, since, last = 0.0, None, None
    for event in journal.events:
        now = datetime.fromisoformat(event.time)
        if event.kind in ("begun", "resumed"):
            if since is not None and last is not None:
                total += (last - since).total_seconds()
            since = now
        last = now
    if since is not None and last is not None:
        total += (last - since).total_seconds()
    return total


__all__ = ["baseline", "stages_of", "story_of"]
