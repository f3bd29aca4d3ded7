"""Proof that a graph is sound, and that a rewrite kept what it promised.

`check` holds a graph against the invariants of the IR. `verify` runs two graphs on the same
inputs in float64 and compares them under a contract; for `masked` the oracle is the graph before,
with what was removed zeroed at every use, and with normalisations restricted to what was kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from netir.basis import Contract
from netir.dims import same
from netir.errors import ContractError, NetirError, nearest
from netir.evaluate import (
    device_of,
    input_values,
    results_of,
    symbol_values,
    value_of,
    values_of,
)
from netir.ir import Graph, Node, TensorType, expect_graph
from netir.moves import Moves
from netir.oracle import in_double, masked_values

_ORDER = tuple(Contract)
_NOISE = 16
"""How many times the network's own rounding noise an error may be."""
_ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Verdict:
    """What `verify` found: the contract, the largest error relative to the output, its bound."""

    contract: Contract
    error: float
    bound: float
    first: str = ""

    def __bool__(self) -> bool:
        return self.error <= self.bound


def check(graph: Graph) -> None:
    """Raise unless the graph is sound: names, order, types, parameters, outputs."""
    expect_graph(graph)
    known: dict[str, TensorType] = dict(graph.inputs)
    for node in graph.nodes.values():
        types = [None if o is None else _type_of(graph, known, o, node) for o in node.operands]
        _check_node(node, types)
        for result, kind in zip(node.results, node.types, strict=True):
            if result in known:
                raise NetirError(f"two values are called '{result}'", where=node.name)
            known[result] = kind
    for name in graph.outputs:
        _type_of(graph, known, name, None)
    for alias, name in graph.aliases.items():
        if name not in graph.params or alias in graph.params:
            raise NetirError(f"alias '{alias}' of '{name}' is not the name of a second one")


def _type_of(
    graph: Graph, known: Mapping[str, TensorType], operand: str, node: Node | None
) -> TensorType:
    where = "the output" if node is None else node.name
    if operand[0] == "@":
        found = graph.params.get(operand[1:])
        if found is None:
            raise NetirError(f"there is no parameter '{operand[1:]}'", where,
                             nearest(operand[1:], graph.params))  # fmt: skip
        return found.type
    if operand not in known:
        raise NetirError(f"value '{operand}' is read before it is made", where,
                         nearest(operand, known))  # fmt: skip
    return known[operand]


def _check_node(node: Node, types: list[TensorType | None]) -> None:
    try:
        found = node.op.infer(*types)
    except NetirError as error:
        raise NetirError(error.what, where=node.name, fix=error.fix) from None
    if found is None:
        return
    made = (found,) if isinstance(found, TensorType) else found
    fits = len(made) == len(node.types) and all(map(_same_type, made, node.types))
    if not fits:
        shown = ", ".join(map(str, made))
        raise NetirError(
            f"{node.op.name} gives {shown}, the graph says {', '.join(map(str, node.types))}",
            where=node.name,
        )


def _same_type(a: TensorType, b: TensorType) -> bool:
    return a.dtype == b.dtype and a.rank == b.rank and all(map(same, a.shape, b.shape))


def verify(
    before: Graph,
    after: Graph,
    args: tuple[Any, ...] | Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    contract: Contract | str | None = None,
    moves: Moves | None = None,
    bound: float | None = None,
) -> Verdict:
    """Raise unless `after` keeps its contract towards `before` on these inputs.

    Contract and moves come from the passes that `after` has been through since `before`, unless
    given. Everything is computed in float64, whatever the parameters are stored in.
    """
    expect_graph(before)
    expect_graph(after)
    arguments = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    wanted, steps = _since(before, after, contract, moves)
    if wanted is Contract.CHANGED:
        check(after)
        return Verdict(wanted, 0.0, float("inf"))
    inputs = input_values(before, arguments, dict(kwargs or {}))
    _expect_entries("inputs", inputs)
    if bound is None and wanted is Contract.BOUNDED:
        if steps is None or not steps.bounds or len(after.history) != len(before.history) + 1:
            raise NetirError(
                "the contract 'bounded' needs a bound",
                fix="pass bound=, relative to the output; or verify right after the pass",
            )
        with torch.no_grad():
            return _bounded(before, after, inputs, steps)
    stored = _stored(before, after, wanted, steps) if bound is None else {torch.float64}
    if bound is None:
        bound = _bound(before, after, wanted, steps)
    with torch.no_grad():
        return _compared(before, after, inputs, wanted, steps, bound, stored)


