"""What the indices of a space are: plain units, attention heads, the size of a head, or groups.

Nothing is read off names or off one op: where two activations meet, the axes that both carry along
are heads, and what a parameter makes beside heads is the size of one. Blocks that an op counts in
an attribute, as a grouped convolution does, are groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain
from typing import Literal, get_args

from netir.ir import Graph
from netir.layouts import Atom, Concat, Layout, atoms, resolve
from netir.site import Use
from netir.spaces import Space

Kind = Literal["any", "units", "heads", "head_size", "groups"]
KINDS: tuple[str, ...] = get_args(Kind)


class Kinds:
    """The kinds of a graph's spaces."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._analysis = graph.analysis

    def of(self, space: Space) -> str:
        """The kind of a space; of what is several, the first of heads, head size and groups."""
        if space.atom in self._heads:
            return "heads"
        factors, along = self._beside(space)
        if (factors | along) & self._heads:
            return "head_size"
        return "groups" if factors and space.atom in self._blocks else "units"

    @cached_property
    def _heads(self) -> frozenset[Atom]:
        pairs = (use for use in self._analysis.uses if use.kind == "pair")
        return frozenset(chain.from_iterable(map(self._carried, pairs)))

    def _carried(self, use: Use) -> set[Atom]:
        """The atoms that a product of two activations takes along, once in both and in the result.

        Queries that share a head of keys are part of an axis that has such an atom.
        """
        node = self._graph.nodes[use.node]
        operands = [node.operands[position] for position, _ in use.slots]
        sides = [
            [_free(layout) for axis, layout in enumerate(self._shape(o)) if axis != summed]
            for o, (_, summed) in zip(operands, use.slots, strict=True)
        ]
        result = [a for layout in self._shape(node.results[0]) for a in _free(layout)]
        shared = set.intersection(*(set(chain.from_iterable(side)) for side in sides))
        shared = {atom for atom in shared if result.count(atom) == 1}
        axes = [set(axis) for side in sides for axis in side]
        return set().union(*(axis for axis in axes if axis & shared))

    def _shape(self, operand: str | None) -> Iterable[Layout]:
        return () if operand is None else self._analysis.shape(operand)

    def _beside(self, space: Space) -> tuple[set[Atom], set[Atom]]:
        """What else makes the parameters of a space: on the same axis, and on others."""
        factors: set[Atom] = set()
        along: set[Atom] = set()
        for member in space.producers:
            for axis, layout in enumerate(self._analysis.shape(f"@{member.param}")):
                if axis == member.axis:
                    factors.update(_factors(layout, space.atom))
                else:
                    summed = self._analysis.summed.get((member.param, axis), ())
                    along.update(atom for atom in _free(layout) if atom not in summed)
        return factors, along

    @cached_property
    def _blocks(self) -> frozenset[Atom]:
        """What ops count in an attribute, where an axis has more in it than these blocks."""
        found: set[Atom] = set()
        for name, attributes in self._analysis.derived.items():
            node = self._graph.nodes[name]
            axes = [resolve(s) for o in node.operands for s in self._shape(o)]
            for attribute in set(attributes) & set(node.op.letters.values()):
                block = resolve(attributes[attribute])  # type: ignore[arg-type]
                if any(len(axis) > len(block) and axis[: len(block)] == block for axis in axes):
                    found.update(_free(block))
        return frozenset(found)


def _free(layout: Layout) -> list[Atom]:
    return [atom for atom in atoms(layout) if atom.reason is None]


def _factors(layout: Layout, atom: Atom) -> Iterator[Atom]:
    """The other factors of the products that an atom is part of; not what is laid beside it."""
    terms = resolve(layout)
    for place, term in enumerate(terms):
        parts = term.parts if isinstance(term, Concat) else ()
        inside = [part for part in parts if atom in set(atoms(part))]
        if term is atom or inside:
            yield from _free(terms[:place] + terms[place + 1 :])
        for part in inside:
            yield from _factors(part, atom)


__all__ = ["KINDS", "Kind", "Kinds"]
