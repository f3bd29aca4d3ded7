"""Growing methods that take their times from a schedule: GradMax, Firefly, NeST."""

from __future__ import annotations

from dataclasses import dataclass, field

from netir.passes.growth.grower import Grower
from netir.passes.growth.inits import Init
from netir.passes.growth.triggers import Every, Gradients, Trigger


@dataclass
class GradMax(Grower):
    """Units that nothing feeds and whose gradient is as large as can be (Evci et al. 2022).

    As published: from step 10,000 on, twelve times after 2,500 steps each, a quarter of the first
    width, read by weights of half the usual size.
    """

    trigger: Trigger | None = field(
        default_factory=lambda: Every(2500, share=0.25, start=10_000, times=12)
    )
    init: str | Init = "gradmax"
    scale: float = 0.5


@dataclass
class Firefly(Grower):
    """The best of copies that part and of drawn units (Wu, Liu, Stone, Liu 2020)."""

    trigger: Trigger | None = field(default_factory=lambda: Every(2500, share=0.25, times=12))
    init: str | Init = "firefly"


@dataclass
class Nest(Grower):
    """Units across connections with large gradients (NeST: Dai, Yin, Jha 2019)."""

    trigger: Trigger | None = field(default_factory=Gradients)
    init: str | Init = "nest"


__all__ = ["Firefly", "GradMax", "Nest"]
