"""How many singular values of an activation matrix are above a threshold, counted with certainty.

For a matrix of n rows, the singular values over the root of n that exceed ε are the eigenvalues of
the Gram matrix HᵀH/n that exceed ε²; how many there are is the inertia of HᵀH/n - ε²I (Sylvester),
which one LDLᵀ factorization tells without an eigenvalue being computed. Rounding moves eigenvalues
by no more than a known margin (Weyl), so two counts at ε² ± that margin which agree are certain;
where they do not, the next level is more precise: a Gram matrix of float32 blocks, one in float64,
and the singular values themselves in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan, sqrt
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from netir.kernels.gram import UNIT, Gram, GramSum, by_rows

LEVELS = ("float32", "float64", "svd")
METHODS = ("inertia", "eigenvalues")


@dataclass(frozen=True)
class Count:
    """How many singular values are above the threshold, and how precise one had to be to know.

    `ties` of them are so near the threshold that float64 cannot tell; these are not counted.
    """

    count: int
    level: str
    ties: int = 0


def effective_rank(
    value: Tensor, epsilon: float, start: str | None = None, axis: int = -1,
    method: str | None = None,
) -> Count:  # fmt: skip
    """Count the singular values of H / √n above `epsilon`; H has a row for each of n samples.

    Of activations with more axes `axis` has the columns, and all others are rows; an image is not
    copied. Half precision is taken for what it is: what rounding did to it is part of the data.
    From `start` on, levels are tried until one is certain: without one, from the one that is likely
    to be done first.
    """
    x = by_rows(value, axis)
    count = x.shape[0] * x.shape[1]
    narrow = x if count >= x.shape[2] else x.reshape(1, count, -1).mT
    start = _sooner(narrow) if start is None else start
    epsilon = _checked(epsilon, start, method)
    for level in LEVELS[LEVELS.index(start) : -1]:
        total = GramSum(level)
        total.add(narrow)
        found = count_above(total.over(count), epsilon, method)
        if found is not None:
            return Count(found, level)
    return _by_values(x.reshape(count, -1), epsilon)


def _sooner(x: Tensor) -> str:
    """A GPU multiplies float64 well; and what float32 lost costs too much to measure of few."""
    return "float64" if x.is_cuda or x.shape[2] < _MANY else "float32"


_MANY = 192


def _checked(epsilon: float, start: str, method: str | None = None) -> float:
    """The threshold, if all of these are sound."""
    if start not in LEVELS:
        raise ValueError(f"no level '{start}', only {', '.join(LEVELS)}")
    if method not in (None, *METHODS):
        raise ValueError(f"counting by '{method}', not by {' or '.join(METHODS)}")
    return _threshold(epsilon)


def _threshold(epsilon: Any) -> float:
    try:
        found = float(epsilon) if isinstance(epsilon, Real) else nan
    except OverflowError:
        found = inf
    if not 0 <= found < inf:
        raise ValueError(f"a threshold of {epsilon!r} for singular values, which has to be a "
                         "finite number and not negative")  # fmt: skip
    return found


def _by_values(rows: Tensor, epsilon: float) -> Count:
    """What the singular values say in float64, off by about its rounding of the largest."""
    wide = rows.double()
    if not bool(torch.isfinite(wide).all()):
        raise ValueError("the rows are not finite, or too large to be squared")
    short, levels = _shortened(wide if len(wide) >= wide.shape[1] else wide.mT)
    values = torch.linalg.svdvals(short) / sqrt(len(rows))
    if not bool(values[0].isfinite()):
        raise ValueError("the rows are too large: their singular values are no float64")
    margin = (levels + 1) * (len(values) + 4) * UNIT * float(values[0])
    above = values - epsilon
    ties = int((above.abs() <= margin).sum())
    return Count(int((above > margin).sum()), "svd", ties)


def _shortened(rows: Tensor) -> tuple[Tensor, int]:
    """Rows of the same singular values, by triangles of blocks of rows, and how often in turn.

    The rounding of a decomposition grows with the number of its rows; that of blocks does not.
    """
    levels, size = 0, max(2 * rows.shape[1], 64)
    while len(rows) > 2 * size:
        count = len(rows) // size * size
        triangles = torch.linalg.qr(rows[:count].reshape(-1, size, rows.shape[1]), mode="r").R
        rows, levels = torch.cat([triangles.flatten(0, 1), rows[count:]]), levels + 1
    return rows, levels


def count_above(gram: Gram, epsilon: float, method: str | None = None) -> int | None:
    """How many eigenvalues of a Gram matrix are above ε²; None where rounding could decide it.

    The margin is the rounding of its sums, what factorizing a matrix of this size adds to it, and
    more than what vanishes below the smallest numbers.
    """
    epsilon = _threshold(epsilon)
    if all_above(gram, epsilon):
        return len(gram.matrix)
    square = epsilon * epsilon  # infinite where `**` would raise
    margin = _margin(gram, square, float(torch.linalg.matrix_norm(gram.matrix)))
    if not margin < inf:
        return None
    high, low = positives(gram.matrix, [square + margin, square - margin], method)
    return high if high == low else None


def all_above(gram: Gram, epsilon: float) -> bool:
    """Whether every eigenvalue of a Gram matrix is above ε² for certain.

    One Cholesky factorization tells, a fraction of the work of a count. Rows that are left out of a
    sum only lower its eigenvalues: a sum of some rows, over the number of all, will do.
    """
    epsilon = _threshold(epsilon)
    square = epsilon * epsilon
    margin = _margin(gram, square, float(gram.matrix.trace()))
    return margin < inf and _definite(_less(gram.matrix, square + margin))


def _margin(gram: Gram, square: float, size: float) -> float:
    """By how much rounding can have moved an eigenvalue, and factorizing a matrix of that size."""
    return gram.error + (len(gram.matrix) + 4) * UNIT * (size + square) + _VANISHED


_VANISHED = 1e-300


def positives(matrix: Tensor, shifts: list[float], method: str | None = None) -> list[int]:
    """How many eigenvalues of a symmetric float64 matrix are above each shift.

    By `method` "inertia" from a factorization for each: every 1 x 1 pivot has the sign of an
    eigenvalue, every 2 x 2 pivot one of either sign. By "eigenvalues" they are computed, as is
    usual on a GPU.
    """
    method = method or ("eigenvalues" if matrix.is_cuda else "inertia")
    if method == "eigenvalues":
        values = torch.linalg.eigvalsh(matrix)
        return [int((values > shift).sum()) for shift in shifts]
    if method != "inertia":
        raise ValueError(f"counting by '{method}', not by inertia or eigenvalues")
    return [_positive(_less(matrix, shift)) for shift in shifts]


def _less(matrix: Tensor, shift: float) -> Tensor:
    """A copy whose eigenvalues are less by the shift."""
    moved = matrix.detach().clone(memory_format=torch.contiguous_format)
    moved.diagonal().sub_(shift)
    return moved


def _lapack() -> Any:
    """Scipy's, which is faster on large matrices than torch's (bench.rank). It may overwrite."""
    from scipy.linalg import lapack  # not before it is needed: that takes a tenth of a second

    return lapack


def _definite(matrix: Tensor) -> bool:
    """Whether there is a Cholesky factor; what is not finite reaches its last pivot."""
    factor: Any
    if matrix.device.type != "cpu":
        factor, failed = torch.linalg.cholesky_ex(matrix)
    else:
        factor, failed = _lapack().dpotrf(
            matrix.numpy().T, lower=True, clean=False, overwrite_a=True
        )
    return not int(failed) and bool((factor.diagonal()[-1:] > 0).all())


def _positive(matrix: Tensor) -> int:
    """How many pivots are positive."""
    factors: Any
    if matrix.device.type != "cpu":
        factors, pivots, _ = torch.linalg.ldl_factor_ex(matrix)
    else:
        room = max(1, _WIDTH * len(matrix))
        factors, pivots, _ = _lapack().dsytrf(
            matrix.numpy().T, lower=True, lwork=room, overwrite_a=True
        )
    paired = pivots < 0
    alone = (factors.diagonal() > 0) & ~paired
    return int(alone.sum()) + int(paired.sum()) // 2


_WIDTH = 32
"""How many columns LAPACK eliminates at once."""


def orthogonality(matrix: Tensor, count: int) -> float:
    """1 less the orthogonality gap ‖HᵀH / ‖H‖² - I/n‖ of n samples (Daneshmand et al. 2021).

    H has a column for each sample there; `matrix` is HHᵀ up to a factor, which has the same
    eigenvalues but zeros.
    """
    if count < 1:
        raise ValueError(f"an orthogonality of {count} samples")
    trace = float(matrix.trace())
    if trace <= 0:
        return 1 - sqrt(1 - 1 / count)
    gap = float(matrix.square().sum()) / trace**2 - 1 / count
    return 1 - sqrt(max(gap, 0.0))


def bordered(
    matrix: Tensor, cross: Tensor, square: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """For each candidate column beside the matrix: the count above ε, and the sum of its values.

    `cross` holds a column of mean products with the units there for each candidate, `square` its
    own mean square. The count is that of the matrix, plus one where the Schur complement of the
    candidate is positive (Haynsworth); it is meant for choosing, and not certain. The sum of
    singular values breaks ties.
    """
    epsilon = _threshold(epsilon)
    values, vectors = torch.linalg.eigh(matrix)
    size = float(values.norm())
    least = (len(matrix) + 4) * torch.finfo(matrix.dtype).eps * size
    shift = epsilon * epsilon + max(least, torch.finfo(matrix.dtype).tiny)
    squares = (vectors.mT @ cross).square()
    schur = square - shift - (squares / (values - shift)[:, None]).sum(0)
    counts = (values > shift).sum() + (schur > 0).long()
    values = values.clamp(min=0)
    return counts, values.sqrt().sum() + _gains(values, squares, square)


def _gains(values: Tensor, squares: Tensor, square: Tensor) -> Tensor:
    """By how much each candidate raises the sum of the roots of the eigenvalues.

    The sum of the roots of a matrix is 1/π times the integral of log det(1 + A/t²) over all t > 0,
    and a candidate multiplies det(A + t²) by its Schur complement. The trapezoidal rule in log t
    is as good as exact: the error falls with exp(-π²/step).
    """
    top = float((values.max() if len(values) else square.new_zeros(())) + square.max())
    if not top > 0:
        return torch.zeros_like(square)
    logs = torch.arange(-_REACH, _REACH, _STEP, dtype=values.dtype, device=values.device)
    nodes = logs.exp() * top**0.5
    shifts = nodes.square()
    rest = square - (1 / (values + shifts[:, None])) @ squares
    ratio = rest.clamp(min=0) / shifts[:, None]
    found: Tensor = _STEP / torch.pi * (nodes @ torch.log1p(ratio))
    return found


_STEP, _REACH = 0.25, 32.0


__all__ = ["LEVELS", "Count", "all_above", "bordered", "count_above", "effective_rank",
           "orthogonality", "positives"]  # fmt: skip
