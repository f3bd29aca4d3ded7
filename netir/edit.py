"""The only door through which a graph changes: `with graph.edit() as edit: ...`.

An edit works on a copy of the structure. Each verb checks first and changes second and logs
itself; leaving the block verifies, and any exception leaves the graph as it was. The new graph is
`edit.graph` afterwards. Tensors are replaced, never written in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import Any

from torch import Tensor

from netir.errors import NetirError, nearest
from netir.ir import Graph, Node, Param, TensorType, leaves, renamed
from netir.moves import Move, Moves
from netir.ops.base import Op


class Edit:
    """A graph under change."""

    def __init__(self, graph: Graph) -> None:
        self.before = graph
        self.log: list[str] = []
        self._nodes = dict(graph.nodes)
        self._params = dict(graph.params)
        self._inputs = graph.inputs
        self._output = graph.output
        self._moved: dict[str, Move] = {}
        self._bounds: dict[str, float] = {}
        self._shifts: dict[str, float] = {}
        self._ahead: dict[str, list[str]] = {}  # what was inserted before a node, in order
        self._unsettled: set[str] = set()
        self._users: dict[str, set[str]] = {}
        for node in graph.nodes.values():
            for operand in node.operands:
                if operand is not None:
                    self._users.setdefault(operand, set()).add(node.name)
        self._result: Graph | None = None

    def __enter__(self) -> Edit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._result = self._done()

    @property
    def graph(self) -> Graph:
        """The changed graph, once the block is left."""
        if self._result is None:
            raise NetirError("the edit is not finished", fix="read edit.graph after the block")
        return self._result

    @property
    def moves(self) -> Moves:
        """Where the tensors of the graph before went."""
        before = self.before.params
        moved = {n: m for n, m in self._moved.items() if n in self._params and n in before}
        added = tuple(n for n in self._params if n not in before)
        removed = tuple(n for n in before if n not in self._params)
        return Moves(moved, {}, added, removed, {}, dict(self._bounds), dict(self._shifts))

    def fresh(self, wanted: str) -> str:
        """A name like `wanted` that no value, parameter or alias has."""
        taken = (self._nodes, self._inputs, self._params, self.before.aliases)
        name, number = wanted, 2
        while any(name in names for names in taken):
            name, number = f"{wanted}_{number}", number + 1
        return name

    def insert(
        self,
        name: str,
        op: Op,
        operands: Iterable[str | None],
        *,
        before: str | None = None,
        scope: str = "",
    ) -> str:
        """Add a node before another (at the end by default); gives its (first) value."""
        if name in self._nodes or name in self._inputs:
            raise NetirError(f"there is a value called '{name}' already", fix="choose another name")
        given = tuple(operands)
        types = [None if o is None else self._type(o) for o in given]
        found = op.infer(*types)
        if found is None:
            raise NetirError(f"{op.name} cannot tell what it gives", where=name)
        made = (found,) if isinstance(found, TensorType) else tuple(found)
        node = Node(name, op, given, made, scope)
        self._place(node, before)
        for operand in given:
            if operand is not None:
                self._users.setdefault(operand, set()).add(name)
        self.log.append(f"insert {name} = {op.name}")
        return node.results[0]

    def _place(self, node: Node, before: str | None) -> None:
        if before is None:
            self._nodes[node.name] = node
            return
        self._node(before)
        self._nodes[node.name] = node
        self._ahead.setdefault(before, []).append(node.name)
        self._unsettled.add(node.name)

    def _settle(self) -> None:
        """Put the nodes that were inserted before others where they belong."""
        if not self._unsettled:
            return
        order: dict[str, Node] = {}
        for last in [name for name in self._nodes if name not in self._unsettled]:
            pending = [last]
            while pending:
                ahead = self._ahead.pop(pending[-1], None)
                if ahead is not None:
                    pending.extend(reversed(ahead))
                    continue
                name = pending.pop()
                order[name] = self._nodes[name]
        self._nodes = order
        self._unsettled.clear()

    def replace(self, old: str, new: str, *, but: Iterable[str] = ()) -> None:
        """Let all that reads `old` read `new`, except the nodes in `but`; refuses unequal types."""
        if self._type(old) != self._type(new):
            raise NetirError(
                f"'{new}' cannot stand for '{old}': {self._type(new)} is not {self._type(old)}",
                fix="insert an op between them that gives the type, such as reshape or cast",
            )
        left = set(but)
        for name in sorted(self._users.get(old, set()) - left):
            node = self._nodes[name]
            operands = tuple(new if o == old else o for o in node.operands)
            self._nodes[name] = _reading(node, operands)
            self._users[old].discard(name)
            self._users.setdefault(new, set()).add(name)
        self._output = renamed(self._output, lambda name: new if name == old else name)
        self.log.append(f"replace {old} by {new}")

    def erase(self, name: str) -> None:
        """Remove a node; refuses while something reads it."""
        node = self._node(name)
        if name in self._ahead or name in self._unsettled:
            self._settle()
        for result in node.results:
            readers = sorted(self._users.get(result, ()))
            if readers or any(leaf == result for leaf in self._outputs()):
                raise NetirError(
                    f"'{name}' cannot be erased",
                    where=f"{readers[0] if readers else 'the output'} reads {result}",
                    fix="replace its uses first",
                )
        for operand in node.operands:
            if operand is not None and operand in self._users:
                self._users[operand].discard(name)
        del self._nodes[name]
        self.log.append(f"erase {name}")

    def sweep(self) -> None:
        """Erase every node that nothing reads, then every parameter that nothing reads any more.

        What nothing read before may be there for an effect: such a call of an operator that netir
        does not know stays, and so does a parameter, but for the counters of a module of which
        nothing else is left.
        """
        self._settle()
        outputs, before = set(self._outputs()), self.before.users
        for name, node in reversed(list(self._nodes.items())):
            known = node.op.name != "opaque" or any(r in before for r in node.results)
            if known and not any(self._users.get(r) or r in outputs for r in node.results):
                self.erase(name)
        operands = {name: f"@{name}" for name in self._params}
        unread = {n for n, o in operands.items() if not self._users.get(o) and o not in outputs}
        gone = {n for n in unread if operands[n] in before or n not in self.before.params}
        emptied = {_owner(n) for n in gone} - {_owner(n) for n in self._params if n not in unread}
        for name in operands:
            counter = self._params[name].kind == "buffer" and _owner(name) in emptied
            if name in gone or (name in unread and counter):
                self.remove_param(name)

    def set_op(self, name: str, op: Op) -> None:
        """Give a node another op for the same operands."""
        self._nodes[name] = replace(self._node(name), op=op)
        self.log.append(f"set {name} to {op.name}")

    def set_operands(self, name: str, operands: Iterable[str | None]) -> None:
        """Let a node read other operands."""
        node, given = self._node(name), tuple(operands)
        for operand in given:
            if operand is not None:
                self._type(operand)
        for operand in node.operands:
            if operand is not None:
                self._users.get(operand, set()).discard(name)
        for operand in given:
            if operand is not None:
                self._users.setdefault(operand, set()).add(name)
        self._nodes[name] = _reading(node, given)
        self.log.append(f"reconnect {name}")

    def bound(self, name: str, value: float, shift: float = 0.0) -> None:
        """Tell that the result of a node may now be off by so many norms of what it reads.

        And besides by `shift`, the root mean square over its entries, whatever it reads.
        """
        self._node(name)
        self._bounds[name] = value
        if shift:
            self._shifts[name] = shift

    def set_param(self, name: str, data: Tensor, move: Move | None = None) -> None:
        """Give a parameter another tensor, which may have another shape.

        `move` tells where its entries come from, for what follows the parameter in training.
        """
        if name not in self._params:
            raise NetirError(f"there is no parameter '{name}'", fix=nearest(name, self._params))
        self._params[name] = replace(self._params[name], data=data)
        if move is not None:
            self._moved[name] = move
        self.log.append(f"set @{name} to {tuple(data.shape)}")

    def add_param(self, name: str, param: Param) -> str:
        """Add a parameter; gives the operand that reads it."""
        if name in self._params or name in self.before.aliases:
            raise NetirError(f"there is a parameter '{name}' already", fix="choose another name")
        self._params[name] = param
        self.log.append(f"add @{name}")
        return f"@{name}"

    def remove_param(self, name: str) -> None:
        """Remove a parameter that nothing reads."""
        readers = sorted(self._users.get(f"@{name}", ()))
        if readers:
            raise NetirError(f"'@{name}' cannot be removed", where=f"{readers[0]} reads it")
        self._params.pop(name, None)
        self.log.append(f"remove @{name}")

    def _node(self, name: str) -> Node:
        found = self._nodes.get(name)
        if found is None:
            raise NetirError(f"there is no node '{name}'", fix=nearest(name, self._nodes))
        return found

    def _outputs(self) -> list[str]:
        return [leaf.name for leaf in leaves(self._output)]

    def _type(self, operand: str) -> TensorType:
        if operand[0] == "@":
            found = self._params.get(operand[1:])
            if found is None:
                known = self._params
                raise NetirError(
                    f"there is no parameter '{operand[1:]}'", fix=nearest(operand[1:], known)
                )
            return found.type
        if operand in self._inputs:
            return self._inputs[operand]
        name, dot, number = operand.rpartition(".")
        for owner, index in ((operand, 0), (name, int(number) if dot and number.isdigit() else 0)):
            node = self._nodes.get(owner)
            if node is not None and operand in node.results:
                return node.types[index]
        names = [*self._nodes, *self._inputs]
        raise NetirError(f"there is no value '{operand}'", fix=nearest(operand, names))

    def _done(self) -> Graph:
        """The new graph, with all types inferred anew and everything checked."""
        from netir.verify import check

        self._settle()
        known: dict[str, TensorType] = dict(self._inputs)
        for name, node in self._nodes.items():
            types = [
                None if o is None else self._params[o[1:]].type if o[0] == "@" else known.get(o)
                for o in node.operands
            ]
            if all(t is not None or o is None for t, o in zip(types, node.operands, strict=True)):
                node = self._retyped(node, types)
            self._nodes[name] = node
            known.update(zip(node.results, node.types, strict=True))
        graph = self.before.replace(
            nodes=self._nodes,
            params=self._params,
            output=self._output,
            aliases={a: n for a, n in self.before.aliases.items() if n in self._params},
        )
        check(graph)
        return graph

    def _retyped(self, node: Node, types: list[Any]) -> Node:
        try:
            found = node.op.infer(*types)
        except NetirError as error:
            raise NetirError(error.what, where=node.name, fix=error.fix) from None
        if found is None:
            return node
        made = (found,) if isinstance(found, TensorType) else tuple(found)
        return node if made == node.types else replace(node, types=made)


def _reading(node: Node, operands: tuple[str | None, ...]) -> Node:
    """A node with other operands; over another first one the model has not written."""
    in_place = node.in_place and operands[:1] == node.operands[:1]
    return replace(node, operands=operands, in_place=in_place)


def _owner(param: str) -> str:
    return param.rpartition(".")[0]
