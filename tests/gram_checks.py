"""The Triton Gram kernel against plain torch in float64, in the interpreter and on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from netir.kernels import gram_triton as kernels
from tests.triton_checks import Guarded, error

# Over the norm of the matrix: float64 sums, and float32 ones of up to a block of rows.
WIDE, NARROW = 1e-14, 1e-5


@dataclass(frozen=True)
class Case:
    """Samples x rows x columns in one type, and how they lie in memory."""

    samples: int
    rows: int
    columns: int
    kind: torch.dtype = torch.float32
    layout: str = "rows"

    def made(self, device: str) -> Tensor:
        n, r, c = self.samples, self.rows, self.columns
        if self.layout == "rows":
            x = torch.randn(n, r, c)
        elif self.layout == "image":
            x = torch.randn(n, c, r).mT
        else:
            x = torch.randn(2 * r, n, 3 * c).permute(1, 0, 2)[:, ::2, c : 2 * c]
        return x.to(device=device, dtype=self.kind)


def check(case: Case, device: str) -> None:
    """Both precisions, into a poisoned buffer whose borders are watched."""
    x = case.made(device)
    rows = x.detach().cpu().double().flatten(0, 1)
    expected = rows.mT @ rows
    edge = -(-case.columns // kernels.TILE)
    tiles = edge * (edge + 1) // 2
    _, count = kernels.spans(len(rows), tiles)
    for single in (False, True):
        parts = Guarded((count, tiles, kernels.TILE, kernels.TILE), torch.float64, device)
        found = kernels.gram_sum(x, single, parts.tensor)
        parts.taken()
        bound = NARROW if single and case.kind.itemsize == 2 else WIDE
        assert error(found.cpu(), expected) <= bound
        assert torch.equal(found, found.mT)
        if device == "cuda":
            assert torch.equal(found, kernels.gram_sum(x, single))
