"""Bake: weights that a network computes from other parameters become parameters themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from netir.basis import Contract
from netir.calibration import Calibration
from netir.edit import Edit
from netir.ir import Graph, Node, Param
from netir.kernels.plan import leaves
from netir.moves import Gather, Move
from netir.ops.group import GroupConv
from netir.passes.connections import slots
from netir.passes.folding.constants import computed, fixed_values, needed, sources
from netir.passes.folding.rules import written
from netir.passes.layers.equivariant import shared_params
from netir.rewrite import EditPass, Left, Site
from netir.where import chosen_nodes

_MODULES = frozenset({"linear", "conv", "conv_transpose", "bilinear", "group_conv"})
"""Ops that are modules, whose parameter is called `weight`, or after a group of a mixture."""


@dataclass(frozen=True, eq=False)
class _Weight:
    """A weight that is computed, what it is made of, and what it is called as a parameter."""

    value: str
    readers: tuple[Node, ...]
    steps: frozenset[str]
    trained: tuple[str, ...]
    name: str


@dataclass(frozen=True)
class Bake(EditPass):
    """Materialise weights: what a network computes from trained parameters alone and multiplies by.

    A masked weight becomes `weight * mask`, with zeros for good; weight normalisation, also that
    of a mixture of group convolutions, low-rank factors, symmetric or rotated kernels and every
    other reparameterisation become the plain weight that they amount to, a parameter of the layer
    that reads it. The function stays the same; what is trained from then on is the weight itself.
    """

    name: ClassVar[str] = "bake"
    preserves: ClassVar[Contract] = Contract.EXACT

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        chosen = chosen_nodes(graph, self.where)
        fixed = fixed_values(graph, set(graph.params) - written(graph))
        found = [w for w in _weights(graph, fixed) if chosen.keys() & _nodes(fixed, w)]
        values = computed(graph, fixed, [w.value for w in found], wide=True)
        for weight in found:
            why = _refused(graph, fixed, weight)
            data = values[weight.value].to(graph.types[weight.value].dtype)
            if not why and not bool(data.isfinite().all()):
                why = "it is not finite"
            if why:
                yield Left(weight.value, why)
                continue
            trainable = any(graph.params[n].trainable for n in weight.trained)
            yield Site(weight.value, (weight, Param(data, "param", trainable)))
        yield from _normed(graph, chosen)

    def rewrite(self, edit: Edit, site: Site) -> None:
        if isinstance(site.found, Tensor):
            _scale(edit, edit.before.node(site.name), site.found)
            return
        weight, param = site.found
        name, before = weight.name, edit.before.params
        if name in weight.trained and before[name].type == param.type:
            edit.set_param(name, param.data, Move((None,) * param.data.dim()))
            edit.replace(weight.value, f"@{name}")
        else:
            edit.replace(weight.value, edit.add_param(edit.fresh(name), param))

    def tidy(self, edit: Edit) -> None:
        edit.sweep()


def _weights(graph: Graph, fixed: dict[str, Node]) -> Iterator[_Weight]:
    """The values made of parameters, of which some are trained, that something multiplies by."""
    layers: dict[str, set[str]] = {}
    for node in graph.nodes.values():
        if node.op.name in _MODULES:
            layers.setdefault(node.scope, set()).add(node.name)
    for value in fixed:
        users = graph.users.get(value, ())
        if not any(node.results[0] not in fixed and slot in slots(node) for node, slot in users):
            continue
        made_of = sorted(sources(fixed, value))
        trained = tuple(name for name in made_of if graph.params[name].kind == "param")
        if trained:
            first, slot = users[0]
            alone = layers.get(first.scope) == {node.name for node, _ in users}
            own = f"{first.scope}.{_leaf(first, slot)}" if alone else ""
            yield _Weight(
                value,
                tuple(node for node, _ in users),
                frozenset(needed(fixed, [value])),
                trained,
                _name(graph, value, own, trained),
            )


def _normed(graph: Graph, chosen: Mapping[str, Node]) -> Iterator[Site | Left]:
    """The mixtures of group convolutions that give their weights a norm, and by what factors."""
    for node in chosen.values():
        if not isinstance(node.op, GroupConv) or node.op.parts(node.operands)[3] is None:
            continue
        why = shared_params(graph, node)
        if why:
            yield Left(node.name, why)
            continue
        given = [None if o is None else graph.params[o[1:]].data for o in node.operands[1:]]
        weights, _, _, norms = node.op.parts([None, *given])
        lengths = torch.stack([torch.linalg.vector_norm(w.double()) for w in weights])
        if bool((lengths > 0).all()):
            yield Site(node.name, norms.double() / lengths)
        else:
            yield Left(node.name, "a weight of it has norm 0")


def _scale(edit: Edit, node: Node, factors: Tensor) -> None:
    """Give every weight of a mixture its norm for good."""
    assert isinstance(node.op, GroupConv)
    weights, _, _, norms = node.op.parts(node.operands)
    for weight, factor in zip(weights, factors.tolist(), strict=True):
        data = edit.before.params[weight[1:]].data
        share = torch.full((len(data),), factor, dtype=torch.float64)
        move = Move((Gather(torch.arange(len(data)), share), *[None] * (data.dim() - 1)))
        edit.set_param(weight[1:], move.apply(data), move)
    edit.set_operands(node.name, node.operands[:-1])
    edit.remove_param(norms[1:])


def _leaf(node: Node, slot: int) -> str:
    """What a layer calls the weight that is this operand."""
    op = node.op
    return leaves("weight", op.groups)[slot - 1] if isinstance(op, GroupConv) else "weight"


def _name(graph: Graph, value: str, own: str, trained: tuple[str, ...]) -> str:
    """What a weight is called: as its layer's if it is its own, else as a parameter alike was."""
    owner = own.rpartition(".")[0]
    if owner and all(name.startswith(f"{owner}.") for name in trained):
        return own
    alike = [name for name in trained if graph.params[name].type == graph.types[value]]
    return alike[0] if alike else f"{trained[0]}_baked"


def _nodes(fixed: dict[str, Node], weight: _Weight) -> set[str]:
    """The names of the nodes that make a weight and of those that read it."""
    return {fixed[v].name for v in weight.steps} | {node.name for node in weight.readers}


def _refused(graph: Graph, fixed: dict[str, Node], weight: _Weight) -> str:
    """Why a weight cannot be baked without parting what is trained together; empty if it can."""
    for node, slot in graph.users[weight.value]:
        if slot not in slots(node):
            return f"'{node.name}' reads it too, and not as a weight"
    inner = {fixed[v].name: fixed[v] for v in weight.steps}
    results = {result for node in inner.values() for result in node.results}
    operands = sorted(results - {weight.value}) + [f"@{name}" for name in weight.trained]
    for operand in operands:
        if any(node.name not in inner for node, _ in graph.users.get(operand, ())):
            return f"'{operand.removeprefix('@')}', of which it is made, is read elsewhere too"
    if {weight.value, *operands} & set(graph.outputs):
        return "the network returns it, or something that it is made of"
    tied = set(weight.trained) & set(graph.aliases.values()) - {weight.name}
    return f"'{tied.pop()}', of which it is made, has a second name" if tied else ""


__all__ = ["Bake"]
