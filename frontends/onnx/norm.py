"""ONNX normalisations."""

from __future__ import annotations

from typing import Any

from netir.frontends.onnx.call import Call
from netir.frontends.onnx.value import Value
from netir.ops import arithmetic, measure, norm, pointwise, pool, reduce
from netir.ops.activation import Clamp
from netir.ops.move import Pad
from netir.ops.shape import Squeeze, Unsqueeze


def batch_norm(call: Call) -> Value:
    """Normalisation by running statistics."""
    if call.integer("training_mode") or (call.version < 14 and call.outputs() > 1):
        call.refuse("is in training mode", "export the model in eval mode")
    if call.version < 9 and call.integer("spatial", 1) != 1:
        call.refuse("normalises every position by itself", "export the model with opset 9 or more")
    vectors = [call.cast(call[i], call[0].dtype) for i in range(1, 5)]
    momentum, eps = round(1 - call.number("momentum", 0.9), 9), call.number("epsilon", 1e-5)
    if any(call[i].data is None for i in (3, 4)):
        return _by_computed(call, call[0], vectors, eps)
    return call.emit(norm.BatchNorm(momentum, eps), call[0], *vectors)


def _by_computed(call: Call, x: Value, vectors: list[Value], eps: float) -> Value:
    """Batch norm by statistics that the network computes, which nothing keeps."""
    spread = (x.shape[1], *(1,) * (x.rank - 2))
    weight, bias, mean, variance = (call.reshaped(v, spread) for v in vectors)
    scale = call.emit(pointwise.Rsqrt(), call.emit(arithmetic.Add(other=eps), variance))
    found = call.emit(arithmetic.Mul(), call.emit(arithmetic.Sub(), x, mean), scale)
    return call.emit(arithmetic.Add(), call.emit(arithmetic.Mul(), found, weight), bias)


def instance_norm(call: Call) -> Value:
    """Every channel of every sample by itself."""
    op = norm.InstanceNorm(eps=call.number("epsilon", 1e-5))
    return call.emit(op, call[0], call[1], call[2])


def group_norm(call: Call) -> Value:
    """Groups of channels; opset 18 has one scale for each group instead of each channel."""
    x, scale, bias = call[0], call[1], call[2]
    groups, channels = call.integer("num_groups"), x.shape[1]
    op = norm.GroupNorm(groups, call.number("epsilon", 1e-5))
    if call.version >= 21 or scale.shape == (channels,):
        return call.emit(op, x, scale, bias)
    found = call.emit(op, x)
    grouped = (x.shape[0], groups, channels // groups, *x.shape[2:])
    spread = (groups, *(1,) * (len(grouped) - 2))
    found = call.emit(arithmetic.Mul(), call.reshaped(found, grouped), call.reshaped(scale, spread))
    found = call.emit(arithmetic.Add(), found, call.reshaped(bias, spread))
    return call.reshaped(found, x.shape)


def _last(call: Call, x: Value, default: int = -1) -> tuple[int, ...]:
    axis = call.axis(x.rank, default)
    shape = x.shape[axis:]
    if not all(isinstance(s, int) for s in shape):
        call.refuse("is over an axis of open size", "fix the size when exporting")
    return tuple(int(s) for s in shape)  # type: ignore[arg-type]


def layer_norm(call: Call) -> Any:
    """The last axes from `axis` on; the statistics too, where they are read."""
    x, scale, bias = call[0], call[1], call.maybe(2)
    shape, eps = _last(call, x), call.number("epsilon", 1e-5)
    fits = scale.shape == shape and (bias is None or bias.shape == shape)
    found = call.emit(norm.LayerNorm(shape, eps), x, *(v for v in (scale, bias) if fits))
    if not fits:
        found = call.emit(arithmetic.Mul(), found, scale)
        found = found if bias is None else call.emit(arithmetic.Add(), found, bias)
    if call.outputs() == 1:
        return found
    dims = tuple(range(x.rank - len(shape), x.rank))
    mean = call.emit(reduce.Mean(dims, True), x)
    variance = call.emit(measure.Var(dims, True, 0), x)
    shifted = call.emit(arithmetic.Add(other=eps), variance)
    return found, mean, call.emit(pointwise.Rsqrt(), shifted)


def rms_norm(call: Call) -> Value:
    """Division by the root of the mean square over the last axes."""
    x, scale = call[0], call[1]
    shape, eps = _last(call, x), call.number("epsilon", 1e-5)
    if scale.shape == shape:
        return call.emit(norm.RmsNorm(shape, eps), x, scale)
    return call.emit(arithmetic.Mul(), call.emit(norm.RmsNorm(shape, eps), x), scale)


def lp_norm(call: Call) -> Value:
    """Vectors along an axis divided by their length; those of length 0 stay."""
    x, order = call[0], call.integer("p", 2)
    axis = call.axis(x.rank, -1)
    size = call.emit(measure.VectorNorm((axis,), True, order), x)
    safe = call.emit(Clamp(min=1e-38), size)
    return call.emit(arithmetic.Div(), x, safe)


def mean_variance(call: Call) -> Value:
    """Mean 0 and variance 1 over some axes."""
    x = call[0]
    axes = call.integers("axes") or (0, 2, 3)
    dims = tuple(sorted(call.front(a, x.rank) for a in axes))
    centred = call.emit(arithmetic.Sub(), x, call.emit(reduce.Mean(dims, True), x))
    spread = call.emit(reduce.Mean(dims, True), call.emit(pointwise.Square(), centred))
    root = call.emit(arithmetic.Add(other=1e-9), call.emit(pointwise.Sqrt(), spread))
    return call.emit(arithmetic.Div(), centred, root)


def local_response(call: Call) -> Value:
    """Division by a power of the sum of squares of neighbouring channels."""
    x, size = call[0], call.integer("size", 1)
    if x.rank != 4:
        call.refuse(f"over a tensor of {x.rank} dimensions", "it is read over images only")
    square = call.emit(Unsqueeze(1), call.emit(pointwise.Square(), x))
    before = (size - 1) // 2
    square = call.emit(Pad((0, 0, 0, 0, before, size - 1 - before)), square)
    means = call.emit(pool.AvgPool(3, (size, 1, 1), (1, 1, 1), (0, 0, 0)), square)
    means = call.emit(Squeeze((1,)), means)
    line = call.emit(arithmetic.Mul(other=call.number("alpha", 1e-4)), means)
    line = call.emit(arithmetic.Add(other=call.number("bias", 1.0)), line)
    scale = call.emit(arithmetic.Pow(other=call.number("beta", 0.75)), line)
    return call.emit(arithmetic.Div(), x, scale)
