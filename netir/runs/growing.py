"""Growth in a training of a run: a grower made anew from the spec's, and what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from netir.live import Live
from netir.passes.growth.grower import Grower
from netir.report import Growth


class Growing:
    """What `train` calls after every step of a training that grows.

    The spec's own grower is left as it is, so that a training that is done again, after a kill,
    does the same.
    """

    def __init__(
        self,
        wanted: Grower,
        live: Live,
        loss: Callable[[Any, Any], Any],
        seed: int,
        tell: Callable[[Growth], object],
    ) -> None:
        self.live, self.tell = live, tell
        self.grower = replace(wanted, loss=wanted.loss or loss, seed=seed)
        self.growth: list[Growth] = []

    def __call__(self, inputs: Any, target: Any, loss: float) -> None:
        for event in self.grower.step(self.live, inputs, target, loss):
            if event.after != event.before:
                value = None if event.value is None else float(event.value)
                done = Growth(event.step, event.space, event.before, event.after, value,
                              event.init, event.note)  # fmt: skip
                self.growth.append(done)
                self.tell(done)


__all__ = ["Growing"]
