"""ONNX operators that move elements and compute nothing, and those that ask for sizes."""

from __future__ import annotations

from typing import Any

import torch

from netir.dims import Dim, Sym, divide, maximum, minimum, product
from netir.frontends.onnx.call import Call
from netir.frontends.onnx.sizes import without_bound
from netir.frontends.onnx.value import Value, objects, of_sizes
from netir.ops import create, join, move, shape, slices
from netir.ops.base import broadcast
from netir.ops.patches import Col2Im, PixelShuffle, PixelUnshuffle


def shape_of(call: Call) -> Value:
    """The sizes of a tensor, or some of them."""
    sizes = call[0].shape
    start, end = call.integer("start"), call.integer("end", len(sizes))
    return of_sizes(objects(sizes[slice(*slice(start, end).indices(len(sizes)))]))


def size_of(call: Call) -> Value:
    """The number of elements."""
    return of_sizes(objects([product(call[0].shape)], ()))


def reshape(call: Call) -> Value:
    """Other axes; 0 keeps a size, -1 is what is left."""
    x = call[0]
    if call.version < 5:
        wanted: list[Dim] = list(call.integers("shape") or ())
    else:
        wanted = list(call.sizes(1))
    if not call.integer("allowzero"):
        if any(w == 0 and i >= x.rank for i, w in enumerate(wanted)):
            call.refuse(f"keeps an axis that {x.type} has not", "the file is damaged")
        wanted = [x.shape[i] if w == 0 else w for i, w in enumerate(wanted)]
    if -1 in wanted:
        rest = product(w for w in wanted if w != -1)
        whole = product(x.shape)
        left = 0 if whole == 0 else divide(whole, rest)
        if left is None:
            call.refuse(f"cannot give {x.type} the shape ({', '.join(map(str, wanted))})", BATCH)
        wanted = [left if w == -1 else w for w in wanted]
    if product(x.shape) != product(wanted):
        unbounded = [without_bound(w) for w in wanted]
        if product(x.shape) == product(unbounded):  # so the bound is never reached
            wanted = unbounded
    return call.reshaped(x, tuple(wanted))


BATCH = (
    "the file holds a number where another size was opened: leave the size as it is in the file, "
    "or export the model with that axis dynamic"
)


