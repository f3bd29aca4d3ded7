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
from bench.measure import (
    Options,
    Table,
    Task,
    Times,
    interleaved,
    milliseconds,
    options,
    ratio,
    report,
)
from bench.models import sample
from tests.called import operators
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
    lengths = torch.randint(TOKENS // 2, TOKENS, (BATCH, 1))
    return torch.randint(1000, (BATCH, TOKENS)), torch.arange(TOKENS) < lengths


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


def measure(name: str, rounds: int, repeat: int, budget: float) -> list[list[Any]]:
    """The rows of one model; every round has new copies, which lie elsewhere in memory."""
    given = sample(name)
    args = inputs(given, SIZES[name])
    graph = netir.trace(given.model, args)
    lower = interleaved({"lower": Task(lambda _: netir.to_torch(graph))}, 3)
    times: dict[tuple[str, str], Times] = {}
    for _ in range(rounds):
        modules = {"original": copy.deepcopy(given.model), "lowered": netir.to_torch(graph),
                   "copy": copy.deepcopy(given.model)}  # fmt: skip
        for mode in ("eval", "train"):
            for what, make in (("forward", forward), ("forward + backward", backward)):
                tasks = {k: Task(make(module.train(mode == "train"), args))
                         for k, module in modules.items()}  # fmt: skip
                found = times.setdefault((mode, what), {k: [] for k in tasks})
                for k, more in interleaved(tasks, repeat, budget / rounds).items():
                    found[k] += more
    pair = (modules[k].train() for k in ("original", "lowered"))
    counts = " / ".join(f"{operators(module, args).total():,}" for module in pair)
    rows = [[name, *case, *row(found), None, None] for case, found in times.items()]
    rows[-1][-2] = counts
    rows[0][-1] = milliseconds(lower, "lower")
    return rows


def row(times: Times) -> list[Any]:
    """The figures of one case."""
    found = ratio(times, "lowered", "original")
    return [len(times["lowered"]), milliseconds(times, "original"), milliseconds(times, "lowered"),
            found, ratio(times, "copy", "original"),
            "met" if found <= LIMIT else "missed"]  # fmt: skip


def table(given: Options) -> Table:
    rows = []
    for name in given.wanted(list(SIZES), QUICK):
        rows += measure(name, *((1, 3, 1) if given.quick else (4, 20, 14)))
    columns = ("model", "mode", "pass", "turns", "original ms", "lowered ms", "lowered / original",
               "copy / original", f"at most {LIMIT}", "operators", "to_torch ms")
    lowered, again = ([row[n] for row in rows] for n in (6, 7))
    within = [sum(found <= LIMIT for found in each) for each in (lowered, again)]
    return Table("Original and lowered", columns, rows, (
        f"Batch {BATCH}. Both ratios are medians over the turns; that of a second copy of the "
        "original tells how far chance goes. `operators`: how many of torch's operators a forward "
        "pass calls, original and lowered.",
        f"Median of all: lowered {median(lowered):.3f}, copy {median(again):.3f}. At most {LIMIT} "
        f"are {within[0]} of {len(rows)} lowered and {within[1]} of {len(rows)} copies.",
    ))  # fmt: skip


def main() -> None:
    given = options(__doc__ or "")
    warnings.simplefilter("ignore")
    report("lowered", "Lowered modules", [table(given)], given)


if __name__ == "__main__":
    main()
