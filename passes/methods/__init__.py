"""Published algorithms, one per file, each composed of passes, scores, inits and triggers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from netir.passes.growth.grower import Grower
from netir.passes.methods.dyno import Dyno, GrowAndPrune
from netir.passes.methods.north import North
from netir.passes.methods.presets import Firefly, GradMax, Nest
from netir.passes.methods.surgical import AutoRgn

GROWERS: Mapping[str, type[Grower]] = MappingProxyType({
    "dyno": Dyno, "firefly": Firefly, "gradmax": GradMax, "grow_and_prune": GrowAndPrune,
    "grower": Grower, "nest": Nest, "north": North,
})  # fmt: skip
"""Every method that changes widths while a model trains, by its name."""

__all__ = ["GROWERS", "AutoRgn", "Dyno", "Firefly", "GradMax", "GrowAndPrune", "Grower", "Nest",
           "North"]  # fmt: skip
