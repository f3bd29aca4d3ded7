"""Scores that compare the indices of a space: what another one can stand for may go."""

from __future__ import annotations

import torch
from torch import Tensor

from netir.passes.scores.evidence import Evidence
from netir.spaces import Space


def cosine(space: Space, evidence: Evidence) -> Tensor:
    """One less the mean absolute cosine to the weights of all others.

    An index without weights is in nobody's way, and the first to go: its cosines count as 1.
    """
    products = _products(space, evidence)
    norms = products.diagonal().sqrt()
    lengths = norms[:, None] * norms
    cosines = torch.where(lengths > 0, products.abs() / lengths.clamp(min=1e-300), 1.0)
    return 1 - (cosines.sum(1) - cosines.diagonal()) / max(1, space.size - 1)


def geometric_median(space: Space, evidence: Evidence) -> Tensor:
    """The sum of the distances to the weights of all others (FPGM, He et al. 2019).

    It is least close to the geometric median, where others say the same together.
    """
    products = _products(space, evidence)
    squares = products.diagonal()
    return (squares[:, None] + squares - 2 * products).clamp(min=0).sqrt().sum(1)


def _products(space: Space, evidence: Evidence) -> Tensor:
    """The inner products of the weights of every two indices."""
    total = torch.zeros(space.size, space.size, dtype=torch.float64)
    for rows in evidence.weights(space):
        total += rows @ rows.t()
    return total


__all__ = ["cosine", "geometric_median"]
