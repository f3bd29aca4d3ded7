"""The gradient that a connection across a hidden layer would have.

A new unit that a maker feeds by weights w and that readers read by weights c adds c·wᵀ to what goes
from the makers' inputs to the readers' results. The gradient of the loss by that product is one
matrix: a row for every weight that could read a unit, a column for every weight that could make it.
With units between that are zero at zero, this is exact, also at the edges of images: the makers'
windows are laid out as channels, and what a reader sees of them is its own weight gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from netir.ir import Graph, Node
from netir.layouts import resolve
from netir.ops.activation import Dropout
from netir.ops.base import Op
from netir.ops.pointwise import Identity, Pointwise
from netir.ops.shape import Reshape
from netir.passes.compensation.consumers import Consumer
from netir.passes.growth.hidden import Hidden
from netir.passes.growth.seen import Pairs, Seen
from netir.passes.growth.sides import (
    even,
    laid,
    made_by,
    shape_made,
    slope_of_columns,
    slope_of_rows,
    slope_shown,
)

_SAMPLES = 16


@dataclass(frozen=True, eq=False)
class Bridge:
    """The gradient matrix, and how to take its rows and columns apart."""

    layer: Hidden
    bent: tuple[str, ...]
    """The nodes between that are a ReLU, of which torch's gradient at 0 is 0."""
    factors: Mapping[tuple[str, str], float]
    """By reader and maker how a small result of the one shows in what the other reads."""
    pairs: Pairs

    @cached_property
    def matrix(self) -> Tensor:
        """The gradient by every product of a weight that reads and one that makes, in float64."""
        return torch.cat([
            torch.cat([self._block(reader, maker) for maker in self.layer.makers], 1)
            for reader in self.layer.readers
        ])  # fmt: skip

    def rows(self, made: Tensor) -> dict[str, Tensor]:
        """Weights for each maker out of vectors over the columns of the matrix, one a unit."""
        return _dealt(made, [(m.weight, self.layer.row_shape(m)) for m in self.layer.makers])

    def columns(self, read: Tensor) -> dict[str, Tensor]:
        """Weights for each reader out of vectors over the rows of the matrix, one a unit."""
        shapes = [(r.weight, self.layer.column_shape(r)) for r in self.layer.readers]
        return _dealt(read, shapes)

    def below(self, size: float, seed: int = 0) -> bool:
        """Whether every singular value is certainly below a size, without the whole matrix.

        That takes its products with a few random vectors, from either side in turn. By chance it
        is said of a larger one less than once in 10 million times.
        """
        if not size > 0:
            return False
        width = sum(prod(self.layer.row_shape(m)) for m in self.layer.makers)
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.randn(_VECTORS, width, generator=generator, dtype=torch.float64)
        for turn in range(_TURNS):
            before = vectors.norm(dim=1)
            vectors = (self._back(vectors) if turn % 2 else self._forth(vectors)) / size
            if _SAFETY * float(vectors.square().sum()) < _VECTORS:
                return True
            if bool((vectors.norm(dim=1) >= before).any()):
                return False
        return False

    def _forth(self, made: Tensor) -> Tensor:
        """The matrix times vectors: the gradient of what reads units that are made so."""
        rows, found = self.rows(made), []
        for reader in self.layer.readers:
            total = made.new_zeros(len(made), prod(self.layer.column_shape(reader)))
            for maker, factor, x, slope in self._across(reader, self.layer.makers):
                shown = made_by(maker, x, rows[maker.weight][:, 0].to(x))
                total += factor * slope_of_columns(self.layer, reader, maker, shown, slope).cpu()
            found.append(total)
        return torch.cat(found, 1)

    def _back(self, read: Tensor) -> Tensor:
        """Vectors times the matrix: the gradient of what makes units that are read so."""
        columns, found = self.columns(read), []
        for maker in self.layer.makers:
            total = read.new_zeros(len(read), prod(self.layer.row_shape(maker)))
            for reader in self.layer.readers:
                for _, factor, x, slope in self._across(reader, [maker]):
                    shape = shape_made(self.layer, maker, x, len(read))
                    by = columns[reader.weight].to(slope)
                    shown = slope_shown(reader, maker.axis, shape, by, slope)
                    total += factor * slope_of_rows(self.layer, maker, x, shown).cpu()
            found.append(total)
        return torch.cat(found, 1)

    def _across(
        self, reader: Consumer, makers: Sequence[Consumer]
    ) -> Iterator[tuple[Consumer, float, Tensor, Tensor]]:
        """From makers to a reader, batch for batch: the factor, what is read, what comes back."""
        for maker in makers:
            factor = self.factors.get((reader.node.name, maker.node.name), 0.0)
            for values, slopes in self.pairs if factor else ():
                x, slope = values[maker.x].detach(), slopes[reader.node.results[0]]
                yield maker, factor, x, slope.to(x.dtype)

    def _block(self, reader: Consumer, maker: Consumer) -> Tensor:
        """The part of the matrix for one reader and one maker."""
        layer = self.layer
        shape = prod(layer.column_shape(reader)), prod(layer.row_shape(maker))
        device = layer.graph.params[maker.weight].data.device
        total = torch.zeros(shape, dtype=torch.float64, device=device)
        for _, factor, x, slope in self._across(reader, [maker]):
            few = _SAMPLES if len(x) == len(slope) else max(len(x), len(slope))  # folded axes
            for part, back in zip(x.split(few), slope.split(few), strict=True):
                shown = laid(layer, maker, part)
                total += factor * slope_of_columns(layer, reader, maker, shown, back).mT
        return total


