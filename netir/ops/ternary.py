"""Elementwise ops of three operands: where, masked fill, lerp, and products added on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from netir.ops.base import AtenCall, Op, Tensor, TensorType, broadcast, promote
from netir.ops.pointwise import Number, Pointwise

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


@dataclass(frozen=True)
class Where(Pointwise):
    """`x` where a condition holds, else `y`; either may be a number."""

    name = "where"
    aten = ("where.self", "where.ScalarOther", "where.ScalarSelf")
    x: Number | None = None
    y: Number | None = None

    def infer(self, *operands: Any) -> TensorType:
        condition, *rest = operands
        given = [o for o in rest if o is not None]
        shape = broadcast(condition.shape, *(o.shape for o in given))
        return TensorType(promote(*given), shape)

    def to_torch(self, condition: Tensor, *rest: Tensor) -> Tensor:
        left = list(rest)
        x = left.pop(0) if self.x is None else self.x
        return torch.where(condition, x, left[0] if left else self.y)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, condition: OnnxValue, *rest: OnnxValue) -> Any:
        left, dtype = list(rest), g.types[0].dtype
        x = left.pop(0) if self.x is None else g.number(self.x, dtype)
        y = left[0] if left else g.number(self.y, dtype)
        return g.where(g.cast(condition, torch.bool), g.cast(x, dtype), g.cast(y, dtype))

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        renamed = {"self": "x", "other": "y"}
        return cls(**{renamed.get(k, k): v for k, v in call.options.items()})


@dataclass(frozen=True)
class MaskedFill(Pointwise):
    """`x` with `value` put where a mask holds."""

    name = "masked_fill"
    aten = ("masked_fill.Scalar", "masked_fill.Tensor")
    value: Number = 0

    def infer(self, *operands: Any) -> TensorType:
        x, mask = operands[:2]
        return TensorType(x.dtype, broadcast(x.shape, mask.shape))

    def to_torch(self, x: Tensor, mask: Tensor, *rest: Tensor) -> Tensor:
        return torch.masked_fill(x, mask, rest[0] if rest else self.value)

    def to_onnx(self, g: Tape, x: OnnxValue, mask: OnnxValue, *rest: OnnxValue) -> Any:
        value = g.cast(rest[0], x.dtype) if rest else g.number(self.value, x)
        return g.where(mask, value, x)


@dataclass(frozen=True)
class Lerp(Pointwise):
    """`x + weight * (y - x)`; the weight may be an operand."""

    name = "lerp"
    aten = ("lerp.Scalar", "lerp.Tensor")
    weight: Number | None = None

    def linear(self) -> bool:
        return self.weight is not None

    def to_torch(self, x: Tensor, y: Tensor, *rest: Tensor) -> Tensor:
        return torch.lerp(x, y, rest[0] if rest else self.weight)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, x: OnnxValue, y: OnnxValue, *rest: OnnxValue) -> Any:
        weight = rest[0] if rest else g.number(self.weight, x)
        way = g.op("Mul", [weight, g.op("Sub", [y, x])])
        return g.op("Add", [x, way])


@dataclass(frozen=True)
class Addcmul(Pointwise):
    """`x + value * y * z`."""

    name = "addcmul"
    aten = ("addcmul.default",)
    value: Number = 1

    def to_torch(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return torch.addcmul(x, y, z, value=self.value)

    def to_onnx(self, g: Tape, *operands: OnnxValue) -> Any:
        x, y, z = self.computed_in(g, *operands)
        return g.op("Add", [x, g.binary("Mul", g.op("Mul", [y, z]), self.value)])


@dataclass(frozen=True)
class Addcdiv(Pointwise):
    """`x + value * y / z`."""

    name = "addcdiv"
    aten = ("addcdiv.default",)
    fills = {2: 1.0}
    value: Number = 1

    def to_torch(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return torch.addcdiv(x, y, z, value=self.value)

    def to_onnx(self, g: Tape, *operands: OnnxValue) -> Any:
        x, y, z = self.computed_in(g, *operands)
        return g.op("Add", [x, g.binary("Mul", g.op("Div", [y, z]), self.value)])
