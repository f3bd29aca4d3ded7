"""Arithmetic on sizes: what exporters compute with the results of Shape, as netir's sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from netir.dims import Call as Factor
from netir.dims import Dim, Sym, maximum, minimum, product, symbol
from netir.frontends.onnx.call import Call
from netir.frontends.onnx.tensors import dtype_of
from netir.frontends.onnx.value import Value, bounded, constant, objects, of_sizes

Array = np.ndarray[Any, Any]
_MOST = 4096


def folded(call: Call) -> Value | list[Value] | None:
    """The result of a node that reads nothing but known sizes, some of them open."""
    rule = SIZES.get(call.operator)
    values = [v for v in call.inputs if v is not None]
    if rule is None or not all(isinstance(v, Value) for v in values):
        return None
    known = [v.known() for v in values]  # type: ignore[union-attr]
    if not values or any(k is None for k in known):
        return None
    if not any(v.sizes is not None for v in values):  # type: ignore[union-attr]
        return None
    found = rule(call, *known)
    if found is None:
        return None
    if isinstance(found, list):
        return [of_sizes(f) for f in found]
    if isinstance(found, Value):
        return found
    return of_sizes(np.asarray(found, object), call[0].dtype)


def _elementwise(function: Callable[[Dim, Dim], Dim]) -> Callable[..., Array]:
    apply = np.frompyfunc(lambda a, b: bounded(function(a, b)), 2, 1)

    def rule(call: Call, *known: Array) -> Array:
        return np.asarray(reduce(apply, known), object)

    return rule


def _quotient(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return int(a / b) if abs(a) < 2**50 else a // b
    return a // b


def _over(function: Callable[..., Dim]) -> Callable[..., Array | None]:
    """A reduction of a vector to one number."""

    def rule(call: Call, x: Array, axes: Array | None = None) -> Array | None:
        if x.ndim != 1:
            return None
        found = objects([function(*x)], ())
        return found.reshape(1) if call.integer("keepdims", 1) else found

    return rule


def _cast(call: Call, x: Array) -> Value | None:
    dtype = dtype_of(call.integer("to"), call.where())
    return None if dtype.is_floating_point or dtype == torch.bool else of_sizes(x, dtype)


def _concat(call: Call, *known: Array) -> Array | None:
    return np.concatenate(known) if all(k.ndim == 1 for k in known) else None


def _gather(call: Call, x: Array, places: Array) -> Array | None:
    at = places.reshape(-1).tolist()
    if any(isinstance(p, Sym) or not -len(x) <= p < len(x) for p in at) or x.ndim != 1:
        return None
    return objects([x[p] for p in at], places.shape)


def _slice(call: Call, x: Array, *rest: Array) -> Array | None:
    if call.version < 10:
        starts, ends = call.integers("starts") or (), call.integers("ends") or ()
        steps = (1,) * len(starts)
    else:
        starts, ends = (tuple(r.reshape(-1)) for r in rest[:2])
        steps = tuple(rest[3].reshape(-1)) if len(rest) > 3 else (1,) * len(starts)
    if x.ndim != 1 or len(starts) != 1 or any(isinstance(v, Sym) for v in (*starts, *ends)):
        return None
    return x[slice(starts[0], ends[0], steps[0])]


def _squeeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    return x.reshape(()) if x.size == 1 and x.ndim == 1 else x


def _unsqueeze(call: Call, x: Array, axes: Array | None = None) -> Array | None:
    return x.reshape(1) if x.ndim == 0 else None


def _reshape(call: Call, x: Array, shape: Array) -> Array | None:
    wanted = shape.reshape(-1).tolist()
    if any(isinstance(w, Sym) for w in wanted) or 0 in wanted:
        return None
    return x.reshape(wanted)


def _split(call: Call, x: Array, sizes: Array | None = None) -> list[Array] | None:
    if x.ndim != 1:
        return None
    count = len(call.node.outputs)
    told = call.integers("split") if sizes is None else tuple(sizes)
    if told is None:
        return [np.asarray(part, object) for part in np.array_split(x, count)]
    return [np.asarray(part, object) for part in np.split(x, np.cumsum(told)[:-1].tolist())]


def _compare(test: Callable[[int], bool]) -> Callable[..., Value | None]:
    """A comparison that is settled by the difference, a size being at least one."""

    def rule(call: Call, x: Array, y: Array) -> Value | None:
        found = []
        pairs = np.broadcast(x, y)
        for a, b in pairs:
            gap = _sign(a - b)
            if gap is None:
                return None
            found.append(test(gap))
        return constant(torch.tensor(found).reshape(pairs.shape))

    return rule


def _sign(gap: Dim) -> int | None:
    """The sign of a difference of sizes, where it is the same for all of them."""
    if isinstance(gap, int):
        return gap
    if any(not isinstance(f, str) for names, _ in gap.terms for f in names):
        return None
    for sign in (1, -1):
        least = sum(sign * c for _, c in gap.terms)
        if least > 0 and all(sign * c > 0 for names, c in gap.terms if names):
            return sign
    return None


def without_bound(size: Dim) -> Dim:
    """A size with `min(length, 16)` as `length`."""
    if isinstance(size, int):
        return size
    total: Dim = 0
    for names, coefficient in size.terms:
        part: Dim = coefficient
        for factor in names:
            bound = isinstance(factor, Factor) and factor.function == "min"
            open_ones = [a for a in factor.arguments if isinstance(a, Sym)] if bound else []  # type: ignore[union-attr]
            part = part * (open_ones[0] if len(open_ones) == 1 else symbol(factor))
        total = total + part
    return total


def _where(call: Call, condition: Array, x: Array, y: Array) -> Value | None:
    if any(isinstance(c, Sym) for c in condition.reshape(-1)):
        return None
    chosen = np.where(condition.astype(bool), x, y)
    return of_sizes(np.asarray(chosen, object), call[1].dtype)


def _expand(call: Call, x: Array, shape: Array) -> Array | None:
    wanted = shape.reshape(-1).tolist()
    if any(isinstance(w, Sym) for w in wanted) or product(wanted) > _MOST:  # type: ignore[operator]
        return None
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(wanted)))


def _same(call: Call, x: Array) -> Array:
    return x


SIZES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "Add": _elementwise(lambda a, b: a + b),
        "Cast": _cast,
        "Concat": _concat,
        "Div": _elementwise(_quotient),
        "Equal": _compare(lambda gap: gap == 0),
        "Expand": _expand,
        "Gather": _gather,
        "Greater": _compare(lambda gap: gap > 0),
        "GreaterOrEqual": _compare(lambda gap: gap >= 0),
        "Identity": _same,
        "Less": _compare(lambda gap: gap < 0),
        "LessOrEqual": _compare(lambda gap: gap <= 0),
        "Max": _elementwise(maximum),
        "Min": _elementwise(minimum),
        "Mod": _elementwise(lambda a, b: a % b),
        "Mul": _elementwise(lambda a, b: a * b),
        "Neg": lambda call, x: np.asarray(-x, object),
        "ReduceMax": _over(maximum),
        "ReduceMin": _over(minimum),
        "ReduceProd": _over(lambda *dims: product(dims)),
        "ReduceSum": _over(lambda *dims: sum(dims, start=0)),
        "Reshape": _reshape,
        "Slice": _slice,
        "Split": _split,
        "Squeeze": _squeeze,
        "Sub": _elementwise(lambda a, b: a - b),
        "Unsqueeze": _unsqueeze,
        "Where": _where,
    }
)
"""Operators that sizes are computed with."""
