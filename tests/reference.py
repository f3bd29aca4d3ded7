"""The reference of all passes in docs/passes.md, written from the passes themselves.

`python -m tests.reference docs/passes.md` writes it anew; test_docs.py holds the page to it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from netir.passes import PASSES
from netir.passes.scores import SCORES
from netir.rewrite import Pass
from netir.spec.options import options
from netir.spec.words import choices
from tests.marked import embed


def section(name: str, cls: type[Pass]) -> str:
    """One pass: its contract, its options with their defaults, and what it says of itself."""
    given = ", ".join(f"{f.name}={f.default!r}" for f in fields(cls)[2:])
    call = f"passes.{cls.__name__}(where='*'{', ' if given else ''}{given})"
    about = inspect.cleandoc(cls.__doc__ or "")
    told = f"### {name}\n\n`{call}`\n\nContract: `{cls.preserves.value}`.\n\n{about}\n"
    lines = "".join(closed(cls))
    return f"{told}\n{lines}" if lines else told


def closed(cls: type[Pass]) -> Iterator[str]:
    """The options that take one of a few values, each with these in a line of its own."""
    for option in options(cls).values():
        known = [choice for choice in choices(option.hint) if choice is not None]
        if known:
            yield f"- `{option.name}` is one of {', '.join(f'`{choice}`' for choice in known)}.\n"


def reference() -> str:
    """All passes and all scores in Markdown."""
    scores = "\n".join(
        f"- `{name}`: {inspect.cleandoc(score.__doc__ or '').partition(chr(10) * 2)[0]}"
        for name, score in SCORES.items()
    )
    passes = "\n".join(section(name, cls) for name, cls in PASSES.items())
    return f"{passes}\n### Scores of prune\n\n{scores}"


if __name__ == "__main__":
    embed(Path(sys.argv[1]), "reference", reference())
