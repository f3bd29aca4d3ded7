"""Elementwise ops: functions of one operand, arithmetic with broadcasting, comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, broadcast, promote

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


def _unary(name: str, function: Callable[..., Any], aten: str, **rest: Any) -> type[Pointwise]:
    """Declare an elementwise function of one operand that has no attributes."""

    def to_torch(self: Pointwise, x: Tensor) -> Tensor:
        return function(x)  # type: ignore[no-any-return]

    targets = tuple(f"{base}.default" for base in aten.split())
    title = "".join(part.capitalize() for part in name.split("_"))
    body = {"__doc__": f"Elementwise {name}.", "__module__": __name__, "name": name,
            "aten": targets, "to_torch": to_torch, **rest}  # fmt: skip
    return dataclass(frozen=True)(type(title, (Pointwise,), body))


def _yes(self: Op) -> bool:
    return True


Relu = _unary("relu", F.relu, "relu")
Relu6 = _unary("relu6", F.relu6, "relu6")
Silu = _unary("silu", F.silu, "silu")
Mish = _unary("mish", F.mish, "mish")
Hardswish = _unary("hardswish", F.hardswish, "hardswish")
Hardsigmoid = _unary("hardsigmoid", F.hardsigmoid, "hardsigmoid")
Selu = _unary("selu", F.selu, "selu")
LogSigmoid = _unary("logsigmoid", F.logsigmoid, "log_sigmoid")
Sigmoid = _unary("sigmoid", torch.sigmoid, "sigmoid", floats=True)
Tanh = _unary("tanh", torch.tanh, "tanh", floats=True)
Exp = _unary("exp", torch.exp, "exp", floats=True)
Expm1 = _unary("expm1", torch.expm1, "expm1", floats=True)
Log = _unary("log", torch.log, "log", floats=True)
Log1p = _unary("log1p", torch.log1p, "log1p", floats=True)
Log2 = _unary("log2", torch.log2, "log2", floats=True)
Sqrt = _unary("sqrt", torch.sqrt, "sqrt", floats=True)
Rsqrt = _unary("rsqrt", torch.rsqrt, "rsqrt", floats=True)
Reciprocal = _unary("reciprocal", torch.reciprocal, "reciprocal", floats=True)
Erf = _unary("erf", torch.erf, "erf", floats=True)
Erfc = _unary("erfc", torch.erfc, "erfc", floats=True)
Erfinv = _unary("erfinv", torch.erfinv, "erfinv", floats=True)
Exp2 = _unary("exp2", torch.exp2, "exp2", floats=True)
Log10 = _unary("log10", torch.log10, "log10", floats=True)
Sin = _unary("sin", torch.sin, "sin", floats=True)
Cos = _unary("cos", torch.cos, "cos", floats=True)
Tan = _unary("tan", torch.tan, "tan", floats=True)
Asin = _unary("asin", torch.asin, "asin arcsin", floats=True)
Acos = _unary("acos", torch.acos, "acos arccos", floats=True)
Atan = _unary("atan", torch.atan, "atan arctan", floats=True)
Sinh = _unary("sinh", torch.sinh, "sinh", floats=True)
Cosh = _unary("cosh", torch.cosh, "cosh", floats=True)
Asinh = _unary("asinh", torch.asinh, "asinh arcsinh", floats=True)
Acosh = _unary("acosh", torch.acosh, "acosh arccosh", floats=True)
Atanh = _unary("atanh", torch.atanh, "atanh arctanh", floats=True)
Lgamma = _unary("lgamma", torch.lgamma, "lgamma special_gammaln", floats=True)
Digamma = _unary("digamma", torch.digamma, "digamma special_digamma", floats=True)
Sinc = _unary("sinc", torch.sinc, "sinc special_sinc", floats=True)
I0 = _unary("i0", torch.i0, "i0", floats=True)
I0e = _unary("i0e", torch.special.i0e, "special_i0e", floats=True)
Entr = _unary("entr", torch.special.entr, "special_entr", floats=True)
Abs = _unary("abs", torch.abs, "abs absolute")
Sign = _unary("sign", torch.sign, "sign")
Sgn = _unary("sgn", torch.sgn, "sgn")
Square = _unary("square", torch.square, "square")
Floor = _unary("floor", torch.floor, "floor")
Ceil = _unary("ceil", torch.ceil, "ceil")
Round = _unary("round", torch.round, "round")
Trunc = _unary("trunc", torch.trunc, "trunc fix")
Frac = _unary("frac", torch.frac, "frac")
Neg = _unary("neg", torch.neg, "neg negative", linear=_yes)
Identity = _unary("identity", lambda x: x, "alias clone lift_fresh_copy lift_fresh positive",
                  linear=_yes)  # fmt: skip
Contiguous = _unary("contiguous", lambda x: x.contiguous(), "contiguous", linear=_yes)
Detach = _unary("detach", lambda x: x.detach(), "detach", linear=_yes)
LogicalNot = _unary("logical_not", torch.logical_not, "logical_not", compares=True)
BitwiseNot = _unary("bitwise_not", torch.bitwise_not, "bitwise_not")
IsNan = _unary("isnan", torch.isnan, "isnan", compares=True)
IsInf = _unary("isinf", torch.isinf, "isinf", compares=True)
IsFinite = _unary("isfinite", torch.isfinite, "isfinite", compares=True)


@dataclass(frozen=True)
class Arithmetic(Pointwise):
    """An operation on two operands, or on one and the number `other`."""

    other: Number | Dim | None = None

    def infer(self, *operands: Any) -> TensorType:
        found = super().infer(*operands)
        if isinstance(self.other, float) and not self.compares and _integral(found.dtype):
            return TensorType(torch.get_default_dtype(), found.shape)
        if self.other is not None and found.dtype == torch.bool and not self.compares:
            plain = torch.bool if isinstance(self.other, bool) else torch.int64
            return TensorType(plain, found.shape)
        return found

    def second(self, rest: tuple[Any, ...]) -> Any:
        """The second operand: a tensor, or the number."""
        return rest[0] if rest else self.other


@dataclass(frozen=True)
class Add(Arithmetic):
    """`x + alpha * y`."""

    name = "add"
    aten = ("add.Tensor", "add.Scalar")
    alpha: Number = 1

    def linear(self) -> bool:
        return self.other is None

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.alpha == 1:
            return x + self.second(rest)  # type: ignore[no-any-return]
        return torch.add(x, self.second(rest), alpha=self.alpha)


@dataclass(frozen=True)
class Sub(Arithmetic):
    """`x - alpha * y`."""

    name = "sub"
    aten = ("sub.Tensor", "sub.Scalar", "subtract.Tensor", "subtract.Scalar")
    alpha: Number = 1

    def linear(self) -> bool:
        return self.other is None

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.alpha == 1:
            return x - self.second(rest)  # type: ignore[no-any-return]
        return torch.sub(x, self.second(rest), alpha=self.alpha)


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


@dataclass(frozen=True)
class Mul(Arithmetic):
    """`x * y`."""

    name = "mul"
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
        if self.rounding_mode is None and _integral(found.dtype):
            return TensorType(torch.get_default_dtype(), found.shape)
        return found

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.rounding_mode is None:
            return x / self.second(rest)  # type: ignore[no-any-return]
        return torch.div(x, self.second(rest), rounding_mode=self.rounding_mode)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        if call.base == "floor_divide":
            call.options["rounding_mode"] = "floor"
        return cls(**call.options)


def _binary(
    name: str, function: Callable[..., Any], aten: str, doc: str, **rest: Any
) -> type[Arithmetic]:
    """Declare an elementwise function of two operands, or of one and a number."""

    def to_torch(self: Arithmetic, x: Tensor, *rest: Tensor) -> Tensor:
        return function(x, self.second(rest))  # type: ignore[no-any-return]

    title = "".join(part.capitalize() for part in name.split("_"))
    body = {"__doc__": doc, "__module__": __name__, "name": name, "aten": tuple(aten.split()),
            "to_torch": to_torch, **rest}  # fmt: skip
    return dataclass(frozen=True)(type(title, (Arithmetic,), body))


Pow = _binary("pow", torch.pow, "pow.Tensor_Tensor pow.Tensor_Scalar pow.Scalar",
              "`x ** y`.", from_aten=classmethod(lambda cls, call: _exponent(cls, call)))
Rpow = _binary("rpow", lambda x, y: torch.pow(y, x), "", "`other ** x`.")
Remainder = _binary("remainder", torch.remainder, "remainder.Tensor remainder.Scalar", "`x % y`.")
Fmod = _binary("fmod", torch.fmod, "fmod.Tensor fmod.Scalar", "The remainder with `x`'s sign.")
Minimum = _binary("minimum", torch.minimum, "minimum.default min.other", "The smaller of two.")
Maximum = _binary("maximum", torch.maximum, "maximum.default max.other", "The larger of two.")
Atan2 = _binary("atan2", torch.atan2, "atan2.default arctan2.default", "The angle of `(y, x)`.",
                floats=True)  # fmt: skip
Hypot = _binary("hypot", torch.hypot, "hypot.default", "`sqrt(x² + y²)`.")
Logaddexp = _binary("logaddexp", torch.logaddexp, "logaddexp.default", "`log(exp(x) + exp(y))`.")
Copysign = _binary("copysign", torch.copysign, "copysign.Tensor copysign.Scalar",
                   "`x` with the sign of `y`.", floats=True)  # fmt: skip
Heaviside = _binary("heaviside", torch.heaviside, "heaviside.default",
                    "0 below zero, 1 above, `y` at zero.")  # fmt: skip
Eq = _binary("eq", torch.eq, "eq.Tensor eq.Scalar", "`x == y`.", compares=True)
Ne = _binary("ne", torch.ne, "ne.Tensor ne.Scalar not_equal.Tensor not_equal.Scalar",
             "`x != y`.", compares=True)  # fmt: skip
Lt = _binary("lt", torch.lt, "lt.Tensor lt.Scalar less.Tensor less.Scalar",
             "`x < y`.", compares=True)  # fmt: skip
Le = _binary("le", torch.le, "le.Tensor le.Scalar less_equal.Tensor less_equal.Scalar",
             "`x <= y`.", compares=True)  # fmt: skip
Gt = _binary("gt", torch.gt, "gt.Tensor gt.Scalar greater.Tensor greater.Scalar",
             "`x > y`.", compares=True)  # fmt: skip
Ge = _binary("ge", torch.ge, "ge.Tensor ge.Scalar greater_equal.Tensor greater_equal.Scalar",
             "`x >= y`.", compares=True)  # fmt: skip
And = _binary("and", torch.bitwise_and,
              "__and__.Tensor __and__.Scalar bitwise_and.Tensor bitwise_and.Scalar",
              "Bitwise and.")  # fmt: skip
Or = _binary("or", torch.bitwise_or,
             "__or__.Tensor __or__.Scalar bitwise_or.Tensor bitwise_or.Scalar",
             "Bitwise or.")  # fmt: skip
Xor = _binary("xor", torch.bitwise_xor,
              "__xor__.Tensor __xor__.Scalar bitwise_xor.Tensor bitwise_xor.Scalar",
              "Bitwise xor.")  # fmt: skip
LogicalAnd = _binary("logical_and", torch.logical_and, "logical_and.default", "Both.",
                     compares=True)  # fmt: skip
LogicalOr = _binary("logical_or", torch.logical_or, "logical_or.default", "Either.",
                    compares=True)  # fmt: skip
LogicalXor = _binary("logical_xor", torch.logical_xor, "logical_xor.default", "Either, not both.",
                     compares=True)  # fmt: skip


def _exponent(cls: type[Arithmetic], call: AtenCall) -> Op | None:
    """`pow` calls its number `exponent`, and `self` where it is the base."""
    if "self" in call.options:
        return Rpow(other=call.options["self"])
    return cls(other=call.options.get("exponent"))


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

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        del call.operands[1:]
        made = call.results[0].dtype
        if "dtype" not in call.options and made == call.types[0].dtype:
            return Identity()
        return cls(dtype=made)


def _integral(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex)
