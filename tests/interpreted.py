"""The Triton kernels in Triton's interpreter: run in a process of its own (test_kernels_triton.py).

TRITON_INTERPRET has to be set before a kernel is imported, and stays; other tests need it unset.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netir.kernels.groups import SQUARE
from netir.kernels.plan import Plan
from tests.triton_checks import TRUNCATED, Case, Guarded, check_bank, check_layer

TYPES = [
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float64, torch.float64),
]


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """Torch fills what it does not initialise with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_interpreter_is_on() -> None:
    assert os.environ["TRITON_INTERPRET"] == "1"


@st.composite
def cases(draw: st.DrawFn, types: tuple[torch.dtype, torch.dtype] | None = None) -> Case:
    """Any layer, but a wide kernel only where few numbers are read."""
    names = draw(st.lists(st.sampled_from(SQUARE), min_size=1, max_size=4, unique=True))
    lifting = draw(st.booleans())
    if draw(st.integers(0, 4)) == 0:
        names, lifting = [draw(st.sampled_from(["C3", "C8"])), "C1"], True
    kernel = draw(st.sampled_from([1, 2, 3, 5] if lifting else [1, 2, 3]))
    plan = Plan(tuple(names), kernel, lifting)
    own, made = types or draw(st.sampled_from(TYPES))
    out, into = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    return Case(plan, out, into, own, made, draw(st.booleans()))


@given(case=cases(), seed=st.integers(0, 2**31))
@settings(max_examples=25)
def test_layers(case: Case, seed: int) -> None:
    torch.manual_seed(seed)
    check_layer(case, "cpu", TRUNCATED)


@pytest.mark.parametrize("types", TYPES, ids=str)
@given(data=st.data(), seed=st.integers(0, 2**31))
@settings(max_examples=2)
def test_banks(
    types: tuple[torch.dtype, torch.dtype], data: st.DataObject, seed: int
) -> None:
    torch.manual_seed(seed)
    check_bank(data.draw(st.lists(cases(types), min_size=1, max_size=3)), "cpu", TRUNCATED)


def test_a_bank_that_reads_by_128_bits() -> None:
    layers = [Case(Plan(("D4", "C1"), 3, lifting), 2, 4) for lifting in (True, False)]
    check_bank(layers, "cpu", TRUNCATED)


def test_a_layer_that_interpolates() -> None:
    check_layer(Case(Plan(("C8", "C1"), 3), 1, 5), "cpu", TRUNCATED)


def test_the_guards_notice() -> None:
    guarded = Guarded((4,), torch.float32, "cpu")
    with pytest.raises(AssertionError, match="never written"):
        guarded.taken()
    guarded.tensor.fill_(1)
    assert guarded.taken() is guarded.tensor
    guarded.buffer[-3] = 0
    with pytest.raises(AssertionError, match="past the end"):
        guarded.taken()
