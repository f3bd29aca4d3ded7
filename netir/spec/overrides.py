"""`--set passes.0.amount=0.3`: values that take the place of those in a file."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

from netir.errors import NetirError
from netir.spec.yaml import Document, Path, read


def overridden(document: Document, sets: Iterable[str]) -> Document:
    """The document with these values in it, each with the option as its place."""
    sets = list(sets)
    if not sets:
        return document
    value, keys, values = copy.deepcopy(document.value), dict(document.keys), dict(document.values)
    for text in sets:
        source = f"--set {text}"
        path, given = _read(text, source)
        path = _put(value, path, given.value, source)
        for places in (keys, values):
            for old in [old for old in places if old[: len(path)] == path]:
                del places[old]
            for depth in range(1, len(path) + 1):
                places.setdefault(path[:depth], source)
    return Document(value, document.source, keys, values)


def _read(text: str, source: str) -> tuple[Path, Document]:
    path, sign, value = text.partition("=")
    parts = path.strip().split(".")
    if not sign or not all(parts):
        raise NetirError(
            f"'{text}' sets nothing", where=source, fix="write --set passes.0.amount=0.3"
        )
    return tuple(map(_part, parts)), read(value, source)


def _part(text: str) -> str | int:
    """A key, or the number of an item."""
    return int(text) if re.fullmatch("[0-9]{1,6}", text) else text


def _put(value: Any, path: Path, given: Any, source: str) -> Path:
    """Set a part of plain data; mappings on the way to it are made, steps must be there.

    The path comes back with the keys of mappings as text.
    """
    found: list[str | int] = []
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        so_far = ".".join(map(str, path[:depth])) or "the spec"
        match value:
            case dict():
                key = str(part)
                found.append(key)
                if last:
                    value[key] = given
                elif value.get(key) is None:
                    value[key] = {}
                value = value[key]
            case list():
                if not isinstance(part, int) or part >= len(value):
                    known = f"0 to {len(value) - 1}" if value else "none"
                    raise NetirError(
                        f"'{so_far}' has no item '{part}'", source, f"its items: {known}"
                    )
                found.append(part)
                if last:
                    value[part] = given
                value = value[part]
            case _:
                raise NetirError(f"'{so_far}' has no parts", source, "set it as a whole")
    return tuple(found)


__all__ = ["overridden"]
