"""The tape: what an op's `to_onnx` writes ONNX nodes on, and the few verbs that it writes with.

It knows how ONNX writes constants, sizes and casts, and no op of netir; the walker that hands it
from node to node is onnx.py. Operators are those of opset 20.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Union

import onnx_ir
import torch
from onnx_ir.tensor_adapters import TorchTensor, from_torch_dtype
from torch import Tensor

from netir.dims import Call, Dim, Sym
from netir.errors import NetirError
from netir.ir import TensorType
from netir.ops.base import promote

_BOOLEAN = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or",
                      "Xor", "Not", "IsNaN", "IsInf"})  # fmt: skip
_INTEGER = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "NonZero"})


@dataclass(frozen=True, eq=False)
class OnnxValue:
    """A value on the tape.

    Element type and shape are as netir writes them. An operand of the op has both; of a value
    that the op makes on its way the shape is known only where it was given.
    """

    value: onnx_ir.Value
    dtype: torch.dtype
    known: tuple[Dim, ...] | None = None

    @property
    def shape(self) -> tuple[Dim, ...]:
        assert self.known is not None, f"the shape of {self.value.name} was not given"
        return self.known

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, self.shape)


Input = Union[OnnxValue, Sequence[Dim], None]  # noqa: UP007 - a Dim is one at runtime
"""What an ONNX operator reads: a value, sizes or places as a tensor of int64, or nothing."""


class Tape:
    """ONNX nodes in the order in which they were written, with the constants that they read.

    `types` are the types of the results of the netir node that is being written.
    """

    def __init__(self, inputs: Mapping[str, OnnxValue] | None = None) -> None:
        self.nodes: list[onnx_ir.Node] = []
        self.constants: dict[Any, OnnxValue] = {}
        self.types: tuple[TensorType, ...] = ()
        self._sizes: dict[Dim | str, OnnxValue] = {}
        self._shared: dict[Any, OnnxValue] = {}
        self._open = _symbols(inputs or {})
        self._name = ""
        self._count = 0
        self._metadata: dict[str, str] = {}

    def turn_to(self, name: str, types: Sequence[TensorType], metadata: dict[str, str]) -> None:
        """Write the nodes that follow under this name."""
        self._name, self._count = name, 0
        self.types, self._metadata = tuple(types), metadata

    def op(
        self,
        kind: str,
        inputs: Sequence[Input],
        attributes: Mapping[str, Any] | None = None,
        *,
        outputs: int = 1,
        dtype: torch.dtype | Sequence[torch.dtype] | None = None,
        shape: Sequence[Dim] | None = None,
    ) -> Any:
        """Write one ONNX operator; gives its result, or a tuple if there are several.

        Without `dtype` the results are of the element type of the first input, or of the one
        that the operator always has. An attribute that is a float in ONNX must be one here.
        """
        given = [None if i is None else self._input(i) for i in inputs]
        while given and given[-1] is None:
            given.pop()
        if dtype is None:
            dtype = _result(kind, given)
        kinds = [dtype] * outputs if isinstance(dtype, torch.dtype) else list(dtype)
        node = onnx_ir.Node(
            "", kind, [None if i is None else i.value for i in given],
            [_attribute(name, value) for name, value in (attributes or {}).items()],
            num_outputs=outputs, name=self._named(), metadata_props=dict(self._metadata),
        )  # fmt: skip
        self.nodes.append(node)
        known = None if shape is None else tuple(shape)
        found = []
        for index, (value, each) in enumerate(zip(node.outputs, kinds, strict=True)):
            value.name = f"{node.name}:{index}"
            value.type = onnx_ir.TensorType(from_torch_dtype(each))
            found.append(OnnxValue(value, each, known))
        return found[0] if outputs == 1 else tuple(found)

    def _named(self) -> str:
        self._count += 1
        return self._name if self._count == 1 else f"{self._name}/{self._count}"

    def _input(self, given: OnnxValue | Sequence[Dim]) -> OnnxValue:
        return given if isinstance(given, OnnxValue) else self.sizes(given)

    # Constants and sizes.

    def constant(self, data: Any, dtype: torch.dtype | None = None) -> OnnxValue:
        """A tensor, number or list of numbers as a constant; equal ones are stored once."""
        tensor = torch.as_tensor(data, dtype=dtype).detach().cpu().contiguous()
        key = (tensor.dtype, tuple(tensor.shape), TorchTensor(tensor).tobytes())
        if key not in self.constants:
            name = f"constant/{len(self.constants)}"
            value = onnx_ir.Value(
                name=name, const_value=TorchTensor(tensor, name),
                type=onnx_ir.TensorType(from_torch_dtype(tensor.dtype)),
                shape=onnx_ir.Shape(tensor.shape),
            )  # fmt: skip
            self.constants[key] = OnnxValue(value, tensor.dtype, tuple(tensor.shape))
        return self.constants[key]

    def number(self, value: Any, like: OnnxValue | torch.dtype) -> OnnxValue:
        """A number or size as a scalar, of the element type of another value."""
        dtype = like if isinstance(like, torch.dtype) else like.dtype
        if isinstance(value, Sym):
            return self.cast(self.size(value), dtype)
        return self.constant(value, dtype)

    def sizes(self, dims: Sequence[Dim]) -> OnnxValue:
        """Sizes as a tensor of int64 with one axis; a constant where none is symbolic."""
        if all(isinstance(dim, int) for dim in dims):
            return self.constant(list(dims), torch.int64)
        return self.concat([self._size(dim) for dim in dims], 0)

    def size(self, dim: Dim) -> OnnxValue:
        """A size as a scalar of int64."""
        if isinstance(dim, int):
            return self.constant(dim, torch.int64)
        return self.squeeze(self._size(dim), [0])

    def _size(self, dim: Dim | str) -> OnnxValue:
        """A size as a tensor of one element; computed once in each graph."""
        if isinstance(dim, int):
            return self.constant([dim], torch.int64)
        if dim not in self._sizes:
            self._sizes[dim] = self._read(dim) if isinstance(dim, str) else self._sum(dim)
        return self._sizes[dim]

    def _read(self, symbol: str) -> OnnxValue:
        if symbol not in self._open:
            raise NetirError(
                f"size '{symbol}' is not known", fix="it must be a size of an input"
            )
        source, axis = self._open[symbol]
        return self._size_op("Shape", [source], {"start": axis, "end": axis + 1})

    def _sum(self, dim: Sym) -> OnnxValue:
        parts = []
        for factors, coefficient in dim.terms:
            product = [self._factor(f) for f in factors]
            if coefficient != 1 or not product:
                product.append(self._size(coefficient))
            parts.append(reduce(lambda a, b: self._size_op("Mul", [a, b]), product))
        return reduce(lambda a, b: self._size_op("Add", [a, b]), parts)

    def _factor(self, factor: str | Call) -> OnnxValue:
        if isinstance(factor, str):
            return self._size(factor)
        values = [self._size(a) for a in factor.arguments]
        match factor.function:
            case "//":  # Div rounds towards zero, Mod has the sign of the divisor
                rest = self._size_op("Mod", values)
                return self._size_op("Div", [self._size_op("Sub", [values[0], rest]), values[1]])
            case "%":
                return self._size_op("Mod", values)
            case function:
                return self._size_op(function.capitalize(), values)

    def _size_op(
        self, kind: str, inputs: Sequence[OnnxValue], attributes: Mapping[str, Any] | None = None
    ) -> OnnxValue:
        return self.op(kind, inputs, attributes, dtype=torch.int64, shape=(1,))  # type: ignore[no-any-return]

    def arange(self, start: Dim, count: Dim, step: Dim = 1) -> OnnxValue:
        """`count` whole numbers from `start` on, `step` apart; a constant if none is symbolic."""
        bounds = (start, start + count * step, step)
        if all(isinstance(dim, int) for dim in bounds):
            return self.constant(torch.arange(*bounds))  # type: ignore[arg-type]
        return self.op("Range", [self.size(b) for b in bounds], dtype=torch.int64, shape=(count,))  # type: ignore[no-any-return]

    def positions(self, size: Dim) -> OnnxValue:
        """The numbers from 0 up to a size, as int64; a constant if the size is known."""
        if isinstance(size, int):
            return self.constant(torch.arange(size))
        return self.shared(("positions", size), lambda: self.op(
            "Range", [self.size(0), self.size(size), self.size(1)], shape=(size,)
        ))  # fmt: skip

    def shared(self, key: Any, write: Callable[[], OnnxValue]) -> OnnxValue:
        """What `write` gives, written once for all nodes that ask under the same key."""
        if key not in self._shared:
            self._shared[key] = write()
        return self._shared[key]

    # Element types.

    def cast(self, x: OnnxValue, dtype: torch.dtype) -> OnnxValue:
        """`x` as another element type; nothing is written if it has that type."""
        if x.dtype == dtype:
            return x
        to = from_torch_dtype(dtype)
        found: OnnxValue = self.op("Cast", [x], {"to": int(to)}, dtype=dtype, shape=x.known)
        return found

    def computable(self, x: OnnxValue) -> OnnxValue:
        """`x` in an element type for which ONNX Runtime has most operators.

        Booleans and small whole numbers become int64.
        """
        known = x.dtype.is_floating_point or x.dtype == torch.int32
        return x if known else self.cast(x, torch.int64)

    def promoted(self, *xs: OnnxValue) -> list[OnnxValue]:
        """Values in the element type that torch computes in when it meets them together."""
        dtype = promote(*(TensorType(x.dtype, (1,) if x.known is None else x.known) for x in xs))
        return [self.cast(x, dtype) for x in xs]

    # Shapes.

    def reshape(self, x: OnnxValue, shape: Sequence[Dim]) -> OnnxValue:
        """`x` with another shape, without arithmetic on sizes wherever ONNX can find them."""
        shape, known = tuple(shape), x.known or ()
        if x.known is not None and shape == x.known:
            return x
        kept = [0 if d == k else d for d, k in zip(shape, known, strict=False)]
        written = [*kept, *shape[len(kept) :]]
        unknown = [i for i, d in enumerate(written) if not isinstance(d, int)]
        if 0 in shape:
            sizes, exact = self.sizes(shape), 1
        else:
            if len(unknown) == 1:
                written[unknown[0]] = -1
            sizes, exact = self.sizes(written), 0
        attributes = {"allowzero": exact} if exact else {}
        return self.op("Reshape", [x, sizes], attributes, shape=shape)  # type: ignore[no-any-return]

    def transpose(self, x: OnnxValue, order: Sequence[int]) -> OnnxValue:
        """The axes of `x` in another order; nothing is written if it is the same."""
        if list(order) == list(range(len(order))):
            return x
        shape = None if x.known is None else [x.known[i] for i in order]
        return self.op("Transpose", [x], {"perm": list(order)}, shape=shape)  # type: ignore[no-any-return]

    def unsqueeze(self, x: OnnxValue, axes: Sequence[int]) -> OnnxValue:
        """`x` with new axes of size 1 at these places of the result."""
        if not axes:
            return x
        shape = None
        if x.known is not None:
            rank, rest = len(x.known) + len(axes), iter(x.known)
            new = {a % rank for a in axes}
            shape = [1 if i in new else next(rest) for i in range(rank)]
        return self.op("Unsqueeze", [x, tuple(axes)], shape=shape)  # type: ignore[no-any-return]

    def squeeze(self, x: OnnxValue, axes: Sequence[int]) -> OnnxValue:
        """`x` without these axes, which have size 1."""
        if not axes:
            return x
        shape = None
        if x.known is not None:
            gone = {a % len(x.known) for a in axes}
            shape = [d for i, d in enumerate(x.known) if i not in gone]
        return self.op("Squeeze", [x, tuple(axes)], shape=shape)  # type: ignore[no-any-return]

    def slice(
        self, x: OnnxValue, axis: int, start: Dim, end: Dim | None, step: int = 1
    ) -> OnnxValue:
        """Every `step`-th index of an axis, from `start` up to but not including `end`.

        Bounds count as in ONNX: from the back if negative, and no further than the axis goes.
        Without `end`, up to the last.
        """
        until = sys.maxsize if end is None else end
        return self.op("Slice", [x, (start,), (until,), (axis,), (step,)])  # type: ignore[no-any-return]

    def concat(self, xs: Sequence[OnnxValue], axis: int) -> OnnxValue:
        """Values one after the other along an axis; they have one element type already."""
        return xs[0] if len(xs) == 1 else self.op("Concat", xs, {"axis": axis})

    def split(self, x: OnnxValue, axis: int, sizes: Sequence[Dim]) -> list[OnnxValue]:
        """The pieces of these sizes along an axis."""
        if len(sizes) == 1:
            return [x]
        return list(self.op("Split", [x, tuple(sizes)], {"axis": axis}, outputs=len(sizes)))

    def expand(self, x: OnnxValue, shape: Sequence[Dim]) -> OnnxValue:
        """`x` repeated along axes of size 1, and along new ones in front, up to a shape."""
        shape = tuple(shape)
        if x.known == shape:
            return x
        kept = x.known or ()  # a size that stays is written as 1, which needs no arithmetic
        lead = len(shape) - len(kept)
        grown = (1 if a == b else b for a, b in zip(kept, shape[lead:], strict=True))
        return self.op("Expand", [x, (*shape[:lead], *grown)], shape=shape)  # type: ignore[no-any-return]

    def filled(self, shape: Sequence[Dim], value: Any, dtype: torch.dtype) -> OnnxValue:
        """A tensor with one number everywhere."""
        return self.expand(self.number(value, dtype), shape)

    # What many ops do.

    def binary(self, kind: str, x: OnnxValue, y: OnnxValue | int | float) -> OnnxValue:
        """An operator of two operands of one element type; a number takes that of `x`."""
        second = y if isinstance(y, OnnxValue) else self.number(y, x)
        return self.op(kind, [x, second])  # type: ignore[no-any-return]

    def where(self, condition: OnnxValue, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        """`x` where a condition holds, else `y`."""
        return self.op("Where", [condition, x, y])  # type: ignore[no-any-return]

    def gather(self, x: OnnxValue, indices: OnnxValue | Sequence[int], axis: int) -> OnnxValue:
        """The slices of `x` at these places of an axis; a scalar place drops the axis."""
        given = indices if isinstance(indices, OnnxValue) else self.sizes(indices)
        shape = None
        if x.known is not None and given.known is not None:
            shape = [*x.known[:axis], *given.known, *x.known[axis + 1 :]] if axis >= 0 else None
        return self.op("Gather", [x, given], {"axis": axis}, shape=shape)  # type: ignore[no-any-return]

    def reduce(
        self, kind: str, x: OnnxValue, axes: Sequence[int], *, keepdims: bool = False
    ) -> OnnxValue:
        """One of the operators called Reduce…; no axes mean all of them."""
        inputs: list[Input] = [x, tuple(axes)] if axes else [x]
        return self.op(kind, inputs, {"keepdims": int(keepdims)})  # type: ignore[no-any-return]


def _symbols(inputs: Mapping[str, OnnxValue]) -> dict[str, tuple[OnnxValue, int]]:
    """Where each symbolic size can be read."""
    found: dict[str, tuple[OnnxValue, int]] = {}
    for value in inputs.values():
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, Sym) and len(dim.terms) == 1:
                found.setdefault(str(dim), (value, axis))
    return found


def _result(kind: str, inputs: Sequence[OnnxValue | None]) -> torch.dtype:
    if kind in _BOOLEAN:
        return torch.bool
    if kind in _INTEGER:
        return torch.int64
    given = inputs[1 if kind == "Where" else 0]
    assert given is not None, f"{kind} needs a dtype"
    return given.dtype


def _attribute(name: str, value: Any) -> onnx_ir.Attr:
    match value:
        case bool() | int():
            return onnx_ir.AttrInt64(name, int(value))
        case float():
            return onnx_ir.AttrFloat32(name, value)
        case str():
            return onnx_ir.AttrString(name, value)
        case Tensor():
            return onnx_ir.AttrTensor(name, TorchTensor(value))
        case onnx_ir.Graph():
            return onnx_ir.AttrGraph(name, value)
    return _list_attribute(name, list(value))


def _list_attribute(name: str, values: Iterable[Any]) -> onnx_ir.Attr:
    values = list(values)
    if values and isinstance(values[0], str):
        return onnx_ir.AttrStrings(name, values)
    if any(isinstance(v, float) for v in values):
        return onnx_ir.AttrFloat32s(name, [float(v) for v in values])
    return onnx_ir.AttrInt64s(name, [int(v) for v in values])
