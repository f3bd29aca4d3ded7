"""A channel space seen as a hidden layer: what makes its indices, what reads them, where they show.

Makers are products of windows with a weight whose rows are the space's; readers are products that
sum over the space. Any other weight that has the space only carries it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from netir.ir import Graph, Node
from netir.layouts import Atom, atoms, resolve
from netir.passes.compensation.consumers import Consumer, summing
from netir.passes.scores.activity import reading_places
from netir.passes.scores.members import positions
from netir.spaces import Member, Space


@dataclass(frozen=True, eq=False)
class Hidden:
    """A space, the products that make and read it, and the activations in which it is read."""

    graph: Graph
    space: Space
    makers: tuple[Consumer, ...]
    readers: tuple[Consumer, ...]
    carriers: tuple[Member, ...]
    """Parameters that neither sum into the space nor over it, such as a depthwise kernel."""
    value: str
    """The activations that the first reader reads; empty where nothing reads any."""
    axis: int
    _found: dict[tuple[str, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def plain(self) -> bool:
        """Whether the activations have just one entry for each index, in order, on their axis."""
        places = self.entries(self.value, self.axis)
        shape = self.graph.analysis.shape(self.value)[self.axis]
        return resolve(shape) == (self.space.atom,) and places.shape[1] == 1

    @property
    def width(self) -> int:
        return self.space.size

    def entries(self, operand: str, axis: int) -> Tensor:
        """The entries of an operand's axis that belong to each index: a row for each."""
        key = operand, axis
        if key not in self._found:
            layout = self.graph.analysis.shape(operand)[axis]
            self._found[key] = positions(layout, self.space.atom)
        return self._found[key]

    def rows(self, maker: Consumer) -> Tensor:
        """The weights of each index: indices x entries of one x what they read, in float64."""
        axis = row_axis(maker)
        return self._taken(maker.weight, axis)

    def columns(self, reader: Consumer) -> Tensor:
        """The weights that read each index: indices x entries of one x what they make."""
        return self._taken(reader.weight, reader.weight_axis)

    def row_shape(self, maker: Consumer) -> tuple[int, ...]:
        """The shape of the weights of one index."""
        return self._shape(maker.weight, row_axis(maker))

    def column_shape(self, reader: Consumer) -> tuple[int, ...]:
        """The shape of the weights that read one index."""
        return self._shape(reader.weight, reader.weight_axis)

    def _shape(self, weight: str, axis: int) -> tuple[int, ...]:
        shape = self.graph.params[weight].data.shape
        rest = [size for other, size in enumerate(shape) if other != axis]
        return self.entries(f"@{weight}", axis).shape[1], *rest

    def _taken(self, weight: str, axis: int) -> Tensor:
        data = self.graph.params[weight].data.detach().to(torch.float64).movedim(axis, 0)
        return data[self.entries(f"@{weight}", axis).to(data.device)]


def row_axis(maker: Consumer) -> int:
    """The axis of a product's weight along which its results stand."""
    return 1 - maker.weight_axis


def hidden(graph: Graph, space: Space) -> Hidden:
    """What makes and reads a space."""
    makers: dict[str, Consumer] = {}
    carriers: list[Member] = []
    for member in space.producers:
        found = [m for node in _users(graph, member.param)
                 if (m := _maker(graph, node, member, space.atom)) is not None]  # fmt: skip
        makers |= {m.node.name: m for m in found}
        if not found:
            carriers.append(member)
    nodes = dict.fromkeys(use.node for use in space.uses if use.kind == "contract")
    readers = [r for name in nodes if (r := _reader(graph, graph.nodes[name], space.atom))]
    places = reading_places(graph, space)
    read = [(r.x, a) for r in readers for a in _axes(graph, r.x, space.atom)]
    value, axis = next(iter([*read, *places]), ("", 0))
    made = tuple(makers.values())
    return Hidden(graph, space, made, tuple(readers), tuple(carriers), value, axis)


def _users(graph: Graph, param: str) -> list[Node]:
    return [node for node, _ in graph.users.get(f"@{param}", ())]


def _maker(graph: Graph, node: Node, member: Member, atom: Atom) -> Consumer | None:
    """The node as a product whose rows are the space's, and that does not read the space too."""
    found = summing(graph, node)
    if found is None or found.weight != member.param or member.axis != row_axis(found):
        return None
    return None if found.groups > 1 and _axes(graph, found.x, atom) else found


def _reader(graph: Graph, node: Node, atom: Atom) -> Consumer | None:
    found = summing(graph, node)
    if found is None:
        return None
    layout = graph.analysis.shape(f"@{found.weight}")[found.weight_axis]
    return found if atom in set(atoms(layout)) else None


def _axes(graph: Graph, value: str, atom: Atom) -> list[int]:
    shape = graph.analysis.shape(value)
    return [axis for axis, layout in enumerate(shape) if atom in set(atoms(layout))]


__all__ = ["Hidden", "hidden", "row_axis"]
