"""Rewriting a model in place while it trains.

`Live(model, optimizer).apply(rewrite)` between two steps: the model object, its parameters as
objects, the optimizer and its groups stay; tensors, gradients, optimizer state and averaged copies
follow by the moves of the rewrite. All that can fail is worked out before anything changes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree

from netir.calibration import Batch, Calibration, arguments
from netir.errors import NetirError, NetirWarning
from netir.followers import (
    OptimizerMemory,
    States,
    averaged,
    moved_gradients,
    moved_states,
    regroup,
)
from netir.frontends import Dynamic, trace
from netir.ir import Graph, Param
from netir.lower.graft import Graft, Undo, check_names, grafted, put, tensor_at
from netir.lower.origin import Origin
from netir.lower.torch import Lowered
from netir.replicas import Replicas, unwrapped
from netir.rewrite import Pass, Result

Optimizers = torch.optim.Optimizer | Iterable[torch.optim.Optimizer]


class Live:
    """A model, with all that trains it, as something that passes can rewrite.

    `example` is a batch to trace the model with, at the first rewrite; without it, the shapes of
    the model's last call are used. `averages` are copies of the model that follow it, such as an
    AveragedModel. Anything else that trains the model (learning rate schedulers, a gradient
    scaler) needs nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers = (),
        example: Batch | None = None,
        *,
        averages: Iterable[nn.Module] = (),
        dynamic: Dynamic | None = None,
    ) -> None:
        self.model = model
        self.optimizers = (
            (optimizer,) if isinstance(optimizer, torch.optim.Optimizer) else tuple(optimizer)
        )
        self._replicas = Replicas(model)
        self._module = unwrapped(model)
        self._averages = [unwrapped(a.module if isinstance(a, AveragedModel) else a)
                          for a in averages]  # fmt: skip
        self._dynamic = dynamic
        self._example: Batch = () if example is None else example
        self._known: Graph | None = None
        self._paths: Mapping[str, str] = {}
        self._check_optimizers()
        wanted = example is None and not isinstance(self._module, Lowered)
        self._last = _LastCall(self._module) if wanted else None

    def _check_optimizers(self) -> None:
        own = {id(p) for p in self._module.parameters()}
        for optimizer in self.optimizers:
            given = [p for group in optimizer.param_groups for p in group["params"]]
            if given and not any(id(p) in own for p in given):
                raise NetirError(
                    f"{type(optimizer).__name__} trains no parameter of this model",
                    fix="make the optimizer from model.parameters(), after any .to(device)",
                )

    @property
    def graph(self) -> Graph:
        """The network as it is now; its tensors are the model's own.

        The same object as the last time, with all that is known of it, while they are the same.
        """
        if self._known is None:
            self._trace()
        assert self._known is not None
        params: dict[str, Param] = {}
        changed = False
        for name, param in self._known.params.items():
            tensor = tensor_at(self._module, self._paths[name])
            if tensor is None and param.kind == "const":
                params[name] = param  # not registered before the first rewrite
                continue
            if tensor is None or tensor.shape != param.data.shape:
                raise NetirError(
                    "the model was changed by something else since its last rewrite",
                    where=self._paths[name], fix="make a new Live for it",
                )  # fmt: skip
            if not _same(param, tensor):
                param = Param(tensor.detach(), param.kind, tensor.requires_grad)
                changed = True
            params[name] = param
        if changed:
            self._known = self._known.replace(params=params)
        return self._known

    def owner(self, param: str) -> nn.Module | None:
        """The linear layer or convolution whose weight a parameter of the graph is."""
        path, _, leaf = self._paths.get(param, "").rpartition(".")
        module = self._module.get_submodule(path) if leaf == "weight" else None
        return module if type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) else None

    def _trace(self) -> None:
        args, kwargs = arguments(self._example) if self._last is None else self._last.taken()
        graph = trace(self._module, args, kwargs, dynamic=self._dynamic)
        paths = {n: n for n in graph.params}
        if isinstance(self._module, Lowered):
            paths = dict(self._module.netir_origin.paths)
        self._known, self._paths, self._last = graph, paths, None

    def apply(self, rewrite: Pass, calibration: Calibration | None = None) -> Result:
        """Rewrite the model in place; on any error everything is as it was."""
        before = self.graph
        result = self._replicas.agreed(before, lambda: rewrite.apply(before, calibration))
        if result.graph is not before:
            self._exchange(before, result)
        return result

    def _exchange(self, before: Graph, result: Result) -> None:
        """Work out everything first, then put it in."""
        module, moves = self._module, result.moves
        after = _unshared(before, result.graph)
        whole = not isinstance(module, Lowered) and "forward" not in module.__dict__
        grafts = {module: grafted(before, after, self._paths, whole)}
        for copy in self._averages:
            theirs = averaged(copy, self._paths, before, after, moves)
            grafts[copy] = grafted(before, theirs, self._paths, whole)
        for root, graft in grafts.items():
            check_names(root, graft)
        gradients = moved_gradients(module, self._paths, moves)
        states = [moved_states(o, module, self._paths, moves) for o in self.optimizers]
        if whole:
            _warn_of_hooks(module, grafts[module])
        memories: tuple[Undo, OptimizerMemory] = (Undo(grafts), OptimizerMemory(self.optimizers))
        try:
            self._commit(grafts, gradients, states)
        except BaseException:
            for memory in memories:
                memory.restore()
            raise
        self._known = after.replace(history=tuple(replace(s, moves=None) for s in after.history))
        self._paths = grafts[module].paths
        for root in grafts:
            if isinstance(root, Lowered):
                root.netir_origin = Origin.of(self._known, root, self._paths)

    def _commit(
        self,
        grafts: Mapping[nn.Module, Graft],
        gradients: Mapping[Tensor, Tensor],
        states: Iterable[States],
    ) -> None:
        old = dict(self._module.named_parameters())
        for root, graft in grafts.items():
            put(root, graft)
        for tensor, gradient in gradients.items():
            tensor.grad = gradient
        new = dict(self._module.named_parameters())
        for optimizer, moved in zip(self.optimizers, states, strict=True):
            optimizer.state.update(moved)
        regroup(self.optimizers, old, new)
        self._replicas.rebuild()


