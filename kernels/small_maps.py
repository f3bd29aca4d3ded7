"""Convolution of maps smaller than their kernel, on a processor: one product for every tap.

Most of what a kernel reads on such a map is padding, and libraries' convolutions are made for maps
that are larger. Here every tap meets the pixels that it reads in one product, and no padding. Of
few pixels that is a product of matrices, which read the filter where it lies, in the channels-last
strides that `expand` leaves; of more it is a convolution by a kernel of one pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from netir.kernels.expand import batched

_WORK = 2**21
"""Multiplications of one pixel through one tap, in a batch, from which products pay."""
_READ = 0.5
"""They do if no more than this of what all taps read is pixels, and the rest padding."""
_FEW = 4
"""As many pixels of a map are few."""

Part = tuple[slice, slice, slice, slice]


def suits(x: Tensor, weight: Tensor, stride: int, padding: int) -> bool:
    """Whether this is the faster way: there is much padding, and much to do."""
    if x.dim() != 4 or stride != 1 or x.dtype != weight.dtype:
        return False
    if weight.dtype not in (torch.float32, torch.float64):
        return False
    kernel = weight.shape[-1]
    small = all(kernel - 2 * padding <= pixels < kernel for pixels in x.shape[2:])
    if not small or len(x) * weight.shape[0] * weight.shape[1] < _WORK:
        return False
    height, width = (pixels + 2 * padding - kernel + 1 for pixels in x.shape[2:])
    return _read(*x.shape[2:], kernel, padding) <= _READ * kernel**2 * height * width


def conv2d(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """`torch.nn.functional.conv2d`, stride 1, square kernel; the memory format is that of `x`."""
    made: Tensor = _Conv.apply(x, weight, padding)  # type: ignore[no-untyped-call]
    return made


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.padding = padding
        ctx.save_for_backward(x, weight)
        more = 2 * padding - weight.shape[-1] + 1
        made = _zeros(x, len(x), len(weight), x.shape[2] + more, x.shape[3] + more)
        maps = x.contiguous(memory_format=torch.channels_last)
        for tap, read, write in _taps(x.shape[2], x.shape[3], weight.shape[-1], padding):
            made[write] += _product(maps[read], weight[tap])
        return made.contiguous(memory_format=_format(x))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled() or batched(gradient):  # more is wanted than that
            return *_library(gradient, x, weight, ctx.padding, wanted), None
        of_x = _zeros(x, *x.shape) if wanted[0] else None
        of_weight = _zeros(weight, *weight.shape) if wanted[1] else None
        maps, slopes = (t.contiguous(memory_format=torch.channels_last) for t in (x, gradient))
        for tap, read, write in _taps(x.shape[2], x.shape[3], weight.shape[-1], ctx.padding):
            part, slope = _slopes(slopes[write], maps[read], weight[tap], wanted)
            if of_x is not None:
                of_x[read] += part
            if of_weight is not None:
                of_weight[tap] = slope
        return None if of_x is None else of_x.contiguous(memory_format=_format(x)), of_weight, None


def _product(maps: Tensor, kernel: Tensor) -> Tensor:
    """Maps convolved by a kernel of one pixel."""
    if maps.shape[2] * maps.shape[3] > _FEW:
        return F.conv2d(maps, kernel)
    return _maps(_lines(maps) @ kernel[:, :, 0, 0].t(), maps)


def _slopes(
    slopes: Tensor, maps: Tensor, kernel: Tensor, wanted: Sequence[bool]
) -> tuple[Any, Any]:
    """The gradients of `_product` with respect to maps and kernel, as far as they are wanted."""
    if maps.shape[2] * maps.shape[3] > _FEW:
        return _library(slopes, maps, kernel, 0, wanted)
    lines = _lines(slopes)
    part = _maps(lines @ kernel[:, :, 0, 0], maps) if wanted[0] else None
    return part, (lines.t() @ _lines(maps))[:, :, None, None] if wanted[1] else None


def _library(
    gradient: Tensor, x: Tensor, weight: Tensor, padding: int, wanted: Sequence[bool]
) -> tuple[Any, Any]:
    """The gradients of torch's own convolution."""
    found = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1,
        [*wanted, False],
    )  # fmt: skip
    return found[0], found[1]


def _lines(maps: Tensor) -> Tensor:
    """The channels of every pixel: [map · row · column, channel]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _maps(lines: Tensor, like: Tensor) -> Tensor:
    """Lines of channels as maps again, of as many pixels as others."""
    return lines.view(len(like), *like.shape[2:], lines.shape[1]).permute(0, 3, 1, 2)


def _zeros(like: Tensor, *shape: int) -> Tensor:
    made = torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )
    return made.zero_()


def _format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


@lru_cache(maxsize=256)
def _taps(height: int, width: int, kernel: int, padding: int) -> list[tuple[Part, Part, Part]]:
    """Every tap that reads pixels, with those that it reads and those of the result it adds to."""
    rows, columns = _along(height, kernel, padding), _along(width, kernel, padding)
    every = slice(None), slice(None)
    return [
        ((*every, *tap), (*every, *read), (*every, *write))
        for row in rows
        for column in columns
        for tap, read, write in [zip(row, column, strict=True)]
    ]


def _along(pixels: int, kernel: int, padding: int) -> list[tuple[slice, slice, slice]]:
    """The same for one axis."""
    made = pixels + 2 * padding - kernel + 1
    found = []
    for place in range(kernel):
        first, last = max(0, padding - place), min(made, pixels + padding - place)
        if first < last:
            read = slice(first + place - padding, last + place - padding)
            found.append((slice(place, place + 1), read, slice(first, last)))
    return found


@lru_cache(maxsize=256)
def _read(height: int, width: int, kernel: int, padding: int) -> int:
    """How many pixels of a map all taps read."""
    areas = [(rows.stop - rows.start) * (columns.stop - columns.start)
             for _, (_, _, rows, columns), _ in _taps(height, width, kernel, padding)]  # fmt: skip
    return sum(areas)


__all__ = ["conv2d", "suits"]
