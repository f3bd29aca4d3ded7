"""The passes: rewrites ready for use, one family in each file, all listed here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from netir.passes.bake import Bake
from netir.passes.branches import PruneBranches
from netir.passes.collapse import Collapse
from netir.passes.constrain import Constrain
from netir.passes.deepen import Deepen
from netir.passes.factorize import Factorize
from netir.passes.fold import Fold
from netir.passes.grow import Grow
from netir.passes.keep import Keep
from netir.passes.lift import Lift
from netir.passes.mask import Mask, Regrow, Unmask
from netir.passes.merge import Merge
from netir.passes.mix import Mix
from netir.passes.prune import Prune
from netir.passes.regularise import Regulariser
from netir.passes.relax import Relax
from netir.passes.schedule import schedule
from netir.passes.shrink import Shrink
from netir.passes.slim import Slim
from netir.passes.widen import Widen
from netir.rewrite import Pass

_ALL: tuple[type[Pass], ...] = (
    Bake, Collapse, Constrain, Deepen, Factorize, Fold, Grow, Keep, Lift, Mask, Merge, Mix, Prune,
    PruneBranches, Regrow, Relax, Shrink, Slim, Unmask, Widen,
)  # fmt: skip
PASSES: Mapping[str, type[Pass]] = MappingProxyType({p.name: p for p in _ALL})
"""Every pass by its name."""

__all__ = [
    "PASSES", "Bake", "Collapse", "Constrain", "Deepen", "Factorize", "Fold", "Grow", "Keep",
    "Lift", "Mask", "Merge", "Mix", "Prune", "PruneBranches", "Regrow", "Regulariser", "Relax",
    "Shrink", "Slim", "Unmask", "Widen", "schedule",
]  # fmt: skip
