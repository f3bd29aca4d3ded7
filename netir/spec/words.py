"""Types of options in words."""

from __future__ import annotations

import collections.abc
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from netir.spec.problems import shown

UNIONS = (Union, types.UnionType)

_WORDS: Mapping[Any, str] = types.MappingProxyType({
    int: "a whole number", float: "a number", str: "text", bool: "true or false",
    type(None): "null",
})  # fmt: skip


def choices(hint: Any) -> Iterator[Any]:
    """The values of the literals in a type hint."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    elif get_origin(hint) in UNIONS:
        for part in get_args(hint):
            yield from choices(part)


def in_words(hint: Any) -> str:
    """A type hint as people read it."""
    *first, last = _alternatives(hint)
    return f"{', '.join(first)} or {last}" if first else last


def _alternatives(hint: Any) -> Iterator[str]:
    if get_origin(hint) in UNIONS:
        for part in get_args(hint):
            yield from _alternatives(part)
    elif get_origin(hint) is Literal:
        yield from map(shown, get_args(hint))
    else:
        yield _one_in_words(hint)


def _one_in_words(hint: Any) -> str:
    arguments = get_args(hint)
    origin = get_origin(hint) or hint
    if origin is tuple and arguments and arguments[-1] is not ...:
        return f"[{', '.join(map(in_words, arguments))}]"
    if origin in (tuple, list, collections.abc.Sequence, frozenset, set):
        parts = dict.fromkeys(in_words(a) for a in arguments if a is not ...)
        return f"a list of {' or '.join(parts)}" if parts else "a list"
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return "a mapping"
    return _WORDS.get(hint, f"a {getattr(hint, '__name__', hint)}")


__all__ = ["UNIONS", "choices", "in_words"]
