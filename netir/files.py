"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from netir.errors import NetirError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A draft beside the target that takes its place when the block succeeds."""
    expect_replaceable(target)
    target = target.resolve()
    draft = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = (target if target.exists() else draft).stat().st_mode
        yield draft
        os.chmod(draft, mode & 0o777)
        to_disk(draft)
        os.replace(draft, target)
        to_disk(target.parent)
    except (OSError, SafetensorError) as error:
        raise NetirError(
            f"cannot write the file: {reason(error)}",
            str(target),
            "the file that was there before, if any, is unchanged",
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def expect_replaceable(target: Path) -> None:
    """Devices, pipes and sockets are no files: one in their place would take them from everybody.

    A folder in the way is told by the system, when the file is moved.
    """
    with suppress(OSError):
        mode = target.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise NetirError(
                "cannot write the file: there is a device, a pipe or a socket of this name",
                str(target),
                "choose another name",
            )


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """A folder, made if it is not there; if the block fails, what was made and is empty goes."""
    made: list[Path] = []
    try:
        try:
            made += [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NetirError(f"cannot make the folder: {reason(error)}", str(path)) from None
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reason(error: Exception) -> str:
    """What went wrong with a file, in words."""
    told = re.search(r"\(os error (\d+)\)", str(error))
    if isinstance(error, SafetensorError) and told:
        error = OSError(int(told[1]), os.strerror(int(told[1])))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    return getattr(error, "strerror", None) or str(error)
