"""Targets: how narrow the spaces must get so that a network costs no more than asked for.

Parameters and multiply-accumulates of a network that is not there yet follow from sizes alone;
latency is measured on networks that are built for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil

import torch

from netir.basis import Basis
from netir.calibration import Batch, Calibration, needed
from netir.dims import evaluate, product
from netir.errors import NetirError
from netir.evaluate import symbol_values
from netir.ir import Graph, Node, TensorType
from netir.latency import latencies
from netir.layout_moves import LayoutMoves
from netir.passes.pruning.allocate import Allocation, Widths
from netir.rewrite import parameters

TARGETS = ("parameters", "macs", "latency")
Cost = Callable[[Widths], float]
"""What a network with these widths costs, as a share of what it costs as it is."""

_COUNTED = 40
_MEASURED = 6
"""How often a bisection halves where a cost is counted, and where it is measured."""
_CALLS = 11


def reached(allocation: Allocation, target: str, share: float, cost: Cost) -> Widths:
    """The widest widths that cost at most `share`; an error if even the narrowest cost more.

    Found by bisection of the amount. Where a cost is counted, the last step between two amounts is
    taken space by space, so that one step less would be too little.
    """
    wide, narrow = allocation.widths(0.0), allocation.widths(1.0)
    least = cost(narrow)
    if least > share:
        raise NetirError(
            f"prune cannot reach {target}={share:.4g}",
            where=f"{ceil(1e4 * least) / 1e4} is left if every space is as narrow as it may get",
            fix="ask for no less than that, choose more spaces, or loosen what must stay of each",
        )
    low, high = 0.0, 1.0
    for _ in range(_MEASURED if target == "latency" else _COUNTED):
        middle = (low + high) / 2
        tried = allocation.widths(middle)
        if tried != narrow and (tried == wide or cost(tried) > share):
            low, wide = middle, tried
        else:
            high, narrow = middle, tried
    return narrow if target == "latency" else _stepwise(allocation, wide, narrow, share, cost)


def _stepwise(
    allocation: Allocation, wide: Widths, narrow: Widths, share: float, cost: Cost
) -> Widths:
    """From widths that cost too much towards narrower ones, until they do not."""
    found = dict(wide)
    for group in allocation.alike:
        if any(found[space] != narrow[space] for space in group):
            found |= {space: narrow[space] for space in group}
            if cost(found) <= share:
                break
    return found


def parameters_left(graph: Graph) -> Cost:
    """The share of parameters that is left."""
    shapes = [graph.analysis.shape(f"@{n}") for n, p in graph.params.items() if p.kind == "param"]
    whole = parameters(graph)

    def left(widths: Widths) -> float:
        moves = _moves(widths)
        counts = (product(map(moves.size, shape)) for shape in shapes)
        return sum(count for count in counts if isinstance(count, int)) / max(1, whole)

    return left


def macs_left(graph: Graph, calibration: Calibration | None) -> Cost:
    """The share of multiply-accumulates that is left, for inputs of the calibration's sizes."""
    env = _sizes(graph, calibration)
    nothing = _moves({})
    nodes = [node for node in graph.nodes.values() if _macs(graph, node, nothing, env)]
    whole = sum(_macs(graph, node, nothing, env) for node in nodes)

    def left(widths: Widths) -> float:
        moves = _moves(widths)
        return sum(_macs(graph, node, moves, env) for node in nodes) / max(1, whole)

    return left


def latency_left(
    graph: Graph, calibration: Calibration | None, build: Callable[[Widths], Graph]
) -> Cost:
    """The share of the time for the calibration's first batch that is left, on the CPU."""
    from netir.lower.torch import to_torch

    batch = needed(calibration, "the target 'latency'").batches[0]
    before = to_torch(graph)

    def left(widths: Widths) -> float:
        return time_ratio(to_torch(build(widths)), before, batch)

    return left


def time_ratio(one: torch.nn.Module, other: torch.nn.Module, batch: Batch) -> float:
    """How long one module takes on the CPU as a share of another; both are run in turn."""
    found = latencies({"one": one.cpu(), "other": other.cpu()}, batch, calls=_CALLS, warmup=1)
    return found["one"].seconds / found["other"].seconds


def _moves(widths: Widths) -> LayoutMoves:
    """Sizes after a change to these widths; which indices stay does not matter to them."""
    indices = torch.arange(max(widths.values(), default=0))
    return LayoutMoves({space.atom: Basis(indices[:width]) for space, width in widths.items()})


def _macs(graph: Graph, node: Node, moves: LayoutMoves, env: Mapping[str, int]) -> int:
    def kind(operand: str) -> TensorType:
        shape = (evaluate(moves.size(s), env) for s in graph.analysis.shape(operand))
        return TensorType(graph.type_of(operand).dtype, tuple(shape))

    operands = [None if o is None else kind(o) for o in node.operands]
    return int(evaluate(node.op.macs(kind(node.results[0]), *operands), env))


def _sizes(graph: Graph, calibration: Calibration | None) -> dict[str, int]:
    """The sizes of the first batch; without data, one sample, where nothing else is open."""
    if calibration is not None:
        return symbol_values(graph, next(calibration.inputs(graph)))
    others = sorted(graph.symbols - {"batch"})
    if others:
        raise NetirError(
            f"the multiply-accumulates depend on the size '{others[0]}'",
            fix="pass calibration=netir.Calibration(batches) to apply: its first batch tells",
        )
    return {"batch": 1}


__all__ = ["TARGETS", "Cost", "latency_left", "macs_left", "parameters_left", "reached",
           "time_ratio"]  # fmt: skip
