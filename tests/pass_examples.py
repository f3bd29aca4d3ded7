"""For every pass the examples that are proved on every sample of the zoo; none needs data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from netir.passes import (
    Bake,
    Collapse,
    Constrain,
    Deepen,
    Factorize,
    Fold,
    Grow,
    Keep,
    Lift,
    Mask,
    Merge,
    Mix,
    Prune,
    PruneBranches,
    Regrow,
    Relax,
    Shrink,
    Slim,
    Unmask,
    Widen,
)
from netir.rewrite import Pass

EXAMPLES: Mapping[str, tuple[Pass, ...]] = MappingProxyType(
    {
        "bake": (Bake(),),
        "collapse": (Collapse(),),
        "constrain": (Constrain(),),
        "lift": (Lift(to="C2"),),
        "mix": (Mix(),),
        "relax": (Relax(),),
        "deepen": (
            Deepen(), Deepen(norm=True, every=2), Deepen(kind="residual"), Deepen(kind="cell"),
        ),
        "shrink": (
            Shrink(count=0), Shrink(kind="conv", count=0), Shrink(kind="cell", exact=True),
            Shrink(kind="block", score="random", count=3),
        ),
        "fold": (Fold(), Fold(what="constants", freeze=True)),
        "grow": (Grow(count=2), Grow(init="weight", round_to=2), Grow(init="net2wider")),
        "keep": (Keep(),),
        "mask": (Mask(), Mask(pattern="1:2")),
        "regrow": (Regrow(amount=0.5, score="random"),),
        "unmask": (Unmask(),),
        "factorize": (Factorize(), Factorize(ratio=0.5, kind="tucker", only_if_smaller=False)),
        "merge": (Merge(always=True),),
        "slim": (Slim(rank=2), Slim(ratio=0.5, through_activations=True)),
        "prune": (
            Prune(amount=0.4, score="l1"),
            Prune(amount=0.5, score="lamp", scope="global", readers=True, round_to=2, uniform=True),
        ),
        "prune-branches": (PruneBranches(amount=1), PruneBranches(count=1, score="random")),
        "widen": (Widen(factor=1.5),),
    }
)
