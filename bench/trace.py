"""What tracing costs on top of `torch.export.export`, and re-reading a module that netir lowered.

Of a trace, the time inside torch's exporter is measured too: the rest is netir's own. Beside it the
exporter is asked the same alone, in one process, in turn.
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
    """Stands in for torch's exporter: adds up the time inside, and knows what it was asked last."""

    def __init__(self) -> None:
        self.spent: list[float] = []
        self.calls = 0
        self.asked: tuple[tuple[Any, ...], dict[str, Any]] = (), {}
        self._export = torch.export.export

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.asked = args, kwargs
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

    def again(self) -> object:
        """What it was asked last, alone."""
        args, kwargs = self.asked
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._export(*args, **kwargs)


def trace(given: Sample) -> object:
    """The same sample, as a graph."""
    return netir.trace(given.model, given.args, given.kwargs)


def measure(name: str, repeat: int) -> list[Any]:
    """One row: a model's times."""
    given, watch = sample(name), Watch()
    traced = watch.during(lambda _: trace(given))
    traced(None)
    times = interleaved({"export": Task(lambda _: watch.again()), "trace": Task(traced)}, repeat,
                        budget=20)  # fmt: skip
    inside, calls = watch.spent[2:], watch.calls / len(watch.spent)
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
        "inside; `trace over export alone` compares with the exporter asked the same by itself. "
        "`exports` counts the calls of torch's exporter in one trace.",
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
