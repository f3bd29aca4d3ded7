"""Grow: new units with weights of their own, most often without a change of the function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch

from netir import registry
from netir.basis import Basis, Contract
from netir.calibration import Calibration
from netir.change import Rewritten
from netir.errors import NetirError
from netir.ir import Graph
from netir.passes.growth import inits
from netir.passes.growth.gradients import firefly, gradmax, nest, tiny
from netir.passes.growth.hidden import hidden
from netir.passes.growth.inits import Init, Wanted
from netir.passes.growth.plant import Sown, planted
from netir.passes.growth.seen import Seen
from netir.spaces import Space
from netir.where import expect_free
from netir.width import Planned, WidthPass, expect_width

INITS: Mapping[str, Init] = MappingProxyType({
    "random": inits.random, "select": inits.select, "pre": inits.pre, "weight": inits.weight,
    "net2wider": inits.net2wider, "gradmax": gradmax, "firefly": firefly, "nest": nest,
    "tiny": tiny,
})  # fmt: skip
"""Every init by its name."""


def init_called(name: str | Init) -> Init:
    """The init of a name, also of another package's; a function stands for itself."""
    if callable(name):
        return name
    found: Init = registry.called("init", name)
    return found


@dataclass(frozen=True)
class Grow(WidthPass):
    """Add units to spaces, with weights that an init chooses.

    How many: `count` for every space, or `counts` for spaces by their names, as ("fc1", 4); with
    `round_to` the new width is rounded up to a multiple.

    With what weights: `init` is a name out of `INITS`, or a function of a `Wanted`. With `random`,
    `select`, `pre`, `weight`, `gradmax` and `net2wider` the network computes what it did; `nest`,
    `firefly` and `tiny` change it, a little. `select` and `pre` look at what flows, the gradient
    inits also at a loss: pass a calibration. `candidates` is how many more units are tried than
    kept, `scale` the size of weights that read a new unit, where those are not zero, and `seed`
    is for what is drawn. A space whose every index is taken in by a norm, a softmax or a sum is
    left, with the reason, unless the units are copies.
    """

    name: ClassVar[str] = "grow"
    preserves: ClassVar[Contract] = Contract.CHANGED
    count: int = 1
    counts: tuple[tuple[str, int], ...] = ()
    init: str | Init = "random"
    candidates: int = 0
    scale: float = 1.0
    round_to: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, least in (("count", 1), ("round_to", 1), ("candidates", 0)):
            value = getattr(self, option)
            if not isinstance(value, int) or value < least:
                raise NetirError(
                    f"grow cannot use {option} {value}", fix=f"use a whole number from {least}"
                )
        init_called(self.init)
        if any(count < 0 for _, count in self.counts):
            raise NetirError("grow can only add units", fix="use counts from 0")

    def bases(
        self, graph: Graph, spaces: Sequence[Space], calibration: Calibration | None
    ) -> Mapping[str, Basis | str]:
        expect_free(graph, (name for name, _ in self.counts))
        layers = {space: hidden(graph, space) for space in spaces}
        seen = Seen(graph, tuple(layers.values()), calibration, self.seed)
        init = init_called(self.init)
        found: dict[str, Basis | str] = {}
        for number, (space, layer) in enumerate(layers.items()):
            count = self._count(space)
            if not count:
                found[space.name] = "no unit was asked for"
                continue
            expect_width(graph, space, space.size + count)
            generator = torch.Generator().manual_seed(self.seed + number)
            fans = init(Wanted(layer, count, seen, generator, self.candidates, scale=self.scale))
            found[space.name] = fans if isinstance(fans, str) else Sown.of(layer, fans)
        return found

    def _count(self, space: Space) -> int:
        count = dict(self.counts).get(space.name, 0) if self.counts else self.count
        wanted = -(-(space.size + count) // self.round_to) * self.round_to
        return wanted - space.size if count else 0

    def rewrite(
        self, graph: Graph, planned: Planned, calibration: Calibration | None
    ) -> tuple[Rewritten, Contract]:
        return planted(graph, [(s, b) for s, b in planned if isinstance(b, Sown)]), Contract.EXACT


__all__ = ["INITS", "Grow", "init_called"]
