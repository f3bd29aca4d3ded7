"""Merge: linear layers one right after another become one; the inverse of Factorize.

Also here is what a linear layer or convolution is by itself, a `Layer`, for passes that rewrite
its weight: `layer_of` finds it, `merged` makes one of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from netir.basis import Contract
from netir.calibration import Calibration
from netir.edit import Edit
from netir.ir import Graph, Node, Param
from netir.moves import Gather, Move
from netir.ops.base import Op, per_axis
from netir.ops.conv import Conv
from netir.ops.linear import AddMM, Linear
from netir.rewrite import EditPass, Left, Site
from netir.where import chosen_nodes


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer or a convolution: an op, its weight and its bias."""

    op: Op
    weight: Tensor
    bias: Tensor | None = None

    @property
    def numbers(self) -> int:
        """How many parameters it has."""
        return self.weight.numel() + (0 if self.bias is None else self.bias.numel())

    @property
    def groups(self) -> int:
        return self.op.groups if isinstance(self.op, Conv) else 1

    def to(self, dtype: torch.dtype) -> Layer:
        """The same with its tensors stored in another type."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return Layer(self.op, self.weight.to(dtype).contiguous(), bias)

    def finite(self) -> bool:
        """Whether all its numbers are."""
        tensors = (self.weight,) if self.bias is None else (self.weight, self.bias)
        return all(bool(torch.isfinite(t).all()) for t in tensors)


def layer_of(graph: Graph, node: Node) -> Layer | str:
    """The layer that a node is, if its weight may be rewritten; else the reason why not."""
    if not isinstance(node.op, Linear | Conv):
        return f"it is a {node.op.name}, neither a linear layer nor a convolution"
    tensors: list[Tensor | None] = []
    for operand in node.operands[1:]:
        if operand is not None and operand[0] != "@":
            return f"its weights are computed, by {operand}"
        why = None if operand is None else _shared(graph, operand[1:])
        if why:
            return why
        tensors.append(None if operand is None else graph.params[operand[1:]].data.detach())
    weight, bias = (*tensors, None)[:2]
    assert weight is not None
    if weight.dtype not in FLOATS:
        return f"its weight is {graph.type_of('@' + weights_of(node)[0])}"
    found = Layer(node.op, weight, bias)
    return found if found.finite() else "its weights are not finite"


def product_of(graph: Graph, node: Node) -> Layer | str:
    """The linear layer that a sum of a bias and a product with a stored matrix is, or why not."""
    op, names = node.op, node.operands
    if not isinstance(op, AddMM) or op.batched or op.beta != 1:
        return f"it is a {op.name}, not a bias and the product with a matrix"
    bias, weight = names[0], names[2]
    if bias is None or weight is None or bias[0] + weight[0] != "@@":
        return "its weights are computed"
    why = _shared(graph, bias[1:]) or _shared(graph, weight[1:])
    if why:
        return why
    added, matrix = (graph.params[name[1:]].data.detach() for name in (bias, weight))
    if added.dtype not in FLOATS or added.shape != matrix.shape[1:]:
        return f"its bias is {graph.type_of(bias)}, not one number for each column"
    found = Layer(Linear(), matrix.mT * op.alpha, added)
    return found if found.finite() else "its weights are not finite"


FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def weights_of(node: Node) -> list[str]:
    """The names of a layer's weight and, if it has one, bias; what it reads may be a parameter."""
    return [operand[1:] for operand in node.operands[1:] if operand is not None]


def names_one(where: str) -> bool:
    """Whether a choice names places rather than patterns, so that each is worth an answer."""
    return not any(c in where for c in "*?")


def _shared(graph: Graph, name: str) -> str:
    """Why a parameter is not of one node alone; empty if it is."""
    if len(graph.users[f"@{name}"]) > 1:
        return f"{name} is read by several nodes"
    if f"@{name}" in graph.outputs:
        return f"{name} is an output of the graph"
    return f"{name} is tied to another name" if name in graph.aliases.values() else ""


def merged(first: Layer, second: Layer) -> Layer | str:
    """One layer that does what two do one after the other, in float64; or why there is none."""
    op = merged_op(first, second)
    if isinstance(op, str):
        return op
    bias = second.bias
    if first.bias is not None and bool(first.bias.any()):
        if pads(second):
            return "the second pads its input with zeros, where the bias of the first is missing"
        added = merged_bias(first.bias, second.weight, second.groups)
        bias = added if bias is None else added + bias.double()
    weight = merged_weight(first.weight, second.weight, second.groups)
    return Layer(op, weight, None if bias is None else bias.double())


