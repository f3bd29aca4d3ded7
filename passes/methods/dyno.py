"""DYNO: a pretrained network that finds its widths on a new task (Maile 2023, chapter 7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import floor, inf
from typing import TYPE_CHECKING, Any

from netir.calibration import Batch
from netir.errors import NetirError
from netir.kernels.greedy import most_alike
from netir.passes.growth.grower import Event, Grower
from netir.passes.growth.hidden import Hidden
from netir.passes.growth.inits import EPSILON, Init
from netir.passes.growth.seen import Seen
from netir.passes.growth.triggers import Activations, Trigger
from netir.passes.keep import Keep

if TYPE_CHECKING:
    from netir.live import Live


@dataclass
class GrowAndPrune(Grower):
    """Every so often prunes layers whose rank fell and grows those whose rank rose.

    The share φ of a layer's units that adds to the rank of its activations is held against what it
    was when the layer last changed, φ*: ⌊M ((1 - δ) φ* - φ)⌋ units go if φ fell by more than the
    share δ, ⌊M (φ - (1 + δ) φ*)⌋ come if it rose by more; never both. Units that are never active
    go first, then those most like the others. At least `least` units stay. Before a layer's first
    change φ* is `star`, or what is measured in the first step if that is 0.
    """

    trigger: Trigger | None = field(default_factory=Activations, init=False)
    init: str | Init = "select"
    every: int = 50
    delta: float = 0.03
    epsilon: float = EPSILON
    least: int = 1
    star: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.delta < 1:
            raise NetirError(f"a grower cannot use delta {self.delta}", fix="use 0 up to 1")
        if not 0 < self.epsilon < inf:
            raise NetirError(
                f"a grower cannot use epsilon {self.epsilon}", fix="use a positive number"
            )
        if not 0 <= self.star <= 1:
            raise NetirError(
                f"a grower cannot use star {self.star}", fix="use a share up to 1, or 0"
            )
        if self.least < 1:
            raise NetirError(f"a grower cannot use least {self.least}", fix="use 1 or more")

    def step(
        self, live: Live, batch: Batch | None = None, target: Any = None, loss: float | None = None
    ) -> list[Event]:
        """Look at the layers after an optimizer step; prune and grow those that changed."""
        self._taken += 1
        if batch is not None:
            self._kept.add(batch, target)
        first = self._taken == 1
        due = self._taken % self.every == 0 and self._taken - self._last >= self.cool_down
        if not first and not due:
            return []
        graph = live.graph
        layers = self.watched(graph)
        seen = self._seen(live, graph, layers)
        gone, come = self._wanted(layers, seen)
        events = self._pruned(live, layers, gone, seen) if gone else []
        graph = live.graph
        counts = {s: come[s.name] for s in graph.spaces() if s.name in come}
        counts = self._affordable(graph, counts, seen.calibration)
        if counts:
            again = Seen(graph, self.watched(graph), seen.calibration, self.seed + self._taken)
            events += self._grown(live, graph, counts, again)
        for event in events:
            self._memory[event.space].pop("star", None)
        return events

    def _wanted(
        self, layers: list[Hidden], seen: Seen
    ) -> tuple[dict[str, int], dict[str, int]]:
        """How many units of each layer go, and how many come."""
        gone: dict[str, int] = {}
        come: dict[str, int] = {}
        for layer in layers:
            if not seen.shows(layer) or seen.rows(layer) <= layer.width:
                continue
            memory, name = self._remembered(layer), layer.space.name
            full, begun = memory.get("value") == 1, "value" in memory
            share = memory["value"] = seen.rank(layer, self.epsilon, full) / layer.width
            star = memory.setdefault("star", share if begun else self.star or share)
            cap = self._cap(layer)
            most = layer.width - self.least
            fewer = floor(round(layer.width * ((1 - self.delta) * star - share), 9))
            more = floor(round(layer.width * (share - (1 + self.delta) * star), 9))
            fewer = layer.width - self._rounded(layer.width - max(0, fewer))
            more = self._rounded(layer.width + max(0, more)) - layer.width if more > 0 else 0
            more = more if cap is None else min(more, cap - layer.width)
            if min(fewer, most) > 0:
                gone[name] = min(fewer, most)
            elif more > 0:
                come[name] = more
        return gone, come

    def _pruned(
        self, live: Live, layers: list[Hidden], gone: dict[str, int], seen: Seen
    ) -> list[Event]:
        """Remove units that sleep, then those most like the others."""
        keep, events = [], []
        for layer in layers:
            name = layer.space.name
            if name not in gone:
                continue
            removed = set(most_alike(seen.gram(layer).matrix, gone[name]).tolist())
            stay = tuple(i for i in range(layer.width) if i not in removed)
            keep.append((name, stay))
            events.append(Event(self._taken, name, layer.width, len(stay),
                                self._remembered(layer).get("value"), "keep"))  # fmt: skip
        live.apply(Keep(" ".join(name for name, _ in keep), keep=tuple(keep)))
        self.events += events
        self._last = self._taken
        return events


@dataclass
class Dyno(GrowAndPrune):
    """DYNO as published: every 50 steps, δ = 0.03, ε = 0.01, NORTH-Select of 100 candidates.

    The thesis trains with Adam, learning rate 3e-4 and weight decay 1e-3, for 1,000 steps.
    """

    candidates: int = 100


__all__ = ["Dyno", "GrowAndPrune"]
