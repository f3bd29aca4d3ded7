"""Channel spaces: one walk over the graph that finds which axes must change together, and why.

`analyse` asks each node's op for its axis rule; the rules unify layouts (layouts.py). `Space` is
what users and passes see of the result. Nothing here changes a graph.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

from netir.dims import Dim
from netir.ir import Graph, leaves
from netir.layouts import Atom, Layout, atoms, freeze, resolve
from netir.site import EXTENT, Derived, Shape, Site, Use


class Member(NamedTuple):
    """A parameter axis that belongs to a space; `whole` if the space is all of that axis."""

    param: str
    axis: int
    whole: bool


class Space:
    """A set of axes that must change together: one atom of the analysis."""

    def __init__(self, analysis: Analysis, atom: Atom, name: str, members: list[Member]) -> None:
        self._analysis = analysis
        self.atom = atom
        self.name = name
        self.members = tuple(members)

    @property
    def size(self) -> int:
        assert isinstance(self.atom.size, int)
        return self.atom.size

    @property
    def reason(self) -> str:
        """Why it cannot change; empty for a free space."""
        return self.atom.reason or ""

    @property
    def frozen(self) -> bool:
        return self.atom.reason is not None

    @property
    def uses(self) -> tuple[Use, ...]:
        """What reads it other than index for index."""
        return tuple(self._analysis.uses_of.get(self.atom, ()))

    @property
    def values(self) -> tuple[tuple[str, int], ...]:
        """The axes of activations that it is part of."""
        return tuple(self._analysis.values_of.get(self.atom, ()))

    @property
    def producers(self) -> tuple[Member, ...]:
        """The parameter axes that make it: they are carried to a result, not summed over."""
        return tuple(m for m in self.members if not self._analysis.sums(m, self.atom))

    @property
    def uniform(self) -> bool:
        """Whether copying is exact only if every index has equally many copies."""
        return any(use.kind == "mix" for use in self.uses)

    def __repr__(self) -> str:
        state = f"frozen: {self.reason}" if self.frozen else "free"
        return f"<Space {self.name}: {self.size}, {state}>"


class Analysis:
    """The layout of every axis of a graph, and what follows from it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes: dict[str, Shape] = {}
        self.uses: list[Use] = []
        self.derived: dict[str, dict[str, Derived]] = {}
        self.extents: dict[Dim, Layout] = {1: ()}

    def extent(self, size: Dim) -> Layout:
        """The layout of an axis that never changes; axes of one size share it."""
        found = self.extents.get(size)
        if found is None:
            found = self.extents[size] = (Atom(size, EXTENT),)
        return found

    def shape(self, operand: str) -> Shape:
        """The layouts of a value's or an `@parameter`'s axes."""
        found = self.shapes.get(operand)
        if found is None:
            size = self.graph.params[operand[1:]].data.shape
            found = self.shapes[operand] = tuple(() if s == 1 else (Atom(s),) for s in size)
        return found

    def resolved(self, operand: str) -> Shape:
        """The same, fully resolved: for use once the walk is over."""
        return tuple(resolve(layout) for layout in self.shape(operand))

    @cached_property
    def spaces(self) -> tuple[Space, ...]:
        """Every space that has a parameter axis, in the order of the parameters."""
        with _uncollected():
            return tuple(self._named(self._members()))

    def _members(self) -> dict[Atom, list[Member]]:
        """The parameter axes of every atom, but for those that are extents."""
        members: dict[Atom, list[Member]] = {}
        parts: dict[Layout, tuple[Atom, ...]] = {}
        for name in self.graph.params:
            for axis, layout in enumerate(self.shapes.get("@" + name, ())):
                found = resolve(layout)
                if len(found) == 1 and isinstance(only := found[0], Atom):
                    if only.reason is not EXTENT:
                        members.setdefault(only, []).append(Member(name, axis, True))
                    continue
                if found not in parts:
                    different = dict.fromkeys(atoms(found))
                    parts[found] = tuple(a for a in different if a.reason is not EXTENT)
                for atom in parts[found]:
                    members.setdefault(atom, []).append(Member(name, axis, False))
        return members

    def _named(self, members: Mapping[Atom, list[Member]]) -> Iterator[Space]:
        taken: dict[str, int] = {}
        for atom, axes in members.items():
            name = self._space_name(self._most_telling(axes, atom), atom)
            taken[name] = taken.get(name, 0) + 1
            unique = name if taken[name] == 1 else f"{name}/{taken[name]}"
            yield Space(self, atom, unique, axes)

    def _most_telling(self, members: list[Member], atom: Atom) -> Member:
        """The member to name a space after: first of all the weight whose rows it is."""
        best, most = members[0], -3
        for member in members:
            lasting = self.graph.params[member.param].kind != "const"  # netir adds constants
            summed = self.sums(member, atom)
            telling = -2 if not lasting else -1 if summed else self._telling(member)
            if telling > most:
                best, most = member, telling
            if most == 3:
                break
        return best

    def _telling(self, member: Member) -> int:
        param = self.graph.params[member.param]
        matrix = param.kind == "param" and param.data.dim() > 1
        return 2 * matrix + (member.whole and member.axis == 0)

    def _space_name(self, member: Member, atom: Atom) -> str:
        owner, _, last = member.param.rpartition(".")
        base = owner if last == "weight" and owner else member.param
        base = base if member.axis == 0 else f"{base}:{member.axis}"
        if member.whole:
            return base
        parts = list(dict.fromkeys(atoms(self.shapes[f"@{member.param}"][member.axis])))
        return f"{base}[{parts.index(atom)}]"

    def sums(self, member: Member, atom: Atom) -> bool:
        """Whether all that reads a parameter axis sums over this part of it."""
        return atom in self.summed.get((member.param, member.axis), ())

    @cached_property
    def summed(self) -> Mapping[tuple[str, int], frozenset[Atom]]:
        """By parameter and axis: the atoms over which everything that reads it sums."""
        nodes = self.graph.nodes
        found: dict[tuple[str, int], list[Layout]] = {}
        for use in self.uses:
            if use.kind == "contract":
                for position, axis in use.slots:
                    operand = nodes[use.node].operands[position]
                    if operand is not None and operand[0] == "@":
                        found.setdefault((operand[1:], axis), []).append(use.layout)
        reads = Counter(o for node in nodes.values() for o in node.operands)
        reads.update(self.graph.outputs)
        return {
            key: frozenset.intersection(*(frozenset(atoms(layout)) for layout in layouts))
            for key, layouts in found.items()
            if len(layouts) >= reads[f"@{key[0]}"]
        }

    @cached_property
    def uses_of(self) -> Mapping[Atom, list[Use]]:
        found: dict[Atom, list[Use]] = {}
        for use in self.uses:
            for atom in dict.fromkeys(atoms(use.layout)):
                found.setdefault(atom, []).append(use)
        return found

    @cached_property
    def uses_at(self) -> Mapping[str, list[Use]]:
        """The uses by the node that they belong to."""
        found: dict[str, list[Use]] = {}
        for use in self.uses:
            found.setdefault(use.node, []).append(use)
        return found

    @cached_property
    def values_of(self) -> Mapping[Atom, list[tuple[str, int]]]:
        found: dict[Atom, list[tuple[str, int]]] = {}
        for name in self.graph.types:
            for axis, layout in enumerate(self.shapes[name]):
                for atom in dict.fromkeys(atoms(layout)):
                    found.setdefault(atom, []).append((name, axis))
        return found


def analyse(graph: Graph) -> Analysis:
    """Find the layout of every axis of the graph."""
    with _uncollected():
        return _walked(graph)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Put garbage collection off: the walk makes many objects, and all of them live on."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _walked(graph: Graph) -> Analysis:
    analysis = Analysis(graph)
    for name, kind in graph.inputs.items():
        reason = f"graph input '{name}'"
        analysis.shapes[name] = tuple(
            () if size == 1 else (Atom(size, reason),) for size in kind.shape
        )
    site = Site(analysis)
    shapes = analysis.shapes
    for node in graph.nodes.values():
        site.node = node
        for result, shape in zip(node.results, node.op.layouts(site), strict=True):
            shapes[result] = shape
    for leaf in leaves(graph.output):
        for layout in analysis.shape(leaf.name):
            freeze(layout, "graph output")
    return analysis
