"""Reductions over axes: sum, mean, extremes, norms, softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from netir.ops.base import AtenCall, Op, Tensor, TensorType


@dataclass(frozen=True)
class Reduce(Op):
    """Summarise the axes `dims`, which disappear unless `keepdim`."""

    kind: ClassVar[str] = "mix"
    """How a channel axis is used; see `Use`."""
    dims: tuple[int, ...] = ()
    keepdim: bool = False

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        for dim in self.dims:
            site.use(self.kind, shape[dim], (0, dim))
        return [self._shape(shape, ())]

    def _shape(self, shape: tuple[Any, ...], gone: Any) -> tuple[Any, ...]:
        if self.keepdim:
            return tuple(gone if i in self.dims else s for i, s in enumerate(shape))
        return tuple(s for i, s in enumerate(shape) if i not in self.dims)

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(self.dtype_of(x), self._shape(x.shape, 1))

    def dtype_of(self, x: TensorType) -> torch.dtype:
        """The element type of the result."""
        return x.dtype

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        options = dict(call.options)
        dims = reduced_dims(options, call.types[0].rank)
        if options.keys() - {"keepdim", "correction", "unbiased", "ord", "p"}:
            return None
        return cls(dims=dims, **options)


def reduced_dims(options: dict[str, Any], rank: int) -> tuple[int, ...]:
    """The axes that a call reduces; none named means all."""
    dim = options.pop("dim", None)
    dims = range(rank) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return tuple(sorted(d % rank for d in dims)) if rank else ()


def _reduce(name: str, function: Callable[..., Any], aten: str, doc: str, kind: str) -> type[Reduce]:
    def to_torch(self: Reduce, x: Tensor) -> Tensor:
        return function(x, self.dims, keepdim=self.keepdim)  # type: ignore[no-any-return]

    body = {"__doc__": doc, "__module__": __name__, "name": name, "kind": kind,
            "aten": tuple(aten.split()), "to_torch": to_torch}  # fmt: skip
    return dataclass(frozen=True)(type(name.capitalize(), (Reduce,), body))


Mean = _reduce("mean", torch.mean, "mean.dim mean.default", "The mean.", "mix")
Amax = _reduce("amax", torch.amax, "amax.default", "The largest value.", "mix")
Amin = _reduce("amin", torch.amin, "amin.default", "The smallest value.", "mix")
Logsumexp = _reduce("logsumexp", torch.logsumexp, "logsumexp.default", "log of sum of exp.",
                    "softmax")  # fmt: skip


@dataclass(frozen=True)
class Sum(Reduce):
    """The sum."""

    name = "sum"
    aten = ("sum.dim_IntList", "sum.default")
    kind = "sum"

    def dtype_of(self, x: TensorType) -> torch.dtype:
        floating = x.dtype.is_floating_point or x.dtype.is_complex
        return x.dtype if floating else torch.int64

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.sum(x, self.dims, keepdim=self.keepdim)


@dataclass(frozen=True)
class Var(Reduce):
    """The variance; `correction` is subtracted from the count."""

    name = "var"
    aten = ("var.correction", "var.dim")
    kind = "softmax"
    correction: float = 1
    root: bool = False

    def to_torch(self, x: Tensor) -> Tensor:
        function = torch.std if self.root else torch.var
        return function(x, self.dims, correction=self.correction, keepdim=self.keepdim)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        options = dict(call.options)
        dims = reduced_dims(options, call.types[0].rank)
        correction = options.pop("correction", None)
        if "unbiased" in options:
            correction = 1 if options.pop("unbiased") else 0
        keepdim = options.pop("keepdim", False)
        root = call.target.startswith("std")
        return None if options else cls(dims, keepdim, 1 if correction is None else correction, root)


@dataclass(frozen=True)
class VectorNorm(Reduce):
    """The norm of order `ord`."""

    name = "vector_norm"
    aten = ("linalg_vector_norm.default",)
    kind = "norm"
    ord: float = 2

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, self.ord, self.dims, self.keepdim)


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
        site.use("softmax", shape[self.dim], (0, self.dim))
        return [shape]

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(self.dtype or x.dtype, x.shape)

    def to_torch(self, x: Tensor) -> Tensor:
        function = torch.log_softmax if self.log else torch.softmax
        return function(x, self.dim, dtype=self.dtype)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        dim = call.options["dim"] % call.types[0].rank
        log = "log_softmax" in call.target
        return cls(dim, log, call.options.get("dtype"))
