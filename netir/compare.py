"""Two networks side by side: layers, widths, ops, weights and cost, as data.

Layers are matched by the path of their module, or by the name of their node where a module makes
several. It tells what differs, not why; whether they compute the same is for `verify`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from torch import Tensor

from netir.cost import cost
from netir.errors import NetirError
from netir.ir import Graph, Node, expect_graph
from netir.rewrite import parameters
from netir.text.printer import show_attributes

_T = TypeVar("_T")


@dataclass(frozen=True)
class Change(Generic[_T]):
    """Something with a name in one network and in the other; None where it is not there."""

    name: str
    before: _T | None
    after: _T | None

    @property
    def kind(self) -> str:
        """In a word."""
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        return "same" if self.before == self.after else "changed"


@dataclass(frozen=True)
class LayerShape:
    """A node with parameters: its op, the shape of each parameter, and the op's attributes."""

    op: str
    shapes: Mapping[str, tuple[int, ...]]
    attributes: str

    def __str__(self) -> str:
        sizes = (f"{name} {'×'.join(map(str, s)) or 'scalar'}" for name, s in self.shapes.items())
        return f"{self.op}({', '.join(sizes)})"


def in_words(change: Change[LayerShape]) -> Change[str]:
    """A change of a layer as text; attributes are told only where they differ."""
    one, other = change.before, change.after
    same = one is None or other is None or one.attributes == other.attributes
    texts = (
        None if layer is None else f"{layer}{'' if same else layer.attributes}"
        for layer in (one, other)
    )
    return Change(change.name, *texts)


@dataclass(frozen=True)
class Totals:
    """What a network costs; MACs and activations are None where a size is not known."""

    parameters: int
    bytes: int
    macs: int | None
    activation_bytes: int | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two networks have in common, and what differs."""

    before: Graph
    after: Graph
    sizes: Mapping[str, int]

    @cached_property
    def layers(self) -> tuple[Change[LayerShape], ...]:
        """Every layer of either, in the order of the network before."""
        return _changes(_layers(self.before), _layers(self.after))

    @cached_property
    def spaces(self) -> tuple[Change[int], ...]:
        """Every space of either with its size."""
        return _changes(*({s.name: s.size for s in g.spaces()} for g in (self.before, self.after)))

    @cached_property
    def ops(self) -> tuple[Change[int], ...]:
        """How many nodes of each op there are."""
        found = (Counter(n.op.name for n in g.nodes.values()) for g in (self.before, self.after))
        return _changes(*found)

    @cached_property
    def types(self) -> tuple[Change[str], ...]:
        """What the networks take and give."""
        return _changes(*map(_types, (self.before, self.after)))

    @cached_property
    def weights(self) -> Mapping[str, tuple[str, ...]]:
        """The parameters and buffers that are equal, changed, of another shape, added, removed."""
        found: dict[str, list[str]] = {
            kind: [] for kind in ("equal", "changed", "reshaped", "added", "removed")
        }
        for name in dict.fromkeys((*self.before.params, *self.after.params)):
            found[self._weight(name)].append(name)
        return {kind: tuple(names) for kind, names in found.items()}

    def _weight(self, name: str) -> str:
        if name not in self.before.params:
            return "added"
        if name not in self.after.params:
            return "removed"
        one, other = (g.params[name].data for g in (self.before, self.after))
        if one.shape != other.shape:
            return "reshaped"
        same = one is other or (one.dtype == other.dtype and _equal(one, other.to(one.device)))
        return "equal" if same else "changed"

    @cached_property
    def totals(self) -> tuple[Totals, Totals]:
        """What each costs."""
        return totals(self.before, self.sizes), totals(self.after, self.sizes)

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes that the second has been through since the first, where it comes from it."""
        known = len(self.before.history)
        if self.after.history[:known] != self.before.history:
            return ()
        return tuple(step.text for step in self.after.history[known:])


    def plain(self) -> dict[str, Any]:
        """The comparison as plain data, for other programs."""
        before, after = self.totals
        return {
            "layers": [_plain(change) for change in map(in_words, self.layers)],
            "spaces": [_plain(change) for change in self.spaces],
            "ops": [_plain(change) for change in self.ops],
            "types": [_plain(change) for change in self.types],
            "weights": {kind: list(names) for kind, names in self.weights.items()},
            "passes": list(self.passes),
            "totals": {"before": asdict(before), "after": asdict(after)},
        }


def _plain(change: Change[Any]) -> dict[str, Any]:
    return {**asdict(change), "kind": change.kind}


def compare(before: Graph, after: Graph, sizes: Mapping[str, int] | None = None) -> Comparison:
    """Two networks side by side; `sizes` are numbers for open sizes, which MACs depend on."""
    expect_graph(before)
    expect_graph(after)
    return Comparison(before, after, dict(sizes or {}))


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN is one of them."""
    return bool(((one == other) | (one != one) & (other != other)).all())


def totals(graph: Graph, sizes: Mapping[str, int]) -> Totals:
    """What a network costs, as far as the sizes tell."""
    try:
        found = cost(graph, {n: v for n, v in sizes.items() if n in graph.symbols})
    except NetirError:
        stored = sum(p.data.numel() * p.data.element_size() for p in graph.params.values())
        return Totals(parameters(graph), stored, None, None)
    return Totals(found.parameters, found.parameter_bytes, found.macs, found.activation_bytes)


def _changes(before: Mapping[str, _T], after: Mapping[str, _T]) -> tuple[Change[_T], ...]:
    """The names of both in order: what is only in the second comes after what it follows there."""
    return tuple(Change(n, before.get(n), after.get(n)) for n in _merged(before, after))


def _merged(before: Iterable[str], after: Iterable[str]) -> list[str]:
    found = list(before)
    places = {name: place for place, name in enumerate(found)}
    added: dict[int, list[str]] = {}
    place = -1
    for name in after:
        if name in places:
            place = places[name]
        else:
            added.setdefault(place, []).append(name)
    return [*added.get(-1, ()), *(
        each for place, name in enumerate(found) for each in (name, *added.get(place, ()))
    )]  # fmt: skip


def _layers(graph: Graph) -> dict[str, LayerShape]:
    """The nodes that read parameters, by the paths of their modules where these are their own."""
    reading = [node for node in graph.nodes.values() if node.params]
    makers = Counter(node.scope for node in reading)
    found: dict[str, LayerShape] = {}
    for node in reading:
        own = node.scope and makers[node.scope] == 1
        name = f"%{node.name}" if makers[node.name] == 1 else node.name  # a module is called so
        found[node.scope if own else name] = _layer(graph, node)
    return found


def _layer(graph: Graph, node: Node) -> LayerShape:
    last = [name.rpartition(".")[2] for name in node.params]
    names = last if len(set(last)) == len(last) else node.params
    shapes = (tuple(graph.params[name].data.shape) for name in node.params)
    return LayerShape(node.op.name, dict(zip(names, shapes, strict=True)), show_attributes(node.op))


def _types(graph: Graph) -> dict[str, str]:
    inputs = {f"input {name}": str(kind) for name, kind in graph.inputs.items()}
    outputs = {f"output {i}": str(graph.type_of(n)) for i, n in enumerate(graph.outputs)}
    return inputs | outputs


def differing(changes: Iterable[Change[_T]]) -> Iterator[Change[_T]]:
    """Those that are not the same."""
    return (change for change in changes if change.kind != "same")


__all__ = ["Change", "Comparison", "LayerShape", "Totals", "compare", "differing", "in_words",
           "totals"]  # fmt: skip
