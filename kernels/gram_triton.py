"""Launching the Triton kernel that sums Gram matrices. Imported only where there is a GPU."""

from __future__ import annotations

import os
from functools import lru_cache

import torch
from torch import Tensor

from netir.kernels import gram_kernels as kernels
from netir.kernels.gram import FLUSH

TILE = 64
PROGRAMS = 528
"""How many programs there should be: four for each multiprocessor of a large GPU."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def gram_sum(x: Tensor, single: bool, parts: Tensor | None = None) -> Tensor:
    """XᵀX in float64 of samples x rows x columns with any strides.

    Of products in float32 only those of 16-bit numbers are faster, so others are float64 anyway.
    For float64, 16-bit numbers are widened in memory: not every Triton can do so in registers.
    """
    wide = not single or x.element_size() != 2
    if wide and x.element_size() == 2:
        x = x.float()
    samples, rows, columns = x.shape
    edge = -(-columns // TILE)
    pairs = _upper(edge, x.device)
    span, count = spans(samples * rows, len(pairs))
    if parts is None:
        parts = x.new_empty(count, len(pairs), TILE, TILE, dtype=torch.float64)
    kernels.gram[(len(pairs), count)](
        x, pairs, parts, samples * rows, rows, columns, *x.stride(), span, TILE=TILE,
        ROWS=16, FLUSH=FLUSH, WIDE=wide, UP=INTERPRETED and not wide, num_warps=4,
    )  # fmt: skip
    return assembled(parts, pairs, columns)


def spans(rows: int, tiles: int) -> tuple[int, int]:
    """How many rows a program takes, and how many programs share a tile."""
    blocks = -(-rows // FLUSH)
    wanted = max(1, min(blocks, PROGRAMS // tiles))
    span = -(-blocks // wanted) * FLUSH
    return span, -(-rows // span)


def assembled(parts: Tensor, pairs: Tensor, columns: int) -> Tensor:
    """The whole matrix from the parts of its upper tiles, added in the order of the spans."""
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    edge = -(-columns // TILE)
    whole = parts.new_zeros(edge, TILE, edge, TILE)
    whole[pairs[:, 0], :, pairs[:, 1]] = total
    upper = whole.view(edge * TILE, edge * TILE)[:columns, :columns]
    return upper.triu() + upper.triu(1).mT


@lru_cache(maxsize=256)
def _upper(edge: int, device: torch.device) -> Tensor:
    """The tiles on and above the diagonal, as pairs."""
    return torch.triu_indices(edge, edge, dtype=torch.int32).mT.contiguous().to(device)


__all__ = ["assembled", "gram_sum", "spans"]
