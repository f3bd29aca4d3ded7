"""The one error that netir raises at its users: what happened, where, and what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

_FULL = re.compile(r"can't allocate|ried to allocate|ailed to allocate|alloc failed|bad_alloc")


class NetirError(Exception):
    """A request that cannot be met. Nothing has been changed when it is raised."""

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        lines = [what]
        if where:
            lines.append(f"  at  {where}")
        if fix:
            lines.append(f"  fix {fix}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[NetirError], tuple[str, str, str]]:
        return type(self), (self.what, self.where, self.fix)


class ContractError(NetirError):
    """A rewrite that does not keep what it promises."""


class DataError(NetirError):
    """A pass that needs data, and was given none."""


class NetirWarning(UserWarning):
    """Something the user should know that is not an error."""


def expect(condition: object, what: str) -> None:
    """Raise `what` unless `condition` holds; whoever calls an op's rule adds where and fix."""
    if not condition:
        raise NetirError(what)


def first_line(error: BaseException) -> str:
    """What went wrong, shortened to a line; of an error without words, its kind."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return line if len(line) <= 300 else f"{line[:300]}…"


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch, protobuf and ONNX Runtime say so in words only."""
    return isinstance(error, MemoryError) or _FULL.search(str(error)) is not None


@contextmanager
def blaming(told: Callable[[Exception], Exception]) -> Iterator[None]:
    """Whatever fails in the block as the error that `told` makes of it.

    For readers of files, and for other libraries, which fail in ways that nobody can list. That
    memory or the depth of calls ran out is told as what it is, and a NetirError stays one.
    """
    try:
        yield
    except NetirError:
        raise
    except RecursionError as error:
        raise NetirError(
            "this is nested too deeply", fix="use fewer levels; a damaged file may have too many"
        ) from error
    except Exception as error:
        if out_of_memory(error):
            raise NetirError(
                "this needs more memory than there is", fix="free some, or use a larger machine"
            ) from error
        raise told(error) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """A 'did you mean' sentence for a misspelt name, or a list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    shown = ", ".join(known[:8])
    return f"known: {shown}{', …' if len(known) > 8 else ''}" if known else "there is none"
