"""A graph of torch operators, as torch.export gives it, read into a netir graph.

`Reader` walks the operators in order. What has a declared op becomes one, what has none becomes
opaque; sizes become attributes, writes in place become new values (aliases.py), and what depends
on no input and no parameter is computed once, here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from netir.dims import same
from netir.errors import NetirError
from netir.frontends.aliases import Memory, is_view, put_back, written
from netir.frontends.sizes import SizeReader
from netir.ir import Node, Param, TensorType
from netir.ops import ATEN, Op
from netir.ops.base import AtenCall
from netir.ops.create import Full
from netir.ops.opaque import Opaque, Slot

_SKIPPED = frozenset(
    {
        "_assert_tensor_metadata.default",
        "_assert_scalar.default",
        "_assert_async.msg",
        "sym_constrain_range.default",
        "sym_constrain_range_for_size.default",
    }
)
_RANDOM = frozenset({"rand", "randn", "randint", "randperm", "bernoulli", "rand_like", "randn_like",
                     "normal", "uniform", "multinomial", "empty", "empty_like"})  # fmt: skip
_MODES = {"wrap_with_set_grad_enabled": 2, "wrap_with_autocast": 5}


class Reader:
    """Builds nodes from operators; `operand` says what stands for a torch value by now."""

    def __init__(self, sizes: SizeReader, params: dict[str, Param]) -> None:
        self.nodes: dict[str, Node] = {}
        self.params = params
        self.notes: list[str] = []
        self._sizes = sizes
        self._memory = Memory(self._emit_view, self._put_back)
        self._made: dict[str, Node] = {}
        self._types: dict[str, TensorType] = {}
        self._constants: dict[str, Tensor] = {}

    def bind(self, node: fx.Node, operand: str) -> None:
        """Let a torch value stand for an input or a parameter."""
        self._memory.make(node, operand)
        self._types[operand] = self.type(node.meta["val"])

    def constant(self, node: fx.Node, name: str, data: Tensor) -> None:
        """Let a torch value stand for a tensor that never changes."""
        self.bind(node, f"@{name}")
        self.params[name] = Param(data, "const", trainable=False)
        self._constants[f"@{name}"] = data

    def operand(self, node: fx.Node) -> str:
        """The operand that a torch value is, after all writes so far."""
        return self._memory.read(node)

    def read(self, graph: fx.Graph) -> Any:
        """Read all operators of a graph; gives the arguments of its output."""
        for node in graph.nodes:
            if node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                return node.args[0]
        return None

    def _call(self, node: fx.Node) -> None:
        target = node.target
        if isinstance(target, torch._ops.HigherOrderOperator):
            self._inline(node, str(target))
        elif not isinstance(target, torch._ops.OpOverload):
            if getattr(target, "__name__", "") == "getitem" and _is_tensor(node):
                self._memory.pick(node, node.args[0], node.args[1])
        elif _short(target) in _SKIPPED or not _gives_tensors(node):
            return
        else:
            self._operator(node, target)

    def _operator(self, node: fx.Node, target: torch._ops.OpOverload) -> None:
        into = written(node, target)
        call, plain = self._describe(node, target)
        op = self._declared(call, target) if plain else None
        name = node.name
        if into is not None:
            operands, op, types = self._pure(node, target, call, op)
        else:
            operands, types = call.operands, call.results
        if op is None:
            op, operands = self._opaque(node, target)
        results = self._add(name, op, operands, types, _scope(node))
        if into is not None:
            self._memory.write(into, results[0])
            self._memory.same(node, into)
        elif is_view(target) and isinstance(node.args[0], fx.Node) and len(results) == 1:
            self._memory.view(node, node.args[0], results[0])
        elif is_view(target) and isinstance(node.args[0], fx.Node):
            self._memory.views(node, node.args[0], results)
        else:
            self._memory.make(node, *results)

    def _pure(
        self,
        node: fx.Node,
        target: torch._ops.OpOverload,
        call: AtenCall,
        op: Op | None,
    ) -> tuple[list[str | None], Op | None, tuple[TensorType, ...]]:
        """A write in place as an op that gives a new value."""
        kind = call.types[0]
        base = _short(target).split(".")[0]
        if base in ("fill_", "zero_") and len(call.operands) == 1:
            value = call.options.get("value", 0)
            return [], Full(kind.shape, value, kind.dtype), (kind,)
        if base == "copy_":
            return self._copied(call, kind)
        if op is not None:
            return call.operands, op, (kind,)
        return call.operands, None, (kind,)

    def _copied(
        self, call: AtenCall, kind: TensorType
    ) -> tuple[list[str | None], Op, tuple[TensorType, ...]]:
        source, have = call.operands[1], call.types[1]
        assert source is not None
        if have.dtype != kind.dtype:
            source, have = self._helper("cast", ATEN["to.dtype"](dtype=kind.dtype), source)  # type: ignore[call-arg]
        if have.shape != kind.shape:
            return [source], ATEN["expand.default"](kind.shape), (kind,)  # type: ignore[call-arg]
        return [source], ATEN["alias.default"](), (kind,)

    def _helper(self, name: str, op: Op, operand: str) -> tuple[str, TensorType]:
        kind = op.infer(self._types[operand])
        assert isinstance(kind, TensorType)
        (result,) = self._add(self._fresh(name), op, [operand], (kind,), "")
        return result, kind

    def _fresh(self, name: str) -> str:
        number = 1
        while f"{name}.w{number}" in self.nodes:
            number += 1
        return f"{name}.w{number}"

    def _emit_view(self, view: str, operand: str) -> str:
        """Apply the op that made `view` once more, to another operand."""
        node = self._made[view]
        (result,) = self._add(self._fresh(node.name), node.op, [operand], node.types, node.scope)
        return result

    def _put_back(self, view: str, operand: str, new: str) -> str:
        """`operand` with the part that `view` shows replaced by `new`."""
        node, kind = self._made[view], self._types[operand]
        op, operands = put_back(node.op, kind, operand, new)
        (result,) = self._add(self._fresh(node.name), op, operands, (kind,), node.scope)
        return result

    def _add(
        self,
        name: str,
        op: Op,
        operands: Iterable[str | None],
        types: tuple[TensorType, ...],
        scope: str,
    ) -> tuple[str, ...]:
        node = Node(name, op, tuple(operands), types, scope)
        for result in node.results:
            self._made[result] = self._made[f"@{result}"] = node
        folded = self._folded(node)
        if folded is not None:
            for number, data in enumerate(folded):
                key = f"@{node.results[number]}"
                self.params[key[1:]] = Param(data, "const", trainable=False)
                self._constants[key], self._types[key] = data, types[number]
            return tuple(f"@{r}" for r in node.results)
        self.nodes[name] = node
        self._types.update(zip(node.results, types, strict=True))
        return node.results

    def _folded(self, node: Node) -> tuple[Tensor, ...] | None:
        """The results, where they depend on nothing but numbers."""
        if any(o is not None and o not in self._constants for o in node.operands):
            return None
        if any(not isinstance(d, int) for t in node.types for d in t.shape):
            return None
        if isinstance(node.op, Opaque) and node.op.target.split(".")[1] in _RANDOM:
            return None
        with torch.no_grad():
            found = node.op.to_torch(*(o and self._constants[o] for o in node.operands))
        found = (found,) if isinstance(found, Tensor) else tuple(found)
        return tuple(t.clone() for t in found)

    def _declared(self, call: AtenCall, target: torch._ops.OpOverload) -> Op | None:
        """The declared op of a call, if it agrees with torch about the result."""
        cls = ATEN.get(call.target) if target.namespace == "aten" else None
        if cls is None:
            return None
        operands = list(call.operands)
        op = cls.from_aten(call)
        if op is None or not self._agrees(op, call):
            call.operands = operands
            return None
        return op

    def _agrees(self, op: Op, call: AtenCall) -> bool:
        operands = (None if o is None else self._types[o] for o in call.operands)
        try:
            found = op.infer(*operands)
        except NetirError as error:
            self.notes.append(f"{call.target}: {error.what}")
            return False
        types = (found,) if isinstance(found, TensorType) else found
        fits = types is not None and len(types) == len(call.results) and all(
            a.dtype == b.dtype
            and a.rank == b.rank
            and all(same(x, y) for x, y in zip(a.shape, b.shape, strict=True))
            for a, b in zip(types, call.results, strict=True)
        )
        if not fits:
            self.notes.append(f"{call.target}: netir infers {found}, torch {call.results}")
        return fits

    def _describe(
        self, node: fx.Node, target: torch._ops.OpOverload
    ) -> tuple[AtenCall, bool]:
        """The call with tensors and other arguments apart; False if some argument is neither."""
        operands: list[str | None] = []
        options: dict[str, Any] = {}
        plain = True
        given = {**dict(zip((a.name for a in target._schema.arguments), node.args, strict=False)),
                 **node.kwargs}  # fmt: skip
        for argument in target._schema.arguments:
            value = given.get(argument.name)
            if _holds_tensor(value) or (value is None and "Tensor" in str(argument.type)):
                operands.extend(self._operands(value))
                continue
            if argument.name not in given:
                continue
            value = self._plain(value)
            if value is _UNKNOWN:
                plain = False
            elif value != argument.default_value or type(value) is not type(argument.default_value):
                if value is not None:
                    options[argument.name] = value
        while operands and operands[-1] is None:
            operands.pop()
        types = [self._types[o] for o in operands if o is not None]
        call = AtenCall(_short(target), operands, types, options, self._results(node))
        return call, plain

    def _operands(self, value: Any) -> list[str | None]:
        if isinstance(value, fx.Node):
            return [self.operand(value)]
        if isinstance(value, (list, tuple)):
            return [None if v is None else self.operand(v) for v in value]
        return [None]

    def _plain(self, value: Any) -> Any:
        """An argument that is no tensor as plain data; sizes as dims, lists as tuples."""
        match value:
            case fx.Node():
                return self._sizes.read(value.meta.get("val"), _UNKNOWN)
            case torch.SymInt():
                return self._sizes.read(value, _UNKNOWN)
            case list() | tuple():
                items = tuple(self._plain(v) for v in value)
                return _UNKNOWN if any(i is _UNKNOWN for i in items) else items
            case None | bool() | int() | float() | str() | torch.dtype():
                return value
            case torch.device() | torch.layout() | torch.memory_format():
                return None
        return _UNKNOWN

    def _results(self, node: fx.Node) -> tuple[TensorType, ...]:
        value = node.meta["val"]
        values = value if isinstance(value, (list, tuple)) else [value]
        return tuple(self.type(v) for v in values if isinstance(v, Tensor))

    def type(self, value: Tensor) -> TensorType:
        return TensorType(value.dtype, tuple(self._sizes.read(s, None) for s in value.shape))

    def _opaque(
        self, node: fx.Node, target: torch._ops.OpOverload
    ) -> tuple[Op, list[str | None]]:
        operands: list[str | None] = []
        functional = _functional(target)

        def slot(value: Any) -> Any:
            if isinstance(value, fx.Node) and _is_tensor(value):
                operands.append(self.operand(value))
                return Slot(len(operands) - 1)
            if isinstance(value, (list, tuple)):
                return tuple(slot(v) for v in value)
            found = self._plain(value)
            if found is _UNKNOWN:
                raise NetirError(
                    f"cannot trace an argument of {target}: {value}",
                    where=node.name,
                    fix="replace the call by one with tensors, numbers and sizes as arguments",
                )
            return found

        arguments = tuple(slot(v) for v in node.args)
        keywords = tuple((k, slot(v)) for k, v in sorted(node.kwargs.items()))
        return Opaque(functional, arguments, keywords), operands

    def _inline(self, node: fx.Node, name: str) -> None:
        """Read the body of a region in place: no-grad regions, autocast switched off."""
        place = _MODES.get(name.split(".")[-1].split(" ")[0])
        if place is None or (place == 5 and node.args[2]):
            raise NetirError(
                f"cannot trace '{name}'",
                where=_scope(node) or node.name,
                fix="control flow and autocast regions are not part of the graph: trace the model "
                "with the branch or precision fixed",
            )
        getter: Any = node.args[place - 1]
        body = getattr(node.graph.owning_module, getter.target)
        arguments = node.args[place:]
        for inner, outer in zip(body.graph.find_nodes(op="placeholder"), arguments, strict=True):
            if isinstance(outer, fx.Node) and _is_tensor(outer):
                self._memory.same(inner, outer)
        given = self.read(body.graph)
        self._memory.make_list(node, [self.operand(g) for g in given if isinstance(g, fx.Node)])


_UNKNOWN: Any = object()


def _short(target: torch._ops.OpOverload) -> str:
    return f"{target._schema.name.split('::')[1]}.{target._overloadname}"


def _functional(target: torch._ops.OpOverload) -> str:
    """The name of the operator that does the same without writing in place."""
    base, _, overload = _short(target).partition(".")
    if target._schema.is_mutable:
        base = base.rstrip("_")
    return f"{target.namespace}.{base}.{overload}"


def _scope(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return str(path).split("@")[0]


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _gives_tensors(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return any(isinstance(v, Tensor) for v in value)
    return isinstance(value, Tensor)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds_tensor(v) for v in value)
    return isinstance(value, fx.Node) and _is_tensor(value)
