"""Shrink: fewer layers. Two become one, or a layer, cell or block is bypassed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from math import inf
from types import MappingProxyType
from typing import ClassVar, Literal

from netir.basis import Contract
from netir.calibration import Calibration, needed
from netir.edit import Edit
from netir.errors import NetirError, nearest
from netir.ir import Graph, Node, Param
from netir.passes.layers.activations import activates, drops, stands
from netir.passes.layers.compose import joined
from netir.passes.layers.runs import (
    Removal,
    apart,
    block,
    cell_bypass,
    distance,
    is_identity,
    layer_bypass,
    reader,
)
from netir.passes.merge import Layer, anew, layer_of
from netir.rewrite import EditPass, Left, Site
from netir.where import chosen_nodes

Kind = Literal["dense", "conv", "cell", "block"]
Score = Literal["identity", "change", "random"]
_OPS: Mapping[str, str] = MappingProxyType({"dense": "linear", "conv": "conv", "cell": "conv"})
"""The op whose nodes a kind removes."""
_SCORES: Mapping[str, tuple[Score, ...]] = MappingProxyType(
    {
        "dense": ("identity", "change", "random"),
        "conv": ("identity", "change", "random"),
        "cell": ("identity", "random"),
        "block": ("change", "random"),
    }
)
"""The scores that each kind has, the default first."""


@dataclass(frozen=True, kw_only=True)
class Join(Removal):
    """Make one layer of two and drop what stands between them."""

    first: Node
    second: Node
    pair: tuple[Layer, Layer]

    @property
    def last(self) -> str:
        return self.second.results[0]

    @cached_property
    def layer(self) -> Layer:
        """The one layer."""
        found = joined(*self.pair)
        assert isinstance(found, Layer)
        return found.to(self.pair[1].weight.dtype)

    def refused(self) -> str:
        return "" if self.layer.finite() else "the merged weights would overflow"

    def carry_out(self, edit: Edit) -> None:
        weight, *rest = self.second.params
        old = edit.before.params[weight]
        edit.set_param(weight, self.layer.weight, anew(old.data, self.layer.weight))
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
    kind: Kind = "dense"
    count: int = 1
    score: Score | None = None
    exact: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in _SCORES:
            raise NetirError(f"shrink has no kind '{self.kind}'", fix=nearest(self.kind, _SCORES))
        known = _SCORES[self.kind]
        if self.score is not None and self.score not in known:
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
        left: list[Left] = []
        possible = _possible(self._ranked(graph, found, calibration), left)
        chosen, others = apart(possible, lambda r: (r.name, r.touched), self.count)
        yield from (*left, *others)
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


def _possible(removals: Iterable[Removal], left: list[Left]) -> Iterator[Removal]:
    """Those that can go, looked at one by one; the others join what is left."""
    for removal in removals:
        why = removal.refused()
        if why:
            left.append(Left(removal.name, why))
        else:
            yield removal


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
        value = (between[-1] if between else node).results[0]
        who = [each.name for each, _ in graph.users.get(value, ())]
        who += ["the caller"] if value in graph.outputs else []
        known = " and ".join(who) or "nobody"
        return f"it is not one {node.op.name} layer that reads {value}, but {known}"
    one, two = layer_of(graph, node), layer_of(graph, second)
    if isinstance(one, str) or isinstance(two, str):
        return f"{node.name}: {one}" if isinstance(one, str) else f"{second.name}: {two}"
    if node.op.name == "conv" and isinstance(why := joined(one, two), str):
        return why
    return _joined(graph, node, second, between, (one, two))


def _joined(
    graph: Graph, node: Node, second: Node, between: list[Node], pair: tuple[Layer, Layer]
) -> Join:
    bent = any(map(activates, between))
    exact = Contract.EXACT_EVAL if any(map(drops, between)) else Contract.EXACT
    return Join(
        name=node.name,
        contract=Contract.CHANGED if bent else exact,
        touched=frozenset({node.name, second.name, *(n.name for n in between)}),
        distance=distance(graph, node) if bent else 0.0,
        span=(node.results[0], between[-1].results[0]) if bent else None,
        first=node,
        second=second,
        pair=pair,
    )


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


__all__ = ["Shrink"]
