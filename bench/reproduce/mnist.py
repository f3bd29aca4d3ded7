"""Growing on MNIST: seven ways to grow against static networks; accuracy and size.

Maile (2023), section 6.3.3: two hidden layers start with 64 units and may grow to 784. Dynamic
growth takes the trigger that each method was published with; the preset schedules grow to 256 units
within the first 75 % of training, evenly or in eight batches. Small, Medium and Big are static
networks of 64, 256 and 784 units. Expected: NORTH on the front of accuracy against size, and
growing networks about as good as the static network of their final size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F

from bench.measure import Options, Table, options, report
from bench.reproduce.drawing import COLOURS, Series, chart, write
from bench.reproduce.growing import (
    Data,
    Trained,
    figure,
    mlp,
    over_seeds,
    point,
    trained,
)
from netir.passes.growth.triggers import Activations, Gradients, Linear, Trigger, Weights
from netir.passes.methods import Grower

START, MIDDLE, MOST, BATCH, RATE = 64, 256, 784, 512, 3e-3
STATIC = {"Small Static": START, "Medium Static": MIDDLE, "Big Static": MOST}
NORTH = {"NORTH-Select": "select", "NORTH-Pre": "pre", "NORTH-Random": "random",
         "NORTH-Weight": "weight"}  # fmt: skip
OTHERS = {"GradMax": "gradmax", "Firefly": "firefly", "NeST": "nest"}
SHAPES = {"dynamic": "diamond", "dynamic, by activations": "triangle", "evenly": "square",
          "8 batches": "square"}  # fmt: skip

Make = Callable[[int], Grower]


@dataclass(frozen=True)
class Plan:
    """How much is run; readings of a schedule are so many steps apart."""

    seeds: tuple[int, ...]
    images: int
    epochs: int
    every: int

    @property
    def steps(self) -> int:
        return self.epochs * (self.images // BATCH)


QUICK = Plan((1,), 4096, 1, 2)
USUAL = Plan((1, 2, 3, 4, 5), 16_000, 8, 20)
LARGE = Plan((1, 2, 3, 4, 5), 60_000, 20, 1)


def images(folder: Path, limit: int) -> Data:
    """MNIST from `DIR/mnist.npz`; so many images to train on."""
    with np.load(folder / "mnist.npz", allow_pickle=False) as arrays:
        parts = [
            (torch.from_numpy(arrays[f"x_{p}"]).flatten(1).float() / 255,
             torch.from_numpy(arrays[f"y_{p}"]).long())
            for p in ("train", "test")
        ]  # fmt: skip
    (x, y), test = parts
    return Data((x[:limit], y[:limit]), test)


def growers(plan: Plan) -> dict[tuple[str, str], Make]:
    """Every schedule and method as a function of a seed."""
    within = int(0.75 * plan.steps)
    rare = max(1, plan.every // 2)

    def made(trigger: Trigger, init: str, every: int, buffer: int = BATCH) -> Make:
        return lambda seed: Grower(trigger, init, loss=F.cross_entropy, most=MOST, every=every,
                                   buffer=buffer, seed=seed)  # fmt: skip

    found: dict[tuple[str, str], Make] = {}
    for name, init in NORTH.items():
        trigger = Weights(gamma=0.99) if init == "weight" else Activations(gamma=0.97)
        found["dynamic", name] = made(trigger, init, 1, 2 * MOST)
    for name, init in OTHERS.items():
        found["dynamic", name] = made(Gradients(), init, rare)
        found["dynamic, by activations", name] = made(Activations(gamma=0.97), init, 1, 2 * MOST)
    for name, init in {**NORTH, **OTHERS}.items():
        found["evenly", name] = made(Linear(MIDDLE, within), init, plan.every)
        found["8 batches", name] = made(Linear(MIDDLE, within, batches=8), init, plan.every)
    return dict(sorted(found.items(), key=lambda item: list(SHAPES).index(item[0][0])))


class Trainings:
    """Runs of one plan on the same data; a static network is trained once for each seed."""

    def __init__(self, plan: Plan, data: Data) -> None:
        self.plan = plan
        self.data = data
        self._static: dict[tuple[int, ...], Trained] = {}

    def run(self, widths: Sequence[int], seed: int, grower: Grower | None = None) -> Trained:
        torch.manual_seed(seed)
        return trained(mlp(784, widths, 10), self.data, grower, epochs=self.plan.epochs, seed=seed,
                       size=BATCH, rate=RATE)  # fmt: skip

    def static(self, widths: Sequence[int], seed: int) -> Trained:
        key = (*widths, seed)
        if key not in self._static:
            self._static[key] = self.run(widths, seed)
        return self._static[key]


def run(given: Options) -> list[Table]:
    plan = QUICK if given.quick else LARGE if given.large else USUAL
    runs = Trainings(plan, images(given.data, plan.images).to(given.device))
    static, grown = {}, {}
    for name, width in STATIC.items():
        static[name] = over_seeds(plan.seeds, lambda seed, w=(width,) * 2: runs.static(w, seed))  # type: ignore[misc]
        print(_row(("static", name), static[name]), flush=True)
    for key, make in growers(plan).items():
        grown[key] = over_seeds(
            plan.seeds, lambda seed, m=make: runs.run((START, START), seed, m(seed)))  # type: ignore[misc]
        print(_row(key, grown[key]), flush=True)
    note = (
        f"Mean and standard deviation over {len(plan.seeds)} seeds; {plan.images:,} images, "
        f"{plan.epochs} epochs, batch {BATCH}, Adam {RATE:g}. Dynamic growth by activations or "
        f"weights looks after every step, by gradients after every {max(1, plan.every // 2)}, "
        f"schedules after every {plan.every}. Seconds are processor time of one thread."
    )
    if not given.quick:
        write(given.results, given.named("reproduce_mnist"), drawn(static, grown))
    return [sizes(static, grown, note), against_static(grown, runs)]


def _row(key: tuple[str, str], found: Sequence[Trained]) -> list[str | float]:
    return [
        *key, figure([100 * f.accuracy for f in found], 2),
        figure([f.parameters / 1e3 for f in found], 0), _widths(found),
        mean(f.seconds for f in found), 100 * mean(f.growing / f.seconds for f in found),
    ]  # fmt: skip


def _widths(found: Sequence[Trained]) -> str:
    return " x ".join(figure(w, 0) for w in zip(*(f.widths for f in found), strict=True))


def sizes(
    static: Mapping[str, list[Trained]], grown: Mapping[tuple[str, str], list[Trained]], note: str
) -> Table:
    """Accuracy and size of everything, and whether nothing smaller is as good."""
    every = {**{("static", n): f for n, f in static.items()}, **grown}
    means = {k: (mean(f.parameters for f in found), mean(f.accuracy for f in found))
             for k, found in every.items()}  # fmt: skip
    rows = [
        [*_row(key, found), "yes" if _leads(means[key], list(means.values())) else ""]
        for key, found in every.items()
    ]
    columns = ("schedule", "method", "accuracy %", "thousand parameters", "final widths",
               "seconds", "% of it growing", "on the front")  # fmt: skip
    return Table("Accuracy and size", columns, rows, (
        note, "On the front: by the means, nothing at most as large is more accurate.",
    ))  # fmt: skip


def _leads(one: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    size, accuracy = one
    return not any(s <= size and a > accuracy for s, a in others)


def against_static(grown: Mapping[tuple[str, str], list[Trained]], runs: Trainings) -> Table:
    """Each grown network against a static one of its own final widths, seed by seed."""
    rows = []
    for key, found in grown.items():
        if all(f.widths == [START, START] for f in found):
            rows.append([*key, _widths(found), None, None, None, "never grew"])
            continue
        same = [runs.static(f.widths, s) for f, s in zip(found, runs.plan.seeds, strict=True)]
        gains = [100 * (f.accuracy - s.accuracy) for f, s in zip(found, same, strict=True)]
        rows.append([
            *key, _widths(found), figure([100 * f.accuracy for f in found], 2),
            figure([100 * s.accuracy for s in same], 2), figure(gains, 2),
            f"{sum(g >= 0 for g in gains)} of {len(gains)}",
        ])  # fmt: skip
        print(rows[-1], flush=True)
    columns = ("schedule", "method", "final widths", "grown %", "static of those widths %",
               "grown less static", "seeds in which grown is as good")  # fmt: skip
    return Table("Grown against static of the same widths", columns, rows)


def drawn(
    static: Mapping[str, list[Trained]], grown: Mapping[tuple[str, str], list[Trained]]
) -> str:
    """Accuracy against parameters."""
    names = [*NORTH, *OTHERS]
    points = {k: point([f.parameters / 1e3 for f in found], [100 * f.accuracy for f in found])
              for k, found in {**static, **grown}.items()}  # fmt: skip
    series = [Series("Static: Small, Medium, Big", [points[n] for n in static], "#555",
                     line=True)]  # fmt: skip
    series += [
        Series(f"{name}, {how}", [points[how, name]], COLOURS[names.index(name)], SHAPES[how])
        for how, name in grown if how != "8 batches"
    ]  # fmt: skip
    return chart("Growing on MNIST", "thousand parameters", "test accuracy, %", series, log_x=True)


def main() -> None:
    given = options(__doc__ or "", data=True, large=True)
    report(given.named("reproduce_mnist"), "Growing on MNIST", run(given), given)


if __name__ == "__main__":
    main()
