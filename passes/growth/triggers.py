"""Triggers: how many units a hidden layer lacks.

A trigger takes a `Reading` and gives a number. Those here are values with options; any function of
a reading is one too. What a trigger has to remember of a layer it keeps in the reading's `memory`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, floor, inf
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from netir.errors import NetirError
from netir.kernels.rank import effective_rank, orthogonality
from netir.passes.compensation.consumers import Consumer
from netir.passes.growth.bridge import bridge
from netir.passes.growth.hidden import Hidden, row_axis
from netir.passes.growth.inits import EPSILON
from netir.passes.growth.seen import Seen


@dataclass(frozen=True, eq=False)
class Reading:
    """A hidden layer at one step of training, with what data shows and what is remembered of it."""

    layer: Hidden
    seen: Seen
    step: int
    memory: dict[str, Any]
    loss: float | None = None

    @property
    def width(self) -> int:
        return self.layer.width

    @property
    def first(self) -> int:
        """The width that the layer had when it was first read."""
        found: int = self.memory.setdefault("width", self.width)
        return found


Trigger = Callable[[Reading], int]
_POSITIVE, _WHOLE = "use a positive number", "use a whole number from 1"


@dataclass(frozen=True)
class Activations:
    """NORTH's trigger on activations: M (φ - γ φ₀) (Maile et al. 2022).

    φ is the share of M units that adds to the rank of the activations, or with `metric="gap"` their
    orthogonality; φ₀ is what it was at first, of a convolution the largest it has been. Parts of a
    unit are rounded up, as the authors' code does; with `whole` they are left out, as the paper
    prints it, and no layer of less than 1 / (1 - γ) units grows.
    """

    gamma: float = 0.97
    epsilon: float = EPSILON
    metric: Literal["rank", "gap"] = "rank"
    whole: bool = False

    def __post_init__(self) -> None:
        _checked("gamma", self.gamma, 0 < self.gamma < inf, _POSITIVE)
        _checked("epsilon", self.epsilon, 0 < self.epsilon < inf, _POSITIVE)
        _checked("metric", self.metric, self.metric in ("rank", "gap"), "use rank or gap")

    def __call__(self, reading: Reading) -> int:
        layer = reading.layer
        if not reading.seen.shows(layer):
            return 0
        if self.metric == "gap":
            gram = reading.seen.gram(layer)
            found = orthogonality(gram.matrix, gram.rows)
        elif reading.seen.rows(layer) <= layer.width:
            return 0
        else:
            full = reading.memory.get("value") == 1
            found = reading.seen.rank(layer, self.epsilon, full) / layer.width
        spatial = any(m.spatial for m in layer.makers)
        return _lacking(reading, found, self.gamma, running=spatial, whole=self.whole)


@dataclass(frozen=True)
class Weights:
    """NORTH's trigger on weights: the same of the layer's weight over the root of its inputs."""

    gamma: float = 0.99
    epsilon: float = EPSILON
    whole: bool = False

    def __post_init__(self) -> None:
        _checked("gamma", self.gamma, 0 < self.gamma < inf, _POSITIVE)
        _checked("epsilon", self.epsilon, 0 < self.epsilon < inf, _POSITIVE)

    def __call__(self, reading: Reading) -> int:
        layer = reading.layer
        if not layer.makers:
            return 0
        rows = torch.cat([_rows(layer, m) for m in layer.makers], 1)
        try:
            rank = effective_rank(rows.mT, self.epsilon)
        except ValueError as error:
            raise NetirError(
                f"the weights of '{layer.space.name}' cannot be used: {error}",
                fix="lower the learning rate",
            ) from error
        found = rank.count / layer.width
        return _lacking(reading, found, self.gamma, running=False, whole=self.whole)


def _rows(layer: Hidden, maker: Consumer) -> Tensor:
    """The weights of each index, as they are where that is possible."""
    weight, axis = layer.graph.params[maker.weight].data, row_axis(maker)
    if layer.graph.analysis.shape(f"@{maker.weight}")[axis] == (layer.space.atom,):
        return weight.detach().movedim(axis, 0).flatten(1)
    return layer.rows(maker).flatten(1)


def _lacking(
    reading: Reading, found: float, gamma: float, *, running: bool, whole: bool
) -> int:
    """How many units are missing from γ times what was there at first, or at most so far."""
    first: float = reading.memory.setdefault("first", found)
    if running:
        first = reading.memory["first"] = max(first, found)
    reading.memory["value"] = found
    lacking = round(reading.width * (found - gamma * first), 9)
    return max(0, floor(lacking) if whole else ceil(lacking))


@dataclass(frozen=True)
class Gradients:
    """As many as directions across the layer in which the loss falls faster than in its weights.

    Counts the singular values of the gradient across a layer above the sum over its units of the
    gradient norms of both of their sides. Where a few products show that there is none, nothing
    else is worked out.
    """

    slopes: ClassVar[bool] = True
    """It takes the gradients of the last step, where a grower observes that."""

    def __call__(self, reading: Reading) -> int:
        layer = reading.layer
        if not reading.seen.tells_slopes(layer):
            return 0
        found = bridge(layer, reading.seen)
        if isinstance(found, str):
            return 0
        norms = torch.zeros(layer.width, dtype=torch.float64)
        made = [(m.weight, 1 - m.weight_axis) for m in layer.makers]
        read = [(r.weight, r.weight_axis) for r in layer.readers]
        for side in (made, read):
            squares = torch.zeros(layer.width, dtype=torch.float64)
            for name, axis in side:
                along = reading.seen.squares(name, axis).cpu()
                squares += along[layer.entries(f"@{name}", axis)].sum(1)
            norms += squares.sqrt()
        least = float(norms.sum())
        if found.below(least):
            return 0
        values = torch.linalg.svdvals(found.matrix)
        reading.memory["value"] = float(values[0])
        return int((values > least).sum())


@dataclass(frozen=True)
class Every:
    """So many units, or a share of the first width, after every `steps` steps.

    The first time after `start`, at most `times` times.
    """

    steps: int
    count: int = 1
    share: float | None = None
    start: int = 0
    times: int | None = None

    def __post_init__(self) -> None:
        _checked("steps", self.steps, self.steps >= 1, _WHOLE)
        _checked("count", self.count, self.count >= 1, _WHOLE)
        _checked("share", self.share, self.share is None or 0 < self.share < inf, _POSITIVE)

    def __call__(self, reading: Reading) -> int:
        since = reading.step - self.start
        if since <= 0 or since % self.steps:
            return 0
        if self.times is not None and since // self.steps > self.times:
            return 0
        return self.count if self.share is None else max(1, round(self.share * reading.first))


@dataclass(frozen=True)
class Linear:
    """From the first width to `to`, evenly over the first `steps` steps, in `batches` events.

    Without `batches` a unit is added as soon as it is due.
    """

    to: int
    steps: int
    batches: int | None = None

    def __post_init__(self) -> None:
        _checked("to", self.to, self.to >= 1, _WHOLE)
        _checked("steps", self.steps, self.steps >= 1, _WHOLE)
        _checked("batches", self.batches, self.batches is None or self.batches >= 1, _WHOLE)

    def __call__(self, reading: Reading) -> int:
        share = min(1.0, reading.step / self.steps)
        if self.batches is not None:
            share = floor(share * self.batches) / self.batches
        due = reading.first + floor(share * (self.to - reading.first))
        return max(0, due - reading.width)


@dataclass(frozen=True)
class Plateau:
    """So many units once the loss has not fallen by `least` of itself for `patience` readings."""

    patience: int = 10
    least: float = 1e-3
    count: int = 1

    def __post_init__(self) -> None:
        _checked("patience", self.patience, self.patience >= 1, _WHOLE)
        _checked("count", self.count, self.count >= 1, _WHOLE)

    def __call__(self, reading: Reading) -> int:
        if reading.loss is None:
            raise NetirError("the trigger 'plateau' needs the loss", fix="pass loss= to step")
        memory = reading.memory
        if reading.loss < memory.get("best", float("inf")) * (1 - self.least):
            memory["best"], memory["since"] = reading.loss, 0
            return 0
        memory["since"] = memory.get("since", 0) + 1
        if memory["since"] < self.patience:
            return 0
        memory["since"] = 0
        return self.count


def _checked(name: str, value: object, good: bool, fix: str) -> None:
    if not good:
        raise NetirError(f"a trigger cannot use {name} {value!r}", fix=fix)


TRIGGERS: Mapping[str, Callable[..., Trigger]] = MappingProxyType({
    "activations": Activations, "weights": Weights, "gradients": Gradients, "every": Every,
    "linear": Linear, "plateau": Plateau,
})  # fmt: skip
"""Every trigger by its name."""

__all__ = ["TRIGGERS", "Activations", "Every", "Gradients", "Linear", "Plateau", "Reading",
           "Trigger", "Weights", "orthogonality"]  # fmt: skip
