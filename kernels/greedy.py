"""Greedy removal of what is most alike: O(M² + kM) for k of M columns."""

from __future__ import annotations

import torch
from torch import Tensor


def most_alike(gram: Tensor, count: int) -> Tensor:
    """The indices of `count` columns, in the order in which they are removed.

    `gram` holds the products of every two columns. Columns that are zero go first, in order. Then
    goes, again and again, the column with the largest norm of cosines to those that are left, of
    equals the first. Sums are float64: with thousands of columns float32 picks others.
    """
    size = len(gram)
    if gram.shape != (size, size) or not bool(gram.isfinite().all()):
        raise ValueError(f"a finite square matrix is needed, not {tuple(gram.shape)}")
    if not 0 <= count <= size:
        raise ValueError(f"cannot remove {count} of {size}")
    gram = gram.double()
    norms = gram.diagonal().clamp(min=0).sqrt()
    dead = norms == 0
    scale = torch.where(dead, torch.zeros_like(norms), 1 / norms.clamp(min=1e-300))
    squares = (gram * scale * scale[:, None]).square()
    squares.fill_diagonal_(0.0)
    picked = dead.nonzero().flatten()[:count].tolist()
    scores = squares.sum(0)
    scores[dead] = -torch.inf
    equal = size * torch.finfo(scores.dtype).eps * float(scores.clamp(min=0).max()) if size else 0.0
    while len(picked) < count:
        index = int((scores >= scores.max() - equal).byte().argmax())
        picked.append(index)
        scores -= squares[index]
        scores[index] = -torch.inf
    return torch.tensor(picked, dtype=torch.int64)


__all__ = ["most_alike"]
