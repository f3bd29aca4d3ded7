"""The change of basis: every change of width, of any number of spaces at once.

A space of n indices becomes one of m: what produces it is mapped by E, what sums over it by D
(design notes in docs/concepts.md). Parameters take part in both; where nothing with weights can
take D, because two activations meet or a weight is tied, a scaling is put before the use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from math import prod
from typing import Any

import torch
from torch import Tensor

from netir.dims import Dim, Sym
from netir.errors import NetirError, nearest
from netir.ir import Graph, Node, Param, TensorType
from netir.layouts import Atom, Concat, Layout, Term, atoms, resolve, size_of
from netir.moves import AxisMove, Chain, Gather, Matrix, Move, Moves, Parts, Within
from netir.ops.pointwise import Mul
from netir.spaces import Analysis, Derived, Space, Use


class Contract(Enum):
    """What a rewrite keeps of the function that the network computes."""

    EXACT = "exact"
    EXACT_EVAL = "exact-eval"
    MASKED = "masked"
    BOUNDED = "bounded"
    CHANGED = "changed"


@dataclass(frozen=True, eq=False)
class Basis:
    """New indices for a space: where each comes from, or a matrix for what makes it and back."""

    index: Tensor | None = None
    share: Tensor | None = None
    into: Tensor | None = None
    back: Tensor | None = None

    @property
    def size(self) -> int:
        found = self.index if self.index is not None else self.into
        assert found is not None
        return found.shape[0]

    @property
    def replicates(self) -> bool:
        """Whether some old index is there more than once."""
        return self.index is not None and bool((self._counts() > 1).any())

    @property
    def extends(self) -> bool:
        """Whether some index comes from nowhere."""
        return self.index is not None and bool((self.index < 0).any())

    @property
    def uniform(self) -> bool:
        """Whether every old index is there equally often."""
        return self.index is not None and len(set(self._counts().tolist())) == 1

    def _counts(self) -> Tensor:
        assert self.index is not None
        return torch.bincount(self.index[self.index >= 0])


def select(index: Tensor | list[int]) -> Basis:
    """Keep the indices given, in the order given."""
    return Basis(torch.as_tensor(index, dtype=torch.int64))


def replicate(index: Tensor | list[int], share: Tensor | None = None) -> Basis:
    """Copy indices; whatever sums over a copied one shares it out, equally unless `share` says.

    The shares of the copies of one index must sum to 1.
    """
    found = torch.as_tensor(index, dtype=torch.int64)
    if share is None:
        share = 1.0 / torch.bincount(found)[found].to(torch.float64)
    return Basis(found, share.to(torch.float64))


def extend(size: int, count: int) -> Basis:
    """Keep all `size` indices and append `count` new ones."""
    return Basis(torch.cat([torch.arange(size), torch.full((count,), -1)]))


def linear(into: Tensor, back: Tensor) -> Basis:
    """Any other basis: `into` (m x n) for what makes the space, `back` (n x m) for what reads it."""
    return Basis(into=into.to(torch.float64), back=back.to(torch.float64))


def kept(space: Space, basis: Basis) -> tuple[Contract, str]:
    """What a change of one space keeps, and why it is no more than that."""
    kinds = {use.kind: use for use in space.uses}
    if basis.into is not None:
        return Contract.CHANGED, "a linear basis in general keeps only what D·E keeps"
    assert basis.index is not None
    mixed = next((kinds[k] for k in ("norm", "softmax", "mix") if k in kinds), None)
    if basis.extends:
        strange = next((u for k, u in kinds.items() if k != "contract"), None)
        if strange is not None:
            return Contract.CHANGED, f"{strange.node} sees the new indices ({strange.kind})"
        return Contract.EXACT, ""
    covered = len(set(basis.index.tolist())) == space.size
    if not covered:
        return (Contract.CHANGED, "some indices go and others are copied") if (
            basis.replicates
        ) else (Contract.MASKED, "")
    if not basis.replicates or mixed is None:
        return Contract.EXACT, ""
    if mixed.kind == "mix" and basis.uniform:
        return Contract.EXACT, ""
    fix = "all indices have equally many copies" if mixed.kind == "mix" else "nothing is copied"
    return Contract.CHANGED, f"{mixed.node} keeps its function only if {fix}"


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
    analysis = graph.analysis
    bases = _checked(analysis, changes)
    return _Change(analysis, bases).done(new or {})


def _checked(analysis: Analysis, changes: Mapping[str | Space, Basis]) -> dict[Atom, Basis]:
    known = {s.name: s for s in analysis.spaces}
    found: dict[Atom, Basis] = {}
    for key, basis in changes.items():
        name = key if isinstance(key, str) else key.name
        space = known.get(name)
        if space is None:
            raise NetirError(f"there is no space '{name}'", fix=nearest(name, known))
        if basis.into is not None:
            _check_linear(analysis, space)
        if space.frozen:
            raise NetirError(
                f"space '{name}' cannot change",
                where=space.reason,
                fix="choose a free space: netir spaces lists them",
            )
        _check_basis(space, basis)
        found[space.atom] = basis
    return found


def _check_linear(analysis: Analysis, space: Space) -> None:
    """Refuse a basis that is more than a choice of indices where something else stands between."""
    strange = [u.node for u in space.uses if u.kind not in ("contract", "pair", "sum")]
    makers = {analysis.graph.producers[v] for v, _ in space.values if v in analysis.graph.producers}
    strange += [node.name for node in makers if not node.op.linear()]
    if strange:
        raise NetirError(
            f"'{space.name}' cannot take a linear basis",
            where=f"{sorted(strange)[0]} is not linear",
            fix="use select, replicate or extend",
        )


def _check_basis(space: Space, basis: Basis) -> None:
    if basis.into is not None and basis.back is not None:
        want = (basis.into.shape[0], space.size)
        if basis.into.shape != want or basis.back.shape != want[::-1] or not want[0]:
            raise NetirError(
                f"the basis of '{space.name}' has shapes {tuple(basis.into.shape)} and "
                f"{tuple(basis.back.shape)}",
                fix=f"give m x {space.size} and {space.size} x m",
            )
        return
    index = basis.index
    if index is None or index.dim() != 1 or not len(index):
        raise NetirError(f"the new width of '{space.name}' must be at least 1")
    if int(index.max()) >= space.size or int(index.min()) < -1:
        raise NetirError(
            f"an index of '{space.name}' is outside its {space.size}",
            fix=f"use 0 to {space.size - 1}, or -1 for a new entry",
        )
    if basis.share is not None:
        if basis.share.shape != index.shape:
            raise NetirError(f"'{space.name}' needs one share for each of {len(index)} indices")
        old = index >= 0
        sums = torch.zeros(space.size, dtype=torch.float64)
        sums.index_add_(0, index[old], basis.share[old])
        there = torch.bincount(index[old], minlength=space.size) > 0
        if not torch.allclose(sums[there], torch.ones_like(sums[there]), atol=1e-9):
            raise NetirError(f"the shares of an index of '{space.name}' do not sum to 1")


NOTHING: frozenset[Atom] = frozenset()


class _Change:
    """One change of basis under way: maps layouts to moves, then rebuilds what they touch."""

    def __init__(self, analysis: Analysis, bases: Mapping[Atom, Basis]) -> None:
        self.analysis = analysis
        self.graph = analysis.graph
        self.bases = bases
        self._axis_moves: dict[tuple[Any, ...], AxisMove | None] = {}
        self._touched: dict[int, bool] = {}
        self._sizes: dict[Layout, Dim] = {}

    def done(self, new: Mapping[str, Tensor]) -> Rewritten:
        params, moves = self._params(new)
        nodes, added = self._nodes(params)
        graph = self.graph.replace(params=params, nodes=nodes)
        values = self._value_moves()
        return Rewritten(graph, Moves(moves, values, tuple(added)))

    def axis(self, layout: Layout, summed: frozenset[Atom] = NOTHING) -> AxisMove | None:
        """The move of an axis of this layout, of which the atoms in `summed` are summed over."""
        found = resolve(layout)
        key = (summed, *map(id, found))
        if key not in self._axis_moves:
            self._axis_moves[key] = self._axis(found, summed)
        return self._axis_moves[key]

    def _axis(self, layout: Layout, summed: frozenset[Atom]) -> AxisMove | None:
        moves: list[AxisMove | None] = []
        for term in layout:
            if isinstance(term, Concat):
                parts = tuple(self.axis(p, summed) for p in term.parts)
                moves.append(_joined(tuple(map(_int, term.parts)), parts) if any(parts) else None)
            else:
                basis = self.bases.get(term)
                moves.append(None if basis is None else _atom_move(basis, term in summed))
        if all(m is None for m in moves):
            return None
        return _product(layout, moves)

    def size(self, layout: Layout) -> Dim:
        """The size of an axis after the change."""
        total: Dim = 1
        for term in resolve(layout):
            total = total * self._term_size(term)
        return total

    def _term_size(self, term: Term) -> Dim:
        if isinstance(term, Concat):
            return sum((self.size(p) for p in term.parts[1:]), self.size(term.parts[0]))
        basis = self.bases.get(term)
        return term.size if basis is None else basis.size

    def _params(self, new: Mapping[str, Tensor]) -> tuple[dict[str, Param], dict[str, Move]]:
        params = dict(self.graph.params)
        moves: dict[str, Move] = {}
        touched = dict.fromkeys(
            m.param for s in self.analysis.spaces if s.atom in self.bases for m in s.members
        )
        for name in touched:
            shape = self.analysis.shape(f"@{name}")
            summed = self.analysis.summed
            move = Move(
                tuple(
                    self.axis(layout, summed.get((name, axis), NOTHING))
                    for axis, layout in enumerate(shape)
                )
            )
            moves[name] = move
            old = params[name]
            data = move.apply(old.data)
            fresh = [(i, m.new) for i, m in enumerate(move.axes) if isinstance(m, Gather)]
            if any(n is not None for _, n in fresh):
                data = self._filled(name, data, move, new.get(name))
            params[name] = Param(data.contiguous(), old.kind, old.trainable)
        return params, moves

    def _filled(self, name: str, data: Tensor, move: Move, given: Tensor | None) -> Tensor:
        """New entries of what makes a space: as given, or neutral; columns stay zero unless given."""
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
            for slot, axis, layout in scalings.get(name, ()):
                scaled = self._scaling(nodes, params, added, operands, slot, axis, layout, node)
                operands = (*operands[:slot], scaled, *operands[slot + 1 :])
            if op is not node.op or types != node.types or operands is not node.operands:
                node = replace(node, op=op, types=types, operands=operands)
            nodes[name] = node
        return nodes, added

    def _type(self, result: str, kind: TensorType) -> TensorType:
        shape = self.analysis.shapes[result]
        if not any(map(self._is_touched, shape)):
            return kind
        return kind.with_shape(tuple(map(self.size, shape)))

    def _is_touched(self, layout: Layout) -> bool:
        found = self._touched.get(id(layout))
        if found is None:
            found = any(atom in self.bases for atom in atoms(layout))
            self._touched[id(layout)] = found
        return found

    def _moves_any(self, derived: Mapping[str, Derived]) -> bool:
        return any(
            self._is_touched(layout)
            for d in derived.values()
            for layout in (d if _is_shape(d) else (d,))
            if layout
        )

    def _attribute(self, op: Any, name: str, derived: Derived) -> Any:
        if _is_shape(derived):
            old = getattr(op, name)
            pairs = zip(old, derived, strict=True)
            return tuple(o if d is None else self.size(d) for o, d in pairs)  # type: ignore[arg-type]
        return self.size(derived)  # type: ignore[arg-type]

    def _scalings(self) -> dict[str, list[tuple[int, int, Layout]]]:
        """Where a sum has no parameter of its own to share out: the operand to scale."""
        found: dict[str, list[tuple[int, int, Layout]]] = {}
        for use in self.analysis.uses:
            if use.kind not in ("contract", "pair", "sum") or not self._is_touched(use.layout):
                continue
            if self._absorbed(use):
                continue
            if not _shares(self.axis(use.layout, frozenset(atoms(use.layout)))):
                continue
            slot, axis = self._scaled_slot(use)
            found.setdefault(use.node, []).append((slot, axis, use.layout))
        return found

    def _absorbed(self, use: Use) -> bool:
        operands = self.graph.nodes[use.node].operands
        return any(
            (operand := operands[slot]) and operand[0] == "@"
            and self.analysis.summed.get((operand[1:], axis), NOTHING) >= frozenset(atoms(use.layout))
            for slot, axis in use.slots
        )  # fmt: skip

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
        layout: Layout,
        node: Node,
    ) -> str:
        """Multiply an operand by the shares of one axis; gives the name of the result."""
        old = node.operands[slot]
        assert old is not None
        whole = tuple(self.analysis.shape(old))
        shape = tuple(map(self.size, whole))
        kind = TensorType(self.graph.type_of(old).dtype, shape)
        summed = frozenset(atoms(layout))
        share = _share_vector(self.axis(whole[axis], summed), shape[axis])
        name = _fresh(f"{node.name}.share", nodes, self.graph.nodes)
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
            if any(map(self._is_touched, shape)):
                found[name] = Move(tuple(self.axis(layout) for layout in shape))
        return found


def _atom_move(basis: Basis, contracted: bool) -> AxisMove:
    if basis.index is not None:
        return Gather(basis.index, basis.share if contracted else None)
    assert basis.into is not None and basis.back is not None
    return Matrix(basis.back.t() if contracted else basis.into)


def _product(layout: Layout, moves: list[AxisMove | None]) -> AxisMove:
    """The move of a product of terms: one gather, or one matrix after the other."""
    if len(layout) == 1:
        assert moves[0] is not None
        return moves[0]
    sizes = [-1 if isinstance(t.size, Sym) else t.size for t in layout]
    if -1 in sizes:
        return _open_product(sizes, moves)
    if all(m is None or isinstance(m, Gather) for m in moves):
        return _gathered(sizes, [m if isinstance(m, Gather) else None for m in moves])
    steps: list[AxisMove] = []
    for position, move in enumerate(moves):
        if move is None:
            continue
        before = [s if m is None else m.size for s, m in zip(sizes, moves, strict=True)]
        outer, inner = _times(before[:position]), _times(sizes[position + 1 :])
        steps.append(_within(move, outer, sizes[position], inner))
    return steps[0] if len(steps) == 1 else Chain(tuple(steps))


def _open_product(sizes: list[int], moves: list[AxisMove | None]) -> AxisMove:
    """The move of a product with one factor of open size: what changes, one after the other."""
    steps: list[AxisMove] = []
    now = list(sizes)
    for position, move in enumerate(moves):
        if move is not None:
            outer, inner = _times(now[:position]), _times(now[position + 1 :])
            if sizes.count(-1) > 1:
                raise NetirError("an axis with two open sizes cannot change")
            steps.append(Within(move, outer, sizes[position], inner))
            now[position] = move.size
    return steps[0] if len(steps) == 1 else Chain(tuple(steps))


def _within(move: AxisMove, outer: int, size: int, inner: int) -> AxisMove:
    """The move of the middle one of three factors of an axis."""
    match move:
        case Matrix(matrix):
            return Matrix(matrix, outer, inner)
        case Gather():
            return _gathered([outer, size, inner], [None, move, None])
    if outer == 1 and inner == 1:
        return move
    raise NetirError(
        "a linear basis meets a concatenation inside a product",
        fix="use select, replicate or extend for this space",
    )


def _gathered(sizes: list[int], moves: list[Gather | None]) -> Gather:
    index = torch.zeros(1, dtype=torch.int64)
    share: Tensor | None = None
    for size, move in zip(sizes, moves, strict=True):
        step = torch.arange(size) if move is None else move.index
        combined = index[:, None] * size + step.clamp(min=0)
        lost = (index[:, None] < 0) | (step < 0)
        before = len(index)
        index = torch.where(lost, -1, combined).flatten()
        if share is not None or (move is not None and move.share is not None):
            left = torch.ones(before, dtype=torch.float64) if share is None else share
            right = None if move is None else move.share
            right = torch.ones(len(step), dtype=torch.float64) if right is None else right
            share = (left[:, None] * right).flatten()
    return Gather(index, share)


def _joined(sizes: tuple[int, ...], moves: tuple[AxisMove | None, ...]) -> AxisMove | None:
    """The move of parts laid end to end; one gather where all parts are gathered."""
    if all(m is None for m in moves):
        return None
    if not all(m is None or isinstance(m, Gather) for m in moves):
        return Parts(sizes, moves)
    index, share, offset = [], [], 0
    for size, move in zip(sizes, moves, strict=True):
        part = torch.arange(size) if not isinstance(move, Gather) else move.index
        weight = move.share if isinstance(move, Gather) else None
        index.append(torch.where(part < 0, -1, part + offset))
        share.append(torch.ones(len(part), dtype=torch.float64) if weight is None else weight)
        offset += size
    weighted = any(isinstance(m, Gather) and m.share is not None for m in moves)
    return Gather(torch.cat(index), torch.cat(share) if weighted else None)


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


def _is_shape(derived: Derived) -> bool:
    return any(entry is None or isinstance(entry, tuple) for entry in derived)


def _int(layout: Layout) -> int:
    size = size_of(layout)
    assert isinstance(size, int)
    return size


def _times(sizes: list[int]) -> int:
    """The product of sizes, of which one may be open (-1)."""
    return -1 if -1 in sizes else prod(sizes)
