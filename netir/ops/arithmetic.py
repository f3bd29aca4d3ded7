"""Elementwise ops of two operands, or of one and a number: arithmetic, comparisons, logic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from netir.dims import Sym
from netir.ops.base import AtenCall, Dim, NoLowering, Op, Tensor, TensorType
from netir.ops.pointwise import WIDER, Number, Pointwise, integral

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


@dataclass(frozen=True)
class Arithmetic(Pointwise):
    """An operation on two operands, or on one and the number `other`."""

    other: Number | Dim | None = None

    def infer(self, *operands: Any) -> TensorType:
        found = super().infer(*operands)
        if isinstance(self.other, float) and not self.compares and integral(found.dtype):
            return TensorType(torch.get_default_dtype(), found.shape)
        if self.other is not None and found.dtype == torch.bool and not self.compares:
            plain = torch.bool if isinstance(self.other, bool) else torch.int64
            return TensorType(plain, found.shape)
        return found

    def second(self, rest: tuple[Any, ...]) -> Any:
        """The second operand: a tensor, or the number."""
        return rest[0] if rest else self.other

    def to_onnx(self, g: Tape, x: OnnxValue, *rest: OnnxValue) -> Any:
        return self.written(g, *self.computed_in(g, x, *rest))

    def computed_in(self, g: Tape, *operands: OnnxValue) -> list[OnnxValue]:
        if len(operands) > 1:
            return super().computed_in(g, *operands)
        (x,) = operands
        number = 1 if isinstance(self.other, Sym) else self.other
        dtype = torch.result_type(torch.empty(1, dtype=x.dtype, device="meta"), number)  # type: ignore[arg-type]
        dtype = WIDER.get(dtype, dtype)
        return [g.cast(x, dtype), g.number(self.other, dtype)]

    def written(self, g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        """Write it in ONNX, with operands of one element type."""
        if not self.onnx:
            raise NoLowering(f"ONNX has no counterpart of '{self.name}'")
        return g.op(self.onnx, [x, y])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Add(Arithmetic):
    """`x + alpha * y`."""

    name = "add"
    overwritable = True
    onnx = "Add"
    aten = ("add.Tensor", "add.Scalar")
    alpha: Number = 1

    def linear(self) -> bool:
        return self.other is None

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.alpha == 1:
            return x + self.second(rest)  # type: ignore[no-any-return]
        return torch.add(x, self.second(rest), alpha=self.alpha)

    def written(self, g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        return super().written(g, x, _times(g, y, self.alpha))


@dataclass(frozen=True)
class Sub(Arithmetic):
    """`x - alpha * y`."""

    name = "sub"
    overwritable = True
    onnx = "Sub"
    aten = ("sub.Tensor", "sub.Scalar", "subtract.Tensor", "subtract.Scalar")
    alpha: Number = 1

    def linear(self) -> bool:
        return self.other is None

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.alpha == 1:
            return x - self.second(rest)  # type: ignore[no-any-return]
        return torch.sub(x, self.second(rest), alpha=self.alpha)

    def written(self, g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        return super().written(g, x, _times(g, y, self.alpha))


@dataclass(frozen=True)
class Rsub(Arithmetic):
    """`y - alpha * x`."""

    name = "rsub"
    aten = ("rsub.Scalar", "rsub.Tensor")
    alpha: Number = 1

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.alpha == 1:
            return self.second(rest) - x  # type: ignore[no-any-return]
        return torch.rsub(x, self.second(rest), alpha=self.alpha)

    def written(self, g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        return g.op("Sub", [y, _times(g, x, self.alpha)])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Mul(Arithmetic):
    """`x * y`."""

    name = "mul"
    onnx = "Mul"
    aten = ("mul.Tensor", "mul.Scalar", "multiply.Tensor", "multiply.Scalar")

    def linear(self) -> bool:
        return self.other is not None

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        return x * self.second(rest)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Div(Arithmetic):
    """`x / y`, or rounded down (`floor`) or towards zero (`trunc`)."""

    name = "div"
    aten = ("div.Tensor", "div.Scalar", "div.Tensor_mode", "div.Scalar_mode", "divide.Tensor",
            "divide.Scalar", "divide.Tensor_mode", "true_divide.Tensor", "true_divide.Scalar",
            "floor_divide.default", "floor_divide.Scalar")  # fmt: skip
    fills = {1: 1.0}
    rounding_mode: str | None = None

    def linear(self) -> bool:
        return self.other is not None and self.rounding_mode is None

    def infer(self, *operands: Any) -> TensorType:
        found = super().infer(*operands)
        if self.rounding_mode is None and integral(found.dtype):
            return TensorType(torch.get_default_dtype(), found.shape)
        return found

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.rounding_mode is None:
            return x / self.second(rest)  # type: ignore[no-any-return]
        return torch.div(x, self.second(rest), rounding_mode=self.rounding_mode)

    def written(self, g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        if self.rounding_mode is None and integral(x.dtype):
            x, y = (g.cast(v, torch.get_default_dtype()) for v in (x, y))
        if integral(x.dtype) and self.rounding_mode == "floor":
            x = g.op("Sub", [x, g.op("Mod", [x, y])])
        found: OnnxValue = g.op("Div", [x, y])
        if integral(x.dtype) or self.rounding_mode is None:
            return found
        if self.rounding_mode == "floor":
            return g.op("Floor", [found])  # type: ignore[no-any-return]
        return g.op("Mul", [g.op("Sign", [found]), g.op("Floor", [g.op("Abs", [found])])])  # type: ignore[no-any-return]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        if call.base == "floor_divide":
            call.options["rounding_mode"] = "floor"
        return cls(**call.options)


def _times(g: Tape, x: OnnxValue, factor: Number) -> OnnxValue:
    return x if factor == 1 else g.binary("Mul", x, factor)


Recipe = Callable[["Tape", "OnnxValue", "OnnxValue"], "OnnxValue"]


def _binary(
    name: str, function: Callable[..., Any], aten: str, doc: str, onnx: str | Recipe = "",
    kind: type[Arithmetic] = Arithmetic, **rest: Any,
) -> type[Arithmetic]:  # fmt: skip
    """Declare an elementwise function of two operands, or of one and a number.

    `onnx` is the operator in ONNX, or a function that writes what it is made of.
    """

    def to_torch(self: Arithmetic, x: Tensor, *rest: Tensor) -> Tensor:
        return function(x, self.second(rest))  # type: ignore[no-any-return]

    def written(self: Arithmetic, g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        return onnx(g, x, y)  # type: ignore[operator]

    title = "".join(part.capitalize() for part in name.split("_"))
    in_onnx = {"onnx": onnx} if isinstance(onnx, str) else {"written": written}
    body = {"__doc__": doc, "__module__": __name__, "name": name, "aten": tuple(aten.split()),
            "to_torch": to_torch, **in_onnx, **rest}  # fmt: skip
    return dataclass(frozen=True)(type(title, (kind,), body))


def _remainder(g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    """ONNX has the remainder with the sign of the divisor for whole numbers only."""
    if integral(x.dtype):
        return g.op("Mod", [x, y])  # type: ignore[no-any-return]
    rest = g.op("Mod", [x, y], {"fmod": 1})
    crossed = g.binary("Less", g.op("Mul", [rest, y]), 0)
    return g.where(crossed, g.op("Add", [rest, y]), rest)


def _negative(g: Tape, x: OnnxValue) -> OnnxValue:
    """Whether the sign is minus, also that of a zero."""
    inverse = g.binary("Less", g.op("Reciprocal", [x]), 0)
    return g.op("Or", [g.binary("Less", x, 0), inverse])  # type: ignore[no-any-return]


def _copysign(g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    size = g.op("Abs", [x])
    return g.where(_negative(g, y), g.op("Neg", [size]), size)


def _atan2(g: Tape, y: OnnxValue, x: OnnxValue) -> OnnxValue:
    zero = g.op("And", [g.binary("Equal", x, 0), g.binary("Equal", y, 0)])
    angle = g.where(zero, y, g.op("Atan", [g.op("Div", [y, x])]))
    half = g.where(_negative(g, y), g.number(-math.pi, x), g.number(math.pi, x))
    return g.where(_negative(g, x), g.op("Add", [angle, half]), angle)


def _hypot(g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    squares = [g.op("Mul", [v, v]) for v in (x, y)]
    return g.op("Sqrt", [g.op("Add", squares)])  # type: ignore[no-any-return]


def _logaddexp(g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    apart = g.op("Neg", [g.op("Abs", [g.op("Sub", [x, y])])])
    return g.op("Add", [g.op("Max", [x, y]), g.op("Softplus", [apart])])  # type: ignore[no-any-return]


def _heaviside(g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    step = g.cast(g.binary("Greater", x, 0), x.dtype)
    return g.where(g.binary("Equal", x, 0), y, step)


class _Flags(Arithmetic):
    """An operation on truth values or bits; ONNX has one operator for each."""

    def computed_in(self, g: Tape, *operands: OnnxValue) -> list[OnnxValue]:
        (x,) = operands[:1]
        if self.compares:
            return [g.cast(o, torch.bool) for o in operands]
        if len(operands) > 1:
            return g.promoted(*operands)
        dtype = torch.result_type(torch.empty(1, dtype=x.dtype, device="meta"), self.other)  # type: ignore[arg-type]
        return [g.cast(x, dtype), g.number(self.other, dtype)]

    def written(self, g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        return g.op(self.onnx if x.dtype == torch.bool else f"Bitwise{self.onnx}", [x, y])  # type: ignore[no-any-return]


Pow = _binary("pow", torch.pow, "pow.Tensor_Tensor pow.Tensor_Scalar pow.Scalar",
              "`x ** y`.", "Pow", from_aten=classmethod(lambda cls, call: _exponent(cls, call)))
Rpow = _binary("rpow", lambda x, y: torch.pow(y, x), "", "`other ** x`.",
              lambda g, x, y: g.op("Pow", [y, x]))  # fmt: skip
Remainder = _binary("remainder", torch.remainder, "remainder.Tensor remainder.Scalar", "`x % y`.",
                    _remainder)  # fmt: skip
Fmod = _binary("fmod", torch.fmod, "fmod.Tensor fmod.Scalar", "The remainder with `x`'s sign.",
               lambda g, x, y: g.op("Mod", [x, y], {"fmod": 1}))  # fmt: skip
Minimum = _binary("minimum", torch.minimum, "minimum.default min.other", "The smaller of two.",
                  "Min")  # fmt: skip
Maximum = _binary("maximum", torch.maximum, "maximum.default max.other", "The larger of two.",
                  "Max")  # fmt: skip
Atan2 = _binary("atan2", torch.atan2, "atan2.default arctan2.default", "The angle of `(y, x)`.",
                _atan2, floats=True)  # fmt: skip
Hypot = _binary("hypot", torch.hypot, "hypot.default", "`sqrt(x² + y²)`.", _hypot)
Logaddexp = _binary("logaddexp", torch.logaddexp, "logaddexp.default", "`log(exp(x) + exp(y))`.",
                    _logaddexp)  # fmt: skip
Copysign = _binary("copysign", torch.copysign, "copysign.Tensor copysign.Scalar",
                   "`x` with the sign of `y`.", _copysign, floats=True)  # fmt: skip
Heaviside = _binary("heaviside", torch.heaviside, "heaviside.default",
                    "0 below zero, 1 above, `y` at zero.", _heaviside)  # fmt: skip
Eq = _binary("eq", torch.eq, "eq.Tensor eq.Scalar", "`x == y`.", "Equal",
              compares=True)
Ne = _binary("ne", torch.ne, "ne.Tensor ne.Scalar not_equal.Tensor not_equal.Scalar",
             "`x != y`.",
              lambda g, x, y: g.op("Not", [g.op("Equal", [x, y])]), compares=True)  # fmt: skip
Lt = _binary("lt", torch.lt, "lt.Tensor lt.Scalar less.Tensor less.Scalar",
             "`x < y`.", "Less", compares=True)  # fmt: skip
Le = _binary("le", torch.le, "le.Tensor le.Scalar less_equal.Tensor less_equal.Scalar",
             "`x <= y`.", "LessOrEqual", compares=True)  # fmt: skip
Gt = _binary("gt", torch.gt, "gt.Tensor gt.Scalar greater.Tensor greater.Scalar",
             "`x > y`.", "Greater", compares=True)  # fmt: skip
Ge = _binary("ge", torch.ge, "ge.Tensor ge.Scalar greater_equal.Tensor greater_equal.Scalar",
             "`x >= y`.", "GreaterOrEqual", compares=True)  # fmt: skip
And = _binary("and", torch.bitwise_and,
              "__and__.Tensor __and__.Scalar bitwise_and.Tensor bitwise_and.Scalar",
              "Bitwise and.", "And", kind=_Flags)  # fmt: skip
Or = _binary("or", torch.bitwise_or,
             "__or__.Tensor __or__.Scalar bitwise_or.Tensor bitwise_or.Scalar",
             "Bitwise or.", "Or", kind=_Flags)  # fmt: skip
Xor = _binary("xor", torch.bitwise_xor,
              "__xor__.Tensor __xor__.Scalar bitwise_xor.Tensor bitwise_xor.Scalar",
              "Bitwise xor.", "Xor", kind=_Flags)  # fmt: skip
LogicalAnd = _binary("logical_and", torch.logical_and, "logical_and.default", "Both.",
                     "And", kind=_Flags,
                     compares=True)  # fmt: skip
LogicalOr = _binary("logical_or", torch.logical_or, "logical_or.default", "Either.",
                    "Or", kind=_Flags,
                    compares=True)  # fmt: skip
LogicalXor = _binary("logical_xor", torch.logical_xor, "logical_xor.default", "Either, not both.",
                     "Xor", kind=_Flags,
                     compares=True)  # fmt: skip


def _exponent(cls: type[Arithmetic], call: AtenCall) -> Op | None:
    """`pow` calls its number `exponent`, and `self` where it is the base."""
    if "self" in call.options:
        return Rpow(other=call.options["self"])
    return cls(other=call.options.get("exponent"))