def merged_weight(first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
    """The weight of two layers in a row, in float64.

    Along each spatial axis at most one of two convolution kernels has more than one tap.
    """
    if first.dim() == 2:
        return second.double() @ first.double()
    a, b = (w.double().unflatten(0, (groups, -1)) for w in (first, second))
    rank = first.dim() - 2
    taps, more = "uvw"[:rank], "xyz"[:rank]
    both = "".join(map("".join, zip(taps, more, strict=True)))
    found = torch.einsum(f"gri{taps},gor{more}->goi{both}", a, b)
    kernel = [p * q for p, q in zip(first.shape[2:], second.shape[2:], strict=True)]
    weight: Tensor = found.reshape(second.shape[0], first.shape[1], *kernel)
    return weight


def merged_bias(first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
    """What a layer of weight `second` makes of the bias of the layer before it, in float64."""
    summed = second.double().flatten(2).sum(2) if second.dim() > 2 else second.double()
    added: Tensor = summed.unflatten(0, (groups, -1)) @ first.double().view(groups, -1, 1)
    return added.flatten()


def pads(layer: Layer) -> bool:
    """Whether what a layer reads is continued with zeros, so that a constant is not one there."""
    return isinstance(layer.op, Conv) and _padding(layer) != (0,) * layer.op.rank


def merged_op(first: Layer, second: Layer) -> Op | str:
    """The op of two layers in a row, biases aside; or why they are not one."""
    match first.op, second.op:
        case Linear(), Linear():
            return second.op
        case Conv(), Conv() if first.op.rank == second.op.rank:
            return _merged_conv(first, second, first.op, second.op)
    return f"a {first.op.name} and a {second.op.name} are not one layer"


def _merged_conv(first: Layer, second: Layer, one: Conv, two: Conv) -> Op | str:
    """Along every axis one of the two must work on each position by itself."""
    if one.groups != two.groups:
        return f"the two have {one.groups} and {two.groups} groups"
    axes = []
    for a, b in zip(_along(first, one), _along(second, two), strict=True):
        if _POINT not in (a, b):
            return "along one axis neither of the two works on each position by itself"
        axes.append(b if a == _POINT else a)
    _, strides, paddings, dilations = zip(*axes, strict=True)
    if None not in paddings:
        return replace(one, stride=strides, padding=paddings, dilation=dilations)
    if all(s == 1 and p in (None, d * (k - 1) / 2) for k, s, p, d in axes):
        return replace(one, stride=(1,), padding="same", dilation=dilations)
    return "one of the two pads unevenly"


_POINT = (1, 1, 0, 1)
"""Kernel, stride, padding and dilation of what works on each position by itself."""


def _along(layer: Layer, op: Conv) -> list[tuple[int, int, int | None, int]]:
    """By axis: kernel, stride, padding (None if it is uneven), dilation (1 for a single tap)."""
    kernel, pads = layer.weight.shape[2:], _padding(layer)
    strides, dilations = per_axis(op.stride, op.rank), per_axis(op.dilation, op.rank)
    rows = zip(kernel, strides, pads, dilations, strict=True)
    return [(k, s, p, d if k > 1 else 1) for k, s, p, d in rows]


def _padding(layer: Layer) -> tuple[int | None, ...]:
    """How far a convolution pads each axis; None where "same" pads one side more."""
    op = layer.op
    assert isinstance(op, Conv)
    if not isinstance(op.padding, str):
        return per_axis(op.padding, op.rank)
    if op.padding == "valid":
        return (0,) * op.rank
    reach = zip(layer.weight.shape[2:], per_axis(op.dilation, op.rank), strict=True)
    return tuple(None if d * (k - 1) % 2 else d * (k - 1) // 2 for k, d in reach)


Chain = list[tuple[Node, Layer]]


@dataclass(frozen=True)
class Merge(EditPass):
    """Make one layer of linear layers, or convolutions, that follow one another directly.

    `W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2)`: exact, for pairs and longer chains. The
    result has the name and path of the last. `where` selects the second of a pair. Convolutions
    merge where along each axis one of the two works on every position by itself: 1x1 before or
    after k x k, k x 1 and 1 x k, the three of a Tucker decomposition. Where one layer would have
    more parameters they are left, unless `always`.
    """

    name: ClassVar[str] = "merge"
    preserves: ClassVar[Contract] = Contract.EXACT
    always: bool = False

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        named = names_one(self.where)
        chains: dict[str, Chain] = {}
        for node in chosen_nodes(graph, self.where).values():
            first = _before(graph, node)
            if isinstance(first, str):
                if named:
                    yield Left(node.name, first)
                continue
            pair = _pair(graph, first, node)
            if isinstance(pair, str):
                yield Left(node.name, pair)
            else:
                chains[node.name] = [*chains.pop(first.name, pair[:1]), pair[1]]
        for chain in chains.values():
            yield from self._parts(chain)

    def _parts(self, chain: Chain) -> Iterator[Site | Left]:
        """The layers that a chain becomes: those with the fewest parameters, then the fewest.

        Worked out for longer and longer beginnings of the chain, each a shorter one and a layer.
        """
        best: list[tuple[int, int, list[tuple[Chain, Layer]]]] = [(0, 0, [])]
        for end in range(1, len(chain) + 1):
            options = []
            for start in range(end):
                found = _one(chain[start:end])
                if isinstance(found, Layer):
                    numbers, count, parts = best[start]
                    numbers += 0 if self.always else found.numbers
                    options.append((numbers, count + 1, [*parts, (chain[start:end], found)]))
            best.append(min(options, key=lambda option: option[:2]))
        parts = best[-1][2]
        for part, layer in parts:
            if len(part) > 1:
                yield Site(part[-1][0].name, ([node for node, _ in part], layer))
        if len(parts) == len(chain):
            yield Left(chain[-1][0].name, _reason(chain))

    def rewrite(self, edit: Edit, site: Site) -> None:
        nodes, layer = site.found
        last: Node = nodes[-1]
        weight, *rest = weights_of(last)
        old = edit.before.params[weight].data
        edit.set_param(weight, layer.weight, anew(old, layer.weight))
        operands = [nodes[0].operands[0], f"@{weight}"]
        if layer.bias is not None and rest:
            edit.set_param(rest[0], layer.bias)
            operands.append(f"@{rest[0]}")
        elif layer.bias is not None:
            operands.append(new_bias(edit, weight, layer.bias))
        edit.set_op(last.name, layer.op)
        edit.set_operands(last.name, operands)
        for node in reversed(nodes[:-1]):
            edit.erase(node.name)
            for name in weights_of(node):
                edit.remove_param(name)


def _one(chain: Chain) -> Layer | str:
    """One layer for all of a chain, stored as the last is; or why there is none."""
    found = chain[0][1]
    for _, layer in chain[1:]:
        one = merged(found, layer)
        if isinstance(one, str):
            return one
        found = one
    found = found.to(chain[-1][1].weight.dtype)
    return found if found.finite() else f"its weights are too large for {found.weight.dtype}"


def _reason(chain: Chain) -> str:
    """Why a chain is left as it is."""
    found = _one(chain)
    if isinstance(found, str):
        return found
    total = sum(layer.numbers for _, layer in chain)
    return (
        f"one layer has {found.numbers} parameters, the {len(chain)} have {total}: "
        "always=True merges them"
    )


def _before(graph: Graph, node: Node) -> Node | str:
    """The linear layer whose result a node reads, and nothing else does."""
    if not isinstance(node.op, Linear | Conv):
        return f"it is a {node.op.name}, neither a linear layer nor a convolution"
    first = graph.producers.get(node.operands[0] or "")
    if first is None or not isinstance(first.op, Linear | Conv):
        return "no linear layer stands directly before it"
    return first


def _pair(graph: Graph, first: Node, second: Node) -> Chain | str:
    """Two nodes and their layers, or why they are not to be touched."""
    found: Chain = []
    for node in (first, second):
        layer = layer_of(graph, node)
        if isinstance(layer, str):
            return layer
        found.append((node, layer))
    if len(graph.users[first.name]) > 1 or first.name in graph.outputs:
        return f"{first.name} is read elsewhere too"
    return found


def anew(old: Tensor, new: Tensor) -> Move:
    """The move of a weight of which every entry is new, so that its moments start at zero."""
    sizes = zip(old.shape, new.shape, strict=True)
    gone = [Gather(torch.full((b,), -1)) if a != b else None for a, b in sizes]
    gone[1] = Gather(torch.full((new.shape[1],), -1))
    return Move(tuple(gone))


def new_bias(edit: Edit, weight: str, bias: Tensor) -> str:
    """A bias beside a weight; gives the operand."""
    stem = weight.removesuffix("weight") if weight.endswith(".weight") else f"{weight}_"
    old = edit.before.params[weight]
    return edit.add_param(edit.fresh(f"{stem}bias"), Param(bias, old.kind, old.trainable))


__all__ = ["FLOATS", "Layer", "Merge", "anew", "layer_of", "merged", "merged_bias", "merged_op",
           "merged_weight", "names_one", "new_bias", "pads", "product_of",
           "weights_of"]  # fmt: skip
