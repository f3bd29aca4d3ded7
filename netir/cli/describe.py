"""Spaces in words: what makes a space, what reads it and how, and what else moves with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from netir.ir import Graph, Node
from netir.spaces import Space

WORDS = {
    "contract": "summed over by",
    "pair": "paired in",
    "sum": "added up by",
    "mix": "mixed by",
    "softmax": "mixed by",
    "norm": "mixed by",
}

LEGEND = """\
summed over: a later layer sums over it with weights, which follow any change
paired: two activations are multiplied and summed over it, as queries and keys are
mixed: every result depends on all of it; widening is exact only by whole copies
follows: goes along index by index
frozen: cannot change, for the reason given"""


@dataclass(frozen=True)
class Described:
    """One space in words; all lists are in the order of the graph."""

    name: str
    size: int
    free: bool
    reason: str
    made_by: tuple[str, ...]
    read_by: tuple[tuple[str, str], ...]
    follows: tuple[str, ...]
    members: tuple[tuple[str, int, bool], ...]
    values: tuple[tuple[str, int], ...]


def described(graph: Graph, layer: str = "") -> list[Described]:
    """Every space of a graph, or those that touch a layer or a parameter that matches a glob."""
    return [_described(graph, s) for s in graph.spaces() if not layer or _touches(graph, s, layer)]


def _described(graph: Graph, space: Space) -> Described:
    holding = {value for value, _ in space.values}
    reading: dict[str, list[str]] = {}
    for use in space.uses:
        reading.setdefault(use.node, []).append(use.kind)
    made: list[str] = []
    follows: list[str] = []
    for node in _nodes(graph, space):
        gives = any(result in holding for result in node.results)
        takes = any(value in holding for value in node.values)
        if gives and (not takes or "contract" in reading.get(node.name, ())):
            made.append(label(node))
        elif node.name not in reading:
            follows.append(label(node))
    read = [
        (WORDS.get(kind, kind), label(graph.nodes[name]))
        for name, kinds in reading.items()
        for kind in dict.fromkeys(kinds)
    ]
    return Described(
        name=space.name,
        size=space.size,
        free=not space.frozen,
        reason=space.reason,
        made_by=tuple(dict.fromkeys(made)),
        read_by=tuple(dict.fromkeys(read)),
        follows=tuple(dict.fromkeys(follows)),
        members=tuple((m.param, m.axis, m.whole) for m in space.members),
        values=space.values,
    )


def _nodes(graph: Graph, space: Space) -> Iterator[Node]:
    """The nodes that read the parameters of a space, in the order of the graph."""
    found = {
        node.name for m in space.members for node, _ in graph.users.get(f"@{m.param}", ())
    }
    yield from (node for name, node in graph.nodes.items() if name in found)


def label(node: Node) -> str:
    """A node as people know it: by its module where that is its own, and what it does."""
    own = node.scope and any(p.startswith(f"{node.scope}.") for p in node.params)
    return f"{node.scope if own else node.name} ({node.op.name})"


def _touches(graph: Graph, space: Space, layer: str) -> bool:
    names = {space.name, *(m.param for m in space.members)}
    names |= {name.rpartition(".")[0] for name in names}
    names |= {graph.nodes[use.node].scope for use in space.uses}
    return any(fnmatchcase(name, layer) for name in names)