def _expect_entries(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a comparison of nothing, as of an empty batch: it would hold whatever was done."""
    if tensors and not any(tensor.numel() for tensor in tensors.values()):
        name, first = next(iter(tensors.items()))
        raise NetirError(
            f"there is nothing to compare: the {what} have no entries",
            f"'{name}' of shape {tuple(first.shape)}",
            "pass at least one example",
        )


def _since(
    before: Graph, after: Graph, contract: Contract | str | None, moves: Moves | None
) -> tuple[Contract, Moves | None]:
    """The weakest contract of the passes in between, and their moves as one."""
    steps = after.history[len(before.history) :]
    if contract is None:
        contracts = [Contract(s.contract) for s in steps] or [Contract.EXACT]
        wanted = max(contracts, key=_ORDER.index)
    else:
        wanted = _contract(contract)
    if moves is None:
        for step in steps:
            if step.moves is not None:
                moves = step.moves if moves is None else moves.then(step.moves)
    if wanted is Contract.MASKED and moves is None:
        raise NetirError(
            "what was removed is not known, so the contract 'masked' cannot be checked",
            fix="verify right after the pass: a graph that was read from a file has lost its moves",
        )
    return wanted, moves


def _contract(name: Contract | str) -> Contract:
    try:
        return Contract(name)
    except ValueError:
        known = [c.value for c in Contract]
        raise NetirError(f"there is no contract '{name}'", fix=nearest(str(name), known)) from None


def _bound(before: Graph, after: Graph, contract: Contract, moves: Moves | None) -> float:
    """Rounding of weights that are new or gone to the type that stores them may differ, no more."""
    return max(_ROUNDING[dtype] for dtype in _stored(before, after, contract, moves))


def _stored(
    before: Graph, after: Graph, contract: Contract, moves: Moves | None
) -> set[torch.dtype]:
    """The types to which a rewrite rounded weights; float64 in any case."""
    if contract is Contract.MASKED or moves is None:
        return {torch.float64}
    moved = [before.params[n] for n in (*moves.params, *moves.removed) if n in before.params]
    added = [after.params[n] for n in moves.added if n in after.params]
    dtypes = {param.data.dtype for param in (*moved, *added)}
    return (dtypes & _ROUNDING.keys()) | {torch.float64}


def _compared(
    before: Graph,
    after: Graph,
    inputs: Mapping[str, Tensor],
    contract: Contract,
    moves: Moves | None,
    bound: float,
    stored: set[torch.dtype],
) -> Verdict:
    masked = contract is Contract.MASKED
    assert moves is not None or not masked
    want = masked_values(before, after, moves, inputs) if masked and moves else values_of(
        before, inputs, dtype=torch.float64
    )
    have = values_of(after, inputs, dtype=torch.float64)
    _expect_entries("outputs", {name: value_of(before, want, name) for name in before.outputs})
    error = _output_error(before, after, want, have)
    if error > bound:
        bound = max(bound, _NOISE * _noise(before, inputs, stored))
    if error <= bound:
        return Verdict(contract, error, bound)
    first = _first_difference(before, after, inputs, moves, masked, bound)
    raise ContractError(
        f"the rewrite does not keep its contract '{contract.value}': the outputs differ by "
        f"{error:.2g}, where {bound:.2g} is allowed",
        where=first,
        fix="between a graph and its rewrite this is a fault in a pass or an axis rule: please "
        "report it with the printed graph; between others it says that they differ",
    )


def _bounded(
    before: Graph, after: Graph, inputs: Mapping[str, Tensor], moves: Moves
) -> Verdict:
    """Every node with a certified bound gives, for what it reads now, nearly what it gave before.

    Where what it reads has another size now, that is made anew from the last values that have not.
    The error of the verdict is the largest share of its bound that a node takes up.
    """
    have = values_of(after, inputs, dtype=torch.float64, keep=lambda _: True)
    env, device = symbol_values(before, inputs), device_of(before, inputs)
    rounding = _bound(before, after, Contract.BOUNDED, moves)
    worst, first = 0.0, ""
    for name, bound in moves.bounds.items():
        node = before.nodes[name]
        made, read = _made_before(before, node, have, moves, env, device)
        want = made[node.results[0]]
        gap = float(torch.linalg.vector_norm(have[node.results[0]] - want))
        noise = rounding * float(torch.linalg.vector_norm(want))
        shift = moves.shifts.get(name, 0.0) * want.numel() ** 0.5
        allowed = bound * float(torch.linalg.vector_norm(read)) + shift + noise
        share = gap / allowed if allowed else float(gap > 0)
        if not share <= worst:
            worst, first = share, name
    if worst <= 1:
        return Verdict(Contract.BOUNDED, worst, 1.0, first)
    raise ContractError(
        f"the rewrite does not keep its contract 'bounded': '{first}' is off by {worst:.3g} times "
        "what its bound allows",
        where=first,
        fix="this is a fault in a pass: please report it with the printed graph",
    )


def _made_before(
    before: Graph,
    node: Node,
    have: Mapping[str, Tensor],
    moves: Moves,
    env: Mapping[str, int],
    device: torch.device | None,
) -> tuple[dict[str, Tensor], Tensor]:
    """The results of a node before the rewrite, and the first value that they are made from.

    That is an activation, where it reads one: a sum with a product names its bias first.
    """
    operands: list[Tensor | None] = []
    first: Tensor | None = None
    reads = any(o is not None and o[0] != "@" for o in node.operands)
    for operand in node.operands:
        if operand is None:
            operands.append(None)
            continue
        source = value = in_double(before, have, operand) if operand not in moves.values else None
        if value is None:
            maker = before.producers[operand]
            made, source = _made_before(before, maker, have, moves, env, device)
            value = made[operand]
        operands.append(value)
        if first is None and (operand[0] != "@" or not reads):
            first = source
    assert first is not None
    return results_of(node, operands, env, torch.float64, device), first


def _noise(graph: Graph, inputs: Mapping[str, Tensor], stored: set[torch.dtype]) -> float:
    """How far the outputs move if every parameter moves by one unit in its last place.

    That is a unit of the coarsest type to which weights were rounded. A badly conditioned network
    magnifies rounding; no two orders of summation agree better.
    """
    generator = torch.Generator().manual_seed(0)
    unit = max(torch.finfo(dtype).eps for dtype in stored)
    moved = {
        name: replace(p, data=_nudged(p.data, generator, unit)) for name, p in graph.params.items()
    }
    shaken = graph.replace(params=moved)
    values = [values_of(g, inputs, dtype=torch.float64) for g in (graph, shaken)]
    return _output_error(graph, shaken, *values)


def _nudged(tensor: Tensor, generator: torch.Generator, unit: float) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    signs = torch.randint(0, 2, tensor.shape, generator=generator, dtype=torch.float64)
    signs = signs.to(tensor.device) * 2 - 1
    return tensor.double() * (1 + signs * unit)


def _output_error(
    before: Graph, after: Graph, want: Mapping[str, Tensor], have: Mapping[str, Tensor]
) -> float:
    if len(before.outputs) != len(after.outputs):
        raise NetirError(
            "the two graphs return different numbers of tensors",
            where=f"{len(before.outputs)} and {len(after.outputs)}",
            fix="compare two versions of one network",
        )
    pairs = zip(before.outputs, after.outputs, strict=True)
    return max((_error(value_of(before, want, a), value_of(after, have, b)) for a, b in pairs),
               default=0.0)  # fmt: skip


def _error(want: Tensor, have: Tensor) -> float:
    """The largest difference relative to the largest entry; NaN must meet NaN."""
    if want.shape != have.shape:
        return float("inf")
    if not want.numel():
        return 0.0
    if not want.dtype.is_floating_point:
        return float((want != have).any())
    both = torch.isnan(want) & torch.isnan(have) | (want == have)
    if bool(both.all()):
        return 0.0
    gap = (want - have).masked_fill(both, 0.0).abs().max()
    scale = want.masked_fill(~torch.isfinite(want), 0.0).abs().max()
    found = float(gap / (scale + 1e-300))
    return found if found == found else float("inf")


def _first_difference(
    before: Graph,
    after: Graph,
    inputs: Mapping[str, Tensor],
    moves: Moves | None,
    masked: bool,
    bound: float,
) -> str:
    """The first node whose value differs beyond the bound, as the graph after prints it."""
    def every(_: str) -> bool:
        return True

    want = (
        masked_values(before, after, moves, inputs, keep=every)
        if masked and moves
        else values_of(before, inputs, dtype=torch.float64, keep=every)
    )
    have = values_of(after, inputs, dtype=torch.float64, keep=every)
    for node in after.nodes.values():
        for result in node.results:
            if result not in want or result not in have:
                continue
            move = moves.values.get(result) if moves else None
            expected = want[result] if move is None else move.apply(want[result])
            if _error(expected, have[result]) > bound:
                operands = ", ".join(map(str, node.operands))
                return f"first at {node.name} = {node.op.name}({operands})"
    return "the output"
