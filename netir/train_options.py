"""How to train: the options of a training, which a spec's `train` step takes as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi
from typing import Any, Literal

from netir.errors import NetirError, nearest
from netir.optimizers import kind_of
from netir.score import device_of

SCHEDULES = ("constant", "cosine", "linear", "one-cycle")


@dataclass(frozen=True)
class TrainOptions:
    """How to train: for `epochs`, one if nothing is said, or for `steps` batches.

    What is not said of the optimizer is as usual: sgd with momentum 0.9. `schedule` says how the
    learning rate changes over all steps, after a rise over the share `warmup` of them. `clip`
    bounds the norm of all gradients together. `amp` computes in bfloat16 what bears it. `evaluate`
    tests after every epoch. `device` is auto (a GPU where there is one), cpu or cuda.
    """

    epochs: int | None = None
    steps: int | None = None
    optimizer: str | None = None
    lr: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: float | None = None
    schedule: Literal["constant", "cosine", "linear", "one-cycle"] = "constant"
    warmup: float = 0.0
    clip: float | None = None
    label_smoothing: float = 0.0
    batch_size: int | None = None
    evaluate: bool = True
    device: str = "auto"
    amp: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise NetirError("epochs and steps are both given", fix="give one of them")
        if self.optimizer is not None:
            kind_of(self.optimizer)
        if self.schedule not in SCHEDULES:
            raise NetirError(
                f"there is no schedule '{self.schedule}'", fix=nearest(self.schedule, SCHEDULES)
            )
        if self.warmup and self.schedule == "one-cycle":
            raise NetirError("one-cycle has a rise of its own", fix="leave warmup out")
        if self.nesterov and self.momentum == 0:
            raise NetirError("nesterov without momentum", fix="give a momentum such as 0.9")
        device_of(self.device)
        for name, sound, wanted in self._bounds():
            value = getattr(self, name)
            if value is not None and not sound(value):
                raise NetirError(f"{name}={value}", fix=f"give {wanted}")

    @staticmethod
    def _bounds() -> Iterator[tuple[str, Callable[[Any], bool], str]]:
        for name in ("epochs", "steps", "batch_size"):
            yield name, lambda value: value >= 1, "at least 1"
        for name in ("lr", "clip"):
            yield name, lambda value: 0 < value < float("inf"), "a positive number"
        yield "weight_decay", lambda value: 0 <= value < float("inf"), "0 or a positive number"
        for name in ("momentum", "warmup", "label_smoothing"):
            yield name, lambda value: 0 <= value < 1, "a number from 0 to below 1"

    @property
    def changes(self) -> bool:
        """Whether the learning rate changes."""
        return self.schedule != "constant" or self.warmup > 0

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the optimizer that are given."""
        names = ("lr", "momentum", "nesterov", "weight_decay")
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}

    def rate(self, step: int, total: int | None) -> float:
        """The factor of the learning rate at a step, counted from 0, of `total`."""
        if total is None:
            return 1.0
        if self.schedule == "one-cycle":
            rise = max(1, round(0.3 * total))
            if step < rise:
                return 0.04 + 0.96 * (1 - cos(pi * step / rise)) / 2
            return _fall("cosine", (step - rise) / max(1, total - rise))
        rise = round(self.warmup * total)
        if step < rise:
            return (step + 1) / (rise + 1)
        return _fall(self.schedule, (step - rise) / max(1, total - rise))


def _fall(schedule: str, done: float) -> float:
    if schedule == "cosine":
        return (1 + cos(pi * done)) / 2
    return 1 - done if schedule == "linear" else 1.0


__all__ = ["SCHEDULES", "TrainOptions"]
