"""ONNX operators that work element by element: functions, arithmetic, comparisons, casts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from netir.frontends.onnx.call import Call
from netir.frontends.onnx.linear import with_bias
from netir.frontends.onnx.tensors import dtype_of
from netir.frontends.onnx.value import Value
from netir.ops import Op, activation, arithmetic, create, pointwise, ternary
from netir.ops.pointwise import Number

Rule = Callable[[Call], Any]


def unary(cls: Callable[[], Op]) -> Rule:
    """A function of one operand without attributes."""
    return lambda call: call.emit(cls(), call[0])


def same(call: Call) -> Value:
    """The input as it is."""
    return call[0]


def _numbers(call: Call, left: Value, right: Value) -> tuple[Number | None, Number | None]:
    """Which of two operands is one number, with the other one left to give the shape."""
    second = right.number() if right.rank <= left.rank else None
    first = left.number() if left.rank <= right.rank and second is None else None
    whole = left.data is not None and right.data is not None
    return (None, None) if whole or left.dtype == torch.bool else (first, second)


def add(call: Call) -> Value:
    """A sum; what is added to a layer without a bias becomes its bias."""
    left, right = call[0], call[1]
    for layer, bias in ((left, right), (right, left)):
        found = with_bias(call, layer, bias)
        if found is not None:
            return found
    first, second = _numbers(call, left, right)
    if second is not None:
        return call.emit(arithmetic.Add(other=second), left)
    if first is not None:
        return call.emit(arithmetic.Add(other=first), right)
    return call.emit(arithmetic.Add(), left, right)


def mul(call: Call) -> Value:
    """A product."""
    first, second = _numbers(call, call[0], call[1])
    if second is not None:
        return call.emit(arithmetic.Mul(other=second), call[0])
    if first is not None:
        return call.emit(arithmetic.Mul(other=first), call[1])
    return call.emit(arithmetic.Mul(), call[0], call[1])


def sub(call: Call) -> Value:
    """A difference."""
    first, second = _numbers(call, call[0], call[1])
    if second is not None:
        return call.emit(arithmetic.Sub(other=second), call[0])
    if first is not None:
        return call.emit(arithmetic.Rsub(other=first), call[1])
    return call.emit(arithmetic.Sub(), call[0], call[1])


def div(call: Call) -> Value:
    """A quotient; whole numbers are rounded towards zero."""
    left, right = call[0], call[1]
    mode = None if left.dtype.is_floating_point else "trunc"
    first, second = _numbers(call, left, right)
    if second is not None and second != 0:
        return call.emit(arithmetic.Div(other=second, rounding_mode=mode), left)
    if first == 1 and mode is None:
        return call.emit(pointwise.Reciprocal(), right)
    return call.emit(arithmetic.Div(rounding_mode=mode), left, right)


def power(call: Call) -> Value:
    """A power, of the type of its base."""
    base, exponent = call[0], call[1]
    second = exponent.number() if exponent.rank <= base.rank else None
    if second is not None and base.data is None:
        if not base.dtype.is_floating_point and isinstance(second, float):
            base = call.cast(base, torch.float64)
        found = call.emit(arithmetic.Pow(other=second), base)
    elif base.number() is not None and base.rank <= exponent.rank and exponent.data is None:
        found = call.emit(arithmetic.Rpow(other=base.number()), exponent)
    else:
        found = call.emit(arithmetic.Pow(), base, exponent)
    return call.cast(found, call[0].dtype)


def modulo(call: Call) -> Value:
    """A remainder, with the sign of the divisor, or of the dividend for `fmod`."""
    cls = arithmetic.Fmod if call.integer("fmod") else arithmetic.Remainder
    return call.emit(cls(), call[0], call[1])


def comparison(cls: Callable[..., Op], mirrored: Callable[..., Op]) -> Rule:
    """A comparison, also with a number on either side."""

    def rule(call: Call) -> Value:
        first, second = _numbers(call, call[0], call[1])
        if second is not None:
            return call.emit(cls(other=second), call[0])
        if first is not None:
            return call.emit(mirrored(other=first), call[1])
        return call.emit(cls(), call[0], call[1])

    return rule


def pair(cls: Callable[[], Op]) -> Rule:
    """An operation on two tensors."""
    return lambda call: call.emit(cls(), call[0], call[1])


def chain(cls: Callable[[], Op], clamp: str = "") -> Rule:
    """An operation on any number of tensors; with one number it is a clamp."""

    def rule(call: Call) -> Value:
        total, *rest = call.tensors()
        for value in rest:
            first, second = _numbers(call, total, value)
            if clamp and second is not None:
                total = call.emit(activation.Clamp(**{clamp: second}), total)
            elif clamp and first is not None:
                total = call.emit(activation.Clamp(**{clamp: first}), value)
            else:
                total = call.emit(cls(), total, value)
        return total

    return rule


def mean(call: Call) -> Value:
    """The mean of several tensors."""
    total = chain(arithmetic.Add)(call)
    return call.emit(arithmetic.Div(other=float(len(call.inputs))), total)


def where(call: Call) -> Value:
    """One of two tensors at each place."""
    condition, x, y = call[0], call[1], call[2]
    if condition.data is None and x.data is not None:
        first = x.number()
        if first is not None and x.rank <= max(condition.rank, y.rank):
            return call.cast(call.emit(ternary.Where(x=first), condition, y), x.dtype)
    return call.emit(ternary.Where(), condition, x, y)


def cast(call: Call) -> Value:
    """Another element type."""
    to = dtype_of(call.integer("to"), call.where())
    return _cast(call, to)


def cast_like(call: Call) -> Value:
    """The element type of another tensor."""
    return _cast(call, call[1].dtype)


def _cast(call: Call, to: torch.dtype) -> Value:
    if torch.float8_e4m3fn in (to, call[0].dtype) or torch.float8_e5m2 in (to, call[0].dtype):
        call.refuse("to or from floats of 8 bits cannot be read", "export the model in 16 bits")
    found = call.cast(call[0], to)
    if found is not call[0] and call[0].sizes is not None:
        found.counted = call[0]
    return found


def dropout(call: Call) -> Any:
    """Dropout as in eval mode; its ratio is kept for training."""
    mode = call.maybe(2)
    if mode is not None and (mode.data is None or bool(mode.data.any())):
        call.refuse("is in training mode", "export the model in eval mode")
    ratio = call.number("ratio", 0.5) if call.version < 12 else 0.5
    if call.version >= 12 and call.given(1):
        ratio = float(call.content(1))
    found = call.emit(activation.Dropout(ratio), call[0]) if call[0].data is None else call[0]
    if call.outputs() == 1:
        return found
    kind = torch.bool if call.version >= 10 else call[0].dtype
    return found, call.emit(create.Full(call[0].shape, 1 if kind != torch.bool else True, kind))


def clip(call: Call) -> Value:
    """Bounds, which are attributes before opset 11 and may be operands since."""
    if call.version < 11:
        bounds = [call.number_or_none("min"), call.number_or_none("max")]
        return call.emit(activation.Clamp(*bounds), call[0])
    low, high = call.maybe(1), call.maybe(2)
    given = [None if v is None else v.number() for v in (low, high)]
    if all(v is None or n is not None for v, n in zip((low, high), given, strict=True)):
        return call[0] if given == [None, None] else call.emit(activation.Clamp(*given), call[0])
    found = call[0] if low is None else call.emit(arithmetic.Maximum(), call[0], low)
    return found if high is None else call.emit(arithmetic.Minimum(), found, high)


def is_infinite(call: Call) -> Value:
    """Whether numbers are infinite, of either sign or of one."""
    low, high = call.integer("detect_negative", 1), call.integer("detect_positive", 1)
    if low and high:
        return call.emit(pointwise.IsInf(), call[0])
    if not low and not high:
        return call.emit(create.Full(call[0].shape, False, torch.bool))
    return call.emit(arithmetic.Eq(other=float("inf" if high else "-inf")), call[0])


def leaky_relu(call: Call) -> Value:
    return call.emit(activation.LeakyRelu(call.number("alpha", 0.01)), call[0])


def elu(call: Call) -> Value:
    return call.emit(activation.Elu(call.number("alpha", 1.0)), call[0])


def celu(call: Call) -> Value:
    return call.emit(activation.Celu(call.number("alpha", 1.0)), call[0])


def selu(call: Call) -> Value:
    """A scaled exponential unit; with torch's constants it is torch's."""
    alpha, gamma = call.number("alpha", 1.6732632), call.number("gamma", 1.050701)
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.050701) < 1e-6:
        return call.emit(pointwise.Selu(), call[0])
    return call.emit(activation.Elu(alpha, gamma), call[0])


def softplus(call: Call) -> Value:
    return call.emit(activation.Softplus(), call[0])


def softsign(call: Call) -> Value:
    """`x / (1 + |x|)`."""
    scale = call.emit(arithmetic.Add(other=1), call.emit(pointwise.Abs(), call[0]))
    return call.emit(arithmetic.Div(), call[0], scale)


def thresholded_relu(call: Call) -> Value:
    return call.emit(activation.Threshold(call.number("alpha", 1.0), 0), call[0])


def hard_sigmoid(call: Call) -> Value:
    """A line cut at 0 and 1."""
    alpha, beta = call.number("alpha", 0.2), call.number("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return call.emit(pointwise.Hardsigmoid(), call[0])
    line = call.emit(arithmetic.Mul(other=alpha), call[0])
    return call.emit(activation.Clamp(0, 1), call.emit(arithmetic.Add(other=beta), line))


def shrink(call: Call) -> Value:
    """Zero near zero; the rest moved towards it by the bias."""
    bias, edge = call.number("bias", 0.0), call.number("lambd", 0.5)
    if bias == edge:
        return call.emit(activation.Softshrink(edge), call[0])
    if bias:
        call.refuse("has a bias that is not its threshold", "use a bias of 0 or of lambd")
    return call.emit(activation.Hardshrink(edge), call[0])


def gelu(call: Call) -> Value:
    return call.emit(activation.Gelu(call.text("approximate", "none")), call[0])


def swish(call: Call) -> Value:
    """`x * sigmoid(alpha * x)`."""
    alpha = call.number("alpha", 1.0)
    if alpha == 1:
        return call.emit(pointwise.Silu(), call[0])
    gate = call.emit(pointwise.Sigmoid(), call.emit(arithmetic.Mul(other=alpha), call[0]))
    return call.emit(arithmetic.Mul(), call[0], gate)


def prelu(call: Call) -> Value:
    """A slope for negative numbers: of each channel, or any that broadcasts."""
    x, slope = call[0], call[1]
    channels = x.shape[1] if x.rank > 1 else None
    count = slope.shape[0] if slope.rank and slope.rank == x.rank - 1 else None
    if slope.data is not None and slope.data.numel() == 1:
        return call.emit(activation.Prelu(), x, call.reshaped(slope, (1,)))
    if count is not None and count == channels and all(s == 1 for s in slope.shape[1:]):
        return call.emit(activation.Prelu(), x, call.reshaped(slope, (count,)))
    negative = call.emit(arithmetic.Lt(other=0), x)
    return call.emit(ternary.Where(), negative, call.emit(arithmetic.Mul(), x, slope), x)
