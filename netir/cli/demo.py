"""The demo: what netir does, on a small built-in network, in a few seconds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import typer

from netir.builtin import BUILTINS
from netir.cli.describe import described
from netir.cli.tables import console, print_spaces, summary, table
from netir.cost import cost
from netir.frontends import trace
from netir.ir import Graph
from netir.lower.python import to_python
from netir.lower.torch import to_torch
from netir.passes import Prune, Widen
from netir.rewrite import Pass
from netir.store import load, save
from netir.verify import verify


def run() -> None:
    """Trace, look, widen, prune, verify, lower, store."""
    module, args = BUILTINS["residual"]()
    torch.manual_seed(0)
    args = tuple(torch.randn_like(a) for a in args)
    graph = trace(module, args)
    typer.echo(f"1. trace\n{summary(graph)}\n\n2. look at the widths that can change")
    print_spaces(described(graph), everything=False)
    typer.echo("\n3. rewrite, and prove each rewrite in float64")
    wider = _rewritten(graph, Widen("*", factor=1.5), args)
    thin = _rewritten(graph, Prune("*", amount=0.3, score="l2"), args)
    typer.echo("\n4. lower, store, read back")
    again = _stored(thin)
    _compare(graph, wider, again, args)


def _rewritten(graph: Graph, rewrite: Pass, args: tuple[torch.Tensor, ...]) -> Graph:
    result = rewrite.apply(graph)
    verdict = verify(graph, result.graph, args)
    typer.echo(f"{result.report}\n  {verdict.contract.value}: holds, error {verdict.error:.2g}")
    return result.graph


def _stored(graph: Graph) -> Graph:
    with tempfile.TemporaryDirectory() as folder:
        file, source = Path(folder, "thin.netir"), Path(folder, "thin.py")
        save(graph, file)
        to_python(graph, source)
        again = load(file)
        lines = len(source.read_text().splitlines())
        typer.echo(f"thin.netir: {file.stat().st_size:,} bytes, needs no class to load")
        typer.echo(f"thin.py: {lines} lines of PyTorch, without netir")
    return again


def _compare(before: Graph, wider: Graph, thin: Graph, args: tuple[torch.Tensor, ...]) -> None:
    made = table(("network", "parameters", "MACs", "output differs by"), ("parameters", "MACs"))
    with torch.no_grad():
        outputs = {
            name: to_torch(graph)(*args)
            for name, graph in (("traced", before), ("widened", wider), ("pruned", thin))
        }
    for (name, output), graph in zip(outputs.items(), (before, wider, thin), strict=True):
        found = cost(graph)
        gap = float((output - outputs["traced"]).abs().max())
        made.add_row(name, f"{found.parameters:,}", f"{found.macs:,}", f"{gap:.2g}")
    console().print(made)


__all__ = ["run"]
