"""Parts of a network that can go: a layer with what belongs to it, or all nodes of a module.

To a layer belong the norm, activation and pool that follow it and that nothing else follows. What
goes is bypassed: who read its result reads what it read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from math import inf, isfinite
from typing import TypeVar

import torch

from netir.basis import Contract
from netir.edit import Edit
from netir.ir import Graph, Node
from netir.ops.pool import AvgPool
from netir.passes.layers.activations import IDEMPOTENT, INTERVAL, activates, drops, stands
from netir.passes.layers.insert import identity
from netir.passes.layers.pooling import Resize, adapt, resized
from netir.rewrite import Left

_T = TypeVar("_T")
_POOLS = frozenset({"avg_pool", "max_pool"})


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Something that can go: what it keeps, the nodes that it touches, and how far it is from none.

    `distance` is how far the weights are from the identity; `span` two values between which the
    network would do nothing.
    """

    name: str
    contract: Contract
    touched: frozenset[str]
    distance: float = 0.0
    span: tuple[str, str] | None = None

    @property
    def last(self) -> str:
        """The value that those behind it read."""
        raise NotImplementedError

    def refused(self) -> str:
        """Why it cannot go after all, where that takes long to find out; empty if it can."""
        return ""

    def carry_out(self, edit: Edit) -> None:
        """Take it out of the graph."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Bypass(Removal):
    """Take some nodes of a chain out; the others read what is left before them."""

    source: str
    chain: tuple[Node, ...]
    gone: frozenset[str]
    resize: Resize | None = None
    how: str = "repeat"

    @property
    def last(self) -> str:
        return self.chain[-1].results[0]

    def carry_out(self, edit: Edit) -> None:
        value, last = self.source, self.last
        for node in self.chain:
            if node.name not in self.gone:
                edit.set_operands(node.name, (value, *node.operands[1:]))
                value = node.results[0]
        if self.resize is None:
            if value != last:
                edit.replace(last, value)
        else:
            for node in dict.fromkeys(n for n, _ in edit.before.users.get(last, ())):
                edit.set_operands(node.name, [value if o == last else o for o in node.operands])
            adapt(edit, self.resize, self.how)
        edit.sweep()


def layer_bypass(graph: Graph, layer: Node) -> Bypass | str:
    """A way around a layer that keeps shapes, its norm, and an activation that is there already.

    Where the layer is the identity, only what does nothing goes with it, and the function stays.
    """
    source = layer.operands[0]
    if source is None or source[0] == "@":
        return "it reads no activation"
    if graph.type_of(source) != layer.types[0]:
        return f"it makes {layer.types[0]} from {graph.type_of(source)}"
    exact = is_identity(graph, layer)
    chain = _chain(graph, layer, frozenset())
    gone, contract = {layer.name}, Contract.EXACT
    for node in chain[1:]:
        if node.op.name == "batch_norm":
            if exact and not _keeps(graph, node):
                break
            gone.add(node.name)
            contract = Contract.EXACT_EVAL
        elif _again(graph, node, source, exact):
            gone.add(node.name)
    return Bypass(
        name=layer.name,
        contract=contract if exact else Contract.CHANGED,
        touched=frozenset(node.name for node in chain),
        distance=distance(graph, layer),
        span=(source, chain[-1].name),
        source=source,
        chain=chain,
        gone=frozenset(gone),
    )


def cell_bypass(graph: Graph, layer: Node, exact: bool) -> Bypass | str:
    """A way around a layer with its pool; the dense layer behind `flatten` follows.

    With `exact` a weight is shared out over the block that it is repeated over. If besides the
    layer is the identity and its mean pool feeds `flatten`, the function stays.
    """
    source = layer.operands[0]
    chain = _chain(graph, layer, _POOLS)
    pool = next((node for node in chain if node.op.name in _POOLS), None)
    if source is None or source[0] == "@" or pool is None:
        return "no pool belongs to it"
    kind, last = graph.type_of(source), chain[-1]
    if kind.shape[:2] != last.types[0].shape[:2] or kind.dtype != last.types[0].dtype:
        return f"it makes {layer.types[0].shape[1]} channels from {kind.shape[1]}: widen or prune"
    resize = resized(graph, last.results[0], kind)
    if isinstance(resize, str):
        return resize
    gone = {n.name for n in chain if not activates(n) or _again(graph, n, source, exact=False)}
    kept = Contract.CHANGED
    if exact and layer.types[0] == kind and is_identity(graph, layer):
        kept = _cell_contract(graph, chain, source, resize)
    return Bypass(
        name=layer.name,
        contract=kept,
        touched=frozenset({*(node.name for node in chain), *resize.touched}),
        distance=distance(graph, layer),
        source=source,
        chain=chain,
        gone=frozenset(gone),
        resize=resize,
        how="spread" if exact else "repeat",
    )


def _cell_contract(
    graph: Graph, chain: tuple[Node, ...], source: str, resize: Resize
) -> Contract:
    """What taking out a chain keeps, if all of it but a mean pool does nothing."""
    kept = Contract.EXACT
    for node in chain[1:]:
        name = node.op.name
        if name == "batch_norm" and _keeps(graph, node):
            kept = Contract.EXACT_EVAL
        elif not _halves(node) and not (name in INTERVAL and _again(graph, node, source, True)):
            return Contract.CHANGED
    for name in resize.touched:
        node = graph.nodes[name]
        through = node.op.name == "linear" or name in resize.ops or stands(node) or drops(node)
        if not through:
            return Contract.CHANGED
    return kept


def _halves(node: Node) -> bool:
    """Whether a node is the mean of blocks of two positions along every axis."""
    op = node.op
    if not isinstance(op, AvgPool) or op.divisor_override is not None:
        return False
    sides = {*op.kernel_size, *(op.stride or op.kernel_size)}
    return sides == {2} and not any(op.padding)


@dataclass(frozen=True, kw_only=True)
class Block(Removal):
    """Take all nodes between two values of one type out."""

    span: tuple[str, str]

    @property
    def last(self) -> str:
        return self.span[1]

    def carry_out(self, edit: Edit) -> None:
        source, last = self.span
        edit.replace(last, source)
        edit.sweep()


def block(graph: Graph, path: str, nodes: Collection[str]) -> Block | str:
    """The nodes of a module as one thing to go, if it gives a value of a type that it reads."""
    inside = dict.fromkeys(nodes)
    given = [r for name in inside for r in graph.nodes[name].results if _leaves(graph, r, inside)]
    if len(given) != 1:
        return f"it gives {len(given)} values"
    order = list(graph.types)
    before = set(order[: order.index(given[0])])
    read = dict.fromkeys(v for name in inside for v in graph.nodes[name].values)
    makers = {v: graph.producers.get(v) for v in read if v in before}
    outer = [v for v, maker in makers.items() if maker is None or maker.name not in inside]
    alike = [v for v in outer if graph.types[v] == graph.types[given[0]]]
    if len(alike) != 1:
        return f"it reads {len(alike)} values of the type that it gives"
    return Block(
        name=path,
        contract=Contract.CHANGED,
        touched=_needless(graph, inside, alike[0]),
        span=(alike[0], given[0]),
    )


def _needless(graph: Graph, nodes: Collection[str], kept: str) -> frozenset[str]:
    """Nodes, and those before them that nothing needs then but for a value that is kept."""
    found = set(nodes)
    pending = [value for name in nodes for value in graph.nodes[name].values]
    while pending:
        maker = graph.producers.get(pending.pop())
        if maker is None or maker.name in found or kept in maker.results:
            continue
        if not any(_leaves(graph, result, found) for result in maker.results):
            found.add(maker.name)
            pending.extend(maker.values)
    return frozenset(found)


def _leaves(graph: Graph, value: str, inside: Collection[str]) -> bool:
    users = graph.users.get(value, ())
    return value in graph.outputs or any(node.name not in inside for node, _ in users)


def reader(graph: Graph, value: str) -> Node | None:
    """The node that reads a value first of its operands, if nothing else reads it."""
    users = graph.users.get(value, ())
    if len(users) != 1 or users[0][1] != 0 or value in graph.outputs:
        return None
    return users[0][0]


def _chain(graph: Graph, layer: Node, pools: Collection[str]) -> tuple[Node, ...]:
    """A layer and the norm, activation and pool right behind it, each at most once."""
    found, seen = [layer], set[str]()
    while (node := reader(graph, found[-1].results[0])) is not None:
        name = node.op.name
        kind = "act" if activates(node) else "pool" if name in pools else name
        if kind not in ("act", "pool", "batch_norm") or kind in seen or len(node.values) > 1:
            break
        seen.add(kind)
        found.append(node)
    return tuple(found)


def _again(graph: Graph, node: Node, source: str, exact: bool) -> bool:
    """Whether an activation stands before its layer too, maybe with pools or dropout in between.

    If exact, it must do nothing to what it reads then, in train mode too.
    """
    if exact and node.op.name not in IDEMPOTENT:
        return False
    before = graph.producers.get(source)
    while before is not None and (
        stands(before)
        or before.op.name == "max_pool"
        or (not exact and (drops(before) or before.op.name in _POOLS))
    ):
        before = graph.producers.get(before.values[0])
    return before is not None and (before.op, before.params) == (node.op, node.params)


def is_identity(graph: Graph, layer: Node) -> bool:
    """Whether a layer that keeps shapes gives what it reads: W = I or a Dirac kernel, and b = 0."""
    strides = getattr(layer.op, "stride", (1,))
    if distance(graph, layer) > 0 or any(stride != 1 for stride in strides):
        return False
    weight, *rest = (graph.params[name].data for name in layer.params)
    return all(size % 2 for size in weight.shape[2:]) and not any(bool(b.any()) for b in rest)


def distance(graph: Graph, layer: Node) -> float:
    """How far a weight is from the identity, in sizes of the identity; infinite if unknown."""
    operand = layer.operands[1]
    if operand is None or operand[0] != "@":
        return inf
    weight = graph.params[operand[1:]].data.double()
    ideal = identity(weight, getattr(layer.op, "groups", 1))
    found = float((weight - ideal).norm() / ideal.norm())
    return found if isfinite(found) else inf


def _keeps(graph: Graph, norm: Node) -> bool:
    """Whether a batch norm is the identity in eval mode, but for rounding."""
    if len(norm.params) != 4:
        return False
    scale, shift, mean, variance = (graph.params[name].data.double() for name in norm.params)
    tiny = 4 * torch.finfo(graph.params[norm.params[0]].data.dtype).eps
    wanted = (variance + norm.op.eps).sqrt()  # type: ignore[attr-defined]
    return torch.allclose(scale, wanted, rtol=tiny, atol=0) and torch.allclose(
        shift, mean, rtol=tiny, atol=0
    )


def apart(
    items: Iterable[_T], part: Callable[[_T], tuple[str, Collection[str]]], count: int = 0
) -> tuple[list[_T], list[Left]]:
    """The first `count` (0: all) of those that touch no nodes of another, and those left for it.

    `part` gives the name of an item and the nodes that it touches.
    """
    kept: list[_T] = []
    left: list[Left] = []
    touched: dict[str, str] = {}
    for item in items:
        if count and len(kept) == count:
            break
        name, own = part(item)
        other = next((touched[node] for node in own if node in touched), None)
        if other is None:
            kept.append(item)
            touched |= dict.fromkeys(own, name)
        else:
            left.append(Left(name, f"what is done at {other} touches it too: apply again"))
    return kept, left


__all__ = [
    "Block", "Bypass", "Removal", "apart", "block", "cell_bypass", "distance", "is_identity",
    "layer_bypass", "reader",
]  # fmt: skip
