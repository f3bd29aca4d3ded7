"""What the rules of `Fold` share: the change that a rule proposes, and when ops are repeatable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

from netir.basis import Contract
from netir.edit import Edit
from netir.ir import Graph, Node
from netir.ops.base import Op
from netir.rewrite import Left, Site

Nodes = Mapping[str, Node]
Rule = Callable[[Graph, Nodes], Iterator[Site | Left]]
"""Finds what can be changed at the nodes given; what a site has found is a `Change`."""

_KEEPS_STATISTICS = {"batch_norm": (3, 4), "instance_norm": (3, 4)}
"""Ops that write to some of their operands in train mode."""


@dataclass(frozen=True, eq=False)
class Change:
    """A change, and the names of what it changes or relies on, where other values change by it.

    Of changes that touch the same, the later ones wait until the first is made. Once it is made,
    nothing reads what it makes needless.
    """

    make: Callable[[Edit], None]
    touches: Set[str] = frozenset()


def exactly(name: str, make: Callable[..., None], /, **arguments: Any) -> Site:
    """A site whose change keeps the function, in train mode too."""
    return Site(name, Change(partial(make, **arguments)), Contract.EXACT)


def steady(op: Op) -> bool:
    """Whether it gives the same for the same operands, in train mode too, and has no effects."""
    if op.name == "opaque" or op.name in _KEEPS_STATISTICS or op.to_module() is not None:
        return False
    return not op.modal or not getattr(op, "dropout_p", getattr(op, "dropout", True))


def written(graph: Graph) -> set[str]:
    """The parameters that change while the network trains without being trained."""
    return {
        (node.operands[slot] or "")[1:]
        for node in graph.nodes.values()
        for slot in _KEEPS_STATISTICS.get(node.op.name, ())
        if slot < len(node.operands)
    }


__all__ = ["Change", "Nodes", "Rule", "exactly", "steady", "written"]