def flatten(call: Call) -> Value:
    """Two axes: what is before `axis`, and the rest."""
    x = call[0]
    axis = call.integer("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    if not 0 <= axis <= x.rank:
        call.refuse(f"at axis {axis} of a tensor of {x.rank} dimensions", "the file is damaged")
    return call.reshaped(x, (product(x.shape[:axis]), product(x.shape[axis:])))


def transpose(call: Call) -> Value:
    """The axes in another order, reversed where none is told."""
    x = call[0]
    given = call.integers("perm")
    dims = tuple(reversed(range(x.rank))) if given is None else given
    if sorted(dims) != list(range(x.rank)):
        call.refuse(f"orders axes {dims} of a tensor of {x.rank} dimensions", "the file is damaged")
    found = call.permuted(x, dims)
    if dims == (1, 0) and x.data is not None:
        found.transposed = x
    return found


def squeeze(call: Call) -> Value:
    """Without axes of size 1."""
    x = call[0]
    axes = call.choice(1, "axes", 13)
    if axes is None:
        dims = tuple(i for i, s in enumerate(x.shape) if s == 1)
    else:
        dims = tuple(sorted({call.front(a, x.rank) for a in axes}))
    if any(x.shape[d] != 1 for d in dims):
        call.refuse(f"removes axes {dims} of {x.type}, which are not 1", BATCH)
    return call.emit(shape.Squeeze(dims), x) if dims else x


def unsqueeze(call: Call) -> Value:
    """New axes of size 1."""
    x = call[0]
    axes = call.choice(1, "axes", 13) or ()
    for axis in sorted(call.front(a, x.rank + len(axes)) for a in axes):
        x = call.emit(shape.Unsqueeze(axis), x)
    return x


def concat(call: Call) -> Value:
    """Tensors laid end to end."""
    given = call.tensors()
    axis = call.axis(given[0].rank, None)
    return given[0] if len(given) == 1 else call.emit(join.Cat(axis), *given)


def split(call: Call) -> Any:
    """Pieces of given sizes, or as equal as can be."""
    x = call[0]
    axis, count = call.axis(x.rank), len(call.node.outputs)
    if call.version >= 13:
        sizes: Any = call.sizes(1) if call.given(1) else None
    else:
        sizes = call.integers("split")
    if sizes is None:
        size = x.shape[axis]
        each = -(-size // count) if isinstance(size, int) else size // count
        sizes = (*(each,) * (count - 1), size - each * (count - 1))
    if len(sizes) != count:
        call.refuse(f"has {len(sizes)} sizes for {count} pieces", "the file is damaged")
    return [x] if count == 1 else call.results(join.Split(tuple(sizes), axis), x)


def ranges(call: Call) -> Value:
    """Ranges of some axes, also backwards."""
    x = call[0]
    if call.version < 10:
        starts: Any = call.integers("starts") or ()
        ends: Any = call.integers("ends") or ()
        axes, steps = call.integers("axes"), None
    else:
        starts, ends = call.sizes(1), call.sizes(2)
        axes = call.whole(3) if call.given(3) else None
        steps = call.whole(4) if call.given(4) else None
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _sliced(call, x, start, end, call.front(axis, x.rank), step)
    return x


def _sliced(call: Call, x: Value, start: Dim, end: Dim, axis: int, step: int) -> Value:
    size = x.shape[axis]
    if step > 0:
        first, last = _bound(start, size), _bound(end, size)
        if first == 0 and last == size and step == 1:
            return x
        if isinstance(first, int) and isinstance(last, int):
            last = max(first, last)
        return call.emit(slices.Slice(axis, first, last, step), x)
    numbers = isinstance(start, int) and isinstance(end, int)
    if step == -1 and (start == -1 or start == size - 1) and numbers and end <= -(2**31):  # type: ignore[operator]
        return call.emit(move.Flip((axis,)), x)
    if step == 0 or not numbers or not isinstance(size, int):
        call.refuse("goes backwards over an axis of open size", "fix the size when exporting")
    places = range(*slice(start, None if end < -size else end, step).indices(size))  # type: ignore[operator]
    flipped = call.emit(move.Flip((axis,)), x)
    if not places:
        return call.emit(slices.Slice(axis, 0, 0), x)
    begin, stop = size - 1 - places[0], size - places[-1]
    if (begin, stop, step) == (0, size, -1):
        return flipped
    return call.emit(slices.Slice(axis, begin, stop, -step), flipped)


def _bound(at: Dim, size: Dim) -> Dim:
    """Where a range begins or ends; an open size is at least one, and no less than another."""
    if isinstance(at, int) and isinstance(size, int):
        return min(max(at + size if at < 0 else at, 0), size)
    if isinstance(at, int):
        if at in (0, 1) or at >= 2**31 - 1:
            return size if at > 1 else at
        if at < 0:
            return 0 if at < -(2**31) else size - 1 if at == -1 else maximum(size + at, 0)
        return minimum(size, at)
    return size if at == size else at


def tile(call: Call) -> Value:
    """Copies side by side."""
    counts = call.sizes(1)
    return call[0] if all(c == 1 for c in counts) else call.emit(join.Repeat(counts), call[0])


def expand(call: Call) -> Value:
    """Axes of size 1 repeated; ONNX lets both shapes broadcast."""
    x = call[0]
    wanted = broadcast(x.shape, call.sizes(1))
    number = x.number()
    if number is not None and any(isinstance(s, Sym) for s in wanted):
        return call.emit(create.Full(wanted, number, x.dtype))
    return x if wanted == x.shape else call.emit(join.Expand(wanted), x)


def triangle(call: Call) -> Value:
    """The part of matrices on one side of a diagonal."""
    k = call.sizes(1)[0] if call.given(1) else 0
    boolean = call[0].dtype == torch.bool and call[0].data is None
    x = call.cast(call[0], torch.uint8) if boolean else call[0]
    found = call.emit(move.Triangle(bool(call.integer("upper", 1)), k), x)
    return call.cast(found, call[0].dtype)


def columns_to_image(call: Call) -> Value:
    """Columns added up where their windows lie."""
    size, kernel = call.sizes(1), call.whole(2)
    rank = len(kernel)
    pads = call.integers("pads") or (0,) * (2 * rank)
    if rank != 2 or pads[:rank] != pads[rank:]:
        call.refuse("is not over two axes with even padding", "torch has only that")
    dilation, stride = (call.integers(n) or (1, 1) for n in ("dilations", "strides"))
    return call.emit(Col2Im(kernel, dilation, pads[:rank], stride, size), call[0])


def depth_to_space(call: Call) -> Value:
    """Channels as blocks of pixels."""
    x, block = call[0], call.integer("blocksize")
    if call.text("mode", "DCR") == "CRD":
        return call.emit(PixelShuffle(block), x)
    n, c, h, w = x.shape
    parts = call.reshaped(x, (n, block, block, c // block**2, h, w))
    moved = call.permuted(parts, (0, 3, 4, 1, 5, 2))
    return call.reshaped(moved, (n, c // block**2, h * block, w * block))


def space_to_depth(call: Call) -> Value:
    """Blocks of pixels as channels."""
    x, block = call[0], call.integer("blocksize")
    if call.text("mode", "DCR") == "CRD":
        return call.emit(PixelUnshuffle(block), x)
    n, c, h, w = x.shape
    parts = call.reshaped(x, (n, c, h // block, block, w // block, block))
    moved = call.permuted(parts, (0, 3, 5, 1, 2, 4))
    return call.reshaped(moved, (n, c * block**2, h // block, w // block))
