"""Scores: how much each index of a space matters; those of the lowest score go first.

A score is a function of a space and an `Evidence` that gives one number for each index, or a
sentence why it has none. All look at the whole space: every weight that makes it, in all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from netir import registry
from netir.errors import NetirError
from netir.passes.scores.data import activation, apoz, dormancy, fisher, taylor
from netir.passes.scores.evidence import Evidence
from netir.passes.scores.likeness import cosine, geometric_median
from netir.passes.scores.weights import bn, l1, l2, lamp, random
from netir.spaces import Space

Score = Callable[[Space, Evidence], Tensor | str]

_ALL: tuple[Score, ...] = (
    random, l1, l2, lamp, bn, cosine, geometric_median,
    taylor, fisher, dormancy, apoz, activation,
)  # fmt: skip
SCORES: Mapping[str, Score] = MappingProxyType({s.__name__: s for s in _ALL})
"""Every score by its name."""


def score_called(name: str | Score) -> Score:
    """The score of a name, also of another package's; a function stands for itself."""
    if callable(name):
        return name
    found: Score = registry.called("score", name)
    return found


def scored(score: Score, space: Space, evidence: Evidence) -> Tensor | str:
    """What a score says of a space, as float64 on the CPU; or why it can say nothing."""
    found = score(space, evidence)
    if isinstance(found, str):
        return found
    shape = getattr(found, "shape", None)
    if shape != (space.size,):
        raise NetirError(
            f"the score {named(score)} gives {type(found).__name__} of shape {shape}",
            where=f"space '{space.name}'",
            fix=f"give one number for each of its {space.size} indices: a tensor",
        )
    values = found.detach().to("cpu", torch.float64)
    return values if bool(torch.isfinite(values).all()) else "its scores are not finite"


def named(score: Score) -> str:
    """What a score is called."""
    return getattr(score, "__name__", type(score).__name__)


__all__ = ["SCORES", "Evidence", "Score", "score_called", "scored"]
