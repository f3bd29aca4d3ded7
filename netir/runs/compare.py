"""Specs as text, and the first difference of two, in words: why a folder is of another run."""

from __future__ import annotations

from typing import Any

from netir.errors import NetirError
from netir.spec import Spec
from netir.spec.yaml import inline, read, write


def canonical(spec: Spec) -> str:
    """A spec as text; where only this program has its task or a pass, as one that no file runs."""
    try:
        return spec.dump()
    except NetirError:
        bare = spec.model_copy(update={"task": None, "passes": ()}).plain()
        own = None if spec.task is None else spec.task.name
        return write({**bare, "task": own, "passes": [str(step) for step in spec.passes]})


def refuse_other(there: str, here: str, folder: str) -> None:
    """Raise if two canonical texts of specs differ, and say where they do first."""
    if there == here:
        return
    path, old, new = _first(read(there).value, read(here).value, "")
    raise NetirError(
        "the folder is of another run",
        f"{folder}: {path} is {old} there and {new} in this spec",
        "run into another folder, or start anew with --fresh",
    )


def _first(old: Any, new: Any, path: str) -> tuple[str, str, str]:
    """Where two pieces of plain data differ first, and what stands there."""
    pairs: list[tuple[Any, Any, Any]] = []
    match old, new:
        case dict(), dict():
            names = [*old, *(name for name in new if name not in old)]
            pairs = [(n, old.get(n, _NOTHING), new.get(n, _NOTHING)) for n in names]
        case list(), list():
            longer = range(max(len(old), len(new)))
            pairs = [(i, _at(old, i), _at(new, i)) for i in longer]
    for name, one, other in pairs:
        if one is _NOTHING or other is _NOTHING or one != other or type(one) is not type(other):
            return _first(one, other, f"{path}.{name}" if path else str(name))
    return path or "the spec", _shown(old), _shown(new)


_NOTHING = object()


def _at(items: list[Any], index: int) -> Any:
    return items[index] if index < len(items) else _NOTHING


def _shown(value: Any) -> str:
    text = "nothing" if value is _NOTHING else inline(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = ["canonical", "refuse_other"]
