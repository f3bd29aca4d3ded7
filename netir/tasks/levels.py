"""Numbers as a network takes them: bytes as floats from 0 to 1, and the mean and spread of data."""

from __future__ import annotations

import torch
from torch import Tensor

_PIECE = 4096
"""How many examples are looked at at a time."""


def floats(values: Tensor) -> Tensor:
    """Numbers as float32; those of one byte are pixels, and come between 0 and 1."""
    return values.float() / 255 if values.dtype == torch.uint8 else values.float()


def levels(values: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and deviation over some axes, the first among them; without spread, 1 for it."""
    total = square = torch.zeros((), dtype=torch.float64)
    count = 0
    for piece in values.split(_PIECE):
        found = floats(piece).double()
        total = total + found.sum(axes)
        square = square + found.square().sum(axes)
        count += found.numel()
    count //= max(1, total.numel())
    mean = total / count
    spread = (square / count - mean.square()).clamp(min=0).sqrt()
    deviation = torch.where(spread > 1e-6, spread, 1.0)
    return mean.float(), deviation.float()


__all__ = ["floats", "levels"]
