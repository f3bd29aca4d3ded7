"""DYNO against static fine-tuning: a trained network on a new task; MACs saved against accuracy.

Maile (2023), chapter 7, on two transfers that run in minutes: MNIST to MNIST inverted and turned by
a quarter, and half of the classes of the CIFAR-10 part to the other half. All ways start from the
same network, trained on the first task; for the second one the last layer is made anew. Static
fine-tuning changes no width, Auto-RGN also sets a learning rate for every tensor, DYNO prunes and
grows while it trains. What it holds the rank against at first, φ*, is not told in the thesis: it is
measured here on the new task, on the first one, or taken to be 1. The network "pruned first" was
pruned before the fine-tuning, by L2 norm, to the MACs of DYNO with φ* = 1 and the same seed.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from bench.growth import HIDDEN, WIDTHS, vgg11
from bench.measure import Cell, Options, Table, options, report
from bench.pictures import load
from bench.reproduce.drawing import COLOURS, Series, chart, write
from bench.reproduce.growing import Data, figure, mlp, point
from bench.reproduce.mnist import images
from netir.cost import cost
from netir.passes import Prune
from netir.passes.methods import AutoRgn, Dyno

BATCH, RATE, DECAY, EVERY, FIRST = 64, 3e-4, 1e-3, 50, 1024


@dataclass(frozen=True)
class Transfer:
    """A network, the task it comes from and the one it goes to."""

    name: str
    model: Callable[[], nn.Sequential]
    source: Data
    target: Data
    classes: int

    def to(self, device: str) -> Transfer:
        return replace(self, source=self.source.to(device), target=self.target.to(device))


@dataclass(frozen=True)
class Plan:
    """How many steps on each task, how many images of it, and how often."""

    seeds: tuple[int, ...]
    before: int
    after: int
    images: int


QUICK = Plan((1,), 60, 60, 1_000)
USUAL = Plan((1, 2, 3, 4, 5), 400, 300, 5_000)
LARGE = Plan((1, 2, 3, 4, 5), 4_000, 1_000, 60_000)


@dataclass
class Tuned:
    """What came of a fine-tuning."""

    accuracy: float
    macs: int
    parameters: int
    seconds: float
    pruned: int = 0
    grown: int = 0
    widths: list[int] = field(default_factory=list)


def convolutions(channels: int, classes: int, pixels: int) -> nn.Sequential:
    """Three convolutions that halve the image, and two linear layers."""
    layers: list[nn.Module] = []
    read = channels
    for made in (24, 48, 96):
        layers += [nn.Conv2d(read, made, 3, 2, 1), nn.ReLU()]
        read = made
    size = read * (pixels // 8) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, 128), nn.ReLU(),
                         nn.Linear(128, classes))  # fmt: skip


def digits(given: Options, plan: Plan) -> Transfer:
    """MNIST, then MNIST with black and white exchanged and turned by 90 degrees."""
    data = images(given.data, plan.images)
    turned = [(1 - x.view(-1, 28, 28).rot90(1, (1, 2)).flatten(1), y)
              for x, y in (data.train, data.test)]  # fmt: skip
    return Transfer("MNIST to inverted, turned MNIST", lambda: mlp(784, (256, 256), 10),
                    data, Data(*turned), 10)  # fmt: skip


def halves(given: Options, plan: Plan) -> Transfer:
    """The first five classes of the CIFAR-10 part, then the last five."""
    limit = {"train": min(2_000, plan.images // 5), "test": 1_000}
    pictures = [load(given.data, part, limit[part]) for part in limit]
    first, second = (
        Data(*((p.images[chosen], p.classes[chosen] - low)
               for p in pictures
               for chosen in [(p.classes >= low) & (p.classes < low + 5)]))
        for low in (0, 5)
    )  # fmt: skip
    make = (lambda: vgg11(WIDTHS, HIDDEN, 5)) if given.large else (lambda: convolutions(3, 5, 32))
    return Transfer("CIFAR-10 part, classes 1-5 to 6-10", make, first, second, 5)


def batches(data: Data, steps: int, seed: int) -> list[Tensor]:
    """The rows of every batch, epoch after epoch."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[Tensor] = []
    while len(rows) < steps:
        rows += list(torch.randperm(len(data.train[0]), generator=generator).split(BATCH))
    return rows[:steps]


def tune(
    model: nn.Module, data: Data, steps: int, seed: int, dyno: Dyno | None = None,
    first: Tensor | None = None, auto: bool = False,
) -> Tuned:
    """Train with Adam, learning rate 3e-4 and weight decay 1e-3; the model is changed.

    DYNO sees the inputs `first` before anything else, and takes its φ* from them.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=DECAY)
    live = netir.Live(model, optimizer, example=(data.train[0][:2],))
    rates = AutoRgn(optimizer) if auto else None
    start = time.thread_time()
    model.train()
    if dyno is not None and first is not None:
        dyno.step(live, first)
    for step, rows in enumerate(batches(data, steps, seed)):
        x, y = data.train[0][rows], data.train[1][rows]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if rates is not None and step % EVERY < rates.batches:
            rates.observe()
        optimizer.step()
        if dyno is not None:
            dyno.step(live, x, y)
    seconds = time.thread_time() - start
    costs = cost(netir.trace(model.eval(), (data.test[0][:1],)))
    changes = [e.after - e.before for e in dyno.events] if dyno else []
    widths = [len(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)][:-1]
    return Tuned(accuracy(model, data), costs.macs, costs.parameters, seconds,
                 -sum(c for c in changes if c < 0), sum(c for c in changes if c > 0),
                 widths)  # fmt: skip


def accuracy(model: nn.Module, data: Data) -> float:
    """The share of test images that are put into their class."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum())
                    for x, y in zip(*(part.split(500) for part in data.test), strict=True))
    return right / len(data.test[0])


