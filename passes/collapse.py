"""Collapse: equivariant layers become the ordinary layers that they amount to."""

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
from netir.ops.conv import Conv
from netir.ops.group import FieldNorm, GroupConv, GroupPool
from netir.ops.index import IndexSelect
from netir.ops.norm import BatchNorm
from netir.ops.reduce import Amax, Mean
from netir.ops.shape import Reshape
from netir.passes.layers.equivariant import equivariant_nodes, not_single, whole
from netir.rewrite import EditPass, Left, Site


@dataclass(frozen=True)
class Collapse(EditPass):
    """Turn equivariant layers into plain ones: the same function, ready to fold or to write.

    A group convolution, or a mixture, becomes one convolution with its filter as the weight, a
    field batch norm a batch norm, a group pool a reshape and a mean or max. From then on nothing
    keeps the symmetry in training; the statistics of a batch norm differ there too.
    """

    name: ClassVar[str] = "collapse"
    preserves: ClassVar[Contract] = Contract.EXACT_EVAL

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        for node in equivariant_nodes(graph, self.where):
            if isinstance(node, Left):
                yield node
                continue
            norm = isinstance(node.op, FieldNorm)
            yield Site(node.name, contract=Contract.EXACT_EVAL if norm else Contract.EXACT)

    def rewrite(self, edit: Edit, site: Site) -> None:
        node = edit.before.node(site.name)
        match node.op:
            case GroupConv():
                _conv(edit, node, node.op)
            case FieldNorm():
                _norm(edit, node, node.op)
            case GroupPool():
                _pool(edit, node, node.op)


def _conv(edit: Edit, node: Node, op: GroupConv) -> None:
    """Set the filter of a single group in place, so that all that follows a weight follows it."""
    edit.set_op(node.name, Conv(stride=(op.stride,), padding=(op.padding,)))
    if not_single(node):
        _mixture(edit, node, op)
        return
    names = [(o or "")[1:] for o in node.operands[1:]]
    first, *rest = (edit.before.params[name].data for name in names)
    unbiased = replace(op, biased=False)
    weight = whole(lambda t, _: unbiased.dense(t)[0], 4)
    edit.set_param(names[0], weight.apply(first), weight)
    for name, data in zip(names[1:], rest, strict=True):
        bias = whole(lambda t, _: _dense_bias(op, first, t), 1)
        edit.set_param(name, bias.apply(data), bias)


def _dense_bias(op: GroupConv, weight: Tensor, bias: Tensor) -> Tensor:
    made = op.dense(weight, bias)[1]
    assert made is not None
    return made


def _mixture(edit: Edit, node: Node, op: GroupConv) -> None:
    """A mixture's filter is no longer any of its parameters: it gets a name of its own."""
    names = [None if o is None else o[1:] for o in node.operands[1:]]
    params = edit.before.params
    made = op.dense(*(None if n is None else params[n].data for n in names))
    like, path = params[names[0] or ""], (names[0] or "").removesuffix(".weight")
    given = [
        edit.add_param(edit.fresh(f"{path}.conv.{leaf}"), replace(like, data=data))
        for leaf, data in zip(("weight", "bias"), made, strict=True)
        if data is not None
    ]
    edit.set_operands(node.name, (node.operands[0], *given))
    for name in names:
        if name is not None:
            edit.remove_param(name)


def _norm(edit: Edit, node: Node, op: FieldNorm) -> None:
    names = [(o or "")[1:] for o in node.operands[1:]]
    for name in names:
        data = edit.before.params[name].data
        move = Move((Gather(torch.arange(len(data)).repeat(op.elements)),))
        edit.set_param(name, move.apply(data), move)
    edit.set_op(node.name, BatchNorm(op.momentum, op.eps))
    path, _, leaf = names[0].rpartition(".")
    counter = f"{path}.num_batches_tracked"
    if path and leaf == "weight" and counter not in edit.before.params:
        device = edit.before.params[names[0]].data.device
        edit.add_param(counter, Param(torch.tensor(0, device=device), "buffer", trainable=False))


def _pool(edit: Edit, node: Node, op: GroupPool) -> None:
    from netir.kernels.group_calls import coset_order

    order, rows = coset_order(op.over, op.ambient)
    value, scope = node.operands[0], node.scope
    n, channels, *size = edit.before.type_of(value or "").shape
    assert isinstance(channels, int)
    fields = channels // len(order)
    if order != sorted(order):
        device = next((p.data.device for p in edit.before.params.values()), None)
        index = torch.tensor([a * fields + c for a in order for c in range(fields)], device=device)
        where = edit.add_param(edit.fresh(f"{node.name}.order"), Param(index, "const", False))
        name = edit.fresh(f"{node.name}.sorted")
        value = edit.insert(name, IndexSelect(dim=1), (value, where), before=node.name, scope=scope)
    shape = (n, rows, len(order) // rows, fields, *size)
    name = edit.fresh(f"{node.name}.apart")
    apart = edit.insert(name, Reshape(shape), (value,), before=node.name, scope=scope)
    over = (Mean if op.kind == "mean" else Amax)(dims=(2,))
    name = edit.fresh(f"{node.name}.{op.kind}")
    pooled = edit.insert(name, over, (apart,), before=node.name, scope=scope)
    edit.set_op(node.name, Reshape((n, rows * fields, *size)))
    edit.set_operands(node.name, (pooled,))


__all__ = ["Collapse"]
