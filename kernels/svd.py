"""Singular value decompositions of weights, cut to a rank, with the error that this leaves."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp

import torch
from torch import Tensor

METHODS = ("svd", "random")


@dataclass(frozen=True, eq=False)
class Truncated:
    """A ≈ L R, of a left factor with orthonormal columns times a right one, in float64.

    `values` are the singular values of the product, largest first. `error` is ‖A - L R‖ (Frobenius)
    computed from the factors. No product of this rank comes closer than `least`: a projection has
    no larger singular values than what it projects, so those found beyond the rank are bounds.
    """

    left: Tensor
    right: Tensor
    values: Tensor
    error: float
    least: float


def truncated(
    matrix: Tensor, rank: int, method: str = "svd", extra: int = 10, sweeps: int = 2, seed: int = 0
) -> Truncated:
    """The best product of a rank; with `method="random"` a good one, much faster for a low rank.

    That is a subspace iteration (Halko, Martinsson, Tropp 2011) with `extra` more directions than
    are kept. It serves to compare many candidates; keep the default for weights that stay.
    """
    _expect_matrix(matrix)
    if rank not in range(1, min(matrix.shape) + 1):
        raise ValueError(f"rank {rank!r} of a matrix of {matrix.shape[0]} x {matrix.shape[1]}")
    if method not in METHODS:
        raise ValueError(f"a decomposition by '{method}', not by {' or '.join(METHODS)}")
    if extra % 1 or extra < 0 or sweeps % 1 or sweeps < 0:
        raise ValueError(f"{extra} extra directions and {sweeps} sweeps")
    rank, extra, sweeps = int(rank), int(extra), int(sweeps)
    wide = matrix.detach().double()
    scale = _power_of_two(wide)
    wide = wide / scale
    if method == "random" and rank + extra < min(matrix.shape):
        basis = _range(wide, rank + extra, sweeps, seed)
        left, values, right = singular(basis.mT @ wide)
        left = basis @ left
    else:
        left, values, right = singular(wide)
    left, right, kept = left[:, :rank], values[:rank, None] * right[:rank], values[:rank]
    error = float(torch.linalg.matrix_norm(wide - left @ right))
    least = min(error, float(values[rank:].norm()))
    return Truncated(left, right * scale, kept * scale, error * scale, least * scale)


def _expect_matrix(matrix: Tensor) -> None:
    if not isinstance(matrix, Tensor):
        raise ValueError(f"a matrix is a tensor, not {type(matrix).__name__}")
    if matrix.dim() != 2 or not matrix.numel() or not bool(matrix.isfinite().all()):
        raise ValueError(f"a finite matrix is needed, not one of shape {tuple(matrix.shape)}")
    if matrix.is_complex():
        raise ValueError(f"a matrix of real numbers is needed, not of {matrix.dtype}")


def _power_of_two(matrix: Tensor) -> float:
    """About the largest entry: no number is too large to square, divided by it without rounding."""
    return 2.0 ** (frexp(float(matrix.abs().max()))[1] - 1)


def _range(matrix: Tensor, count: int, sweeps: int, seed: int) -> Tensor:
    """An orthonormal basis of nearly the first singular directions."""
    generator = torch.Generator().manual_seed(seed)
    shape = matrix.shape[1], count
    start = torch.randn(shape, generator=generator, dtype=matrix.dtype, device="cpu")
    basis: Tensor = torch.linalg.qr(matrix @ start.to(matrix.device)).Q
    for _ in range(sweeps):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mT @ basis).Q).Q
    return basis


def leading(matrix: Tensor, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The first left singular vectors, in columns, and singular values, in float64.

    Of a much larger matrix they are sought among its products with some random vectors (a block
    Krylov space), of which there are more and more until the sum of the squares of the values
    stands still.
    """
    _expect_matrix(matrix)
    if count not in range(1, min(matrix.shape) + 1):
        raise ValueError(f"{count!r} singular values of {matrix.shape[0]} x {matrix.shape[1]}")
    wide = matrix.detach().double()
    scale = _power_of_two(wide)
    left, values = _leading(wide / scale, int(count), seed)
    return left, values * scale


def _leading(wide: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    size = count + 4
    if max(8 * size, _SMALL) >= min(wide.shape):
        left, values, _ = singular(wide)
        return left[:, :count], values[:count]
    generator = torch.Generator().manual_seed(seed)
    shape = wide.shape[1], size
    start = torch.randn(shape, generator=generator, dtype=wide.dtype, device="cpu")
    basis = torch.linalg.qr(wide @ start.to(wide.device)).Q
    back, last = wide.mT @ basis, 0.0
    while True:
        values, turned = torch.linalg.eigh(back.mT @ back)
        total = float(values[-count:].sum())
        if total - last <= _STILL * total or basis.shape[1] + size > min(wide.shape):
            found = values[-count:].flip(0).clamp(min=0).sqrt()
            return basis @ turned[:, -count:].flip(1), found
        last = total
        block = wide @ back[:, -size:]
        for _ in range(2):
            block -= basis @ (basis.mT @ block)
        block = torch.linalg.qr(torch.cat([basis, block], 1)).Q[:, -size:]  # new, if all is found
        basis = torch.cat([basis, block], 1)
        back = torch.cat([back, wide.mT @ block], 1)


_STILL, _SMALL = 1e-6, 256


def singular(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S and V' of a matrix or of a batch; of a wide one by its transpose, which is faster."""
    if matrix.shape[-2] >= matrix.shape[-1]:
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return u, s, v
    v, s, u = torch.linalg.svd(matrix.mT, full_matrices=False)
    return u.mT, s, v.mT


__all__ = ["METHODS", "Truncated", "leading", "singular", "truncated"]
