"""From a graph to an ONNX model in memory: a walk that asks each op to write itself on a tape.

It holds no rule of any op. What makes a file of the model, and proves it, is export.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import onnx_ir
import torch
from onnx_ir.tensor_adapters import TorchTensor, from_torch_dtype

from netir.errors import NetirError, blaming, first_line
from netir.evaluate import behind, run
from netir.ir import Graph, Node, Record, Ref, TensorType, Tree
from netir.lower.tape import OnnxValue, Tape
from netir.ops.base import NoLowering

OPSET, IR_VERSION = 20, 9
"""The first opset with every operator that is written, and the file format that came with it.

The older both are, the more programs can read the file.
"""

BFLOAT16_OPSET, BFLOAT16_IR_VERSION = 22, 10
"""The same for graphs with bfloat16, which convolutions and others do not know before."""

SCOPE = "netir.scope"
"""The metadata of a node that holds the path of the module that it came from."""


def onnx_model(graph: Graph) -> onnx_ir.Model:
    """The graph as an ONNX model that shares its tensors; raises for the first op that cannot."""
    return _Walk(graph).model()


def without_lowering(graph: Graph) -> list[NoLowering]:
    """Why each node cannot be written that cannot; what else is wrong is raised."""
    walk = _Walk(graph)
    found = []
    for node in walk.live:
        try:
            walk.write(node)
        except NoLowering as error:
            found.append(NoLowering(error.what, f"%{node.name} = {node.op.name}", error.fix))
            walk.values.update(_stand_ins(node))
    return found


class _Walk:
    """One graph on its way to ONNX."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.live = list(behind(graph, graph.outputs).values())
        self.names = _Names()
        self.inputs = [self.names.reserve(name, "input") for name in graph.inputs]
        self.outputs = [
            (self.names.reserve(name, "output"), o) for name, o in named_outputs(graph.output)
        ]
        self.values = {
            given: _placed(name, kind)
            for name, (given, kind) in zip(self.inputs, graph.inputs.items(), strict=True)
        }
        self.tape = Tape(self.values)
        self.params: dict[str, OnnxValue] = {}

    def model(self) -> onnx_ir.Model:
        sources = [v.value for v in self.values.values()]
        for node in self.live:
            self.write(node)
        outputs = self._outputs()
        opset, version = self._versions()
        nodes = _read_ones(self.tape.nodes, outputs)
        read = {value for node in nodes for value in node.inputs}
        stored = [*self.params.values(), *self.tape.constants.values()]
        graph = onnx_ir.Graph(
            sources, outputs, nodes=nodes,
            initializers=[v.value for v in stored if v.value in read],
            opset_imports={"": opset}, name=self.graph.name,
        )  # fmt: skip
        return onnx_ir.Model(graph, ir_version=version, producer_name="netir")

    def _versions(self) -> tuple[int, int]:
        types = (*self.graph.types.values(), *(param.type for param in self.params.values()))
        if any(kind.dtype == torch.bfloat16 for kind in types):
            return BFLOAT16_OPSET, BFLOAT16_IR_VERSION
        return OPSET, IR_VERSION

    def write(self, node: Node) -> None:
        """Write one node, and name its results."""
        scope = {SCOPE: node.scope} if node.scope else {}
        self.tape.turn_to(node.name, node.types, scope)
        for kind in node.types:
            _expect_real(kind, node)
        with blaming(partial(_unwritten, node)):
            operands = [
                None if o is None else self.operand(o, numeric=node.op.numeric and position > 0)
                for position, o in enumerate(node.operands)
            ]
            found: Any = node.op.to_onnx(self.tape, *operands)
        made = found if isinstance(found, tuple) else (found,)
        for name, kind, value in zip(node.results, node.types, made, strict=True):
            value = self.tape.cast(value, kind.dtype)
            self.values[name] = OnnxValue(value.value, kind.dtype, kind.shape)
            if value.value.producer() is not None and value.value.shape is None:
                value.value.name = self.names.reserve(name, node.name)
                value.value.shape = _shape(kind)

    def operand(self, operand: str, numeric: bool = False) -> OnnxValue:
        if operand[0] != "@":
            return (self._number(operand) if numeric else None) or self.values[operand]
        name = operand[1:]
        if name not in self.params:
            data = self.graph.params[name].data.detach()
            found = _placed(self.names.reserve(name, "param"), self.graph.params[name].type)
            found.value.const_value = TorchTensor(data, found.value.name)
            self.params[name] = found
        return self.params[name]

    def _number(self, value: str) -> OnnxValue | None:
        """A value as a constant, if parameters alone decide it, such as a masked weight."""
        nodes = behind(self.graph, [value])
        read = {operand for node in nodes.values() for operand in node.values}
        sizes = [size for node in nodes.values() for kind in node.types for size in kind.shape]
        if not read.isdisjoint(self.graph.inputs) or not all(isinstance(s, int) for s in sizes):
            return None
        alone = self.graph.replace(nodes=nodes, inputs={}, arguments={}, output=Ref(value))
        return self.tape.constant(run(alone))

    def _outputs(self) -> list[onnx_ir.Value]:
        """The values that are returned, under the names of their places in what is returned."""
        found: list[onnx_ir.Value] = []
        self.tape.turn_to("output", (), {})
        for name, operand in self.outputs:
            given = self.operand(operand)
            value = given.value
            if value.producer() is None or value in found:
                value = self.tape.op("Identity", [given], shape=given.shape).value
            value.name, value.shape = name, _shape(given.type)
            found.append(value)
        return found


