"""The passes: rewrites ready for use, one family in each file, all listed here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from netir.passes.prune import Prune
from netir.passes.widen import Widen
from netir.rewrite import Pass

PASSES: Mapping[str, type[Pass]] = MappingProxyType({p.name: p for p in (Prune, Widen)})
"""Every pass by its name."""

__all__ = ["PASSES", "Prune", "Widen"]
