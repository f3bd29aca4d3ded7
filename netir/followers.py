"""What follows a model's parameters through a rewrite: optimizers, gradients, averaged copies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from netir.errors import NetirError
from netir.ir import Graph
from netir.lower.graft import tensor_at
from netir.moves import Move, Moves, moved_state

States = dict[Tensor, dict[str, Any]]


def moved_gradients(module: nn.Module, paths: Mapping[str, str], moves: Moves) -> dict[Tensor, Any]:
    """The gradient of every parameter that moves and has one."""
    found = {}
    for name, move in moves.params.items():
        tensor = tensor_at(module, paths[name])
        if tensor is not None and tensor.grad is not None:
            found[tensor] = move.apply(tensor.grad)
    return found


def moved_states(
    optimizer: Optimizer, module: nn.Module, paths: Mapping[str, str], moves: Moves
) -> States:
    """An optimizer's state of every parameter that moves; an error if some cannot follow."""
    if isinstance(optimizer, torch.optim.LBFGS) and optimizer.state:
        raise NetirError(
            "LBFGS keeps one state for all parameters together",
            fix="rewrite before its first step, or go on with a new optimizer",
        )
    found: States = {}
    for name, move in moves.params.items():
        tensor = tensor_at(module, paths[name])
        if tensor is not None and tensor in optimizer.state:
            state = optimizer.state[tensor]
            found[tensor] = moved_state(optimizer, state, move, tensor, name)
    return found


def averaged(
    copy: nn.Module, paths: Mapping[str, str], before: Graph, after: Graph, moves: Moves
) -> Graph:
    """The rewritten network with the tensors of an averaged copy.

    What moved is moved, what stayed stays; what the rewrite computed anew is the model's own.
    """
    params = dict(after.params)
    for name, param in after.params.items():
        old = before.params.get(name)
        tensor = None if old is None else tensor_at(copy, paths[name])
        if old is not None and old.kind != "const" and _shape(tensor) != old.data.shape:
            raise NetirError(
                "an averaged copy is not a copy of the model as it is now", where=paths[name],
                fix="make it from the model, and give it to Live from the start",
            )  # fmt: skip
        if tensor is None or old is None:
            data = param.data.clone()
        elif name in moves.params:
            data = _moved_average(moves.params[name], tensor.detach(), param.data)
        elif param.data is old.data:
            data = tensor.detach()
        else:
            data = param.data.clone()
        params[name] = replace(param, data=data)
    return after.replace(params=params)


def _shape(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


def _moved_average(move: Move, old: Tensor, new: Tensor) -> Tensor:
    """The average moved as the weight was; entries that are new are the weight's own."""
    moved, fresh = move.apply(old), move.fresh(new.shape)
    return moved if fresh is None else torch.where(fresh.to(new.device), new, moved)


def regroup(
    optimizers: Iterable[Optimizer], old: Mapping[str, Tensor], new: Mapping[str, Tensor]
) -> None:
    """Let go of parameters that are gone; a new one is trained as the one most like it is.

    That is by one optimizer, or by all that share that parameter.
    """
    optimizers = tuple(optimizers)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    groups_of: dict[int, list[dict[str, Any]]] = {}
    for group in groups:
        for parameter in group["params"]:
            groups_of.setdefault(id(parameter), []).append(group)
    homes = {name: groups_of[id(p)] for name, p in old.items() if id(p) in groups_of}
    stay = {id(p) for p in new.values()}
    there = {id(p) for p in old.values()}
    for name, parameter in new.items():
        if id(parameter) not in there and parameter.requires_grad and homes:
            for home in homes[max(homes, key=lambda other: _likeness(name, other))]:
                home["params"].append(parameter)
    gone = {id(p): p for p in old.values() if id(p) not in stay}
    for group in groups:
        group["params"][:] = [p for p in group["params"] if id(p) not in gone]
    for optimizer in optimizers:
        for parameter in gone.values():
            optimizer.state.pop(parameter, None)


def _likeness(name: str, other: str) -> tuple[bool, int]:
    """The same last part of the name first (weight, bias), then the longest common path."""
    a, b = name.split("."), other.split(".")
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    return a[-1] == b[-1], common


class OptimizerMemory:
    """What optimizers were like, to be restored."""

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        self._known = [
            (o, [list(g["params"]) for g in o.param_groups], dict(o.state)) for o in optimizers
        ]

    def restore(self) -> None:
        """Groups and state as they were."""
        for optimizer, lists, state in self._known:
            for group, params in zip(optimizer.param_groups, lists, strict=True):
                group["params"][:] = params
            optimizer.state.clear()
            optimizer.state.update(state)
