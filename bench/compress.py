"""Accuracy after pruning to half, a third and a fifth of the MACs, beside Torch-Pruning.

A small residual network is trained on the CIFAR-10 part in `--data`, once for each seed. Both
tools prune the same copy, by the same scores, evenly in all layers, to the same MACs, and are tuned
further in the same way for the same number of epochs. Gradients and compensation look at the same
batches of training images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from statistics import mean, pstdev
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import netir
from bench.measure import Cell, Options, Table, options, report
from bench.pictures import Pictures, SmallResNet, accuracy, load, train
from netir import Calibration
from netir.passes import Prune
from netir.passes.scores.evidence import Evidence
from netir.spaces import Member, Space

KEEP = (1 / 2, 1 / 3, 1 / 5)
SCORES = ("l2", "taylor", "bn")
EPOCHS, TUNE, RATE, SEEDS = 15, 1, 0.1, (1, 2)
IMAGES = 300
"""How many of each class to train on, so that all of it takes less than an hour on two cores."""

IMPORTANCE: dict[str, Callable[[], Any]] = {
    "l2": lambda: torch_pruning.importance.MagnitudeImportance(p=2),
    "taylor": torch_pruning.importance.TaylorImportance,
    "bn": torch_pruning.importance.BNScaleImportance,
}


def macs(model: nn.Module) -> int:
    """Multiply-accumulates of one image, as torch counts them for either tool."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops() // 2


def magnitude(space: Space, evidence: Evidence) -> Tensor:
    """The squares of the weights and the scales of each channel: what the peer adds up."""
    params = evidence.graph.params
    scales = [m for m in space.producers
              if m.param.endswith("weight") and params[m.param].data.dim() == 1]  # fmt: skip

    def squares(member: Member) -> Tensor:
        rows = params[member.param].data.movedim(member.axis, 0)
        return rows.reshape(len(rows), -1).square().sum(1)

    return evidence.gathered(space, [*evidence.members(space), *scales], squares)


OURS: dict[str, Any] = {"l2": magnitude, "taylor": "taylor", "bn": "bn"}


def ours(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], score: str, keep: float, how: str
) -> nn.Module:
    """Prune with netir; weights that read a channel count, as they do for the peer."""
    seen = Calibration([x for x, _ in batches], [y for _, y in batches], F.cross_entropy)
    graph = netir.trace(model.eval(), batches[0][0])
    rewrite = Prune(macs=keep, score=OURS[score], readers=True, compensate=how)
    return netir.to_torch(rewrite(graph, seen))


def theirs(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], score: str, keep: float
) -> nn.Module:
    """Prune with the peer, with the ratio that comes closest to the MACs from below."""
    target, low, high = keep * macs(model), 0.0, 0.9
    best: nn.Module | None = None
    for _ in range(7):
        ratio = (low + high) / 2
        pruned = _peer(copy.deepcopy(model), batches, score, ratio)
        if macs(pruned) <= target:
            best, high = pruned, ratio
        else:
            low = ratio
    assert best is not None
    return best


def _peer(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], score: str, ratio: float
) -> nn.Module:
    model.eval()
    pruner = torch_pruning.MetaPruner(
        model, batches[0][0][:1], importance=IMPORTANCE[score](), pruning_ratio=ratio,
        ignored_layers=[model.head],
    )  # fmt: skip
    if score == "taylor":
        for x, y in batches:
            F.cross_entropy(model(x), y).backward()
    pruner.step()
    model.zero_grad()
    return model


WAYS: dict[str, Callable[..., nn.Module]] = {
    "Torch-Pruning": theirs,
    "netir": lambda *given: ours(*given, "none"),
    "netir, mean folded": lambda *given: ours(*given, "mean"),
    "netir, least squares": lambda *given: ours(*given, "least-squares"),
}


def measured(
    model: nn.Module, data: Pictures, test: Pictures, seed: int, tune: int, scores: Iterable[str]
) -> Iterable[tuple[str, float, str, float, float, float]]:
    """For each score, target and way: MACs left, accuracy right after, accuracy after tuning."""
    generator = torch.Generator().manual_seed(seed)
    batches = [b for b, _ in zip(data.batches(128, generator), range(8), strict=False)]
    whole = macs(model)
    for score in scores:
        for keep in KEEP:
            for way, prune in WAYS.items():
                pruned = prune(copy.deepcopy(model), batches, score, keep)
                left, before = macs(pruned) / whole, accuracy(pruned, test)
                tuned = accuracy(train(pruned, data, tune, RATE / 4, seed), test)
                print(seed, score, f"{keep:.2f}", way, left, before, tuned, flush=True)
                yield score, keep, way, left, before, tuned


def run(given: Options) -> list[Table]:
    seeds, epochs, limit = (SEEDS[:1], 1, 20) if given.quick else (SEEDS, EPOCHS, IMAGES)
    scores = given.wanted(SCORES, SCORES)
    data, test = load(given.data, "train", limit), load(given.data, "test", limit)
    found: dict[tuple[str, float, str], list[tuple[float, float, float]]] = {}
    base = []
    for seed in seeds:
        torch.manual_seed(seed)
        model = train(SmallResNet(), data, epochs, RATE, seed)
        base.append(accuracy(model, test))
        for score, keep, way, *numbers in measured(model, data, test, seed, TUNE, scores):
            found.setdefault((score, keep, way), []).append(tuple(numbers))  # type: ignore[arg-type]
    return [_table(found, base, len(data.images), len(test.images))]


def _table(
    found: dict[tuple[str, float, str], list[tuple[float, float, float]]],
    base: list[float], images: int, tests: int,
) -> Table:  # fmt: skip
    rows: list[list[Cell]] = []
    above = total = 0
    for (score, keep, way), numbers in found.items():
        left, before, tuned = (list(column) for column in zip(*numbers, strict=True))
        peer = mean(t for _, _, t in found[score, keep, "Torch-Pruning"])
        if way != "Torch-Pruning":
            above, total = above + (mean(tuned) >= peer), total + 1
        rows.append([score, f"1/{1 / keep:.0f}", way, f"{mean(left):.3f}", f"{mean(before):.1f}",
                     f"{mean(tuned):.1f} ± {pstdev(tuned):.1f}"])  # fmt: skip
    columns = ("score", "target", "tool", "MACs left", "accuracy pruned", "accuracy tuned")
    return Table("Accuracy in per cent", columns, rows, (
        f"{len(base)} seeds, mean ± deviation; {images:,} images to train on for {EPOCHS} epochs, "
        f"{TUNE} to tune, {tests:,} to test. Before pruning: {mean(base):.1f} ± "
        f"{pstdev(base):.1f}. Comparable among themselves only: a part of CIFAR-10.",
        f"At or above the peer after tuning: {above} of {total} cells.",
    ))  # fmt: skip


def main() -> None:
    given = options(__doc__ or "", threads=2, data=True)
    report("compress", "Accuracy after pruning", run(given), given)


if __name__ == "__main__":
    main()
