"""The forward of a graph, written as an fx graph by running its ops on stand-ins for tensors."""

from __future__ import annotations

import keyword
import operator
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import GraphAppendingTracer

from netir.dims import Sym, symbols
from netir.errors import NetirError, blaming, first_line
from netir.evaluate import behind, bound
from netir.ir import Graph, Node, Record, Ref, Tree, leaves
from netir.lower.modules import FORMS, Owners, Place
from netir.lower.overwrite import overwrites, write_over


class Writer:
    """Writes the forward of a graph; `modules` are those it needs that own no parameters."""

    def __init__(self, graph: Graph, placed: Mapping[str, Place], owners: Owners) -> None:
        self._graph = graph
        self._result = fx.Graph()
        self._tracer = _Tracer(self._result)
        self._live = behind(graph, graph.outputs)
        self._placed = {name: place.path for name, place in placed.items()}
        self._modal: dict[str, str] = {}
        self.modules = self._find_modal(owners)
        self._values: dict[str, Any] = {}
        self._paths: Mapping[str, str] = {}
        self._sizes = _Sizes(graph, self._values)

    def _find_modal(self, owners: Owners) -> dict[str, nn.Module]:
        """Modules for what differs in train mode, at its scope where that is free."""
        found: dict[str, nn.Module] = {}
        ops: dict[str, Any] = {}
        for node in self._graph.nodes.values():
            with blaming(partial(_unwritten, node)):
                module = node.op.to_module() if node.name in self._live else None
            if module is None or node.name in self._placed:
                continue
            path = node.scope
            if not path or owners.taken(path) or hasattr(fx.GraphModule, path.split(".")[0]):
                path = ".".join(filter(None, (node.scope, node.name.replace(".", "_"))))
            while owners.taken(path) or ops.get(path, node.op) != node.op:
                path += "_"
            ops[path] = node.op
            found.setdefault(path, module)
            self._modal[node.name] = path
        return found

    def write(self, paths: Mapping[str, str]) -> fx.Graph:
        """The whole forward; `paths` says where each parameter is."""
        self._paths = paths
        optional = False
        for name, tree in self._graph.arguments.items():
            optional = optional or not any(leaves(tree))
            self._argument(name, tree, optional)
        for node in self._graph.nodes.values():
            if node.name in self._live:
                with blaming(partial(_unwritten, node)):
                    self._node(node)
        self._result.output(self._tree(self._graph.output))
        return self._result

    def _argument(self, name: str, tree: Tree, optional: bool) -> None:
        if not name.isidentifier() or keyword.iskeyword(name) or name == "self":
            raise NetirError(f"'{name}' cannot be the name of an argument", fix="rename the input")
        fixed = not any(leaves(tree))
        constant = _plain(tree) if fixed else None
        node = (
            self._result.placeholder(name, default_value=constant)
            if optional
            else self._result.placeholder(name)
        )
        given = fx.Proxy(node, self._tracer)
        if fixed:
            self._call(expect_fixed, given, name, constant)
        self._unpack(tree, given)

    def _unpack(self, tree: Tree, given: Any) -> None:
        """Tell the value of every leaf of an argument."""
        match tree:
            case Ref(name):
                self._values[name] = given
            case Record(fields=parts, make=make):
                mapping = isinstance(make, type) and issubclass(make, Mapping)
                for key, part in _filled(parts.items()):
                    if make is None:
                        self._unpack(part, self._call(field_of, given, key))
                    else:
                        self._unpack(part, given[key] if mapping else getattr(given, key))
            case dict():
                for key, part in _filled(tree.items()):
                    self._unpack(part, given[key])
            case tuple() | list():
                for number, part in _filled(enumerate(tree)):
                    self._unpack(part, given[number])

    def _tree(self, tree: Tree) -> Any:
        """The structure that is returned, records rebuilt."""
        match tree:
            case Ref(name):
                return self._operand(name).node
            case Record(fields=parts, make=make):
                fields = {name: self._tree(part) for name, part in parts.items()}
                plain = all(n.isidentifier() and not keyword.iskeyword(n) for n in fields)
                return self._result.call_function(make, (), fields) if make and plain else fields
            case dict():
                return {name: self._tree(part) for name, part in tree.items()}
            case tuple() | list():
                return type(tree)(self._tree(part) for part in tree)
        return tree

    def _node(self, node: Node) -> None:
        before = len(self._result.nodes)
        operands = [None if o is None else self._operand(o) for o in self._read(node)]
        path = self._placed.get(node.name) or self._modal.get(node.name)
        if path is not None:
            found = self._tracer.create_proxy("call_module", path, tuple(operands), {})
        else:
            found = self._run(node, operands)
        if isinstance(found, fx.Proxy) and len(self._result.nodes) > before:
            found.node._rename(node.name.replace(".", "_"))
        if not node.op.several and not isinstance(found, (tuple, list)) and len(node.results) == 1:
            self._values[node.name] = found
            return
        for number, result in enumerate(node.results):
            if result in self._graph.users or result in self._graph.outputs:
                self._values[result] = found[number]

    def _read(self, node: Node) -> Iterable[str | None]:
        """The operands that a call needs: those that its module does not own."""
        if node.name not in self._placed:
            return node.operands
        pairs = zip(FORMS[node.op.name].slots_of(node.op), node.operands, strict=False)
        return [operand for slot, operand in pairs if slot is None]

    def _run(self, node: Node, operands: list[Any]) -> Any:
        types = [None if o is None else self._graph.type_of(o) for o in node.operands]
        op = bound(node.op.left_open(*types), self._sizes)
        if op.modal and getattr(op, "dropout_p", True):
            return op.to_torch(*operands, training=self._attribute("training"))
        if op.placed:
            return op.to_torch(*operands, device=self._device(), dtype=self._dtype(op))
        found = op.to_torch(*operands)
        if node.in_place and overwrites(self._graph, node):
            write_over(found, operands[0])
        return found

    def _operand(self, operand: str) -> Any:
        if operand not in self._values:
            self._values[operand] = self._attribute(self._paths[operand[1:]])
        return self._values[operand]

    def _attribute(self, path: str) -> fx.Proxy:
        key = f"self.{path}"
        if key not in self._values:
            node = self._result.create_node("get_attr", path)
            self._values[key] = fx.Proxy(node, self._tracer)
        return self._values[key]  # type: ignore[no-any-return]

    def _device(self) -> Any:
        """The device of an input, or of a parameter where there are none."""
        if "device" not in self._values:
            source = next(iter(self._graph.inputs), None)
            if source is None:
                source = next((f"@{name}" for name in self._graph.params), None)
            if source is None:
                raise NetirError(
                    "the network reads no input and no parameter",
                    fix="let it read one: nothing else says on which device it is to compute",
                )
            self._values["device"] = self._operand(source).device
        return self._values["device"]

    def _dtype(self, op: Any) -> Any:
        """The type of numbers that are made: zeros of the weights' type follow that."""
        params = self._graph.params
        own = [n for n, p in params.items() if p.kind == "param" and p.data.is_floating_point()]
        if not op.linear() or {params[name].data.dtype for name in own} != {op.dtype}:
            return op.dtype
        if "dtype" not in self._values:
            self._values["dtype"] = self._operand(f"@{own[0]}").dtype
        return self._values["dtype"]

    def _call(self, function: Any, *args: Any) -> fx.Proxy:
        found: fx.Proxy = self._tracer.create_proxy("call_function", function, args, {})
        return found


