"""Gram matrices: of any layout, as an op, kept up over a stream; and what is picked by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from netir.kernels.gram import (
    BLOCK,
    DECOMPOSITIONS,
    GramSum,
    by_rows,
    gram,
    gram_sum,
)
from netir.kernels.greedy import most_alike
from netir.kernels.rank import count_above, effective_rank
from netir.kernels.window import GramWindow

DOUBLE = torch.float64
TREES = "ignore:.*LeafSpec:FutureWarning"  # torch's own decompositions copy one
LEAVES = "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"  # torch's opcheck


def plain(value: Tensor, axis: int = -1) -> Tensor:
    rows = value.double().movedim(axis, -1).flatten(0, -2)
    return rows.mT @ rows / len(rows)


def close(found: Tensor, expected: Tensor, bound: float = 1e-13) -> bool:
    return float((found - expected).norm()) <= bound * float(expected.norm())


VALUES = {
    "rows": (torch.randn(50, 7), 1),
    "columns": (torch.randn(7, 50).mT, 1),
    "image": (torch.randn(3, 7, 4, 5), 1),
    "channels last": (torch.randn(3, 7, 4, 5).to(memory_format=torch.channels_last), 1),
    "large image": (torch.randn(2, 3, 40, 41), 1),
    "tokens": (torch.randn(4, 9, 7), -1),
    "cut": (torch.randn(6, 7, 8, 9)[::2, 1:6, ::3, 2:], 1),
    "axis first": (torch.randn(7, 5, 6), 0),
    "many rows": (torch.randn(2 * BLOCK + 3, 5), 1),
    "many columns": (torch.randn(30, 300), 1),
    "one": (torch.randn(1, 1), 0),
    "every second": (torch.randn(40, 80)[:, ::2], 1),
    "nothing side by side": (torch.randn(4, 9, 12, 70)[:, :, ::2, 1::3], 3),
    "negative": (torch.randn(6, 4, dtype=torch.cdouble).conj().imag, 1),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("kind", [torch.float32, DOUBLE, torch.bfloat16, torch.float16], ids=str)
def test_any_layout_and_type(name: str, kind: torch.dtype) -> None:
    value, axis = VALUES[name]
    value = value.to(kind)
    found = gram(value, axis=axis)
    assert found.rows == value.numel() // value.shape[axis]
    assert close(found.matrix, plain(value, axis))
    assert torch.equal(found.matrix, found.matrix.mT)
    single = gram(value, "float32", axis)
    bound = float(torch.linalg.matrix_norm(single.matrix - plain(value.float(), axis), 2))
    assert bound <= single.error


@pytest.mark.parametrize("name", ["rows", "columns", "image", "channels last", "tokens"])
def test_rows_are_read_where_they_are(name: str) -> None:
    value, axis = VALUES[name]
    assert by_rows(value, axis).data_ptr() == value.data_ptr()


def test_parts_of_a_stream_add_up() -> None:
    image = torch.randn(9, 6, 4, 4)
    for precision in ("float32", "float64"):
        total = GramSum(precision)
        for part in image.split(2):
            total.add(part, 1)
        found = total.gram
        assert found.rows == 144
        assert float(torch.linalg.matrix_norm(found.matrix - plain(image, 1), 2)) <= found.error


def test_bad_streams() -> None:
    with pytest.raises(ValueError, match="products in bfloat16, not in one of float32, float64"):
        GramSum("bfloat16")
    total = GramSum()
    with pytest.raises(ValueError, match="no rows were added"):
        _ = total.gram
    total.add(torch.ones(3, 2))
    with pytest.raises(ValueError, match="3 columns after 2"):
        total.add(torch.ones(3, 3))
    with pytest.raises(ValueError, match="not finite"):
        total.add(torch.full((3, 2), torch.nan))
    assert torch.equal(total.gram.matrix, torch.ones(2, 2, dtype=DOUBLE))
    with pytest.raises(ValueError, match="from a tensor, not from ndarray"):
        total.add(np.ones((3, 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="axis 5 of an activation of 2 axes"):
        total.add(torch.ones(3, 2), 5)
    with pytest.raises(ValueError, match="the mean of 0 rows"):
        total.over(0)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_rows_that_are_refused_are_not_taken(precision: str) -> None:
    total, part = GramSum(precision), torch.full((2, 2), 6e153, dtype=DOUBLE)
    total.add(part)
    before = total.gram
    for _ in range(2):
        with pytest.raises(ValueError, match="too large to be squared"):
            total.add(part)
    assert total.rows == 2
    assert torch.equal(total.gram.matrix, before.matrix)


@pytest.mark.filterwarnings(LEAVES)
@pytest.mark.parametrize("single", [False, True])
def test_the_op_keeps_torchs_rules(single: bool) -> None:
    x = torch.randn(2, 5, 3, dtype=DOUBLE, requires_grad=True)
    torch.library.opcheck(gram_sum, (x, single))
    if not single:
        assert torch.autograd.gradcheck(lambda x: gram_sum(x, False), x)
    compiled = torch.compile(lambda x: gram_sum(x, single), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), gram_sum(x, single))
    torch._dynamo.reset()


class Products(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = gram_sum(x, False)
        return made


@pytest.mark.filterwarnings(TREES)
def test_the_op_can_be_exported_and_decomposed() -> None:
    x = torch.randn(2, 5, 3)
    program = torch.export.export(Products(), (x,), strict=True)
    table = {**torch.export.default_decompositions(), **DECOMPOSITIONS}
    module = program.run_decompositions(table).module()
    assert "netir" not in str(module.graph)
    assert close(module(x), gram_sum(x, False))


@given(
    most=st.integers(1, 12), sizes=st.lists(st.integers(1, 15), min_size=1, max_size=12),
    kind=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_window_holds_the_newest_rows(
    most: int, sizes: list[int], kind: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    window, every = GramWindow(most), torch.empty(0, 4, dtype=kind)
    for size in sizes:
        rows = torch.randn(size, 4, generator=generator).to(kind)
        every = torch.cat([every, rows])
        window.add(rows)
        kept = every[-most:]
        assert len(window) == len(kept)
        assert sorted(window.rows.tolist()) == sorted(kept.tolist())
        found = window.gram
        off = float(torch.linalg.matrix_norm(found.matrix - plain(kept), 2))
        assert off <= found.error + 1e-15 * float(plain(kept).norm())
        assert window.count(0.3).count == effective_rank(kept, 0.3).count


def test_a_window_takes_images() -> None:
    window, images = GramWindow(40), torch.randn(5, 3, 4, 4)
    for image in images.split(1):
        window.add(image, 1)
    assert close(window.gram.matrix, plain(images.movedim(1, -1).reshape(-1, 3)[-40:]))


def test_a_window_forgets_what_was_large() -> None:
    window = GramWindow(8)
    window.add(1e8 * torch.randn(8, 3))
    small = 1e-4 * torch.randn(8, 3)
    window.add(small)
    assert close(window.gram.matrix, plain(small))
    assert window.rebuilt == 1


def test_a_window_is_summed_anew_only_where_rounding_could_decide() -> None:
    window, stream = GramWindow(64), torch.randn(4000, 6)
    for rows in stream.split(8):
        window.add(rows)
        assert window.count(0.5).level == "float64"
    assert window.rebuilt == 0
    kept = window.rows.double()
    values = torch.linalg.svdvals(kept) / 8
    fresh = gram(window.rows).error / float(2 * values[3])
    assert window.count(float(values[3]) - 20 * fresh).count == 4
    assert window.rebuilt == 1
    assert window.count(float(values[3])).level == "svd"


@pytest.mark.parametrize("most", range(1, 6))
def test_a_window_takes_its_own_rows(most: int) -> None:
    for before in range(1, 8):
        window = GramWindow(most)
        for i in range(before):
            window.add(torch.tensor([[i + 1.0, 0.5]]))
        kept = window.rows.clone()
        window.add(window.rows)
        assert sorted(window.rows.tolist()) == sorted(torch.cat([kept, kept])[-most:].tolist())
        assert close(window.gram.matrix, plain(window.rows))


def test_a_window_goes_in_and_out_of_inference_mode() -> None:
    window, every = GramWindow(10), torch.randn(30, 3)
    for i, rows in enumerate(every.split(3)):
        with torch.inference_mode(i % 2 == 0):
            window.add(rows)
            values = torch.linalg.svdvals(window.rows.double())
            window.count(float(values[1]) / len(window) ** 0.5)
    assert window.rebuilt
    assert close(window.gram.matrix, plain(every[-10:]))


def test_a_window_refuses_a_sum_that_is_too_large() -> None:
    window, large = GramWindow(3), torch.full((1, 2), 8e153, dtype=DOUBLE)
    window.add(large)
    with pytest.raises(ValueError, match="too large"):
        window.add(large.expand(2, 2))
    assert torch.equal(window.rows, large)
    assert close(window.gram.matrix, plain(large))


def test_what_a_window_refuses() -> None:
    with pytest.raises(ValueError, match="a window of 0 rows"):
        GramWindow(0)
    with pytest.raises(ValueError, match=r"a window of 2\.5 rows"):
        GramWindow(2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a window of inf rows"):
        GramWindow(float("inf"))  # type: ignore[arg-type]
    window = GramWindow(4.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no rows were added"):
        _ = window.gram
    window.add(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"dtype torch.bfloat16 in a window of torch.float32"):
        window.add(torch.ones(2, 3, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="4 columns in a window of 3"):
        window.add(torch.ones(2, 4))
    with pytest.raises(ValueError, match="not finite"):
        window.add(torch.full((2, 3), torch.inf))
    assert torch.equal(window.gram.matrix, torch.ones(3, 3, dtype=DOUBLE))
    for epsilon in (-0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a threshold of"):
            window.count(epsilon)
        with pytest.raises(ValueError, match="a threshold of"):
            count_above(window.gram, epsilon)


def rebuilt(matrix: Tensor, count: int) -> list[int]:
    """The greedy choice with all scores worked out again after each."""
    norms = matrix.diagonal().sqrt()
    picked = [i for i in range(len(matrix)) if norms[i] == 0][:count]
    while len(picked) < count:
        left = [i for i in range(len(matrix)) if i not in picked]
        cosines = matrix[left][:, left] / norms[left] / norms[left, None]
        scores = cosines.square().sum(0)
        picked.append(left[int((scores >= scores.max() - 1e-12).byte().argmax())])
    return picked


@pytest.mark.parametrize("size", [1, 2, 9, 40])
def test_greedy_picks_are_those_of_a_rebuild(size: int) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        rows = torch.randn(3 * size, size, dtype=DOUBLE) + torch.randn(3 * size, 1)
        rows[:, seed % size] = 0
        matrix = rows.mT @ rows
        for count in (0, size // 2, size):
            assert most_alike(matrix, count).tolist() == rebuilt(matrix, count)


@pytest.mark.parametrize(
    ("matrix", "count", "message"),
    [
        (torch.eye(3), 4, "cannot remove 4 of 3"),
        (torch.eye(3), -1, "cannot remove -1 of 3"),
        (torch.eye(3), 2.5, r"cannot remove 2\.5 of 3"),
        (torch.tensor(1.0), 0, r"a finite square matrix is needed, not \(\)"),
        (torch.ones(2, 3), 1, r"a finite square matrix is needed, not \(2, 3\)"),
        (torch.full((2, 2), torch.nan), 1, "a finite square matrix"),
        (torch.eye(2) * 1j, 1, "a matrix of real numbers is needed, not of torch.complex64"),
    ],
)
def test_what_greedy_refuses(matrix: Tensor, count: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        most_alike(matrix, count)  # type: ignore[arg-type]
