"""What an op's axis rule sees of the graph, and the verbs by which it tells about its axes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from netir.axes import FREE, Role, Rule, parse_rule
from netir.dims import Dim, divide
from netir.errors import NetirError
from netir.ir import Node, TensorType
from netir.layouts import Atom, Layout, freeze, outline, size_of, unify

if TYPE_CHECKING:
    from netir.spaces import Analysis

Shape = tuple[Layout, ...]
Derived = Layout | tuple[Layout | None, ...]
Place = tuple[int, int]
"""An operand and one of its axes."""

EXTENT = "an extent, not a channel"
NONE: Mapping[str, Any] = MappingProxyType({})
_ELEMENTWISE = tuple(f"{', '.join(['...'] * n)} -> ..." for n in range(8))


Row = list[Any]
"""The layouts that the letters and blocks of a rule turn out to have, by number; at first None."""


class Use(NamedTuple):
    """Where a space is read in a way that a change must undo or respect.

    `contract`: summed over against a parameter; `pair`: two activations summed over; `sum`:
    summed over with nothing to weigh it; `mix`: every result depends on all of it.
    """

    kind: str
    node: str
    layout: Layout
    slots: tuple[Place, ...]


class Site:
    """What an op's axis rule sees: the node, the layouts of its operands, and the verbs."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._shapes = analysis.shapes
        self._extents = analysis.extents
        self._params = analysis.graph.params
        self.node: Node

    def shape(self, position: int) -> Shape:
        """The layouts of an operand."""
        operand = self.node.operands[position]
        assert operand is not None
        return self._analysis.shape(operand)

    def shapes(self) -> list[Shape]:
        """The layouts of all operands, where none is left out."""
        known, shape = self._shapes, self._analysis.shape
        return [known.get(operand) or shape(operand) for operand in self.node.operands if operand]

    def type(self, position: int) -> TensorType:
        """The type of an operand."""
        operand = self.node.operands[position]
        assert operand is not None
        return self._analysis.graph.type_of(operand)

    def unify(self, left: Layout, right: Layout) -> None:
        """Demand that two axes have one layout; where that cannot be expressed, freeze both."""
        if left is not right and not unify(left, right):
            met = f"{outline(left)} and {outline(right)}"
            self.freeze(left + right, f"two layouts meet that cannot be made one: {met}")

    def freeze(self, layout: Layout, why: str) -> None:
        """Forbid every change of an axis."""
        if layout:
            freeze(layout, f"{self.node.name} ({self.node.op.name}): {why}")

    def use(self, kind: str, layout: Layout, *slots: Place) -> None:
        """Record a use that is not a plain carry; `slots` are (operand, axis) places."""
        if layout:
            self._analysis.uses.append(Use(kind, self.node.name, layout, slots))
            if kind == "contract":
                self._contract(layout, slots)

    def _contract(self, layout: Layout, slots: tuple[Place, ...]) -> bool:
        """Whether parameters have a part in a sum; their axes are remembered."""
        operands, found = self.node.operands, False
        for position, axis in slots:
            operand = operands[position]
            if operand is not None and operand[0] == "@":
                self._analysis.contracted[operand[1:], axis].append(layout)
                found = True
        return found

    def derive(self, attribute: str, layout: Derived) -> None:
        """Tell that an attribute is the size of a layout, or a tuple of such sizes."""
        self._analysis.derived.setdefault(self.node.name, {})[attribute] = layout

    def extent(self, size: Dim) -> Layout:
        """An axis that never changes: positions, kernel taps."""
        return self._extents[size]

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
        `fixed` gives letters whose size is a number that cannot. What values say of a letter is
        read first; a parameter that no node before has read then takes its layouts from that.
        """
        rule, shapes = self._rule(text)
        row: Row = [None] * len(rule.numbers)
        if fixed:
            for letter, size in fixed.items():
                row[rule.numbers[letter]] = self.extent(size)
        self._read(rule, shapes, row)
        self._make(rule, shapes, row)
        if rule.blocks or attributes:
            self._divide(rule, row, attributes)
        for role in rule.roles:
            self._record(role, row)
        types = self.node.types
        return [self._result(axes, types[i].shape, row) for i, axes in enumerate(rule.results)]

    def _rule(self, text: str) -> tuple[Rule, list[Any]]:
        """A rule, and what is known of each operand: its layouts, or the sizes of a new one."""
        known = self._shapes
        shapes: list[Any] = []
        ranks, new = [], []
        for position, operand in enumerate(self.node.operands):
            shape: Any = None
            if operand is not None:
                shape = known.get(operand)
                if shape is None:
                    shape = self._params[operand[1:]].data.shape
                    new.append(position)
            shapes.append(shape)
            ranks.append(-1 if shape is None else len(shape))
        return parse_rule(text, tuple(ranks), tuple(new)), shapes

    def _read(self, rule: Rule, shapes: list[Any], row: Row) -> None:
        """What the operands that are known say of each letter."""
        dots, extents = rule.dots, self._extents
        for position, axis, number in rule.reads:
            layout, seen = shapes[position][axis], row[number]
            if seen is None or (not seen and number < dots):
                row[number] = layout
            elif seen is not layout and (layout or number >= dots):
                self.unify(seen, layout)
        for position, axis in rule.free:
            layout = shapes[position][axis]
            if layout and layout is not extents.get(layout[0].size):
                self.freeze(layout, "its positions are not channels")

    def _make(self, rule: Rule, shapes: list[Any], row: Row) -> None:
        """Give parameters that no node before has read the layouts that the rule asks for.

        Those that are read alike, such as a scale and a shift, share one shape.
        """
        known = self._shapes
        last: Any = None
        for position, axes in rule.makes:
            alike = axes, shapes[position]
            if alike != last:
                made, last = self._made(*alike, row), alike
            operand = self.node.operands[position]
            assert operand is not None
            earlier = known.setdefault(operand, made)
            if earlier is not made:  # the node reads it twice
                for left, right in zip(earlier, made, strict=True):
                    self.unify(left, right)

    def _made(self, axes: tuple[int, ...], sizes: tuple[int, ...], row: Row) -> Shape:
        shape: list[Layout] = []
        extents = self._extents
        for axis, size in zip(axes, sizes):  # noqa: B905 - of one length, and strict is slow here
            if axis == FREE:
                shape.append(extents[size])
                continue
            layout = seen = row[axis]
            if not layout or (layout[0].size if len(layout) == 1 else size_of(layout)) != size:
                layout = self.fresh(size)
                row[axis] = seen or layout
                if seen and layout:
                    self.freeze(seen + layout, "sizes meet that are equal only when it runs")
            shape.append(layout)
        return tuple(shape)

    def _divide(self, rule: Rule, row: Row, attributes: Mapping[str, str]) -> None:
        """Divide the blocks that operands have into their letters, and join those of results."""
        op, numbers = self.node.op, rule.numbers
        sizes = {numbers[letter]: getattr(op, name) for letter, name in attributes.items()}
        for number, letters in rule.blocks:
            whole = row[number]
            if whole is not None:
                self._divide_block(letters, whole, row, sizes)
            row[number] = sum((row[letter] for letter in letters), ())
            if whole is not None:
                self.unify(whole, row[number])
        for letter, name in attributes.items():
            self.derive(name, row[numbers[letter]])

    def _divide_block(
        self, letters: tuple[int, ...], whole: Layout, row: Row, sizes: Mapping[int, Dim]
    ) -> None:
        total = rest = size_of(whole)
        unknown = []
        for letter in letters:
            size = sizes.get(letter) if row[letter] is None else size_of(row[letter])
            left = rest if size is None else divide(rest, size)
            if size is None:
                unknown.append(letter)
            if left is None or len(unknown) > 1:
                raise NetirError(f"{self.node.op.name} cannot divide an axis of {total}")
            rest = left
        for letter in letters:
            if row[letter] is None:
                size = sizes.get(letter, rest)
                row[letter] = whole if size == total else self.fresh(size)

    def _record(self, role: Role, row: Row) -> None:
        letter, kind, slots = role
        layout = row[letter]
        if layout:
            if kind == "pair" and self._contract(layout, slots):
                kind = "contract"
            self._analysis.uses.append(Use(kind, self.node.name, layout, slots))

    def _result(self, axes: tuple[int, ...], shape: tuple[Dim, ...], row: Row) -> Shape:
        found: list[Layout] = []
        extents = self._extents
        for axis, size in zip(axes, shape):  # noqa: B905 - of one length, and strict is slow here
            if axis == FREE:
                found.append(extents[size])
                continue
            layout = row[axis]
            if layout is None:
                layout = row[axis] = self.fresh(size)
            found.append(layout)
        return tuple(found)
