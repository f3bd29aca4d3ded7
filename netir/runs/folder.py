"""The folder of a run: what lies where, who may write, and parts that appear whole or not at all.

    spec.yaml            the spec as it was run
    journal.jsonl        what happened (journal.py)
    log.txt              the same in words
    steps/model/         the network as it was given: graph.netir, step.json
    steps/NN-name/       the same after each step, and optimizer.safetensors after training
    exports/             what the spec wanted exported
    report.html          the report

One process at a time holds the folder, by a lock that ends with the process however it ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from netir.errors import NetirError
from netir.files import reason, to_disk

LOCK = ".lock"
JOURNAL = "journal.jsonl"
_PARTS = ("steps", "exports", "log.txt", "report.html", "spec.yaml")
_DRAFTS = {
    "": re.compile(r"\.(exports(\.old)?|(spec\.yaml|report\.html)\.[0-9a-f]{12})\.tmp"),
    "steps": re.compile(r"\..+\.tmp"),
}
"""What files and folders are called while they are written, by where they lie."""


class RunFolder:
    """A folder of a run; `RunFolder.held` is one that this process holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @contextmanager
    def held(cls, path: Path) -> Iterator[RunFolder]:
        """A folder that nobody else can run in meanwhile; made if it is missing."""
        found = cls(path)
        with _told(path):
            path.mkdir(parents=True, exist_ok=True)
        found.check()  # before anything is written into it
        with _told(path):
            lock = _locked(path / LOCK)
        try:
            found.check()
            found.sweep()
            yield found
        finally:
            os.close(lock)

    def check(self) -> None:
        """Refuse a folder that something else lives in, and links that lead out of it."""
        with _told(self.path):
            found = {entry.name for entry in self.path.iterdir()}
        if JOURNAL not in found and found - {LOCK}:
            raise NetirError(
                f"'{self.path}' has files in it and is not the folder of a run",
                where=", ".join(sorted(found - {LOCK})[:3]),
                fix="name an empty folder, or one that does not exist",
            )
        for name in (LOCK, JOURNAL, *_PARTS):
            self.inside(name)

    def sweep(self) -> None:
        """Take away the drafts of a process that was killed."""
        with _told(self.path):
            for name, draft in _DRAFTS.items():
                folder = self.path / name
                for entry in folder.iterdir() if folder.exists() else ():
                    if draft.fullmatch(entry.name):
                        _removed(entry)

    @property
    def journal(self) -> Path:
        return self.path / JOURNAL

    def clear(self) -> None:
        """Take away all that a run wrote, the journal first: what is not in it is not finished."""
        with _told(self.path):
            if self.journal.exists():
                os.truncate(self.journal, 0)
                to_disk(self.journal)
            for name in _PARTS:
                _removed(self.path / name)

    def inside(self, name: str) -> Path:
        """The place of a file in the folder; one that leads out of it is refused."""
        parts = PurePosixPath(name).parts
        if not parts or name.startswith(("/", "~")) or ".." in parts or "\\" in name:
            raise NetirError(
                f"'{name}' is no place inside the folder of the run",
                fix="give a relative name without '..', such as net.onnx",
            )
        place = self.path
        for part in parts:
            place = place / part
            if place.is_symlink():
                raise NetirError(
                    "a link stands where the run would write", str(place),
                    "remove it: a run writes inside its own folder only",
                )  # fmt: skip
        return place

    def step(self, index: int, name: str) -> Path:
        """The folder of a step, by its number in the spec; the network itself has number -1."""
        if index < 0:
            return self.inside("steps/model")
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-") or "step"
        return self.inside(f"steps/{index:02d}-{plain[:60]}")

    @contextmanager
    def making(self, target: Path) -> Iterator[Path]:
        """A draft of a folder that takes its place in one go when the block succeeds."""
        draft = target.with_name(f".{target.name}.tmp")
        old = target.with_name(f".{target.name}.old.tmp")
        with _told(target):
            _removed(draft)
            draft.mkdir(parents=True)
            try:
                yield draft
                for file in draft.iterdir():
                    to_disk(file)
                to_disk(draft)
                _removed(old)
                if target.exists():
                    target.rename(old)  # in one go: a kill never leaves half of it in its place
                draft.rename(target)
                to_disk(target.parent)
                to_disk(target.parent.parent)
                _removed(old)
            finally:
                _removed(draft)

    def remove(self, path: Path) -> None:
        """Take a part of the folder away, if it is there."""
        with _told(path):
            _removed(path)

    def log(self, text: str) -> None:
        """Add lines to the log; it may end in half a line if the run is killed."""
        with _told(self.path), self.inside("log.txt").open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _locked(path: Path) -> int:
    """A handle that holds the lock; the system lets go of it when the process ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise NetirError(
            "another process is running in this folder", str(path.parent),
            "wait for it, or run into another folder",
        ) from None  # fmt: skip
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system refuses, in words."""
    try:
        yield
    except OSError as error:
        raise NetirError(
            f"cannot write in the folder of the run: {reason(error)}",
            str(error.filename or path),
            "make room or give leave to write; the run goes on from its last finished step",
        ) from error


__all__ = ["RunFolder"]
