"""Counting singular values: never wrong, and no more precise than it has to be."""

from __future__ import annotations

from collections import Counter
from math import inf, log, nan

import pytest
import torch
from torch import Tensor

from netir.kernels.gram import _SAFETY, _VECTORS, Gram, GramSum, _largest, gram
from netir.kernels.rank import (
    Count,
    all_above,
    bordered,
    count_above,
    effective_rank,
    positives,
)
from tests.spectra import DOUBLE, FAMILIES, Spectrum, exact_count, spectra

STORAGES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_no_count_of_hard_spectra_is_wrong(storage: torch.dtype) -> None:
    hard, levels = list(spectra(storage)), Counter[str]()
    assert len(hard) >= 250
    assert {spectrum.family for spectrum in hard} == set(FAMILIES)
    for spectrum in hard:
        found = effective_rank(spectrum.rows, spectrum.epsilon, "float32")
        levels[found.level] += 1
        assert (found.count, found.ties) == (spectrum.count, 0), spectrum.family
    assert min(levels[level] for level in ("float32", "float64", "svd")) >= 10, levels


def narrow(storage: torch.dtype) -> list[Spectrum]:
    return [s for s in spectra(storage) if s.rows.shape[1] == 5]


@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_counts_in_rational_arithmetic(storage: torch.dtype) -> None:
    cases = narrow(storage)
    assert len(cases) > 100
    for spectrum in cases:
        assert spectrum.count == exact_count(spectrum.rows, spectrum.epsilon), spectrum.family


