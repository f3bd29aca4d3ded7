"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from netir.errors import NetirError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A draft beside the target that takes its place when the block succeeds."""
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


def to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reason(error: Exception) -> str:
    """What went wrong with a file, in words."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    return getattr(error, "strerror", None) or str(error)
