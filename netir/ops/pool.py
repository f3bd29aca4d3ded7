"""Pooling: ops that summarise windows of positions, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, Types, expect, per_axis

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
