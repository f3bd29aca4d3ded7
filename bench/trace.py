"""What tracing costs on top of `torch.export.export`, and re-reading a module that netir lowered.

Both sides get the same model, inputs and open axes, in one process, in turn. Of a trace, the time
inside torch's exporter is measured too: the rest is netir's own.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

import netir
from bench.measure import Options, Table, Task, interleaved, milliseconds, options, ratio, report
from bench.models import sample
from tests.zoo.sample import Sample

MODELS = ("resnet50 (full)", "vit_b_16 (full)", "densenet121 (full)", "bert_12", "gpt2_12",
          "llama_12", "swin", "segformer", "t5", "mamba")  # fmt: skip
QUICK = ("resnet18",)
OWN_LIMIT, REREAD_LIMIT = 0.2, 20.0


class Watch:
    """Runs a function in place of torch's exporter and adds up the time inside."""

    def __init__(self) -> None:
        self.spent: list[float] = []
        self.calls = 0
        self._export = torch.export.export

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = time.thread_time()
        try:
            return self._export(*args, **kwargs)
        finally:
            self.spent[-1] += time.thread_time() - start
            self.calls += 1

    def during(self, task: Callable[[Any], object]) -> Callable[[Any], object]:
        """The task, watched."""

        def run(ready: Any) -> object:
            self.spent.append(0.0)
            with patch.object(torch.export, "export", self):
                return task(ready)

        return run


def export(given: Sample) -> object:
    """What netir asks of torch, and nothing else."""
    shapes = given.dynamic_shapes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(given.model, given.args, given.kwargs, dynamic_shapes=shapes,
                                   strict=False)  # fmt: skip


def trace(given: Sample) -> object:
    """The same sample, as a graph."""
    return netir.trace(given.model, given.args, given.kwargs)


def measure(name: str, repeat: int) -> list[Any]:
    """One row: a model's times."""
    given, watch = sample(name), Watch()
    tasks = {
        "export": Task(lambda _: export(given)),
        "trace": Task(watch.during(lambda _: trace(given))),
    }
    times = interleaved(tasks, repeat, budget=20)
    inside, calls = watch.spent[1:], watch.calls / len(watch.spent)
    own = median((a - b) / b for a, b in zip(times["trace"], inside, strict=True))
    lowered = netir.to_torch(netir.trace(given.model, given.args, given.kwargs))
    again = interleaved({"again": Task(lambda _: netir.trace(lowered))}, 3 * repeat)
    graph = netir.trace(lowered)
    return [name, len(graph.nodes), milliseconds(times, "export"), milliseconds(times, "trace"),
            calls, own, ratio(times, "trace", "export") - 1,
            milliseconds(again, "again")]  # fmt: skip


def table(given: Options) -> Table:
    rows = [measure(name, 2 if given.quick else 3) for name in given.wanted(MODELS, QUICK)]
    columns = ("model", "nodes", "export ms", "trace ms", "exports", "netir's own share",
               "trace over export alone", "re-read ms")
    own = sum(row[5] <= OWN_LIMIT for row in rows)
    apart = sum(row[6] <= OWN_LIMIT for row in rows)
    quick = sum(row[7] <= REREAD_LIMIT for row in rows)
    return Table("Tracing", columns, rows, (
        "`netir's own share` is the time of a trace outside torch's exporter, over the time "
        "inside; `trace over export alone` compares with a separate export of the same inputs, "
        "which differs where netir doubles an example batch of one. `exports` counts the calls "
        "of torch's exporter in one trace.",
        f"Own share at most {OWN_LIMIT:.0%}: {own} of {len(rows)} models; over a separate export "
        f"at most {OWN_LIMIT:.0%}: {apart} of {len(rows)}. Re-read in at most "
        f"{REREAD_LIMIT:g} ms: {quick} of {len(rows)}.",
    ))  # fmt: skip


def main() -> None:
    given = options(__doc__ or "")
    warnings.simplefilter("ignore")
    report("trace", "Tracing", [table(given)], given)


if __name__ == "__main__":
    main()
