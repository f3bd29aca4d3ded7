"""Measures of what is on some axes: variance, norms, the angle between vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from netir.ops.base import (
    AtenCall,
    Dim,
    Op,
    Tensor,
    TensorType,
    Types,
    broadcast,
    expect,
    product,
    promote,
)
from netir.ops.reduce import Reduce, reduced_dims

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


@dataclass(frozen=True)
class Var(Reduce):
    """The variance, or its root; `correction` is subtracted from the count."""

    name = "var"
    aten = ("var.correction", "var.dim", "var.default", "std.correction", "std.dim", "std.default")
    correction: int | float = 1
    root: bool = False

    def use(self) -> str:
        return "softmax" if self.correction else "mix"

    def to_torch(self, x: Tensor) -> Any:
        function = torch.std if self.root else torch.var
        return function(x, self.dims, correction=self.correction, keepdim=self.keepdim)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue | tuple[OnnxValue, ...]:
        return self.both(g, x)[0]

    def both(self, g: Tape, x: OnnxValue) -> tuple[OnnxValue, OnnxValue]:
        """The variance, or its root, and the mean."""
        mean = g.reduce("ReduceMean", x, self.dims, keepdims=True)
        squares = self.reduced(g, g.binary("Sub", x, mean), "ReduceSumSquare")
        var = g.op("Div", [squares, self._count(g, x)])
        flat = mean if self.keepdim else g.squeeze(mean, self.dims)
        return (g.op("Sqrt", [var]) if self.root else var), flat

    def _count(self, g: Tape, x: OnnxValue) -> OnnxValue:
        """How many values there are, less the correction."""
        count = product(x.shape[d] for d in self.dims)
        if isinstance(count, int):
            return g.number(max(count - self.correction, 0), x)
        less = g.binary("Sub", g.number(count, x), self.correction)
        return g.binary("Max", less, 0)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        options = call.options
        dims = reduced_dims(options, call.types[0].rank)
        correction = options.pop("correction", 1)
        if not options.pop("unbiased", True):
            correction = 0
        keepdim = options.pop("keepdim", False)
        return cls(dims, keepdim, correction, call.base.startswith("std"))


@dataclass(frozen=True)
class VarMean(Var):
    """The variance, or its root, and the mean."""

    name = "var_mean"
    aten = ("var_mean.correction", "var_mean.dim", "var_mean.default", "std_mean.correction",
            "std_mean.dim", "std_mean.default")  # fmt: skip

    def infer(self, x: TensorType) -> Types:
        found = x.with_shape(self._shape(x.shape, 1))
        return found, found

    def to_torch(self, x: Tensor) -> Any:
        function = torch.std_mean if self.root else torch.var_mean
        return function(x, self.dims, correction=self.correction, keepdim=self.keepdim)

    def to_onnx(self, g: Tape, x: OnnxValue) -> tuple[OnnxValue, ...]:
        return self.both(g, x)


@dataclass(frozen=True)
class VectorNorm(Reduce):
    """The norm of order `ord`."""

    name = "vector_norm"
    aten = ("linalg_vector_norm.default", "linalg_norm.default", "norm.ScalarOpt_dim",
            "norm.Scalar")  # fmt: skip
    ord: int | float = 2

    def use(self) -> str:
        return "norm" if self.ord > 0 else ""

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, self.ord, self.dims, self.keepdim)  # type: ignore[no-any-return]

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        if self.ord in (1, 2):
            return self.reduced(g, x, f"ReduceL{self.ord:.0f}")
        size = g.op("Abs", [x])
        if self.ord == 0:
            there = g.op("Greater", [size, g.number(0, x)])
            return self.reduced(g, g.cast(there, x.dtype), "ReduceSum")
        if math.isinf(self.ord):
            return self.reduced(g, size, "ReduceMax" if self.ord > 0 else "ReduceMin")
        total = self.reduced(g, g.binary("Pow", size, self.ord), "ReduceSum")
        return g.binary("Pow", total, 1 / self.ord)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        options, rank = call.options, call.types[0].rank
        order = options.pop("ord", options.pop("p", None))
        dims = reduced_dims(options, rank)
        if call.base == "linalg_norm" and order is not None and len(dims) != 1:
            return None  # the norm of a matrix
        keepdim = options.pop("keepdim", False)
        return None if options else cls(dims, keepdim, 2 if order is None else order)


@dataclass(frozen=True)
class CosineSimilarity(Op):
    """The cosine of the angle between vectors along `dim`."""

    name = "cosine_similarity"
    aten = ("cosine_similarity.default",)
    dim: int = 1
    eps: float = 1e-8

    def layouts(self, site: Any) -> Any:
        x, y = site.shape(0), site.shape(1)
        found = []
        for axis, (a, b) in enumerate(zip(x, y, strict=True)):
            if a and b:
                site.unify(a, b)
            if axis != self.dim:
                found.append(a or b)
            elif a and b:
                site.use("norm", a, (0, axis), (1, axis))
            else:
                site.freeze(a or b, "one vector is the same number everywhere")
        return [tuple(found)]

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        expect(x.rank == y.rank, f"{x} and {y} differ in rank")
        shape = broadcast(x.shape, y.shape)
        return TensorType(promote(x, y), (*shape[: self.dim], *shape[self.dim + 1 :]))

    def to_torch(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cosine_similarity(x, y, self.dim, self.eps)

    def to_onnx(self, g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        shape = broadcast(x.shape, y.shape)
        units = [self._unit(g, g.cast(v, g.types[0].dtype), shape[self.dim]) for v in (x, y)]
        return g.reduce("ReduceSum", g.op("Mul", units), [self.dim])

    def _unit(self, g: Tape, x: OnnxValue, size: Dim) -> OnnxValue:
        """Vectors divided by their lengths."""
        if x.shape[self.dim] != size:
            x = g.expand(x, (*x.shape[: self.dim], size, *x.shape[self.dim + 1 :]))
        length = g.reduce("ReduceL2", x, [self.dim], keepdims=True)
        return g.op("Div", [x, g.binary("Max", length, self.eps)])  # type: ignore[no-any-return]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.axis(default=1), **call.options)
