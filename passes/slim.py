"""Slim: fewer hidden units, in the directions in which their weights are largest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from netir.basis import Basis, Contract, linear, nonlinear
from netir.calibration import Calibration
from netir.change import Rewritten, change_basis
from netir.edit import Edit
from netir.errors import NetirError
from netir.ir import Graph, Node
from netir.kernels.svd import singular
from netir.layout_moves import LayoutMoves
from netir.layouts import Atom, atoms
from netir.moves import Moves
from netir.ops.base import Op
from netir.passes.layers.activations import activates, drops, stands
from netir.passes.layers.lowrank import Amount, gain, reach, rounding
from netir.passes.merge import (
    FLOATS,
    Layer,
    layer_of,
    merged_bias,
    merged_op,
    merged_weight,
    new_bias,
    pads,
    weights_of,
)
from netir.passes.scores.members import positions
from netir.site import Use
from netir.spaces import Member, Space
from netir.width import Planned, WidthPass


@dataclass(frozen=True)
class Slim(WidthPass):
    """Remove hidden units by the singular values of what makes them (Schiessler et al. 2021).

    With A the weights that make a space, B those that read it and V the first right singular
    vectors of A, `y = (x A + a) B + b` becomes `y = (x A V + a V) V'B + b + a (I - V V') B`: the
    best change of A of its rank, and exact from the rank of A on. How many are kept is a `rank`, a
    `ratio` of the full rank, a share `energy` of the squared singular values, or what keeps the
    relative spectral error of A within `error`; 0.9 of the energy if none is given.

    All that stands between must be linear. Where two layers follow each other directly the error
    has a certified bound, unless the spaces on either side change at the same time. With
    `through_activations` an activation may stand between, which the formula ignores: the function
    changes, less so if a calibration tells for each unit on which side of zero it mostly is.
    """

    name: ClassVar[str] = "slim"
    preserves: ClassVar[Contract] = Contract.CHANGED
    rank: int | None = None
    ratio: float | None = None
    energy: float | None = None
    error: float | None = None
    through_activations: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.amount

    @property
    def amount(self) -> Amount:
        """How much is kept of every space."""
        return Amount(self.rank, self.ratio, self.energy, self.error).checked(self.name)

    def bases(
        self, graph: Graph, spaces: Sequence[Space], calibration: Calibration | None
    ) -> Mapping[str, Basis | str]:
        found = {space.name: self.basis(graph, space) for space in spaces}
        chosen = {s: b for s in spaces if isinstance(b := found[s.name], Basis)}
        if calibration is not None:
            chosen = dict(_turned(graph, chosen, calibration))
        changing = {space.atom for space in chosen}
        for space, basis in chosen.items():
            links = [] if basis.across else _links(graph, space)
            certain = bool(links) and all(link.certain(graph, changing) for link in links)
            found[space.name] = replace(basis, keeps=Contract.BOUNDED) if certain else basis
        return found

    def basis(self, graph: Graph, space: Space) -> Basis | str:
        why = self._unfit(graph, space)
        if why:
            return why
        folded = bool(_links(graph, space))
        matrix = torch.cat([
            _rows(graph, space, m) for m in space.producers
            if not folded or graph.params[m.param].data.dim() > 1
        ], 1)  # fmt: skip
        vectors, values, _ = singular(matrix)
        rank = self.amount.of(values)
        if rank >= space.size:
            return f"all {space.size} are needed"
        kept = vectors[:, :rank].cpu()
        basis = linear(kept.mT, kept, across=bool(nonlinear(graph.analysis, space)))
        return _immovable(graph, space, basis) or basis

    def _unfit(self, graph: Graph, space: Space) -> str:
        """Why a space cannot take any basis; empty if it can."""
        for member in space.producers:
            for node, slot in graph.users[f"@{member.param}"]:
                if node.op.name not in _MAKERS or slot not in (1, 2):
                    return f"{member.param} is part of it, in a {node.op.name}"
        for member in space.members:
            data = graph.params[member.param].data
            if data.dtype not in FLOATS or not bool(torch.isfinite(data).all()):
                return "its weights are not finite"
        for use in space.uses:
            if use.kind != "contract" or not _weighed(graph, space, use):
                return f"{use.node} reads it in another way than by weights"
        bent = nonlinear(graph.analysis, space)
        hard = [n for n in bent if not activates(graph.nodes[n])]
        if hard:
            return f"{hard[0]} works on it and is not linear"
        if bent and not self.through_activations:
            return f"{bent[0]} bends it: through_activations=True ignores that"
        return "" if space.uses else "nothing reads it"

    def rewrite(
        self, graph: Graph, planned: Planned, calibration: Calibration | None
    ) -> tuple[Rewritten, Contract]:
        links = [(link, basis) for space, basis in planned for link in _links(graph, space)]
        folded, added = _folded(graph, links)
        done = change_basis(folded, {space.name: basis for space, basis in planned})
        bounds = {
            link.reader.name: link.bound(graph, done.graph)
            for link, basis in links if basis.keeps is Contract.BOUNDED
        }  # fmt: skip
        params = {n: move for n, move in done.moves.params.items() if n in graph.params}
        added = (*added, *done.moves.added)
        moves = Moves(params, done.moves.values, added, bounds=bounds)
        return Rewritten(done.graph, moves), Contract.EXACT


_MAKERS = frozenset({"linear", "conv", "conv_transpose"})


def _rows(graph: Graph, space: Space, member: Member) -> Tensor:
    """The entries of a parameter that make each index of a space: a row for each, in float64."""
    layout = graph.analysis.shape(f"@{member.param}")[member.axis]
    data = graph.params[member.param].data.detach()
    index = positions(layout, space.atom).to(data.device)
    return data.movedim(member.axis, 0)[index].flatten(1).double()


def _immovable(graph: Graph, space: Space, basis: Basis) -> str:
    """Why some axis cannot be moved by a matrix; empty if all can."""
    moves, shape = LayoutMoves({space.atom: basis}), graph.analysis.shape
    axes = [*((f"@{m.param}", m.axis) for m in space.members), *space.values]
    try:
        for operand, axis in axes:
            moves.of(shape(operand)[axis])
    except NetirError as error:
        return error.what
    return ""


def _weighed(graph: Graph, space: Space, use: Use) -> bool:
    """Whether a use sums over a space with a weight that nothing else reads in another way."""
    operands = graph.nodes[use.node].operands
    places = [((operands[slot] or "")[1:], axis) for slot, axis in use.slots]
    return any(space.atom in graph.analysis.summed.get(place, ()) for place in places)


@dataclass(frozen=True)
class Link:
    """A layer that makes a space and one that reads it, with nothing or activations in between."""

    maker: Node
    reader: Node

    def certain(self, graph: Graph, changing: set[Atom]) -> bool:
        """Whether the error has a bound: the two are one layer, and around them nothing changes."""
        around = (self.maker.operands[0], *self.reader.results)
        shapes = [graph.analysis.shape(value) for value in around if value is not None]
        touched = {atom for shape in shapes for layout in shape for atom in atoms(layout)}
        return touched.isdisjoint(changing) and isinstance(merged_op(*self._layers(graph)), Op)

    def bound(self, before: Graph, after: Graph) -> float:
        """How far the two may be off together, as a multiple of the norm of what they read."""
        op = merged_op(*self._layers(before))
        assert isinstance(op, Op)
        lost, products = 0.0, []
        for first, second in map(self._layers, (before, after)):
            lost += rounding(first.weight, second.weight)
            products.append(merged_weight(first.weight, second.weight))
        difference = Layer(op, products[0] - products[1])
        return gain(difference) + lost * sqrt(reach(difference))

    def _layers(self, graph: Graph) -> tuple[Layer, Layer]:
        """Both layers without their biases."""
        first, second = (
            Layer(n.op, graph.params[weights_of(n)[0]].data) for n in (self.maker, self.reader)
        )
        return first, second


def _links(graph: Graph, space: Space) -> list[Link]:
    """Every reader with the layer before it, if for each there is one; none otherwise.

    Between the two a constant must stay what it is, for what the bias loses to be made up for.
    """
    found = []
    for use in space.uses:
        reader = graph.nodes[use.node]
        maker = _maker(graph, reader.operands[0])
        if maker is None:
            return []
        first, second = layer_of(graph, maker), layer_of(graph, reader)
        if isinstance(first, str) or isinstance(second, str):
            return []
        ends = (maker.operands[1], 0), (reader.operands[1], 1)
        axes = (graph.analysis.resolved(weight or "")[axis] for weight, axis in ends)
        lost = first.bias is not None and bool(first.bias.any()) and pads(second)
        if lost or first.groups * second.groups > 1 or any(a != (space.atom,) for a in axes):
            return []
        found.append(Link(maker, reader))
    return found


def _maker(graph: Graph, value: str | None) -> Node | None:
    """The layer before a value, past what changes no constant but by an activation."""
    node = graph.producers.get(value or "")
    while node is not None and (stands(node) or drops(node) or activates(node)):
        node = graph.producers.get(node.operands[0] or "")
    return node if node is not None and node.op.name in _MAKERS else None


def _folded(
    graph: Graph, links: Iterable[tuple[Link, Basis]]
) -> tuple[Graph, tuple[str, ...]]:
    """The graph with what its biases lose added to the next ones, and the biases that are new."""
    order = {name: place for place, name in enumerate(graph.nodes)}
    biases: dict[str, Tensor] = {}
    with graph.edit() as edit:
        for link, basis in sorted(links, key=lambda item: order[item[0].maker.name]):
            bias = biases.get(link.maker.name, _bias(graph, link.maker))
            if bias is None or basis.into is None or basis.back is None:
                continue
            into, back = basis.into.to(bias.device), basis.back.to(bias.device)
            lost = bias.double() - back @ (into @ bias.double())
            if float(lost.norm()) > 1e-14 * float(bias.norm()):
                weight = graph.params[weights_of(link.reader)[0]].data
                added, old = merged_bias(lost, weight), _bias(graph, link.reader)
                old = biases.get(link.reader.name, old)
                biases[link.reader.name] = added if old is None else added + old.double()
        for name, bias in biases.items():
            _set_bias(edit, graph.nodes[name], bias)
    return edit.graph, edit.moves.added


def _bias(graph: Graph, node: Node) -> Tensor | None:
    _, *rest = weights_of(node)
    return graph.params[rest[0]].data if rest else None


def _set_bias(edit: Edit, node: Node, bias: Tensor) -> None:
    weight, *rest = weights_of(node)
    bias = bias.to(edit.before.params[weight].data.dtype)
    if rest:
        edit.set_param(rest[0], bias)
    else:
        edit.set_operands(node.name, (*node.operands[:2], new_bias(edit, weight, bias)))


def _turned(
    graph: Graph, chosen: Mapping[Space, Basis], calibration: Calibration
) -> Iterator[tuple[Space, Basis]]:
    """Each new unit with the sign that makes it positive on average, where an activation follows.

    A singular vector may as well be its negative; ReLU would drop one or the other.
    """
    bent = {space for space, basis in chosen.items() if basis.across}
    made = {space: _made(graph, space) for space in bent}
    wanted = {value for places in made.values() for value, _ in places}
    means: dict[Space, Tensor] = {}
    for values in calibration.values(graph, wanted) if wanted else ():
        for space, places in made.items():
            for value, axis in places:
                index = positions(graph.analysis.shape(value)[axis], space.atom)
                mean = values[value].double().movedim(axis, -1).flatten(0, -2).mean(0).cpu()
                means[space] = means.get(space, 0) + mean[index].mean(1)
    for space, basis in chosen.items():
        if space in means and basis.into is not None and basis.back is not None:
            sign = 1 - 2 * (basis.into @ means[space] < 0).double()
            basis = linear(basis.into * sign[:, None], basis.back * sign, across=True)
        yield space, basis


def _made(graph: Graph, space: Space) -> list[tuple[str, int]]:
    """The values that the weights of a space make, and its axis there."""
    users = (graph.users[f"@{member.param}"] for member in space.producers)
    results = {node.results[0] for uses in users for node, slot in uses if slot == 1}
    return [(value, axis) for value, axis in space.values if value in results]


__all__ = ["Slim"]
