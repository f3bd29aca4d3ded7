"""Pooling: ops that summarise windows of positions, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from netir.ops.base import (
    AtenCall,
    Dim,
    NoLowering,
    Op,
    Tensor,
    TensorType,
    Types,
    expect,
    per_axis,
    product,
)

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE_AVG: dict[int, Any] = {
    1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d,
}  # fmt: skip
_ADAPTIVE_MAX: dict[int, Any] = {
    1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d,
}  # fmt: skip


def _rank(call: AtenCall) -> int:
    """The spatial axes of `max_pool2d` and the like."""
    return int(call.base[call.base.index("pool") + 4])


@dataclass(frozen=True)
class _Pool(Op):
    """A window that slides over the last `rank` axes."""

    rank: int = 2
    kernel_size: tuple[int, ...] = (1,)
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = (0,)
    ceil_mode: bool = False

    def layouts(self, site: Any) -> Any:
        rank = len(site.shape(0))
        return self.along(site, range(rank - self.rank, rank), "its positions are pooled")

    def infer(self, x: TensorType) -> Types:
        expect(len(x.shape) > self.rank, f"input has only {len(x.shape)} dimensions")
        lead, size = x.shape[: -self.rank], x.shape[-self.rank :]
        return x.with_shape((*lead, *(self._size(i, s) for i, s in enumerate(size))))

    def _size(self, axis: int, size: Dim, dilation: int = 1) -> Dim:
        kernel, padding = (per_axis(v, self.rank)[axis] for v in (self.kernel_size, self.padding))
        stride = per_axis(self.stride or self.kernel_size, self.rank)[axis]
        span = size + 2 * padding - dilation * (kernel - 1) - 1
        if not self.ceil_mode:
            return span // stride + 1
        made = (span + stride - 1) // stride + 1
        if isinstance(made, int) and isinstance(size, int) and (
            (made - 1) * stride >= size + padding
        ):
            return made - 1
        return made

    def in_onnx(self, g: Tape, x: OnnxValue, kind: str, outputs: int, **attributes: Any) -> Any:
        """Write the operator of ONNX, which wants a batch axis."""
        lead = x.rank - self.rank
        batched = g.reshape(x, ((1,) * (2 - lead) + x.shape)) if lead < 2 else x
        given = {
            "kernel_shape": per_axis(self.kernel_size, self.rank),
            "strides": per_axis(self.stride or self.kernel_size, self.rank),
            "pads": per_axis(self.padding, self.rank) * 2,
            "ceil_mode": self.ceil_mode,
        }
        kinds = [x.dtype, torch.int64][:outputs]
        made = g.op(kind, [batched], {**given, **attributes}, outputs=outputs, dtype=kinds)
        made = made if outputs > 1 else (made,)
        found = [m if batched is x else g.squeeze(m, list(range(2 - lead))) for m in made]
        return tuple(found) if outputs > 1 else found[0]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(rank=_rank(call), **call.options)


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest value under a window."""

    name = "max_pool"
    aten = ("max_pool1d.default", "max_pool2d.default", "max_pool3d.default")
    dilation: tuple[int, ...] = (1,)

    def _size(self, axis: int, size: Dim, dilation: int = 1) -> Dim:
        return super()._size(axis, size, per_axis(self.dilation, self.rank)[axis])

    def to_torch(self, x: Tensor) -> Tensor:
        return _MAX[self.rank](  # type: ignore[no-any-return]
            x, self.kernel_size, self.stride or None, self.padding, self.dilation, self.ceil_mode
        )

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        return self.in_onnx(g, x, "MaxPool", 1, dilations=per_axis(self.dilation, self.rank))


@dataclass(frozen=True)
class MaxPoolAt(MaxPool):
    """The largest value under a window, and where it is among all positions."""

    name = "max_pool_at"
    aten = ("max_pool1d_with_indices.default", "max_pool2d_with_indices.default",
            "max_pool3d_with_indices.default")  # fmt: skip

    def infer(self, x: TensorType) -> Types:
        return _and_places(super().infer(x))

    def to_torch(self, x: Tensor) -> Any:
        return _MAX[self.rank](
            x, self.kernel_size, self.stride or None, self.padding, self.dilation, self.ceil_mode,
            True,
        )  # fmt: skip

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        dilations = per_axis(self.dilation, self.rank)
        found, places = self.in_onnx(g, x, "MaxPool", 2, dilations=dilations)
        return found, g.op("Mod", [places, g.size(product(x.shape[-self.rank :]))])


def _and_places(found: Types) -> Types:
    assert isinstance(found, TensorType)
    return found, TensorType(torch.int64, found.shape)


@dataclass(frozen=True)
class AvgPool(_Pool):
    """The mean under a window."""

    name = "avg_pool"
    aten = ("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default")
    count_include_pad: bool = True
    divisor_override: int | None = None

    def linear(self) -> bool:
        return True

    def to_torch(self, x: Tensor) -> Tensor:
        stride = self.stride or None
        if self.rank == 1:
            return F.avg_pool1d(
                x, self.kernel_size, stride, self.padding, self.ceil_mode, self.count_include_pad  # type: ignore[arg-type]
            )
        return _AVG[self.rank](  # type: ignore[no-any-return]
            x, self.kernel_size, stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override,
        )  # fmt: skip

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        if self.divisor_override is None:
            included = {"count_include_pad": self.count_include_pad}
            return self.in_onnx(g, x, "AveragePool", 1, **included)
        if self.ceil_mode:
            raise NoLowering("ONNX has no 'avg_pool' with its own divisor and ceil_mode")
        found = self.in_onnx(g, x, "AveragePool", 1, count_include_pad=True)
        window = product(per_axis(self.kernel_size, self.rank))
        return g.binary("Mul", found, window / self.divisor_override)  # type: ignore[operator]


