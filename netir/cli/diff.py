"""`netir diff`: two networks side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netir.cli.arguments import Allowed, Inputs, Json, Model, Sizes

if TYPE_CHECKING:
    from netir.compare import Change, Comparison, Totals


def diff(
    before: Model,
    after: Model,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is the same, and every name.")
    ] = False,
    as_json: Json = False,
    inputs: Inputs = None,
    sizes: Sizes = None,
    allow_op: Allowed = None,
) -> None:
    """Compare two networks: layers, widths, ops, weights, cost."""
    from netir.cli.models import find_all, numbers
    from netir.compare import compare

    one, other = find_all((before, after), inputs, sizes, allow_op)
    found = compare(one, other, numbers(sizes))
    if as_json:
        typer.echo(json.dumps(found.plain(), indent=2))
    else:
        print_comparison(found, everything)


def print_comparison(found: Comparison, everything: bool) -> None:
    """What differs, in tables; what is the same is counted."""
    from netir.compare import in_words

    print_changes("layer", map(in_words, found.layers), everything)
    print_changes("space", found.spaces, everything)
    print_changes("op", found.ops, everything)
    print_changes("input or output", found.types, everything)
    _print_weights(found, everything)
    print_totals(*found.totals)
    if found.passes:
        typer.echo("\nthe second comes from the first by:")
        for text in found.passes:
            typer.echo(f"  {text}")


def print_changes(what: str, changes: Iterable[Change[Any]], everything: bool = False) -> None:
    """A table of changes; nothing where all is the same."""
    from netir.cli.tables import console, table

    every = list(changes)
    shown = [c for c in every if everything or c.kind != "same"]
    if not shown:
        return
    made = table((what, "", "before", "after"))
    for change in shown:
        made.add_row(change.name, change.kind, _cell(change.before), _cell(change.after))
    console().print(made)
    same = sum(change.kind == "same" for change in every)
    if same and not everything:
        typer.echo(f"{same} of {len(every)} are the same")
    typer.echo("")


def _cell(value: Any) -> str:
    return "–" if value is None else str(value)


def _print_weights(found: Comparison, everything: bool) -> None:
    counts = {kind: names for kind, names in found.weights.items() if names}
    typer.echo(f"weights: {', '.join(f'{len(n)} {kind}' for kind, n in counts.items()) or 'none'}")
    for kind, names in counts.items():
        if everything or (kind == "changed" and len(names) <= 20):
            typer.echo(f"  {kind}: {', '.join(names)}")
    typer.echo("")


def print_totals(before: Totals, after: Totals) -> None:
    """What both cost, and how much that is of the first."""
    from netir.cli.tables import console, table

    columns = ("", "before", "after", "change")
    made = table(columns, columns[1:])
    rows = (
        ("parameters", before.parameters, after.parameters),
        ("bytes of weights", before.bytes, after.bytes),
        ("MACs", before.macs, after.macs),
        ("bytes of activations", before.activation_bytes, after.activation_bytes),
    )
    for name, one, other in rows:
        made.add_row(name, number(one), number(other), share(one, other))
    console().print(made)
    if before.macs is None or after.macs is None:
        typer.echo("MACs depend on a size that is open: add --size NAME=NUMBER")


def number(value: int | None) -> str:
    """A count with its thousands parted; `?` where it is not known."""
    return "?" if value is None else f"{value:,}"


def share(before: int | None, after: int | None) -> str:
    """How much more or less something is, in percent."""
    if before is None or after is None or not before:
        return ""
    return f"{100 * (after - before) / before:+.1f} %" if after != before else "="


__all__ = ["diff", "number", "print_changes", "print_comparison", "print_totals", "share"]
