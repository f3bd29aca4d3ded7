"""ONNX operators that read or write at places that other tensors name."""

from __future__ import annotations

import torch

from netir.dims import Dim
from netir.frontends.onnx.call import Call
from netir.frontends.onnx.value import Value
from netir.ops import arithmetic, create, index, order, resize, scatter, shape, slices, ternary
from netir.ops.linear import Embedding

_COUNTED = (order.Argmax, order.Argmin, order.TopK, order.Sort, order.Argsort, create.Arange)
"""Ops whose results are places that count from the front already."""


def gather(call: Call) -> Value:
    """Slices of an axis; rows of a constant table are an embedding."""
    x, places = call[0], call[1]
    axis = call.axis(x.rank)
    if places.data is not None:
        return _fixed(call, x, places.data, axis)
    if axis == 0 and x.rank == 2 and x.data is not None and x.dtype.is_floating_point:
        return call.emit(Embedding(), x, call.cast(places, torch.int64))
    return call.emit(index.Index(), x, *(None,) * axis, places)


def _fixed(call: Call, x: Value, places: torch.Tensor, axis: int) -> Value:
    """Slices whose places are known."""
    size = x.shape[axis]
    flat = places.reshape(-1).tolist()
    if isinstance(size, int):
        if any(not -size <= p < size for p in flat):
            call.refuse(f"reads beyond an axis of size {size}", "the file is damaged")
        flat = [p % size for p in flat]
    if not places.dim():
        return call.emit(slices.Select(axis, flat[0]), x)
    if any(p < 0 for p in flat):
        return call.emit(index.Index(), x, *(None,) * axis, call.constant(places, torch.int64))
    found = call.emit(index.IndexSelect(axis), x, call.constant(flat, torch.int64))
    return call.reshaped(found, (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def counted(call: Call, places: Value, size: Dim) -> Value:
    """Places that count from the front; ONNX lets negative ones count from the end."""
    made = call.build.nodes.get((places.operand or "").partition(".")[0])
    places = call.cast(places, torch.int64)
    if made is not None and isinstance(made.op, _COUNTED):
        return places
    if places.data is not None and not bool((places.data < 0).any()):
        return places
    if isinstance(size, int):
        return call.emit(arithmetic.Remainder(other=size), places)
    return _wrapped(call, places, call.emit(arithmetic.Add(other=size), places))


def _wrapped(call: Call, places: Value, moved: Value) -> Value:
    return call.emit(ternary.Where(), call.emit(arithmetic.Lt(other=0), places), moved, places)


def gather_elements(call: Call) -> Value:
    """For every place of the index, the value that it names along an axis."""
    x, axis = call[0], call.axis(call[0].rank)
    return call.emit(index.Gather(axis), x, counted(call, call[1], x.shape[axis]))


def scatter_elements(call: Call) -> Value:
    """Values put where an index names places along an axis."""
    x, values, axis = call[0], call[2], call.axis(call[0].rank)
    kinds = {"none": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    kind = call.text("reduction", "none")
    if kind not in kinds:
        call.refuse(f"has the unknown reduction '{kind}'", "the file is damaged")
    places = counted(call, call[1], x.shape[axis])
    return call.emit(scatter.Scatter(axis, reduce=kinds[kind]), x, places, values)


def _columns(call: Call, places: Value) -> list[Value]:
    """The last axis of an index, taken apart."""
    count = places.shape[-1]
    if not isinstance(count, int) or count > 8:
        call.refuse(f"has an index of {count} axes", "at most 8 can be read")
    last = places.rank - 1
    return [call.emit(slices.Select(last, i), places) for i in range(count)]


def gather_nd(call: Call) -> Value:
    """Slices at places of several axes at once."""
    x, places, batch = call[0], call[1], call.integer("batch_dims")
    columns = _columns(call, call.cast(places, torch.int64))
    rank = places.rank - 1
    lead = []
    for axis in range(batch):
        size = x.shape[axis]
        numbers = call.emit(create.Arange(0, size, 1, size))
        around = (1,) * axis + (size,) + (1,) * (rank - axis - 1)
        lead.append(call.reshaped(numbers, around))
    return call.emit(index.Index(), x, *lead, *columns)


def scatter_nd(call: Call) -> Value:
    """Slices written, or added, at places of several axes at once."""
    kind = call.text("reduction", "none")
    if kind not in ("none", "add"):
        call.refuse(f"has the reduction '{kind}'", "torch writes and adds only")
    x, places, values = call[0], call[1], call[2]
    columns = _columns(call, call.cast(places, torch.int64))
    return call.emit(scatter.IndexPut(kind == "add"), x, values, *columns)


def one_hot(call: Call) -> Value:
    """One value at the index and another elsewhere, along a new axis."""
    places = call.cast(call[0], torch.int64)
    depth = int(call.content(1).reshape(-1)[0])
    off, on = call.content(2).reshape(-1).tolist()
    axis = call.front(call.integer("axis", -1), places.rank + 1)
    shifted = call.emit(arithmetic.Add(other=depth), places)
    wrapped = call.emit(shape.Unsqueeze(axis), _wrapped(call, places, shifted))
    classes = call.emit(create.Arange(0, depth, 1, depth))
    classes = call.reshaped(classes, (depth, *(1,) * (places.rank - axis)))
    hit = call.emit(arithmetic.Eq(), wrapped, classes)
    return call.emit(ternary.Where(x=on), hit, call.constant(off, call[2].dtype))


def compress(call: Call) -> Value:
    """The slices that a constant condition names."""
    x, chosen = call[0], call.content(1).nonzero().reshape(-1)
    if call.attribute("axis") is None:
        x = call.reshaped(x, (_count(call, x),))
    axis = call.axis(x.rank)
    return call.emit(index.IndexSelect(axis), x, call.constant(chosen, torch.int64))


def _count(call: Call, x: Value) -> Dim:
    total: Dim = 1
    for size in x.shape:
        total = total * size
    return total


def non_zero(call: Call) -> Value:
    """Where a constant is not zero."""
    return call.constant(call.content(0).nonzero().t(), torch.int64)


def grid_sample(call: Call) -> Value:
    """Values read between positions."""
    modes = {"bilinear": 0, "linear": 0, "nearest": 1, "bicubic": 2, "cubic": 2}
    pads = {"zeros": 0, "border": 1, "reflection": 2}
    mode, padding = call.text("mode", "linear"), call.text("padding_mode", "zeros")
    if mode not in modes or padding not in pads:
        call.refuse(f"has mode '{mode}' and padding '{padding}'", "the file is damaged")
    if call[0].rank == 5 and modes[mode] == 2:
        call.refuse("is cubic over three axes", "torch has linear and nearest there")
    op = resize.GridSample(modes[mode], pads[padding], bool(call.integer("align_corners")))
    return call.emit(op, call[0], call[1])


def affine_grid(call: Call) -> Value:
    """Where an affine map takes each place."""
    sizes = call.sizes(1)
    return call.emit(resize.AffineGrid(sizes, bool(call.integer("align_corners"))), call[0])


def array_feature(call: Call) -> Value:
    """Entries of the last axis, as scikit-learn looks up class labels."""
    x, places = call[0], call.cast(call[1], torch.int64)
    flat = call.reshaped(places, (_count(call, places),))
    found = call.emit(index.IndexSelect(x.rank - 1), x, flat)
    return call.reshaped(found, (1, *found.shape)) if x.rank == 1 else found


