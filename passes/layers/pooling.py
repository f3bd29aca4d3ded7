"""What follows where a map gets other sizes: the first dense layer behind `flatten` must follow.

A pool put into a network, or taken out of one, halves or doubles every map after it. Convolutions,
pools, norms and activations do not care; a dense layer that reads the flattened map has one weight
for each position. Going down, the weights of each block of two positions along every axis become
one; going up, a weight is repeated over its block (ECToNAS: Schiessler et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from netir import dims
from netir.edit import Edit
from netir.errors import NetirError
from netir.ir import Graph, Node, TensorType
from netir.moves import Chain, Matrix, Move
from netir.ops.base import Op
from netir.ops.pointwise import Pointwise
from netir.ops.shape import Reshape

_FOLLOWS = frozenset(
    {
        "adaptive_avg_pool", "avg_pool", "batch_norm", "cat", "conv", "group_norm",
        "instance_norm", "max_pool", "mean", "prelu",
    }
)  # fmt: skip
"""Ops that take a map of any size, beside those that work on each element by itself."""


class Map(NamedTuple):
    """A flattened map: its channels, and its sizes before and after."""

    channels: int
    old: tuple[int, ...]
    new: tuple[int, ...]


@dataclass
class Resize:
    """What must follow a map's new sizes: nodes that only see them, new ops, dense weights."""

    touched: set[str] = field(default_factory=set)
    ops: dict[str, Op] = field(default_factory=dict)
    weights: dict[str, Map] = field(default_factory=dict)


def resized(graph: Graph, value: str, kind: TensorType) -> Resize | str:
    """What follows if a value gets another size, or why the rest of the graph cannot follow."""
    walk = _Walk(graph, value, kind)
    for node in graph.nodes.values():
        if any(v in walk.types or v in walk.flat for v in node.values):
            walk.found.touched.add(node.name)
            try:
                why = walk.step(node)
            except NetirError as error:
                why = error.what
            if why:
                return f"behind it, {node.name} ({node.op.name}) cannot follow: {why}"
    returned = next((o for o in graph.outputs if o in walk.types or o in walk.flat), None)
    return f"the network returns {returned}, whose size would change" if returned else walk.found


class _Walk:
    """New types of maps, and what flattened maps are made of, node after node."""

    def __init__(self, graph: Graph, value: str, kind: TensorType) -> None:
        self.graph = graph
        self.types = {value: kind}
        self.flat: dict[str, Map] = {}
        self.found = Resize()

    def step(self, node: Node) -> str:
        """Let one node follow; gives the reason where it cannot."""
        if len(node.types) > 1:
            return "it gives several values"
        if any(v in self.flat for v in node.values):
            return self._flat(node)
        if isinstance(node.op, Reshape):
            return self._flatten(node)
        if not isinstance(node.op, Pointwise) and node.op.name not in _FOLLOWS:
            return "it is no convolution, pool, norm or activation"
        stay = [self.graph.types[v] for v in node.values if v not in self.types]
        if any(size != 1 for kind in stay for size in kind.shape[2:]) or (
            stay and not isinstance(node.op, Pointwise)
        ):
            return "it also reads a value whose size stays"
        kinds = [self.types[o] if o in self.types else self._type(o) for o in node.operands]
        found = node.op.infer(*kinds)
        assert isinstance(found, TensorType)
        if any(isinstance(size, int) and size < 1 for size in found.shape):
            return "no position would be left"
        if found != node.types[0]:
            self.types[node.name] = found
        return ""

    def _type(self, operand: str | None) -> TensorType | None:
        return None if operand is None else self.graph.type_of(operand)

    def _flatten(self, node: Node) -> str:
        """Let `flatten` follow: (n, c, h, w) becomes (n, c·h·w)."""
        (value,) = node.values
        old, new, flat = self.graph.types[value].shape, self.types[value].shape, node.types[0].shape
        if len(flat) != 2 or flat[0] != old[0] or flat[1] != dims.product(old[1:]):
            return "it does not flatten all axes but the first"
        if not all(_number(d) for d in (*old[1:], *new[1:])):
            return "the sizes of the map are not known"
        channels, *before = old[1:]
        found = Map(channels, tuple(before), tuple(new[2:]))  # type: ignore[arg-type]
        if not _halved(found):
            return f"the map goes from {found.old} to {found.new}, which is not half of it"
        self.flat[node.name] = found
        self.found.ops[node.name] = Reshape((flat[0], dims.product(new[1:])))
        return ""

    def _flat(self, node: Node) -> str:
        """Let a dense layer follow, or what stands between it and `flatten`."""
        if isinstance(node.op, Pointwise) and len(node.operands) == 1:
            self.flat[node.name] = self.flat[node.values[0]]
            return ""
        if node.op.name != "linear" or node.operands[0] not in self.flat or len(node.values) > 1:
            return "it reads the flattened map and is no dense layer"
        weight = node.params[0]
        why = _alone(self.graph, weight)
        self.found.weights[weight] = self.flat[node.values[0]]
        return why


