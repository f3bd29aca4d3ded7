"""Channel spaces: one walk over the graph that finds which axes must change together, and why.

`analyse` asks each node's op for its axis rule; the rules unify layouts (layouts.py). `Space` is
what users and passes see of the result. Nothing here changes a graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from netir.axes import FREE, Axis, Rule, parse_rule
from netir.dims import Dim, divide
from netir.errors import NetirError
from netir.ir import Graph, Node, TensorType, leaves
from netir.layouts import Atom, Concat, Layout, atoms, concat, freeze, resolve, size_of, unify
from netir.layouts import show as show_layout

Shape = tuple[Layout, ...]
Derived = Layout | tuple[Layout | None, ...]

EXTENT = "an extent, not a channel"
NONE: Mapping[str, Any] = MappingProxyType({})
_ELEMENTWISE = tuple(f"{', '.join(['...'] * n)} -> ..." for n in range(8))


class Use(NamedTuple):
    """Where a space is read in a way that a change must undo or respect.

    `contract`: summed over against a parameter; `pair`: two activations summed over; `sum`:
    summed over with nothing to weigh it; `mix`: every result depends on all of it.
    """

    kind: str
    node: str
    layout: Layout
    slots: tuple[tuple[int, int], ...]


class Site:
    """What an op's axis rule sees: the node, the layouts of its operands, and the verbs."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._params = analysis.graph.params
        self.node: Node
        self.types: Mapping[str, TensorType] = analysis.graph.types

    def shape(self, position: int) -> Shape:
        """The layouts of an operand."""
        operand = self.node.operands[position]
        assert operand is not None
        return self._analysis.shape(operand)

    def type(self, position: int) -> TensorType:
        """The type of an operand."""
        operand = self.node.operands[position]
        assert operand is not None
        return self._analysis.graph.type_of(operand)

    def unify(self, left: Layout, right: Layout) -> None:
        """Demand that two axes have one layout; where that cannot be expressed, freeze both."""
        if left is not right and not unify(left, right):
            self.freeze(left, "two layouts meet that cannot be made one")
            self.freeze(right, "two layouts meet that cannot be made one")

    def freeze(self, layout: Layout, why: str) -> None:
        """Forbid every change of an axis."""
        if layout:
            freeze(layout, f"{self.node.name} ({self.node.op.name}): {why}")

    def use(self, kind: str, layout: Layout, *slots: tuple[int, int]) -> None:
        """Record a use that is not a plain carry; `slots` are (operand, axis) places."""
        if layout:
            self._analysis.uses.append(Use(kind, self.node.name, layout, slots))

    def derive(self, attribute: str, layout: Derived) -> None:
        """Tell that an attribute is the size of a layout, or a tuple of such sizes."""
        self._analysis.derived.setdefault(self.node.name, {})[attribute] = layout

    def extent(self, size: Dim) -> Layout:
        """An axis that never changes: positions, kernel taps."""
        return self._analysis.extent(size)

    def extents(self, result: int = 0) -> Shape:
        """A result whose axes cannot change."""
        return tuple(map(self.extent, self.node.types[result].shape))

    def fresh(self, size: Dim) -> Layout:
        """An axis that may change, of which nothing else is known yet."""
        return () if size == 1 else (Atom(size),)

    def elementwise(self) -> list[Shape]:
        """The rule of ops that broadcast: every axis is carried."""
        operands = self.node.operands
        if len(operands) == 1:
            return [self.shape(0)]
        return self.apply(_ELEMENTWISE[len(operands)])

    def apply(
        self,
        text: str,
        attributes: Mapping[str, str] = NONE,
        fixed: Mapping[str, Dim] = NONE,
    ) -> list[Shape]:
        """Apply an axis rule.

        `attributes` names letters whose size is an attribute, which follows when they change;
        `fixed` gives letters whose size is a number that cannot.
        """
        node, known, params = self.node, self._analysis.shapes, self._params
        operands = node.operands
        shapes = [None if o is None else known.get(o) for o in operands]
        ranks = [
            len(s) if s is not None else -1 if o is None else params[o[1:]].data.dim()
            for o, s in zip(operands, shapes, strict=True)
        ]
        rule = parse_rule(text, tuple(ranks))
        env: dict[Axis, Layout] = {c: self.extent(size) for c, size in fixed.items()}
        later: list[tuple[Axis, Layout]] = []
        for shape, axes in zip(shapes, rule.operands, strict=False):
            if shape is not None:
                self._read(axes, shape, env, later)
        for operand, shape, axes in zip(operands, shapes, rule.operands, strict=False):
            if shape is None and operand is not None:
                if operand in known:
                    self._read(axes, known[operand], env, later)
                else:
                    known[operand] = self._first_seen(params[operand[1:]].data, axes, env, later)
        sizes: Mapping[str, Dim] = NONE
        if attributes:
            sizes = {letter: getattr(node.op, name) for letter, name in attributes.items()}
        for block, layout in later:
            self._block(block, layout, env, sizes)
        for letter, attribute in attributes.items():
            self.derive(attribute, env[letter])
        if rule.roles:
            self._record(rule, env)
        return [self._result(i, axes, env, sizes) for i, axes in enumerate(rule.results)]

    def _read(
        self,
        axes: tuple[Axis, ...],
        shape: Shape,
        env: dict[Axis, Layout],
        later: list[tuple[Axis, Layout]],
    ) -> None:
        for axis, layout in zip(axes, shape, strict=True):
            if axis == FREE:
                if layout and (len(layout) > 1 or layout[0].__class__ is Concat or not layout[0].reason):
                    self.freeze(layout, "its positions are not channels")
            elif axis.__class__ is tuple:
                later.append((axis, layout))
            else:
                seen = env.get(axis)
                if seen is None or (not seen and axis.__class__ is int):
                    env[axis] = layout
                elif layout or axis.__class__ is str:
                    self.unify(seen, layout)

    def _first_seen(
        self,
        data: Tensor,
        axes: tuple[Axis, ...],
        env: dict[Axis, Layout],
        later: list[tuple[Axis, Layout]],
    ) -> Shape:
        """The layouts of a parameter that no node before has read: taken from the rule."""
        if len(axes) == 1:
            only = env.get(axes[0])
            if only and len(only) == 1 and only[0].size == data.numel():
                return (only,)
        shape: list[Layout] = []
        extents = self._analysis.extents
        for axis, size in zip(axes, data.shape, strict=True):
            if axis == FREE:
                shape.append(extents.get(size) or self.extent(size))
                continue
            seen = env.get(axis)
            if size == 1:
                layout: Layout = ()
            elif seen and (seen[0].size if len(seen) == 1 else size_of(seen)) == size:
                shape.append(seen)
                continue
            else:
                layout = (Atom(size),)
            if axis.__class__ is tuple:
                later.append((axis, layout))
            elif not seen and (seen is None or layout):
                env[axis] = layout
            shape.append(layout)
        return tuple(shape)

    def _block(
        self, block: Axis, layout: Layout, env: dict[Axis, Layout], sizes: Mapping[str, Dim]
    ) -> None:
        assert isinstance(block, tuple)
        total = size_of(layout)
        rest: Dim | None = total
        unknown = []
        for letter in block:
            size = size_of(env[letter]) if letter in env else sizes.get(letter)
            if size is None:
                unknown.append(letter)
            else:
                rest = divide(rest, size) if rest is not None else None
        if len(unknown) > 1 or rest is None:
            raise NetirError(f"the axis rule cannot divide {total} into {' '.join(block)}")
        for letter in block:
            if letter not in env:
                size = sizes.get(letter, rest)
                env[letter] = layout if size == total else self.fresh(size)
        self.unify(layout, self._joined(block, env))

    def _joined(self, block: tuple[str, ...], env: Mapping[Axis, Layout]) -> Layout:
        return sum((env[letter] for letter in block), ())

    def _record(self, rule: Rule, env: Mapping[Axis, Layout]) -> None:
        operands = self.node.operands
        for role in rule.roles:
            kind, slots = role.kind, role.slots
            layout = env.get(role.letter)
            if not layout:
                continue
            if kind == "pair":
                for position, _ in slots:
                    operand = operands[position]
                    if operand is not None and operand[0] == "@":
                        kind = "contract"
            self._analysis.uses.append(Use(kind, self.node.name, layout, slots))

    def _result(
        self, number: int, axes: tuple[Axis, ...], env: dict[Axis, Layout], sizes: Mapping[str, Dim]
    ) -> Shape:
        shape: list[Layout] = []
        extents = self._analysis.extents
        for axis, size in zip(axes, self.node.types[number].shape, strict=True):
            if axis == FREE:
                shape.append(extents.get(size) or self.extent(size))
            elif axis.__class__ is tuple:
                for letter in axis:  # type: ignore[union-attr]
                    if letter not in env:
                        env[letter] = self.fresh(sizes[letter])
                shape.append(self._joined(axis, env))  # type: ignore[arg-type]
            elif axis in env:
                shape.append(env[axis])
            else:
                env[axis] = self.fresh(sizes.get(axis, size))  # type: ignore[arg-type]
                shape.append(env[axis])
        return tuple(shape)


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
        members: dict[Atom, list[Member]] = {}
        for name in self.graph.params:
            for axis, layout in enumerate(self.shapes.get(f"@{name}", ())):
                found = resolve(layout)
                whole = len(found) == 1 and found[0].__class__ is Atom
                for atom in found if whole else dict.fromkeys(atoms(found)):
                    if atom.reason is not EXTENT:  # type: ignore[union-attr]
                        members.setdefault(atom, []).append(Member(name, axis, whole))  # type: ignore[arg-type]
        return tuple(self._named(members))

    def _named(self, members: Mapping[Atom, list[Member]]) -> Iterator[Space]:
        taken: dict[str, int] = {}
        for atom, axes in members.items():
            makers = [m for m in axes if not self.sums(m, atom)]
            name = self._space_name(max(makers or axes, key=self._telling), atom)
            taken[name] = taken.get(name, 0) + 1
            unique = name if taken[name] == 1 else f"{name}/{taken[name]}"
            yield Space(self, atom, unique, axes)

    def _telling(self, member: Member) -> tuple[bool, bool]:
        """What makes one member a better name for a space than another."""
        param = self.graph.params[member.param]
        matrix = param.data.dim() > 1 and param.kind == "param"
        return matrix, member.whole and member.axis == 0

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
    def values_of(self) -> Mapping[Atom, list[tuple[str, int]]]:
        found: dict[Atom, list[tuple[str, int]]] = {}
        for name in self.graph.types:
            for axis, layout in enumerate(self.shapes[name]):
                for atom in dict.fromkeys(atoms(layout)):
                    found.setdefault(atom, []).append((name, axis))
        return found


def analyse(graph: Graph) -> Analysis:
    """Find the layout of every axis of the graph."""
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

__all__ = ["Analysis", "Member", "Site", "Space", "Use", "analyse", "concat", "show_layout"]
