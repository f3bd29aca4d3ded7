"""How a pass is told where to work: globs over the names of spaces, nodes, modules, parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import TypeVar

from netir.errors import NetirError, nearest
from netir.ir import Graph, Node, expect_graph
from netir.spaces import Space

_T = TypeVar("_T", Space, Node)


def chosen_spaces(graph: Graph, where: str) -> list[Space]:
    """The spaces that a glob selects; a name without `*` or `?` must be there and free.

    It is held against the name of the space, the parameters that make it and their modules;
    several globs are separated by blanks.
    """
    expect_graph(graph)
    spaces = graph.spaces()
    found: dict[str, Space] = {}
    for pattern in where.split():
        hits = _hits(pattern, spaces, _space_names, "space")
        plain = not any(c in pattern for c in "*?")
        if plain and all(s.frozen for s in hits):
            raise _fixed(hits[0])
        found |= {s.name: s for s in hits}
    return [s for s in spaces if s.name in found]


def expect_free(graph: Graph, names: Iterable[str]) -> None:
    """Refuse names that are not exactly those of free spaces."""
    spaces = {space.name: space for space in graph.spaces()}
    for name in names:
        if name not in spaces:
            raise NetirError(f"'{name}' names no space", fix=nearest(name, spaces))
        if spaces[name].frozen:
            raise _fixed(spaces[name])


def _fixed(space: Space) -> NetirError:
    return NetirError(
        f"space '{space.name}' cannot change", where=space.reason or "",
        fix="choose a free space: netir spaces lists them",
    )  # fmt: skip


def chosen_nodes(graph: Graph, where: str) -> dict[str, Node]:
    """The nodes that a glob selects: by their name, their module, or a parameter they read."""
    expect_graph(graph)
    found: dict[str, Node] = {}
    for pattern in where.split():
        found |= {n.name: n for n in _hits(pattern, graph.nodes.values(), _node_names, "node")}
    return {name: node for name, node in graph.nodes.items() if name in found}


def _hits(
    pattern: str, items: Iterable[_T], names: Callable[[_T], Iterable[str]], kind: str
) -> list[_T]:
    every = list(items)
    if pattern == "*":
        return every
    hits = [item for item in every if any(_matches(name, pattern) for name in names(item))]
    if not hits:
        known = [item.name for item in every]
        raise NetirError(f"'{pattern}' names no {kind}", fix=nearest(pattern, known))
    return hits


def _space_names(space: Space) -> list[str]:
    return [space.name, *_with_owners(m.param for m in space.producers)]


def _node_names(node: Node) -> list[str]:
    return [node.name, node.scope, *_with_owners(node.params)]


def _with_owners(params: Iterable[str]) -> list[str]:
    names = list(params)
    return [*names, *(n.rpartition(".")[0] for n in names if n.endswith(".weight"))]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


__all__ = ["chosen_nodes", "chosen_spaces", "expect_free"]
