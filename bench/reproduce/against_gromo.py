"""Growing the same MLP by GradMax and TINY, side by side with gromo.

Both start from the same weights, see the same batches of MNIST in the same order, and grow both
hidden layers by up to 16 units at the same steps, from the same newest samples; GradMax can give a
layer no more units than what reads it has outputs. Times are processor time of one thread.

gromo is needed for this bench only. It runs in a process of its own, in `build/gromo` if that is
there and else in this environment:

    python -m venv build/gromo && build/gromo/bin/pip install gromo==0.1.0
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from bench.measure import Cell, Options, Table, options, report
from bench.reproduce.growing import Data, figure, mlp
from bench.reproduce.mnist import images
from netir.passes.growth.triggers import Reading
from netir.passes.methods import Grower

ROOT = Path(__file__).parents[2]
INSTALL = "python -m venv build/gromo && build/gromo/bin/pip install gromo==0.1.0"
INITS = {"GradMax": "gradmax", "TINY": "tiny"}
ACTIVATIONS: dict[str, type[nn.Module]] = {"ReLU": nn.ReLU, "SELU": nn.SELU}


@dataclass(frozen=True)
class Job:
    """One training: after each of the steps `events` both hidden layers grow by `count`."""

    file: str
    init: str
    activation: str
    seed: int
    start: int = 16
    layers: int = 2
    count: int = 16
    events: tuple[int, ...] = (78, 156, 234)
    epochs: int = 6
    batch: int = 128
    rate: float = 1e-3
    kept: int = 16
    """So many of the newest batches are what growth looks at."""


@dataclass(frozen=True)
class Grown:
    """What came of it; `changes` are those of the loss at every growth, `held` the shares of the
    parameters that the optimizer still has after it."""

    accuracy: float
    seconds: float
    growing: float
    changes: list[float]
    held: list[float]
    widths: list[int]
    parameters: int
    silent: float
    """The share of new units that are 0 on all test images."""


def model_of(job: Job, widths: Sequence[int]) -> nn.Sequential:
    """The MLP of a seed."""
    torch.manual_seed(job.seed)
    made = mlp(784, widths, 10)
    return nn.Sequential(
        *(ACTIVATIONS[job.activation]() if isinstance(m, nn.ReLU) else m for m in made))


def ours(job: Job, data: Data, widths: Sequence[int]) -> Grown:
    """The training with netir; without events a static network of these widths."""
    model = model_of(job, widths)
    optimizer = torch.optim.Adam(model.parameters(), lr=job.rate)
    live = netir.Live(model, optimizer)

    def trigger(reading: Reading) -> int:
        return job.count if reading.step in job.events else 0

    grower = Grower(trigger, job.init, loss=F.cross_entropy, buffer=job.kept * job.batch, scale=0.5)
    changes, held, growing, start = [], [], 0.0, time.thread_time()
    for step, (rows, newest) in enumerate(_batches(job, len(data.train[0])), start=1):
        x, y = data.train[0][rows], data.train[1][rows]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if not job.events:
            continue
        if step not in job.events:
            grower.step(live, x, y)
            continue
        seen = data.train[0][newest], data.train[1][newest]
        was, began = _loss(model, *seen), time.thread_time()
        grower.step(live, x, y)
        growing += time.thread_time() - began
        changes.append(_loss(model, *seen) - was)
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        held.append(mean(id(p) in known and p in optimizer.state for p in model.parameters()))
    return _result(model, data, job, time.thread_time() - start, growing, changes, held)


def _batches(job: Job, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows of every batch, and of the newest ones."""
    generator = torch.Generator().manual_seed(job.seed)
    newest: list[Tensor] = []
    for _ in range(job.epochs):
        for rows in torch.randperm(count, generator=generator).split(job.batch):
            newest = [*newest, rows][-job.kept :]
            yield rows, torch.cat(newest)


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


def _result(
    model: nn.Sequential, data: Data, job: Job, seconds: float, growing: float,
    changes: list[float], held: list[float],
) -> Grown:
    x, y = data.test
    silent: list[bool] = []
    with torch.no_grad():
        right = float((model(x).argmax(1) == y).float().mean())
        for layer, following in pairwise(model):
            x = layer(x)
            if isinstance(following, nn.Linear):
                silent += (x[:, job.start :] == 0).all(0).tolist()
    widths = [m.out_features for m in model if isinstance(m, nn.Linear)][:-1]
    return Grown(right, seconds, growing, changes, held, widths,
                 sum(p.numel() for p in model.parameters()),
                 sum(silent) / max(1, len(silent)))  # fmt: skip


