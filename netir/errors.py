"""The one error that netir raises at its users: what happened, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def nearest(name: str, known: Iterable[str]) -> str:
    """A 'did you mean' sentence for a misspelt name, or a list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    shown = ", ".join(known[:8])
    return f"known: {shown}{', …' if len(known) > 8 else ''}" if known else "there is none"
