"""Shrink: fewer layers. Two become one, or a layer, cell or block is bypassed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from netir.basis import Contract
from netir.calibration import Calibration, needed
from netir.edit import Edit
from netir.errors import NetirError, nearest
from netir.ir import Graph, Node, Param
from netir.moves import Gather, Move
from netir.passes.activations import activates, drops, stands
from netir.passes.compose import joined
from netir.passes.merge import Layer, layer_of
from netir.passes.runs import (
    Removal,
    apart,
    block,
    cell_bypass,
    distance,
    is_identity,
    layer_bypass,
    reader,
)
from netir.rewrite import EditPass, Left, Site
from netir.where import chosen_nodes

_OPS: Mapping[str, str] = MappingProxyType({"dense": "linear", "conv": "conv", "cell": "conv"})
"""The op whose nodes a kind removes."""
_SCORES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "dense": ("identity", "change", "random"),
        "conv": ("identity", "change", "random"),
        "cell": ("identity", "random"),
        "block": ("change", "random"),
    }
)
"""The scores that each kind has, the default first."""


@dataclass(frozen=True)
class Join(Removal):
    """Make one layer of two and drop what stands between them."""

    first: Node | None = None
    second: Node | None = None
    layer: Layer | None = None

    @property
    def last(self) -> str:
        assert self.second is not None
        return self.second.results[0]

    def carry_out(self, edit: Edit) -> None:
        assert self.first is not None
        assert self.second is not None
        assert self.layer is not None
        weight, *rest = self.second.params
        old = edit.before.params[weight]
        edit.set_param(weight, self.layer.weight, _anew(old.data, self.layer.weight))
        operands = [self.first.operands[0], f"@{weight}"]
        if self.layer.bias is not None and rest:
            edit.set_param(rest[0], self.layer.bias)
            operands.append(f"@{rest[0]}")
        elif self.layer.bias is not None:
            stem = weight.removesuffix("weight") if weight.endswith(".weight") else f"{weight}_"
            bias = Param(self.layer.bias, old.kind, old.trainable)
            operands.append(edit.add_param(edit.fresh(f"{stem}bias"), bias))
        edit.set_op(self.second.name, self.layer.op)
        edit.set_operands(self.second.name, operands)
        edit.sweep()


@dataclass(frozen=True)
class Shrink(EditPass):
    """Remove layers, the `count` of lowest score, or with 0 all that can go.

    `kind="dense"` merges a dense layer into the next one: y = φ(xA + a)B + b becomes
    y = x(AB) + (aB + b), and φ is dropped. `kind="conv"` merges a convolution into the next one if
    nothing stands between them and they are one; else it bypasses one that keeps shapes, with its
    batch norm, and with its activation if the same stands before it. `kind="cell"` bypasses a
    convolution with its pool (ECToNAS: Schiessler et al. 2024): the first dense layer behind it
    repeats each weight over a block, or with `exact` shares it out over the block. `kind="block"`
    bypasses a module, all that `where` selects by its path, between two values of one type.

    Exact where nothing is dropped that does something: layers without an activation between
    them, layers that are the identity, and with `exact` a cell that is no more than a mean pool
    before `flatten`.

    Scores: "identity" is the distance of the weight from the identity, "change" how much of the
    values differs behind what would be dropped (on calibration data), "random" draws by `seed`.
    """

    name: ClassVar[str] = "shrink"
    preserves: ClassVar[Contract] = Contract.CHANGED
    kind: str = "dense"
    count: int = 1
    score: str = ""
    exact: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _SCORES:
            raise NetirError(f"shrink has no kind '{self.kind}'", fix=nearest(self.kind, _SCORES))
        known = _SCORES[self.kind]
        if self.score and self.score not in known:
            raise NetirError(
                f"kind='{self.kind}' has no score '{self.score}'", fix=f"use {' or '.join(known)}"
            )
        if self.count < 0:
            raise NetirError(
                f"shrink cannot remove {self.count} layers", fix="use 1, 2, 3, or 0 for all"
            )
        if self.exact and self.kind != "cell":
            raise NetirError(f"exact means nothing to kind='{self.kind}'", fix="use kind='cell'")

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        found: list[Removal] = []
        for name, removal in self._removals(graph):
            if isinstance(removal, Removal):
                found.append(removal)
            else:
                yield Left(name, removal)
        ranked = self._ranked(graph, found, calibration)
        chosen, left = apart(ranked, lambda removal: (removal.name, removal.touched), self.count)
        yield from left
        place = {value: number for number, value in enumerate(graph.types)}
        # What is read is taken out after what reads it, which then reads what is left.
        chosen.sort(key=lambda removal: place[removal.last], reverse=True)
        yield from (Site(r.name, r, r.contract) for r in chosen)

    def rewrite(self, edit: Edit, site: Site) -> None:
        removal: Removal = site.found
        removal.carry_out(edit)

    def _removals(self, graph: Graph) -> Iterator[tuple[str, Removal | str]]:
        """Everything that `where` selects, with how it could go or why it cannot."""
        if self.kind == "block":
            for path, nodes in _modules(graph, self.where).items():
                found = block(graph, path, nodes)
                if self.where != "*" or not isinstance(found, str):
                    yield path, found
            return
        chosen = chosen_nodes(graph, self.where).values()
        layers = [node for node in chosen if node.op.name == _OPS[self.kind]]
        if not layers and self.where != "*":
            yield self.where, f"none of it is a {_OPS[self.kind]} layer"
        for node in layers:
            if self.kind == "cell":
                yield node.name, cell_bypass(graph, node, self.exact)
            else:
                yield node.name, _removal(graph, node)

    def _ranked(
        self, graph: Graph, found: list[Removal], calibration: Calibration | None
    ) -> list[Removal]:
        """Sorted by score, the lowest first."""
        score = self.score or _SCORES[self.kind][0]
        if score == "random":
            random.Random(self.seed).shuffle(found := list(found))
            return found
        if score == "identity":
            return sorted(found, key=lambda removal: removal.distance)
        if not self.count or len(found) <= self.count:
            return found
        changes = _changes(graph, found, needed(calibration, "the score 'change'"))
        return sorted(found, key=lambda removal: changes[removal.name])


def _removal(graph: Graph, node: Node) -> Removal | str:
    """How a layer can go: merged exactly, bypassed as it does nothing, else what is right to it."""
    join = _join(graph, node)
    if isinstance(join, Join) and join.contract is not Contract.CHANGED:
        return join
    around = layer_bypass(graph, node)
    if not isinstance(around, str) and (node.op.name == "conv" or is_identity(graph, node)):
        return around
    if node.op.name == "conv":
        return f"it cannot be merged, {join}; nor bypassed, {around}"
    return join


def _join(graph: Graph, node: Node) -> Join | str:
    """A layer and the next one as one; between dense layers an activation is dropped."""
    between: list[Node] = []
    second = reader(graph, node.results[0])
    while second is not None and _droppable(second, node):
        between.append(second)
        second = reader(graph, second.results[0])
    if second is None or second.op.name != node.op.name:
        last = between[-1] if between else node
        count = len(graph.users.get(last.results[0], ()))
        what = f"{second.name} ({second.op.name}) reads it" if second else f"{count} nodes read it"
        return f"{what}, not one more {node.op.name} layer"
    pair: list[Layer] = []
    for each in (node, second):
        layer = layer_of(graph, each)
        if isinstance(layer, str):
            return f"{each.name}: {layer}"
        pair.append(layer)
    one = joined(*pair)
    if isinstance(one, str):
        return one
    one = one.to(pair[1].weight.dtype)
    return _joined(graph, node, second, between, one) if one.finite() else "weights would overflow"


def _joined(graph: Graph, node: Node, second: Node, between: list[Node], layer: Layer) -> Join:
    kept, span, away = Contract.EXACT, None, 0.0
    if any(map(activates, between)):
        kept, span = Contract.CHANGED, (node.results[0], between[-1].results[0])
        away = distance(graph, node)
    elif any(map(drops, between)):
        kept = Contract.EXACT_EVAL
    touched = frozenset({node.name, second.name, *(n.name for n in between)})
    return Join(node.name, kept, touched, away, span, node, second, layer)


def _droppable(node: Node, layer: Node) -> bool:
    """Whether a node may go when the layer before it is merged into the one behind it."""
    dropped = stands(node) or drops(node) or (layer.op.name == "linear" and activates(node))
    return dropped and len(node.values) == 1


def _changes(
    graph: Graph, found: list[Removal], calibration: Calibration
) -> dict[str, float]:
    """How far apart the two values of each span are, in sizes of the first; 0 without a span."""
    spans = {removal.name: removal.span for removal in found if removal.span is not None}
    apart, size = dict.fromkeys(spans, 0.0), dict.fromkeys(spans, 0.0)
    for values in calibration.values(graph, {v for span in spans.values() for v in span}):
        for name, (source, last) in spans.items():
            before, after = values[source].double(), values[last].double()
            apart[name] += float((after - before).square().sum())
            size[name] += float(before.square().sum())
    ratios = {name: (apart[name] / size[name]) ** 0.5 if size[name] else inf for name in spans}
    return {removal.name: ratios.get(removal.name, 0.0) for removal in found}


def _modules(graph: Graph, where: str) -> dict[str, list[str]]:
    """The nodes of every module whose path a glob selects."""
    inside: dict[str, list[str]] = {}
    for node in graph.nodes.values():
        path = node.scope
        while path:
            inside.setdefault(path, []).append(node.name)
            path = path.rpartition(".")[0]
    found: dict[str, list[str]] = {}
    for pattern in where.split():
        hits = {path: nodes for path, nodes in inside.items() if fnmatchcase(path, pattern)}
        if not hits and pattern != "*":
            raise NetirError(f"'{pattern}' names no module", fix=nearest(pattern, inside))
        found |= hits
    return found


def _anew(old: Tensor, new: Tensor) -> Move:
    """The move of a weight of which every entry is new, so that its moments start at zero."""
    sizes = zip(old.shape, new.shape, strict=True)
    gone = [Gather(torch.full((b,), -1)) if a != b else None for a, b in sizes]
    gone[1] = Gather(torch.full((new.shape[1],), -1))
    return Move(tuple(gone))


__all__ = ["Shrink"]
