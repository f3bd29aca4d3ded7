"""NORTH*: neurogenesis by orthogonality (Maile, Rachelson, Luga, Wilson 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from netir.passes.growth.grower import Grower
from netir.passes.growth.inits import EPSILON, Init
from netir.passes.growth.triggers import Activations, Trigger


@dataclass
class North(Grower):
    """Grow where the units of a layer are nearly all of use, by units that are unlike them.

    NORTH-Select as it is; `init` "pre", "random" or "weight" gives the others. Published settings:
    γ = 0.97 for fully connected networks, 0.9 to 0.99 for VGG, 0.99 for wide ResNets. Another
    `trigger`, such as `Weights()`, comes with options of its own.
    """

    init: str | Init = "select"
    gamma: float = 0.97
    epsilon: float = EPSILON
    metric: Literal["rank", "gap"] = "rank"
    whole: bool = False

    def asked(self) -> Trigger:
        return self.trigger or Activations(self.gamma, self.epsilon, self.metric, self.whole)


__all__ = ["North"]
