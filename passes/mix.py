"""Mix: layers become mixtures over several groups, the same function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from netir.basis import Contract
from netir.calibration import Calibration
from netir.edit import Edit
from netir.errors import NetirError
from netir.ir import Graph, Param
from netir.kernels.compact import relaxed, relaxed_bias
from netir.kernels.groups import group
from netir.ops.group import GroupConv
from netir.passes.layers.equivariant import (
    ambient_of,
    equivariant_nodes,
    expect_group,
    left_as_named,
    not_single,
)
from netir.rewrite import EditPass, Left, Site

_LARGEST = 1e4
"""The largest logit: every floating type holds it, and one of the groups is all of the filter."""


@dataclass(frozen=True)
class Mix(EditPass):
    """Turn group convolutions into mixtures over their group and some of its subgroups.

    The filter becomes Σ z_G W_G with z = softmax(logits), a [G]-mixed layer (Maile et al. 2023).
    Every W_G starts as the layer's own filter, so the function is the same whatever z is; `prior`
    is the logit of the layer's own group, above the zeros of the others. `groups` are separated
    by blanks; those that are no subgroups of the layer's group are left out. Training then finds
    how much symmetry each layer wants, and `collapse` makes one convolution of it.
    """

    name: ClassVar[str] = "mix"
    preserves: ClassVar[Contract] = Contract.EXACT
    groups: str = "C1"
    prior: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.groups, str):
            raise NetirError(
                f"mix takes the names of groups in one text, not {self.groups!r}",
                fix="write them with blanks between: 'C4 C1'",
            )
        super().__post_init__()
        if not abs(self.prior) <= _LARGEST:
            raise NetirError(
                f"mix cannot use prior {self.prior!r}",
                fix=f"use a number between -{_LARGEST:g} and {_LARGEST:g}",
            )
        for name in self.groups.split() or [""]:
            if not expect_group(name, self.name).exact:
                raise NetirError(
                    f"mix cannot use {name}, which moves pixels between pixels",
                    fix="use subgroups of D4",
                )

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        for node in equivariant_nodes(graph, self.where):
            if isinstance(node, Left):
                yield node
                continue
            if not isinstance(node.op, GroupConv):
                yield from left_as_named(node, self.where)
                continue
            own = node.op.groups[0]
            more = [n for n in dict.fromkeys(self.groups.split())
                    if n != own and group(n) <= group(own)]  # fmt: skip
            if not_single(node):
                yield Left(node.name, "it is a mixture already")
            elif not more:
                yield Left(node.name, f"none of {self.groups} is a proper subgroup of {own}")
            else:
                yield Site(node.name, more)

    def rewrite(self, edit: Edit, site: Site) -> None:
        node = edit.before.node(site.name)
        op = node.op
        assert isinstance(op, GroupConv)
        own, ambient = op.groups[0], ambient_of(op)
        (weight,), biases, _, _ = op.parts([o and o[1:] for o in node.operands])
        first = edit.before.params[weight]
        weights = [f"@{weight}"]
        shifts = [f"@{bias}" for bias in biases]
        for name in site.found:
            data = relaxed(first.data, own, name, ambient, op.lifting)
            fresh = edit.fresh(f"{weight}_{name}")
            weights.append(edit.add_param(fresh, replace(first, data=data)))
            for bias in biases:
                old = edit.before.params[bias]
                data = relaxed_bias(old.data, own, name, ambient)
                shifts.append(edit.add_param(edit.fresh(f"{bias}_{name}"), replace(old, data=data)))
        logits = torch.zeros(len(weights), dtype=first.data.dtype, device=first.data.device)
        logits[0] = self.prior
        path = weight.removesuffix("weight")
        mixed = edit.add_param(edit.fresh(f"{path}logits"), Param(logits, "param", first.trainable))
        edit.set_op(node.name, replace(op, groups=(own, *site.found), ambient=ambient))
        edit.set_operands(node.name, (node.operands[0], *weights, *shifts, mixed))


__all__ = ["Mix"]
