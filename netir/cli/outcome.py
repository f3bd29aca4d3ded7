"""What came of a run, as a table of before and after, or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from netir.cli.tables import console, table
from netir.report import Measured, Story, codec
from netir.runs import Outcome
from netir.runs.story import baseline
from netir.runs.words import metric


def print_outcome(outcome: Outcome) -> None:
    """Before and after, the targets, and where everything is."""
    story = outcome.story
    before, after = compared(story)
    made = table(("", "before", "after", "left"), ("before", "after", "left"))
    for row in _rows(story, before, after):
        made.add_row(*row)
    typer.echo("")
    console().print(made)
    if story.timing:
        typer.echo(f"latency: {story.timing[0].lower()}{story.timing[1:]}")
    if story.targets:
        _print_targets(story)
    typer.echo("")
    for file in _files(outcome):
        typer.echo(file)


def compared(story: Story) -> tuple[Measured, Measured]:
    """What was measured before the first pass, and what at the end."""
    place = baseline(story.stages)
    return story.stages[place].measured or Measured(), story.stages[-1].measured or Measured()


def _rows(story: Story, before: Measured, after: Measured) -> Iterator[tuple[str, ...]]:
    for name, text in (("parameters", "parameters"), ("macs", "MACs"), ("bytes", "bytes")):
        one, other = getattr(before, name), getattr(after, name)
        if one is not None and other is not None:
            yield text, f"{one:,}", f"{other:,}", _share(one, other)
    for name, text in (("latency_torch", "PyTorch"), ("latency_onnx", "ONNX Runtime")):
        one, other = getattr(before, name), getattr(after, name)
        if one is not None and other is not None:
            yield f"latency, {text}", f"{one:.3g} ms", f"{other:.3g} ms", _share(one, other)
    if before.metric is not None and after.metric is not None:
        name = story.metric
        yield name, metric(name, before.metric), metric(name, after.metric), ""


def _share(before: float, after: float) -> str:
    return f"{100 * after / before:.0f} %" if before else ""


def _print_targets(story: Story) -> None:
    made = table(("target", "wanted", "got", ""))
    for target in story.targets:
        made.add_row(target.name, target.wanted, target.got, "met" if target.met else "NOT MET")
    typer.echo("")
    console().print(made)


def _files(outcome: Outcome) -> Iterator[str]:
    folder = outcome.folder
    if outcome.again:
        yield f"{folder}: was finished before; nothing was done now (--fresh starts anew)"
    for export in outcome.story.exports:
        yield f"wrote {folder / export.file}"
    if (folder / "report.html").exists():
        yield f"report: {folder / 'report.html'}"


def plain_outcome(outcome: Outcome) -> dict[str, Any]:
    """An outcome for other programs."""
    before, after = compared(outcome.story)
    return {
        "folder": str(outcome.folder),
        "again": outcome.again,
        "met": outcome.met,
        "metric": outcome.story.metric,
        "before": codec.plain(before),
        "after": codec.plain(after),
        "timing": outcome.story.timing,
        "targets": codec.plain(outcome.story.targets),
        "exports": codec.plain(outcome.story.exports),
    }


__all__ = ["compared", "plain_outcome", "print_outcome"]
