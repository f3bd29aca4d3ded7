"""The options of a dataclass as a file gives them: its fields, checked by their type hints.

Nothing is written down twice: which options there are, what each takes and what it is without are
read from the fields. What only a program can give, such as a function, is no option of a file.
Registered functions are given by name, and what registered classes make by name and options.
"""

from __future__ import annotations

import builtins
import collections.abc
import inspect
import json
import sys
import types
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any, Union, cast, get_args, get_origin

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUndefinedAnnotation

from netir import registry
from netir.errors import NetirError, nearest
from netir.spec.problems import Problem, shown
from netir.spec.words import UNIONS, choices, in_words
from netir.spec.yaml import Path

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=True)
_REFUSALS = (NetirError, ValueError, TypeError, OverflowError)
"""What the checks of a dataclass may raise; those of other packages know no NetirError."""
_NAMED = ("score", "init")
"""Options that take a function or its registered name."""
_MADE = ("trigger",)
"""Options that take what a registered class makes, or its registered name with its options."""


@dataclass(frozen=True, eq=False)
class Option:
    """One field of a dataclass; `hint` is the part of its type that a file can give, if any."""

    name: str
    hint: Any
    default: Any
    required: bool
    kind: str = ""
    """What is registered under the names that it takes in place of a function, such as `score`."""
    made: bool = False
    """Whether a name comes with options of its own."""

    @property
    def in_files(self) -> bool:
        """Whether a file can give it."""
        return self.made or self.hint is not None

    @property
    def takes(self) -> str:
        """What it takes, in words."""
        if self.made:
            return f"the name of a {self.kind}, or {{name: …}} with its options"
        return in_words(self.hint) if self.in_files else "what only a program can give"

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        one: Any = types.GenericAlias(tuple, (self.hint,))
        return TypeAdapter(one, config=_STRICT)

    def read(self, value: Any) -> Any:
        """The value of the field for plain data; raises pydantic's ValidationError."""
        return self._adapter.validate_json(json.dumps([value]))[0]

    def plain(self, value: Any) -> Any:
        """Plain data for a value of the field."""
        if self.made:
            return None if value is None else written(self.kind, "name", value)
        if callable(value):
            return _function_name(self, value)
        found = self._adapter.dump_python((value,), mode="json", warnings=False)
        return found[0]

    def schema(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its JSON schema, and the definitions that this refers to."""
        found = self._adapter.json_schema(ref_template="#/$defs/{model}")
        return found["prefixItems"][0], found.get("$defs", {})


class _Unknown:
    """Stands for a type whose name cannot be resolved, such as one imported for type checkers."""


class _Names(dict[str, Any]):
    """Makes every name that a module does not know mean `_Unknown`."""

    def __init__(self, module: str) -> None:
        super().__init__()
        self._known = vars(sys.modules[module]).keys() | vars(builtins).keys()

    def __missing__(self, name: str) -> Any:
        if name in self._known:
            raise KeyError(name)
        return _Unknown


def options(cls: type[Any]) -> Mapping[str, Option]:
    """The options of a dataclass, by name."""
    return _options(cast(Hashable, cls))


@cache
def _options(cls: Any) -> Mapping[str, Option]:
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        names = _Names(base.__module__)
        hints |= inspect.get_annotations(base, eval_str=True, locals=names)
    return {f.name: _option(f, hints[f.name]) for f in fields(cls) if f.init}


def _option(item: Field[Any], hint: Any) -> Option:
    default = item.default if item.default_factory is MISSING else item.default_factory()
    required = default is MISSING
    made = item.name in _MADE
    named = item.name in _NAMED and any(map(_callable, get_args(hint)))
    kind = item.name if named or made else ""
    return Option(item.name, _plain(hint), None if required else default, required, kind, made)


def _callable(hint: Any) -> bool:
    return collections.abc.Callable in (hint, get_origin(hint))


def by_name(kind: str, key: str, value: Any) -> tuple[Any, list[Problem]]:
    """What a registered class makes of options, and what is wrong with them.

    It is given by its name, or by a mapping that has the name under `key` and options beside it.
    """
    given = {key: value} if isinstance(value, str) else value
    name = given.get(key) if isinstance(given, dict) else None
    if not isinstance(name, str):
        fix = f"write '{key}: NAME' with its options; there are {', '.join(registry.names(kind))}"
        return None, [Problem((), f"{shown(value)} is no {kind}", fix)]
    try:
        cls = registry.called(kind, name)
    except NetirError as error:
        return None, [Problem((key,) if given is value else (), error.what, error.fix)]
    return instance(cls, name, {n: each for n, each in given.items() if n != key})


def instance(
    cls: type, name: str, given: Mapping[str, Any], more: Iterable[str] = ()
) -> tuple[Any, list[Problem]]:
    """A dataclass of these options, and what is wrong with them; `more` are keys beside them."""
    values, problems = checked(cls, given, name, more)
    missing = (n for n, o in options(cls).items() if o.required or (o.made and n in given))
    if not all(n in values for n in missing):
        return None, problems
    found, wrong = made(cls, values)
    return found, [*problems, *wrong]


def written(kind: str, key: str, thing: Any) -> dict[str, Any]:
    """What a registered class made, as `by_name` reads it, with every option."""
    cls = type(thing)
    name = registry.name_of(kind, cls)
    if name is None:
        own = getattr(thing, "name", cls.__name__)
        raise NetirError(
            f"the {kind} '{own}' is not registered, so a spec cannot name it",
            where=cls.__qualname__,
            fix="offer it by an entry point",
        )
    return {key: name, **plain_options(thing)}


def plain_options(thing: Any) -> dict[str, Any]:
    """The options of a dataclass as plain data."""
    return {
        name: option.plain(getattr(thing, name))
        for name, option in options(type(thing)).items()
        if option.in_files
    }


def text(name: str, thing: Any, more: Mapping[str, str] = MappingProxyType({})) -> str:
    """A dataclass as `name(option=value)`, with the options that are not as they are by default."""
    given = {
        option.name: _option_text(option, getattr(thing, option.name))
        for option in options(type(thing)).values()
        if option.required or getattr(thing, option.name) != option.default
    }
    return f"{name}({', '.join(f'{n}={value}' for n, value in {**given, **more}.items())})"


def text_of(kind: str, thing: Any) -> str:
    """What a registered class made, or a function, as text."""
    if not kind or not is_dataclass(thing):
        return str(getattr(thing, "__name__", repr(thing)))
    return text(registry.name_of(kind, type(thing)) or type(thing).__name__, thing)


def _option_text(option: Option, value: Any) -> str:
    return text_of(option.kind, value) if callable(value) else repr(value)


def _function_name(option: Option, function: Any) -> str:
    name = registry.name_of(option.kind, function) if option.kind else None
    if name is None:
        raise NetirError(
            f"option '{option.name}' is a function that no name is registered for",
            fix="offer it by an entry point",
        )
    return name


def _plain(hint: Any) -> Any:
    """The part of a type hint that a file can give; None if there is none."""
    if get_origin(hint) in UNIONS:
        parts = [part for part in map(_plain, get_args(hint)) if part is not None]
        known = [part for part in parts if part is not type(None)]
        return Union[tuple(parts)] if known else None  # noqa: UP007 - of a tuple
    if _callable(hint):
        return None
    try:
        TypeAdapter(tuple[hint], config=_STRICT).json_schema()
    except (PydanticUserError, PydanticInvalidForJsonSchema, PydanticUndefinedAnnotation):
        return None
    return hint


def checked(
    cls: type, given: Mapping[str, Any], subject: str, more: Iterable[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """The values of the fields that are given, and what is wrong with the others."""
    known, values, problems = options(cls), dict[str, Any](), list[Problem]()
    usable = [*(name for name, option in known.items() if option.in_files), *more]
    for name, value in given.items():
        option = known.get(name)
        if option is None:
            fix = nearest(name, usable)
            problems.append(Problem((name,), f"{subject} has no option '{name}'", fix, key=True))
        elif not option.in_files:
            problems.append(Problem((name,), f"option '{name}' of {subject} cannot be given in a "
                                    "file", "give it in a program", key=True))  # fmt: skip
        elif option.made and value is not None:
            found, wrong = by_name(option.kind, "name", value)
            problems += [replace(problem, path=(name, *problem.path)) for problem in wrong]
            if not wrong:
                values[name] = found
        else:
            try:
                values[name] = option.read(value)
            except (TypeError, ValueError) as error:
                problems.append(_mistyped(option, value, subject, error))
    for name, option in known.items():
        if option.required and name not in given:
            problems.append(Problem((), f"{subject} needs the option '{name}'", option.takes))
    return values, problems


def _mistyped(option: Option, value: Any, subject: str, error: Exception) -> Problem:
    what = f"option '{option.name}' of {subject} takes {option.takes}, not {shown(value)}"
    known = [c for c in choices(option.hint) if isinstance(c, str)]
    if known and isinstance(value, str):
        return Problem((option.name,), what, nearest(value, known))
    inner = error.errors() if isinstance(error, ValidationError) else []
    if inner and len(inner[0]["loc"]) > 1 and get_origin(option.hint) not in UNIONS:
        path = ".".join(map(str, inner[0]["loc"][1:]))
        return Problem((option.name,), what, f"{path}: {inner[0]['msg']}")
    return Problem((option.name,), what)


def made(cls: type, values: Mapping[str, Any]) -> tuple[Any, list[Problem]]:
    """The instance, or what its own checks say: at every option that is wrong by itself."""
    try:
        return cls(**values), []
    except _REFUSALS as error:
        whole = _refusal((), error)
    return None, list(_alone(cls, values)) or [whole]


def _alone(cls: type, values: Mapping[str, Any]) -> Iterator[Problem]:
    """The options that are refused when they are given alone, and also beside those that are not.

    One may be right only beside another, as a score that a kind has.
    """
    needed = {name for name, option in options(cls).items() if option.required or option.made}
    base = {name: value for name, value in values.items() if name in needed}
    if _refused(cls, base):
        return
    found = {name: _refused(cls, base | {name: value}) for name, value in values.items()}
    right = {name: value for name, value in values.items() if not found[name]}
    for name, error in found.items():
        if error and _refused(cls, right | {name: values[name]}):
            yield _refusal((name,), error)


def _refused(cls: type, values: Mapping[str, Any]) -> Exception | None:
    try:
        cls(**values)
    except _REFUSALS as error:
        return error
    return None


def _refusal(path: Path, error: Exception) -> Problem:
    if isinstance(error, NetirError):
        return Problem(path, error.what, error.fix)
    return Problem(path, str(error) or type(error).__name__)


__all__ = ["Option", "by_name", "checked", "in_words", "instance", "made", "options",
           "plain_options", "text", "text_of", "written"]  # fmt: skip
