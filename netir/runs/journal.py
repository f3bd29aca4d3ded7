"""The journal of a run: one event a line, appended and never changed.

What the journal does not say has not happened: a step is finished once its line is on the disk. A
line that was cut short by a kill is dropped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from netir.errors import NetirError
from netir.files import reason, to_disk

VERSION = 1
"""Of the format of the journal, which every line bears."""


_ANEW = "run into another folder, or start anew with --fresh"


@dataclass(frozen=True)
class Event:
    """Something that happened in a run, and when."""

    kind: str
    time: str
    data: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.data[name]


class Journal:
    """The events of a run, in memory and on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found, self._end = _read(path)
        self.events = found

    def append(self, kind: str, /, **data: Any) -> Event:
        """Write an event down; it is on the disk when this returns."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = Event(kind, time, plain(data))
        line = {"journal": VERSION, "time": time, "event": kind, **event.data}
        self._write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self.events.append(event)
        return event

    def last(self, kind: str) -> Event | None:
        """The last event of a kind, if there is one."""
        return next((e for e in reversed(self.events) if e.kind == kind), None)

    def all(self, kind: str) -> Iterator[Event]:
        """Every event of a kind, in order."""
        return (e for e in self.events if e.kind == kind)

    def _write(self, line: bytes) -> None:
        """After what is whole: the rest of a line that was cut short goes."""
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                os.ftruncate(handle, self._end)
                os.lseek(handle, self._end, os.SEEK_SET)
                if os.write(handle, line) != len(line):
                    raise OSError("the disk took only a part of a line")
                os.fsync(handle)
            finally:
                os.close(handle)
            if self._end == 0:
                to_disk(self.path.parent)
        except OSError as error:
            raise NetirError(
                f"cannot write the journal: {reason(error)}", str(self.path),
                "make room or give leave to write; the run goes on from its last finished step",
            ) from error  # fmt: skip
        self._end += len(line)


def _read(path: Path) -> tuple[list[Event], int]:
    """The events in a journal, and where its last whole line ends."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise NetirError(f"cannot read the journal: {reason(error)}", str(path)) from error
    events: list[Event] = []
    end = 0
    lines = content.split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        event = _event(line)
        if event is None and number == len(lines):
            break
        if event is None:
            raise NetirError(
                "the journal is damaged", f"{path}, line {number}", _ANEW
            )
        events.append(event)
        end += len(line) + 1
    return events, end


def _event(line: bytes) -> Event | None:
    """The event that a line tells; None if it tells none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    version = found.pop("journal", None)
    kind, time = found.pop("event", None), found.pop("time", None)
    if isinstance(version, int) and version != VERSION:
        raise NetirError(
            f"the journal has format {version}, this netir reads {VERSION}",
            fix="use the version of netir that wrote it, or run into another folder",
        )
    if version != VERSION or not isinstance(kind, str) or not isinstance(time, str):
        return None
    return Event(kind, time, found)


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """What is missing or of a wrong kind in a file of a run, told as damage."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OSError, SafetensorError) as error:
        raise NetirError(
            f"a file of the run is damaged: {str(error)[:80]}", str(path), _ANEW
        ) from error


def plain(value: Any) -> Any:
    """What JSON can hold of a value: no tuples, and None for what is no number."""
    match value:
        case bool() | int() | str() | None:
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    raise TypeError(f"a journal cannot hold a {type(value).__name__}")


__all__ = ["VERSION", "Event", "Journal", "damaged", "plain"]