@pytest.mark.parametrize("start", ["float32", "float64", "svd"])
def test_what_cannot_be_told_is_a_tie(start: str) -> None:
    rows = torch.randn(40, 5, dtype=DOUBLE) * torch.logspace(0, -2, 5, dtype=DOUBLE)
    value = float(torch.linalg.svdvals(rows)[2]) / 40**0.5
    for step in range(-3, 4):
        epsilon = value * (1 + step * 2.0**-53)
        found = effective_rank(rows, epsilon, start)
        assert found == Count(2, "svd", 1)
        assert exact_count(rows, epsilon) in (2, 3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_rounding_stays_within_its_bound(family: str, precision: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for count, width in ((2500, 12), (300, 140)):
        rows = FAMILIES[family](count, width, generator).float()
        found = gram(rows, precision)
        exact = _exact(rows)
        off = float(torch.linalg.matrix_norm(found.matrix - exact, 2))
        assert off <= found.error
        assert found.error <= (1e-4 if precision == "float32" else 1e-12) * float(exact.trace())


def _exact(rows: Tensor) -> Tensor:
    """HᵀH / n with an error far below that of float64 sums: each half exact, added by pairs."""
    parts = [part.double() for part in rows.split(16)]
    sums = [part.mT @ part for part in parts]
    while len(sums) > 1:
        sums = [sum(sums[i + 1 : i + 2], sums[i]) for i in range(0, len(sums), 2)]
    return sums[0] / len(rows)


def test_sums_that_round_one_way_are_noticed() -> None:
    # All rows are alike, and so is what each addition rounds off: a matrix of rank 1 seems to have
    # more values, 10 times as large as for random rows.
    rows = (1 + torch.rand(1, 24)).expand(1000, 24).contiguous()
    values = torch.linalg.eigvalsh(gram(rows, "float32").matrix)
    assert float(values[-2]) > 1e-7 * float(values[-1])
    epsilon = float(values[-2].sqrt()) * 0.9
    assert count_above(gram(rows, "float32"), epsilon) is None
    assert effective_rank(rows, epsilon, "float32") == Count(1, "float64")


def symmetric(size: int, rank: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(size, rank, generator=generator, dtype=DOUBLE)
    signs = torch.randn(rank, generator=generator, dtype=DOUBLE).sign()
    return half * signs @ half.mT


@pytest.mark.parametrize(("size", "rank"), [(1, 1), (300, 1), (300, 3), (300, 300)])
def test_the_largest_eigenvalue_is_told_by_random_vectors(size: int, rank: int) -> None:
    for seed in range(30):
        matrix = symmetric(size, rank, seed)
        generator = torch.Generator().manual_seed(100 + seed)
        images = torch.randn(16, size, generator=generator, dtype=DOUBLE) @ matrix
        largest = float(torch.linalg.matrix_norm(matrix, 2))
        assert largest / 4 < _largest(images) < 4 * largest
        for scale in (1e-200, 1e150):
            scaled = _largest(scale * images)
            assert scaled == pytest.approx(scale * _largest(images), rel=1e-9)


def test_the_odds_of_telling_the_largest_eigenvalue_too_small() -> None:
    # Of a single eigenvalue, the worst kind. All images but one have to be small for it, so numbers
    # are drawn like that, and each counts by how likely it is.
    generator, small = torch.Generator().manual_seed(0), 0.25
    sizes = torch.full((400_000, _VECTORS), small, dtype=DOUBLE)
    sizes[torch.arange(len(sizes)), torch.randint(_VECTORS, (len(sizes),), generator=generator)] = 1
    numbers = torch.randn(sizes.shape, generator=generator, dtype=DOUBLE) * sizes
    squares = numbers.square()
    pairs = squares.sum(1).square() - squares.square().sum(1)
    told = (pairs / (_VECTORS * (_VECTORS - 1))) ** 0.25
    assert float(told[0]) == pytest.approx(_largest(numbers[0, :, None]))
    narrow = -squares / (2 * small**2) - log(small)
    each = narrow.sum(1, keepdim=True) - narrow - squares / 2  # if this one were drawn wide
    drawn = each.logsumexp(1) - log(_VECTORS)
    odds = (-squares.sum(1) / 2 - drawn).exp()[told * _SAFETY < 1].sum() / len(sizes)
    assert 0.8e-7 <= float(odds) <= 1.2e-7


def test_the_largest_eigenvalue_of_nothing_and_of_what_overflows() -> None:
    assert _largest(torch.zeros(16, 3, dtype=DOUBLE)) == 0
    for value in (nan, inf):
        images = torch.ones(16, 3, dtype=DOUBLE)
        images[2, 1] = value
        assert _largest(images) == inf


def test_a_check_that_overflows_leaves_no_certainty() -> None:
    total, rows = GramSum("float32"), torch.full((1, 1), 1.3e154, dtype=DOUBLE)
    total.add(rows)
    assert total.gram.error == inf
    assert effective_rank(rows, 1e150, "float32") == Count(1, "float64")


def test_many_columns_start_in_float32() -> None:
    rows = torch.randn(600, 256)
    assert effective_rank(rows, 0.01) == Count(256, "float32")
    assert effective_rank(rows[:, :64], 0.01) == Count(64, "float64")
    assert effective_rank(rows[:64], 0.01) == Count(64, "float64")  # the products of rows, then


@pytest.mark.parametrize("start", ["float32", "float64", "svd"])
def test_thresholds_all_around_a_value(start: str) -> None:
    rows = torch.eye(6)[:, :4] * 3
    value = (9 / 6) ** 0.5
    for step in range(-40, 41):
        epsilon = value * (1 + step * 2.0**-53)
        found = effective_rank(rows, epsilon, start)
        assert found.count <= exact_count(rows, epsilon) <= found.count + found.ties


@pytest.mark.parametrize(
    "rows", [torch.full((100_000, 1), 0.1), torch.rand(20_000, 3), torch.rand(9_999, 8)],
    ids=["constant", "three", "eight"],
)  # fmt: skip
def test_long_matrices_are_as_certain(rows: Tensor) -> None:
    rows = rows.double()
    exact = torch.linalg.eigvalsh(_exact(rows)).clamp(min=0).sqrt().flip(0)
    for number, value in enumerate(exact.tolist()):
        for step in (-300, -100, 100, 300):
            epsilon = value + step * 2.0**-53 * float(exact[0])
            found = effective_rank(rows, epsilon, "svd")
            assert found.count <= number + (step < 0) <= found.count + found.ties


def test_zero_matrices() -> None:
    rows = torch.zeros(7, 3)
    for start in ("float32", "float64", "svd"):
        assert effective_rank(rows, 0.1, start) == Count(0, start)
        assert effective_rank(rows, 1e-300, start) == Count(0, "svd")
        assert effective_rank(rows, 0.0, start) == Count(0, "svd", 3)


def test_numbers_whose_squares_are_out_of_range() -> None:
    rows = torch.randn(20, 3)
    for start in ("float32", "float64", "svd"):
        assert effective_rank(1e30 * rows, 1e25, start).count == 3
        assert effective_rank(1e-30 * rows, 1e-33, start).count == 3
        assert effective_rank(1e-30 * rows, 1e-25, start).count == 0
        assert effective_rank(1e-200 * rows.double(), 1e-203, start).count == 3


def test_a_threshold_of_zero_gives_the_numerical_rank() -> None:
    full, few = torch.randn(20, 6), torch.randn(20, 2) @ torch.randn(2, 6)
    assert effective_rank(full, 0.0) == Count(6, "float64")
    exact = torch.cat([full[:, :2], full[:, :2]], 1)
    assert effective_rank(exact, 0.0) == Count(2, "svd", 2)
    assert effective_rank(few, 0.0).count in (5, 6)  # of rank 2 only before it was rounded


def test_one_column_one_row_and_fewer_rows_than_columns() -> None:
    column = torch.full((9, 1), 2.0)
    assert effective_rank(column, 1.9).count == 1
    assert effective_rank(column, 2.1).count == 0
    assert effective_rank(torch.tensor([[3.0, 4.0]]), 4.9).count == 1
    assert effective_rank(torch.tensor([[3.0, 4.0]]), 5.1).count == 0
    wide = torch.randn(4, 30)
    for start in ("float32", "float64", "svd"):
        found = effective_rank(wide, 1e-3, start)
        assert found == Count(4, start)
    assert effective_rank(wide, 0.0).count == 4


def test_a_threshold_exactly_on_values_does_not_count_them() -> None:
    rows = torch.eye(16)[:, :4] * 4 * torch.tensor([0.5, 0.25, 0.25, 0.125])
    assert effective_rank(rows, 0.25) == Count(1, "svd", 2)
    hadamard = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    assert effective_rank(hadamard, 1.0) == Count(0, "svd", 4)


@pytest.mark.parametrize("start", ["float32", "float64", "svd"])
def test_thresholds_whose_squares_are_out_of_range(start: str) -> None:
    assert effective_rank(torch.randn(9, 3), 1e200, start) == Count(0, "svd")
    counts, _ = bordered(torch.eye(2), torch.zeros(2, 1), torch.ones(1), 1e200)
    assert counts.tolist() == [0]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_count_as_their_rows_and_are_not_copied(kind: torch.dtype) -> None:
    image = torch.randn(3, 6, 5, 4).relu().to(kind)
    rows = image.movedim(1, -1).reshape(-1, 6)
    values = torch.linalg.svdvals(rows.double()) / 60**0.5
    epsilon = float(values[2:4].mean())
    for value in (image, image.to(memory_format=torch.channels_last), image[:, :, ::2, ::2]):
        flat = value.movedim(1, -1).reshape(-1, 6)
        expected = int((torch.linalg.svdvals(flat.double()) / len(flat) ** 0.5 > epsilon).sum())
        for start in ("float32", "float64", "svd"):
            assert effective_rank(value, epsilon, start, axis=1).count == expected


@pytest.mark.parametrize("size", [1e150, 6e153])
def test_products_that_float32_cannot_hold_are_no_certainty(size: float) -> None:
    rows = torch.randn(50, 4, dtype=DOUBLE) * size / 20
    rows[:, 3] = rows[:, 2]
    found = [effective_rank(rows, size * 1e-6, start).count for start in ("float32", "float64")]
    assert found == [3, 3]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (torch.tensor([[1.0, nan]]), {}, "not finite"),
        (torch.tensor([[1.0, inf]]), {}, "not finite"),
        (torch.tensor([[1.0, nan]]), {"start": "svd"}, "not finite"),
        (torch.tensor([[1.0, nan]]), {"start": "float32"}, "not finite"),
        (torch.full((2, 2), 1e200, dtype=DOUBLE), {}, "too large to be squared"),
        (torch.ones(3), {}, r"rows of real numbers are needed.*\(3,\)"),
        (torch.ones(0, 3), {}, r"\(0, 3\)"),
        (torch.ones(3, 3, dtype=torch.int64), {}, "int64"),
        (torch.ones(3, 3), {"epsilon": -1.0}, "a threshold of -1.0"),
        (torch.ones(3, 3), {"epsilon": nan}, "a threshold of nan"),
        (torch.ones(3, 3), {"epsilon": 10**400}, "a threshold of 1000"),
        (torch.ones(3, 3), {"epsilon": "0.1"}, "a threshold of '0.1' .* a finite number"),
        (torch.ones(3, 3), {"start": ""}, "no level ''"),
        (torch.full((4, 2), 1.7e308, dtype=DOUBLE), {"start": "svd"}, "too large"),
        (torch.ones(3, 3), {"start": "float16"}, "no level 'float16', only float32, float64, svd"),
        (torch.ones(3, 3), {"method": "guess"}, "counting by 'guess'"),
        (torch.eye(3), {"method": "guess", "epsilon": 0.01}, "counting by 'guess'"),  # all above
        (torch.eye(3), {"method": "guess", "start": "svd"}, "counting by 'guess'"),
    ],
)
def test_bad_arguments(rows: Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        effective_rank(rows, **{"epsilon": 0.1, **options})  # type: ignore[arg-type]


def test_inertia_has_pivots_of_two_and_agrees_with_eigenvalues() -> None:
    generator = torch.Generator().manual_seed(0)
    paired = 0
    for size in (1, 2, 3, 8, 21):
        for _ in range(5):
            half = torch.randn(size, size, generator=generator, dtype=DOUBLE)
            matrix = half + half.mT
            matrix.fill_diagonal_(0.0)
            values = torch.linalg.eigvalsh(matrix)
            shifts = [float(values.mean()) + 0.01, float(values[-1]) + 1, float(values[0]) - 1]
            moved = matrix - shifts[0] * torch.eye(size, dtype=DOUBLE)
            paired += int((torch.linalg.ldl_factor_ex(moved)[1] < 0).sum())
            expected = [int((values > shift).sum()) for shift in shifts]
            assert positives(matrix, shifts, "inertia") == expected
            assert positives(matrix, shifts, "eigenvalues") == expected
    assert paired


def test_bordered_counts_are_those_of_the_larger_matrix() -> None:
    old, new = torch.randn(60, 7, dtype=DOUBLE), torch.randn(60, 9, dtype=DOUBLE)
    new[:, :3] = old[:, :3] * 0.1  # adds nothing
    matrix, cross = old.mT @ old / 60, old.mT @ new / 60
    counts, sums = bordered(matrix, cross, new.square().mean(0), 0.05)
    for i in range(9):
        values = torch.linalg.svdvals(torch.cat([old, new[:, i : i + 1]], 1)) / 60**0.5
        assert int(counts[i]) == int((values > 0.05).sum())
        assert float(sums[i]) == pytest.approx(float(values.sum()), rel=1e-6)
    assert len(set(counts.tolist())) == 2


def test_bordered_with_no_units_and_with_a_threshold_on_an_eigenvalue() -> None:
    counts, _ = bordered(torch.zeros(0, 0), torch.zeros(0, 2), torch.tensor([1.0, 1e-6]), 0.01)
    assert counts.tolist() == [1, 0]
    matrix, cross = torch.eye(2, dtype=DOUBLE) / 4, torch.tensor([[0.1], [0.0]], dtype=DOUBLE)
    counts, _ = bordered(matrix, cross, torch.tensor([0.04], dtype=DOUBLE), 0.5)
    assert counts.tolist() == [1]  # what it has in common with a unit lifts that one above


def test_a_margin_that_hides_the_threshold_gives_no_count() -> None:
    matrix = torch.diag(torch.tensor([1.0, 0.1, 0.01], dtype=DOUBLE))
    assert count_above(Gram(matrix, 10, 0.0), 0.2) == 2
    assert count_above(Gram(matrix, 10, 0.02), 0.2) == 2
    assert count_above(Gram(matrix, 10, 0.04), 0.2) is None
    exact = Gram(torch.eye(5, dtype=DOUBLE), 10, 0.0)  # but factorizing it may round
    assert count_above(exact, 1.0) is None
    assert not all_above(exact, 1 - 1e-16)
    assert all_above(exact, 1 - 1e-13)


def test_of_what_is_not_finite_nothing_is_certain() -> None:
    hidden = torch.eye(3, dtype=DOUBLE)
    hidden[0, 1] = hidden[1, 0] = nan
    for found in (Gram(hidden, 10, 0.0), Gram(torch.eye(3, dtype=DOUBLE), 10, nan)):
        assert not all_above(found, 0.1)
        assert count_above(found, 0.1) is None


def test_a_matrix_of_no_columns(capfd: pytest.CaptureFixture[str]) -> None:
    assert positives(torch.zeros(0, 0, dtype=DOUBLE), [0.0, 1.0]) == [0, 0]
    assert capfd.readouterr() == ("", "")
