"""A plan on the terminal: what each step would change and save, and which targets it would meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import typer

from netir.cli.diff import number, print_changes, share
from netir.cli.tables import console, table
from netir.spec import Spec
from netir.spec.planning import Plan, PlannedStep, PlannedTarget

_FEW = 4


def plain_plan(spec: Spec, found: Plan) -> dict[str, Any]:
    """A plan as plain data, for other programs."""
    return {"name": spec.name, "model": spec.model, **asdict(found)}


def print_plan(spec: Spec, found: Plan, everything: bool) -> None:
    """All steps in one table, then what they leave, then the targets."""
    columns = ("step", "does", "keeps", "spaces", "parameters", "MACs")
    made = table(columns, ("step", "parameters", "MACs"))
    first = found.before
    made.add_row("", "the network", "", "", number(first.parameters), number(first.macs))
    for place, step in enumerate(found.steps):
        made.add_row(str(place), step.step, step.contract, _spaces(step, everything), *_cost(step))
    console().print(made)
    _print_whole(found)
    for place, step in enumerate(found.steps):
        _print_left(place, step, everything)
        if everything and step.layers:
            typer.echo(f"\nlayers that step {place} changes")
            print_changes("layer", step.layers)
    if found.targets:
        _print_targets(found.targets)
    typer.echo(
        "\nestimated with the weights as they are: nothing was trained and nothing was written"
    )


def _cost(step: PlannedStep) -> tuple[str, str]:
    pairs = (
        (step.before.parameters, step.after.parameters),
        (step.before.macs, step.after.macs),
    )
    found = [number(b) if a == b else f"{number(b)} {share(a, b)}" for a, b in pairs]
    return found[0], found[1]


def _spaces(step: PlannedStep, everything: bool) -> str:
    if not step.contract:
        return _growth(step, everything)
    every = [f"{c.name} {_size(c.before)} → {_size(c.after)}" for c in step.spaces]
    if not every:
        return f"{len(step.changed)} sites" if step.changed else "changes nothing"
    return _few(every, everything)


def _growth(step: PlannedStep, everything: bool) -> str:
    """The spaces that may grow in a training, and how far."""
    every = [
        f"{g.space} {g.width}" if g.most is None else f"{g.space} {g.width} up to {g.most}"
        for g in step.grows
    ]
    return f"may grow: {_few(every, everything)}" if every else ""


def _few(every: Sequence[str], everything: bool) -> str:
    shown = every if everything else every[:_FEW]
    more = f" and {len(every) - len(shown)} more" if len(shown) < len(every) else ""
    return ", ".join(shown) + more


def _size(value: int | None) -> str:
    return "–" if value is None else str(value)


def _print_whole(found: Plan) -> None:
    before, after = found.before, found.after
    parts = (
        ("parameters", before.parameters, after.parameters),
        ("MACs", before.macs, after.macs),
        ("bytes of weights", before.bytes, after.bytes),
    )
    text = (f"{name} {number(a)} → {number(b)} ({share(a, b) or '?'})" for name, a, b in parts)
    typer.echo(f"\nin all: {', '.join(text)}")
    if any(step.grows for step in found.steps):
        typer.echo("growth comes on top: how much, only a run can tell")
    if before.macs is None:
        typer.echo("MACs depend on a size that is open: add --size NAME=NUMBER")


def _print_left(place: int, step: PlannedStep, everything: bool) -> None:
    """What a step leaves; frozen spaces only where all is wanted or nothing changes."""
    telling = [
        (name, why)
        for name, why in step.left
        if everything or not step.changed or not why.startswith("frozen")
    ]
    for name, why in telling if everything else telling[:_FEW]:
        typer.echo(f"step {place} leaves {name}: {why}")
    if len(telling) > _FEW and not everything:
        typer.echo(f"step {place} leaves {len(telling) - _FEW} more: --all lists them")


def _print_targets(targets: Sequence[PlannedTarget]) -> None:
    made = table(("target", "wanted", "expected", ""), ("wanted", "expected"))
    for target in targets:
        sign = "≥" if target.name == "accuracy" else "≤"
        state = {True: "met", False: "missed", None: "only a run can tell"}[target.met]
        expected = "" if target.expected is None else f"{target.expected:,}"
        made.add_row(target.name, f"{sign} {target.wanted:,}", expected, state)
    typer.echo("")
    console().print(made)


__all__ = ["plain_plan", "print_plan"]
