"""New units by themselves: what they would show, worked out without the units that are there.

That takes a layer that one linear layer or convolution makes, with nothing behind it that takes in
more than one index: batch norms, activations, pools, a flatten. For others the units are planted,
and the network, or a part of it, is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from netir.ir import Graph, Node
from netir.layouts import resolve
from netir.ops.activation import Dropout
from netir.ops.norm import BatchNorm
from netir.ops.pointwise import Pointwise
from netir.ops.pool import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool, MaxPoolAt
from netir.ops.shape import Reshape
from netir.passes.compensation.consumers import Consumer
from netir.passes.growth.hidden import Hidden
from netir.passes.growth.seen import between
from netir.passes.growth.sides import made_by

_POOLS = (AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool)


@dataclass(frozen=True, eq=False)
class Chain:
    """The one product that makes a layer, and the nodes from there to where it is read."""

    graph: Graph
    maker: Consumer
    nodes: tuple[Node, ...]
    drops: bool
    """Whether some are dropped out in train mode."""

    def shown(
        self, x: Tensor, rows: Tensor, training: bool, source: Tensor | None = None
    ) -> Tensor:
        """The activations of units with these rows of weights; channels as the maker's.

        Biases are zero and norms neutral, but for copies those of the units that `source` names.
        In train mode a norm takes the statistics of what it is given.
        """
        found = made_by(self.maker, x, rows)
        if source is not None and self.maker.bias is not None:
            bias = self._vector(self.maker.bias, 0.0, source)
            found = found + self.maker.along(bias.to(found), found.dim())
        for node in self.nodes:
            op: Any = node.op
            if isinstance(op, BatchNorm):
                found = self._normed(node, found, training, source)
            else:
                found = op.to_torch(found)
        return found

    def _normed(
        self, node: Node, x: Tensor, training: bool, source: Tensor | None
    ) -> Tensor:
        op: Any = node.op
        if source is None:
            found: Tensor = op.to_torch(x) if training else x * (1 + op.eps) ** -0.5
            return found
        weight, bias, *running = (
            None if o is None else self._vector(o[1:], op.fills.get(slot, 0.0), source).to(x)
            for slot, o in enumerate(node.operands[1:], 1)
        )
        found = op.to_torch(x, weight, bias, *(() if training else running))
        return found

    def _vector(self, name: str, neutral: float, source: Tensor) -> Tensor:
        """The entries of a parameter for copies of units, and neutral ones for others."""
        data = self.graph.params[name].data.detach()
        source = source.to(data.device)
        return torch.where(source < 0, neutral, data[source.clamp(min=0)])


def chain(layer: Hidden) -> Chain | None:
    """A layer as a chain, if it is one."""
    if len(layer.makers) != 1 or not layer.value:
        return None
    (maker,) = layer.makers
    if maker.groups > 1 or maker.node.op.name == "conv_transpose":
        return None
    axis = layer.graph.analysis.shape(maker.node.results[0])[maker.axis]
    if resolve(axis) != (layer.space.atom,):
        return None
    inside, outside = between(layer.graph, layer)
    first, *rest = inside.values()
    if outside != [maker.x] or first.name != maker.node.name:
        return None
    last = first
    for node in rest:
        if not _single(node) or node.operands[0] != last.results[0] or len(last.results) != 1:
            return None
        last = node
    while rest and isinstance(rest[-1].op, Reshape):
        rest.pop()
    if any(isinstance(node.op, Reshape) for node in rest):
        return None
    drops = any(isinstance(node.op, Dropout) for node in rest)
    return Chain(layer.graph, maker, tuple(rest), drops)


def _single(node: Node) -> bool:
    """Whether a node takes in one value, each index by itself."""
    op = node.op
    if len(node.values) != 1:
        return False
    if isinstance(op, BatchNorm):
        return len(node.operands) > 3 and node.operands[3] is not None
    if isinstance(op, MaxPoolAt) or len(node.operands) != 1:
        return False
    return isinstance(op, (Pointwise, Reshape, *_POOLS))


def rows_of(value: Tensor, maker: Consumer) -> Tensor:
    """An activation with the channels of a maker as rows of float64, one for each position."""
    return value.detach().movedim(maker.axis, -1).flatten(0, -2).to(torch.float64)


__all__ = ["Chain", "chain", "rows_of"]
