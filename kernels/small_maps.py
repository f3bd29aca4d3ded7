"""Convolution of maps smaller than their kernel, on a processor: products of matrices, tap by tap.

Most of what a kernel reads on such a map is padding, and libraries' convolutions are made for maps
that are larger. Here every row of pixels meets every tap in one product, unless it is padding that
the tap reads there. Filters are read as `expand` leaves them: in channels-last strides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

_WORK = 2**21
"""Multiplications of one pixel through one tap, in a batch, from which products pay."""


def suits(x: Tensor, weight: Tensor, stride: int, padding: int) -> bool:
    """Whether this is the faster way: the map is small, and there is much to do on it."""
    if x.device.type != "cpu" or x.dim() != 4 or stride != 1 or x.dtype != weight.dtype:
        return False
    if weight.dtype not in (torch.float32, torch.float64):
        return False
    kernel = weight.shape[-1]
    small = all(kernel - 2 * padding <= pixels < kernel for pixels in x.shape[2:])
    return small and len(x) * weight.shape[0] * weight.shape[1] >= _WORK


def conv2d(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """`torch.nn.functional.conv2d`, stride 1, square kernel; the memory format is that of `x`."""
    made: Tensor = _Conv.apply(x, weight, padding)  # type: ignore[no-untyped-call]
    return made


class _Conv(torch.autograd.Function):
    """Maps and slopes are lines of channels here, and filters a matrix for every tap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.padding = padding
        ctx.save_for_backward(x, weight)
        more = 2 * padding - weight.shape[-1] + 1
        size = x.shape[2] + more, x.shape[3] + more
        source, taps = _lines(x), _taps(weight)
        made = x.new_zeros(size[0] * size[1] * len(x), len(weight))
        for tap, read, write in _steps(x, weight, padding):
            made[write].addmm_(source[read], taps[tap].t())
        return _maps(made, size, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled() or is_legacy_batchedtensor(gradient):  # more is wanted than that
            of_x, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [1, 1], [ctx.padding] * 2, [1, 1], False, [0, 0], 1,
                [*wanted, False],
            )  # fmt: skip
            return of_x, of_weight, None
        slopes = _lines(gradient)
        of_x = _slope_of_maps(slopes, x, weight, ctx.padding) if wanted[0] else None
        of_weight = _slope_of_filter(slopes, x, weight, ctx.padding) if wanted[1] else None
        return of_x, of_weight, None


def _slope_of_maps(slopes: Tensor, x: Tensor, weight: Tensor, padding: int) -> Tensor:
    taps = _taps(weight)
    found = x.new_zeros(x.numel() // x.shape[1], x.shape[1])
    for tap, read, write in _steps(x, weight, padding):
        found[read].addmm_(slopes[write], taps[tap])
    return _maps(found, x.shape[2:], x)


def _slope_of_filter(slopes: Tensor, x: Tensor, weight: Tensor, padding: int) -> Tensor:
    source = _lines(x)
    found = torch.zeros_like(weight, memory_format=torch.channels_last)
    taps = _taps(found)
    for tap, read, write in _steps(x, weight, padding):
        taps[tap].addmm_(slopes[write].t(), source[read])
    return found


def _lines(maps: Tensor) -> Tensor:
    """The channels of every pixel: [row · column · map, channel]."""
    return maps.permute(2, 3, 0, 1).reshape(-1, maps.shape[1])


def _maps(lines: Tensor, size: Sequence[int], like: Tensor) -> Tensor:
    """Lines of channels as maps again, in the memory format of `like`."""
    last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    made = lines.view(*size, len(like), lines.shape[1]).permute(2, 3, 0, 1)
    return made.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _taps(weight: Tensor) -> tuple[Tensor, ...]:
    """A matrix of a filter's numbers for every tap: [out, in]."""
    return weight.permute(0, 2, 3, 1).flatten(1, 2).unbind(1)


def _steps(x: Tensor, weight: Tensor, padding: int) -> Iterator[tuple[int, slice, slice]]:
    """Every tap, with the lines of the input that it reads and those of the result it writes."""
    batch = len(x)
    for tap, read, write, pixels in _rows(x.shape[2], x.shape[3], weight.shape[-1], padding):
        yield (tap, slice(read * batch, (read + pixels) * batch),
               slice(write * batch, (write + pixels) * batch))  # fmt: skip


@lru_cache(maxsize=256)
def _rows(height: int, width: int, kernel: int, padding: int) -> list[tuple[int, int, int, int]]:
    """Every tap, with where a row of pixels starts in the input and the result, and its length."""
    high, wide = (size + 2 * padding - kernel + 1 for size in (height, width))
    found = []
    for down in range(kernel):
        for across in range(kernel):
            first = max(0, padding - across)
            pixels = min(wide, width + padding - across) - first
            for row in range(max(0, padding - down), min(high, height + padding - down)):
                source = (row + down - padding) * width + first + across - padding
                found.append((down * kernel + across, source, row * wide + first, pixels))
    return [row for row in found if row[-1] > 0]
