"""Greedy removal of what is most alike: O(M² + kM) for k of M columns."""

from __future__ import annotations

import torch
from torch import Tensor

_ONE = 2.0**46
"""What 1 is in whole numbers; the scores of 2¹⁶ columns are below `_GONE`."""
_GONE = 2**62


def most_alike(gram: Tensor, count: int) -> Tensor:
    """The indices of `count` columns, in the order in which they are removed.

    `gram` holds the products of every two columns. Columns that are zero go first, in order. Then
    goes, again and again, the column with the largest norm of cosines to those that are left, of
    equals the first. Squared cosines are whole numbers of 2⁻⁴⁶, so that what is taken off a score
    leaves exactly what adding up the others would give; in float32 others would be picked.
    """
    if gram.is_complex():
        raise ValueError(f"a matrix of real numbers is needed, not of {gram.dtype}")
    square = gram.dim() == 2 and gram.shape[0] == gram.shape[1]
    if not square or not bool(gram.sum(dtype=torch.float64).isfinite()):
        raise ValueError(f"a finite square matrix is needed, not {tuple(gram.shape)}")
    if count not in range(len(gram) + 1):
        raise ValueError(f"cannot remove {count!r} of {len(gram)}")
    count = int(count)
    norms = gram.diagonal().double().clamp(min=0).sqrt()
    dead = norms == 0
    scale = torch.where(dead, torch.zeros_like(norms), 1 / norms.clamp(min=1e-300))
    cosines = (gram.double() * scale).mul_(scale[:, None]).clamp_(-1, 1)
    squares = cosines.square_().mul_(_ONE).round_().long()
    squares.fill_diagonal_(0)
    picked = dead.nonzero().flatten()[:count].tolist()
    scores = squares.sum(0)
    scores[dead] = -_GONE
    squares.fill_diagonal_(_GONE)
    while len(picked) < count:
        index = int(scores.argmax())
        picked.append(index)
        scores -= squares[index]
    return torch.tensor(picked, dtype=torch.int64)


__all__ = ["most_alike"]
