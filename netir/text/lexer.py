"""Tokens of the text form, and the errors that say where in a text something is wrong.

A `Tokens` is read from left to right, one token ahead, so a text is never held twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import NoReturn

from netir.errors import NetirError, nearest

_NAME = r"[A-Za-z_0-9]+(?:\.[A-Za-z_0-9]+)*"
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_TOKEN = re.compile(
    r"(?:[ \t\r\n]+|\#[^\n]*)*(?:"
    rf"%(?P<value>{_NAME}|{_STRING})"
    rf"|@(?P<param>{_NAME}|{_STRING})"
    r"|(?P<word>[A-Za-z_][A-Za-z_0-9]*(?:\.[A-Za-z_0-9]+)*)"
    r"|(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<mark>//|[-+*%(){}\[\]:,=])"
    rf"|(?P<string>{_STRING})"
    r"|\$(?P<slot>[0-9]+)"
    r"|(?P<end>\Z)"
    r"|(?P<bad>.))"
)
_PLAIN = re.compile(_NAME)
_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*(?:\.[A-Za-z_0-9]+)*")
_SIGILS = {"value": "%", "param": "@", "slot": "$"}

_LONGEST_NAME = 1000
_CANDIDATES = 2000


def quote(text: str) -> str:
    """A string of the text form: ASCII only, on one line."""
    return json.dumps(text)


def show_name(name: str) -> str:
    """A name after `%` or `@`, quoted where it is no dotted path."""
    return name if _PLAIN.fullmatch(name) else quote(name)


def show_word(name: str, reserved: Iterable[str] = ()) -> str:
    """A name that stands by itself, quoted where it could be taken for something else."""
    return name if _WORD.fullmatch(name) and name not in reserved else quote(name)


class Tokens:
    """A text as tokens; `kind` and `text` are those of the next one."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._found = _TOKEN.finditer(source)
        self._match: re.Match[str]
        self.kind = ""
        self.text = ""
        self.next()

    def next(self) -> str:
        """Go on by one token; gives the text of the one left behind."""
        left = self.text
        if self.kind != "end":
            self._match = match = next(self._found)
            self.kind = match.lastgroup  # type: ignore[assignment]
            self.text = match[self.kind]
            if self.kind == "bad":
                self._fail_bad()
        return left

    def at(self, mark: str) -> bool:
        """Whether the next token is this mark."""
        return self.text == mark and self.kind == "mark"

    def take(self, mark: str) -> bool:
        """Go past a mark if it is there."""
        if self.text == mark and self.kind == "mark":
            self.next()
            return True
        return False

    def need(self, mark: str, after: str = "") -> None:
        """Go past a mark that must be there."""
        if self.text != mark or self.kind != "mark":
            self.expected(f"'{mark}'{after and f' after {after}'}")
        self.next()

    def word(self, *known: str) -> str:
        """Go past one of some words."""
        if self.kind != "word" or self.text not in known:
            self.expected(" or ".join(f"'{w}'" for w in known))
        return self.next()

    def name(self, kind: str, what: str) -> str:
        """Go past a name, plain or quoted, of the kind `value`, `param`, `word` or `string`."""
        if self.kind != kind and not (kind == "word" and self.kind == "string"):
            self.expected(what)
        name = self.unquoted()
        if not name or name[0] == "@" or len(name) > _LONGEST_NAME:
            self.fail(f"'{_clip(name)}' cannot be a name", "use 1 to 1000 characters, no '@' first")
        self.next()
        return name

    def string(self, what: str) -> str:
        """Go past a quoted string."""
        if self.kind != "string":
            self.expected(what)
        text = self.unquoted()
        self.next()
        return text

    def unquoted(self) -> str:
        """What the next token says, without quotes and escapes."""
        if self.text[:1] != '"':
            return self.text
        try:
            return str(json.loads(self.text))
        except ValueError:
            self.fail(f"{_clip(self.text)} has a wrong escape", 'write \\" \\\\ \\n or \\u00e9')

    def place(self) -> int:
        """Where the next token begins; for `fail`."""
        return self._match.start(self.kind) - (self.kind in _SIGILS)

    def fail(self, what: str, fix: str = "", place: int | None = None) -> NoReturn:
        """Raise an error at a place, by default the next token."""
        start = self.place() if place is None else place
        line = self._source.count("\n", 0, start) + 1
        column = start - self._source.rfind("\n", 0, start)
        raise NetirError(what, f"line {line}, column {column}", fix)

    def expected(self, what: str) -> NoReturn:
        """Raise that the next token is not `what`."""
        text = _clip(_SIGILS.get(self.kind, "") + self.text)
        found = "the end of the text" if self.kind == "end" else f"'{text}'"
        self.fail(f"expected {what}, found {found}", f"write {what} here")

    def unknown(self, what: str, name: str, known: Iterable[str], place: int) -> NoReturn:
        """Raise that there is no such name, with the nearest known one."""
        few = [k for _, k in zip(range(_CANDIDATES), known, strict=False) if len(k) < 200]
        self.fail(f"{what} '{_clip(name)}'", nearest(name[:200], few), place)

    def _fail_bad(self) -> NoReturn:
        if self.text == '"':
            self.fail("a string is not closed on its line", 'end it with "')
        self.fail(f"unexpected character {self.text!r}", "quote names that are not plain")


def _clip(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
