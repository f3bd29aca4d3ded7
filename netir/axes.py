"""The language of axis rules: `"n i _*, o i _*, o -> n o _*"` says where every channel goes.

Operands are separated by commas, axes by blanks. A letter on both sides is carried, one only on
the left is contracted, brackets are blocks from outer to inner, `_` is an axis of its own that
cannot change (`_*`: any number of them), `...` are leading axes that broadcast against each
other, and `c!` is mixed: sizes agree, but the values of one index depend on all others. This
file parses rules and works out what they mean for operands of given ranks; site.py applies them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from netir.errors import NetirError

FREE = -1
"""Stands for `_` where letters and blocks have numbers."""
Token = str | tuple[str, ...] | int
"""One axis as it is written: a letter, a block, `_`, or a place in `...` counted from its end."""


class Role(NamedTuple):
    """What becomes of a letter: `kind`, and the (operand, axis) places where it is read."""

    letter: int
    kind: str
    slots: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Rule:
    """What a rule asks of operands of known ranks, some of which may be parameters not seen before.

    What an axis is written as has a number, to be looked up fast: 0 to `dots - 1` are the places
    of `...`, counted from its end; letters and blocks follow. The seen operands are read first
    (`reads`: operand, axis, number), then the others are made, axis by axis (`makes`).
    """

    reads: tuple[tuple[int, int, int], ...]
    free: tuple[tuple[int, int], ...]
    makes: tuple[tuple[int, tuple[int, ...]], ...]
    blocks: tuple[tuple[int, tuple[int, ...]], ...]
    results: tuple[tuple[int, ...], ...]
    roles: tuple[Role, ...]
    dots: int
    numbers: Mapping[Token, int]


@lru_cache(maxsize=4096)
def parse_rule(text: str, ranks: tuple[int, ...], new: tuple[int, ...] = ()) -> Rule:
    """Read an axis rule for operands of these ranks (-1: an operand that is left out).

    `new` are the positions of parameters whose layouts are not known yet.
    """
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
    results = [_spread(_parse_axes(part), dots, free) for part in right.split(",")]
    numbers = _numbers([*operands, *results], dots)
    read = [tuple(numbers[axis] for axis in axes) for axes in operands]
    known = [p for p in range(len(operands)) if p not in new]
    seen = [(p, axis, number) for p in known for axis, number in enumerate(read[p])]
    order = [operands[p] for p in (*known, *new)] + results
    blocks = dict.fromkeys(axis for axes in order for axis in axes if isinstance(axis, tuple))
    return Rule(
        tuple(place for place in seen if place[2] != FREE),
        tuple((position, axis) for position, axis, number in seen if number == FREE),
        tuple((position, read[position]) for position in new),
        tuple((numbers[block], tuple(numbers[c] for c in block)) for block in blocks),
        tuple(tuple(numbers[axis] for axis in axes) for axes in results),
        _roles(operands, results, mixed, numbers),
        dots,
        numbers,
    )


def _numbers(sides: list[tuple[Token, ...]], dots: int) -> dict[Token, int]:
    """Numbers for the places of `...`, every letter and every block; `FREE` for `_`."""
    tokens = [*range(dots), *(letter for axes in sides for letter in _names(axes))]
    tokens += [axis for axes in sides for axis in axes if isinstance(axis, tuple)]
    return {**{token: n for n, token in enumerate(dict.fromkeys(tokens))}, "_": FREE}


def _parse_axes(text: str) -> list[str | tuple[str, ...]]:
    tokens = re.findall(r"\(([^)]*)\)|(\.\.\.|_\*|_|[a-z]!?)", text)
    if len(re.sub(r"[\s()]", "", text)) != sum(len(a.replace(" ", "")) + len(b) for a, b in tokens):
        raise NetirError(f"axis rule '{text}' cannot be read")
    return [tuple(block.split()) if block else single for block, single in tokens]


def _letters(side: list[str | tuple[str, ...]]) -> list[str]:
    return [letter for token in side for letter in ([token] if isinstance(token, str) else token)]


def _expand(
    side: list[str | tuple[str, ...]], rank: int, text: str
) -> tuple[tuple[Token, ...], int, int]:
    if rank < 0:
        return (), 0, 0
    spare = rank - sum(token not in ("...", "_*") for token in side)
    if spare < 0 or (spare and "..." not in side and "_*" not in side):
        raise NetirError(f"axis rule '{text}' does not fit an operand of {rank} dimensions")
    dots, free = (spare, 0) if "..." in side else (0, spare)
    return _spread(side, dots, free), dots, free


def _spread(side: list[str | tuple[str, ...]], dots: int, free: int) -> tuple[Token, ...]:
    axes: list[Token] = []
    for token in side:
        if token == "...":
            axes.extend(reversed(range(dots)))
        elif token == "_*":
            axes.extend(["_"] * free)
        elif isinstance(token, tuple):
            axes.append(tuple(letter.strip("!") for letter in token))
        else:
            axes.append(token.strip("!"))
    return tuple(axes)


def _roles(
    operands: list[tuple[Token, ...]],
    results: list[tuple[Token, ...]],
    mixed: set[str],
    numbers: Mapping[Token, int],
) -> tuple[Role, ...]:
    given = {letter for axes in results for letter in _names(axes)}
    slots: dict[str, list[tuple[int, int]]] = {}
    for position, axes in enumerate(operands):
        for place, axis in enumerate(axes):
            for letter in _names((axis,)):
                slots.setdefault(letter, []).append((position, place))
    roles = []
    for letter, places in slots.items():
        if letter in mixed:
            roles.append(Role(numbers[letter], "mix", tuple(places)))
        elif letter not in given:
            several = len({operand for operand, _ in places}) > 1
            roles.append(Role(numbers[letter], "pair" if several else "sum", tuple(places)))
    return tuple(roles)


def _names(axes: tuple[Token, ...]) -> list[str]:
    found: list[str] = []
    for axis in axes:
        if isinstance(axis, tuple):
            found.extend(axis)
        elif isinstance(axis, str) and axis != "_":
            found.append(axis)
    return found
