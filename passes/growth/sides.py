"""What linear layers and convolutions of one group do to small units, and the gradients of that.

A unit is a row of weights for what makes it and a column for what reads it; all functions take
many of them at once. What a maker gives has its units where the maker's channels are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import grad

from netir.ops.base import per_axis
from netir.passes.compensation.consumers import Consumer, Windows
from netir.passes.growth.hidden import Hidden

_Slope = Callable[..., Tensor]
_BY_WEIGHT: Mapping[int, _Slope] = MappingProxyType(
    {1: grad.conv1d_weight, 2: grad.conv2d_weight, 3: grad.conv3d_weight}
)
_BY_INPUT: Mapping[int, _Slope] = MappingProxyType(
    {1: grad.conv1d_input, 2: grad.conv2d_input, 3: grad.conv3d_input}
)


def made_by(maker: Consumer, x: Tensor, rows: Tensor) -> Tensor:
    """What units show that are made by these rows: units x inputs x kernel."""
    if not maker.spatial:
        return x @ rows.flatten(1).mT
    found: Tensor = maker.node.op.to_torch(x, rows)
    return found


def laid(layer: Hidden, maker: Consumer, x: Tensor) -> Tensor:
    """The same for a unit for every weight of a row, 1 there and 0 elsewhere."""
    windows = Windows(maker, x, _kernel(layer, maker))
    read = windows.every()[:, 0]
    if not maker.spatial:
        return read.reshape(*x.shape[:-1], -1)
    return read.reshape(*windows.sizes, -1).movedim(-1, 1)


def slope_of_columns(
    layer: Hidden, reader: Consumer, maker: Consumer, shown: Tensor, slope: Tensor
) -> Tensor:
    """The gradient by the columns of units that show these values: units x weights."""
    if not reader.spatial:
        back = slope.reshape(-1, slope.shape[-1])
        units = shown.movedim(maker.axis, -1)
        rows = units.reshape(len(back), -1, units.shape[-1])
        return torch.einsum("no,nsj->jso", back, rows).flatten(1)
    kernel = _kernel(layer, reader)
    shape = (slope.shape[1], shown.shape[1], *kernel)
    found = _BY_WEIGHT[len(kernel)](shown, shape, slope, *_settings(reader, kernel))
    return found.movedim(1, 0).flatten(1)


def shape_made(layer: Hidden, maker: Consumer, x: Tensor, count: int) -> torch.Size:
    """The shape of what so many units show right behind their maker."""
    rows = x.new_empty(count, x.shape[maker.axis], *_kernel(layer, maker), device="meta")
    return made_by(maker, x.to("meta"), rows).shape


def slope_shown(
    reader: Consumer, axis: int, shape: torch.Size, columns: Tensor, slope: Tensor
) -> Tensor:
    """The gradient by what units show, of this shape and along this axis, that are read so.

    Columns are units x entries of one x results x kernel.
    """
    if not reader.spatial:
        back = torch.einsum("no,jso->nsj", slope.reshape(-1, slope.shape[-1]), columns)
        last = torch.empty(shape, device="meta").movedim(axis, -1).shape
        return back.reshape(last).movedim(-1, axis)
    weight = columns[:, 0].movedim(0, 1)
    kernel = tuple(weight.shape[2:])
    return _BY_INPUT[len(kernel)](shape, weight, slope, *_settings(reader, kernel))


def slope_of_rows(layer: Hidden, maker: Consumer, x: Tensor, shown: Tensor) -> Tensor:
    """The gradient by the rows of units, given that by what they show: units x weights."""
    if not maker.spatial:
        return shown.reshape(-1, shown.shape[-1]).mT @ x.reshape(-1, x.shape[-1])
    kernel = _kernel(layer, maker)
    shape = (shown.shape[1], x.shape[1], *kernel)
    return _BY_WEIGHT[len(kernel)](x, shape, shown, *_settings(maker, kernel)).flatten(1)


def even(layer: Hidden, part: Consumer) -> bool:
    """Whether a product has the same padding at both ends of each axis."""
    op: Any = part.node.op
    return getattr(op, "padding", None) != "same" or all(k % 2 for k in _kernel(layer, part))


def _kernel(layer: Hidden, part: Consumer) -> tuple[int, ...]:
    return tuple(layer.graph.params[part.weight].data.shape[2:])


def _settings(part: Consumer, kernel: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Stride, padding and dilation of a convolution."""
    op: Any = part.node.op
    stride, dilation = per_axis(op.stride, op.rank), per_axis(op.dilation, op.rank)
    if op.padding == "same":
        padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    else:
        padding = per_axis((0,) if isinstance(op.padding, str) else op.padding, op.rank)
    return stride, padding, dilation


__all__ = ["even", "laid", "made_by", "shape_made", "slope_of_columns",
           "slope_of_rows", "slope_shown"]  # fmt: skip
