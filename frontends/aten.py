"""A graph of torch operators, as torch.export gives it, read into a netir graph.

`Reader` walks the operators in order. What has a declared op becomes one, what has none becomes
opaque; sizes become attributes, writes in place become new values (aliases.py), and what depends
on no input and no parameter is computed once, here.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from netir.dims import same
from netir.errors import NetirError
from netir.frontends.aliases import Memory, viewed, written
from netir.frontends.calls import CallReader, gives_tensors, is_tensor, scope, short
from netir.frontends.sizes import SizeReader
from netir.ir import Node, Param, TensorType
from netir.ops import ATEN, OWN, Op
from netir.ops.base import AtenCall
from netir.ops.create import Full
from netir.ops.join import Expand
from netir.ops.opaque import Opaque
from netir.ops.pointwise import Cast, Detach, Identity

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
                     "randint_like", "normal", "uniform", "multinomial", "empty", "empty_like",
                     "empty_strided", "new_empty", "poisson", "exponential"})  # fmt: skip


class Reader:
    """Builds nodes from operators."""

    def __init__(self, sizes: SizeReader, params: dict[str, Param]) -> None:
        self.nodes: dict[str, Node] = {}
        self.params = params
        self._calls = CallReader(sizes)
        self._memory = Memory(self._apply)
        self._types: dict[str, TensorType] = {}
        self._constants: dict[str, Tensor] = {}
        self._trained: set[str] = set()
        self._names: set[str] = set()
        self._where = ""
        self.narrow: dict[str, str] = {}
        """By the call of an op the reason why its sizes do not fit, as far as they are known."""

    @property
    def written(self) -> list[str]:
        """The operands of inputs, parameters and buffers that the model writes to."""
        return list(self._memory.written)

    def bind(self, node: fx.Node, operand: str) -> TensorType:
        """Let a torch value stand for an input or a parameter."""
        kind = self._calls.type(node.meta["val"])
        self._memory.make(node, [operand], [kind], label=operand)
        self._types[operand] = kind
        self._names.add(operand)
        if kind.dtype.is_floating_point and (
            operand[0] != "@" or self.params[operand[1:]].trainable
        ):
            self._trained.add(operand)
        return kind

    def constant(self, node: fx.Node, name: str, data: Tensor) -> None:
        """Let a torch value stand for a tensor that never changes."""
        name = self._free(name)
        operand, kind = f"@{name}", self._calls.type(node.meta["val"])
        self.params[name] = Param(data, "const", trainable=False)
        self._memory.make(node, [operand], [kind])
        self._types[operand], self._constants[operand] = kind, data

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
        if isinstance(target, torch._ops.OpOverload):
            if short(target) == "alias.default":
                self._memory.same(node, node.all_input_nodes[0])
            elif gives_tensors(node) and short(target) not in _SKIPPED:
                self._where = scope(node)
                self._operator(node, target)
        elif isinstance(target, torch._ops.HigherOrderOperator):
            self._inline(node, target.name())
        elif target is operator.getitem and is_tensor(node):
            source, index = node.args
            self._memory.pick(node, source, index)  # type: ignore[arg-type]

    def _operator(self, node: fx.Node, target: torch._ops.OpOverload) -> None:
        call = self._calls.describe(node, target, self.operand, self._types)
        into = written(node, target)
        if into is not None:
            self._write(node, target, call, into)
            return
        op = None if call is None else self._declared(call, target)
        kinds = self._calls.results(node)
        if call is None or op is None:
            op, operands = self._calls.opaque(node, target, self.operand)
        else:
            operands = call.operands
        results = self._add(node.name, op, operands, kinds)
        of, perhaps = viewed(node, target)
        if of is not None:
            self._memory.view(node, of, op, results, kinds)
        else:
            self._memory.make(node, results, kinds)
            self._memory.link(node, perhaps)

    def _write(
        self, node: fx.Node, target: torch._ops.OpOverload, call: AtenCall | None, into: fx.Node
    ) -> None:
        """A write in place, as an op that gives a new value of the same type."""
        (kind,) = self._calls.results(node)
        op, operands = self._pure(node, target, call, kind)
        known = [self._types[o] for o in operands if o is not None]
        made = op.infer(*(None if o is None else self._types[o] for o in operands))
        single = made if isinstance(made, TensorType) else kind
        over = operands[:1] == [self.operand(into)]
        (result,) = self._add(node.name, op, operands, (single,), over)
        results = known if made is None else [single]
        if any(t.dtype != kind.dtype for t in results if t.dtype.is_floating_point):
            result = self._cast(result, kind)
        self._memory.write(into, result, node.name)
        self._memory.same(node, into)

    def _pure(
        self, node: fx.Node, target: torch._ops.OpOverload, call: AtenCall | None, kind: TensorType
    ) -> tuple[Op, Sequence[str | None]]:
        """The op that gives what a write in place leaves behind."""
        base = target._opname
        if call is not None and base in ("fill_", "zero_") and len(call.operands) == 1:
            return Full(kind.shape, call.options.get("value", 0), kind.dtype), []
        if call is not None and base in ("copy_", "fill_") and len(call.operands) == 2:
            return self._copied(call, kind)
        op = None if call is None else self._declared(call, target, shape=kind.shape)
        if call is None or op is None:
            return self._calls.opaque(node, target, self.operand)
        return op, call.operands

    def _copied(self, call: AtenCall, kind: TensorType) -> tuple[Op, Sequence[str | None]]:
        source = call.operands[1]
        assert source is not None
        if self._types[source].dtype != kind.dtype:
            source = self._cast(source, kind)
        same_shape = self._types[source].shape == kind.shape
        return Identity() if same_shape else Expand(kind.shape), [source]

    def _cast(self, operand: str, kind: TensorType) -> str:
        made = TensorType(kind.dtype, self._types[operand].shape)
        return self._apply(Cast(kind.dtype), [operand], made)

    def _apply(self, op: Op, operands: Sequence[str], kind: TensorType) -> str:
        """Add a node that the model's code has not."""
        (result,) = self._add(f"{op.name}_", op, operands, (kind,))
        return result

    def _free(self, name: str) -> str:
        """`name`, or one like it that nothing has."""
        found, number = name, 0
        while found in self._names or found in self.params or f"{found}.0" in self.params:
            number += 1
            found = f"{name}{number}" if name[-1] == "_" else f"{name}_{number}"
        self._names.add(found)
        return found

    def _add(
        self,
        name: str,
        op: Op,
        operands: Iterable[str | None],
        types: tuple[TensorType, ...],
        in_place: bool = False,
    ) -> tuple[str, ...]:
        node = Node(self._free(name), op, tuple(operands), types, self._where, in_place)
        folded = self._folded(node)
        if folded is not None:
            names = tuple(f"@{result}" for result in node.results)
            self._constants.update(zip(names, folded, strict=True))
            for key, data in zip(names, folded, strict=True):
                self.params[key[1:]] = Param(data, "const", trainable=False)
        else:
            names = node.results
            self.nodes[node.name] = node
            if not isinstance(op, Detach) and not self._trained.isdisjoint(node.operands):
                pairs = zip(names, types, strict=True)
                self._trained.update(n for n, t in pairs if t.dtype.is_floating_point)
        self._types.update(zip(names, types, strict=True))
        return names

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

    def _declared(
        self,
        call: AtenCall,
        target: torch._ops.OpOverload,
        shape: tuple[Any, ...] | None = None,
    ) -> Op | None:
        """The declared op of a call, if it agrees with torch about the result.

        For a write in place only the shape must agree: the result is cast to what is written.
        """
        cls = {"aten": ATEN, "netir": OWN}.get(target.namespace, {}).get(call.target)
        if cls is None:
            return None
        op = cls.from_aten(call)
        if op is None:
            return None
        try:
            found = op.infer(*(None if o is None else self._types[o] for o in call.operands))
        except NetirError as error:
            self.narrow[call.base] = error.what
            return None
        types = (found,) if isinstance(found, TensorType) else found or ()
        if shape is not None:
            agrees = len(types) == 1 and _same_shape(types[0].shape, shape)
        else:
            agrees = len(types) == len(call.results) and all(
                a.dtype == b.dtype and _same_shape(a.shape, b.shape)
                for a, b in zip(types, call.results, strict=True)
            )
        return op if agrees else None

    def _inline(self, node: fx.Node, name: str) -> None:
        """Read the body of a region in place: gradients on or off, autocast switched off."""
        frozen = name == "wrap_with_set_grad_enabled" and not node.args[0]
        place = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}.get(name)
        if place is None or (place == 4 and node.args[2]):
            raise NetirError(
                f"cannot trace '{name}'",
                where=scope(node) or node.name,
                fix="control flow and autocast regions are not part of a graph: trace the model "
                "with the branch or the precision fixed",
            )
        getter: Any = node.args[place]
        body = getattr(node.graph.owning_module, getter.target)
        inner = body.graph.find_nodes(op="placeholder")
        for there, here in zip(inner, node.args[place + 1 :], strict=True):
            if isinstance(here, fx.Node) and is_tensor(here):
                self._memory.same(there, here)
        given = [g for g in self.read(body.graph) if isinstance(g, fx.Node)]
        self._memory.same(node, *(self._detached(g) if frozen else g for g in given))

    def _detached(self, node: fx.Node) -> fx.Node:
        """A value through which no gradient flows."""
        operand = self.operand(node)
        if operand in self._trained:
            kind = self._types[operand]
            self._memory.make(node, [self._apply(Detach(), [operand], kind)], [kind])
        return node


def _same_shape(left: Iterable[Any], right: Iterable[Any]) -> bool:
    first, second = tuple(left), tuple(right)
    return len(first) == len(second) and all(map(same, first, second))

