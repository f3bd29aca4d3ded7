"""Activation matrices whose singular values are hard to count, in float32 and bfloat16 storage.

What counts is the stored matrix: rounding to bfloat16 is part of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

DOUBLE = torch.float64


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A stored matrix, a threshold, and the singular values over √n that float64 finds."""

    family: str
    rows: Tensor
    epsilon: float
    values: Tensor

    @property
    def count(self) -> int:
        return int((self.values > self.epsilon).sum())

    @property
    def gap(self) -> float:
        """How near the nearest value is to the threshold, in roundings of the largest."""
        nearest = float((self.values - self.epsilon).abs().min())
        return nearest / (2.0**-53 * float(self.values[0]))


def spectra(storage: torch.dtype, repeat: int = 8) -> Iterator[Spectrum]:
    """All families at all widths; thresholds among the values, and beside one of them.

    Left out are those that float64 cannot decide: then no count is right.
    """
    generator = torch.Generator().manual_seed(0)
    for turn in range(repeat):
        for family, make in FAMILIES.items():
            for width, count in ((5, 40), (16, 33), (48, 300))[: 2 + turn % 2]:
                rows = make(count, width, generator).to(storage)
                values = torch.linalg.svdvals(rows.double()) / count**0.5
                found = (Spectrum(family, rows, e, values) for e in _thresholds(values, turn))
                yield from (spectrum for spectrum in found if spectrum.gap > 2 * (width + 4))


def _thresholds(values: Tensor, turn: int) -> Iterator[float]:
    """Between two values; and so near to one that each level in turn cannot tell."""
    middle = len(values) // 2
    yield float((values[middle - 1] * values[middle]).sqrt())
    yield float(values[middle]) * (1 + (-1) ** turn * 10.0 ** -(3 + 2 * (turn % 4)))


def _turned(values: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A matrix with these singular values times the root of its rows."""
    width = len(values)
    left = torch.linalg.qr(torch.randn(count, width, generator=generator, dtype=DOUBLE))[0]
    right = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=DOUBLE))[0]
    return left * (values * count**0.5) @ right


def _cluster(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Two large values, and all others within a thousandth of each other."""
    values = 0.01 * (1 + 1e-3 * torch.rand(width, generator=generator, dtype=DOUBLE))
    values[:2] = torch.tensor([3.0, 0.5])
    return _turned(values, count, generator)


def _tight(count: int, width: int, generator: torch.Generator) -> Tensor:
    values = 0.01 * (1 + 1e-7 * torch.rand(width, generator=generator, dtype=DOUBLE))
    values[0] = 0.1
    return _turned(values, count, generator)


def _relu(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Outputs of a ReLU with a mean far above their spread, as behind a wide layer."""
    latent = torch.randn(count, max(2, width // 3), generator=generator, dtype=DOUBLE)
    mixed = latent @ torch.randn(latent.shape[1], width, generator=generator, dtype=DOUBLE)
    noise = torch.randn(count, width, generator=generator, dtype=DOUBLE)
    return (mixed + 20 + 0.01 * noise).relu()


def _geometric(count: int, width: int, generator: torch.Generator) -> Tensor:
    return _turned(torch.logspace(0, -7, width, dtype=DOUBLE), count, generator)


def _power(count: int, width: int, generator: torch.Generator) -> Tensor:
    return _turned(torch.arange(1, width + 1, dtype=DOUBLE) ** -1.0, count, generator)


def _bulk(count: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, width, generator=generator, dtype=DOUBLE)


def _noisy(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Few directions, and noise at the edge of what the storage keeps."""
    few = max(1, width // 4)
    left = torch.randn(count, few, generator=generator, dtype=DOUBLE)
    right = torch.randn(few, width, generator=generator, dtype=DOUBLE)
    return left @ right + 1e-6 * torch.randn(count, width, generator=generator, dtype=DOUBLE)


def _extreme(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Columns of very different sizes."""
    rows = torch.randn(count, width, generator=generator, dtype=DOUBLE)
    return rows * torch.logspace(4, -8, width, dtype=DOUBLE)


def _constant(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Rows that are all alike but for very little: sums whose roundings all go one way."""
    row = 1 + torch.rand(1, width, generator=generator, dtype=DOUBLE)
    noise = torch.randn(count, width, generator=generator, dtype=DOUBLE)
    return row + 10.0 ** -width.bit_length() * noise


FAMILIES: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "cluster": _cluster, "tight cluster": _tight, "mean-dominated ReLU": _relu,
    "geometric": _geometric, "power law": _power, "dense bulk": _bulk,
    "low rank and noise": _noisy, "columns of many sizes": _extreme, "constant": _constant,
}  # fmt: skip


def exact_count(rows: Tensor, epsilon: float) -> int:
    """How many singular values over √n are above ε, in rational arithmetic: the inertia."""
    columns = [[Fraction(x) for x in column] for column in rows.double().mT.tolist()]
    square = len(rows) * Fraction(epsilon) ** 2
    matrix = [[sum(map(_times, a, b), Fraction(0)) for b in columns] for a in columns]
    for i, line in enumerate(matrix):
        line[i] -= square
    count = 0
    for i, line in enumerate(matrix):
        assert line[i], "a leading minor is zero: reorder the columns"
        count += line[i] > 0
        for below in matrix[i + 1 :]:
            factor = below[i] / line[i]
            below[i:] = [a - factor * b for a, b in zip(below[i:], line[i:], strict=True)]
    return count


def _times(a: Fraction, b: Fraction) -> Fraction:
    return a * b