def pretrained(transfer: Transfer, plan: Plan, seed: int) -> tuple[nn.Sequential, float]:
    """A network trained on the first task with a new last layer, and how good it was there."""
    torch.manual_seed(seed)
    model = transfer.model().to(transfer.source.device)
    good = tune(model, transfer.source, plan.before, seed).accuracy
    last = model[-1]
    assert isinstance(last, nn.Linear)
    model[-1] = nn.Linear(last.in_features, transfer.classes).to(last.weight.device)
    return model, good


def compared(transfer: Transfer, plan: Plan) -> tuple[dict[str, list[Tuned]], list[float]]:
    """Every way of fine-tuning over all seeds, and the accuracies on the first task."""
    found: dict[str, list[Tuned]] = {}
    source = []
    for seed in plan.seeds:
        model, good = pretrained(transfer, plan, seed)
        source.append(good)
        for name, tuned in _ways(transfer, plan, seed, model).items():
            found.setdefault(name, []).append(tuned)
            print(transfer.name, seed, name, tuned, flush=True)
    return found, source


def _ways(transfer: Transfer, plan: Plan, seed: int, model: nn.Sequential) -> dict[str, Tuned]:
    """All ways from one network."""
    def run(
        dyno: Dyno | None = None, first: Data | None = None, auto: bool = False,
        start: nn.Module = model,
    ) -> Tuned:
        seen = first.train[0][:FIRST] if first else None
        return tune(copy.deepcopy(start), transfer.target, plan.after, seed, dyno, seen, auto)

    def fresh(star: float = 0.0) -> Dyno:
        return Dyno(every=EVERY, least=transfer.classes, seed=seed, star=star)

    found = {
        "static": run(), "Auto-RGN": run(auto=True),
        "DYNO, φ* of the new task": run(fresh(), transfer.target),
        "DYNO, φ* of the first task": run(fresh(), transfer.source),
        "DYNO, φ* = 1": run(fresh(star=1.0), transfer.target),
        "DYNO, φ* = 1, and Auto-RGN": run(fresh(star=1.0), transfer.target, auto=True),
    }  # fmt: skip
    keep = found["DYNO, φ* = 1"].macs / found["static"].macs
    graph = netir.trace(model.eval(), (transfer.target.train[0][:2],))
    small = netir.to_torch(Prune(macs=keep)(graph)) if keep < 1 else model
    return {**found, "pruned first": run(start=small)}


def run(given: Options) -> list[Table]:
    plan = QUICK if given.quick else LARGE if given.large else USUAL
    tables, series = [], []
    for make, shape in ((digits, "circle"), (halves, "square")):
        transfer = make(given, plan).to(given.device)
        found, source = compared(transfer, plan)
        tables.append(_table(transfer, plan, found, source))
        whole = [t.macs for t in found["static"]]
        series += [
            Series(f"{name}, {transfer.name.partition(' ')[0]}",
                   [point([100 * t.macs / w for t, w in zip(runs, whole, strict=True)],
                          [100 * t.accuracy for t in runs])], COLOURS[n], shape)
            for n, (name, runs) in enumerate(found.items())
        ]  # fmt: skip
    if not given.quick:
        write(given.results, given.named("reproduce_transfer"), chart(
            "Fine-tuning on a new task", "MACs, % of the network before", "accuracy, %", series))
    return tables


def _table(
    transfer: Transfer, plan: Plan, found: dict[str, list[Tuned]], source: Sequence[float]
) -> Table:
    rows = [_row(name, runs, found["static"]) for name, runs in found.items()]
    columns = ("fine-tuning", "accuracy %", "less static", "MACs, % of static",
               "parameters, % of static", "units pruned", "units grown", "final widths",
               "seconds")  # fmt: skip
    return Table(transfer.name, columns, rows, (
        f"Mean and standard deviation over {len(plan.seeds)} seeds: {plan.before} steps on the "
        f"first task (accuracy there {figure([100 * s for s in source])} %), {plan.after} on the "
        f"second, of {len(transfer.target.train[0]):,} images; batch {BATCH}, Adam {RATE:g}, "
        f"weight decay {DECAY:g}, a reading every {EVERY} steps. Seconds are processor time of one "
        "thread.",
    ))  # fmt: skip


def _row(name: str, runs: Sequence[Tuned], static: Sequence[Tuned]) -> list[Cell]:
    pairs = list(zip(runs, static, strict=True))
    return [
        name, figure([100 * t.accuracy for t in runs], 2),
        figure([100 * (t.accuracy - s.accuracy) for t, s in pairs], 2),
        figure([100 * t.macs / s.macs for t, s in pairs]),
        figure([100 * t.parameters / s.parameters for t, s in pairs]),
        figure([t.pruned for t in runs], 0), figure([t.grown for t in runs], 0),
        " ".join(f"{mean(w):.0f}" for w in zip(*(t.widths for t in runs), strict=True)),
        mean(t.seconds for t in runs),
    ]  # fmt: skip


def main() -> None:
    given = options(__doc__ or "", data=True, large=True)
    report(given.named("reproduce_transfer"), "DYNO on a new task", run(given), given)


if __name__ == "__main__":
    main()
