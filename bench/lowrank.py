"""What low rank buys: the error of factorized layers against its certified bound, and latency.

Weights are random, so that they have no low rank of their own: errors are large, and what matters
is that no layer is beyond its bound, how close the bound is, and what the smaller network costs.
Batch norms are folded first, so that nothing stands between two layers. One thread, processor time,
batch 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import netir
from bench.measure import Cell, Options, Table, Task, interleaved, milliseconds, options, report
from bench.models import sample
from netir import Graph
from netir.passes import Factorize, Fold, Slim
from netir.rewrite import Pass

WAYS: dict[str, Callable[[], Pass]] = {
    "factorize, 0.9 of the energy": lambda: Factorize(energy=0.9),
    "factorize, 0.5 of the energy": lambda: Factorize(energy=0.5),
    "factorize, quarter rank": lambda: Factorize(ratio=0.25),
    "slim, half rank": lambda: Slim(ratio=0.5, through_activations=True),
}
MODELS = ("resnet18 (full)", "mobilenet_v2 (full)", "vit_b_16 (96 pixels)")
QUICK = ("mobilenet_v2 (full)",)
BATCH = 4


def row(name: str, graph: Graph, way: str, args: tuple[Any, ...], repeat: int) -> list[Cell]:
    """One network and one pass: sites, share of the bound, cost and latency before and after."""
    result = WAYS[way]().apply(graph)
    verdict = netir.verify(graph, result.graph, args)
    taken = verdict.error if verdict.contract.value == "bounded" else None
    before, after = netir.cost(graph), netir.cost(result.graph)
    modules = {"before": netir.to_torch(graph), "after": netir.to_torch(result.graph)}
    with torch.no_grad():
        times = interleaved({n: Task(_run(m, args)) for n, m in modules.items()}, repeat, 20.0)
    one, two = (milliseconds(times, n) for n in modules)
    return [name, way, len(result.report.changed), verdict.contract.value, taken,
            after.parameters / before.parameters, after.macs / before.macs, one, two,
            two / one]  # fmt: skip


def _run(module: nn.Module, args: tuple[Any, ...]) -> Callable[[Any], object]:
    return lambda _: module(*args)


def run(given: Options) -> list[Table]:
    rows = []
    for name in given.wanted(MODELS, QUICK):
        made = sample(name)
        args = tuple(torch.randn(BATCH, *a.shape[1:]) for a in made.args)
        graph = Fold()(netir.trace(made.model, args))
        rows += [row(name, graph, way, args, 3 if given.quick else 9) for way in WAYS]
        print(*rows[-len(WAYS) :], sep="\n", flush=True)
    columns = ("model", "pass", "sites", "contract", "most of a bound taken up", "parameters left",
               "MACs left", "ms before", "ms after", "latency left")  # fmt: skip
    return [
        Table("Low rank", columns, rows, (
            "`most of a bound taken up`: the error of a layer, on what it reads, over what its "
            "certificate allows; the largest of all layers. Above 1 verification would fail.",
        ))
    ]  # fmt: skip


def main() -> None:
    given = options(__doc__ or "")
    report("lowrank", "Low rank", run(given), given)


if __name__ == "__main__":
    main()
