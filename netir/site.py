"""What an op's axis rule sees of the graph, and the verbs by which it tells about its axes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from netir.axes import FREE, Axis, Rule, parse_rule
from netir.dims import Dim, divide
from netir.errors import NetirError
from netir.ir import Node, TensorType
from netir.layouts import Atom, Layout, freeze, size_of, unify

if TYPE_CHECKING:
    from netir.spaces import Analysis

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
        extents = self._analysis.extents
        for axis, layout in zip(axes, shape, strict=True):
            if axis == FREE:
                if layout and layout is not extents.get(size_of(layout)):
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
            elif isinstance(axis, tuple):
                for letter in axis:
                    if letter not in env:
                        env[letter] = self.fresh(sizes[letter])
                shape.append(self._joined(axis, env))
            elif axis in env:
                shape.append(env[axis])
            else:
                env[axis] = self.fresh(sizes.get(str(axis), size))
                shape.append(env[axis])
        return tuple(shape)
