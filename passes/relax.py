"""Relax: less symmetry, the same function, more to train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from netir.basis import Contract
from netir.calibration import Calibration
from netir.edit import Edit
from netir.ir import Graph, Node
from netir.kernels.compact import relaxed, relaxed_bias
from netir.kernels.groups import Group, group
from netir.moves import Gather, Move
from netir.ops.base import Op
from netir.ops.group import GroupConv, GroupPool
from netir.ops.shape import Reshape
from netir.passes.layers.equivariant import (
    ambient_of,
    equivariant_nodes,
    expect_group,
    left_as_named,
    not_single,
    whole,
    with_group,
)
from netir.rewrite import EditPass, Left, Site


@dataclass(frozen=True, eq=False)
class _Head:
    """What reads a pooled map: nodes that get another op, and the layers with more columns."""

    ops: dict[str, Op]
    weights: tuple[str, ...]


@dataclass(frozen=True)
class Relax(EditPass):
    """Let layers be equivariant to a subgroup only, keeping the function (Maile et al. 2023).

    A group convolution gets the parameters that `to` leaves free, as many times more as its group
    is larger; its filter stays the same bit for bit, its neighbours as they are, and it loses the
    symmetry only as training goes on. A group pool by the mean is taken over `to` too: more
    channels come out of it, and the layer that reads them shares its weights out among them.
    """

    name: ClassVar[str] = "relax"
    preserves: ClassVar[Contract] = Contract.EXACT
    to: str = "C1"

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_group(self.to, self.name)

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        to = group(self.to)
        for node in equivariant_nodes(graph, self.where):
            if isinstance(node, Left):
                yield node
            elif isinstance(node.op, GroupConv):
                why = not_single(node) or _not_smaller(to, node.op.groups[0])
                yield Left(node.name, why) if why else Site(node.name)
            elif isinstance(node.op, GroupPool):
                found = _not_smaller(to, node.op.over) or _head(graph, node, to)
                site = isinstance(found, _Head)
                yield Site(node.name, found) if site else Left(node.name, str(found))
            else:
                yield from left_as_named(node, self.where)

    def rewrite(self, edit: Edit, site: Site) -> None:
        node = edit.before.node(site.name)
        if isinstance(node.op, GroupPool):
            self._pool(edit, node, site.found)
            return
        op = node.op
        assert isinstance(op, GroupConv)
        ambient, of = ambient_of(op), op.groups[0]
        (weight,), biases, _, _ = op.parts([o and o[1:] for o in node.operands])
        move = whole(lambda t, _: relaxed(t, of, self.to, ambient, op.lifting), 6)
        edit.set_op(node.name, with_group(op, self.to))
        edit.set_param(weight, move.apply(edit.before.params[weight].data), move)
        for bias in biases:
            data = edit.before.params[bias].data
            move = Move((Gather(_origins(data.shape[0], of, self.to, ambient)), None))
            edit.set_param(bias, move.apply(data), move)

    def _pool(self, edit: Edit, node: Node, head: _Head) -> None:
        op = node.op
        assert isinstance(op, GroupPool)
        times = group(op.over).order // group(self.to).order
        edit.set_op(node.name, replace(op, over=self.to))
        for name, other in head.ops.items():
            edit.set_op(name, other)
        for weight in head.weights:
            data = edit.before.params[weight].data
            index = _origins(data.shape[1], op.over, self.to, op.ambient)
            share = torch.full((len(index),), 1 / times, dtype=torch.float64)
            columns = Gather(index, share)
            move = Move((None, columns, *[None] * (data.dim() - 2)))
            edit.set_param(weight, move.apply(data), move)


def _origins(count: int, of: str, to: str, ambient: str) -> Tensor:
    """Where entries laid out by cosets of `to` were among the `count` laid out by those of `of`."""
    rows = group(ambient).order // group(of).order
    return relaxed_bias(torch.arange(count).view(rows, -1), of, to, ambient).flatten()


def _not_smaller(to: Group, of: str) -> str:
    """Why a group cannot be relaxed to another; empty if it can."""
    if of == to.name:
        return f"its group is {of} already"
    if not to <= group(of):
        return f"{to.name} is no subgroup of its group {of}"
    return "" if to.exact else f"{to.name} moves pixels between pixels"


_PLACEWISE = frozenset({"adaptive_avg_pool", "avg_pool", "contiguous", "identity"})


def _head(graph: Graph, pool: Node, to: Group) -> _Head | str:
    """What has to follow when a pool gives more channels, or why it cannot."""
    assert isinstance(pool.op, GroupPool)
    if pool.op.kind != "mean":
        return "it takes the max, which no layer behind it can make from parts"
    times = group(pool.op.over).order // to.order
    ops: dict[str, Op] = {}
    weights: list[str] = []
    pending = [pool.results[0]]
    while pending:
        value = pending.pop()
        if value in graph.outputs:
            return f"{value} is returned"
        for node, slot in graph.users.get(value, ()):
            weight = _columns(graph, node, slot)
            if weight:
                weights.append(weight)
            elif isinstance(node.op, Reshape) and _flattens(graph, node):
                shape = node.op.shape
                ops[node.name] = replace(node.op, shape=(shape[0], shape[1] * times))
                pending += node.results
            elif node.op.name in _PLACEWISE or _averages(node):
                pending += node.results
            else:
                return (f"{node.name} ({node.op.name}) reads it, which is not linear in channels, "
                        "or not known to be")  # fmt: skip
    return _Head(ops, tuple(dict.fromkeys(weights)))


def _columns(graph: Graph, node: Node, slot: int) -> str:
    """The parameter whose columns weigh the channels that a node reads; empty if there is none."""
    flat = node.op.name == "linear" and graph.type_of(node.operands[0] or "").rank == 2
    conv = node.op.name == "conv" and getattr(node.op, "groups", 0) == 1
    weight = node.operands[1] if (flat or conv) and slot == 0 else None
    own = weight is not None and weight[0] == "@" and len(graph.users[weight]) == 1
    return weight[1:] if own and weight else ""


def _flattens(graph: Graph, node: Node) -> bool:
    """Whether a reshape lays all axes but the first one after the other."""
    old, new = graph.type_of(node.operands[0] or ""), node.types[0]
    return new.rank == 2 and new.shape[0] == old.shape[0] and isinstance(new.shape[1], int)


def _averages(node: Node) -> bool:
    dims = getattr(node.op, "dims", (0,))
    return node.op.name == "mean" and all(dim >= 2 for dim in dims)


__all__ = ["Relax"]
