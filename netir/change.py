"""The change of basis: every change of width, of any number of spaces at once.

A space of n indices becomes one of m: what produces it is mapped by E, what sums over it by D
(design notes in docs/concepts.md). Parameters take part in both; where nothing with weights can
take D, because two activations meet or a weight is tied, a scaling is put before the use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from netir.basis import Basis, check_basis, check_linear
from netir.dims import Dim
from netir.errors import NetirError, nearest
from netir.ir import Graph, Node, Param, TensorType, expect_graph
from netir.layout_moves import NOTHING, LayoutMoves
from netir.layouts import Atom, Layout, atoms
from netir.moves import AxisMove, Gather, Move, Moves
from netir.ops.arithmetic import Mul
from netir.room import expect_room
from netir.site import Derived, Use
from netir.spaces import Analysis, Space


@dataclass(frozen=True, eq=False)
class Rewritten:
    """A rewritten graph and where its tensors came from."""

    graph: Graph
    moves: Moves


def change_basis(
    graph: Graph,
    changes: Mapping[str | Space, Basis],
    new: Mapping[str, Tensor] | None = None,
) -> Rewritten:
    """Change the width of spaces, all at once.

    `new` gives, by parameter, the values of entries that an extension appends: a tensor of the
    parameter's new shape, of which only the new entries are read. Without it they are zero, or
    what leaves a normalisation neutral.
    """
    expect_graph(graph)
    analysis = graph.analysis
    bases = _checked(analysis, changes)
    return _Change(analysis, bases).done(new or {})


_FORM = "give {name: basis}, with a basis from select, replicate, extend or linear"


def _checked(analysis: Analysis, changes: Mapping[str | Space, Basis]) -> dict[Atom, Basis]:
    known = {s.name: s for s in analysis.spaces}
    found: dict[Atom, Basis] = {}
    if not isinstance(changes, Mapping):
        raise NetirError(f"no changes of spaces: {changes!r}", fix=_FORM)
    for key, basis in changes.items():
        name = key if isinstance(key, str) else key.name
        space = known.get(name)
        if space is None:
            raise NetirError(f"there is no space '{name}'", fix=nearest(name, known))
        if not isinstance(basis, Basis):
            raise NetirError(f"the basis of '{name}' is {basis!r}", fix=_FORM)
        if basis.into is not None and not basis.across:
            check_linear(analysis, space)
        if space.frozen:
            raise NetirError(
                f"space '{name}' cannot change",
                where=space.reason,
                fix="choose a free space: netir spaces lists them",
            )
        check_basis(space, basis)
        found[space.atom] = basis
    return found


class _Change:
    """One change of basis under way: rebuilds the parameters and nodes that it touches."""

    def __init__(self, analysis: Analysis, bases: Mapping[Atom, Basis]) -> None:
        self.analysis = analysis
        self.graph = analysis.graph
        self.moves = LayoutMoves(bases)

    def done(self, new: Mapping[str, Tensor]) -> Rewritten:
        params, moves = self._params(new)
        strange = sorted(set(new) - set(moves))
        if strange:
            raise NetirError(
                f"'{strange[0]}' gets no new entries", fix=nearest(strange[0], moves)
            )
        nodes, added = self._nodes(params)
        graph = self.graph.replace(params=params, nodes=nodes)
        values = self._value_moves()
        return Rewritten(graph, Moves(moves, values, tuple(added)))

    def _params(self, new: Mapping[str, Tensor]) -> tuple[dict[str, Param], dict[str, Move]]:
        params = dict(self.graph.params)
        touched = dict.fromkeys(
            m.param for s in self.analysis.spaces if s.atom in self.moves.bases for m in s.members
        )
        moves = {name: self._move(name) for name in touched}
        expect_room(params, {name: self._entries(name, move) for name, move in moves.items()})
        for name, move in moves.items():
            old = params[name]
            data = move.apply(old.data)
            fresh = [(i, m.new) for i, m in enumerate(move.axes) if isinstance(m, Gather)]
            if any(n is not None for _, n in fresh):
                data = self._filled(name, data, move, new.get(name))
            params[name] = Param(data.contiguous(), old.kind, old.trainable)
        return params, moves

    def _move(self, name: str) -> Move:
        summed = self.analysis.summed
        shape = self.analysis.shape(f"@{name}")
        return Move(tuple(
            self.moves.of(layout, summed.get((name, axis), NOTHING))
            for axis, layout in enumerate(shape)
        ))  # fmt: skip

    def _entries(self, name: str, move: Move) -> int:
        """How many a parameter will have."""
        pairs = zip(move.axes, self.graph.params[name].data.shape, strict=True)
        return prod(size if axis is None else axis.size for axis, size in pairs)

    def _filled(self, name: str, data: Tensor, move: Move, given: Tensor | None) -> Tensor:
        """New rows as given, else neutral; new columns as given, else zero."""
        if given is not None and given.shape != data.shape:
            raise NetirError(
                f"new entries for '{name}' have shape {tuple(given.shape)}",
                fix=f"give a tensor of shape {tuple(data.shape)}",
            )
        mask = torch.zeros(data.shape, dtype=torch.bool)
        for axis, step in enumerate(move.axes):
            made = (name, axis) not in self.analysis.summed  # rows, not columns
            if isinstance(step, Gather) and step.new is not None and (made or given is not None):
                shape = [1] * data.dim()
                shape[axis] = -1
                mask |= step.new.view(shape)
        value = given if given is not None else torch.full_like(data, self._neutral(name))
        return torch.where(mask.to(data.device), value.to(data), data)

    def _neutral(self, name: str) -> float:
        for node, position in self.graph.users.get(f"@{name}", ()):
            if position in node.op.fills:
                return node.op.fills[position]
        return 0.0

    def _nodes(self, params: dict[str, Param]) -> tuple[dict[str, Node], list[str]]:
        scalings = self._scalings()
        derived = self.analysis.derived
        nodes: dict[str, Node] = {}
        added: list[str] = []
        for name, node in self.graph.nodes.items():
            types = tuple(map(self._type, node.results, node.types))
            op = node.op
            if name in derived and self._moves_any(derived[name]):
                op = replace(op, **{k: self._attribute(op, k, d) for k, d in derived[name].items()})
            operands = node.operands
            for slot, axis, summed in scalings.get(name, ()):
                scaled = self._scaling(nodes, params, added, operands, slot, axis, summed, node)
                operands = (*operands[:slot], scaled, *operands[slot + 1 :])
            if op is not node.op or types != node.types or operands is not node.operands:
                node = replace(node, op=op, types=types, operands=operands)
            nodes[name] = node
        return nodes, added

    def _type(self, result: str, kind: TensorType) -> TensorType:
        shape = self.analysis.shapes[result]
        if not any(map(self.moves.touches, shape)):
            return kind
        return kind.with_shape(tuple(map(self.moves.size, shape)))

    def _moves_any(self, derived: Mapping[str, Derived]) -> bool:
        return any(
            self.moves.touches(layout) for d in derived.values() for layout in _layouts(d) if layout
        )

    def _attribute(self, op: Any, name: str, derived: Derived) -> Any:
        old, layouts = getattr(op, name), _layouts(derived)
        if not isinstance(old, tuple):
            return old if layouts[0] is None else self.moves.size(layouts[0])
        pairs = zip(old, layouts, strict=True)
        return tuple(o if d is None else self.moves.size(d) for o, d in pairs)

    def _scalings(self) -> dict[str, list[tuple[int, int, frozenset[Atom]]]]:
        """Where a sum has no parameter of its own to share out: the operand to scale, for what."""
        found: dict[str, list[tuple[int, int, frozenset[Atom]]]] = {}
        for use in self.analysis.uses:
            if use.kind not in ("contract", "pair", "sum") or not self.moves.touches(use.layout):
                continue
            left = self._not_absorbed(use)
            if left and _shares(self.moves.of(use.layout, left)):
                slot, axis = self._scaled_slot(use)
                found.setdefault(use.node, []).append((slot, axis, left))
        return found

    def _not_absorbed(self, use: Use) -> frozenset[Atom]:
        """What changes of a sum and is not shared out by a parameter that has a part in it."""
        operands = self.graph.nodes[use.node].operands
        left = self.moves.bases.keys() & frozenset(atoms(use.layout))
        for slot, axis in use.slots:
            left -= self.analysis.summed.get(((operands[slot] or "")[1:], axis), NOTHING)
        return frozenset(left)

    def _scaled_slot(self, use: Use) -> tuple[int, int]:
        operands = self.graph.nodes[use.node].operands
        for slot, axis in use.slots:
            operand = operands[slot]
            if operand is not None and operand[0] != "@":
                return slot, axis
        return use.slots[0]

    def _scaling(
        self,
        nodes: dict[str, Node],
        params: dict[str, Param],
        added: list[str],
        operands: tuple[str | None, ...],
        slot: int,
        axis: int,
        summed: frozenset[Atom],
        node: Node,
    ) -> str:
        """Multiply an operand by the shares of one axis; gives the name of the result."""
        old = node.operands[slot]
        assert old is not None
        whole = tuple(self.analysis.shape(old))
        shape = tuple(map(self.moves.size, whole))
        kind = TensorType(self.graph.type_of(old).dtype, shape)
        share = _share_vector(self.moves.of(whole[axis], summed), shape[axis])
        graph = self.graph
        taken = (nodes, params, graph.nodes, graph.inputs, graph.aliases)
        name = _fresh(f"{node.name}.share", *taken)
        current = operands[slot]
        if len(set(share.tolist())) == 1:
            nodes[name] = Node(name, Mul(other=float(share[0])), (current,), (kind,), node.scope)
            return name
        tensor = share.to(kind.dtype).view(-1, *[1] * (len(shape) - axis - 1))
        params[name] = Param(tensor.to(self._device()), "const", trainable=False)
        added.append(name)
        nodes[name] = Node(name, Mul(), (current, f"@{name}"), (kind,), node.scope)
        return name

    def _device(self) -> torch.device:
        first = next(iter(self.graph.params.values()), None)
        return torch.device("cpu") if first is None else first.data.device

    def _value_moves(self) -> dict[str, Move]:
        found: dict[str, Move] = {}
        for name in self.graph.types:
            shape = self.analysis.shapes[name]
            if any(map(self.moves.touches, shape)):
                found[name] = Move(tuple(self.moves.of(layout) for layout in shape))
        return found


def _shares(move: AxisMove | None) -> bool:
    match move:
        case None:
            return False
        case Gather(_, share):
            return share is not None and not bool((share == 1).all())
    raise NetirError(
        "a linear basis meets a sum of activations, which has no weight to take it",
        fix="use a linear basis only where linear and convolution layers read the space",
    )


def _share_vector(move: AxisMove | None, size: Dim) -> Tensor:
    if isinstance(move, Gather) and move.share is not None:
        return move.share
    assert isinstance(size, int)
    return torch.ones(size, dtype=torch.float64)


def _fresh(base: str, *taken: Mapping[str, Any]) -> str:
    name, number = base, 2
    while any(name in names for names in taken):
        name, number = f"{base}{number}", number + 1
    return name


def _layouts(derived: Derived) -> tuple[Layout | None, ...]:
    """The layouts whose sizes make up an attribute."""
    if any(part is None or isinstance(part, tuple) for part in derived):
        return derived  # type: ignore[return-value]
    return (derived,)  # type: ignore[return-value]
