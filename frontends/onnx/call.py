"""One node of an ONNX graph, as the function that reads its operator sees it."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir
import torch

from netir.dims import Dim
from netir.errors import NetirError
from netir.frontends.onnx.builder import Builder, sizes_of
from netir.frontends.onnx.value import Items, Value, constant, shortest
from netir.ops import Op
from netir.ops.pointwise import Cast
from netir.ops.shape import Permute, Reshape


class Call:
    """A node: its inputs, its attributes, and ways to answer with ops."""

    def __init__(
        self, node: ir.Node, inputs: list[Value | Items | None], build: Builder, place: Place
    ) -> None:
        self.node, self.inputs, self.build, self.place = node, inputs, build, place
        self.operator = node.op_type
        self._read: set[str | int] = set()

    @property
    def version(self) -> int:
        """The opset that the node is of."""
        return self.place.version

    def where(self) -> str:
        """The node, for messages."""
        return f"{self.operator} '{self.node.name or self.place.name}'"

    def refuse(self, what: str, fix: str = "") -> NoReturn:
        """Say that the node cannot be read."""
        raise NetirError(f"{self.operator} {what}", self.where(), fix)

    def expect_read(self) -> None:
        """Refuse a node that has more inputs or attributes than were looked at."""
        for index, value in enumerate(self.inputs):
            if value is not None and index not in self._read and self.operator != "Resize":
                self.refuse(f"has an input {index} that cannot be read", NEWER)
        for name, attribute in self.node.attributes.items():
            plain = name in self._read or name in _WITHOUT_EFFECT
            if not plain and not _default(self.node, self.version, name, attribute.value):
                self.refuse(f"has an attribute '{name}' that cannot be read", NEWER)

    def attribute(self, name: str) -> Any:
        """The value of an attribute, if there."""
        self._read.add(name)
        found = self.node.attributes.get(name)
        return None if found is None else found.value

    def given(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def __getitem__(self, index: int) -> Value:
        """An input that must be a tensor."""
        self._read.add(index)
        found = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(found, Value):
            self.refuse(f"has no tensor as input {index}", "the file is damaged")
        return found

    def maybe(self, index: int) -> Value | None:
        """An optional input."""
        return self[index] if self.given(index) else None

    def items(self, index: int) -> Items:
        """An input that must be a sequence."""
        self._read.add(index)
        found = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(found, Items):
            self.refuse(f"has no sequence as input {index}", "the file is damaged")
        return found

    def tensors(self) -> list[Value]:
        """All inputs, each a tensor."""
        return [self[i] for i in range(len(self.inputs))]

    def integer(self, name: str, default: int = 0) -> int:
        """An attribute that is a whole number."""
        return int(self._value(name, default, (int,)))

    def number(self, name: str, default: float = 0.0) -> float:
        """An attribute that is a number."""
        return shortest(float(self._value(name, default, (int, float))))

    def number_or_none(self, name: str) -> float | None:
        """An attribute that is a number, if there."""
        return None if self.attribute(name) is None else self.number(name)

    def text(self, name: str, default: str = "") -> str:
        """An attribute that is a word."""
        return str(self._value(name, default, (str,)))

    def integers(self, name: str) -> tuple[int, ...] | None:
        """An attribute that is a list of whole numbers, if there."""
        found = self._list(name)
        return None if found is None else tuple(int(v) for v in found)

    def numbers(self, name: str) -> tuple[float, ...] | None:
        """An attribute that is a list of numbers, if there."""
        found = self._list(name)
        return None if found is None else tuple(float(v) for v in found)

    def _list(self, name: str) -> Any:
        found = self.attribute(name)
        if found is not None and (isinstance(found, str) or not hasattr(found, "__len__")):
            self.refuse(f"has no list as '{name}'", "the file is damaged")
        return found

    def _value(self, name: str, default: Any, kinds: tuple[type, ...]) -> Any:
        found = self.attribute(name)
        if found is None:
            return default
        if not isinstance(found, kinds):
            self.refuse(f"has a wrong value for '{name}'", "the file is damaged")
        return found

    def axis(self, rank: int, default: int | None = 0, name: str = "axis") -> int:
        """The axis that an attribute names, counted from the front."""
        if default is None and self.attribute(name) is None:
            self.refuse(f"has no '{name}'", "the file is damaged")
        return self.front(self.integer(name, default or 0), rank)

    def front(self, axis: int, rank: int) -> int:
        """An axis counted from the front."""
        if not -rank <= axis < max(rank, 1):
            self.refuse(f"names axis {axis} of a tensor of {rank} dimensions")
        return axis % max(rank, 1)

    def sizes(self, index: int) -> tuple[Dim, ...]:
        """The sizes that an input holds, which must be known."""
        found = sizes_of(self[index])
        if found is None:
            self.refuse(
                f"reads sizes from input {index} that depend on the values of other inputs",
                "a graph's sizes follow from the sizes of its inputs: fix them in the model",
            )
        return found

    def whole(self, index: int) -> tuple[int, ...]:
        """The whole numbers that an input holds, none of them an open size."""
        found = self.sizes(index)
        if not all(isinstance(s, int) for s in found):
            self.refuse(f"reads input {index}, which holds an open size", OPEN)
        return tuple(int(s) for s in found)  # type: ignore[arg-type]

    def choice(self, index: int, name: str, before: int) -> tuple[int, ...] | None:
        """Whole numbers that are an attribute before an opset, and an input from it on."""
        if self.version < before:
            return self.integers(name)
        return self.whole(index) if self.given(index) else None

    def content(self, index: int) -> torch.Tensor:
        """The numbers of an input, which must be constant."""
        found = self[index].data
        if found is None:
            self.refuse(
                f"reads input {index}, which is not constant", "make it a constant of the model"
            )
        return found

    def emit(self, op: Op, *operands: Value | None) -> Value:
        """The (first) result of an op."""
        return self.results(op, *operands)[0]

    def results(self, op: Op, *operands: Value | None) -> tuple[Value, ...]:
        """All results of an op."""
        given = list(operands)
        while given and given[-1] is None:
            given.pop()
        return self.build.emit(op, given, self.place.name, self.place.scope)

    def constant(self, data: Any, dtype: torch.dtype) -> Value:
        """Numbers as a value."""
        return constant(torch.as_tensor(np.asarray(data)).to(dtype))

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        """A value with another element type."""
        return value if value.dtype == dtype else self.emit(Cast(dtype), value)

    def reshaped(self, value: Value, shape: tuple[Dim, ...]) -> Value:
        """A value with other axes."""
        return value if value.shape == shape else self.emit(Reshape(shape), value)

    def permuted(self, value: Value, dims: tuple[int, ...]) -> Value:
        """A value with its axes in another order."""
        return value if dims == tuple(range(value.rank)) else self.emit(Permute(dims), value)

    def read_once(self, value: Value) -> bool:
        """Whether only this node reads a value."""
        return value.operand is not None and value.operand in self.place.single

    def outputs(self) -> int:
        """How many outputs the node has, up to the last that is read."""
        return self.place.outputs


@dataclass(frozen=True)
class Place:
    """Where a node stands: its opset, its name and scope here, and the folder of the file.

    `single` holds the operands that one node alone reads, `outputs` how many results are read.
    """

    version: int
    name: str
    scope: str
    outputs: int
    single: Container[str]
    folder: Path | None


_WITHOUT_EFFECT = frozenset({
    "consumed_inputs", "cubic_coeff_a", "exclude_outside", "extrapolation_value", "hidden_size",
    "kernel_shape", "kv_num_heads", "momentum", "nearest_mode", "num_outputs", "pads",
    "q_num_heads", "qk_matmul_output_mode", "saturate", "seed", "softmax_precision", "stash_type",
    "storage_order",
})  # fmt: skip
"""Attributes that say what is known anyway, or that mean something beside others only."""
NEWER = "export the model without it"


def _default(node: ir.Node, version: int, name: str, value: Any) -> bool:
    """Whether an attribute has the value that it has where it is left out."""
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        told = schema.attributes[name].default_value
        default = onnx.helper.get_attribute_value(told)
    except (onnx.defs.SchemaError, KeyError, ValueError):
        return False
    default = default.decode() if isinstance(default, bytes) else default
    return bool(default == (list(value) if isinstance(value, tuple) else value))


OPEN = "fix the size when exporting, or with dynamic={'input': {axis: number}}"
