"""Tables for the terminal; plain columns where the output goes elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from netir.cli.describe import LEGEND, Described
from netir.cost import Cost
from netir.ir import Graph
from netir.ops.opaque import Opaque

_FEW = 3
_PLAIN_WIDTH = 160


def console() -> Console:
    """A console for the current standard output; names in brackets are no markup."""
    found = Console(markup=False, highlight=False, emoji=False)
    if not found.is_terminal:
        found.width = _PLAIN_WIDTH
    return found


def table(columns: Sequence[str], right: Iterable[str] = ()) -> Table:
    """An empty table; the columns in `right` hold numbers."""
    plain = not console().is_terminal
    made = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=not plain)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def summary(graph: Graph) -> str:
    """One line on a graph, and one on what netir does not know in it."""
    spaces = graph.spaces()
    free = sum(not space.frozen for space in spaces)
    unknown = sorted({n.op.target for n in graph.nodes.values() if isinstance(n.op, Opaque)})
    total = sum(p.data.numel() for p in graph.params.values() if p.kind == "param")
    lines = [
        f"{graph.name}: {len(graph.nodes)} nodes, {total:,} parameters, "
        f"{len(spaces)} spaces of which {free} are free"
    ]
    if unknown:
        lines.append(f"operators that netir does not know, and that freeze: {', '.join(unknown)}")
    return "\n".join(lines)


def print_cost(graph: Graph, cost: Cost) -> None:
    """What each node costs, and the whole."""
    made = table(("node", "op", "parameters", "MACs", "bytes"), ("parameters", "MACs", "bytes"))
    for name, part in cost.nodes.items():
        numbers = (part.parameters, part.macs, part.activation_bytes)
        made.add_row(name, graph.nodes[name].op.name, *(f"{n:,}" if n else "" for n in numbers))
    made.add_section()
    total = (cost.parameters, cost.macs, cost.activation_bytes)
    made.add_row("total", "", *(f"{n:,}" for n in total))
    console().print(made)
    sizes = ", ".join(f"{name} = {value}" for name, value in cost.sizes.items())
    typer.echo(f"for {sizes}" if sizes else "for the sizes in the graph")


def print_json(found: list[Described]) -> None:
    """Spaces for other programs."""
    typer.echo(json.dumps([asdict(space) for space in found], indent=2))


def print_spaces(found: list[Described], everything: bool) -> None:
    """Free spaces one by one, frozen ones by their reason unless all are wanted."""
    shown = [s for s in found if s.free or everything]
    made = table(("space", "size", "state", "made by", "read by", "follows"), ("size",))
    for space in shown:
        made.add_row(
            space.name,
            str(space.size),
            "free" if space.free else f"frozen: {space.reason}",
            _few(space.made_by, everything),
            _few(_readers(space), everything),
            _few(space.follows, everything),
        )
    if shown:
        console().print(made)
    hidden = [s for s in found if not s.free and not everything]
    if hidden:
        _print_frozen(hidden)
    free = sum(s.free for s in found)
    typer.echo(f"\n{free} of {len(found)} spaces are free\n{LEGEND}")


def _print_frozen(hidden: list[Described]) -> None:
    reasons: dict[str, list[str]] = {}
    for space in hidden:
        reasons.setdefault(space.reason, []).append(f"{space.name} ({space.size})")
    made = table(("frozen because", "spaces"))
    for reason, names in reasons.items():
        made.add_row(reason, _few(names, False))
    console().print(made)


def _readers(space: Described) -> list[str]:
    by_word: dict[str, list[str]] = {}
    for word, name in space.read_by:
        by_word.setdefault(word, []).append(name)
    return [
        f"{word} {name}" if first else name
        for word, names in by_word.items()
        for first, name in zip((True, *[False] * len(names)), names, strict=False)
    ]


def _few(items: Sequence[str], everything: bool) -> str:
    if everything or len(items) <= _FEW:
        return ", ".join(items)
    return f"{', '.join(items[:_FEW])} and {len(items) - _FEW} more"