def _number(size: object) -> bool:
    return isinstance(size, int)


def _halved(found: Map) -> bool:
    """Whether one of two maps has half the sizes of the other, rounded up, and more than one."""
    small, big = sorted((found.old, found.new))
    return all(s == (b + 1) // 2 and b > 1 for s, b in zip(small, big, strict=True))


def _alone(graph: Graph, name: str) -> str:
    """Why a parameter cannot change by itself; empty if it can."""
    data = graph.params[name].data
    if len(graph.users.get(f"@{name}", ())) > 1 or f"@{name}" in graph.outputs:
        return f"@{name} is read elsewhere too"
    if name in graph.aliases.values():
        return f"@{name} is tied to another name"
    return "" if bool(torch.isfinite(data).all()) else f"@{name} is not finite"


def adapt(edit: Edit, resize: Resize, how: str) -> None:
    """Let everything that follows a map's sizes follow; `how` is one of `HOWS`."""
    for name, op in resize.ops.items():
        edit.set_op(name, op)
    for name, found in resize.weights.items():
        old = edit.before.params[name].data
        move = moved(found, how)
        new = largest(old, found) if how == "max" else move.apply(old)
        edit.set_param(name, new.contiguous(), move)


HOWS = ("mean", "max", "sum", "repeat", "spread")
"""How a block of weights becomes one, the first three, and one a block, the last two.

`max` takes the entry of largest size, signed. `sum` keeps a pre-activation where the map is
constant in each block; `spread`, a weight divided by the size of its block, does so where the mean
of each block stays.
"""


def moved(found: Map, how: str) -> Move:
    """Where the columns of a dense layer come from; for `max`, on average."""
    steps, outer = [], found.channels
    for axis, (old, new) in enumerate(zip(found.old, found.new, strict=True)):
        steps.append(Matrix(_blocks(old, new, how), outer, prod(found.old[axis + 1 :])))
        outer *= new
    return Move((None, Chain(tuple(steps))))


def _blocks(old: int, new: int, how: str) -> Tensor:
    """Along one axis, the matrix from blocks of two to one or back; the last may be of one."""
    small, big = sorted((old, new))
    matrix = (torch.arange(big) // 2 == torch.arange(small)[:, None]).double()
    if how in ("mean", "max", "spread"):
        matrix /= matrix.sum(1, keepdim=True)
    return matrix if new == small else matrix.t().contiguous()


def largest(weight: Tensor, found: Map) -> Tensor:
    """Of each block of columns the one of largest size, with its sign."""
    odd = [n for size in reversed(found.old) for n in (0, size % 2)]
    blocks: Tensor = F.pad(weight.unflatten(1, (found.channels, *found.old)), odd)
    for axis in reversed(range(len(found.old))):
        blocks = blocks.unflatten(axis + 2, (-1, 2)).movedim(axis + 3, -1)
    blocks = blocks.flatten(2 + len(found.old))
    return blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)).flatten(1)
