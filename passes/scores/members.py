"""What belongs to each index of a space: the weights behind it, and where they stand on an axis."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from netir.dims import Dim
from netir.ir import Graph
from netir.layouts import Atom, Layout, Term, atoms, resolve, size_of
from netir.spaces import Member, Space

Sizes = Callable[[Layout], Dim]


def makers(graph: Graph, space: Space) -> list[Member]:
    """The weights that make a space: all of at least two axes.

    Biases and scales count only where nothing else makes it, buffers where there is no parameter.
    """
    trained = [m for m in space.producers if graph.params[m.param].kind == "param"]
    weights = [m for m in trained if graph.params[m.param].data.dim() > 1]
    return weights or trained or list(space.producers)


def columns(graph: Graph, space: Space) -> list[Member]:
    """The weights that sum over a space: its columns in the layers that read it."""
    made = set(space.producers)
    return [m for m in space.members if m not in made and graph.params[m.param].kind == "param"]


def per_row(tensor: Tensor, axis: int) -> Tensor:
    """The sums of a tensor over all its axes but one."""
    others = [d for d in range(tensor.dim()) if d != axis]
    return tensor.sum(others) if others else tensor


def positions(layout: Layout, atom: Atom, size: Sizes = size_of) -> Tensor:
    """The entries of an axis that belong to each index of one of its atoms: a row for each.

    `size` tells sizes other than those that the layout has, such as those after a change.
    """
    terms = resolve(layout)
    sizes = [_whole(size((term,))) for term in terms]
    found = []
    for place, term in enumerate(terms):
        own = _within(term, atom, size)
        if own is not None:
            outer, inner = prod(sizes[:place]), prod(sizes[place + 1 :])
            if outer > 1:
                blocks = torch.arange(outer)[:, None] * sizes[place]
                own = (own[:, None] + blocks).flatten(1)
            if inner > 1:
                own = (own[..., None] * inner + torch.arange(inner)).flatten(1)
            found.append(own)
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def _within(term: Term, atom: Atom, size: Sizes) -> Tensor | None:
    """The same for one term of a layout; None if the atom is no part of it."""
    if isinstance(term, Atom):
        return torch.arange(_whole(size((term,))))[:, None] if term is atom else None
    found, offset = [], 0
    for part in term.parts:
        if any(own is atom for own in atoms(part)):
            found.append(positions(part, atom, size) + offset)
        offset += _whole(size(part))
    return torch.cat(found, 1) if found else None


def _whole(size: Dim) -> int:
    assert isinstance(size, int)
    return size


__all__ = ["columns", "makers", "per_row", "positions"]
