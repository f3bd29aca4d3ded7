"""Elementwise ops: activations, arithmetic with broadcasting, comparisons, dropout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

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

    def infer(self, *operands: TensorType | None) -> TensorType:
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

    targets = tuple(f"{base}{end}.default" for base in aten.split() for end in ("", "_"))
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
Sin = _unary("sin", torch.sin, "sin", floats=True)
Cos = _unary("cos", torch.cos, "cos", floats=True)
Abs = _unary("abs", torch.abs, "abs")
Sign = _unary("sign", torch.sign, "sign")
Square = _unary("square", torch.square, "square")
Floor = _unary("floor", torch.floor, "floor")
Ceil = _unary("ceil", torch.ceil, "ceil")
Round = _unary("round", torch.round, "round")
Neg = _unary("neg", torch.neg, "neg", linear=_yes)
Identity = _unary("identity", lambda x: x, "alias contiguous clone detach lift_fresh_copy",
                  linear=_yes)  # fmt: skip
LogicalNot = _unary("logical_not", torch.logical_not, "logical_not", compares=True)
BitwiseNot = _unary("bitwise_not", torch.bitwise_not, "bitwise_not")
IsNan = _unary("isnan", torch.isnan, "isnan", compares=True)


@dataclass(frozen=True)
class Gelu(Pointwise):
    """The Gaussian error linear unit, exact or by tanh."""

    name = "gelu"
    aten = ("gelu.default", "gelu_.default")
    approximate: str = "none"

    def to_torch(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)


@dataclass(frozen=True)
class LeakyRelu(Pointwise):
    """ReLU with a slope for negative values."""

    name = "leaky_relu"
    aten = ("leaky_relu.default", "leaky_relu_.default")
    negative_slope: Number = 0.01

    def to_torch(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)


@dataclass(frozen=True)
class Elu(Pointwise):
    """The exponential linear unit, with scales for output and input."""

    name = "elu"
    aten = ("elu.default", "elu_.default")
    alpha: Number = 1.0
    scale: Number = 1
    input_scale: Number = 1

    def to_torch(self, x: Tensor) -> Tensor:
        if self.scale == 1 and self.input_scale == 1:
            return F.elu(x, self.alpha)
        return torch.ops.aten.elu.default(x, self.alpha, self.scale, self.input_scale)


@dataclass(frozen=True)
class Celu(Pointwise):
    """The continuously differentiable exponential linear unit."""

    name = "celu"
    aten = ("celu.default", "celu_.default")
    alpha: Number = 1.0

    def to_torch(self, x: Tensor) -> Tensor:
        return F.celu(x, self.alpha)


@dataclass(frozen=True)
class Hardtanh(Pointwise):
    """Clip to a range; ReLU6 is this from 0 to 6."""

    name = "hardtanh"
    aten = ("hardtanh.default", "hardtanh_.default")
    min_val: Number = -1
    max_val: Number = 1

    def to_torch(self, x: Tensor) -> Tensor:
        return F.hardtanh(x, self.min_val, self.max_val)


@dataclass(frozen=True)
class Softplus(Pointwise):
    """A smooth ReLU."""

    name = "softplus"
    aten = ("softplus.default",)
    beta: Number = 1
    threshold: Number = 20

    def to_torch(self, x: Tensor) -> Tensor:
        return F.softplus(x, self.beta, self.threshold)


@dataclass(frozen=True)
class Clamp(Pointwise):
    """Clip to a range of which one end may be open."""

    name = "clamp"
    aten = ("clamp.default", "clamp_.default", "clamp_min.default", "clamp_max.default")
    min: Number | None = None
    max: Number | None = None

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.clamp(x, min=self.min, max=self.max)


@dataclass(frozen=True)
class Prelu(Op):
    """ReLU with a learned slope for negative values, one or one for each channel."""

    name = "prelu"
    aten = ("prelu.default",)
    fills = {1: 0.25}

    def layouts(self, site: Any) -> Any:
        shared = not site.shape(1)[0]
        return site.apply("..., _ -> ..." if shared else "n c ..., c -> n c ...")

    def infer(self, x: TensorType, weight: TensorType) -> TensorType:
        return x

    def to_torch(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.prelu(x, weight)


@dataclass(frozen=True)
class Arithmetic(Pointwise):
    """An operation on two operands, or on one and the number `other`."""

    other: Number | Dim | None = None

    def infer(self, *operands: TensorType | None) -> TensorType:
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
    aten = ("add.Tensor", "add_.Tensor", "add.Scalar", "add_.Scalar")
    alpha: Number = 1

    def linear(self) -> bool:
        return self.other is None

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.alpha == 1:
            return x + self.second(rest)
        return torch.add(x, self.second(rest), alpha=self.alpha)


@dataclass(frozen=True)
class Sub(Arithmetic):
    """`x - alpha * y`."""

    name = "sub"
    aten = ("sub.Tensor", "sub_.Tensor", "sub.Scalar", "sub_.Scalar")
    alpha: Number = 1

    def linear(self) -> bool:
        return self.other is None

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.alpha == 1:
            return x - self.second(rest)
        return torch.sub(x, self.second(rest), alpha=self.alpha)


@dataclass(frozen=True)
class Rsub(Arithmetic):
    """`other - alpha * x`."""

    name = "rsub"
    aten = ("rsub.Scalar",)
    alpha: Number = 1

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.alpha == 1:
            return self.second(rest) - x
        return torch.rsub(x, self.second(rest), alpha=self.alpha)


@dataclass(frozen=True)
class Mul(Arithmetic):
    """`x * y`."""

    name = "mul"
    aten = ("mul.Tensor", "mul_.Tensor", "mul.Scalar", "mul_.Scalar")

    def linear(self) -> bool:
        return self.other is not None

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        return x * self.second(rest)


@dataclass(frozen=True)
class Div(Arithmetic):
    """`x / y`, or rounded down (`floor`) or towards zero (`trunc`)."""

    name = "div"
    aten = ("div.Tensor", "div_.Tensor", "div.Scalar", "div_.Scalar", "div.Tensor_mode",
            "div.Scalar_mode", "floor_divide.default")  # fmt: skip
    rounding_mode: str | None = None

    def linear(self) -> bool:
        return self.other is not None and self.rounding_mode is None

    def infer(self, *operands: TensorType | None) -> TensorType:
        found = super().infer(*operands)
        if self.rounding_mode is None and _integral(found.dtype):
            return TensorType(torch.get_default_dtype(), found.shape)
        return found

    def to_torch(self, x: Tensor, *rest: Tensor) -> Tensor:
        if self.rounding_mode is None:
            return x / self.second(rest)
        return torch.div(x, self.second(rest), rounding_mode=self.rounding_mode)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        if call.target.startswith("floor_divide"):
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


Pow = _binary("pow", torch.pow, "pow.Tensor_Tensor pow.Tensor_Scalar pow.Scalar pow_.Scalar",
              "`x ** y`.", from_aten=classmethod(lambda cls, call: _exponent(cls, call)))
Rpow = _binary("rpow", lambda x, y: torch.pow(y, x), "", "`other ** x`.")
Remainder = _binary("remainder", torch.remainder, "remainder.Tensor remainder.Scalar", "`x % y`.")
Fmod = _binary("fmod", torch.fmod, "fmod.Tensor fmod.Scalar", "The remainder with `x`'s sign.")
Minimum = _binary("minimum", torch.minimum, "minimum.default min.other", "The smaller of two.")
Maximum = _binary("maximum", torch.maximum, "maximum.default max.other", "The larger of two.")
Atan2 = _binary("atan2", torch.atan2, "atan2.default", "The angle of `(y, x)`.", floats=True)
Eq = _binary("eq", torch.eq, "eq.Tensor eq.Scalar", "`x == y`.", compares=True)
Ne = _binary("ne", torch.ne, "ne.Tensor ne.Scalar", "`x != y`.", compares=True)
Lt = _binary("lt", torch.lt, "lt.Tensor lt.Scalar", "`x < y`.", compares=True)
Le = _binary("le", torch.le, "le.Tensor le.Scalar", "`x <= y`.", compares=True)
Gt = _binary("gt", torch.gt, "gt.Tensor gt.Scalar", "`x > y`.", compares=True)
Ge = _binary("ge", torch.ge, "ge.Tensor ge.Scalar", "`x >= y`.", compares=True)
And = _binary("and", torch.bitwise_and,
              "__and__.Tensor __and__.Scalar bitwise_and.Tensor bitwise_and.Scalar",
              "Bitwise and.")  # fmt: skip
Or = _binary("or", torch.bitwise_or,
             "__or__.Tensor __or__.Scalar bitwise_or.Tensor bitwise_or.Scalar",
             "Bitwise or.")  # fmt: skip
Xor = _binary("xor", torch.bitwise_xor, "__xor__.Tensor bitwise_xor.Tensor", "Bitwise xor.")
LogicalAnd = _binary("logical_and", torch.logical_and, "logical_and.default", "Both.",
                     compares=True)  # fmt: skip
LogicalOr = _binary("logical_or", torch.logical_or, "logical_or.default", "Either.",
                    compares=True)  # fmt: skip


def _exponent(cls: type[Arithmetic], call: AtenCall) -> Op | None:
    """`pow` calls its number `exponent`, and `self` where it is the base."""
    if "self" in call.options:
        return Rpow(other=call.options["self"])
    return cls(other=call.options.get("exponent"))


@dataclass(frozen=True)
class Where(Pointwise):
    """`x` where a condition holds, else `y`; either may be a number."""

    name = "where"
    aten = ("where.self", "where.ScalarOther", "where.ScalarSelf")
    x: Number | None = None
    y: Number | None = None

    def infer(self, condition: TensorType, *rest: TensorType | None) -> TensorType:
        given = [o for o in rest if o is not None]
        shape = broadcast(condition.shape, *(o.shape for o in given))
        return TensorType(promote(*given), shape)

    def to_torch(self, condition: Tensor, *rest: Tensor) -> Tensor:
        left = list(rest)
        x = left.pop(0) if self.x is None else self.x
        return torch.where(condition, x, left[0] if left else self.y)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        renamed = {"self": "x", "other": "y"}
        return cls(**{renamed.get(k, k): v for k, v in call.options.items()})


@dataclass(frozen=True)
class MaskedFill(Pointwise):
    """`x` with `value` put where a mask holds."""

    name = "masked_fill"
    aten = ("masked_fill.Scalar", "masked_fill_.Scalar", "masked_fill.Tensor")
    value: Number = 0

    def infer(self, x: TensorType, mask: TensorType, *_: TensorType) -> TensorType:
        return TensorType(x.dtype, broadcast(x.shape, mask.shape))

    def to_torch(self, x: Tensor, mask: Tensor, *rest: Tensor) -> Tensor:
        return torch.masked_fill(x, mask, rest[0] if rest else self.value)


@dataclass(frozen=True)
class Cast(Pointwise):
    """Change the element type."""

    name = "cast"
    aten = ("to.dtype", "to.dtype_layout", "to.device", "to.other", "_to_copy.default",
            "type_as.default")  # fmt: skip
    dtype: torch.dtype = torch.float32

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType, *_: TensorType) -> TensorType:
        return TensorType(self.dtype, x.shape)

    def to_torch(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        dtype = call.options.get("dtype")
        del call.operands[1:]
        return Identity() if dtype is None else cls(dtype=dtype)


@dataclass(frozen=True)
class Dropout(Pointwise):
    """Zero elements at random in train mode; nothing in eval mode."""

    name = "dropout"
    aten = ("dropout.default", "dropout_.default")
    p: float = 0.5

    def linear(self) -> bool:
        return True

    def to_torch(self, x: Tensor) -> Tensor:
        return x

    def to_module(self) -> nn.Module | None:
        return nn.Dropout(self.p)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return None if call.options.pop("train", False) else cls(**call.options)


@dataclass(frozen=True)
class FeatureDropout(Dropout):
    """Zero whole channels at random in train mode; nothing in eval mode."""

    name = "feature_dropout"
    aten = ("feature_dropout.default", "feature_dropout_.default")

    def to_module(self) -> nn.Module | None:
        return nn.Dropout2d(self.p)


@dataclass(frozen=True)
class AlphaDropout(Dropout):
    """Dropout that keeps mean and variance, in train mode; nothing in eval mode."""

    name = "alpha_dropout"
    aten = ("alpha_dropout.default", "alpha_dropout_.default")

    def to_module(self) -> nn.Module | None:
        return nn.AlphaDropout(self.p)


def _integral(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex)
