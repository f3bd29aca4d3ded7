"""Schedules: pruning in steps, with training in between."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, get_args

from netir.errors import NetirError, nearest
from netir.passes.prune import Prune

Shape = Literal["linear", "cubic", "geometric"]
SHAPES: tuple[str, ...] = get_args(Shape)


def schedule(pass_: Prune, steps: int, shape: Shape = "linear") -> tuple[Prune, ...]:
    """A pass as several that together do the same, each relative to what is left before it.

    With t the share of the steps that is done, `linear` has removed t of the whole amount, `cubic`
    1 - (1 - t)^3 of it, so that most goes early (Zhu and Gupta 2017), and `geometric` takes the
    same share of what is left every time. The option `most` is dealt out in the same way.

    Indices are whole: of a space that would lose less than half of one in a step nothing goes, so
    that many steps want large spaces, or the scope "global".
    """
    if not isinstance(pass_, Prune):
        raise NetirError(f"there is no schedule for {pass_}", fix="give a Prune")
    if shape not in SHAPES:
        raise NetirError(f"there is no schedule '{shape}'", fix=nearest(shape, SHAPES))
    if steps < 1:
        raise NetirError(f"a schedule cannot have {steps} steps", fix="use a whole number from 1")
    target, share = pass_.target, getattr(pass_, pass_.target)
    if target == "amount":
        shares = _removed(share, steps, shape)
    else:
        shares = [1 - gone for gone in _removed(1 - share, steps, shape)]
    most = [1.0] * steps if pass_.most == 1 else _removed(pass_.most, steps, shape)
    changes: list[dict[str, Any]] = [
        {target: share, "most": limit} for share, limit in zip(shares, most, strict=True)
    ]
    return tuple(replace(pass_, **change) for change in changes)


def _removed(whole: float, steps: int, shape: str) -> list[float]:
    """What goes in each step, as a share of what is left before it."""
    left = [_left(1 - whole, step / steps, shape) for step in range(steps + 1)]
    return [1 - after / before for before, after in pairwise(left)]


def _left(keep: float, done: float, shape: str) -> float:
    """The share that is left when this share of the steps is done."""
    if shape == "geometric":
        return float(keep**done)
    return 1 - (1 - keep) * (done if shape == "linear" else 1 - (1 - done) ** 3)


__all__ = ["SHAPES", "Shape", "schedule"]
