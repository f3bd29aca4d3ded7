"""What writing ONNX costs next to `torch.onnx.export`, how it grows, and what a prune gains.

Both sides start from a network that is at hand: netir from its graph, the exporter from its
module. Neither proves the result here; `netir.to_onnx` does, which takes longer than the writing.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import netir
from bench.measure import (
    Options,
    Table,
    Task,
    exponent,
    interleaved,
    milliseconds,
    options,
    ratio,
    report,
)
from bench.models import sample
from netir.latency import latencies
from netir.lower.onnx import onnx_model
from netir.lower.onnx_file import save
from netir.lower.session import open_session, provider_of
from netir.passes import Prune
from tests.zoo.sample import Sample

MODELS, QUICK = ("resnet50 (full)", "vit_b_16 (full)", "bert_base (full)"), ("resnet18 (full)",)
CHAINS, QUICK_CHAINS = (100, 200, 400, 800), (100, 200)
EXPORTED = 200
"""The longest chain that the exporter is asked to write."""
LATENCY, QUICK_LATENCY = ("resnet18 (full)", "resnet50 (full)"), ("resnet18 (full)",)
LIMIT = 20


def exporter(given: Sample) -> Callable[[Any], Any]:
    """The exporter's side, with the same open batch, without its progress."""

    def run(_: Any) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return torch.onnx.export(
                given.model, given.args, kwargs=given.kwargs, dynamo=True, verbose=False,
                dynamic_shapes=given.dynamic_shapes(),
            )  # fmt: skip

    return run


def emission(given: Options, folder: Path) -> Table:
    rows = []
    for name in given.wanted(MODELS, QUICK):
        made = sample(name)
        graph, path = netir.trace(made.model, made.args, made.kwargs), folder / "net.onnx"
        model, export = onnx_model(graph), exporter(made)
        times = interleaved({
            "netir": Task(lambda _, graph=graph: onnx_model(graph)),
            "exporter": Task(export),
            "file": Task(lambda _, model=model, path=path: save(model, path)),
        }, 3, budget=60)  # fmt: skip
        slow, quick, file = (milliseconds(times, n) for n in ("exporter", "netir", "file"))
        rows.append([name, model.graph.num_nodes(), quick, slow, ratio(times, "exporter", "netir"),
                     path.stat().st_size / 1e6, file, slow / (quick + file)])  # fmt: skip
    met = [sum(row[i] >= LIMIT for row in rows) for i in (4, 7)]
    columns = ("model", "nodes", "netir ms", "torch.onnx.export ms", "times faster", "file MB",
               "file ms", "times faster with file")  # fmt: skip
    return Table("From a graph to ONNX", columns, rows, (
        "The exporter writes no file here. `file ms` is what netir needs for one; the last "
        "column compares netir with a file to the exporter without.",
        f"At least {LIMIT} times faster: {met[0]} of {len(rows)}, with a file {met[1]}.",
    ))  # fmt: skip


def growth(given: Options) -> Table:
    rows = []
    for blocks in QUICK_CHAINS if given.quick else CHAINS:
        made = sample(f"residual_chain_{blocks}")
        graph = netir.trace(made.model, made.args, made.kwargs)
        gc.collect()
        gc.freeze()  # what tracing left behind would be looked through again and again
        tasks = {"netir": Task(lambda _, graph=graph: onnx_model(graph))}
        if blocks <= EXPORTED and not given.quick:
            tasks["exporter"] = Task(exporter(made))
        times = interleaved(tasks, 3, budget=60)
        slow = milliseconds(times, "exporter") if "exporter" in times else None
        rows.append([blocks, len(graph.nodes), milliseconds(times, "netir"), slow])
    slope = exponent([row[1] for row in rows], [row[2] for row in rows])
    columns = ("residual blocks", "nodes", "netir ms", "torch.onnx.export ms")
    return Table("Growth", columns, rows, (f"Time grows as nodes to the power {slope:.2f}.",))


def gain(given: Options, folder: Path) -> Table:
    """Latency in ONNX Runtime before and after a prune, in turn."""
    rows = []
    for name in given.wanted(LATENCY, QUICK_LATENCY):
        made = sample(name)
        graph = netir.trace(made.model, made.args, made.kwargs)
        thin = Prune("*", amount=0.3)(graph)
        sessions = {}
        for label, each in (("before", graph), ("after", thin)):
            save(onnx_model(each), folder / f"{label}.onnx")
            sessions[label] = open_session(folder / f"{label}.onnx")
        calls = 5 if given.quick else 50
        times = latencies(sessions, made.args, calls=calls, seconds=20)
        before, after = (1e3 * times[label].seconds for label in ("before", "after"))
        macs = [netir.cost(each).macs / 1e9 for each in (graph, thin)]
        on = provider_of(sessions["after"])
        rows.append([name, on, *macs, before, after, before / after])
    columns = ("model", "on", "GMACs before", "after", "ms before", "after ", "times faster")
    return Table("ONNX Runtime before and after a prune of 30 %", columns, rows)


def main() -> None:
    given = options(__doc__ or "")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        tables = [emission(given, Path(folder)), growth(given), gain(given, Path(folder))]
    report("onnx", "ONNX", tables, given)


if __name__ == "__main__":
    main()
