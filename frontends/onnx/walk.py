"""A walk over an ONNX graph that gives a netir graph; the rules of operators stand in table.py."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from netir.dims import Dim, evaluate, parse_dim, symbol, symbols
from netir.errors import NetirError, blaming, first_line, nearest
from netir.frontends.onnx import names
from netir.frontends.onnx.builder import Builder
from netir.frontends.onnx.call import Call, Place
from netir.frontends.onnx.sizes import folded
from netir.frontends.onnx.table import INLINED, OPERATORS, key
from netir.frontends.onnx.tensors import dtype_of, torch_tensor
from netir.frontends.onnx.value import Items, Value, checked_type, constant
from netir.ir import TensorType

Wishes = Mapping[str, Mapping[int, str | int]]
_NUMBERED = re.compile(r"\d+")
_DOMAINS = {
    "com.microsoft": "it was written by ONNX Runtime's optimiser: read the model from before",
    "ai.onnx.ml": "only the network part of scikit-learn's pipelines can be read",
}


_SIZES = (
    "if open sizes do not fit each other, name or fix them: dynamic={'input': {axis: 'name'}}, "
    "or a number; else the file is damaged"
)


class Walk:
    """One model while it is read."""

    def __init__(self, model: ir.Model, folder: Path | None, outputs: Sequence[str]) -> None:
        self.build = Builder()
        self.inputs: dict[str, TensorType] = {}
        self._model, self._folder = model, folder
        self._known: dict[ir.Value, Value | Items] = {}
        self._single: set[str] = set()
        self._outputs = self._wanted(outputs)
        self._live = self._reached()

    def _wanted(self, wanted: Sequence[str]) -> list[ir.Value]:
        """The values to return: the file's outputs, or those that were asked for."""
        if not wanted:
            found = list(self._model.graph.outputs)
            if not found:
                raise NetirError("the model has no outputs", fix="name some: outputs=['...']")
            return found
        made = {v.name: v for v in self._model.graph.inputs}
        made |= {o.name: o for node in self._model.graph for o in node.outputs}
        for name in wanted:
            if name not in made:
                raise NetirError(
                    f"the model has no value '{name}'", fix=nearest(name, filter(None, made))
                )
        return [made[name] for name in wanted]

    def _reached(self) -> set[ir.Node]:
        """The nodes that the outputs depend on."""
        found: set[ir.Node] = set()
        pending = [v.producer() for v in self._outputs]
        while pending:
            node = pending.pop()
            if node is None or node in found:
                continue
            found.add(node)
            pending += [v.producer() for v in node.inputs if v is not None]
            for graph in _inner(node):
                pending += list(graph)
        return found

    def read(self, wishes: Wishes, batch: bool) -> list[Value]:
        """Read everything; gives the outputs."""
        self._expect_known(n for n in self._model.graph if n in self._live)
        self._read_inputs(wishes, batch)
        self._read_graph(self._model.graph)
        return [self._tensor(v) for v in self._outputs]

    def output_names(self) -> list[str]:
        """What the file calls the outputs."""
        return [v.name or "" for v in self._outputs]

    def _tensor(self, value: ir.Value) -> Value:
        found = self._input(value)
        if not isinstance(found, Value):
            raise NetirError(
                f"the output '{value.name}' is no tensor", fix="return tensors from the model"
            )
        return found

    def _expect_known(self, given: Iterable[ir.Node]) -> None:
        """Refuse a model with operators that cannot be read, all of them named."""
        nodes = list(given)
        missing = Counter(
            key(node.domain, node.op_type)
            for node in nodes
            if key(node.domain, node.op_type) not in OPERATORS and node.op_type not in INLINED
        )
        if not missing:
            return
        first = next(n for n in nodes if key(n.domain, n.op_type) in missing)
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
        raise NetirError(
            f"the model has operators that cannot be read: {listed}",
            f"{first.op_type} '{first.name}'",
            _DOMAINS.get(first.domain, "export the model without them, or cut it before them: "
                         "outputs=['a value of the file']"),
        )  # fmt: skip

    def _read_inputs(self, wishes: Wishes, batch: bool) -> None:
        graph = self._model.graph
        stored = set(graph.initializers)
        given = [v for v in graph.inputs if v.name not in stored]
        unknown = sorted(set(wishes) - {v.name for v in given})
        if unknown:
            raise NetirError(
                f"the model has no input '{unknown[0]}'",
                fix=nearest(unknown[0], (v.name or "" for v in given)),
            )
        sizes = _Sizes(given)
        for value in given:
            name = self.build.fresh(names.identifier(value.name or "", "input"))
            wish = dict(wishes.get(value.name or "", {}))
            if batch and value.shape is not None and len(value.shape):
                wish.setdefault(0, "batch")
            kind = sizes.type(value, name, wish)
            self.inputs[name] = kind
            self._known[value] = Value(kind, operand=name, name=name)

    def _read_graph(self, graph: ir.Graph) -> None:
        """All nodes of a graph that are needed, in order."""
        for node in graph:
            if node in self._live:
                self._read_node(node)

    def _read_node(self, node: ir.Node) -> None:
        place = self._place(node)
        where = f"{node.op_type} '{node.name or place.name}'"
        try:
            with blaming(lambda error: NetirError(
                f"this {node.op_type} is not valid: {first_line(error)}",
                fix="check the file with onnx.checker, or export the model again",
            )):  # fmt: skip
                found = self._branch(node) if node.op_type == "If" else self._called(node, place)
        except NetirError as error:
            fix = error.fix or _SIZES
            raise NetirError(error.what, error.where or where, fix) from error.__cause__
        many = list(found) if isinstance(found, (list, tuple)) else [found]
        for output, value in zip(node.outputs, many, strict=False):
            self._known[output] = value
            returned = output in self._outputs or output.is_graph_output()
            alone = len(output.uses()) == 1 and not returned
            if isinstance(value, Value) and value.operand and alone:
                self._single.add(value.operand)

    def _called(self, node: ir.Node, place: Place) -> Any:
        """What the rule of a node's operator gives, or arithmetic on sizes."""
        inputs = [None if v is None else self._input(v) for v in node.inputs]
        call = Call(node, inputs, self.build, place)
        found = folded(call)
        if found is None:
            found = OPERATORS[key(node.domain, node.op_type)](call)
            call.expect_read()
        return found

    def _place(self, node: ir.Node) -> Place:
        version = node.version or self._model.opset_imports.get(node.domain or "", 0) or 1
        props: Mapping[str, Any] = node.metadata_props  # what is no UTF-8 is left as bytes
        told = {name: text for name, text in props.items() if isinstance(text, str)}
        scope = told.get("netir.scope")
        if scope is None:
            scopes = told.get("pkg.torch.onnx.name_scopes")
            scope = names.module_path(node.name or "", node.op_type, scopes)
        name = (node.name or "").removeprefix("node_") or node.op_type.lower()
        name = names.identifier("/".join(names.parts_of(name)), "n")
        read = [i for i, o in enumerate(node.outputs) if o.uses() or o in self._outputs]
        outputs = max(read, default=0) + 1
        return Place(version, name, scope, outputs, self._single, self._folder)

    def _input(self, value: ir.Value) -> Value | Items:
        found = self._known.get(value)
        if found is None:
            if value.const_value is None:
                raise NetirError(
                    f"nothing gives the value '{value.name}'", fix="the file is damaged"
                )
            found = self._known[value] = self._initializer(value)
        return found

    def _initializer(self, value: ir.Value) -> Value:
        assert value.const_value is not None
        name = value.name or ""
        data = torch_tensor(value.const_value, f"initializer '{name}'", self._folder)
        trained = data.is_floating_point() and (data.numel() > 1 or "." in name)
        readers = len(value.uses()) + value.is_graph_output()
        return constant(data, name, trained, shared=readers > 1)

    def _branch(self, node: ir.Node) -> list[Value | Items]:
        """The outputs of an If whose condition is constant."""
        condition = self._input(node.inputs[0]) if node.inputs and node.inputs[0] else None
        if not isinstance(condition, Value) or condition.data is None:
            raise NetirError(
                "If has a condition that depends on the inputs",
                fix="a graph has no control flow: export the model with the branch fixed",
            )
        taken = "then_branch" if bool(condition.data.reshape(-1)[0]) else "else_branch"
        graph = node.attributes[taken].value
        self._expect_known(graph)
        self._read_graph(graph)
        return [self._input(v) for v in graph.outputs]


