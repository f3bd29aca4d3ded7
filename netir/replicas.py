"""Replicas of one model in several processes: one of them decides on a rewrite, all follow.

For a model in DistributedDataParallel, the process of rank 0 rewrites, the rewritten graph and its
moves are sent to all, and every process puts them into its own replica. The wrapper, which knows
parameters by their shapes, is then made anew in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from netir.errors import NetirError
from netir.ir import Graph, renamed
from netir.rewrite import Result

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs",
          "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks")  # fmt: skip


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside torch.compile and DistributedDataParallel."""
    while True:
        if isinstance(model, OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(model, nn.DataParallel):
            raise NetirError(
                "DataParallel copies the model at every call, so it cannot be rewritten in place",
                fix="use DistributedDataParallel, or pass the module inside",
            )
        elif any(c.__name__ in ("FullyShardedDataParallel", "FSDPModule")
                 for c in type(model).__mro__):  # fmt: skip
            raise NetirError(
                "a model whose parameters are sharded cannot be rewritten in place",
                fix="rewrite before sharding it",
            )
        else:
            return model


class Replicas:
    """The replicas of a model; of one that is not replicated, just the one."""

    def __init__(self, model: nn.Module) -> None:
        while isinstance(model, OptimizedModule):
            model = model._orig_mod
        self._wrapper = model if isinstance(model, DistributedDataParallel) else None

    def agreed(self, before: Graph, rewrite: Callable[[], Result]) -> Result:
        """The result of a rewrite, the same on every replica; an error is raised on all of them."""
        if self._wrapper is None:
            return rewrite()
        group = self._wrapper.process_group
        sent: list[Any] = [None]
        if dist.get_rank(group) == 0:
            sent[0] = _tried(before, rewrite)
        dist.broadcast_object_list(sent, dist.get_global_rank(group, 0), group)
        if isinstance(sent[0], NetirError):
            raise sent[0]
        return _unpacked(before, sent[0])

    def rebuild(self) -> None:
        """Make the wrapper anew, in place, with the settings and hooks that it had."""
        wrapper = self._wrapper
        if wrapper is None:
            return
        hooks = {name: wrapper.__dict__[name] for name in _HOOKS}
        communication = list(wrapper._comm_hooks)
        module, training = wrapper.module, wrapper.training
        settings = _settings(wrapper)
        wrapper.__init__(module, **settings)  # type: ignore[misc]
        wrapper.__dict__.update(hooks)
        for hook, state in communication:
            wrapper.register_comm_hook(state, hook)
        wrapper.training = training


def _settings(wrapper: DistributedDataParallel) -> dict[str, Any]:
    return {
        "device_ids": wrapper.device_ids,
        "output_device": wrapper.output_device,
        "dim": wrapper.dim,
        "broadcast_buffers": wrapper.broadcast_buffers,
        "process_group": wrapper.process_group,
        "bucket_cap_mb": wrapper.bucket_bytes_cap / 2**20,
        "find_unused_parameters": wrapper.find_unused_parameters,
        "gradient_as_bucket_view": wrapper.gradient_as_bucket_view,
        "static_graph": wrapper.static_graph,
    }


def _tried(before: Graph, rewrite: Callable[[], Result]) -> Any:
    """What rank 0 sends: the parts of its result that the others lack, or its error."""
    try:
        result = rewrite()
    except NetirError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the others wait for an answer
        told = NetirError(f"the rewrite failed on rank 0: {type(error).__name__}: {error}")
        told.__cause__ = error
        return told
    return _packed(before, result)


def _packed(before: Graph, result: Result) -> dict[str, Any]:
    after = result.graph
    changed = {
        name: replace(param, data=param.data.detach().cpu())
        for name, param in after.params.items()
        if name not in before.params or param.data is not before.params[name].data
    }
    return {
        "names": list(after.params), "changed": changed, "nodes": dict(after.nodes),
        "outputs": list(after.outputs), "aliases": dict(after.aliases),
        "history": tuple(replace(step, moves=None) for step in after.history),
        "moves": result.moves, "report": result.report,
    }  # fmt: skip


def _unpacked(before: Graph, sent: dict[str, Any]) -> Result:
    device = next((p.data.device for p in before.params.values()), torch.device("cpu"))
    params = {}
    for name in sent["names"]:
        param = sent["changed"].get(name)
        params[name] = (
            before.params[name] if param is None else replace(param, data=param.data.to(device))
        )
    names = iter(sent["outputs"])
    after = before.replace(
        nodes=sent["nodes"], params=params, aliases=sent["aliases"], history=sent["history"],
        output=renamed(before.output, lambda _: next(names)),
    )  # fmt: skip
    return Result(after, sent["moves"], sent["report"])


__all__ = ["Replicas", "unwrapped"]
