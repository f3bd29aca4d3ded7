"""Optimizers by name, and what they remember as plain tensors by parameter name.

As tensors the memory of an optimizer can be stored, taken up again later in another process, and
moved through a rewrite of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from netir.errors import NetirError, nearest
from netir.ir import Graph
from netir.moves import Moves, moved_moment


@dataclass(frozen=True)
class Kind:
    """An optimizer: how it is made, its usual learning rate, and which options it has."""

    make: Callable[..., Optimizer]
    lr: float
    takes: tuple[str, ...] = ("weight_decay",)


OPTIMIZERS: Mapping[str, Kind] = MappingProxyType({
    "sgd": Kind(torch.optim.SGD, 0.05, ("momentum", "nesterov", "weight_decay")),
    "adam": Kind(torch.optim.Adam, 1e-3),
    "adamw": Kind(torch.optim.AdamW, 1e-3),
    "nadam": Kind(torch.optim.NAdam, 1e-3),
    "radam": Kind(torch.optim.RAdam, 1e-3),
    "rmsprop": Kind(torch.optim.RMSprop, 1e-3, ("momentum", "weight_decay")),
    "adagrad": Kind(torch.optim.Adagrad, 1e-2),
})  # fmt: skip
"""Every optimizer by its name."""


def kind_of(name: str) -> Kind:
    """An optimizer by its name."""
    if name not in OPTIMIZERS:
        raise NetirError(f"there is no optimizer '{name}'", fix=nearest(name, OPTIMIZERS))
    return OPTIMIZERS[name]


def make_optimizer(
    module: nn.Module, name: str = "sgd", lr: float | None = None, **options: Any
) -> Optimizer:
    """An optimizer of all parameters of a module; options that are None are its own choice."""
    kind = kind_of(name)
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise NetirError("the network has no parameter to train", fix="let some require gradients")
    given = {key: value for key, value in options.items() if value is not None}
    unknown = sorted(set(given) - set(kind.takes))
    if unknown:
        raise NetirError(
            f"the optimizer '{name}' has no {unknown[0]}", fix=f"it takes {', '.join(kind.takes)}"
        )
    if name == "sgd":
        given.setdefault("momentum", 0.9)
    return kind.make(parameters, lr=kind.lr if lr is None else lr, **given)


def optimizer_state(optimizer: Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """All that an optimizer remembers, as `what/parameter`: its moments and its counts.

    Learning rates and other settings are not in it.
    """
    names: dict[Tensor, str] = {p: name for name, p in module.named_parameters()}
    found: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        if parameter not in names:
            raise NetirError(
                f"{type(optimizer).__name__} trains a parameter that is not in this module",
                fix="pass the module that the optimizer was made for",
            )
        for what, value in state.items():
            if value is not None:
                found[f"{what}/{names[parameter]}"] = _stored(value, what, optimizer)
    return found


def _stored(value: Any, what: str, optimizer: Optimizer) -> Tensor:
    if isinstance(value, bool | int | float):
        return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    raise NetirError(
        f"{type(optimizer).__name__} remembers a {type(value).__name__} as '{what}', which is no "
        "tensor by parameter",
        fix=f"use one of {', '.join(OPTIMIZERS)}",
    )


def load_optimizer_state(
    optimizer: Optimizer, module: nn.Module, state: Mapping[str, Tensor]
) -> None:
    """Let an optimizer go on from a state; parameters that it does not name start afresh.

    Raises before anything changes if the state does not suit the optimizer and the module.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    keys = _remembered(optimizer)
    found: dict[Tensor, dict[str, Any]] = {}
    for key, value in state.items():
        what, _, name = key.partition("/")
        if what not in keys:
            raise NetirError(f"{type(optimizer).__name__} remembers no '{what}'", key, _OTHER)
        if name not in parameters:
            raise NetirError(f"the network has no parameter '{name}'", key, _MOVE)
        shape = tuple(parameters[name].shape)
        if tuple(value.shape) not in (shape, ()):
            raise NetirError(
                f"the state has shape {tuple(value.shape)}, the parameter {shape}", key, _MOVE
            )
        memory = found.setdefault(parameters[name], {})
        memory[what] = _restored(value, keys[what], parameters[name])
    for parameter, memory in found.items():
        for what in sorted(set(keys) - set(memory)):
            name = next(n for n, p in parameters.items() if p is parameter)
            raise NetirError(f"the state of '{name}' lacks '{what}'", fix=_OTHER)
    optimizer.state.clear()
    optimizer.state.update(found)


_OTHER = "go on with the optimizer that the state is of, or begin without a state"
_MOVE = "move the state through every rewrite of the network, by moved_optimizer_state"


def _restored(value: Tensor, like: Any, parameter: Tensor) -> Any:
    if not isinstance(like, Tensor):
        return type(like)(value.item())
    return value.to(parameter.device if like.dim() else like.device, copy=True)


def _remembered(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer remembers of a parameter, by name: found out by two steps on nothing."""
    probe = nn.Parameter(torch.zeros(1))
    options = set(signature(type(optimizer)).parameters) - {"params", "capturable", "fused"}
    settings = {k: v for k, v in optimizer.param_groups[0].items() if k in options}
    try:
        trial = type(optimizer)([probe], **settings)
        for _ in range(2):
            probe.grad = torch.zeros(1)
            trial.step()
    except (TypeError, ValueError, RuntimeError):
        raise NetirError(
            f"{type(optimizer).__name__} cannot be given a state",
            fix=f"use one of {', '.join(OPTIMIZERS)}",
        ) from None
    return {what: value for what, value in trial.state[probe].items() if value is not None}


def moved_optimizer_state(
    state: Mapping[str, Tensor], moves: Moves, before: Graph
) -> dict[str, Tensor]:
    """A state after a rewrite of the network `before`: moments follow the weights' own moves.

    First moments move as weights do, squares with squared scale, new entries are zero; of
    parameters that are gone nothing is left, and new ones have no state yet.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        what, _, name = key.partition("/")
        name = before.aliases.get(name, name)
        old = before.params.get(name)
        if old is None or value.shape not in (old.data.shape, torch.Size()):
            raise NetirError(
                f"the state is not of this network's '{name}'", key,
                "pass the network that the state is of, as it was before the rewrite",
            )  # fmt: skip
        move = moves.params.get(name)
        if name in moves.removed:
            continue
        if move is not None and value.shape == old.data.shape:
            value = moved_moment(what, value, move)
        found[f"{what}/{name}"] = value
    return found


__all__ = ["OPTIMIZERS", "Kind", "kind_of", "load_optimizer_state", "make_optimizer",
           "moved_optimizer_state", "optimizer_state"]  # fmt: skip
