"""How many indices of each space stay: scopes in which they compete, and limits to what may go.

Scores say which indices are worth least, this file how many of each space go for a given share. A
share of 0 takes nothing and a share of 1 all that the limits allow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import floor
from typing import Literal, get_args

import torch
from torch import Tensor

from netir.errors import NetirError, nearest
from netir.ir import Graph
from netir.spaces import Space

Scope = Literal["local", "global", "isomorphic"]
Normalisation = Literal["mean", "max", "none"]
SCOPES: tuple[str, ...] = get_args(Scope)
NORMALISATIONS: tuple[str, ...] = get_args(Normalisation)

Widths = dict[Space, int]


@dataclass(frozen=True)
class Rules:
    """How the indices of spaces compete, and what must stay of each."""

    scope: Scope = "local"
    normalise: Normalisation = "mean"
    round_to: int = 1
    least: int = 1
    most: float = 1.0
    uniform: bool = False

    def __post_init__(self) -> None:
        for given, known, what in (
            (self.scope, SCOPES, "scope"), (self.normalise, NORMALISATIONS, "normalisation"),
        ):  # fmt: skip
            if given not in known:
                raise NetirError(f"there is no {what} '{given}'", fix=nearest(given, known))
        for name, count in (("round_to", self.round_to), ("least", self.least)):
            if count < 1:
                raise NetirError(f"{name} is {count}", fix="use a whole number from 1 up")
        if not 0 < self.most <= 1:
            raise NetirError(f"most is {self.most}", fix="use a share above 0, at most 1")

    def lowest(self, size: int) -> int:
        """The smallest width that a space of this size may have."""
        return max(1, min(self.least, size), size - floor(size * self.most + 1e-9))

    def fitted(self, width: float, size: int) -> int:
        """The width nearest to the one wanted that is allowed; the size itself always is."""
        lowest = self.lowest(size)
        below = int(width) - int(width) % self.round_to
        steps = (below, below + self.round_to, -(-lowest // self.round_to) * self.round_to)
        allowed = [size, *(step for step in steps if lowest <= step < size)]
        return min(allowed, key=lambda w: (abs(w - width), -w))


class Allocation:
    """The widths of scored spaces, for any share of their indices that goes."""

    def __init__(self, graph: Graph, scores: Mapping[Space, Tensor], rules: Rules) -> None:
        self.rules = rules
        self._spaces = list(scores)
        self._pools = [
            Pool(pool, scores, rules) for pool in _together(graph, self._spaces, rules.scope)
        ]
        self.alike = [[space] for space in self._spaces]
        """The spaces that keep equal numbers of indices."""
        if rules.uniform:
            self.alike = _by(self._spaces, lambda s: (s.size, structure(graph, s)))

    def widths(self, amount: float) -> Widths:
        """How many indices of each space stay if this share of them goes."""
        found: dict[Space, float] = {}
        for pool in self._pools:
            found |= pool.widths(amount)
        for group in self.alike:
            if len(group) > 1:
                found |= dict.fromkeys(group, sum(found[s] for s in group) / len(group))
        return {space: self.rules.fitted(found[space], space.size) for space in self._spaces}


class Pool:
    """Spaces whose indices compete: what is worth least goes first, wherever it is."""

    def __init__(
        self, spaces: list[Space], scores: Mapping[Space, Tensor], rules: Rules
    ) -> None:
        self._spaces = spaces
        self._spare = [space.size - rules.fitted(0, space.size) for space in spaces]
        if len(spaces) > 1:
            worst = [
                _normal(scores[space], rules.normalise).sort().values[:spare]
                for space, spare in zip(spaces, self._spare, strict=True)
            ]
            owners = torch.arange(len(spaces)).repeat_interleave(torch.tensor(self._spare))
            self._owners = owners[torch.cat(worst).argsort(stable=True)]

    def widths(self, amount: float) -> dict[Space, float]:
        count = round(sum(space.size for space in self._spaces) * amount)
        if len(self._spaces) == 1:
            return {self._spaces[0]: self._spaces[0].size - min(count, self._spare[0])}
        gone = torch.bincount(self._owners[:count], minlength=len(self._spaces)).tolist()
        return {space: space.size - n for space, n in zip(self._spaces, gone, strict=True)}


def _normal(scores: Tensor, how: str) -> Tensor:
    """Scores of one space made comparable with those of others."""
    sizes = scores.abs()
    scale = 1.0 if how == "none" else float(sizes.max() if how == "max" else sizes.mean())
    return scores / scale if scale else scores


def _together(graph: Graph, spaces: list[Space], scope: str) -> list[list[Space]]:
    """The spaces that compete with each other."""
    if scope == "local":
        return [[space] for space in spaces]
    if scope == "global":
        return [spaces] if spaces else []
    return _by(spaces, lambda space: structure(graph, space))


def _by(spaces: Iterable[Space], key: Callable[[Space], Hashable]) -> list[list[Space]]:
    found: dict[Hashable, list[Space]] = {}
    for space in spaces:
        found.setdefault(key(space), []).append(space)
    return list(found.values())


def structure(graph: Graph, space: Space) -> Hashable:
    """What makes a space and what reads it, by the kind of op: equal for equal roles.

    Spaces of one structure are isomorphic in the sense of Fang et al. 2024: only scores of these
    say the same thing about their indices.
    """
    made = set(space.producers)
    members = Counter(
        (node.op.name, position, member.axis, member.whole, member in made)
        for member in space.members
        for node, position in graph.users.get(f"@{member.param}", ())
    )
    uses = Counter((use.kind, graph.nodes[use.node].op.name) for use in space.uses)
    return frozenset(members.items()), frozenset(uses.items())


__all__ = ["Allocation", "Rules", "Widths", "structure"]
