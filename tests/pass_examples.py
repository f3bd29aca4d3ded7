"""For every pass the examples that are proved on every sample of the zoo; none needs data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from netir.passes import Prune, Widen
from netir.rewrite import Pass

EXAMPLES: Mapping[str, tuple[Pass, ...]] = MappingProxyType(
    {
        "prune": (Prune(amount=0.4, score="l1"),),
        "widen": (Widen(factor=1.5),),
    }
)
