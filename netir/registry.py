"""Names that a spec, a command or a pass can use: netir's own, and those of installed packages.

A package offers passes, scores, tasks, models, growers, triggers or inits by entry points in the
groups `netir.passes`, `netir.scores` and so on. They are looked up when a name is asked for, and
imported when they are named.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from netir.errors import NetirError, nearest


@dataclass(frozen=True)
class _Kind:
    """Where netir's own table stands, the group of entry points, and what they must be: functions,
    or dataclasses derived from `base`, which say their name themselves if they are `named`."""

    table: tuple[str, str]
    group: str
    base: tuple[str, str] | None = None
    named: bool = True


_KINDS: Mapping[str, _Kind] = MappingProxyType({
    "pass": _Kind(("netir.passes", "PASSES"), "netir.passes", ("netir.rewrite", "Pass")),
    "score": _Kind(("netir.passes.scores", "SCORES"), "netir.scores"),
    "task": _Kind(("netir.tasks", "TASKS"), "netir.tasks", ("netir.task", "Task")),
    "model": _Kind(("netir.builtin", "BUILTINS"), "netir.models"),
    "grower": _Kind(("netir.passes.methods", "GROWERS"), "netir.growers",
                    ("netir.passes.growth.grower", "Grower"), named=False),
    "trigger": _Kind(("netir.passes.growth.triggers", "TRIGGERS"), "netir.triggers",
                     ("collections.abc", "Callable"), named=False),
    "init": _Kind(("netir.passes.grow", "INITS"), "netir.inits"),
})  # fmt: skip


def names(kind: str) -> list[str]:
    """The names of one kind: netir's own in their order, then those of other packages."""
    return list(dict.fromkeys((*own(kind), *_offered(kind))))


def called(kind: str, name: str) -> Any:
    """What a name of one kind stands for; a name that two packages offer is refused."""
    table, points = own(kind), _offered(kind).get(name, ())
    owners = [*(["netir"] if name in table else []), *map(_owner, points)]
    if len(owners) > 1:
        raise NetirError(
            f"two packages offer a {kind} '{name}': {owners[0]} and {owners[1]}",
            where=_text(points[-1]),
            fix="uninstall one of them, or rename its entry point",
        )
    if name in table:
        return table[name]
    if points:
        return _loaded(kind, points[0])
    raise NetirError(f"there is no {kind} '{name}'", fix=nearest(name, names(kind)))


def name_of(kind: str, thing: Any) -> str | None:
    """The name that a function or a class is registered under, if there is one."""
    for name in names(kind):
        with suppress(NetirError):  # of a name that cannot be used, and so is not its
            if called(kind, name) is thing:
                return name
    return None


def own(kind: str) -> Mapping[str, Any]:
    """What netir itself has of one kind, by name."""
    found: Mapping[str, Any] = _of(_KINDS[kind].table)
    return found


def forget() -> None:
    """Look the entry points up anew: for programs that install packages while they run."""
    _offered.cache_clear()
    _loaded.cache_clear()


@cache
def _offered(kind: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    """The entry points of one kind by name; the same one twice on the path counts once."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=_KINDS[kind].group):
        found.setdefault(point.name, {})[f"{_owner(point)} {point.value}"] = point
    return MappingProxyType({name: tuple(found[name].values()) for name in sorted(found)})


@cache
def _loaded(kind: str, point: EntryPoint) -> Any:
    try:
        found = point.load()
    except Exception as error:
        raise NetirError(
            f"the {kind} '{point.name}' of {_owner(point)} cannot be imported: "
            f"{type(error).__name__}: {error}",
            where=_text(point),
            fix=f"repair or uninstall {_owner(point)}",
        ) from error
    why = _unfit(kind, point.name, found)
    if why:
        raise NetirError(
            f"the {kind} '{point.name}' of {_owner(point)} {why}", where=_text(point),
            fix=f"docs/spec.md tells what an entry point of {point.group} must be",
        )  # fmt: skip
    return found


def _unfit(kind: str, name: str, found: Any) -> str:
    """Why something cannot be what its entry point says; empty if it can."""
    home = _KINDS[kind].base
    if home is None:
        return "" if callable(found) else "is no function"
    base: type = _of(home)
    if not isinstance(found, type) or not issubclass(found, base):
        return f"is no class derived from {'.'.join(home)}"
    if not is_dataclass(found) or "__dataclass_fields__" not in vars(found):
        return "is no dataclass"
    own_name = getattr(found, "name", "")
    return "" if own_name == name or not _KINDS[kind].named else f"calls itself '{own_name}'"


def _of(home: tuple[str, str]) -> Any:
    return getattr(import_module(home[0]), home[1])


def _text(point: EntryPoint) -> str:
    return f"entry point {point.group}: {point.name} = {point.value}"


def _owner(point: EntryPoint) -> str:
    return f"'{point.dist.name}'" if point.dist is not None else "an installed package"


__all__ = ["called", "forget", "name_of", "names", "own"]
