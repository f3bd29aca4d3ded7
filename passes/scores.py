"""Scores: how much each index of a space matters. Functions of a graph and a space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from netir.errors import NetirError, nearest
from netir.ir import Graph
from netir.layouts import Atom, Concat, Layout, resolve, size_of
from netir.spaces import Space

Score = Callable[[Graph, Space, torch.Generator], Tensor]


def random(graph: Graph, space: Space, generator: torch.Generator) -> Tensor:
    """Chance, for comparison."""
    return torch.rand(space.size, generator=generator)


def l1(graph: Graph, space: Space, generator: torch.Generator) -> Tensor:
    """The sum of the absolute weights that make an index (Li et al. 2017)."""
    return _norms(graph, space, 1)


def l2(graph: Graph, space: Space, generator: torch.Generator) -> Tensor:
    """The Euclidean norm of the weights that make an index."""
    return _norms(graph, space, 2).sqrt_()


SCORES: Mapping[str, Score] = MappingProxyType({"random": random, "l1": l1, "l2": l2})
"""Every score by its name."""


def score_called(name: str) -> Score:
    """The score of a name."""
    found = SCORES.get(name)
    if found is None:
        raise NetirError(f"there is no score '{name}'", fix=nearest(name, SCORES))
    return found


def _norms(graph: Graph, space: Space, power: int) -> Tensor:
    """By index, the sum of powers of all weights of at least two axes that make it.

    Biases and scales are counted only where nothing else makes the space.
    """
    makers = [m for m in space.producers if graph.params[m.param].kind == "param"]
    weights = [m for m in makers if graph.params[m.param].data.dim() > 1]
    total = torch.zeros(space.size, dtype=torch.float64)
    for member in weights or makers or space.producers:
        data = graph.params[member.param].data.detach()
        if data.device.type != "cpu":
            total = total.to(data.device)
        rows = _rows(data, member.axis, power).to(total)
        if member.whole:
            total += rows
            continue
        layout = graph.analysis.shape(f"@{member.param}")[member.axis]
        owner = owners(layout, space.atom).to(total.device)
        total.index_add_(0, owner[owner >= 0], rows[owner >= 0])
    return total.cpu()


def _rows(data: Tensor, axis: int, power: int) -> Tensor:
    others = [d for d in range(data.dim()) if d != axis]
    wide = data if data.dtype in (torch.float32, torch.float64) else data.float()
    if not others:
        return wide.abs() if power == 1 else wide.square()
    norm: Tensor = torch.linalg.vector_norm(wide, power, others)
    return norm if power == 1 else norm.square()


def owners(layout: Layout, atom: Atom) -> Tensor:
    """For every index of an axis, the index of the atom that it belongs to, or -1."""
    found = torch.full((1,), -1)
    for term in resolve(layout):
        size = size_of((term,))
        assert isinstance(size, int)
        if isinstance(term, Concat):
            own = torch.cat([owners(part, atom) for part in term.parts])
        else:
            own = torch.arange(size) if term is atom else torch.full((size,), -1)
        found = torch.maximum(found[:, None], own[None, :]).flatten()
    return found


__all__ = ["SCORES", "Score", "l1", "l2", "owners", "random", "score_called"]
