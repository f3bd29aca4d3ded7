"""ONNX convolutions and pools, with the padding that they write in four ways."""

from __future__ import annotations

from typing import Any

import torch

from netir.dims import Dim, maximum, product
from netir.frontends.onnx.call import Call
from netir.frontends.onnx.value import Value
from netir.ops import arithmetic, pointwise
from netir.ops import conv as convs
from netir.ops import pool as pools
from netir.ops.create import Arange, Full
from netir.ops.measure import VectorNorm
from netir.ops.move import Pad
from netir.ops.reduce import Amax, Mean

Pads = list[tuple[Dim, Dim]]


def conv(call: Call) -> Value:
    """A convolution; uneven padding becomes an op of its own."""
    x, weight = call[0], call[1]
    rank, kernel = x.rank - 2, weight.shape[2:]
    if not 1 <= rank <= 3:
        call.refuse(f"has {rank} spatial axes", "convolutions have one to three")
    stride, dilation = _each(call, "strides", rank), _each(call, "dilations", rank)
    pads = padding(call, x.shape[2:], kernel, stride, dilation)
    x, even = _even(call, x, pads)
    op = convs.Conv(rank, stride, even, dilation, call.integer("group", 1))
    return call.emit(op, x, weight, call.maybe(2))


def conv_transpose(call: Call) -> Value:
    """The transpose of a convolution; what uneven padding takes away is cut off."""
    x, weight = call[0], call[1]
    rank, kernel = x.rank - 2, weight.shape[2:]
    if not 1 <= rank <= 3:
        call.refuse(f"has {rank} spatial axes", "convolutions have one to three")
    stride, dilation = _each(call, "strides", rank), _each(call, "dilations", rank)
    extra = call.integers("output_padding") or (0,) * rank
    whole: list[Dim] = [
        (s - 1) * step + d * (k - 1) + 1 + e
        for s, k, step, d, e in zip(x.shape[2:], kernel, stride, dilation, extra, strict=True)
    ]
    pads = _transposed_pads(call, x.shape[2:], whole, stride)
    group = call.integer("group", 1)
    even = tuple(min(a, b) if isinstance(a, int) and isinstance(b, int) else 0 for a, b in pads)
    fits = all(e == 0 or e < s or e < d for e, s, d in zip(extra, stride, dilation, strict=True))
    if fits and all(a == b for a, b in pads) and all(p >= 0 for p in even):
        op = convs.ConvTranspose(rank, stride, even, extra, group, dilation)
        return call.emit(op, x, weight, call.maybe(2))
    found = call.emit(
        convs.ConvTranspose(rank, stride, (0,) * rank, (0,) * rank, group, dilation), x, weight
    )
    trims: Pads = [(-a, e - b) for (a, b), e in zip(pads, extra, strict=True)]
    found = _padded(call, found, trims, 0)
    bias = call.maybe(2)
    if bias is None:
        return found
    return call.emit(
        arithmetic.Add(), found, call.reshaped(bias, (bias.shape[0], *(1,) * rank))
    )


