"""How the axes of a layout move when some of its spaces take a new basis.

A product of terms becomes one gather where all of them are gathered, else one matrix after the
other; parts laid end to end move each for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from netir.basis import Basis
from netir.dims import Dim, Sym, product
from netir.errors import NetirError
from netir.layouts import Atom, Concat, Layout, Term, atoms, resolve, size_of
from netir.moves import AxisMove, Chain, Gather, Matrix, Parts, Within

NOTHING: frozenset[Atom] = frozenset()


class LayoutMoves:
    """The move of every layout, for new bases of some atoms; each is worked out once."""

    def __init__(self, bases: Mapping[Atom, Basis]) -> None:
        self.bases = bases
        self._moves: dict[tuple[Any, ...], AxisMove | None] = {}
        self._sizes: dict[Layout, Dim] = {}
        self._touched: dict[Layout, bool] = {(): False}

    def of(self, layout: Layout, summed: frozenset[Atom] = NOTHING) -> AxisMove | None:
        """The move of an axis of this layout, of which the atoms in `summed` are summed over."""
        if not self.touches(layout):
            return None
        found = resolve(layout)
        key = (summed, *map(id, found))
        if key not in self._moves:
            self._moves[key] = self._made(found, summed)
        return self._moves[key]

    def _made(self, layout: Layout, summed: frozenset[Atom]) -> AxisMove | None:
        moves: list[AxisMove | None] = []
        for term in layout:
            if isinstance(term, Concat):
                parts = tuple(self.of(p, summed) for p in term.parts)
                moves.append(_joined(tuple(map(_int, term.parts)), parts) if any(parts) else None)
            else:
                basis = self.bases.get(term)
                moves.append(None if basis is None else _atom_move(basis, term in summed))
        if all(m is None for m in moves):
            return None
        return _product(layout, moves)

    def size(self, layout: Layout) -> Dim:
        """The size of an axis after the change."""
        found = self._sizes.get(layout)
        if found is None:
            found = product(self._term_size(term) for term in resolve(layout))
            self._sizes[layout] = found
        return found

    def _term_size(self, term: Term) -> Dim:
        if isinstance(term, Concat):
            return sum((self.size(p) for p in term.parts[1:]), self.size(term.parts[0]))
        basis = self.bases.get(term)
        return term.size if basis is None else basis.size

    def touches(self, layout: Layout) -> bool:
        """Whether any part of a layout takes a new basis."""
        found = self._touched.get(layout)
        if found is None:
            found = self._touched[layout] = any(atom in self.bases for atom in atoms(layout))
        return found


def _atom_move(basis: Basis, contracted: bool) -> AxisMove:
    if basis.index is not None:
        return Gather(basis.index, basis.share if contracted else None)
    assert basis.into is not None
    assert basis.back is not None
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
    """The move of a product with factors of open size: what changes, one after the other."""
    steps: list[AxisMove] = []
    now = list(sizes)
    for position, move in enumerate(moves):
        if move is not None:
            outer, inner = _times(now[:position]), _times(now[position + 1 :])
            if outer == inner == -1:
                raise NetirError(
                    "an axis cannot change between two open sizes",
                    fix="trace the model with a fixed size for one of them",
                )
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


def _int(layout: Layout) -> int:
    size = size_of(layout)
    assert isinstance(size, int)
    return size


def _times(sizes: list[int]) -> int:
    """The product of sizes; open (-1) if one of them is."""
    return -1 if -1 in sizes else prod(sizes)