class Peer:
    """gromo's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, job: Job) -> Grown:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(vars(job)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("gromo's process ended; what it said is above")
        return Grown(**json.loads(answer))


@contextmanager
def peer() -> Iterator[Peer]:
    """Start gromo, or say how to install it."""
    own = ROOT / "build" / "gromo" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    found = subprocess.run([python, "-c", "import gromo"], capture_output=True)
    if found.returncode:
        raise SystemExit(f"gromo is not installed, and only this bench needs it:\n\n    {INSTALL}")
    script = Path(__file__).with_name("peer_gromo.py")
    with subprocess.Popen([python, "-P", str(script)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        yield Peer(process)


def saved(job: Job, data: Data) -> None:
    """The data and the first weights of a seed, where gromo's process reads them."""
    model = model_of(job, (job.start,) * job.layers)
    torch.save({
        "x": data.train[0], "y": data.train[1], "x_test": data.test[0], "y_test": data.test[1],
        "weights": [(m.weight.detach(), m.bias.detach()) for m in model
                    if isinstance(m, nn.Linear)],
    }, job.file)  # fmt: skip


def run(given: Options) -> list[Table]:
    seeds = (1,) if given.quick else (1, 2, 3, 4, 5)
    data = images(given.data, 10_000)
    found: dict[tuple[str, str, str], list[Grown]] = {}

    def add(key: tuple[str, str, str], one: Grown) -> None:
        found.setdefault(key, []).append(one)
        print(key, one, flush=True)

    with tempfile.TemporaryDirectory() as folder, peer() as gromo:
        for activation in ACTIVATIONS:
            for seed in seeds:
                job = Job(f"{folder}/start.pt", "", activation, seed)
                saved(job, data)
                for width in (16, 64):
                    static = replace(job, init="random", events=())
                    add((activation, f"static {width}", ""), ours(static, data, (width, width)))
                for name, init in INITS.items():
                    one = replace(job, init=init)
                    add((activation, name, "netir"), ours(one, data, (16, 16)))
                    add((activation, name, "gromo"), gromo.run(one))
    return [table(found, len(seeds))]


def table(found: Mapping[tuple[str, str, str], Sequence[Grown]], seeds: int) -> Table:
    ordered = sorted(found.items(), key=lambda item: list(ACTIVATIONS).index(item[0][0]))
    columns = ("activation", "method", "by", "accuracy %", "final widths", "seconds",
               "ms a growth", "loss, after less before", "new units silent at the end %",
               "parameters that the optimizer still holds %")  # fmt: skip
    return Table("Growing 16 x 16 units to 64 x 64 on MNIST", columns,
                 [_row(key, runs) for key, runs in ordered], (
        f"Mean and standard deviation over {seeds} seeds; 10,000 images, 6 epochs, batch 128, Adam "
        "1e-3, growth after 78, 156 and 234 steps on the newest 2,048 samples. GradMax: new "
        "columns of half the mean norm. TINY: gromo projects the gradient on what the layer "
        "cannot do itself and searches the size in steps of a few per cent, which takes most of "
        "its time; netir takes the gradient as it is and searches by halves. Statistics of gromo "
        "are of the summed loss, as its thresholds expect.",
        "What gromo could not do: grow two neighbouring layers from one reading (it takes one for "
        "each, and the sizes do not fit if both are applied); grow a module that is not made of "
        "its own layers; keep Adam's moments, as its layers get new parameters, so it starts "
        "with a new Adam after each growth; let GradMax's units learn behind a ReLU, whose "
        "gradient at 0 is 0 in torch. What netir could not do: update the weights that are there "
        "together with the new ones, as gromo's `compute_delta` does (not used here).",
    ))  # fmt: skip


def _row(key: tuple[str, str, str], runs: Sequence[Grown]) -> list[Cell]:
    row: list[Cell] = [
        *key, figure([100 * r.accuracy for r in runs], 2),
        " x ".join(figure(w, 0) for w in zip(*(r.widths for r in runs), strict=True)),
        figure([r.seconds for r in runs], 2),
    ]  # fmt: skip
    if not key[2]:
        return [*row, None, None, None, None]
    return [
        *row, figure([1e3 * r.growing / len(r.changes) for r in runs], 0),
        figure([mean(r.changes) for r in runs], 4), figure([100 * r.silent for r in runs], 0),
        figure([100 * mean(r.held) for r in runs], 0),
    ]  # fmt: skip


def main() -> None:
    given = options(__doc__ or "", data=True)
    report("reproduce_against_gromo", "Growing, side by side with gromo", run(given), given)


if __name__ == "__main__":
    main()
