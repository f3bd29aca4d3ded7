"""The gradient that a connection across a hidden layer would have.

A new unit that a maker feeds by weights w and that readers read by weights c adds c·wᵀ to what goes
from the makers' inputs to the readers' results. The gradient of the loss by that product is one
matrix: a row for every weight that could read a unit, a column for every weight that could make it.
With units between that are zero at zero, this is exact, also at the edges of images: the makers'
windows are laid out as channels, and what a reader sees of them is its own weight gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import grad as by_weight

from netir.ir import Node
from netir.ops.activation import Dropout
from netir.ops.base import Op, per_axis
from netir.ops.pointwise import Identity, Pointwise
from netir.ops.shape import Reshape
from netir.passes.compensation.consumers import Consumer, Windows
from netir.passes.growth.hidden import Hidden
from netir.passes.growth.seen import Seen

_SAMPLES = 16
_BY_WEIGHT: Mapping[int, Callable[..., Tensor]] = {
    1: by_weight.conv1d_weight, 2: by_weight.conv2d_weight, 3: by_weight.conv3d_weight,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bridge:
    """The gradient matrix, and how to take its rows and columns apart."""

    matrix: Tensor
    layer: Hidden
    bent: tuple[str, ...]
    """The nodes between that are a ReLU, of which torch's gradient at 0 is 0."""

    def rows(self, made: Tensor) -> dict[str, Tensor]:
        """Weights for each maker out of vectors over the columns of the matrix, one a unit."""
        return _dealt(made, [(m.weight, self.layer.rows(m).shape[1:]) for m in self.layer.makers])

    def columns(self, read: Tensor) -> dict[str, Tensor]:
        """Weights for each reader out of vectors over the rows of the matrix, one a unit."""
        shapes = [(r.weight, self.layer.columns(r).shape[1:]) for r in self.layer.readers]
        return _dealt(read, shapes)


def _dealt(vectors: Tensor, shapes: Sequence[tuple[str, torch.Size]]) -> dict[str, Tensor]:
    sizes = [prod(shape) for _, shape in shapes]
    parts = vectors.split(sizes, 1)
    return {n: p.reshape(len(vectors), *s) for (n, s), p in zip(shapes, parts, strict=True)}


def bridge(layer: Hidden, seen: Seen) -> Bridge | str:
    """The gradient matrix of a layer, or why there is none."""
    why = _plain(layer)
    if why:
        return why
    bent: set[str] = set()
    slopes: dict[tuple[str, str], float] = {}
    for reader in layer.readers:
        found = _slopes(layer, reader, bent)
        if isinstance(found, str):
            return found
        slopes |= {(reader.node.name, maker): slope for maker, slope in found.items()}
    results = [r.node.results[0] for r in layer.readers]
    gradients, _ = seen.gradients(results)
    rows = []
    for reader in layer.readers:
        row = [
            slopes.get((reader.node.name, maker.node.name), 0.0)
            * _block(layer, seen, reader, maker, gradients)
            for maker in layer.makers
        ]
        rows.append(torch.cat(row, 1))
    return Bridge(torch.cat(rows), layer, tuple(sorted(bent)))


def _plain(layer: Hidden) -> str:
    """Why no connection across a layer is one product after another; empty if it is."""
    kinds = {use.kind for use in layer.space.uses} - {"contract"}
    if kinds or not layer.makers or not layer.readers:
        return "it is not made and read by linear layers or convolutions alone"
    if len(layer.readers) < len({u.node for u in layer.space.uses}):
        return "something reads it that is no linear layer or convolution"
    for part in (*layer.makers, *layer.readers):
        if part.groups > 1 or part.node.op.name == "conv_transpose":
            return f"{part.node.name} is a convolution with groups or a transposed one"
    if any(layer.rows(m).shape[1] > 1 for m in layer.makers):
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
        here = _slope(node)
        if here is None:
            return f"{node.name} ({node.op.name}) stands between"
        if node.op.name == "relu":
            bent.add(node.name)
        pending += [
            (o, slope * here) for o in node.operands
            if o is not None and o[0] != "@"
            and any(term is atom for layout in graph.analysis.shape(o) for term in layout)
        ]  # fmt: skip
    return found


def _slope(node: Node) -> float | None:
    """How an op passes on what is nearly zero; None where that is not one factor of zero."""
    op: Any = node.op
    values = [o for o in node.operands if o is not None and o[0] != "@"]
    if op.name == "batch_norm":
        return float((1 + op.eps) ** -0.5)
    if op.name == "relu" or isinstance(op, (Dropout, Identity)):
        return 1.0
    if op.name == "add" and len(values) == 2 and getattr(op, "alpha", 1) == 1:
        return 1.0
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


def _block(
    layer: Hidden, seen: Seen, reader: Consumer, maker: Consumer, gradients: list[dict[str, Tensor]]
) -> Tensor:
    """The part of the matrix for one reader and one maker."""
    kernel = tuple(layer.graph.params[maker.weight].data.shape[2:])
    total: Tensor | None = None
    for batch, slopes in zip(seen.values, gradients, strict=True):
        x, slope = batch[maker.x].detach(), slopes[reader.node.results[0]].double()
        for part, by in zip(x.split(_SAMPLES), slope.split(_SAMPLES), strict=True):
            windows = Windows(maker, part, kernel)
            found = _product(layer, reader, windows, by)
            total = found if total is None else total + found
    assert total is not None
    return total


def _product(layer: Hidden, reader: Consumer, windows: Windows, slope: Tensor) -> Tensor:
    """For some samples: a row for each weight of the reader, a column for each of the maker."""
    entries, *rest = layer.columns(reader).shape[1:]
    read = windows.at(torch.arange(len(windows)))[:, 0]
    inputs = read.shape[1]
    if not reader.spatial:
        by = slope.reshape(-1, slope.shape[-1])
        laid = read.reshape(len(by), entries, inputs)
        return torch.einsum("no,nsj->soj", by, laid).reshape(-1, inputs)
    op: Any = reader.node.op
    laid = read.reshape(*windows.sizes, inputs).movedim(-1, 1)
    stride, dilation = per_axis(op.stride, op.rank), per_axis(op.dilation, op.rank)
    shape, padding = (slope.shape[1], inputs, *rest[1:]), _padding(op, rest[1:], dilation)
    found: Tensor = _BY_WEIGHT[op.rank](laid, shape, slope, stride, padding, dilation)
    return found.movedim(1, -1).reshape(-1, inputs)


def _padding(op: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    if op.padding == "same":
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    return (0,) * op.rank if op.padding == "valid" else per_axis(op.padding, op.rank)


__all__ = ["Bridge", "bridge"]
