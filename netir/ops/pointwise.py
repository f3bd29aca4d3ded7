"""Elementwise ops: what they have in common, and functions of one operand without attributes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F

from netir.ops.base import AtenCall, Op, Tensor, TensorType, broadcast, promote

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape

Number = int | float | bool


@dataclass(frozen=True)
class Pointwise(Op):
    """An op that works on each element by itself; operands broadcast."""

    floats: ClassVar[bool] = False
    """Whether integers become floats."""
    compares: ClassVar[bool] = False
    """Whether the result is boolean."""

    def layouts(self, site: Any) -> Any:
        return site.elementwise()

    def infer(self, *operands: Any) -> TensorType:
        given = [o for o in operands if o is not None]
        if len(given) == 1:
            dtype, shape = given[0].dtype, given[0].shape
        else:
            dtype, shape = promote(*given), broadcast(*(o.shape for o in given))
        if self.compares:
            dtype = torch.bool
        elif self.floats and not (dtype.is_floating_point or dtype.is_complex):
            dtype = torch.get_default_dtype()
        return TensorType(dtype, shape)

    def to_onnx(self, g: Tape, *operands: Any) -> Any:
        return super().to_onnx(g, *self.computed_in(g, *operands))

    def computed_in(self, g: Tape, *operands: OnnxValue) -> list[OnnxValue]:
        """The operands in the one element type that ONNX has to compute in."""
        given = g.promoted(*operands)
        if self.floats and integral(given[0].dtype):
            return [g.cast(x, torch.get_default_dtype()) for x in given]
        return [g.cast(x, WIDER.get(x.dtype, x.dtype)) for x in given]


WIDER = dict.fromkeys((torch.bool, torch.int8, torch.int16, torch.uint8), torch.int32)
"""Where to compute with types that ONNX Runtime does not calculate with."""

Recipe = Callable[["Tape", "OnnxValue"], "OnnxValue"]


def _unary(
    name: str, function: Callable[..., Any], aten: str, onnx: str | Recipe = "", **rest: Any
) -> type[Pointwise]:
    """Declare an elementwise function of one operand that has no attributes.

    `onnx` is the operator in ONNX, or a function that writes what it is made of.
    """

    def to_torch(self: Pointwise, x: Tensor) -> Tensor:
        return function(x)  # type: ignore[no-any-return]

    def to_onnx(self: Pointwise, g: Tape, x: OnnxValue) -> Any:
        return onnx(g, *self.computed_in(g, x))  # type: ignore[operator]

    targets = tuple(f"{base}.default" for base in aten.split())
    title = "".join(part.capitalize() for part in name.split("_"))
    written = {"onnx": onnx} if isinstance(onnx, str) else {"to_onnx": to_onnx}
    body = {"__doc__": f"Elementwise {name}.", "__module__": __name__, "name": name,
            "aten": targets, "to_torch": to_torch, **written, **rest}  # fmt: skip
    return dataclass(frozen=True)(type(title, (Pointwise,), body))


def _yes(self: Op) -> bool:
    return True


def _same(self: Op, g: Tape, x: OnnxValue) -> OnnxValue:
    return x


def _bitwise_not(self: Op, g: Tape, x: OnnxValue) -> OnnxValue:
    return g.op("Not" if x.dtype == torch.bool else "BitwiseNot", [x])  # type: ignore[no-any-return]


def _relu6(g: Tape, x: OnnxValue) -> OnnxValue:
    return g.op("Clip", [x, g.number(0, x), g.number(6, x)])  # type: ignore[no-any-return]


def _hardsigmoid(g: Tape, x: OnnxValue) -> OnnxValue:
    return g.binary("Div", _relu6(g, g.binary("Add", x, 3)), 6)


def _sinc(g: Tape, x: OnnxValue) -> OnnxValue:
    angle = g.binary("Mul", x, math.pi)
    ratio = g.op("Div", [g.op("Sin", [angle]), angle])
    return g.where(g.binary("Equal", x, 0), g.number(1, x), ratio)


def _entr(g: Tape, x: OnnxValue) -> OnnxValue:
    product = g.op("Neg", [g.op("Mul", [x, g.op("Log", [x])])])
    other = g.where(g.binary("Less", x, 0), g.number(-math.inf, x), product)
    return g.where(g.binary("Equal", x, 0), g.number(0, x), other)


def _rounded(kind: str) -> Recipe:
    return lambda g, x: x if integral(x.dtype) else g.op(kind, [x])


def _trunc(g: Tape, x: OnnxValue) -> OnnxValue:
    if integral(x.dtype):
        return x
    return g.op("Mul", [g.op("Sign", [x]), g.op("Floor", [g.op("Abs", [x])])])  # type: ignore[no-any-return]


Relu = _unary("relu", F.relu, "relu", "Relu")
Relu6 = _unary("relu6", F.relu6, "relu6", _relu6)
Silu = _unary("silu", F.silu, "silu", lambda g, x: g.op("Mul", [x, g.op("Sigmoid", [x])]))
Mish = _unary("mish", F.mish, "mish",
              lambda g, x: g.op("Mul", [x, g.op("Tanh", [g.op("Softplus", [x])])]))  # fmt: skip
Hardswish = _unary("hardswish", F.hardswish, "hardswish",
                   lambda g, x: g.op("Mul", [x, _hardsigmoid(g, x)]))  # fmt: skip
Hardsigmoid = _unary("hardsigmoid", F.hardsigmoid, "hardsigmoid", _hardsigmoid)
Selu = _unary("selu", F.selu, "selu", "Selu")
LogSigmoid = _unary("logsigmoid", F.logsigmoid, "log_sigmoid",
                    lambda g, x: g.op("Neg", [g.op("Softplus", [g.op("Neg", [x])])]))  # fmt: skip
Sigmoid = _unary("sigmoid", torch.sigmoid, "sigmoid", "Sigmoid", floats=True)
Tanh = _unary("tanh", torch.tanh, "tanh", "Tanh", floats=True)
Exp = _unary("exp", torch.exp, "exp", "Exp", floats=True)
Expm1 = _unary("expm1", torch.expm1, "expm1",
               lambda g, x: g.binary("Sub", g.op("Exp", [x]), 1), floats=True)  # fmt: skip
Log = _unary("log", torch.log, "log", "Log", floats=True)
Log1p = _unary("log1p", torch.log1p, "log1p",
               lambda g, x: g.op("Log", [g.binary("Add", x, 1)]), floats=True)  # fmt: skip
Log2 = _unary("log2", torch.log2, "log2",
              lambda g, x: g.binary("Div", g.op("Log", [x]), math.log(2)), floats=True)  # fmt: skip
Sqrt = _unary("sqrt", torch.sqrt, "sqrt", "Sqrt", floats=True)
Rsqrt = _unary("rsqrt", torch.rsqrt, "rsqrt",
               lambda g, x: g.op("Reciprocal", [g.op("Sqrt", [x])]), floats=True)  # fmt: skip
Reciprocal = _unary("reciprocal", torch.reciprocal, "reciprocal", "Reciprocal", floats=True)
Erf = _unary("erf", torch.erf, "erf", "Erf", floats=True)
Erfc = _unary("erfc", torch.erfc, "erfc",
              lambda g, x: g.op("Sub", [g.number(1, x), g.op("Erf", [x])]),
              floats=True)  # fmt: skip
Erfinv = _unary("erfinv", torch.erfinv, "erfinv", floats=True)
Exp2 = _unary("exp2", torch.exp2, "exp2",
              lambda g, x: g.op("Pow", [g.number(2, x), x]), floats=True)  # fmt: skip
Log10 = _unary("log10", torch.log10, "log10",
               lambda g, x: g.binary("Div", g.op("Log", [x]), math.log(10)),
               floats=True)  # fmt: skip
Sin = _unary("sin", torch.sin, "sin", "Sin", floats=True)
Cos = _unary("cos", torch.cos, "cos", "Cos", floats=True)
Tan = _unary("tan", torch.tan, "tan", "Tan", floats=True)
Asin = _unary("asin", torch.asin, "asin arcsin", "Asin", floats=True)
Acos = _unary("acos", torch.acos, "acos arccos", "Acos", floats=True)
Atan = _unary("atan", torch.atan, "atan arctan", "Atan", floats=True)
Sinh = _unary("sinh", torch.sinh, "sinh", "Sinh", floats=True)
Cosh = _unary("cosh", torch.cosh, "cosh", "Cosh", floats=True)
Asinh = _unary("asinh", torch.asinh, "asinh arcsinh", "Asinh", floats=True)
Acosh = _unary("acosh", torch.acosh, "acosh arccosh", "Acosh", floats=True)
Atanh = _unary("atanh", torch.atanh, "atanh arctanh", "Atanh", floats=True)
Lgamma = _unary("lgamma", torch.lgamma, "lgamma special_gammaln", floats=True)
Digamma = _unary("digamma", torch.digamma, "digamma special_digamma", floats=True)
Sinc = _unary("sinc", torch.sinc, "sinc special_sinc", _sinc, floats=True)
I0 = _unary("i0", torch.i0, "i0", floats=True)
I0e = _unary("i0e", torch.special.i0e, "special_i0e", floats=True)
Entr = _unary("entr", torch.special.entr, "special_entr", _entr, floats=True)
Abs = _unary("abs", torch.abs, "abs absolute", "Abs")
Sign = _unary("sign", torch.sign, "sign", "Sign")
Sgn = _unary("sgn", torch.sgn, "sgn", "Sign")
Square = _unary("square", torch.square, "square", lambda g, x: g.op("Mul", [x, x]))
Floor = _unary("floor", torch.floor, "floor", _rounded("Floor"))
Ceil = _unary("ceil", torch.ceil, "ceil", _rounded("Ceil"))
Round = _unary("round", torch.round, "round", _rounded("Round"))
Trunc = _unary("trunc", torch.trunc, "trunc fix", _trunc)
Frac = _unary("frac", torch.frac, "frac", lambda g, x: g.op("Sub", [x, _trunc(g, x)]))
Neg = _unary("neg", torch.neg, "neg negative", "Neg", linear=_yes)
Identity = _unary("identity", lambda x: x, "clone lift_fresh_copy lift_fresh positive",
                  linear=_yes, to_onnx=_same)  # fmt: skip
Contiguous = _unary("contiguous", lambda x: x.contiguous(), "contiguous", linear=_yes,
                    to_onnx=_same)  # fmt: skip
Detach = _unary("detach", lambda x: x.detach(), "detach", linear=_yes, to_onnx=_same)
LogicalNot = _unary("logical_not", torch.logical_not, "logical_not",
                    lambda g, x: g.op("Not", [g.cast(x, torch.bool)]), compares=True)  # fmt: skip
BitwiseNot = _unary("bitwise_not", torch.bitwise_not, "bitwise_not", to_onnx=_bitwise_not)
IsNan = _unary("isnan", torch.isnan, "isnan", "IsNaN", floats=True, compares=True)
IsInf = _unary("isinf", torch.isinf, "isinf", "IsInf", floats=True, compares=True)
IsFinite = _unary("isfinite", torch.isfinite, "isfinite",
                  lambda g, x: g.binary("Less", g.op("Abs", [x]), math.inf),
                  floats=True, compares=True)  # fmt: skip


@dataclass(frozen=True)
class NanToNum(Pointwise):
    """Numbers in place of NaN and the infinities."""

    name = "nan_to_num"
    aten = ("nan_to_num.default",)
    nan: float | None = None
    posinf: float | None = None
    neginf: float | None = None

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.nan_to_num(x, self.nan, self.posinf, self.neginf)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        if integral(x.dtype):
            return x
        high, low = torch.finfo(x.dtype).max, torch.finfo(x.dtype).min
        found = g.where(g.op("IsNaN", [x]), g.number(self.nan or 0, x), x)
        ends = ((math.inf, self.posinf, high), (-math.inf, self.neginf, low))
        for infinite, given, limit in ends:
            put = g.number(limit if given is None else given, x)
            found = g.where(g.binary("Equal", x, infinite), put, found)
        return found


@dataclass(frozen=True)
class Cast(Pointwise):
    """Change the element type."""

    name = "cast"
    aten = ("to.dtype", "to.dtype_layout", "to.device", "to.other", "_to_copy.default",
            "type_as.default")  # fmt: skip
    dtype: torch.dtype = torch.float32

    def linear(self) -> bool:
        return self.dtype.is_floating_point

    def infer(self, *operands: Any) -> TensorType:
        return TensorType(self.dtype, operands[0].shape)

    def to_torch(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        return g.cast(x, self.dtype)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        del call.operands[1:]
        made = call.results[0].dtype
        if "dtype" not in call.options and made == call.types[0].dtype:
            return Identity()
        return cls(dtype=made)


def integral(dtype: torch.dtype) -> bool:
    """Whether it is a type of whole numbers, or boolean."""
    return not (dtype.is_floating_point or dtype.is_complex)