class _Sizes:
    """The types of inputs, with symbols for open sizes."""

    def __init__(self, inputs: Iterable[ir.Value]) -> None:
        self._symbols: dict[str, str] = {}
        told = (size.value for v in inputs for size in v.shape or () if not isinstance(size, int))
        self._plain = {t for t in told if t and t.isidentifier()}

    def type(self, value: ir.Value, name: str, wishes: Mapping[int, str | int]) -> TensorType:
        """The type of an input, with some sizes as they were wished."""
        where = f"input '{value.name}'"
        if not isinstance(value.type, ir.TensorType):
            raise NetirError("an input is no tensor", where, "networks read tensors")
        dtype = dtype_of(value.dtype, where)
        if value.shape is None:
            raise NetirError(
                "an input has no shape", where, "export the model with the rank of its inputs"
            )
        for axis in wishes:
            if not 0 <= axis < len(value.shape):
                raise NetirError(f"it has no axis {axis}", where, "count axes from 0")
        shape = tuple(
            self._wished(wishes[axis], where) if axis in wishes else self._size(size, axis, name)
            for axis, size in enumerate(value.shape)
        )
        return checked_type(TensorType(dtype, shape))

    def _wished(self, wish: str | int, where: str) -> Dim:
        if isinstance(wish, int):
            if wish < 0:
                raise NetirError(f"an axis cannot have size {wish}", where, "give 0 or more")
            return wish
        return symbol(self._named(wish))

    def _size(self, size: Any, axis: int, name: str) -> Dim:
        if isinstance(size, int):
            return size
        told = size.value
        if told and not told.isidentifier():
            found = self._expression(told)
            if found is not None:
                return found
        return symbol(self._named(str(told) if told else f"{name}_{axis}" if axis else "batch"))

    def _expression(self, text: str) -> Dim | None:
        """A size such as `2*batch`, where other axes have the sizes that it is made of."""
        try:
            found = parse_dim(text) if len(text) < 200 else 0
        except NetirError:
            return None
        if not symbols(found) or not symbols(found) <= self._plain:
            return None
        names_ = {name: symbol(self._named(name)) for name in symbols(found)}
        made: Dim = evaluate(found, names_)
        return made

    def _named(self, wanted: str) -> str:
        if wanted not in self._symbols:
            plain = names.identifier(wanted, "size")
            taken = {*self._symbols.values(), *names.RESERVED}
            self._symbols[wanted] = names.free(plain, taken)
        return self._symbols[wanted]


def _inner(node: ir.Node) -> list[ir.Graph]:
    return [
        a.value for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH
    ]
