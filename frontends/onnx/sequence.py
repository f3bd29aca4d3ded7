"""ONNX sequences of tensors, which are known one by one while a graph is read."""

from __future__ import annotations

import torch

from netir.dims import Dim
from netir.frontends.onnx.call import Call
from netir.frontends.onnx.value import Items, Value, constant
from netir.ops import join, shape


def sequence(call: Call) -> Items:
    """Tensors as a sequence."""
    return Items(call.tensors())


def empty_sequence(call: Call) -> Items:
    return Items([])


def sequence_at(call: Call) -> Value:
    """One tensor of a sequence."""
    items, at = call.items(0).items, call.whole(1)[0]
    if not -len(items) <= at < len(items):
        call.refuse(f"reads place {at} of {len(items)}", "the file is damaged")
    return items[at]


def sequence_insert(call: Call) -> Items:
    """A sequence with one more tensor."""
    items = list(call.items(0).items)
    items.insert(call.whole(2)[0] if call.given(2) else len(items), call[1])
    return Items(items)


def sequence_length(call: Call) -> Value:
    """How many tensors a sequence has."""
    return constant(torch.tensor(len(call.items(0).items)))


def sequence_concat(call: Call) -> Value:
    """A sequence laid end to end, or side by side along a new axis."""
    items = call.items(0).items
    new = call.integer("new_axis")
    axis = call.axis(items[0].rank + new, None)
    return call.emit(join.Stack(axis) if new else join.Cat(axis), *items)


def split_to_sequence(call: Call) -> Items:
    """Pieces of a tensor as a sequence."""
    x = call[0]
    axis, size = call.axis(x.rank), x.shape[call.axis(x.rank)]
    if call.given(1) and call[1].rank:
        sizes: tuple[Dim, ...] = call.sizes(1)
    else:
        each = call.whole(1)[0] if call.given(1) else 1
        if not isinstance(size, int) or each < 1 or size // each > 4096:
            call.refuse("cuts an axis of open size, or into too many pieces", "fix the size")
        sizes = tuple(min(each, size - i) for i in range(0, size, each))
    pieces = list(call.results(join.Split(sizes, axis), x))
    if not call.given(1) and not call.integer("keepdims", 1):
        pieces = [call.emit(shape.Squeeze((axis,)), p) for p in pieces]
    return Items(pieces)
