"""The README's support table: for every family, how much of it netir can change.

`python -m tests.support README.md` writes the table anew; test_support.py holds the README to it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from netir.ir import Graph
from netir.ops.opaque import Opaque
from tests.marked import embed
from tests.zoo.families import FAMILIES
from tests.zoo.traced import traced


def free_share(graph: Graph) -> float:
    """The share of trained numbers that lie in at least one free space."""
    free = {m.param for s in graph.spaces() if not s.frozen and s.producers for m in s.members}
    sizes = {n: p.data.numel() for n, p in graph.params.items() if p.kind == "param"}
    return sum(size for name, size in sizes.items() if name in free) / max(1, sum(sizes.values()))


def row(name: str) -> str:
    """One family: nodes, opaque nodes, spaces, free ones, share of parameters."""
    graph = traced(name)[1]
    opaque = sorted({n.op.target for n in graph.nodes.values() if isinstance(n.op, Opaque)})
    spaces = graph.spaces()
    free = sum(not s.frozen and bool(s.producers) for s in spaces)
    shown = ", ".join(f"`{target}`" for target in opaque) or "–"
    cells = (name, len(graph.nodes), shown, f"{free} of {len(spaces)}", f"{free_share(graph):.0%}")
    return f"| {' | '.join(map(str, cells))} |"


def table() -> str:
    """The whole table in Markdown."""
    head = "| network | nodes | opaque operators | free spaces | parameters in a free space |"
    return "\n".join([head, "|---|---|---|---|---|", *map(row, FAMILIES)])


if __name__ == "__main__":
    embed(Path(sys.argv[1]), "support", table())
