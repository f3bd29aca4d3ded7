"""ONNX operators that make tensors: stored constants, numbers in order, one number everywhere."""

from __future__ import annotations

import math

import torch

from netir.dims import Dim
from netir.frontends.onnx.builder import sizes_of
from netir.frontends.onnx.call import Call
from netir.frontends.onnx.tensors import dtype_of, torch_tensor
from netir.frontends.onnx.value import Value, constant
from netir.ops import arithmetic, create


def number_of_shape(call: Call) -> Value:
    """One number everywhere."""
    given = call.attribute("value")
    fill = torch.zeros(1) if given is None else torch_tensor(given, call.where(), None)
    return call.emit(create.Full(call.sizes(0), fill.reshape(-1)[0].item(), fill.dtype))


def numbers_between(call: Call) -> Value:
    """Numbers from a start up to a limit."""
    given = [call[i] for i in range(3)]
    numbers = [v.number() for v in given]
    dtype = given[0].dtype
    if all(n is not None for n in numbers) and dtype.is_floating_point:
        start, end, step = (float(n) for n in numbers)  # type: ignore[arg-type]
        count = max(math.ceil((end - start) / step), 0)
        return call.emit(create.Arange(start, end, step, count, dtype))
    first, last, gap = (_whole(call, i) for i in range(3))
    if not isinstance(gap, int) or gap == 0:
        call.refuse("has no step that is a number", "use a constant step")
    size = -((first - last) // gap) if gap > 0 else -((last - first) // -gap)
    if isinstance(size, int):
        size = max(size, 0)
    return call.emit(create.Arange(first, last, gap, size, dtype))


def _whole(call: Call, index: int) -> Dim:
    """A size or number that an input holds, be it as a float."""
    number, counted = call[index].number(), call[index].counted
    if isinstance(number, float) and number.is_integer():
        return int(number)
    known = None if counted is None else sizes_of(counted)
    return call.sizes(index)[0] if known is None else known[0]


def stored(call: Call) -> Value:
    """A constant of the file."""
    tensor = call.attribute("value")
    if tensor is not None:
        return constant(torch_tensor(tensor, call.where(), call.place.folder))
    for name in ("value_int", "value_ints", "value_float", "value_floats"):
        numbers = call.attribute(name)
        if numbers is not None:
            return call.constant(numbers, torch.int64 if "int" in name else torch.float32)
    call.refuse("holds texts or sparse numbers", "class labels must be integers")


def identity_matrix(call: Call) -> Value:
    """Ones on a diagonal."""
    x, k = call[0], call.integer("k")
    kind = call.integer("dtype", -1)
    dtype = x.dtype if kind == -1 else dtype_of(kind, call.where())
    rows, columns = x.shape
    down = call.reshaped(call.emit(create.Arange(k, k + rows, 1, rows)), (rows, 1))
    along = call.emit(create.Arange(0, columns, 1, columns))
    return call.cast(call.emit(arithmetic.Eq(), down, along), dtype)
