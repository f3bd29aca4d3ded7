"""Bake: weights that a network computes from other parameters become parameters themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from netir.basis import Contract
from netir.calibration import Calibration
from netir.edit import Edit
from netir.ir import Graph, Node, Param
from netir.moves import Move
from netir.passes.connections import slots
from netir.passes.folding.constants import computed, fixed_values, needed, sources
from netir.passes.folding.rules import written
from netir.rewrite import EditPass, Left, Site
from netir.where import chosen_nodes

_MODULES = frozenset({"linear", "conv", "conv_transpose", "bilinear"})
"""Ops that are modules, whose parameter is called `weight`."""


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

    A masked weight becomes `weight * mask`, with zeros for good; weight normalisation, low-rank
    factors, symmetric or rotated kernels and every other reparameterisation become the plain
    weight that they amount to, a parameter of the layer that reads it. The function stays the
    same; what is trained from then on is the weight itself.
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

    def rewrite(self, edit: Edit, site: Site) -> None:
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
            alone = layers.get(users[0][0].scope) == {node.name for node, _ in users}
            yield _Weight(
                value,
                tuple(node for node, _ in users),
                frozenset(needed(fixed, [value])),
                trained,
                _name(graph, value, users[0][0].scope if alone else "", trained),
            )


def _name(graph: Graph, value: str, owner: str, trained: tuple[str, ...]) -> str:
    """What a weight is called: after its layer if it is its own, else as a parameter alike was."""
    if owner and all(name.startswith(f"{owner}.") for name in trained):
        return f"{owner}.weight"
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