def _same(param: Param, tensor: Tensor) -> bool:
    """Whether a parameter of the graph is this tensor of the model, down to its memory."""
    data = param.data
    return (
        param.trainable == tensor.requires_grad
        and not data.requires_grad
        and data.dtype == tensor.dtype
        and data.device == tensor.device
        and data.stride() == tensor.stride()
        and data.data_ptr() == tensor.data_ptr()
    )


def _unshared(before: Graph, after: Graph) -> Graph:
    """The graph with a storage of its own for every tensor that the rewrite made."""
    old = {id(p.data) for p in before.params.values()}
    taken = {p.data.untyped_storage().data_ptr() for p in before.params.values()}
    params = dict(after.params)
    for name, param in after.params.items():
        if id(param.data) in old:
            continue
        storage = param.data.untyped_storage().data_ptr()
        if storage in taken or not param.data.is_contiguous():
            params[name] = replace(param, data=param.data.detach().clone())
        taken.add(storage)
    return after.replace(params=params)


def _warn_of_hooks(module: nn.Module, graft: Graft) -> None:
    """Modules that hold others are not called by a lowered network, and nor are their hooks."""
    for path, part in module.named_modules():
        hooked = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks
        if path and hooked and path not in graft.modules:
            warnings.warn(
                f"the hooks of '{path}' ({type(part).__name__}) are not called after this rewrite: "
                "only the model and its layers are; hook those",
                NetirWarning,
                stacklevel=5,
            )


class _LastCall:
    """Remembers the shapes of a model's last call, and no tensor of it."""

    def __init__(self, module: nn.Module) -> None:
        self._call: Any = None

        def see(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._call = pytree.tree_map(_Shape.of, (args, kwargs))

        self._handle = module.register_forward_pre_hook(see, with_kwargs=True)

    def taken(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Zeros of those shapes; the hook is taken away."""
        if self._call is None:
            raise NetirError(
                "the model has not been called yet, so its inputs are not known",
                fix="pass example= to Live, or run a step before the first rewrite",
            )
        self._handle.remove()
        args, kwargs = pytree.tree_map(
            lambda leaf: leaf.zeros() if isinstance(leaf, _Shape) else leaf, self._call
        )
        return args, kwargs


@dataclass(frozen=True)
class _Shape:
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(leaf: Any) -> Any:
        return _Shape(leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf

    def zeros(self) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)


__all__ = ["Live"]
