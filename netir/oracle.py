"""The oracle of the contract `masked`: a network some of whose channels are not there.

It is the network before, run in float64: at every use the contribution of what was removed is
zero, or the constant that was folded in its place; norms and softmax run over what was kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from netir.dims import evaluate
from netir.evaluate import device_of, results_of, symbol_values, value_of
from netir.ir import Graph, Node, TensorType
from netir.moves import Moves, kept_indices
from netir.site import Use


def masked_values(
    before: Graph, after: Graph, moves: Moves, inputs: Mapping[str, Tensor], keep: Any = None
) -> dict[str, Tensor]:
    """The values of `before` with the contribution of what was removed zeroed at each use."""
    env, device = symbol_values(before, inputs), device_of(before, inputs)
    values = {
        name: t.double() if t.is_floating_point() else t for name, t in inputs.items()
    }
    uses: dict[str, list[Use]] = {}
    for use in before.analysis.uses:
        uses.setdefault(use.node, []).append(use)
    for node in before.nodes.values():
        operands = [None if o is None else in_double(before, values, o) for o in node.operands]
        touched = [u for u in uses.get(node.name, ()) if _removed_from(node, u, operands, moves)]
        if any(u.kind in ("mix", "softmax") for u in touched):
            values.update(_restricted(node, after.nodes[node.name], operands, moves, env))
            continue
        for use in touched:
            for slot, axis in use.slots:
                name, operand = node.operands[slot], operands[slot]
                assert name is not None
                assert operand is not None
                kept = _kept(moves, name, axis, operand.shape[axis])
                if kept is not None:
                    operands[slot] = _zero_others(operand, axis, kept)
        values.update(results_of(node, operands, env, torch.float64, device))
        if node.name in moves.folded:
            constant = moves.folded[node.name].to(values[node.results[0]])
            values[node.results[0]] = values[node.results[0]] + constant
    return values


def in_double(graph: Graph, values: Mapping[str, Tensor], operand: str) -> Tensor:
    """What an operand stands for, in float64 if it is a float."""
    found = value_of(graph, values, operand)
    return found.double() if found.is_floating_point() else found


def _removed_from(node: Node, use: Use, operands: list[Any], moves: Moves) -> bool:
    for slot, axis in use.slots:
        name = node.operands[slot]
        if name is not None:
            kept = _kept(moves, name, axis, operands[slot].shape[axis])
            if kept is not None:
                return True
    return False


def _kept(moves: Moves, operand: str, axis: int, total: int) -> Tensor | None:
    """The indices of an operand's axis that are still there, if some are gone."""
    move = moves.params.get(operand[1:]) if operand[0] == "@" else moves.values.get(operand)
    found = None if move is None else kept_indices(move.axes[axis], total)
    return None if found is None else found[found >= 0]


def _zero_others(tensor: Tensor, axis: int, kept: Tensor) -> Tensor:
    shape = [1] * tensor.dim()
    shape[axis] = -1
    mask = torch.zeros(tensor.shape[axis], dtype=torch.bool, device=tensor.device)
    mask[kept.to(tensor.device)] = True
    return torch.where(mask.view(shape), tensor, torch.zeros_like(tensor))


def _restricted(
    node: Node, changed: Node, operands: list[Tensor | None], moves: Moves, env: Mapping[str, int]
) -> dict[str, Tensor]:
    """What a normalisation gives if only the kept indices exist; zeros elsewhere."""
    small: list[Tensor | None] = []
    for name, tensor in zip(node.operands, operands, strict=True):
        if name is None or tensor is None:
            small.append(None)
            continue
        for axis in range(tensor.dim()):
            kept = _kept(moves, name, axis, tensor.shape[axis])
            if kept is not None:
                tensor = tensor.index_select(axis, kept.to(tensor.device))
        small.append(tensor)
    found = results_of(changed, small, env, torch.float64)
    return {
        result: _scattered(found[result], result, node.types[i], moves, env)
        for i, result in enumerate(node.results)
    }


def _scattered(
    tensor: Tensor, name: str, kind: TensorType, moves: Moves, env: Mapping[str, int]
) -> Tensor:
    for axis, size in enumerate(kind.shape):
        total = evaluate(size, env)
        kept = _kept(moves, name, axis, total)
        if kept is not None:
            shape = list(tensor.shape)
            shape[axis] = total
            tensor = tensor.new_zeros(shape).index_copy(axis, kept.to(tensor.device), tensor)
    return tensor
