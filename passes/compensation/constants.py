"""Constants: which entries of the values of a network are the same for every input, without data.

A channel whose batch norm has a scale of zero always gives its shift, a unit whose weights are all
zero always gives its bias, and what follows from that is known as well. Nothing here changes a
graph; entries that are not found here may be constant all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from netir.dims import Sym, evaluate
from netir.evaluate import results_of
from netir.ir import Graph, Node, TensorType
from netir.ops.pointwise import Pointwise
from netir.passes.compensation.consumers import summing


@dataclass(frozen=True, eq=False)
class Constant:
    """What is known of a value: `value` where `known`, the same along every axis of size 1.

    Floats are in float64; an axis of open size always has size 1 here.
    """

    value: Tensor
    known: Tensor

    def channels(self, axis: int, size: int) -> Constant:
        """What is known of each index of an axis: it must be the same at all positions."""
        value, known = torch.broadcast_tensors(self.value, self.known)
        shape = list(value.shape)
        shape[axis] = size
        value, known = (t.expand(shape).movedim(axis, 0).flatten(1) for t in (value, known))
        same = known.all(1) & (value == value[:, :1]).all(1)
        return Constant(value[:, 0], same)


def constants(graph: Graph) -> Mapping[str, Constant]:
    """For every value of which something is known: what. On the CPU, wherever the graph is."""
    walk = _Walk(graph)
    with torch.no_grad():
        for node in graph.nodes.values():
            walk.step(node)
    return MappingProxyType(walk.found)


class _Walk:
    """One walk over a graph, in which every open size is taken to be 1."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.env = dict.fromkeys(graph.symbols, 1)
        self.found: dict[str, Constant] = {}

    def step(self, node: Node) -> None:
        """Find out what is known of a node's results."""
        rule = _RULES.get(node.op.name)
        if rule is None and isinstance(node.op, Pointwise):
            rule = _pointwise
        if rule is None:
            return
        made = rule(self, node)
        for name, kind in zip(node.results, node.types, strict=True):
            tidy = _tidied(made[name], kind) if name in made else None
            if tidy is not None:
                self.found[name] = tidy

    def read(self, operand: str | None) -> Constant | None:
        """What is known of an operand: all of a parameter."""
        if operand is None or operand[0] != "@":
            return None if operand is None else self.found.get(operand)
        data = _wide(self.graph.params[operand[1:]].data)
        return Constant(data, torch.ones_like(data, dtype=torch.bool))

    def run(self, node: Node, operands: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """What the node gives for these operands."""
        return results_of(node, list(operands), self.env, torch.float64)


_CUTS = ("slice", "select", "split", "unbind")
Found = Mapping[str, Constant]
_NOTHING: Found = MappingProxyType({})


def _wide(data: Tensor) -> Tensor:
    return data.detach().cpu().double() if data.is_floating_point() else data.cpu()


def _tidied(constant: Constant, kind: TensorType) -> Constant | None:
    """With every axis along which nothing varies cut to size 1; None if nothing is known."""
    value, known = torch.broadcast_tensors(constant.value, constant.known)
    lead = [1] * (kind.rank - value.dim())
    value, known = (t.reshape((*lead, *t.shape)) for t in (value, known))
    if value.is_floating_point():
        known = known & value.isfinite()
    value = torch.where(known, value, torch.zeros_like(value))
    for axis in range(kind.rank):
        first = value.narrow(axis, 0, 1), known.narrow(axis, 0, 1)
        if value.shape[axis] > 1 and bool(((value == first[0]) & (known == first[1])).all()):
            value, known = first
    sizes = zip(kind.shape, value.shape, strict=True)
    if not bool(known.any()) or any(isinstance(dim, Sym) and size > 1 for dim, size in sizes):
        return None
    return Constant(value, known)


def _pointwise(walk: _Walk, node: Node) -> Found:
    """An elementwise result is known where all operands are; a product also where one is zero."""
    product = node.op.name == "mul"
    if not product and not all(v in walk.found for v in node.values):
        return _NOTHING
    given = [walk.read(o) for o in node.operands]
    unknown = Constant(torch.zeros((), dtype=torch.float64), torch.tensor(False))
    there = [unknown if g is None else g for g, o in zip(given, node.operands, strict=True) if o]
    known = torch.stack(torch.broadcast_tensors(*(c.known for c in there))).all(0)
    if product:
        zeros = [c.known & (c.value == 0) for c in there]
        known = known | torch.stack(torch.broadcast_tensors(*zeros)).any(0)
    values = iter(c.value for c in there)
    operands = [None if o is None else next(values) for o in node.operands]
    return {name: Constant(v, known) for name, v in walk.run(node, operands).items()}


def _normalised(walk: _Walk, node: Node) -> Found:
    """A normalised channel is its shift where its scale is zero.

    With running statistics it is known besides wherever what it reads is.
    """
    operands = [walk.read(o) for o in (*node.operands, *[None] * 5)[:5]]
    x, scale, shift, mean, variance = operands
    zero = Constant(torch.zeros((), dtype=torch.float64), torch.tensor(False))
    last = node.op.name in ("layer_norm", "rms_norm")
    tail = [1] * (0 if last else node.types[0].rank - 2)
    scale, shift, mean, variance = (
        c and Constant(c.value.view(*c.value.shape, *tail), c.known.view(*c.known.shape, *tail))
        for c in (scale, shift, mean, variance)
    )
    normal = zero
    if node.op.name == "batch_norm" and x and mean and variance:
        eps = node.op.eps  # type: ignore[attr-defined]
        normal = Constant((x.value - mean.value) / (variance.value + eps).sqrt(), x.known)
    factor = torch.ones(()) if scale is None else scale.value
    value = normal.value * factor + (zero if shift is None else shift).value
    return {node.results[0]: Constant(value, normal.known | (factor == 0))}


def _prelu(walk: _Walk, node: Node) -> Found:
    """A slope for each channel, or one for all."""
    x, slope = (walk.read(o) for o in node.operands)
    if x is None or slope is None:
        return _NOTHING
    factor = slope.value.view(-1, *[1] * (node.types[0].rank - 2))
    value = torch.where(x.value > 0, x.value, x.value * factor)
    return {node.results[0]: Constant(value, x.known)}


def _summed(walk: _Walk, node: Node) -> Found:
    """A sum is known where every weight that is not zero meets a known channel.

    Where windows reach beyond the input, known channels must be zero, as what lies outside is.
    """
    consumer = summing(walk.graph, node)
    if consumer is None:
        return _NOTHING
    bias = walk.read(consumer.bias and f"@{consumer.bias}")
    matrix = consumer.matrix(walk.graph.params[consumer.weight].data)
    groups, inputs, _, outputs = matrix.shape
    x, value = walk.found.get(consumer.x), torch.zeros(groups, outputs, dtype=torch.float64)
    if x is None:
        known = (matrix == 0).all(1).all(1).cpu()
    else:
        channels = x.channels(consumer.axis, groups * inputs)
        usable = channels.known & ((channels.value == 0) | (not consumer.partial))
        sums = matrix.double().sum(2).cpu()
        value = torch.einsum("gi,gio->go", channels.value.where(usable, 0).view(groups, -1), sums)
        known = ((matrix == 0).all(2).cpu() | usable.view(groups, -1, 1)).all(1)
    vector = value.flatten() if bias is None else value.flatten() + bias.value
    rank = node.types[0].rank
    known = known.flatten()
    return {node.name: Constant(consumer.along(vector, rank), consumer.along(known, rank))}


def _pooled(walk: _Walk, node: Node) -> Found:
    """A window over equal numbers gives that number, unless it also counts what lies outside."""
    x, op = walk.read(node.operands[0]), cast(Any, node.op)
    if x is None or any(size > 1 for size in x.value.shape[-op.rank :]):
        return _NOTHING
    diluted = op.name == "avg_pool" and (any(op.padding) or op.ceil_mode or op.divisor_override)
    known = x.known & (x.value == 0) if diluted else x.known
    return {node.results[0]: Constant(x.value, known)}


def _reduced(walk: _Walk, node: Node) -> Found:
    """The mean and the extremes of equal numbers are that number."""
    x, op = walk.read(node.operands[0]), cast(Any, node.op)
    if x is None or any(x.value.shape[dim] > 1 for dim in op.dims):
        return _NOTHING
    value, known = (walk.run(node, [t])[node.name] for t in (x.value, x.known.double()))
    return {node.name: Constant(value, known == 1)}


def _moved(walk: _Walk, node: Node) -> Found:
    """Entries that only go elsewhere; along an axis of open size nothing that is known varies."""
    kinds = [walk.graph.type_of(o) for o in node.operands if o is not None]
    if node.op.name in _CUTS and isinstance(kinds[0].shape[cast(Any, node.op).dim], Sym):
        x = walk.read(node.operands[0])
        keeps = node.op.name in ("slice", "split")
        return dict.fromkeys(node.results, x) if x is not None and keeps else _NOTHING
    there = [walk.read(o) for o in node.operands]
    shapes = [[evaluate(size, walk.env) for size in kind.shape] for kind in kinds]
    if all(c is None for c in there) or any(0 in shape for shape in shapes):
        return _NOTHING
    pairs = list(zip(there, shapes, strict=True))
    values = [torch.zeros(s) if c is None else c.value.expand(s) for c, s in pairs]
    known = [torch.zeros(s) if c is None else c.known.double().expand(s) for c, s in pairs]
    made, sure = walk.run(node, values), walk.run(node, known)
    return {name: Constant(made[name], sure[name] == 1) for name in node.results}


_RULES: Mapping[str, Callable[[_Walk, Node], Found]] = MappingProxyType(
    dict.fromkeys(("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"),
                  _normalised)
    | dict.fromkeys(("linear", "conv", "conv_transpose", "addmm"), _summed)
    | dict.fromkeys(("max_pool", "max_pool_at", "avg_pool", "adaptive_avg_pool",
                     "adaptive_max_pool", "interpolate"), _pooled)
    | dict.fromkeys(("mean", "amax", "amin"), _reduced)
    | dict.fromkeys(("reshape", "permute", "unsqueeze", "squeeze", "slice", "select", "split",
                     "unbind", "cat", "stack", "expand"), _moved)
    | {"prelu": _prelu}
)  # fmt: skip
"""What each op tells of its results; elementwise ops share a rule, all others tell nothing."""

__all__ = ["Constant", "constants"]
