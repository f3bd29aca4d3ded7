"""A least-squares fit of a consumer's weight, from sums over data that fit into memory."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

import torch
from torch import Tensor

from netir.kernels.gram import gram_sum
from netir.passes.compensation.consumers import Consumer, Windows

MEMORY = 2**28
"""The most bytes that the sums of one fit, or the rows taken at once, may have."""
ROWS = 16
"""How many rows are taken at most for each weight of an output."""
RIDGES = (1.0, 1e-1, 1e-2, 1e-4, 1e-8)
"""How strongly a weight may be held where it is, in mean squares of what it is multiplied with."""


def correction(
    consumer: Consumer, weight: Tensor, data: Iterable[tuple[Tensor, Tensor]], batches: int
) -> Tensor | None:
    """What to add to a weight so that the consumer comes closest to what it should give.

    Of each batch `data` has what the consumer reads, and by how much its result falls short. With
    X the windows that it reads and R the shortfall, both less their means, this is the D that
    makes |XD - R|^2 + c |D|^2 smallest, so that the error never is larger than for D = 0. Of the
    `RIDGES`, c is the one with which a fit to one half of the data serves the other half best.

    If there are very many rows, as many are drawn from each batch. None if no fit helps, or if the
    sums would take too much memory.
    """
    groups, inputs, taps, outputs = consumer.matrix(weight).shape
    size = inputs * taps
    if 16 * groups * size * (size + outputs) > MEMORY:
        return None
    halves = [_Sums(groups, size, outputs, weight.device) for _ in range(2)]
    most = ceil(ROWS * (size + 1) / (2 * batches))
    generator = torch.Generator().manual_seed(0)
    for x, shortfall in data:
        windows, wanted = Windows(consumer, x, tuple(weight.shape[2:])), consumer.rows(shortfall)
        for half, sums in zip(torch.arange(len(windows)).chunk(2), halves, strict=False):
            chosen = half[torch.randperm(len(half), generator=generator)[:most]]
            for rows in chosen.split(max(1, MEMORY // (32 * groups * size))):
                there = wanted[rows.to(wanted.device)].double()
                sums.add(windows.at(rows), there.view(len(rows), groups, -1))
    found = _solution(*halves)
    if found is None:
        return None
    return consumer.weight_of(found.view(groups, inputs, taps, outputs), weight.shape)


class _Sums:
    """Sums over rows, from which a fit with an intercept follows."""

    def __init__(self, groups: int, size: int, outputs: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        self.count = 0
        self.read, self.wanted = zeros(size), zeros(outputs)
        self.squares, self.products = zeros(size, size), zeros(size, outputs)

    def add(self, read: Tensor, wanted: Tensor) -> None:
        """Take in rows: rows x groups x inputs, and rows x groups x outputs."""
        read, wanted = read.transpose(0, 1), wanted.transpose(0, 1)
        self.count += read.shape[1]
        self.read += read.sum(1)
        self.wanted += wanted.sum(1)
        if len(read) == 1:
            self.squares += gram_sum(read, single=False)
        else:
            self.squares.baddbmm_(read.mT, read)
        self.products.baddbmm_(read.mT, wanted)

    def centred(self) -> tuple[Tensor, Tensor]:
        """The sums of squares and of products as they are about the means."""
        mean = self.read / max(1, self.count)
        squares = self.squares - self.count * mean[:, :, None] * mean[:, None, :]
        return squares, self.products - mean[:, :, None] * self.wanted[:, None, :]

    def __iadd__(self, other: _Sums) -> _Sums:
        self.count += other.count
        for name in ("read", "wanted", "squares", "products"):
            getattr(self, name).add_(getattr(other, name))
        return self


def _solution(first: _Sums, second: _Sums) -> Tensor | None:
    """The coefficients, as groups x inputs x outputs, if a fit to the first half helps the other.

    The weakest hold comes last, and none is tried after one that serves less well.
    """
    own, other = first.centred(), second.centred()
    best, most = 0.0, 0.0
    for ridge in RIDGES:
        gain = _gain(_fit(*own, ridge), *other)
        if gain <= most:
            break
        best, most = ridge, gain
    if not best:
        return None
    first += second
    return _fit(*first.centred(), best)


def _fit(squares: Tensor, products: Tensor, ridge: float) -> Tensor | None:
    scale = squares.diagonal(dim1=1, dim2=2).mean(1)
    held = squares + torch.diag_embed((ridge * scale.where(scale > 0, 1))[:, None].expand(
        squares.shape[:2]
    ))  # fmt: skip
    factor, failed = torch.linalg.cholesky_ex(held)
    if bool(failed.any()):
        return None
    found = torch.cholesky_solve(products, factor)
    return found if bool(found.isfinite().all()) else None


def _gain(fit: Tensor | None, squares: Tensor, products: Tensor) -> float:
    """By how much a fit makes the squared error on some data smaller."""
    if fit is None:
        return -float("inf")
    return float((2 * fit * products).sum() - (fit * (squares @ fit)).sum())


__all__ = ["correction"]
