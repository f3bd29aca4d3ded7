"""ONNX operators that summarise axes: reductions, softmax, places of extremes, running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from netir.dims import product
from netir.frontends.onnx.call import Call
from netir.frontends.onnx.value import Value
from netir.ops import Op, arithmetic, measure, order, pointwise, reduce
from netir.ops.activation import Clamp
from netir.ops.create import Arange
from netir.ops.move import Flip, Pad
from netir.ops.slices import Slice

Rule = Callable[[Call], Any]


def _dims(call: Call, before: int) -> tuple[int, ...] | None:
    """The axes to reduce, in order; None where nothing is to be done."""
    x = call[0]
    axes = call.choice(1, "axes", before)
    if not axes and call.integer("noop_with_empty_axes") and call.version >= before:
        return None
    chosen = axes or range(x.rank)
    return tuple(sorted({call.front(a, x.rank) for a in chosen})) if x.rank else None


def reduction(
    cls: Callable[..., Op], before: int = 18, first: Any = None, last: Any = None
) -> Rule:
    """A reduction, with what is done to the elements first and to the result last."""

    def rule(call: Call) -> Value:
        dims, keep = _dims(call, before), bool(call.integer("keepdims", 1))
        x = call[0] if first is None else call.emit(first(), call[0])
        found = x if dims is None else call.emit(cls(dims, keep), _countable(call, cls, x))
        found = found if last is None else call.emit(last(), found)
        return call.cast(found, call[0].dtype)

    return rule


def _countable(call: Call, cls: Any, x: Value) -> Value:
    """What torch can reduce: a mean of floats, extremes of numbers."""
    if cls is reduce.Mean and not x.dtype.is_floating_point:
        return call.cast(x, torch.float64)
    if cls in (reduce.Amax, reduce.Amin) and x.dtype == torch.bool:
        return call.cast(x, torch.uint8)
    return x


def product_of(call: Call) -> Value:
    """A product over axes, one after another."""
    dims, keep = _dims(call, 18), bool(call.integer("keepdims", 1))
    found = call[0]
    for dim in reversed(dims or ()):
        found = call.emit(reduce.Prod((dim,), keep), found)
    return call.cast(found, call[0].dtype)


def norm(order_: int) -> Rule:
    """A sum of absolute values, or the root of a sum of squares."""

    def rule(call: Call) -> Value:
        dims, keep = _dims(call, 18), bool(call.integer("keepdims", 1))
        x = call[0]
        if dims is None:
            return call.emit(pointwise.Abs(), x)
        if not x.dtype.is_floating_point:
            x = call.cast(x, torch.float64)
        found = call.emit(measure.VectorNorm(dims, keep, order_), x)
        return call.cast(found, call[0].dtype)

    return rule


def softmax(log: bool) -> Rule:
    """Softmax along an axis; before opset 13, over that axis and all behind it as one."""

    def rule(call: Call) -> Value:
        x = call[0]
        axis = call.axis(x.rank, 1 if call.version < 13 else -1)
        rest = product(x.shape[axis + 1 :])
        if call.version >= 13 or rest == 1:
            return call.emit(reduce.Softmax(axis, log), x)
        flat = call.reshaped(x, (product(x.shape[:axis]), x.shape[axis] * rest))
        return call.reshaped(call.emit(reduce.Softmax(1, log), flat), x.shape)

    return rule


def hardmax(call: Call) -> Value:
    """1 where the largest value along an axis is first met."""
    x = call[0]
    axis = call.axis(x.rank, 1 if call.version < 13 else -1)
    flat = x
    if call.version < 13:
        flat = call.reshaped(x, (product(x.shape[:axis]), product(x.shape[axis:])))
        axis = 1
    size = flat.shape[axis]
    best = call.emit(order.Argmax(axis, True), flat)
    places = call.emit(Arange(0, size, 1, size))
    places = call.reshaped(places, (size, *(1,) * (flat.rank - axis - 1)))
    found = call.cast(call.emit(arithmetic.Eq(), best, places), x.dtype)
    return call.reshaped(found, x.shape)


def place(cls: Callable[..., Op]) -> Rule:
    """Where along an axis the extreme value is, the first or the last one."""

    def rule(call: Call) -> Value:
        x, keep = call[0], bool(call.integer("keepdims", 1))
        axis = call.axis(x.rank, 0)
        if not call.integer("select_last_index"):
            return call.emit(cls(axis, keep), x)
        found = call.emit(cls(axis, keep), call.emit(Flip((axis,)), x))
        size = x.shape[axis]
        if isinstance(size, int):
            return call.emit(arithmetic.Rsub(other=size - 1), found)
        return call.emit(arithmetic.Add(other=size - 1), call.emit(pointwise.Neg(), found))

    return rule


def top_k(call: Call) -> Any:
    """The largest or smallest values along an axis, and where they are."""
    x = call[0]
    k = call.integer("k") if call.version < 10 else call.sizes(1)[0]
    axis = call.axis(x.rank, -1)
    largest, ordered = bool(call.integer("largest", 1)), bool(call.integer("sorted", 1))
    if k == x.shape[axis]:
        return call.results(order.Sort(axis, largest, stable=True), x)
    return call.results(order.TopK(k, axis, largest, ordered), x)


def running(cls: Callable[..., Op], start: int) -> Rule:
    """Running sums or products along an axis, from either end, with or without the element."""

    def rule(call: Call) -> Value:
        x, axis = call[0], call.front(call.whole(1)[0], call[0].rank)
        back = call.integer("reverse")
        found = call.emit(Flip((axis,)), x) if back else x
        found = call.emit(cls(axis), found)
        if call.integer("exclusive"):
            pads = (0, 0) * (x.rank - axis - 1) + (1, 0)
            found = call.emit(Pad(pads, value=start), found)
            found = call.emit(Slice(axis, 0, x.shape[axis]), found)
        found = call.emit(Flip((axis,)), found) if back else found
        return call.cast(found, x.dtype)

    return rule


def normalise_rows(call: Call) -> Value:
    """Rows divided by their largest value, their sum of absolutes, or their length."""
    x, kind = call[0], call.text("norm", "MAX")
    x = call.cast(x, torch.float32)
    dims = (x.rank - 1,)
    if kind == "MAX":
        size = call.emit(reduce.Amax(dims, True), x)
    else:
        size = call.emit(measure.VectorNorm(dims, True, 1 if kind == "L1" else 2), x)
        size = call.emit(Clamp(min=1e-38), size)
    return call.emit(arithmetic.Div(), x, size)


