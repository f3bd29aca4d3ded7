"""Channel spaces: one walk over the graph that finds which axes must change together, and why.

`analyse` asks each node's op for its axis rule; the rules unify layouts (layouts.py). `Space` is
what users and passes see of the result. Nothing here changes a graph.
"""

from __future__ import annotations

import gc
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from netir.dims import Dim
from netir.errors import NetirError, blaming, first_line
from netir.ir import Graph, Node, leaves
from netir.layouts import Atom, Layout, atoms, freeze, resolve
from netir.site import EXTENT, Derived, Shape, Site, Use


class Member(NamedTuple):
    """A parameter axis that belongs to a space; `whole` if the space is all of that axis."""

    param: str
    axis: int
    whole: bool


class Space:
    """A set of axes that must change together: one atom of the analysis."""

    def __init__(self, analysis: Analysis, atom: Atom, layouts: list[Layout]) -> None:
        self._analysis = analysis
        self.layouts = layouts
        self.atom = atom

    @property
    def name(self) -> str:
        """The parameter that it is named after; with the axis and the part, where it is not all."""
        return self._analysis.names[self.atom]

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The parameter axes that it is part of, in the order of the parameters."""
        found = [
            (place, len(layout) == 1 and layout[0] is self.atom)
            for layout in self.layouts
            for place in self._analysis.axes[layout]
        ]
        if len(self.layouts) > 1:
            found.sort()
        return tuple(Member(name, axis, whole) for (_, name, axis), whole in found)

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


class Extents(dict[Dim, Layout]):
    """The layout of an axis that never changes, by its size: axes of one size share it."""

    def __missing__(self, size: Dim) -> Layout:
        found = self[size] = (Atom(size, EXTENT),)
        return found


class Analysis:
    """The layout of every axis of a graph, and what follows from it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes: dict[str, Shape] = {}
        self.uses: list[Use] = []
        self.contracted: dict[tuple[str, int], list[Layout]] = defaultdict(list)
        self.derived: dict[str, dict[str, Derived]] = {}
        self.extents = Extents({1: ()})
        self._atoms: dict[Layout, tuple[Atom, ...]] = {}

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
            layouts: dict[Atom, list[Layout]] = defaultdict(list)
            for layout in self.axes:
                for atom in self.atoms(layout):
                    layouts[atom].append(layout)
            channels = (atom for atom in layouts if atom.reason is not EXTENT)
            return tuple(Space(self, atom, layouts[atom]) for atom in channels)

    @cached_property
    def names(self) -> Mapping[Atom, str]:
        """What people call every space: made when first asked for, as an analysis needs none."""
        found: dict[Atom, str] = {}
        taken: Counter[str] = Counter()
        for space in self.spaces:
            name = self._space_name(self._most_telling(space), space.atom)
            taken[name] += 1
            found[space.atom] = name if taken[name] == 1 else f"{name}/{taken[name]}"
        return found

    @cached_property
    def axes(self) -> Mapping[Layout, list[tuple[int, str, int]]]:
        """The parameter axes of every layout: number and name of the parameter, and the axis."""
        by: dict[Layout, list[tuple[int, str, int]]] = defaultdict(list)
        for number, name in enumerate(self.graph.params):
            for axis, layout in enumerate(self.shapes.get("@" + name, ())):
                by[layout].append((number, name, axis))
        found: dict[Layout, list[tuple[int, str, int]]] = {}
        for layout, axes in by.items():
            known = found.setdefault(resolve(layout), axes)
            if known is not axes:
                known.extend(axes)
        for axes in found.values():
            axes.sort()
        return found

    def atoms(self, layout: Layout) -> tuple[Atom, ...]:
        """The different atoms of a layout; those of a long one are kept, as many axes have it."""
        only = layout[0] if len(layout) == 1 else None
        if isinstance(only, Atom) and only.bound is None:
            return (only,)
        found = self._atoms.get(layout)
        if found is None:
            found = self._atoms[layout] = tuple(dict.fromkeys(atoms(layout)))
        return found

    def _most_telling(self, space: Space) -> Member:
        """The member to name a space after: first of all the weight whose rows it is."""
        found = []
        for layout in space.layouts:
            whole = layout == (space.atom,)
            for number, name, axis in self.axes[layout]:
                member = Member(name, axis, whole)
                told = self._telling(member, space.atom)
                if told == 3:
                    return member
                found.append((-told, number, axis, member))
                if told == 2 and not whole:
                    break
        return min(found)[-1]

    def _telling(self, member: Member, atom: Atom) -> int:
        """From 3, for all rows of a weight, down to -2; 2 at most for a part of an axis."""
        param = self.graph.params[member.param]
        if param.kind == "const":  # netir adds constants
            return -2
        if self.sums(member, atom):
            return -1
        matrix = param.kind == "param" and param.data.dim() > 1
        return 2 * matrix + (member.whole and member.axis == 0)

    def _space_name(self, member: Member, atom: Atom) -> str:
        owner, _, last = member.param.rpartition(".")
        base = owner if last == "weight" and owner else member.param
        base = base if member.axis == 0 else f"{base}:{member.axis}"
        if member.whole:
            return base
        parts = self.atoms(self.shapes[f"@{member.param}"][member.axis])
        return f"{base}[{parts.index(atom)}]"

    def sums(self, member: Member, atom: Atom) -> bool:
        """Whether all that reads a parameter axis sums over this part of it."""
        layouts = self._summing(member.param, member.axis)
        return bool(layouts) and all(atom in self.atoms(layout) for layout in layouts)

    @cached_property
    def summed(self) -> Mapping[tuple[str, int], frozenset[Atom]]:
        """By parameter and axis: the atoms over which everything that reads it sums."""
        return {
            place: frozenset.intersection(*(frozenset(self.atoms(layout)) for layout in layouts))
            for place in self.contracted
            if (layouts := self._summing(*place))
        }

    def _summing(self, param: str, axis: int) -> Sequence[Layout]:
        """What sums over a parameter axis have, if there is nothing else that reads it."""
        layouts = self.contracted.get((param, axis), ())
        return layouts if layouts and len(layouts) >= self._reads["@" + param] else ()

    @cached_property
    def _reads(self) -> Counter[str | None]:
        """How often each operand is read."""
        nodes = self.graph.nodes.values()
        operands = chain.from_iterable(node.operands for node in nodes)
        return Counter(chain(operands, self.graph.outputs))

    @cached_property
    def uses_of(self) -> Mapping[Atom, list[Use]]:
        found: dict[Atom, list[Use]] = {}
        for use in self.uses:
            for atom in self.atoms(use.layout):
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
                for atom in self.atoms(layout):
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


def _untold(node: Node, error: Exception) -> NetirError:
    return NetirError(
        f"the axes of '{node.name}' cannot be told: {first_line(error)}",
        f"{node.name} = {node.op}",
        "its attributes do not fit its operands: trace or export the network again",
    )


def _walked(graph: Graph) -> Analysis:
    analysis = Analysis(graph)
    for name, kind in graph.inputs.items():
        reason = f"graph input '{name}'"
        analysis.shapes[name] = tuple(
            () if size == 1 else (Atom(size, reason),) for size in kind.shape
        )
    site = Site(analysis)
    shapes = analysis.shapes
    with blaming(lambda error: _untold(site.node, error)):
        for node in graph.nodes.values():
            site.node = node
            if len(node.types) == 1:
                (shapes[node.name],) = node.op.layouts(site)
            else:
                shapes.update(zip(node.results, node.op.layouts(site), strict=True))
    for leaf in leaves(graph.output):
        for layout in analysis.shape(leaf.name):
            freeze(layout, "graph output")
    return analysis
