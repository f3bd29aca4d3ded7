"""Point groups of the plane: rotations and mirrors that act on pixel grids and on channels.

An element flips the rows or not, then turns counter-clockwise, as `torch.rot90` does, by a part
of a full turn. A group is named `C{n}`, the turns by multiples of 360/n degrees, or `D{n}`, these
and n mirrors; `D{n}_{degrees}` says where its first mirror lies. So `D1` flips rows, `D1_90`
columns, and the ten groups of the square are those of `SQUARE`. They move pixels to pixels; all
other turns do only at the centre, and interpolate elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import cos, floor, gcd, pi, sin

SQUARE = ("C1", "C2", "C4", "D1", "D1_45", "D1_90", "D1_135", "D2", "D2_45", "D4")
LARGEST = 64

Point = tuple[float, float]
_NAME = re.compile(r"([CD])([1-9]\d?)(?:_([1-9]\d{0,2}))?")


@dataclass(frozen=True, order=True)
class Element:
    """Flip the rows if `flip`, then turn counter-clockwise by `turn` of a full turn."""

    flip: bool
    turn: Fraction

    def __mul__(self, other: Element) -> Element:
        """`other` first, then this one."""
        turn = -other.turn if self.flip else other.turn
        return Element(self.flip != other.flip, (self.turn + turn) % 1)

    @property
    def inverse(self) -> Element:
        return self if self.flip else Element(False, -self.turn % 1)

    @property
    def exact(self) -> bool:
        """Whether every pixel moves to a pixel."""
        return (4 * self.turn).denominator == 1

    def source(self, row: float, column: float) -> Point:
        """Where the value at a point, measured from the centre, was before.

        The quarter turns come first and are whole numbers: elements that differ by one give the
        same numbers, so that what interpolates stays exact under the square's own group.
        """
        for _ in range(floor(4 * self.turn)):
            row, column = column, -row
        x, y = _direction(self.turn % Fraction(1, 4))
        row, column = x * row + y * column, x * column - y * row
        return (-row if self.flip else row), column


def _direction(turn: Fraction) -> Point:
    """Cosine and sine of less than a quarter turn, from less than an eighth: mirrors agree too."""
    if turn > Fraction(1, 8):
        y, x = _direction(Fraction(1, 4) - turn)
        return x, y
    return cos(2 * pi * float(turn)), sin(2 * pi * float(turn))


@dataclass(frozen=True)
class Group:
    """A name and its elements, turns before flips and each by angle; the identity is the first.

    Their order is the order of the channels of a field.
    """

    name: str
    elements: tuple[Element, ...]

    @property
    def order(self) -> int:
        return len(self.elements)

    @property
    def exact(self) -> bool:
        return all(element.exact for element in self.elements)

    def __le__(self, other: Group) -> bool:
        """Whether this is a subgroup of the other."""
        return set(self.elements) <= set(other.elements)


@lru_cache(maxsize=256)
def group(name: str) -> Group:
    """The group of that name."""
    match = _NAME.fullmatch(str(name))
    if match is None:
        raise ValueError(f"no group is called {name!r}: write C8, D4 or D1_45, for example")
    kind, n, degrees = match[1], int(match[2]), int(match[3] or 0)
    order = n if kind == "C" else 2 * n
    if order > LARGEST:
        raise ValueError(f"{name} has {order} elements, and the largest group has {LARGEST}")
    if match[3] and (kind == "C" or degrees * n >= 180):
        raise ValueError(f"{name} is no group: only D{n} names a mirror, below {180 / n:g} degrees")
    turns = [Fraction(i, n) for i in range(n)]
    flips = [(turn + Fraction(degrees, 180)) % 1 for turn in turns] if kind == "D" else []
    elements = [Element(False, t) for t in turns] + [Element(True, t) for t in flips]
    return Group(name, tuple(sorted(elements)))


def subgroups(of: Group) -> tuple[Group, ...]:
    """All subgroups whose name `group` knows, small ones first."""
    names = {f"C{n}" for n in range(1, of.order + 1) if of.order % n == 0}
    for flip in (e for e in of.elements if e.flip):
        for n in range(1, of.order // 2 + 1):
            names.add(_dihedral(n, flip.turn))
    found = (group(name) for name in sorted(names - {""}))
    return tuple(sorted((g for g in found if g <= of), key=lambda g: (g.order, g.name)))


def generated(members: Iterable[Group]) -> Group:
    """The smallest group that contains all of these."""
    members = list(members)
    turns = [e.turn.denominator for g in members for e in g.elements if not e.flip]
    flips = sorted({e.turn for g in members for e in g.elements if e.flip})
    n = _multiple([*turns, *((flip - flips[0]).denominator for flip in flips)])
    name = _dihedral(n, flips[0]) if flips else f"C{n}"
    if not name or n * (2 if flips else 1) > LARGEST:
        known = f"among those with a name and {LARGEST} elements"
        raise ValueError(f"no group contains {', '.join(g.name for g in members)}, {known}")
    return group(name)


def _dihedral(n: int, flip: Fraction) -> str:
    """The name of the n turns with this mirror; nothing when its angle is no whole degree."""
    angle = (flip % Fraction(1, n)) * 180
    if angle.denominator != 1:
        return ""
    return f"D{n}_{angle}" if angle else f"D{n}"


def _multiple(numbers: Iterable[int]) -> int:
    least = 1
    for number in numbers:
        least = least * number // gcd(least, number)
    return least


@dataclass(frozen=True)
class Cosets:
    """The elements of a group as those of a subgroup times one representative per coset.

    Element `i` is `part[i] * within.elements[representatives[coset[i]]]`, with `part[i]` in the
    subgroup. Representatives are the first of their cosets.
    """

    coset: tuple[int, ...]
    part: tuple[Element, ...]
    representatives: tuple[int, ...]


@lru_cache(maxsize=1024)
def cosets(subgroup: Group, within: Group) -> Cosets:
    """How `within` splits into cosets of `subgroup`."""
    if not subgroup <= within:
        raise ValueError(f"{subgroup.name} is no subgroup of {within.name}")
    found: dict[Element, tuple[int, Element]] = {}
    representatives: list[int] = []
    for i, first in enumerate(within.elements):
        if first not in found:
            found |= {g * first: (len(representatives), g) for g in subgroup.elements}
            representatives.append(i)
    pairs = [found[element] for element in within.elements]
    return Cosets(tuple(c for c, _ in pairs), tuple(g for _, g in pairs), tuple(representatives))
