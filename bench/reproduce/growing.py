"""What the growth experiments share: a training loop that grows, and figures over seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from bench.reproduce.drawing import Point
from netir.passes.methods import Grower


@dataclass(frozen=True)
class Data:
    """Inputs and classes to train on, and to test with."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def device(self) -> torch.device:
        return self.train[0].device

    def to(self, device: str) -> Data:
        return Data(*((x.to(device), y.to(device)) for x, y in (self.train, self.test)))

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.train
        for rows in torch.randperm(len(x), generator=generator).split(size):
            if len(rows) == size:
                yield x[rows], y[rows]


@dataclass(frozen=True)
class Trained:
    """What came of one training run."""

    accuracy: float
    parameters: int
    widths: list[int]
    seconds: float
    """Of one thread's processor time."""
    growing: float
    """Seconds of it that looking and growing took."""


def mlp(inputs: int, widths: Sequence[int], classes: int) -> nn.Sequential:
    """Linear layers with ReLU, Xavier uniform, biases 0."""
    layers: list[nn.Module] = []
    for read, made in zip([inputs, *widths], [*widths, classes], strict=True):
        layer = nn.Linear(read, made)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def trained(
    model: nn.Module,
    data: Data,
    grower: Grower | None,
    *,
    epochs: int,
    seed: int,
    size: int,
    rate: float,
) -> Trained:
    """Train with Adam where the data is; the grower, if there is one, looks after every step."""
    model = model.to(data.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    live = netir.Live(model, optimizer)
    generator = torch.Generator().manual_seed(seed)
    start, growing = time.thread_time(), 0.0
    for _ in range(epochs):
        for x, y in data.batches(size, generator):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            if grower is not None:
                before = time.thread_time()
                grower.step(live, x, y, loss=loss.item())
                growing += time.thread_time() - before
    seconds = time.thread_time() - start
    with torch.no_grad():
        x, y = data.test
        accuracy = float((model(x).argmax(1) == y).float().mean())
    widths = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)][:-1]
    numbers = sum(p.numel() for p in model.parameters())
    return Trained(accuracy, numbers, widths, seconds, growing)


def over_seeds(seeds: Sequence[int], run: Callable[[int], Trained]) -> list[Trained]:
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        found.append(run(seed))
    return found


def spread(values: Sequence[float]) -> float:
    """The standard deviation; 0 of a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def figure(values: Sequence[float], digits: int = 1) -> str:
    """A mean and a standard deviation."""
    return f"{mean(values):.{digits}f} ± {spread(values):.{digits}f}"


def point(across: Sequence[float], up: Sequence[float]) -> Point:
    """The means, and the standard deviations."""
    return Point(mean(across), mean(up), spread(across), spread(up))
