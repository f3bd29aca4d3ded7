"""What a lowered module remembers of its graph, so that it is read back without tracing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from netir.errors import NetirError
from netir.evaluate import input_values, symbol_values
from netir.ir import Graph, Param

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, eq=False)
class Origin:
    """A graph without its tensors, where each of them stands, and what the module looked like."""

    graph: Graph
    paths: Mapping[str, str]
    types: Mapping[str, tuple[str, torch.dtype, torch.Size]]
    modules: Mapping[str, tuple[type, str]]
    code: str

    @classmethod
    def of(cls, graph: Graph, module: fx.GraphModule, paths: Mapping[str, str]) -> Origin:
        """The memory of a module that was made from `graph`."""
        types = {n: (p.kind, p.data.dtype, p.data.shape) for n, p in graph.params.items()}
        return cls(graph.replace(params={}), dict(paths), types, _looks(module), module.code)

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self

    def read(self, module: fx.GraphModule) -> Graph | None:
        """The graph of a module with the tensors that it has now, or None if it was changed."""
        if module.code != self.code or _looks(module) != self.modules:
            return None
        tensors = dict(_tensors(module))
        params: dict[str, Param] = {}
        for name, (kind, dtype, shape) in self.types.items():
            tensor = tensors.pop(self.paths[name], None)
            if tensor is None or tensor.dtype != dtype or tensor.shape != shape:
                return None
            if isinstance(tensor, nn.Parameter) != (kind == "param"):
                return None
            params[name] = Param(tensor.detach(), kind, tensor.requires_grad)  # type: ignore[arg-type]
            for alias, target in self.graph.aliases.items():
                if target == name and tensors.pop(alias, tensor) is not tensor:
                    return None
        return None if tensors else self.graph.replace(params=params)


def _looks(module: nn.Module) -> dict[str, tuple[type, str]]:
    """Classes and attributes of all modules; replaced methods show, and hooks but exact ones."""
    found = {}
    for path, part in module.named_modules(remove_duplicate=False):
        text = part.extra_repr() if type(part) is not nn.Module and path else ""
        hooks = [hook for kind in _HOOKS for hook in part.__dict__[kind].values()]
        if "forward" in part.__dict__ or not all(getattr(h, "exact", False) for h in hooks):
            text += " changed"
        found[path] = (type(part) if path else fx.GraphModule, text)
    return found


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, part in module.named_modules(remove_duplicate=False):
        for leaf, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                yield (f"{path}.{leaf}" if path else leaf), tensor


def reread(
    module: nn.Module, args: Any, kwargs: Mapping[str, Any] | None, dynamic: Any
) -> Graph | None:
    """The graph of a module that netir lowered; None if it was changed or the call is another."""
    origin = module.__dict__.get("netir_origin")
    if not isinstance(module, fx.GraphModule) or not isinstance(origin, Origin):
        return None
    graph = origin.read(module)
    if graph is None:
        return None
    wished = {name for axes in (dynamic or {}).values() for name in axes.values()}
    if not wished <= graph.symbols:
        return None
    given = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    if given or kwargs:
        try:
            symbol_values(graph, input_values(graph, given, dict(kwargs or {})))
        except NetirError:
            return None
    return graph
