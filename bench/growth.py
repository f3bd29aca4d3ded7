"""What growing costs while VGG-11 with batch norm is trained, method by method.

Each method trains the network from a quarter of the usual widths up to half of them on the CIFAR-10
part in `--data`, or on generated pictures, and is called after every step as it would be in use. A
step of the growing network is what its overhead is held against, so that a larger network does not
count as overhead; now and then a static network of the very same widths takes a step beside it. A
second table has what one look and one growth cost at a quarter, half and all of the usual widths.
All times are processor time of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from bench.measure import Cell, Options, Table, options, report
from bench.pictures import Pictures, load
from netir.passes.growth.triggers import Every, Gradients, Reading, Weights
from netir.passes.methods import Firefly, GradMax, Grower, Nest, North

WIDTHS = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)
HIDDEN = 512
START, FACTOR = 0.25, 2.0
STEPS, IMAGES, BATCH = 390, 200, 128
BESIDE = 10
"""After so many steps a static network takes one too."""
PUBLISHED = 39_100
"""Steps of a training as published: 100 epochs of 50,000 images in batches of 128."""

Method = Callable[[], Grower]


def vgg11(widths: Sequence[int], hidden: int, classes: int = 10) -> nn.Sequential:
    """VGG-11 with batch norm for images of 32 pixels; a width of 0 is a pooling."""
    layers: list[nn.Module] = []
    read = 3
    for made in widths:
        if not made:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(read, made, 3, padding=1), nn.BatchNorm2d(made), nn.ReLU()]
        read = made
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(read, hidden), nn.ReLU(),
                         nn.Linear(hidden, classes))  # fmt: skip


def scaled(share: float) -> nn.Sequential:
    """VGG-11 of a share of the usual widths."""
    return vgg11([int(w * share) for w in WIDTHS], int(HIDDEN * share))


def alike(model: nn.Module) -> nn.Sequential:
    """A new VGG-11 of the widths that a grown one has."""
    made = iter([m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)])
    hidden, _ = (m.out_features for m in model.modules() if isinstance(m, nn.Linear))
    return vgg11([next(made) if width else 0 for width in WIDTHS], hidden)


SCHEDULE = {"loss": F.cross_entropy, "observe": "batch", "factor": FACTOR}
WHOLE: dict[str, Method] = {
    "north-select": lambda: North(observe="batch", factor=FACTOR),
    "north-random": lambda: North(init="random", observe="batch", factor=FACTOR),
    "north-pre": lambda: North(init="pre", observe="batch", factor=FACTOR),
    "north-weight": lambda: North(trigger=Weights(), init="weight", factor=FACTOR),
    "gradmax, scheduled": lambda: GradMax(trigger=Every(30, share=0.25), **SCHEDULE),
    "firefly, scheduled": lambda: Firefly(trigger=Every(30, share=0.25), **SCHEDULE),
    "nest, scheduled": lambda: Nest(trigger=Every(30, share=0.25), **SCHEDULE),
    "gradmax by gradient": lambda: GradMax(trigger=Gradients(), **SCHEDULE),
    "nest by gradient": lambda: Nest(trigger=Gradients(), **SCHEDULE),
}  # fmt: skip
"""The triggers as published: after every step, but for the schedules, which are denser by far."""


def some(reading: Reading) -> int:
    """As many new units as NORTH adds where all units are of use."""
    return ceil(0.03 * reading.width)


ALWAYS = {"trigger": some, "observe": "batch", "loss": F.cross_entropy}
NEVER = 99.0
"""A γ with which nothing grows, however much the rank rises."""
ONCE: dict[str, tuple[Method, Method]] = {
    "north-select": (lambda: North(gamma=NEVER, observe="batch"), lambda: North(**ALWAYS)),
    "north-random": (lambda: North(gamma=NEVER, observe="batch"),
                     lambda: North(init="random", **ALWAYS)),
    "north-pre": (lambda: North(gamma=NEVER, observe="batch"), lambda: North(init="pre", **ALWAYS)),
    "north-weight": (lambda: North(trigger=Weights(gamma=NEVER)),
                     lambda: North(init="weight", **ALWAYS)),
    "gradmax": (lambda: GradMax(trigger=Gradients(), **SCHEDULE),
                lambda: Grower(init="gradmax", **ALWAYS)),
    "firefly": (lambda: Firefly(trigger=Gradients(), **SCHEDULE),
                lambda: Grower(init="firefly", **ALWAYS)),
    "nest": (lambda: Nest(trigger=Gradients(), **SCHEDULE),
             lambda: Grower(init="nest", **ALWAYS)),
}  # fmt: skip
"""For each method a grower that looks and does not grow, and one that grows each time."""


def pictures(folder: Path, limit: int) -> tuple[Pictures, str]:
    """What to train on, and what that is."""
    if (folder / "cifar10-20k.zip").exists():
        return load(folder, "train", limit), "of CIFAR-10"
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(10).repeat(limit)
    plain = torch.randn(10, 8, 3, 4, 4, generator=generator)
    kinds = torch.randint(8, (len(classes),), generator=generator)
    smooth = F.interpolate(plain[classes, kinds], size=32, mode="bicubic")
    return Pictures(smooth + torch.randn(smooth.shape, generator=generator) / 2, classes), "made up"


def stream(data: Pictures) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield from (b for b in data.batches(BATCH, generator) if len(b[1]) == BATCH)


@dataclass
class Training:
    """A network that is trained, and what that took."""

    model: nn.Module
    times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-4)

    def step(self, x: Tensor, y: Tensor) -> float:
        """One step, timed; gives the loss."""
        start = time.thread_time()
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.times.append(time.thread_time() - start)
        return loss.item()


@dataclass
class Growing:
    """What a grower took beside a training: with every step, whether it grew."""

    own: Training
    grower: Grower

    def __post_init__(self) -> None:
        self.live = netir.Live(self.own.model, self.own.optimizer)
        self.times: list[float] = []
        self.grew: list[bool] = []

    def step(self, x: Tensor, y: Tensor) -> None:
        loss = self.own.step(x, y)
        start = time.thread_time()
        events = self.grower.step(self.live, x, y, loss=loss)
        self.times.append(time.thread_time() - start)
        self.grew.append(bool(events))

    def shares(self, grew: bool, skip: int = 0) -> list[float]:
        """What it took of each step in which it grew, or did not."""
        kept = list(zip(self.times, self.own.times, self.grew, strict=True))[skip:]
        return [spent / step for spent, step, there in kept if there == grew]


def whole(make: Method, data: Pictures, steps: int) -> list[Cell]:
    """A whole training; its first step, in which the model is traced, is told apart."""
    torch.manual_seed(0)
    growing = Growing(Training(scaled(START)), make())
    beside: list[tuple[float, float]] = []
    for number, (x, y) in zip(range(steps), stream(data), strict=False):
        growing.step(x, y)
        if number % BESIDE == BESIDE - 1:
            static = Training(alike(growing.own.model))
            for _ in range(2):  # the first has to find its memory
                static.step(x, y)
            growing.own.step(x, y)
            beside.append((growing.own.times.pop(), static.times[-1]))
    trace, spent = growing.times[0], sum(growing.times[1:])
    trained = sum(growing.own.times[1:])
    grown, looked = growing.shares(True, 1), growing.shares(False, 1)
    look = median(looked) if looked else 0.0
    grow = sum(grown)
    numbers = sum(p.numel() for p in growing.own.model.parameters())
    return [1e3 * median(growing.own.times), 100 * sum(a for a, _ in beside)
            / sum(b for _, b in beside) - 100, 100 * look, len(grown),
            grow / len(grown) if grown else None, 100 * spent / trained,
            1e3 * trace, numbers]  # fmt: skip


def once(makes: tuple[Method, Method], share: float, data: Pictures, times: int) -> list[Cell]:
    """A look and a growth at some widths, in per cent of a step."""
    found: list[Cell] = []
    for make, skip in zip(makes, (2, 1), strict=True):
        torch.manual_seed(0)
        growing = Growing(Training(scaled(share)), make())
        for _, (x, y) in zip(range(skip + times), stream(data), strict=False):
            growing.step(x, y)
        shares = [a / b for a, b in zip(growing.times, growing.own.times, strict=True)][skip:]
        found.append(100 * median(shares))
    return found


def run(given: Options) -> list[Table]:
    steps, limit, times = (12, 30, 1) if given.quick else (STEPS, IMAGES, 5)
    data, which = pictures(given.data, limit)
    rows: list[list[Cell]] = []
    for name in given.wanted(tuple(WHOLE), ("north-select", "nest by gradient")):
        if name in WHOLE:
            rows.append([name, *whole(WHOLE[name], data, steps)])
            print(rows[-1], flush=True)
    sizes = (START,) if given.quick else (0.25, 0.5, 1.0)
    costs: list[list[Cell]] = []
    for name in given.wanted(tuple(ONCE), ("north-select",)):
        if name in ONCE:
            measure = partial(once, ONCE[name], data=data, times=times)
            costs.append([name, *(cell for share in sizes for cell in measure(share=share))])
            print(costs[-1], flush=True)
    return [
        Table("A whole training of VGG-11 that grows", (
            "method", "ms a step", "step beside a static network of its widths, %",
            "look, % of a step", "growths", "a growth, steps", "overhead, % of training",
            "ms tracing", "parameters at the end",
        ), rows, (
            f"{steps} steps of {BATCH} images {which}, from {START:.0%} of the usual widths to "
            f"{FACTOR:.0f} times that at most; a look at layers that are as wide as they may be "
            "costs nothing. Tracing happens once and is in no percentage.",
            f"That is one epoch of CIFAR-10. A training as published has {PUBLISHED:,} steps, so "
            "that growths, which are about as many as here for NORTH and twelve for a schedule, "
            "hardly count there, and looks are what is left: the second table has them.",
        )),
        Table("One look and one growth, % of a step", (
            "method", *(f"{what} at {share:.0%}" for share in sizes for what in ("look", "growth")),
        ), costs, (
            f"Medians of {times}, at shares of the usual widths. Each growth adds 3 % to every "
            "layer. A look of a method that is scheduled costs nothing; here it asks gradients.",
        )),
    ]  # fmt: skip


def main() -> None:
    given = options(__doc__ or "", data=True, needed=False)
    report("growth", "What growing costs", run(given), given)


if __name__ == "__main__":
    main()
