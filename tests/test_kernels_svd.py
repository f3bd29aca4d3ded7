"""Truncated decompositions of weights, and the errors that they come with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from netir.kernels.svd import leading, singular, truncated

DOUBLE = torch.float64


def decaying(rows: int, columns: int, rate: float = 0.9) -> Tensor:
    size = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, size, dtype=DOUBLE)).Q
    right = torch.linalg.qr(torch.randn(columns, size, dtype=DOUBLE)).Q
    return left * rate ** torch.arange(size, dtype=DOUBLE) @ right.mT


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (12, 12), (1, 5), (5, 1)])
@pytest.mark.parametrize("kind", [DOUBLE, torch.float32, torch.bfloat16], ids=str)
def test_the_best_of_its_rank(shape: tuple[int, int], kind: torch.dtype) -> None:
    matrix = decaying(*shape).to(kind)
    values = torch.linalg.svdvals(matrix.double())
    for rank in {1, min(shape) // 2 or 1, min(shape)}:
        found = truncated(matrix, rank)
        assert found.left.shape == (shape[0], rank)
        assert found.right.shape == (rank, shape[1])
        off = float((matrix.double() - found.left @ found.right).norm())
        assert found.error == pytest.approx(off, rel=1e-12, abs=1e-15)
        assert off == pytest.approx(float(values[rank:].norm()), rel=1e-9, abs=1e-13)
        assert found.least <= found.error <= found.least * (1 + 1e-9) + 1e-13
        eye = torch.eye(rank, dtype=DOUBLE)
        assert float((found.left.mT @ found.left - eye).norm()) <= 1e-12
        assert torch.allclose(found.values, values[:rank], rtol=1e-12)


@pytest.mark.parametrize("shape", [(80, 60), (60, 80)])
@pytest.mark.parametrize("rate", [0.7, 0.95, 1.0])
def test_random_sketches_are_near_the_best_and_say_how_near(
    shape: tuple[int, int], rate: float
) -> None:
    matrix = decaying(*shape, rate)
    for rank in (1, 8, 20):
        best = float(torch.linalg.svdvals(matrix)[rank:].norm())
        found = truncated(matrix, rank, "random")
        off = float((matrix - found.left @ found.right).norm())
        assert found.error == pytest.approx(off, rel=1e-12)
        assert found.least <= best * (1 + 1e-12)
        assert best * (1 - 1e-12) <= found.error <= 1.04 * best
        assert torch.equal(found.right, truncated(matrix, rank, "random").right)
    other = truncated(matrix, 8, "random", seed=1)
    assert not torch.equal(other.right, truncated(matrix, 8, "random").right)


def test_a_sketch_as_large_as_the_matrix_is_the_decomposition() -> None:
    matrix = decaying(14, 12)
    assert torch.equal(truncated(matrix, 4, "random").right, truncated(matrix, 4).right)


@pytest.mark.parametrize("size", [1e160, 1e307, 1e-160, 1e-300])
@pytest.mark.parametrize("method", ["svd", "random"])
def test_numbers_whose_squares_are_out_of_range(size: float, method: str) -> None:
    matrix = decaying(40, 30)
    found, plain = truncated(matrix * size, 7, method), truncated(matrix, 7, method)
    assert found.error == pytest.approx(plain.error * size, rel=1e-9, abs=0)
    assert found.least == pytest.approx(plain.least * size, rel=1e-9, abs=0)
    assert torch.allclose(found.values / size, plain.values, rtol=1e-9)
    assert torch.allclose(found.left @ (found.right / size), plain.left @ plain.right, atol=1e-9)


def test_a_matrix_of_zeros_is_a_product_of_zeros() -> None:
    found = truncated(torch.zeros(4, 3), 2)
    assert (found.error, found.least) == (0.0, 0.0)
    assert not found.right.any()


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 4, 3), (2, 3, 4)])
def test_all_singular_vectors(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, dtype=DOUBLE)
    u, s, v = singular(matrix)
    assert torch.allclose(u * s[..., None, :] @ v, matrix, atol=1e-13)
    assert s.shape[-1] == min(shape[-2:])


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        (torch.ones(3), {}, r"a finite matrix is needed, not one of shape \(3,\)"),
        (torch.full((2, 2), torch.nan), {}, "a finite matrix"),
        (torch.ones(0, 2), {}, "a finite matrix"),
        (torch.ones(2, 3) * 1j, {}, "a matrix of real numbers is needed, not of torch.complex64"),
        (torch.ones(2, 3), {"rank": 3}, "rank 3 of a matrix of 2 x 3"),
        (torch.ones(2, 3), {"rank": 0}, "rank 0 of"),
        (torch.ones(2, 3), {"method": "qr"}, "a decomposition by 'qr', not by svd or random"),
        (torch.ones(2, 3), {"extra": -1}, "-1 extra directions"),
        (torch.ones(2, 3), {"rank": 1.5}, r"rank 1\.5 of"),
        (torch.ones(2, 3), {"sweeps": 0.5}, r"and 0\.5 sweeps"),
    ],
)
def test_bad_arguments(matrix: Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        truncated(matrix, **{"rank": 1, **options})  # type: ignore[arg-type]


def blank(rows: int) -> Tensor:
    matrix = torch.zeros(300, 3000)
    matrix[:rows] = torch.randn(rows, 3000)
    return matrix


@pytest.mark.parametrize("scale", [1.0, 1e200, 1e-200])
@pytest.mark.parametrize(
    "matrix", [torch.ones(300, 400), blank(30), blank(3), torch.eye(300)[torch.arange(900) % 7]],
    ids=["ones", "thirty rows", "three rows", "one-hot"],
)  # fmt: skip
def test_leading_values_of_a_low_rank(matrix: Tensor, scale: float) -> None:
    whole = matrix.double() * scale
    left, values = leading(whole, 4)
    want = torch.linalg.svdvals(matrix.double())[:4] * scale
    assert torch.allclose(values, want, rtol=1e-9, atol=1e-9 * float(want[0]))
    assert torch.allclose(left.mT @ left, torch.eye(4, dtype=left.dtype), atol=1e-12)


def test_what_leading_refuses() -> None:
    with pytest.raises(ValueError, match="a finite matrix"):
        leading(torch.full((3, 3), torch.nan), 1)
    for count in (-1, 0, 4, 1.5):
        with pytest.raises(ValueError, match="singular values of 3 x 5"):
            leading(torch.ones(3, 5), count)  # type: ignore[arg-type]
    with torch.device("meta"):
        assert truncated(torch.ones(40, 40, device="cpu"), 2, method="random").error < 1e-9