def _unwritten(node: Node, error: Exception) -> NetirError:
    return NetirError(
        f"'{node.name}' cannot be written as a module: {first_line(error)}",
        f"{node.name} = {node.op}",
        "its attributes do not fit its operands: trace or export the network again",
    )


_ARITHMETIC = frozenset({operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod,
                         torch.sym_max, torch.sym_min})  # fmt: skip


class _Tracer(GraphAppendingTracer):
    """Appends calls; arithmetic on sizes is written once, and not at all where it does nothing."""

    def __init__(self, graph: fx.Graph) -> None:
        super().__init__(graph)
        self.sizes: dict[Any, fx.Proxy] = {}
        self._known: set[fx.Node] = set()

    def size(self, of: fx.Proxy, axis: int) -> fx.Proxy:
        """The size of one axis."""
        return self._once("call_method", "size", (of, axis))

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any
    ) -> Any:
        if target in _ARITHMETIC and all(self._is_size(a) for a in args):
            if target is operator.mul and any(type(a) is int and a == 1 for a in args):
                return args[1] if type(args[0]) is int and args[0] == 1 else args[0]
            return self._once(kind, target, args)
        return super().create_proxy(kind, target, args, kwargs, *rest, **more)

    def _once(self, kind: str, target: Any, args: tuple[Any, ...]) -> fx.Proxy:
        key = (target, *(a.node if isinstance(a, fx.Proxy) else a for a in args))
        if key not in self.sizes:
            self.sizes[key] = super().create_proxy(kind, target, args, {})
            self._known.add(self.sizes[key].node)
        return self.sizes[key]

    def _is_size(self, value: Any) -> bool:
        return isinstance(value, int) or (isinstance(value, fx.Proxy) and value.node in self._known)


class _Sizes(dict[str, Any]):
    """The graph's symbols as values, read from the inputs where they are first needed."""

    def __init__(self, graph: Graph, values: Mapping[str, Any]) -> None:
        super().__init__()
        self._inputs, self._values = graph.inputs, values
        self._sources: dict[str, tuple[str, int, Sym]] = {}
        for name, kind in graph.inputs.items():
            for axis, dim in enumerate(kind.shape):
                if isinstance(dim, Sym):
                    self._add(name, axis, dim)

    def _add(self, name: str, axis: int, dim: Sym) -> None:
        names = symbols(dim)
        plain = len(names) == 1 and all(len(factors) < 2 for factors, _ in dim.terms)
        (found,) = names if plain else ("",)
        if any(factors and factors != (found,) for factors, _ in dim.terms):
            return
        if found not in self._sources or str(dim) == found:
            self._sources.setdefault(found, (name, axis, dim))

    def __contains__(self, key: object) -> bool:
        return key in self._sources

    def __missing__(self, key: str) -> Any:
        name, axis, dim = self._sources[key]
        given = self._values[name]
        value = given.tracer.size(given, axis)
        terms = dict(dim.terms)
        if terms.get((), 0):
            value = value - terms[()]
        if terms[(key,)] != 1:
            value = value // terms[(key,)]
        self[key] = value
        return value


def expect_fixed(value: Any, name: str, constant: Any) -> None:
    """Refuse another value for an argument that was fixed when the model was traced."""
    if value is not constant and value != constant:
        raise NetirError(
            f"argument '{name}' is {value!r}, but the network was traced with {constant!r}",
            fix="trace the model once more with this value",
        )


def field_of(record: Any, name: str) -> Any:
    """A field of an object or of a mapping."""
    return record[name] if isinstance(record, Mapping) else getattr(record, name)


def _filled(parts: Iterable[tuple[Any, Tree]]) -> list[tuple[Any, Tree]]:
    return [(key, part) for key, part in parts if any(leaves(part))]


def _plain(tree: Tree) -> Any:
    """A structure without tensors as plain data."""
    match tree:
        case Record():
            return None
        case dict():
            return {key: _plain(part) for key, part in tree.items()}
        case tuple() | list():
            return type(tree)(_plain(part) for part in tree)
    return tree
