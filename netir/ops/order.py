"""Ops that work along one axis, which cannot change: running sums, sorting, places of extremes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect, product

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape

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

    def spread(self, g: Tape, x: OnnxValue, kind: str, neutral: float) -> OnnxValue:
        """By a reduction that ONNX has: row i of a square holds x up to i, then what is neutral.

        Its memory grows with the square of the axis.
        """
        if not x.rank:
            return x
        places = g.arange(0, x.shape[self.dim])
        column = g.unsqueeze(places, range(1, x.rank - self.dim + 1))
        row = g.unsqueeze(places, range(1, x.rank - self.dim))
        held = g.op("LessOrEqual", [row, column])
        square = g.where(held, g.unsqueeze(x, [self.dim]), g.number(neutral, x))
        return g.reduce(kind, square, [self.dim + 1])

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

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        if not x.rank:
            return x
        x = g.computable(g.cast(x, g.types[0].dtype))
        return g.op("CumSum", [x, g.constant(self.dim)])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Cumprod(_Running):
    """Running products."""

    name = "cumprod"
    aten = ("cumprod.default",)

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.cumprod(x, self.dim, dtype=self.dtype)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        return self.spread(g, g.computable(g.cast(x, g.types[0].dtype)), "ReduceProd", 1)


@dataclass(frozen=True)
class Logcumsumexp(_Running):
    """Logarithms of running sums of exponentials."""

    name = "logcumsumexp"
    aten = ("logcumsumexp.default",)

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.logcumsumexp(x, self.dim)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        return self.spread(g, x, "ReduceLogSumExp", float("-inf"))


def _ordered(
    g: Tape, x: OnnxValue, dim: int, count: Dim | None, largest: bool
) -> tuple[OnnxValue, ...]:
    """The first values in order (all without a count), and where each was; ties keep theirs."""
    if not x.rank:
        return x, g.constant(0)
    attributes = {"axis": dim, "largest": largest, "sorted": 1}
    x, sizes = g.computable(x), (x.shape[dim] if count is None else count,)
    return g.op("TopK", [x, sizes], attributes, outputs=2, dtype=(x.dtype, torch.int64))  # type: ignore[no-any-return]


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

    def to_onnx(self, g: Tape, x: OnnxValue) -> tuple[OnnxValue, ...]:
        return _ordered(g, x, self.dim, None, self.descending)

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

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        return _ordered(g, x, self.dim, None, self.descending)[1]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.axis(default=-1), **call.options)


@dataclass(frozen=True)
class TopK(Op):
    """The `k` largest (or smallest) values along `dim`, and where they are."""

    name = "topk"
    ties = True
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

    def to_onnx(self, g: Tape, x: OnnxValue) -> tuple[OnnxValue, ...]:
        return _ordered(g, x, self.dim, self.k, self.largest)

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

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        if self.dim is not None or not x.rank:
            return _placed(g, x, self.onnx, self.dim or 0, self.keepdim)
        found = _placed(g, g.reshape(x, (product(x.shape),)), self.onnx, 0, self.keepdim)
        return g.reshape(found, g.types[0].shape)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        dim = call.axis() if "dim" in call.options else None
        return cls(dim, **call.options)


def _placed(g: Tape, x: OnnxValue, kind: str, dim: int, keepdim: bool) -> OnnxValue:
    """Where the first extreme value is, by an operator of ONNX."""
    if not x.rank:
        return g.constant(0)
    return g.op(kind, [g.computable(x)], {"axis": dim, "keepdims": keepdim})  # type: ignore[no-any-return]


def _without(shape: tuple[Dim, ...], dim: int | None, keepdim: bool) -> tuple[Dim, ...]:
    if dim is None:
        return (1,) * len(shape) if keepdim else ()
    return (*shape[:dim], *((1,) if keepdim and shape else ()), *shape[dim + 1 :])


@dataclass(frozen=True)
class Argmax(_Place):
    """Where along `dim` the largest value is; over all axes in order if it is None."""

    name = "argmax"
    aten = ("argmax.default",)
    onnx = "ArgMax"
    function = torch.argmax


@dataclass(frozen=True)
class Argmin(_Place):
    """Where along `dim` the smallest value is; over all axes in order if it is None."""

    name = "argmin"
    aten = ("argmin.default",)
    onnx = "ArgMin"
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

    def extreme(self, g: Tape, x: OnnxValue, kind: str) -> tuple[OnnxValue, ...]:
        """The largest or smallest value (`kind` is "Max" or "Min"), and where it first is."""
        values = g.reduce("Reduce" + kind, g.computable(x), [self.dim], keepdims=self.keepdim)
        return values, _placed(g, x, "Arg" + kind, self.dim, self.keepdim)

    def smallest(self, g: Tape, x: OnnxValue, count: Dim) -> tuple[OnnxValue, ...]:
        """The last of the `count` smallest values, and where it is."""
        last = (-1,) if self.keepdim else g.constant(-1)
        found = _ordered(g, x, self.dim, count, largest=False)
        return tuple(g.gather(value, last, self.dim) for value in found)


@dataclass(frozen=True)
class MaxAt(_Found):
    """The largest value along `dim`, and where it is."""

    name = "max_at"
    aten = ("max.dim",)

    def to_torch(self, x: Tensor) -> Any:
        return torch.max(x, self.dim, self.keepdim)

    def to_onnx(self, g: Tape, x: OnnxValue) -> tuple[OnnxValue, ...]:
        return self.extreme(g, x, "Max")


@dataclass(frozen=True)
class MinAt(_Found):
    """The smallest value along `dim`, and where it is."""

    name = "min_at"
    aten = ("min.dim",)

    def to_torch(self, x: Tensor) -> Any:
        return torch.min(x, self.dim, self.keepdim)

    def to_onnx(self, g: Tape, x: OnnxValue) -> tuple[OnnxValue, ...]:
        return self.extreme(g, x, "Min")


@dataclass(frozen=True)
class MedianAt(_Found):
    """The middle value along `dim`, the lower of two, and where it is."""

    name = "median_at"
    ties = True
    aten = ("median.dim",)

    def to_torch(self, x: Tensor) -> Any:
        return torch.median(x, self.dim, self.keepdim)

    def to_onnx(self, g: Tape, x: OnnxValue) -> tuple[OnnxValue, ...]:
        return self.smallest(g, x, (x.shape[self.dim] + 1) // 2)


@dataclass(frozen=True)
class KthValue(_Found):
    """The `k`-th smallest value along `dim`, and where it is."""

    name = "kthvalue"
    ties = True
    aten = ("kthvalue.default",)
    k: int = 1

    def to_torch(self, x: Tensor) -> Any:
        return torch.kthvalue(x, self.k, self.dim, self.keepdim)

    def to_onnx(self, g: Tape, x: OnnxValue) -> tuple[OnnxValue, ...]:
        return self.smallest(g, x, self.k)
