"""Constrain: the nearest layers with more symmetry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from netir.basis import Contract
from netir.calibration import Calibration
from netir.edit import Edit
from netir.ir import Graph, Node
from netir.kernels.compact import constrained, constrained_bias
from netir.kernels.groups import group
from netir.ops.conv import Conv
from netir.ops.group import GroupConv
from netir.passes.layers.equivariant import (
    ambient_of,
    equivariant_nodes,
    expect_group,
    left_as_named,
    not_single,
    torn,
    whole,
    with_group,
)
from netir.passes.layers.lowrank import reach, spectral_norm
from netir.passes.merge import Layer
from netir.rewrite import EditPass, Left, Site

Linear = Callable[[Tensor, int], Tensor]
_ROUNDING = 1e-12
"""What is added to a distance, relative to the filter's norm, for the rounding of its own."""


@dataclass(frozen=True)
class Constrain(EditPass):
    """Make group convolutions equivariant to a larger group, by the nearest filter that is.

    Every entry becomes the mean of all entries that `to` makes equal, the orthogonal projection.
    The bound of each layer is its distance to equivariance: how far its result can be off, as a
    multiple of the norm of what it reads; where the bias changes, by its change besides. What
    comes before and after must have the symmetry too for the network to have it. Undoes `relax`
    exactly where nothing was trained in between.
    """

    name: ClassVar[str] = "constrain"
    preserves: ClassVar[Contract] = Contract.BOUNDED
    to: str = "D4"

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_group(self.to, self.name)

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        for node in equivariant_nodes(graph, self.where):
            if isinstance(node, Left):
                yield node
            elif isinstance(node.op, GroupConv):
                why = not_single(node) or _not_larger(self.to, node.op) or _torn(graph, node)
                yield Left(node.name, why) if why else self._site(graph, node, node.op)
            else:
                yield from left_as_named(node, self.where)

    def _site(self, graph: Graph, node: Node, op: GroupConv) -> Site:
        old = [graph.params[(o or "")[1:]].data for o in node.operands[1:]]
        new = [move(t, 1) for move, t in zip(self._moves(op), old, strict=False)]
        after = with_group(op, self.to)
        (weight, bias), (near, moved) = op.dense(*old), after.dense(*new)
        return Site(node.name, (_distance(op, weight, near), _shift(bias, moved)))

    def _moves(self, op: GroupConv) -> tuple[Linear, Linear]:
        """How its weights and its biases move."""
        of, ambient, to = op.groups[0], ambient_of(op), self.to

        # of squares the mean too, which undoes what relaxing does to the state of an optimizer
        def weight(tensor: Tensor, power: int) -> Tensor:
            return constrained(tensor, of, to, ambient, op.lifting)

        def bias(tensor: Tensor, power: int) -> Tensor:
            return constrained_bias(tensor, of, to, ambient)

        return weight, bias

    def rewrite(self, edit: Edit, site: Site) -> None:
        node = edit.before.node(site.name)
        op = node.op
        assert isinstance(op, GroupConv)
        for function, operand in zip(self._moves(op), node.operands[1:], strict=False):
            name = (operand or "")[1:]
            data = edit.before.params[name].data
            move = whole(function, data.dim())
            edit.set_param(name, move.apply(data), move)
        edit.set_op(node.name, with_group(op, self.to))
        distance, shift = site.found
        edit.bound(node.name, distance, shift)


def _not_larger(to: str, op: GroupConv) -> str:
    """Why a layer cannot be constrained to a group; empty if it can."""
    of, ambient = op.groups[0], ambient_of(op)
    if of == to:
        return f"its group is {of} already"
    if not group(of) <= group(to):
        return f"its group {of} is no subgroup of {to}"
    if not group(to) <= group(ambient):
        return f"{to} is no subgroup of its ambient group {ambient}"
    return "" if group(to).exact else f"{to} moves pixels between pixels"


def _torn(graph: Graph, node: Node) -> str:
    """Why a layer of no symmetry cannot have one: with a stride that its map does not suit."""
    op = node.op
    assert isinstance(op, GroupConv)
    if group(op.groups[0]).order > 1:
        return ""
    kernel = graph.type_of(node.operands[1] or "").shape[2]
    return torn(graph, node, int(str(kernel)), op.stride, op.padding)


def _distance(op: GroupConv, old: Tensor, new: Tensor) -> float:
    """How far two filters' results can be apart, for an input of norm 1."""
    gap = (old.double() - new.double()).flatten(1)
    layer = Layer(Conv(stride=(op.stride,), padding=(op.padding,)), old)
    rounding = _ROUNDING * float(torch.linalg.vector_norm(old.double()))
    return sqrt(reach(layer)) * (spectral_norm(gap) + rounding)


def _shift(old: Tensor | None, new: Tensor | None) -> float:
    """The root mean square of how two biases differ, which is how their results do."""
    if old is None or new is None:
        return 0.0
    return float((old.double() - new.double()).square().mean().sqrt())


__all__ = ["Constrain"]
