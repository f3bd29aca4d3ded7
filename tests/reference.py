"""The reference of all passes in docs/passes.md, written from the passes themselves.

`python -m tests.reference docs/passes.md` writes it anew; test_docs.py holds the page to it.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields
from pathlib import Path

from netir.passes import PASSES
from netir.passes.scores import SCORES
from netir.rewrite import Pass
from tests.marked import embed


def section(name: str, cls: type[Pass]) -> str:
    """One pass: its contract, its options with their defaults, and what it says of itself."""
    options = ", ".join(f"{f.name}={f.default!r}" for f in fields(cls)[2:])
    call = f"passes.{cls.__name__}(where='*'{', ' if options else ''}{options})"
    about = inspect.cleandoc(cls.__doc__ or "")
    return f"### {name}\n\n`{call}`\n\nContract: `{cls.preserves.value}`.\n\n{about}\n"


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
