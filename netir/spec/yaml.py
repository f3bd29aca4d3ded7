"""YAML as specs use it: plain data with the place of every part, and data as canonical text.

Only numbers, strings, true, false, null, sequences and mappings with keys that differ: no tags, no
anchors, one document. Words mean what the core schema of YAML 1.2 says: `no` is a string.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)

from netir.errors import NetirError, first_line

Path = tuple[str | int, ...]

LARGEST = 64 * 1024
"""How many characters a text may have."""
_DEEPEST = 32
_FAULTS = (YAMLError, ArithmeticError, AssertionError, AttributeError, LookupError, TypeError,
           ValueError)  # fmt: skip
"""What ruamel.yaml raises of texts that are no YAML; not all of it is an error of its own."""
_LONGEST_NUMBER = 400
_LONGEST_KEY = 200

_CORE: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"null|Null|NULL|~|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
)


@dataclass(frozen=True)
class Document:
    """Plain data, and for every part of it where its key and its value stand in the text."""

    value: Any
    source: str = "the spec"
    keys: Mapping[Path, str] = field(default_factory=dict)
    values: Mapping[Path, str] = field(default_factory=dict)

    def where(self, path: Path, key: bool = False) -> str:
        """The place of a part: of its key, or of its value; what is not there is in its parent.

        In data that was in no text, it is the path.
        """
        if not self.values:
            return ".".join(map(str, path)) or self.source
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, self.source)


def read(text: str, source: str = "the spec") -> Document:
    """The data that a text holds; refuses what is no YAML, or more than data."""
    if len(text) > LARGEST:
        raise NetirError(
            f"the text has {len(text):,} characters", source, f"a spec has at most {LARGEST:,}"
        )
    reader = _Reader(text, source)
    return Document(reader.document(), source, reader.keys, reader.values)


class _Reader:
    """Makes data out of the events of the parser, which knows every place."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self.keys: dict[Path, str] = {}
        self.values: dict[Path, str] = {}
        self._events = self._parsed(text)

    def document(self) -> Any:
        """The data of the only document."""
        event = self._past_start()
        if isinstance(event, StreamEndEvent):
            return None
        value = self._value(event, ())
        if not isinstance(end := self._past_start(), StreamEndEvent):
            self._fail("there is a second document", end, "write one document in each file")
        return value

    def _past_start(self) -> Event:
        """The next event that is not about documents."""
        event = next(self._events)
        while isinstance(event, StreamStartEvent | DocumentEndEvent):
            event = next(self._events)
        if isinstance(event, DocumentStartEvent):
            if event.version is not None and tuple(event.version) != (1, 2):
                self._fail("this is another version of YAML", event, "write YAML 1.2")
            if self.values:
                return event
            event = next(self._events)
        return event

    def _parsed(self, text: str) -> Iterator[Event]:
        try:
            yield from YAML(typ="safe", pure=True).parse(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            parts = [str(part) for part in (error.context, error.problem) if part]
            place = self.source if mark is None else self._place(mark)
            raise NetirError(f"this is no YAML: {', '.join(parts)}", place) from None
        except _FAULTS as error:
            raise NetirError(f"this is no YAML: {first_line(error)}", self.source) from None

    def _value(self, event: Event, path: Path) -> Any:
        place = self.values[path] = self._place(event.start_mark)
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
            self._fail("anchors and aliases (& and *) are not for specs", event, "write it out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._fail(f"the tag {str(tag)[:60]} is not for specs", event, "leave it out")
        if len(path) > _DEEPEST:
            raise NetirError("the text is nested too deeply", place)
        match event:
            case ScalarEvent():
                return self._scalar(event)
            case SequenceStartEvent():
                return self._sequence(path)
            case MappingStartEvent():
                return self._mapping(path)
        raise AssertionError(f"unexpected {event}")

    def _sequence(self, path: Path) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            found.append(self._value(event, (*path, len(found))))
        return found

    def _mapping(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            if not isinstance(event, ScalarEvent) or event.anchor or event.tag:
                self._fail("a key must be a plain word", event, "write `name: value`")
            key = self._text(event)
            if len(key) > _LONGEST_KEY:
                self._fail("a key is too long", event, "write `name: value`")
            if key in found:
                first = self.keys[(*path, key)]
                self._fail(f"'{key}' is there twice", event, f"the first is at {first}")
            self.keys[(*path, key)] = self._place(event.start_mark)
            found[key] = self._value(next(self._events), (*path, key))
        return found

    def _scalar(self, event: ScalarEvent) -> Any:
        text = self._text(event)
        if event.style is not None:
            return text
        for pattern, convert in _CORE:
            if pattern.fullmatch(text):
                if len(text) > _LONGEST_NUMBER:
                    self._fail("this number is too long", event, "write it in quotes")
                return convert(text)
        if text in (".nan", ".NaN", ".NAN"):
            self._fail(f"{text} is no value for a spec", event, "write a number")
        return text

    def _text(self, event: ScalarEvent) -> str:
        """The text of a scalar, of characters that can be written to any file and terminal."""
        text: str = event.value
        if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in text):
            self._fail("there is a control character or half of a character", event, "leave it out")
        return text

    def _place(self, mark: Any) -> str:
        return f"{self.source}:{mark.line + 1}:{mark.column + 1}"

    def _fail(self, what: str, event: Event, fix: str) -> NoReturn:
        raise NetirError(what, self._place(event.start_mark), fix)


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*(:[A-Za-z0-9_./-]+)*")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def write(value: Any) -> str:
    """Data as text: the same bytes for equal data, and `read` gives the data back."""
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: Any) -> Iterator[str]:
    match value:
        case dict() if value:
            for key, part in value.items():
                yield from _entry(f"{_string(key)}:", part)
        case list() | tuple() if value:
            for part in value:
                first, *rest = _lines(part)
                yield f"- {first}"
                yield from (f"  {line}" for line in rest)
        case _:
            yield inline(value)


def _entry(head: str, part: Any) -> Iterator[str]:
    if isinstance(part, (dict, list, tuple)) and part and not _short(part):
        yield head
        yield from (f"  {line}" for line in _lines(part))
    else:
        yield f"{head} {inline(part)}"


def _short(value: Any) -> bool:
    """Whether a sequence fits on the line of its key: a few numbers and words."""
    return isinstance(value, (list, tuple)) and len(inline(value)) <= 60 and not any(
        isinstance(part, (dict, list, tuple)) for part in value
    )  # fmt: skip


def inline(value: Any) -> str:
    """Data on one line."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value).replace("inf", ".inf")
        case str():
            return _string(value)
        case dict():
            return f"{{{', '.join(f'{_string(k)}: {inline(v)}' for k, v in value.items())}}}"
        case list() | tuple():
            return f"[{', '.join(map(inline, value))}]"
    raise NetirError(f"a {type(value).__name__} has no place in a spec")


def _string(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and not any(p.fullmatch(text) for p, _ in _CORE)
    return text if plain else f'"{"".join(map(_character, text))}"'


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if character.isprintable() else f"\\U{ord(character):08x}"


__all__ = ["Document", "Path", "inline", "read", "write"]
