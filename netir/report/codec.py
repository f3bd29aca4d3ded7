"""Frozen dataclasses as plain JSON-able data and back.

Fields that have their default are left out, fields that are missing get it, fields that are not
known are passed over: a story of an older or a newer netir can still be read. A number that is
not finite has no place in JSON and becomes null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite
from types import MappingProxyType, NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from netir.errors import NetirError


def plain(value: Any) -> Any:
    """The value as dicts, lists, strings and numbers."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value):
        return plain_fields(value)
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise NetirError(
        f"a story holds texts and numbers, not {type(value).__name__}",
        fix="give str, int, float, bool, None, and tuples and mappings of them",
    )


def plain_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their default."""
    found = {}
    for field in fields(value):
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        part = getattr(value, field.name)
        if part != default or type(part) is not type(default):
            found[field.name] = plain(part)
    return found


def read(kind: Any, data: Any, where: str) -> Any:
    """A value of the type `kind` out of plain data; `where` names the place for errors."""
    if hasattr(kind, "from_json"):
        return kind.from_json(data, where)
    if is_dataclass(kind):
        return read_fields(kind, data, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        if data is None and NoneType in arguments:
            return None
        return read(arguments[0], data, where)
    if origin is tuple:
        return _tuple(arguments, data, where)
    if origin is Mapping:
        _expect(isinstance(data, Mapping), "a mapping", data, where)
        return {str(n): read(arguments[1], part, f"{where}.{n}") for n, part in data.items()}
    wanted = (int, float) if kind is float else (kind,)
    right = isinstance(data, wanted) and (kind is bool or not isinstance(data, bool))
    _expect(right, _WORDS[kind], data, where)
    return kind(data)


def read_fields(kind: Any, data: Any, where: str) -> Any:
    """A dataclass out of a mapping; what is missing or null has its default."""
    _expect(isinstance(data, Mapping), "a mapping", data, where)
    hints = _hints(kind)
    given = {}
    for field in fields(kind):
        if data.get(field.name) is not None:
            given[field.name] = read(hints[field.name], data[field.name], f"{where}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise NetirError(f"the story lacks '{field.name}'", where, f"add '{field.name}'")
    return kind(**given)


def _tuple(arguments: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(data, (list, tuple)), "a list", data, where)
    if arguments[-1] is Ellipsis:
        return tuple(read(arguments[0], part, f"{where}[{i}]") for i, part in enumerate(data))
    _expect(len(data) == len(arguments), f"a list of {len(arguments)}", data, where)
    parts = zip(arguments, data, strict=True)
    return tuple(read(kind, part, f"{where}[{i}]") for i, (kind, part) in enumerate(parts))


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    return MappingProxyType(get_type_hints(kind))


_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _expect(condition: bool, wanted: str, data: Any, where: str) -> None:
    if not condition:
        shown = repr(data)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        raise NetirError(f"the story has {shown} where {wanted} must stand", where,
                         "write stories with `Story.to_json`")  # fmt: skip
