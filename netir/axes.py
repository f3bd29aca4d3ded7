"""The language of axis rules: `"n i _*, o i _*, o -> n o _*"` says where every channel goes.

Operands are separated by commas, axes by blanks. A letter on both sides is carried, one only on
the left is contracted, brackets are blocks from outer to inner, `_` is an axis of its own that
cannot change (`_*`: any number of them), `...` are leading axes that broadcast against each
other, and `c!` is mixed: sizes agree, but the values of one index depend on all others. This
file parses rules and works out what they mean for operands of given ranks; spaces.py applies
them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from netir.errors import NetirError

FREE = ""
Axis = str | tuple[str, ...] | int
"""One axis: a letter, `FREE`, a block of letters, or the place in `...`, counted from its end."""


@dataclass(frozen=True)
class Role:
    """What becomes of a letter: `kind`, and the (operand, axis) places where it is read."""

    letter: str
    kind: str
    slots: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Rule:
    """A parsed rule for operands of known ranks."""

    operands: tuple[tuple[Axis, ...], ...]
    results: tuple[tuple[Axis, ...], ...]
    roles: tuple[Role, ...]
    dots: int


@lru_cache(maxsize=4096)
def parse_rule(text: str, ranks: tuple[int, ...]) -> Rule:
    """Read an axis rule for operands of these ranks (-1: an operand that is left out)."""
    left, arrow, right = text.partition("->")
    if not arrow:
        raise NetirError(f"axis rule '{text}' has no '->'")
    sides = [_parse_axes(part) for part in left.split(",")]
    mixed = {token.strip("!") for side in sides for token in _letters(side) if token[-1] == "!"}
    operands, dots, free = [], 0, 0
    for side, rank in zip(sides, ranks, strict=False):
        axes, spread, extra = _expand(side, rank, text)
        operands.append(axes)
        dots, free = max(dots, spread), max(free, extra)
    results = tuple(_spread(_parse_axes(part), dots, free) for part in right.split(","))
    return Rule(tuple(operands), results, _roles(operands, results, mixed), dots)


def _parse_axes(text: str) -> list[str | tuple[str, ...]]:
    tokens = re.findall(r"\(([^)]*)\)|(\.\.\.|_\*|_|[a-z]!?)", text)
    if len(re.sub(r"[\s()]", "", text)) != sum(len(a.replace(" ", "")) + len(b) for a, b in tokens):
        raise NetirError(f"axis rule '{text}' cannot be read")
    return [tuple(block.split()) if block else single for block, single in tokens]


def _letters(side: list[str | tuple[str, ...]]) -> list[str]:
    return [letter for token in side for letter in ([token] if isinstance(token, str) else token)]


def _expand(
    side: list[str | tuple[str, ...]], rank: int, text: str
) -> tuple[tuple[Axis, ...], int, int]:
    if rank < 0:
        return (), 0, 0
    spare = rank - sum(token not in ("...", "_*") for token in side)
    if spare < 0 or (spare and "..." not in side and "_*" not in side):
        raise NetirError(f"axis rule '{text}' does not fit an operand of {rank} dimensions")
    dots, free = (spare, 0) if "..." in side else (0, spare)
    return _spread(side, dots, free), dots, free


def _spread(side: list[str | tuple[str, ...]], dots: int, free: int) -> tuple[Axis, ...]:
    axes: list[Axis] = []
    for token in side:
        if token == "...":
            axes.extend(range(dots, 0, -1))
        elif token == "_*":
            axes.extend([FREE] * free)
        elif isinstance(token, tuple):
            axes.append(tuple(letter.strip("!") for letter in token))
        else:
            axes.append(FREE if token == "_" else token.strip("!"))
    return tuple(axes)


def _roles(
    operands: list[tuple[Axis, ...]], results: tuple[tuple[Axis, ...], ...], mixed: set[str]
) -> tuple[Role, ...]:
    given = {letter for axes in results for letter in _names(axes)}
    slots: dict[str, list[tuple[int, int]]] = {}
    for position, axes in enumerate(operands):
        for number, axis in enumerate(axes):
            for letter in _names((axis,)):
                slots.setdefault(letter, []).append((position, number))
    roles = []
    for letter, places in slots.items():
        if letter in mixed:
            roles.append(Role(letter, "mix", tuple(places)))
        elif letter not in given:
            several = len({operand for operand, _ in places}) > 1
            roles.append(Role(letter, "pair" if several else "sum", tuple(places)))
    return tuple(roles)


def _names(axes: tuple[Axis, ...]) -> list[str]:
    found: list[str] = []
    for axis in axes:
        if isinstance(axis, tuple):
            found.extend(axis)
        elif isinstance(axis, str) and axis != FREE:
            found.append(axis)
    return found
