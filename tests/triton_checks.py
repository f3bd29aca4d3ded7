"""The Triton kernels against plain torch in float64, on poisoned outputs with watched borders.

The same checks run in Triton's interpreter, which neither notices stores out of bounds nor rounds
as a GPU does, and on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from netir.kernels import expand_triton as kernels
from netir.kernels.expand import expand_mix_backward, plain
from netir.kernels.plan import Plan

BORDER, CANARY = 64, -12345.0
# The largest error of a result, over its norm: one rounding, to nearest or (interpreted) to zero.
EXACT = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2e-3, torch.float16: 3e-4}
TRUNCATED = EXACT | {torch.bfloat16: 8e-3, torch.float16: 1e-3}


@dataclass(frozen=True)
class Case:
    """One layer and the numbers it is tried with."""

    plan: Plan
    fields_out: int
    fields_in: int
    own: torch.dtype = torch.float32
    filter: torch.dtype = torch.float32
    strided: bool = False

    def parameters(self, device: str) -> list[Tensor]:
        shapes = [self.plan.shape(n, self.fields_out, self.fields_in) for n in self.plan.groups]
        return [self.made(shape, self.own, device) for shape in shapes]

    def made(self, shape: Sequence[int], dtype: torch.dtype, device: str) -> Tensor:
        """Random numbers; where `strided`, not in the order of memory."""
        if self.strided:
            backwards = torch.randn(*shape[::-1], device=device).to(dtype)
            return backwards.permute(*range(len(shape))[::-1])
        return torch.randn(*shape, device=device).to(dtype)

    def coefficients(self, device: str) -> Tensor:
        return torch.randn(len(self.plan.groups), device=device).to(self.own)

    def dense(self) -> tuple[int, int, int, int]:
        plan = self.plan
        return plan.elements * self.fields_out, plan.kernel, plan.kernel, \
            plan.elements_in * self.fields_in  # fmt: skip


class Guarded:
    """A tensor of NaN inside a larger buffer whose borders must not change."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: str) -> None:
        size = prod(shape)
        self.buffer = torch.full((size + 2 * BORDER,), CANARY, dtype=dtype, device=device)
        self.tensor = self.buffer[BORDER : BORDER + size].view(*shape)
        self.tensor.fill_(torch.nan)

    def taken(self) -> Tensor:
        """The result, once it is complete and its borders are whole."""
        border = torch.tensor(CANARY, dtype=self.buffer.dtype, device=self.buffer.device)
        assert (self.buffer[:BORDER] == border).all(), "written before the beginning"
        assert (self.buffer[-BORDER:] == border).all(), "written past the end"
        assert self.tensor.isfinite().all(), "a part was never written"
        return self.tensor


def error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double().flatten(), expected.double().flatten()
    return float((found - expected).norm() / expected.norm())


def reference(
    case: Case, parameters: Sequence[Tensor], mix: Tensor, slope: Tensor
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Filter, gradients of parameters, gradient of coefficients; on a processor, in float64."""
    tables, own = case.plan.tables(), [p.detach().cpu().double() for p in parameters]
    mix, slope = mix.detach().cpu().double(), slope.cpu().double()
    dense = plain(own, mix, *tables, case.plan.into, torch.float64)
    *found, products = expand_mix_backward(own, mix, slope, *tables, case.plan.into, True)
    return dense, found, products


def check_layer(case: Case, device: str, bounds: dict[torch.dtype, float]) -> None:
    """One layer: its filter, all gradients, and the coefficients' gradient alone."""
    parameters, mix = case.parameters(device), case.coefficients(device)
    slope = case.made(case.dense(), case.filter, device)
    dense, grads, products = reference(case, parameters, mix, slope)
    tables = case.plan.tables(device)
    out = Guarded(case.dense(), case.filter, device)
    kernels.expand(parameters, mix, *tables, case.filter, out=out.tensor)
    assert error(out.taken().cpu(), dense) <= bounds[case.filter]
    found = [Guarded(p.shape, case.own, device) for p in parameters]
    _, sums = kernels.backward(
        parameters, mix, slope, *tables, True, found=[f.tensor for f in found]
    )
    for f, expected in zip(found, grads, strict=True):
        assert error(f.taken().cpu(), expected) <= bounds[case.own]
    assert error(sums.cpu(), products) <= 4 * bounds[case.own]
    none, alone = kernels.backward(parameters, mix, slope, *tables, False)
    assert none == []
    assert torch.equal(alone, sums)


def check_bank(cases: Sequence[Case], device: str, bounds: dict[torch.dtype, float]) -> None:
    """Layers of one type of parameters and of filters, together."""
    own, made = cases[0].own, cases[0].filter
    several = [case.parameters(device) for case in cases]
    mixes = [case.coefficients(device) for case in cases]
    slopes = [case.made(case.dense(), made, device) for case in cases]
    tables = [case.plan.tables(device) for case in cases]
    flat, counts = [p for some in several for p in some], [len(some) for some in several]
    none = torch.empty(0, device=device)
    weights = [none if t.weights is None else t.weights for t in tables]
    gathers, mix = [t.table for t in tables], torch.cat(mixes)
    sizes = [prod(case.dense()) for case in cases]
    out = Guarded((sum(sizes),), made, device)
    kernels.expand_bank(flat, mix, gathers, weights, counts, made, out=out.tensor)
    found = Guarded((sum(p.numel() for p in flat),), own, device)
    slope = torch.cat([s.reshape(-1) for s in slopes])
    _, sums = kernels.expand_bank_backward(
        flat, mix, slope, gathers, weights, counts, True, found=found.tensor
    )
    expected = [reference(*args) for args in zip(cases, several, mixes, slopes, strict=True)]
    for part, (dense, _, _) in zip(out.taken().cpu().split(sizes), expected, strict=True):
        assert error(part, dense) <= bounds[made]
    grads = [grad for _, some, _ in expected for grad in some]
    for part, grad in zip(found.taken().cpu().split([p.numel() for p in flat]), grads, strict=True):
        assert error(part, grad) <= bounds[own]
    assert error(sums.cpu(), torch.cat([p for _, _, p in expected])) <= 4 * bounds[own]
    _, alone = kernels.expand_bank_backward(flat, mix, slope, gathers, weights, counts, False)
    assert torch.equal(alone, sums)
