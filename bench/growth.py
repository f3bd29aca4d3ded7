"""What growing costs in a training step: VGG-11 with batch norm, every method against no method.

Each method is called after every step of training on random images, as it would be in use; a
quarter of the usual widths to begin with, so that there is room. A time is the processor time of
one thread for a step with the method, over that of the same step without; growths themselves, which
are rare, are listed apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

import netir
from bench.measure import Options, Table, options, report
from netir.passes.growth.triggers import Every, Gradients, Weights
from netir.passes.methods import Firefly, GradMax, Grower, Nest, North

WIDTHS = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)


def vgg11(share: float, classes: int = 10) -> nn.Sequential:
    """VGG-11 with batch norm for images of 32 pixels; 0 in the table is a pooling."""
    layers: list[nn.Module] = []
    read = 3
    for width in WIDTHS:
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        made = int(width * share)
        layers += [nn.Conv2d(read, made, 3, padding=1), nn.BatchNorm2d(made), nn.ReLU()]
        read = made
    hidden = int(512 * share)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(read, hidden), nn.ReLU(),
                         nn.Linear(hidden, classes))  # fmt: skip


METHODS: dict[str, Callable[[], Grower | None]] = {
    "static": lambda: None,
    "north-select": lambda: North(gamma=0.99, observe="batch", factor=8),
    "north-random": lambda: North(gamma=0.99, init="random", observe="batch", factor=8),
    "north-weight": lambda: North(trigger=Weights(gamma=0.99), init="weight", factor=8),
    "gradmax, every 25": lambda: GradMax(trigger=Every(25, share=0.1), loss=F.cross_entropy,
                                         buffer=64),
    "firefly, every 25": lambda: Firefly(trigger=Every(25, share=0.1), loss=F.cross_entropy,
                                         buffer=64),
    "nest, every 25": lambda: Nest(trigger=Every(25, share=0.1), loss=F.cross_entropy, buffer=64),
    "nest by gradient, every 10": lambda: Nest(trigger=Gradients(), loss=F.cross_entropy,
                                               buffer=64, every=10),
}  # fmt: skip


def steps(make: Callable[[], Grower | None], count: int, share: float) -> tuple[float, ...]:
    """Seconds of a step, of looking without growing, of growing in all; growths; parameters."""
    torch.manual_seed(0)
    model = vgg11(share)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    live, grower = netir.Live(model, optimizer), make()
    training, looking, growing, growths = [], [], 0.0, 0
    for _ in range(count):
        x, y = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))
        start = time.thread_time()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        trained = time.thread_time()
        events = grower.step(live, x, y, loss=loss.item()) if grower else []
        seen = time.thread_time() - trained
        training.append(trained - start)
        if events:
            growing, growths = growing + seen, growths + 1
        else:
            looking.append(seen)
    numbers = sum(p.numel() for p in model.parameters())
    return (median(training), median(looking) if looking else 0.0, growing, growths, numbers,
            sum(looking) + growing, sum(training))  # fmt: skip


def run(given: Options) -> list[Table]:
    count = 6 if given.quick else 50
    rows = []
    for name in given.wanted(tuple(METHODS), ("static", "north-select")):
        step, look, growing, growths, numbers, spent, trained = steps(METHODS[name], count, 0.25)
        rows.append([name, 1e3 * step, 1e3 * look, 100 * look / step, int(growths),
                     1e3 * growing / max(1, growths), 100 * spent / trained, int(numbers)])
        print(rows[-1], flush=True)
    columns = ("method", "ms a step", "ms looking", "looking, % of a step", "growths",
               "ms a growth", "all, % of training", "parameters at the end")
    return [Table("Growing VGG-11", columns, rows, (
        f"{count} steps of 128 images of 32 pixels; medians for steps and looking.",
    ))]  # fmt: skip


def main() -> None:
    given = options(__doc__ or "")
    report("growth", "What growing costs", run(given), given)


if __name__ == "__main__":
    main()
