"""Reductions over axes: sum, mean, extremes, softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from netir.ops.base import AtenCall, Op, Tensor, TensorType, Types

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


@dataclass(frozen=True)
class Reduce(Op):
    """Summarise the axes `dims`, which disappear unless `keepdim`."""

    kind: ClassVar[str] = "mix"
    """How a channel axis is used, see `Use`; empty if it cannot change."""
    dims: tuple[int, ...] = ()
    keepdim: bool = False

    def use(self) -> str:
        """How a channel axis is used by these attributes."""
        return self.kind

    def layouts(self, site: Any) -> Any:
        shape, kind = site.shape(0), self.use()
        for dim in self.dims:
            if kind:
                site.use(kind, shape[dim], (0, dim))
            else:
                site.freeze(shape[dim], "its size is part of what is computed")
        return [self._shape(shape, ())] * len(site.node.types)

    def _shape(self, shape: tuple[Any, ...], gone: Any) -> tuple[Any, ...]:
        if self.keepdim:
            return tuple(gone if i in self.dims else s for i, s in enumerate(shape))
        return tuple(s for i, s in enumerate(shape) if i not in self.dims)

    def infer(self, x: TensorType) -> Types:
        return TensorType(self.dtype_of(x), self._shape(x.shape, 1))

    def dtype_of(self, x: TensorType) -> torch.dtype:
        """The element type of the result."""
        return x.dtype

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue | tuple[OnnxValue, ...]:
        return self.reduced(g, g.cast(x, self.dtype_of(x.type)), self.onnx)

    def reduced(self, g: Tape, x: OnnxValue, kind: str) -> OnnxValue:
        """These axes summarised by an operator of ONNX."""
        return g.reduce(kind, g.computable(x), self.dims, keepdims=self.keepdim)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        options = dict(call.options)
        dims = reduced_dims(options, call.types[0].rank)
        known = {f.name for f in fields(cls)}
        return cls(dims=dims, **options) if options.keys() <= known else None


def reduced_dims(options: dict[str, Any], rank: int) -> tuple[int, ...]:
    """The axes that a call reduces; none named means all."""
    dim = options.pop("dim", None)
    dims = [dim] if isinstance(dim, int) else dim or range(rank)
    return tuple(sorted(d % rank for d in dims)) if rank else ()


def _reduce(
    name: str, function: Callable[..., Any], aten: str, doc: str, kind: str, onnx: str
) -> type[Reduce]:
    def to_torch(self: Reduce, x: Tensor) -> Tensor:
        return function(x, self.dims, keepdim=self.keepdim)  # type: ignore[no-any-return]

    body = {"__doc__": doc, "__module__": __name__, "name": name, "kind": kind,
            "onnx": onnx, "aten": tuple(aten.split()), "to_torch": to_torch}  # fmt: skip
    return dataclass(frozen=True)(type(name.capitalize(), (Reduce,), body))


Mean = _reduce("mean", torch.mean, "mean.dim mean.default", "The mean.", "mix",
               "ReduceMean")  # fmt: skip
Amax = _reduce("amax", torch.amax, "amax.default max.default", "The largest value.", "mix",
               "ReduceMax")  # fmt: skip
Amin = _reduce("amin", torch.amin, "amin.default min.default", "The smallest value.", "mix",
               "ReduceMin")  # fmt: skip
Logsumexp = _reduce("logsumexp", torch.logsumexp, "logsumexp.default", "log of sum of exp.",
                    "softmax", "ReduceLogSumExp")  # fmt: skip


@dataclass(frozen=True)
class _Truth(Reduce):
    """Whether values are other than zero."""

    def dtype_of(self, x: TensorType) -> torch.dtype:
        return torch.uint8 if x.dtype == torch.uint8 else torch.bool

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        held = g.cast(x, torch.bool)
        return g.reduce(self.onnx, held, self.dims, keepdims=self.keepdim)


@dataclass(frozen=True)
class Any_(_Truth):
    """Whether some value is other than zero."""

    name = "any"
    onnx = "ReduceMax"
    aten = ("any.dim", "any.dims", "any.default")

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.any(x, self.dims, keepdim=self.keepdim)


@dataclass(frozen=True)
class All(_Truth):
    """Whether no value is zero."""

    name = "all"
    onnx = "ReduceMin"
    aten = ("all.dim", "all.dims", "all.default")

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.all(x, self.dims, keepdim=self.keepdim)


@dataclass(frozen=True)
class AMinMax(Reduce):
    """The smallest and the largest value."""

    name = "aminmax"
    aten = ("aminmax.default",)

    def infer(self, x: TensorType) -> Types:
        found = x.with_shape(self._shape(x.shape, 1))
        return found, found

    def to_torch(self, x: Tensor) -> Any:
        return torch.aminmax(x, dim=self.dims[0], keepdim=self.keepdim)

    def to_onnx(self, g: Tape, x: OnnxValue) -> tuple[OnnxValue, ...]:
        return self.reduced(g, x, "ReduceMin"), self.reduced(g, x, "ReduceMax")

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        named = "dim" in call.options or call.types[0].rank == 1
        return super().from_aten(call) if named else None


@dataclass(frozen=True)
class Prod(Reduce):
    """The product."""

    name = "prod"
    onnx = "ReduceProd"
    aten = ("prod.dim_int",)
    kind = ""

    def dtype_of(self, x: TensorType) -> torch.dtype:
        return _summed(x.dtype)

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.prod(x, self.dims[0], self.keepdim)


@dataclass(frozen=True)
class Sum(Reduce):
    """The sum."""

    name = "sum"
    onnx = "ReduceSum"
    aten = ("sum.dim_IntList", "sum.default")
    kind = "sum"

    def layouts(self, site: Any) -> Any:
        if not site.type(0).dtype.is_floating_point:
            for dim in self.dims:
                site.freeze(site.shape(0)[dim], "whole numbers are counted")
        return super().layouts(site)

    def linear(self) -> bool:
        return True

    def dtype_of(self, x: TensorType) -> torch.dtype:
        return _summed(x.dtype)

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.sum(x, self.dims, keepdim=self.keepdim)


def _summed(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.int64


@dataclass(frozen=True)
class Softmax(Op):
    """Exponentials that sum to one along `dim`; their logarithm if `log`."""

    name = "softmax"
    aten = ("softmax.int", "_softmax.default", "log_softmax.int", "_log_softmax.default")
    dim: int = -1
    log: bool = False
    dtype: torch.dtype | None = None

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        if shape:
            site.use("softmax", shape[self.dim], (0, self.dim))
        return [shape]

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(self.dtype or x.dtype, x.shape)

    def to_torch(self, x: Tensor) -> Tensor:
        function = torch.log_softmax if self.log else torch.softmax
        return function(x, self.dim, dtype=self.dtype)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        x, kind = g.cast(x, g.types[0].dtype), "LogSoftmax" if self.log else "Softmax"
        line = x if x.rank else g.unsqueeze(x, [0])
        found = g.op(kind, [line], {"axis": self.dim if x.rank else 0})
        return found if x.rank else g.squeeze(found, [0])

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        dim, log = call.axis(), "log_softmax" in call.target
        if call.options.pop("half_to_float", False):
            return None
        return cls(dim, log, call.options.get("dtype"))
