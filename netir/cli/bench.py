"""`bench`: what networks cost and how long they take, side by side, on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netir.cli.arguments import Allowed, Inputs, Json, Sizes
from netir.errors import NetirError

if TYPE_CHECKING:
    from netir.ir import Graph


def bench(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Networks that take the same inputs.")
    ],
    batch: Annotated[int, typer.Option(min=1, help="How many examples one call takes.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch and ONNX Runtime.")] = 1,
    seconds: Annotated[float, typer.Option(help="How long to measure, about.")] = 4.0,
    as_json: Json = False,
    inputs: Inputs = None,
    sizes: Sizes = None,
    allow_op: Allowed = None,
) -> None:
    """Compare cost and latency of networks, in PyTorch and in ONNX Runtime on the CPU."""
    from netir.cli.models import find_all, numbers

    graphs = find_all(models, inputs, sizes, allow_op)
    _same_inputs(models, graphs)
    known = {"batch": batch, **numbers(sizes)}
    rows = _measured(models, graphs, known, threads, seconds)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        _print(rows)


def _same_inputs(models: list[str], graphs: list[Graph]) -> None:
    for name, graph in zip(models, graphs, strict=True):
        if dict(graph.inputs) != dict(graphs[0].inputs):
            raise NetirError(
                f"'{name}' takes other inputs than '{models[0]}'",
                where=", ".join(f"{n}: {t}" for n, t in graph.inputs.items()),
                fix="compare networks that take the same inputs",
            )


def _measured(
    models: list[str], graphs: list[Graph], known: dict[str, int], threads: int, seconds: float
) -> list[dict[str, Any]]:
    """One row for each network; all are called in turn, on the same numbers."""
    from netir.cost import cost
    from netir.latency import latencies
    from netir.runs.measure import session_of
    from netir.samples import random_arguments

    given = random_arguments(graphs[0], known)
    sessions = [session_of(graph, threads) for graph in graphs]
    networks: dict[str, Any] = {f"torch {i}": graph for i, graph in enumerate(graphs)}
    networks |= {f"onnx {i}": s for i, s in enumerate(sessions) if s is not None}
    times = latencies(networks, given, seconds=seconds, threads=threads)
    rows = []
    for number, (name, graph) in enumerate(zip(models, graphs, strict=True)):
        total = cost(graph, {n: v for n, v in known.items() if n in graph.symbols})
        found = {kind: times.get(f"{kind} {number}") for kind in ("torch", "onnx")}
        rows.append({
            "network": name, "parameters": total.parameters, "macs": int(total.macs),
            "bytes": sum(p.data.numel() * p.data.itemsize for p in graph.params.values()),
            **{f"{k}_ms": None if t is None else 1e3 * t.seconds for k, t in found.items()},
        })  # fmt: skip
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    from netir.cli.tables import console, table

    heads = ("parameters", "MACs", "bytes", "PyTorch", "ONNX Runtime")
    made = table(("network", *heads), heads)
    first = rows[0]
    for row in rows:
        counts = (f"{row[n]:,}" for n in ("parameters", "macs", "bytes"))
        times = (_time(row[n], first[n], row is first) for n in ("torch_ms", "onnx_ms"))
        made.add_row(row["network"], *counts, *times)
    console().print(made)


def _time(value: float | None, first: float | None, alone: bool) -> str:
    if value is None:
        return "unknown"
    text = f"{value:.3g} ms"
    return text if alone or not first else f"{text} ({value / first:.0%})"


__all__ = ["bench"]
