"""Gram matrices HᵀH of activations, and by how much rounding can have moved their eigenvalues.

H has a row for each sample and position and a column for each channel; activations are read where
they are, in any layout of memory. Sums are float64, of products in float64, or in float32 for up
to `BLOCK` rows at a time. `gram_sum` is the op: the upper half only, on a processor by blocks
of rows, on a GPU by a Triton kernel; two runs there give the same bits.

Of float64 sums the bound on rounding is proved. What float32 lost is measured: each error shows in
the products with some random vectors, taken in float64 as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import inf, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 2048
"""The most rows whose products are summed before the sum is added to the others."""
FLUSH = 512
"""The same for a program on a GPU."""
UNIT = 2.0**-53
"""By how much of itself rounding changes a number of float64."""
_VECTORS = 16
_SAFETY = 4.0
"""`_largest` of so many random vectors is too small by more than this once in 10⁷ times."""
PRECISIONS = ("float32", "float64")


@dataclass(frozen=True, eq=False)
class Gram:
    """The mean product of every two columns over so many rows, in float64.

    Rounding has moved no eigenvalue by more than `error`.
    """

    matrix: Tensor
    rows: int
    error: float


def gram(value: Tensor, precision: str = "float64", axis: int = -1) -> Gram:
    """The Gram matrix of an activation with its channels on `axis`: HᵀH / n."""
    total = GramSum(precision)
    total.add(value, axis)
    return total.gram


class GramSum:
    """A Gram matrix that is summed up from parts of a stream."""

    def __init__(self, precision: str = "float64") -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"products in {precision}, not in one of {', '.join(PRECISIONS)}")
        self.single = precision == "float32"
        self.rows = 0
        self._total: Tensor | None = None
        self._lost = 0.0
        self._off: Tensor | None = None

    def add(self, value: Tensor, axis: int = -1) -> None:
        """Take in more rows: an activation with its channels on `axis`."""
        x = by_rows(value, axis)
        part, lost = products(x, self.single)
        if self._total is not None and len(part) != len(self._total):
            raise ValueError(f"{len(part)} columns after {len(self._total)}")
        total = part if self._total is None else self._total + part
        lost += UNIT * size_of(total)  # raises where it is too large, and nothing is taken then
        if self.single:
            vectors = _vectors(len(part), part.device)
            off = _applied(x, vectors) - vectors @ part
            self._off = off if self._off is None else self._off + off
        self._total, self._lost = total, self._lost + lost
        self.rows += x.shape[0] * x.shape[1]

    @property
    def gram(self) -> Gram:
        """The mean so far."""
        return self.over(self.rows)

    def over(self, count: int) -> Gram:
        """The sum over another number than that of the rows."""
        if self._total is None:
            raise ValueError("no rows were added")
        if not 1 <= count < inf:
            raise ValueError(f"the mean of {count} rows")
        lost = self._lost + UNIT * size_of(self._total)
        if self._off is not None:
            lost += _SAFETY * _largest(self._off)
        return Gram(self._total / count, self.rows, lost / count)


def products(x: Tensor, single: bool = False) -> tuple[Tensor, float]:
    """XᵀX of samples x rows x columns in float64, and a bound on its rounding (if not `single`).

    A sum of k products is off by k roundings of the sum of their sizes at most, in any order, and
    no eigenvalue of the matrix of these sums is above its trace.
    """
    plainly = x.device.type == "cpu" and not torch.compiler.is_compiling()
    part = (_on_processor if plainly else gram_sum)(x, single)
    if single and not bool(part.trace().isfinite()):
        part = gram_sum(x, False)  # too large for float32 only, perhaps
    return part, UNIT * terms(x) * size_of(part)


def size_of(matrix: Tensor) -> float:
    """The trace of a matrix of products, which has to be finite."""
    size = float(matrix.trace())
    if not size < inf:
        raise ValueError("the rows are not finite, or too large to be squared")
    return size


@lru_cache(maxsize=16)
def _vectors(size: int, device: torch.device) -> Tensor:
    """Random vectors of independent normal entries, one in a row."""
    generator = torch.Generator().manual_seed(size)
    made = torch.randn(_VECTORS, size, generator=generator, dtype=torch.float64, device="cpu")
    return made.to(device)


def _largest(images: Tensor) -> float:
    """The largest absolute eigenvalue of E, or somewhat more, from its images of random vectors.

    The product of two images is vᵀE²w, whose mean square over independent v and w is the sum of the
    fourth powers of all eigenvalues (Kong and Valiant 2017). If n of them are alike, its fourth
    root is n^¼ of them, where the norm of E is √n. By chance it comes out too small most often for
    a single eigenvalue, which has but one number in each image to show by.
    """
    top = float(images.abs().max())
    if not 0 < top < inf:
        return 0.0 if top == 0 else inf
    shared = images / top
    shared = (shared @ shared.mT).square()
    pairs = float(shared.sum() - shared.trace()) / (len(images) * (len(images) - 1))
    return top * sqrt(sqrt(max(pairs, 0.0)))


def by_rows(value: Tensor, axis: int = -1) -> Tensor:
    """An activation as samples x rows x columns: a view, unless its positions are scattered."""
    if not isinstance(value, Tensor):
        raise ValueError(f"rows are taken from a tensor, not from {type(value).__name__}")
    if value.dim() < 2 or not value.numel() or not value.is_floating_point():
        raise ValueError(
            f"rows of real numbers are needed, not {value.dtype} of shape {tuple(value.shape)}"
        )
    if axis not in range(-value.dim(), value.dim()):
        raise ValueError(f"axis {axis!r} of an activation of {value.dim()} axes")
    value = value.detach().resolve_neg().movedim(int(axis), -1)
    return value.flatten(1, -2) if value.dim() > 2 else value.unsqueeze(0)


def blocks(x: Tensor) -> Iterator[Tensor]:
    """Parts of samples x rows x columns that have up to `BLOCK` rows."""
    samples, rows, _ = x.shape
    if rows <= BLOCK:
        yield from x.split(BLOCK // rows)
    else:
        yield from (part for s in range(samples) for part in x[s : s + 1].split(BLOCK, 1))


def terms(x: Tensor) -> int:
    """A bound on how often rounding can have hit one entry of the sum over such rows.

    There are no more parts than if each but the last had `FLUSH` rows, as on a GPU.
    """
    rows = x.shape[0] * x.shape[1]
    return min(rows, BLOCK) + -(-rows // FLUSH) + 2


@torch.library.custom_op("netir::gram_sum", mutates_args=(), device_types="cpu")
def gram_sum(x: Tensor, single: bool) -> Tensor:
    """XᵀX in float64 of samples x rows x columns; products of a block in float32 if `single`."""
    return _on_processor(x, single)


def _on_processor(x: Tensor, single: bool) -> Tensor:
    """By numpy, which takes a product of a matrix and its own transpose for half the work."""
    room = x.new_empty(BLOCK * x.shape[2], dtype=torch.float32 if single else torch.float64)
    total = part = None
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is seen in the result
        for block in blocks(x):
            rows = _laid(block, room).numpy()
            part = np.matmul(rows, rows.T, out=part)
            if total is None:
                total, part = part.astype(np.float64, copy=False), None
            else:
                total += part
    return torch.from_numpy(total)


@gram_sum.register_kernel("cuda")
def _(x: Tensor, single: bool) -> Tensor:
    from netir.kernels import gram_triton

    with torch.cuda.device(x.device):
        return gram_triton.gram_sum(x, single)


@gram_sum.register_fake
def _(x: Tensor, single: bool) -> Tensor:
    return x.new_empty(x.shape[2], x.shape[2], dtype=torch.float64)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _differentiate(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
    (x,) = ctx.saved_tensors
    return (x.double() @ (slope + slope.mT)).to(x.dtype), None


gram_sum.register_autograd(_differentiate, setup_context=_remember)


def plain(x: Tensor, single: bool) -> Tensor:
    """The same by torch alone, for `run_decompositions`."""
    flat = x.double().flatten(0, 1)
    return flat.mT @ flat


DECOMPOSITIONS = {torch.ops.netir.gram_sum.default: plain}


def _laid(block: Tensor, room: Tensor) -> Tensor:
    """A block as columns x rows, in the type of `room`, and there if it has another type.

    There too if no numbers lie side by side: numpy would not see that a matrix meets its transpose.
    """
    rows = block.stride(2) == 1
    flat = block.reshape(-1, block.shape[2]) if rows else block.permute(2, 0, 1)
    if flat.dtype != room.dtype or not (rows or block.stride(1) == 1):
        flat = room[: flat.numel()].view(flat.shape).copy_(flat)
    return flat.mT if rows else flat.flatten(1)


def _applied(x: Tensor, vectors: Tensor) -> Tensor:
    """Some vectors, one in a row, times XᵀX, in float64."""
    total = torch.zeros_like(vectors)
    room = x.new_empty(BLOCK * x.shape[2], dtype=torch.float64)
    for block in blocks(x):
        flat = _laid(block, room)
        total.addmm_(vectors @ flat, flat.mT)
    return total


__all__ = ["BLOCK", "DECOMPOSITIONS", "FLUSH", "PRECISIONS", "UNIT", "Gram", "GramSum", "by_rows",
           "gram", "gram_sum", "plain", "products", "size_of"]  # fmt: skip
