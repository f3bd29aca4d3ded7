"""Pipelines as text: `fold | prune(amount=0.3)`, with the names and options that specs use.

`str(pipeline)` writes it, `pipeline_of` reads it back.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from netir.errors import NetirError
from netir.pipeline import Pipeline
from netir.spec.model import Spec
from netir.spec.steps import PassStep

_STRING = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_OPTIONS = rf"\(((?:{_STRING}|[^'\"|])*)\)"
_PIECE = re.compile(rf"\s*([A-Za-z][\w.-]*)\s*(?:{_OPTIONS})?\s*(\||\Z)", re.DOTALL)
_FIX = "write fold | prune(where='layer1.*', amount=0.3)"


def pipeline_of(text: str) -> Pipeline:
    """The pipeline that a text tells; an empty text is the empty one."""
    steps: list[dict[str, Any]] = []
    place, more = 0, bool(text.strip())
    while more:
        found = _PIECE.match(text, place)
        if found is None:
            raise NetirError("this is no pipeline", f"at '{text[place : place + 40]}'", _FIX)
        name, options, sign = found.groups()
        steps.append({"pass": name, **_options(name, options or "")})
        place, more = found.end(), sign == "|"
    passes = (step for step in Spec(passes=steps).passes)
    return Pipeline(step.rewrite for step in passes if isinstance(step, PassStep))


def _options(name: str, text: str) -> dict[str, Any]:
    """`amount=0.3, where='*'` as data."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not all(k.arg for k in call.keywords):
            raise ValueError("options are written name=value")
        found = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        if len(found) < len(call.keywords):
            raise ValueError("an option is there twice")
        return found
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise NetirError(
            f"the options of {name} cannot be read", f"({text[:60]})", _FIX
        ) from error


__all__ = ["pipeline_of"]
