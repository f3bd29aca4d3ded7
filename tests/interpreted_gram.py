"""The Triton Gram kernel in Triton's interpreter: run in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netir.kernels.gram import FLUSH
from netir.kernels.gram_triton import spans
from tests.gram_checks import Case, check

KINDS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """Torch fills what it does not initialise with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_interpreter_is_on() -> None:
    assert os.environ["TRITON_INTERPRET"] == "1"


@given(
    samples=st.integers(1, 4), rows=st.integers(1, 40), columns=st.integers(1, 80),
    kind=st.sampled_from(KINDS), layout=st.sampled_from(["rows", "image", "cut"]),
    seed=st.integers(0, 2**31),
)  # fmt: skip
@settings(max_examples=20)
def test_any_shape_layout_and_type(
    samples: int, rows: int, columns: int, kind: torch.dtype, layout: str, seed: int
) -> None:
    torch.manual_seed(seed)
    check(Case(samples, rows, columns, kind, layout), "cpu")


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_several_tiles_and_spans(kind: torch.dtype) -> None:
    layout = "rows" if kind.itemsize > 2 else "image"
    check(Case(2, 260, 66, kind, layout), "cpu")


def test_spans_cover_all_rows() -> None:
    for rows in (1, 512, 513, 10_000, 1_000_000):
        for tiles in (1, 36, 600, 2080):
            span, count = spans(rows, tiles)
            assert span % FLUSH == 0
            assert (count - 1) * span < rows <= count * span
