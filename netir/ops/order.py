"""Ops that work along one axis, which cannot change: running sums, sorting, places of extremes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect

SORTED = "its indices are put in order"
PLACED = "the place of one of its values is given"


@dataclass(frozen=True)
class _Running(Op):
    """For every index along `dim`, a summary of it and all before it."""

    dim: int = 0
    dtype: torch.dtype | None = None

    def layouts(self, site: Any) -> Any:
        return self.along(site, [self.dim] if site.shape(0) else [], "its order matters")

    def infer(self, x: TensorType) -> TensorType:
        plain = x.dtype if x.dtype.is_floating_point or x.dtype.is_complex else torch.int64
        return TensorType(self.dtype or plain, x.shape)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.axis(), **call.options)


@dataclass(frozen=True)
class Cumsum(_Running):
    """Running sums."""

    name = "cumsum"
    aten = ("cumsum.default",)

    def linear(self) -> bool:
        return True

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, self.dim, dtype=self.dtype)


@dataclass(frozen=True)
class Cumprod(_Running):
    """Running products."""

    name = "cumprod"
    aten = ("cumprod.default",)

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.cumprod(x, self.dim, dtype=self.dtype)


@dataclass(frozen=True)
class Logcumsumexp(_Running):
    """Logarithms of running sums of exponentials."""

    name = "logcumsumexp"
    aten = ("logcumsumexp.default",)

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.logcumsumexp(x, self.dim)


@dataclass(frozen=True)
class Sort(Op):
    """The values in order along `dim`, and where each was."""

    name = "sort"
    aten = ("sort.default", "sort.stable")
    dim: int = -1
    descending: bool = False
    stable: bool = False

    def layouts(self, site: Any) -> Any:
        return self.along(site, [self.dim] if site.shape(0) else [], SORTED)

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        return x, TensorType(torch.int64, x.shape)

    def to_torch(self, x: Tensor) -> Any:
        if self.stable:
            return torch.sort(x, stable=True, dim=self.dim, descending=self.descending)
        return torch.sort(x, self.dim, self.descending)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.axis(default=-1), **call.options)


@dataclass(frozen=True)
class Argsort(Op):
    """Where each value was, in the order of the values along `dim`."""

    name = "argsort"
    aten = ("argsort.default", "argsort.stable")
    dim: int = -1
    descending: bool = False
    stable: bool = False

    def layouts(self, site: Any) -> Any:
        return self.along(site, [self.dim] if site.shape(0) else [], SORTED)

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(torch.int64, x.shape)

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.argsort(x, dim=self.dim, descending=self.descending, stable=self.stable)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.axis(default=-1), **call.options)


@dataclass(frozen=True)
class TopK(Op):
    """The `k` largest (or smallest) values along `dim`, and where they are."""

    name = "topk"
    aten = ("topk.default",)
    k: Dim = 1
    dim: int = -1
    largest: bool = True
    sorted: bool = True

    def layouts(self, site: Any) -> Any:
        return self.along(site, [self.dim], SORTED)

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        shape = (*x.shape[: self.dim], self.k, *x.shape[self.dim + 1 :])
        return x.with_shape(shape), TensorType(torch.int64, shape)

    def to_torch(self, x: Tensor) -> Any:
        return torch.topk(x, self.k, self.dim, self.largest, self.sorted)  # type: ignore[arg-type]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        dim = call.axis(default=-1)
        return cls(dim=dim, **call.options) if call.types[0].rank else None


@dataclass(frozen=True)
class _Place(Op):
    """Where along `dim` the extreme value is; over all axes in order if it is None."""

    function: ClassVar[Callable[..., Any]]
    dim: int | None = None
    keepdim: bool = False

    def layouts(self, site: Any) -> Any:
        rank = len(site.shape(0))
        dims = list(range(rank)) if self.dim is None else [self.dim][:rank]
        return self.along(site, dims, PLACED)

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(torch.int64, _without(x.shape, self.dim, self.keepdim))

    def to_torch(self, x: Tensor) -> Tensor:
        return type(self).function(x, self.dim, self.keepdim)  # type: ignore[no-any-return]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        dim = call.axis() if "dim" in call.options else None
        return cls(dim, **call.options)


def _without(shape: tuple[Dim, ...], dim: int | None, keepdim: bool) -> tuple[Dim, ...]:
    if dim is None:
        return (1,) * len(shape) if keepdim else ()
    return (*shape[:dim], *((1,) if keepdim and shape else ()), *shape[dim + 1 :])


@dataclass(frozen=True)
class Argmax(_Place):
    """Where along `dim` the largest value is; over all axes in order if it is None."""

    name = "argmax"
    aten = ("argmax.default",)
    function = torch.argmax


@dataclass(frozen=True)
class Argmin(_Place):
    """Where along `dim` the smallest value is; over all axes in order if it is None."""

    name = "argmin"
    aten = ("argmin.default",)
    function = torch.argmin


@dataclass(frozen=True)
class _Found(Op):
    """One value along `dim`, and where it is."""

    dim: int = 0
    keepdim: bool = False

    def layouts(self, site: Any) -> Any:
        return self.along(site, [self.dim], PLACED)

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        expect(x.rank > 0, "a single number has no axes")
        shape = _without(x.shape, self.dim, self.keepdim)
        return x.with_shape(shape), TensorType(torch.int64, shape)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(dim=call.axis(default=-1), **call.options)


@dataclass(frozen=True)
class MaxAt(_Found):
    """The largest value along `dim`, and where it is."""

    name = "max_at"
    aten = ("max.dim",)

    def to_torch(self, x: Tensor) -> Any:
        return torch.max(x, self.dim, self.keepdim)


@dataclass(frozen=True)
class MinAt(_Found):
    """The smallest value along `dim`, and where it is."""

    name = "min_at"
    aten = ("min.dim",)

    def to_torch(self, x: Tensor) -> Any:
        return torch.min(x, self.dim, self.keepdim)


@dataclass(frozen=True)
class MedianAt(_Found):
    """The middle value along `dim`, the lower of two, and where it is."""

    name = "median_at"
    aten = ("median.dim",)

    def to_torch(self, x: Tensor) -> Any:
        return torch.median(x, self.dim, self.keepdim)


@dataclass(frozen=True)
class KthValue(_Found):
    """The `k`-th smallest value along `dim`, and where it is."""

    name = "kthvalue"
    aten = ("kthvalue.default",)
    k: int = 1

    def to_torch(self, x: Tensor) -> Any:
        return torch.kthvalue(x, self.k, self.dim, self.keepdim)
