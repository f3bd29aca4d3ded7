"""Does a lowered module run as fast as the model that it came from?

Forward, and forward with backward, in eval and in train mode, float32, batch 8, original and
lowered in turn, in processor time of one thread: on a shared machine, wall time of two threads
varies by more than the limit. Images have 96 pixels, which shows overhead rather than hides it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import netir
from bench.measure import Options, Table, Task, interleaved, milliseconds, options, ratio, report
from bench.models import sample
from tests.zoo.sample import Sample

BATCH, LIMIT = 8, 1.02
SIZES = {"mobilenet_v2 (full)": 96, "resnet18 (full)": 96, "bert_6_by_384": 0,
         "vit_b_16 (96 pixels)": 96, "resnet50 (full)": 96}  # fmt: skip
QUICK = ("mobilenet_v2 (full)",)
TOKENS = 64


def inputs(given: Sample, size: int) -> tuple[Any, ...]:
    """A batch of the measured size."""
    if size:
        return (torch.randn(BATCH, 3, size, size),)
    return torch.randint(1000, (BATCH, TOKENS)), torch.ones(BATCH, TOKENS, dtype=torch.bool)


def forward(module: nn.Module, args: tuple[Any, ...]) -> Callable[[Any], object]:
    """A forward pass without gradients."""

    def run(_: Any) -> object:
        with torch.no_grad():
            return module(*args)

    return run


def backward(module: nn.Module, args: tuple[Any, ...]) -> Callable[[Any], object]:
    """A forward and a backward pass, gradients of all parameters."""

    def run(_: Any) -> object:
        outputs = pytree.tree_leaves(module(*args))
        loss = sum(out.float().mean() for out in outputs if isinstance(out, Tensor))
        assert isinstance(loss, Tensor)
        loss.backward()
        return module.zero_grad(set_to_none=True)

    return run


def measure(name: str, repeat: int, budget: float) -> list[list[Any]]:
    """The rows of one model."""
    given = sample(name)
    args = inputs(given, SIZES[name])
    graph = netir.trace(given.model, args)
    lower = interleaved({"lower": Task(lambda _: netir.to_torch(graph))}, 3)
    pair = {"original": copy.deepcopy(given.model), "lowered": netir.to_torch(graph)}
    rows = []
    for mode in ("eval", "train"):
        for what, make in (("forward", forward), ("forward + backward", backward)):
            tasks = {k: Task(make(module.train(mode == "train"), args))
                     for k, module in pair.items()}  # fmt: skip
            times = interleaved(tasks, repeat, budget)
            found = ratio(times, "lowered", "original")
            quickest = min(times["lowered"]) / min(times["original"])
            rows.append([name, mode, what, len(times["lowered"]), milliseconds(times, "original"),
                         milliseconds(times, "lowered"), found, quickest,
                         "met" if found <= LIMIT else "missed",
                         milliseconds(lower, "lower") if not rows else None])  # fmt: skip
    return rows


def table(given: Options) -> Table:
    rows = []
    for name in given.wanted(list(SIZES), QUICK):
        rows += measure(name, 3 if given.quick else 21, 1 if given.quick else 4)
    columns = ("model", "mode", "pass", "turns", "original ms", "lowered ms", "median ratio",
               "ratio of minima", f"at most {LIMIT}", "to_torch ms")
    middle = median(row[6] for row in rows)
    return Table("Original and lowered", columns, rows, (
        f"Batch {BATCH}. `median ratio` is the median over the turns of lowered over original, on "
        f"which the target is judged. Median of all these: {middle:.3f}; at most {LIMIT} in "
        f"{sum(row[6] <= LIMIT for row in rows)} of {len(rows)}.",
    ))  # fmt: skip


def main() -> None:
    given = options(__doc__ or "")
    warnings.simplefilter("ignore")
    report("lowered", "Lowered modules", [table(given)], given)


if __name__ == "__main__":
    main()
