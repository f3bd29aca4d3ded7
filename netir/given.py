"""What a program gives for the options of a pass: values of the types that its fields name.

A file's options are checked where it is read, with the names of what comes near; whether a value
makes sense is for the pass itself to say.
"""

from __future__ import annotations

import collections.abc
import typing
from contextlib import suppress
from numbers import Real
from typing import Any, get_args, get_origin

from netir.errors import NetirError
from netir.text.checks import UNIONS, attributes, describe, fits


def check_options(thing: Any, name: str) -> None:
    """Refuse the first option of a dataclass that is of another type than its field's."""
    kinds: collections.abc.Mapping[str, Any] = {}
    cls: Any = type(thing)
    with suppress(NameError):  # a type that only type checkers import
        kinds = attributes(cls)
    for option, kind in kinds.items():
        value = getattr(thing, option)
        if not _suits(value, kind):
            raise NetirError(f"{name} cannot use {option} {value!r}", fix=f"use {_words(kind)}")


def _suits(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in UNIONS:
        return any(_suits(value, part) for part in parts)
    if origin is typing.Literal:
        return isinstance(value, str)  # which one, the pass says better
    if collections.abc.Callable in (kind, origin):
        return callable(value)
    if origin is tuple:
        return isinstance(value, (tuple, list)) and _suits_each(value, parts)
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    return fits(value, kind)


def _suits_each(value: collections.abc.Sequence[Any], parts: tuple[Any, ...]) -> bool:
    if len(parts) == 2 and parts[1] is ...:
        return all(_suits(item, parts[0]) for item in value)
    return len(value) == len(parts) and all(map(_suits, value, parts))


def _words(kind: Any) -> str:
    """A type as people read it."""
    if get_origin(kind) in UNIONS:
        return " or ".join(dict.fromkeys(map(_words, get_args(kind))))
    if get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, get_args(kind)))
    if collections.abc.Callable in (kind, get_origin(kind)):
        return "a function"
    return describe(kind)


__all__ = ["check_options"]
