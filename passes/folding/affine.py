"""Rules of `Fold` for `a * x + b` beside a layer with a weight: batch norm, scales and shifts.

A layer takes up what follows it by W' = a W, bias' = a bias + b, row by row, and what stands before
it by W' = W a, bias' = bias + W b, column by column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from netir.basis import Contract
from netir.edit import Edit
from netir.ir import Graph, Node, Param
from netir.moves import Move
from netir.ops.shape import Reshape
from netir.passes.compensation.consumers import Consumer, owned, summing
from netir.passes.folding.rules import Change, Nodes
from netir.rewrite import Left, Site


@dataclass(frozen=True, eq=False)
class Affine:
    """A node that gives `scale * x + shift`: numbers, or one for each index of `axis` of x."""

    node: str
    x: str
    scale: Tensor
    shift: Tensor
    axis: int | None = None


@dataclass(frozen=True, eq=False)
class _Taken:
    """A layer that takes up an affine map: its new weight, and its new bias if it has one then."""

    layer: Consumer
    weight: Tensor
    bias: Tensor | None


def norms(graph: Graph, chosen: Nodes) -> Iterator[Site | Left]:
    """Batch norm into the layer that makes what it reads."""
    for affine in filter(None, (_normalising(graph, node) for node in chosen.values())):
        layers = _before(graph, affine)
        if layers:
            yield _site(graph, affine, layers, Contract.EXACT_EVAL, after=True)


def norms_before(graph: Graph, chosen: Nodes) -> Iterator[Site | Left]:
    """Batch norm into the layers that read what it gives."""
    for affine in filter(None, (_normalising(graph, node) for node in chosen.values())):
        layers = _behind(graph, affine)
        if layers:
            yield _site(graph, affine, layers, Contract.EXACT_EVAL, after=False)


def scales(graph: Graph, chosen: Nodes) -> Iterator[Site | Left]:
    """Products and sums with a number, or with one parameter for each channel."""
    for affine in filter(None, (_arithmetic(graph, node) for node in chosen.values())):
        sides = (_before(graph, affine), True), (_behind(graph, affine), False)
        found = [_site(graph, affine, side, Contract.EXACT, after) for side, after in sides if side]
        yield from sorted(found, key=lambda site: isinstance(site, Left))[:1]


def _normalising(graph: Graph, node: Node) -> Affine | None:
    """What batch norm does in eval mode; None if that depends on the batch."""
    op: Any = node.op
    if op.name != "batch_norm":
        return None
    x, weight, bias, mean, variance = (*node.operands, *[None] * 4)[:5]
    vectors = [_vector(graph, o) for o in (weight, bias, mean, variance) if o is not None]
    if x is None or mean is None or variance is None or any(v is None for v in vectors):
        return None
    scale = (_vector(graph, variance) + op.eps).rsqrt()
    scale = scale if weight is None else scale * _vector(graph, weight)
    shift = -scale * _vector(graph, mean)
    return Affine(node.name, x, scale, shift if bias is None else shift + _vector(graph, bias), 1)


def _vector(graph: Graph, operand: str) -> Any:
    """The entries of a parameter in float64; None for an activation."""
    return graph.params[operand[1:]].data.double().flatten() if operand[0] == "@" else None


def _arithmetic(graph: Graph, node: Node) -> Affine | None:
    """A product or sum of an activation and something constant along all axes but one at most."""
    op: Any = node.op
    rule = _ARITHMETIC.get(op.name)
    if rule is None or getattr(op, "rounding_mode", None) is not None:
        return None
    found = _sides(graph, node)
    if found is None or not node.types[0].dtype.is_floating_point:
        return None
    x, other, axis, first = found
    pair = rule(other, getattr(op, "alpha", 1), first)
    if pair is None or graph.type_of(x) != node.types[0]:
        return None
    scale, shift = (torch.as_tensor(v, dtype=torch.float64, device=other.device) for v in pair)
    return Affine(node.name, x, scale, shift, axis)


def _sides(graph: Graph, node: Node) -> tuple[str, Tensor, int | None, bool] | None:
    """The activation, what it meets, the axis along which that varies, and which comes first."""
    operands = [o for o in node.operands if o is not None]
    if len(operands) == 1 and operands[0][0] != "@":
        number = getattr(node.op, "other", 1.0)
        if not isinstance(number, (int, float)):
            return None  # a size that is known when the network runs
        return operands[0], torch.tensor(number, dtype=torch.float64), None, True
    if len(operands) != 2 or sum(o[0] == "@" for o in operands) != 1:
        return None
    first = operands[1][0] == "@"
    x, param = operands if first else reversed(operands)
    data = graph.params[param[1:]].data
    axes = [axis for axis, size in enumerate(data.shape) if size != 1]
    if len(axes) > 1 or not data.is_floating_point():
        return None
    shift = graph.type_of(x).rank - data.dim()
    return x, data.double().flatten(), (axes[0] + shift if axes else None), first


_Pair = tuple[Any, Any] | None
"""A scale and a shift of x; None for what is not affine in it."""


def _add(c: Tensor, alpha: float, first: bool) -> _Pair:
    return (1.0, alpha * c) if first else (alpha, c)


def _sub(c: Tensor, alpha: float, first: bool) -> _Pair:
    return (1.0, -alpha * c) if first else (-alpha, c)


def _rsub(c: Tensor, alpha: float, first: bool) -> _Pair:
    return (-alpha, c) if first else (1.0, -alpha * c)


def _mul(c: Tensor, alpha: float, first: bool) -> _Pair:
    return (c, 0.0)


def _div(c: Tensor, alpha: float, first: bool) -> _Pair:
    return (1 / c, 0.0) if first else None


def _neg(c: Tensor, alpha: float, first: bool) -> _Pair:
    return (-1.0, 0.0)


_ARITHMETIC: Mapping[str, Callable[[Tensor, float, bool], _Pair]] = MappingProxyType(
    {"add": _add, "sub": _sub, "rsub": _rsub, "mul": _mul, "div": _div, "neg": _neg}
)
"""By op: what x op c is to x, or c op x unless x comes first, with an `alpha` for the second."""


def _before(graph: Graph, affine: Affine) -> list[Consumer]:
    """The layer that makes what a node reads, if one does."""
    maker = graph.producers.get(affine.x)
    found = None if maker is None else summing(graph, maker)
    return [] if found is None else [found]


def _behind(graph: Graph, affine: Affine) -> list[Consumer]:
    """The layers that read what a node gives, flattened or not; none if others read it too."""
    flat = [n.name for n, _ in graph.users.get(affine.node, ()) if _flattens(graph, n)]
    found: list[Consumer] = []
    for value in (affine.node, *flat):
        if value in graph.outputs:
            return []
        for user, _ in graph.users.get(value, ()):
            layer = None if user.name in flat else summing(graph, user)
            if layer is not None and layer.x == value:
                found.append(layer)
            elif user.name not in flat:
                return []
    return found


def _flattens(graph: Graph, node: Node) -> bool:
    """Whether a node lays the positions of every channel one after another."""
    if not isinstance(node.op, Reshape):
        return False
    batch, *rest = graph.type_of(node.values[0]).shape
    whole = all(isinstance(size, int) for size in rest)
    return whole and len(rest) > 1 and node.types[0].shape == (batch, prod(rest))


def _flattened(graph: Graph, affine: Affine, layer: Consumer) -> Affine:
    """The map as a layer sees it: if it reads the channels flattened, once for each position."""
    if layer.x == affine.node or affine.axis != 1:
        return affine
    count = prod(graph.type_of(affine.node).shape[2:])
    assert isinstance(count, int)
    scale, shift = (
        v if v.numel() == 1 else v.repeat_interleave(count) for v in (affine.scale, affine.shift)
    )
    return replace(affine, scale=scale, shift=shift)


def _site(
    graph: Graph, affine: Affine, layers: list[Consumer], contract: Contract, after: bool
) -> Site | Left:
    """The fold of a node into layers, or why it cannot be."""
    readers = [node.name for node, _ in graph.users[affine.x] if node.name != affine.node]
    if after and (readers or affine.x in graph.outputs):
        reader = f"'{readers[0]}'" if readers else "the output"
        return Left(affine.node, f"{reader} reads '{affine.x}' too")
    found: list[_Taken] = []
    for layer in layers:
        seen = affine if after else _flattened(graph, affine, layer)
        taken = _refused(graph, layer, seen, after) or _taken(graph, layer, seen, after)
        if isinstance(taken, str):
            return Left(affine.node, taken)
        found.append(taken)
    read = {name for y in layers for name in (y.node.name, y.x, y.weight, y.bias) if name}
    change = Change(partial(_fold, affine=affine, found=found), read | {affine.node, affine.x})
    return Site(affine.node, change, contract)


def _refused(graph: Graph, layer: Consumer, affine: Affine, after: bool) -> str:
    """Why a layer cannot take up an affine map; empty if it can."""
    name, rank = layer.node.name, graph.type_of(affine.x if after else layer.x).rank
    if affine.axis is not None and affine.axis != layer.axis % rank:
        return f"it does not work along the channels of '{name}'"
    for param in (layer.weight, layer.bias):
        if param is not None and not owned(graph, param):
            return f"'{param}' is read elsewhere too"
    if not after and layer.partial and bool(affine.shift.any()):
        return f"'{name}' pads with zeros, which the shift does not reach"
    return ""


def _taken(graph: Graph, layer: Consumer, affine: Affine, after: bool) -> _Taken | str:
    """The layer with the map in it, computed in float64, or why that is not possible."""
    weight = graph.params[layer.weight].data
    old = None if layer.bias is None else graph.params[layer.bias].data
    matrix = layer.matrix(weight.double())
    groups, inputs, _, outputs = matrix.shape
    bias = matrix.new_zeros(groups * outputs) if old is None else old.double()
    if len(bias) != groups * outputs:
        return f"one bias serves all channels of '{layer.node.name}'"
    size = groups * (outputs if after else inputs)
    scale, shift = (v.to(matrix).expand(size) for v in (affine.scale, affine.shift))
    if after:
        matrix, bias = matrix * scale.view(groups, 1, 1, outputs), bias * scale + shift
    else:
        bias = bias + (matrix * shift.view(groups, inputs, 1, 1)).sum((1, 2)).flatten()
        matrix = matrix * scale.view(groups, inputs, 1, 1)
    made = layer.weight_of(matrix, weight.shape).to(weight.dtype).contiguous()
    bias = bias.to((weight if old is None else old).dtype)
    if not (bool(made.isfinite().all()) and bool(bias.isfinite().all())):
        return f"the weights of '{layer.node.name}' are not finite, or would not be"
    return _Taken(layer, made, bias if old is not None or bool(bias.any()) else None)


def _fold(edit: Edit, affine: Affine, found: list[_Taken]) -> None:
    for taken in found:
        layer = taken.layer
        edit.set_param(layer.weight, taken.weight, Move((None,) * taken.weight.dim()))
        if taken.bias is not None and layer.bias is not None:
            edit.set_param(layer.bias, taken.bias, Move((None,)))
        elif taken.bias is not None:
            _add_bias(edit, layer, taken.bias)
    edit.replace(affine.node, affine.x)


def _add_bias(edit: Edit, layer: Consumer, bias: Tensor) -> None:
    """Give a layer a bias, beside its weight."""
    owner, _, leaf = layer.weight.rpartition(".")
    name = f"{owner}.bias" if owner and leaf == "weight" else f"{layer.weight}_bias"
    like = edit.before.params[layer.weight]
    operand = edit.add_param(edit.fresh(name), Param(bias, like.kind, like.trainable))
    edit.set_operands(layer.node.name, (layer.x, f"@{layer.weight}", operand))


__all__ = ["norms", "norms_before", "scales"]
