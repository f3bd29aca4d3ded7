"""A grower: watches hidden layers while a model trains, and adds units where they lack some.

Its `step` is called between two optimizer steps. What it remembers of a layer is kept by the name
of the space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from netir.calibration import Batch, Calibration
from netir.cost import cost
from netir.errors import NetirError
from netir.ir import Graph
from netir.passes.grow import Grow, init_called
from netir.passes.growth.buffer import Buffer
from netir.passes.growth.gradients import SLOPED
from netir.passes.growth.hidden import Hidden, hidden
from netir.passes.growth.inits import Init, Wanted
from netir.passes.growth.plant import Fans
from netir.passes.growth.seen import Seen
from netir.passes.growth.silence import silenced
from netir.passes.growth.triggers import TRIGGERS, Reading, Trigger
from netir.passes.growth.watch import Watch
from netir.passes.pruning.targets import macs_left, parameters_left
from netir.rewrite import parameters as trained_in
from netir.spaces import Space
from netir.where import chosen_spaces

if TYPE_CHECKING:
    from netir.live import Live


@dataclass(frozen=True)
class Event:
    """One space that changed its width: when, from what to what, and what the trigger saw."""

    step: int
    space: str
    before: int
    after: int
    value: float | None
    init: str
    note: str = ""
    """Why the weights are not those that the init is for, where they are not."""


@dataclass
class Grower:
    """Adds to the hidden layers that `where` selects as many units as `trigger` says they lack.

    `init` chooses their weights. Inputs are kept in a buffer of the newest `buffer` samples, twice
    the largest width if it is 0, and run through the network anew at each reading. With
    `observe="batch"` what is seen are the values and gradients of the last training step, which
    costs no run of its own. A reading is taken after every `every` steps, but not within
    `cool_down` steps after a growth. No layer gets wider than `most` units or `factor` times its
    first width, the network no larger than `parameters` and `macs` for one sample. `loss` is what
    inits and triggers that look at gradients need, a function of the network's output and the
    target.
    """

    trigger: Trigger | None = None
    init: str | Init = "random"
    where: str = "*"
    loss: Callable[[Any, Any], Tensor] | None = None
    observe: Literal["buffer", "batch"] = "buffer"
    buffer: int = 0
    every: int = 1
    cool_down: int = 0
    most: int | None = None
    factor: float | None = None
    parameters: int | None = None
    macs: int | None = None
    round_to: int = 1
    candidates: int = 0
    scale: float = 1.0
    seed: int = 0
    events: list[Event] = field(default_factory=list, init=False)
    """Every change of a width so far."""
    left: dict[str, str] = field(default_factory=dict, init=False)
    """The spaces that it cannot grow, and why."""

    def __post_init__(self) -> None:
        if self.asked() is None:
            raise NetirError("a grower needs a trigger", fix=f"use one of {', '.join(TRIGGERS)}")
        init_called(self.init)
        for option, least in (("every", 1), ("round_to", 1), ("buffer", 0), ("cool_down", 0),
                              ("most", 1), ("parameters", 1), ("macs", 1),
                              ("candidates", 0)):  # fmt: skip
            value = getattr(self, option)
            if value is not None and (not isinstance(value, int) or value < least):
                raise NetirError(
                    f"a grower cannot use {option} {value}", fix=f"use a whole number from {least}"
                )
        if self.observe not in ("buffer", "batch"):
            raise NetirError(f"a grower cannot observe '{self.observe}'", fix="buffer or batch")
        if self.factor is not None and not 1 <= self.factor < inf:
            raise NetirError(f"a grower cannot use factor {self.factor}", fix="use 1 or more")
        if not 0 <= self.scale < inf:
            raise NetirError(f"a grower cannot use scale {self.scale}", fix="use 0 or more")
        self._taken = 0
        self._last = -self.cool_down
        self._kept = Buffer()
        slopes = init_called(self.init) in SLOPED or getattr(self.asked(), "slopes", False)
        self._watch = Watch(slopes)
        self._known: tuple[Graph, list[Hidden]] | None = None
        self._memory: dict[str, dict[str, Any]] = {}

    def asked(self) -> Trigger | None:
        """What is asked how many units a layer lacks."""
        return self.trigger

    def step(
        self, live: Live, batch: Batch | None = None, target: Any = None, loss: float | None = None
    ) -> list[Event]:
        """Look at the layers after an optimizer step; grow those that lack units.

        `batch` and `target` are those of the step, `loss` its loss as a number, for triggers that
        look at it. Gives what changed.
        """
        self._taken += 1
        if batch is not None:
            self._kept.add(batch, target)
        if self._taken % self.every or self._taken - self._last < self.cool_down:
            return []
        graph = live.graph
        layers = self.watched(graph)
        seen = self._seen(live, graph, layers)
        counts = self._counts(layers, seen, loss)
        counts = self._affordable(graph, counts, seen.calibration)
        return self._grown(live, graph, counts, seen) if counts else []

    def layers(self, graph: Graph) -> list[Hidden]:
        """The hidden layers that it watches."""
        chosen = chosen_spaces(graph, self.where)
        found = []
        for layer in (hidden(graph, s) for s in chosen if not s.frozen and s.producers):
            why = silenced(layer) if self.init != "net2wider" else ""
            if isinstance(why, str) and why:
                self.left[layer.space.name] = why
            else:
                found.append(layer)
        return found

    def watched(self, graph: Graph) -> list[Hidden]:
        """The same, worked out once for a graph."""
        if self._known is None or self._known[0] is not graph:
            self._known = (graph, self.layers(graph))
        return self._known[1]

    def bounds(self, graph: Graph) -> dict[str, tuple[int, int | None]]:
        """The spaces that it watches, each with its width and the most that it may get."""
        return {h.space.name: (h.width, self._cap(h)) for h in self.layers(graph)}

    def _seen(self, live: Live, graph: Graph, layers: list[Hidden]) -> Seen:
        """What is known of the layers now."""
        calibration, seed = self._calibration(layers), self.seed + self._taken
        if self.observe == "buffer":
            return Seen(graph, layers, calibration, seed)
        caught = self._watch.caught()
        self._watch.follow(live, layers)
        return Seen(graph, layers, calibration, seed, caught)

    def _calibration(self, layers: list[Hidden]) -> Calibration | None:
        widest = max((self._cap(h) or h.width for h in layers), default=0)
        newest = self._kept.newest if self.observe == "batch" else 2 * widest
        self._kept.trim(self.buffer or newest)
        return self._kept.calibration(self.loss)

    def _cap(self, layer: Hidden) -> int | None:
        first: int = self._remembered(layer).setdefault("width", layer.width)
        caps = [self.most, None if self.factor is None else int(self.factor * first)]
        return min((c for c in caps if c is not None), default=None)

    def _remembered(self, layer: Hidden) -> dict[str, Any]:
        return self._memory.setdefault(layer.space.name, {})

    def _counts(self, layers: list[Hidden], seen: Seen, loss: float | None) -> dict[Space, int]:
        found: dict[Space, int] = {}
        trigger = self.asked()
        assert trigger is not None
        for layer in layers:
            memory, cap = self._remembered(layer), self._cap(layer)
            if cap is not None and layer.width >= cap:
                continue  # whatever a trigger says
            count = int(trigger(Reading(layer, seen, self._taken, memory, loss)))
            wide = self._rounded(layer.width + count) if count > 0 else layer.width
            wide = wide if cap is None else min(wide, max(cap, layer.width))
            if wide > layer.width:
                found[layer.space] = wide - layer.width
        return found

    def _rounded(self, width: int) -> int:
        return -(-width // self.round_to) * self.round_to

    def _affordable(
        self, graph: Graph, counts: Mapping[Space, int], calibration: Calibration | None
    ) -> dict[Space, int]:
        """As large a share of all counts as the budgets allow."""
        limits = []
        if self.parameters is not None and counts:
            limits.append((parameters_left(graph), self.parameters / trained_in(graph)))
        if self.macs is not None and counts:
            now = max(1, int(cost(graph).macs))
            limits.append((macs_left(graph, calibration), self.macs / now))

        def fits(share: float) -> bool:
            widths = {s: s.size + int(share * n) for s, n in counts.items()}
            return all(left(widths) <= limit for left, limit in limits)

        low, high = 0.0, 1.0
        if limits and not fits(1.0):
            for _ in range(20):
                middle = (low + high) / 2
                low, high = (middle, high) if fits(middle) else (low, middle)
            high = low
        return {s: int(high * n) for s, n in counts.items() if int(high * n)}

    def _grown(
        self, live: Live, graph: Graph, counts: Mapping[Space, int], seen: Seen
    ) -> list[Event]:
        names = tuple((space.name, count) for space, count in counts.items())
        notes: dict[str, str] = {}
        rewrite = Grow(" ".join(n for n, _ in names), counts=names, init=self._noting(notes, seen),
                       candidates=self.candidates, scale=self.scale,
                       seed=self.seed + self._taken)  # fmt: skip
        result = live.apply(rewrite, seen.calibration)
        self.left |= dict(result.report.skipped)
        after = {space.name: space.size for space in live.graph.spaces()}
        init = str(getattr(self.init, "__name__", self.init))
        found = [
            Event(self._taken, name, space.size, after[name],
                  self._memory.get(name, {}).get("value"), init, notes.get(name, ""))
            for space in counts
            if after[name := space.name] != space.size
        ]  # fmt: skip
        self.events += found
        self._last = self._taken
        return found

    def _noting(self, notes: dict[str, str], seen: Seen) -> Init:
        """The init, told what is seen; what it could not do is noted by the name of the space."""
        init = init_called(self.init)

        @wraps(init)
        def noting(wanted: Wanted) -> Fans | str:
            known = wanted.seen.graph is seen.graph
            fans = init(replace(wanted, seen=seen) if known else wanted)
            if isinstance(fans, Fans) and fans.why:
                notes[wanted.layer.space.name] = fans.why
            return fans

        return noting


__all__ = ["Event", "Grower"]