def _transposed_pads(
    call: Call, sizes: tuple[Dim, ...], whole: list[Dim], stride: tuple[int, ...]
) -> Pads:
    """What is cut off at both ends."""
    wanted = call.integers("output_shape")
    auto = call.text("auto_pad", "NOTSET")
    if wanted is not None:
        totals: list[Dim] = [w - o for w, o in zip(whole, wanted[-len(whole) :], strict=True)]
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [w - s * step for w, s, step in zip(whole, sizes, stride, strict=True)]
    else:
        return _pairs(call, len(whole))
    upper = auto != "SAME_LOWER" if wanted is None else auto == "SAME_UPPER"
    halves = [(t // 2, t - t // 2) for t in totals]
    if wanted is not None and not upper:
        return [(b, a) for a, b in halves]
    return halves if upper else [(b, a) for a, b in halves]


def padding(
    call: Call,
    sizes: tuple[Dim, ...],
    kernel: tuple[Dim, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Pads:
    """What is added at both ends of each spatial axis."""
    auto = call.text("auto_pad", "NOTSET")
    if auto == "VALID":
        return [(0, 0)] * len(sizes)
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        return _pairs(call, len(sizes))
    found: Pads = []
    for size, k, step, d in zip(sizes, kernel, stride, dilation, strict=True):
        span: Dim = d * (k - 1) + 1
        total = span - 1 if step == 1 else maximum(
            ((size + step - 1) // step - 1) * step + span - size, 0
        )
        half = total // 2
        found.append((half, total - half) if auto == "SAME_UPPER" else (total - half, half))
    return found


def _pairs(call: Call, rank: int) -> Pads:
    pads = call.integers("pads") or (0,) * (2 * rank)
    if len(pads) != 2 * rank:
        call.refuse(f"has {len(pads)} pads for {rank} axes", "the file is damaged")
    return list(zip(pads[:rank], pads[rank:], strict=True))


def _each(call: Call, name: str, rank: int) -> tuple[int, ...]:
    found = call.integers(name) or (1,) * rank
    if len(found) != rank or any(v < 1 for v in found):
        call.refuse(f"has {name} {found} for {rank} axes", "the file is damaged")
    return found


def _even(
    call: Call, x: Value, pads: Pads, value: float = 0.0
) -> tuple[Value, tuple[int, ...]]:
    """The padding that an op takes itself, after that which it cannot take."""
    if all(a == b and isinstance(a, int) and a >= 0 for a, b in pads):
        return x, tuple(int(a) for a, _ in pads)  # type: ignore[arg-type]
    return _padded(call, x, pads, value), (0,) * len(pads)


def _padded(call: Call, x: Value, pads: Pads, value: float | int | None) -> Value:
    """The last axes with padding, less where it is negative."""
    if all(pair == (0, 0) for pair in pads):
        return x
    flat = tuple(p for pair in reversed(pads) for p in pair)
    return call.emit(Pad(flat, value=value or None), x)


def _window(call: Call) -> tuple[Value, tuple[int, ...], tuple[int, ...], tuple[int, ...], Pads]:
    """Input, kernel, strides, dilations and padding of a pool."""
    x = call[0]
    rank = x.rank - 2
    kernel = call.integers("kernel_shape")
    if kernel is None or not 1 <= rank <= 3 or len(kernel) != rank:
        call.refuse(f"has a kernel {kernel} over {rank} axes", "pools have one to three")
    stride, dilation = _each(call, "strides", rank), _each(call, "dilations", rank)
    return x, kernel, stride, dilation, padding(call, x.shape[2:], kernel, stride, dilation)


def max_pool(call: Call) -> Any:
    """The largest value under a window."""
    x, kernel, stride, dilation, pads = _window(call)
    ceil = bool(call.integer("ceil_mode"))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if any(a != b or 2 * a > k for (a, b), k in zip(pads, kernel, strict=True)):  # type: ignore[operator]
        floats = x.dtype.is_floating_point
        lowest = float("-inf") if floats else torch.iinfo(x.dtype).min
        x, pads = _padded(call, x, pads, lowest), [(0, 0)] * len(spans)
    even = tuple(int(a) for a, _ in pads)  # type: ignore[arg-type]
    if call.outputs() == 1:
        return call.emit(pools.MaxPool(len(kernel), kernel, stride, even, ceil, dilation), x)
    if x is not call[0] or call.integer("storage_order"):
        call.refuse("gives places under uneven padding, or by columns", "use neither")
    found = call.results(pools.MaxPoolAt(len(kernel), kernel, stride, even, ceil, dilation), x)
    return found[0], _among_all(call, x, found[1])


def _among_all(call: Call, x: Value, places: Value) -> Value:
    """Places in one channel of one sample as places among all elements."""
    planes, size = x.shape[0] * x.shape[1], product(x.shape[2:])
    starts = call.emit(Arange(0, planes * size, size, planes))
    around = (*x.shape[:2], *(1,) * (x.rank - 2))
    return call.emit(arithmetic.Add(), places, call.reshaped(starts, around))


def average_pool(call: Call) -> Value:
    """The mean under a window, of what is there or of the padding too."""
    x, kernel, stride, dilation, pads = _window(call)
    if any(d != 1 for d in dilation):
        call.refuse("has dilations", "torch has no average pool with dilations")
    ceil, padded = bool(call.integer("ceil_mode")), bool(call.integer("count_include_pad"))
    rank, none = len(kernel), (0,) * len(kernel)
    plain = all(pair == (0, 0) for pair in pads)
    even = all(a == b and 2 * a <= k for (a, b), k in zip(pads, kernel, strict=True))  # type: ignore[operator]
    if plain or even:
        sides = tuple(int(a) for a, _ in pads)  # type: ignore[arg-type]
        return call.emit(pools.AvgPool(rank, kernel, stride, sides, ceil, padded), x)
    op = pools.AvgPool(rank, kernel, stride, none, ceil, True)
    found = call.emit(op, _padded(call, x, pads, 0))
    if padded:
        return found
    ones = call.emit(Full((1, 1, *x.shape[2:]), 1.0, x.dtype))
    return call.emit(arithmetic.Div(), found, call.emit(op, _padded(call, ones, pads, 0)))


def lp_pool(call: Call) -> Value:
    """The norm under a window."""
    x, kernel, stride, dilation, pads = _window(call)
    if any(d != 1 for d in dilation) or call.integer("ceil_mode"):
        call.refuse("has dilations or rounds up", "use neither")
    order, count = call.number("p", 2.0), 1
    for size in kernel:
        count *= size
    x = call.emit(arithmetic.Pow(other=order), call.emit(pointwise.Abs(), x))
    if any(2 * a > k for (a, _), k in zip(pads, kernel, strict=True)):  # type: ignore[operator]
        x, pads = _padded(call, x, pads, 0), [(0, 0)] * len(kernel)
    x, even = _even(call, x, pads)
    op = pools.AvgPool(len(kernel), kernel, stride, even, False, True)
    total = call.emit(arithmetic.Mul(other=float(count)), call.emit(op, x))
    return call.emit(arithmetic.Pow(other=1 / order), total)


def global_average(call: Call) -> Value:
    return call.emit(Mean(_spatial(call), True), call[0])


def global_max(call: Call) -> Value:
    return call.emit(Amax(_spatial(call), True), call[0])


def global_norm(call: Call) -> Value:
    return call.emit(VectorNorm(_spatial(call), True, call.number("p", 2.0)), call[0])


def _spatial(call: Call) -> tuple[int, ...]:
    if call[0].rank < 3:
        call.refuse(f"over a tensor of {call[0].rank} dimensions", "the file is damaged")
    return tuple(range(2, call[0].rank))