_VECTORS, _TURNS = 8, 6
_SAFETY = 100.0
"""The mean square of 8 normal numbers is below 1/100 once in 10 million times."""


def _dealt(vectors: Tensor, shapes: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    sizes = [prod(shape) for _, shape in shapes]
    parts = vectors.split(sizes, 1)
    return {n: p.reshape(len(vectors), *s) for (n, s), p in zip(shapes, parts, strict=True)}


def bridge(layer: Hidden, seen: Seen) -> Bridge | str:
    """The gradient matrix of a layer, or why there is none."""
    why = plain(layer)
    if why:
        return why
    bent: set[str] = set()
    factors: dict[tuple[str, str], float] = {}
    for reader in layer.readers:
        found = _slopes(layer, reader, bent)
        if isinstance(found, str):
            return found
        factors |= {(reader.node.name, maker): factor for maker, factor in found.items()}
    pairs, _ = seen.slopes(layer)
    return Bridge(layer, tuple(sorted(bent)), factors, pairs)


def plain(layer: Hidden) -> str:
    """Why no connection across a layer is one product after another; empty if it is."""
    kinds = {use.kind for use in layer.space.uses} - {"contract"}
    if kinds or not layer.makers or not layer.readers:
        return "it is not made and read by linear layers or convolutions alone"
    if len(layer.readers) < len({u.node for u in layer.space.uses}):
        return "something reads it that is no linear layer or convolution"
    for part in (*layer.makers, *layer.readers):
        if part.groups > 1 or part.node.op.name == "conv_transpose":
            return f"{part.node.name} is a convolution with groups or a transposed one"
        if not even(layer, part):
            return f"{part.node.name} is padded more at one end than at the other"
    if any(layer.row_shape(m)[0] > 1 for m in layer.makers):
        return "an index of it has several rows"
    return ""


def _slopes(layer: Hidden, reader: Consumer, bent: set[str]) -> dict[str, float] | str:
    """By maker how a small result shows in what a reader reads, or why that is not one factor."""
    graph, atom = layer.graph, layer.space.atom
    makers = {m.node.results[0]: m.node.name for m in layer.makers}
    found: dict[str, float] = {}
    pending: list[tuple[str, float]] = [(reader.x, 1.0)]
    while pending:
        value, slope = pending.pop()
        if value in makers:
            found[makers[value]] = found.get(makers[value], 0.0) + slope
            continue
        node = graph.producers.get(value)
        if node is None:
            continue
        here = _slope(graph, node)
        if here is None:
            return f"{node.name} ({node.op.name}) stands between"
        if node.op.name == "relu":
            bent.add(node.name)
        pending += [
            (o, slope * here) for o in node.operands
            if o is not None and o[0] != "@"
            and any(atom in resolve(layout) for layout in graph.analysis.shape(o))
        ]  # fmt: skip
    return found


def _slope(graph: Graph, node: Node) -> float | None:
    """How an op passes on what is nearly zero; None where that is not one factor of zero."""
    op: Any = node.op
    values = [o for o in node.operands if o is not None and o[0] != "@"]
    if op.name == "batch_norm":
        return float((1 + op.eps) ** -0.5)
    if op.name == "relu" or isinstance(op, (Dropout, Identity)):
        return 1.0
    if op.name == "add" and len(values) == 2 and getattr(op, "alpha", 1) == 1:
        return 1.0 if graph.type_of(values[0]) == graph.type_of(values[1]) else None
    if isinstance(op, Reshape):
        return 1.0
    return _at_zero(op) if isinstance(op, Pointwise) and len(node.operands) == 1 else None


def _at_zero(op: Op) -> float | None:
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        result = op.to_torch(zero)
        if float(result.detach()) != 0 or not result.requires_grad:
            return None
        (slope,) = torch.autograd.grad(result, zero)
    return float(slope)


__all__ = ["Bridge", "bridge", "plain"]