@dataclass(frozen=True)
class _AdaptivePool(Op):
    """Windows chosen so that the result has `output_size` positions."""

    output_size: tuple[Dim, ...] = (1, 1)

    @property
    def rank(self) -> int:
        return len(self.output_size)

    def layouts(self, site: Any) -> Any:
        rank = len(site.shape(0))
        return self.along(site, range(rank - self.rank, rank), "its positions are pooled")

    def infer(self, x: TensorType) -> Types:
        return x.with_shape((*x.shape[: -self.rank], *self.output_size))

    def kernel(self, x: OnnxValue) -> tuple[int, ...] | None:
        """The size of the windows, if they are all alike and do not overlap."""
        pairs = list(zip(x.shape[-self.rank :], self.output_size, strict=True))
        if not all(isinstance(a, int) and isinstance(b, int) and a % b == 0 for a, b in pairs):
            return None
        return tuple(a // b for a, b in pairs)  # type: ignore[misc]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(tuple(call.results[0].shape[-_rank(call) :]))


@dataclass(frozen=True)
class AdaptiveAvgPool(_AdaptivePool):
    """The mean of each window, for a result of given size."""

    name = "adaptive_avg_pool"
    aten = ("adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default",
            "adaptive_avg_pool3d.default")  # fmt: skip

    def linear(self) -> bool:
        return True

    def to_torch(self, x: Tensor) -> Tensor:
        return _ADAPTIVE_AVG[self.rank](x, self.output_size)  # type: ignore[no-any-return]

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        kernel = self.kernel(x)
        if kernel:
            return AvgPool(self.rank, kernel, kernel).to_onnx(g, x)
        first = x.rank - self.rank
        if all(size == 1 for size in self.output_size):
            return g.reduce("ReduceMean", x, range(first, x.rank), keepdims=True)
        found = x
        for axis, made in enumerate(self.output_size, first):
            if x.shape[axis] != made:  # a product with the share of each position in each window
                share = g.cast(_windows(g, x.shape[axis], made), x.dtype)
                share = g.op("Div", [share, g.reduce("ReduceSum", share, [0], keepdims=True)])
                order = [i for i in range(x.rank) if i != axis] + [axis]
                means = g.op("MatMul", [g.transpose(found, order), share])
                found = g.transpose(means, [order.index(i) for i in range(x.rank)])
        return found


@dataclass(frozen=True)
class AdaptiveMaxPool(_AdaptivePool):
    """The largest value of each window, for a result of given size, and where it is."""

    name = "adaptive_max_pool"
    aten = ("adaptive_max_pool1d.default", "adaptive_max_pool2d.default",
            "adaptive_max_pool3d.default")  # fmt: skip

    def infer(self, x: TensorType) -> Types:
        return _and_places(super().infer(x))

    def to_torch(self, x: Tensor) -> Any:
        return _ADAPTIVE_MAX[self.rank](x, self.output_size, True)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        kernel = self.kernel(x)
        if kernel:
            return MaxPoolAt(self.rank, kernel, kernel).to_onnx(g, x)
        table = _places(x.shape[-self.rank :], self.output_size)
        if table is None:
            raise NoLowering("ONNX has no 'adaptive_max_pool' of positions that are left open")
        total, width = table.shape
        flat = g.reshape(x, (*x.shape[: -self.rank], product(x.shape[-self.rank :])))
        seen = g.gather(flat, g.constant(table), -1)
        best = g.op("ArgMax", [seen], {"axis": -1, "keepdims": 0})
        place = g.op("Add", [best, g.constant(torch.arange(total) * width)])
        results = g.reduce("ReduceMax", seen, [-1]), g.gather(g.constant(table.flatten()), place, 0)
        return tuple(g.reshape(found, g.types[0].shape) for found in results)


def _windows(g: Tape, size: Dim, made: Dim) -> OnnxValue:
    """Whether each of `size` positions lies in each of `made` windows that cover them all."""

    def write() -> OnnxValue:
        place, number = g.unsqueeze(g.positions(size), [1]), g.positions(made)
        extent, count = g.size(size), g.size(made)
        start = g.op("Div", [g.op("Mul", [number, extent]), count])
        next_one = g.op("Mul", [g.binary("Add", number, 1), extent])
        past = g.op("Div", [g.op("Sub", [g.op("Add", [next_one, count]), g.size(1)]), count])
        inside = [g.op("GreaterOrEqual", [place, start]), g.op("Less", [place, past])]
        return g.op("And", inside)  # type: ignore[no-any-return]

    return g.shared(("windows", size, made), write)


def _places(sizes: tuple[Dim, ...], made: tuple[Dim, ...]) -> Tensor | None:
    """For every window the positions in it, as one number each; the last fills up short ones."""
    found = torch.zeros(1, 1, dtype=torch.int64)
    for size, count in zip(sizes, made, strict=True):
        if not isinstance(size, int) or not isinstance(count, int):
            return None
        number = torch.arange(count)
        start, past = number * size // count, -((number + 1) * size // -count)
        reach = torch.arange(int((past - start).max()))
        place = torch.minimum(start[:, None] + reach, past[:, None] - 1)
        windows = found[:, None, :, None] * size + place[None, :, None, :]
        found = windows.reshape(found.shape[0] * count, -1)
    return found
