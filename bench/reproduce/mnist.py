"""Growing on MNIST: seven ways to grow against static networks; accuracy and size.

Maile (2023), section 6.3.3: two hidden layers start with 64 units and may grow to 784. Dynamic
growth is NORTH's trigger; the preset schedules grow to the same final sizes within the first 75 %
of training, evenly or in eight batches. Small, Medium and Big are static networks of 64, 256 and
784 units. Expected: NORTH on the front of accuracy against size, and growing networks about as good
as the static network of their final size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F

from bench.measure import Options, Table, options, report
from bench.reproduce.growing import Data, Trained, figure, mlp, over_seeds, trained
from netir.passes.growth.triggers import Activations, Linear, Weights
from netir.passes.methods import Grower

START, MOST = 64, 784
STATIC = {"Small Static": 64, "Medium Static": 256, "Big Static": 784}
INITS = ("random", "select", "pre", "weight", "gradmax", "firefly", "nest")


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


def growers(steps: int, every: int) -> dict[str, Callable[[str, int], Grower]]:
    """Every schedule as a function of an init and a seed."""
    within = int(0.75 * steps)

    def dynamic(init: str, seed: int) -> Grower:
        trigger = Weights(gamma=0.99) if init == "weight" else Activations(gamma=0.97)
        return Grower(trigger, init, loss=F.cross_entropy, most=MOST, every=every, seed=seed,
                      cool_down=every)  # fmt: skip

    def linear(init: str, seed: int) -> Grower:
        return Grower(Linear(256, within), init, loss=F.cross_entropy, every=every, seed=seed,
                      buffer=512)  # fmt: skip

    def batches(init: str, seed: int) -> Grower:
        return Grower(Linear(256, within, batches=8), init, loss=F.cross_entropy, every=every,
                      seed=seed, buffer=512)  # fmt: skip

    return {"dynamic": dynamic, "preset, evenly": linear, "preset, 8 batches": batches}


def run(given: Options) -> list[Table]:
    seeds = (1,) if given.quick else (1, 2, 3, 4, 5)
    epochs, limit, every = (1, 4096, 4) if given.quick else (3, 20_000, 10)
    data, size = images(given.data, limit), 512
    steps = epochs * (len(data.train[0]) // size)
    rows = []

    def add(how: str, name: str, found: list[Trained]) -> None:
        rows.append([
            how, name, figure([100 * f.accuracy for f in found], 2),
            figure([f.parameters / 1e3 for f in found], 0),
            " x ".join(f"{mean(w):.0f}" for w in zip(*(f.widths for f in found), strict=True)),
            mean(f.seconds for f in found), 100 * mean(f.growing / f.seconds for f in found),
        ])  # fmt: skip
        print(rows[-1], flush=True)

    for name, width in STATIC.items():
        add("static", name, over_seeds(seeds, lambda seed, w=width: trained(  # type: ignore[misc]
            mlp(784, (w, w), 10), data, None, epochs=epochs, seed=seed, size=size, rate=3e-4)))
    for how, make in growers(steps, every).items():
        for init in INITS:
            add(how, init, over_seeds(seeds, lambda seed, i=init, m=make: trained(  # type: ignore[misc]
                mlp(784, (START, START), 10), data, m(i, seed), epochs=epochs, seed=seed,
                size=size, rate=3e-4)))
    columns = ("schedule", "init or network", "accuracy %", "thousand parameters", "final widths",
               "seconds", "% of it growing")  # fmt: skip
    return [Table("Growing on MNIST", columns, rows, (
        f"Mean and standard deviation over {len(seeds)} seeds; {limit:,} images, {epochs} epochs, "
        f"batch {size}, Adam 3e-4, a reading every {every} steps.",
    ))]  # fmt: skip


def main() -> None:
    given = options(__doc__ or "", data=True)
    report("reproduce_mnist", "Growing on MNIST", run(given), given)


if __name__ == "__main__":
    main()