class _Names:
    """The names of values, each given once."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def reserve(self, name: str, prefix: str) -> str:
        """`name`, or something like it if it is taken."""
        found, count = name, 1
        while found in self.taken:
            count += 1
            found = f"{prefix}/{name}" if count == 2 else f"{prefix}/{name}/{count}"
        self.taken.add(found)
        return found


def named_outputs(tree: Tree) -> Iterator[tuple[str, str]]:
    """Name and operand of every tensor that a graph returns: fields and keys joined by dots.

    What is not named at all is `output`, numbered in tuples and lists.
    """
    taken: set[str] = set()
    for path, operand in _paths(tree, ()):
        name = ".".join(path) if path and not path[0].isdigit() else ".".join(("output", *path))
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}/{count}"
        taken.add(unique)
        yield unique, operand


def _paths(tree: Tree, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    match tree:
        case Ref(name):
            yield path, name
        case Record(fields=parts):
            for key, part in parts.items():
                yield from _paths(part, (*path, key))
        case dict():
            for key, part in tree.items():
                yield from _paths(part, (*path, str(key)))
        case tuple() | list():
            for number, part in enumerate(tree):
                yield from _paths(part, (*path, str(number)))


def _read_ones(nodes: list[onnx_ir.Node], outputs: list[onnx_ir.Value]) -> list[onnx_ir.Node]:
    """The ONNX nodes that an output depends on: an op may write a result that nobody reads."""
    wanted: set[onnx_ir.Value | None] = set(outputs)
    found = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            found.append(node)
    return found[::-1]


def _placed(name: str, kind: TensorType) -> OnnxValue:
    """A value that no node makes: an input or a parameter."""
    value = onnx_ir.Value(
        name=name, type=onnx_ir.TensorType(from_torch_dtype(kind.dtype)), shape=_shape(kind)
    )
    return OnnxValue(value, kind.dtype, kind.shape)


def _shape(kind: TensorType) -> onnx_ir.Shape:
    return onnx_ir.Shape([d if isinstance(d, int) else str(d) for d in kind.shape])


def _expect_real(kind: TensorType, node: Node) -> None:
    if kind.dtype.is_complex:
        raise NoLowering(f"ONNX operators take no complex numbers, and '{node.op.name}' gives some")


def _unwritten(node: Node, error: Exception) -> NetirError:
    return NetirError(
        f"'{node.name}' cannot be written as ONNX: {first_line(error)}",
        f"{node.name} = {node.op}",
        "its attributes do not fit its operands: trace or export the network again",
    )


def _stand_ins(node: Node) -> dict[str, OnnxValue]:
    """Values in place of the results of a node that could not be written."""
    return {
        name: _placed(name, kind)
        for name, kind in zip(node.results, node.types, strict=True)
    }


