"""Readers: each module turns one kind of foreign model into a graph of netir's own ops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from netir.errors import NetirError, nearest
from netir.frontends.inputs import Call, Dynamic
from netir.frontends.modes import warn_of_modes
from netir.frontends.torch_export import read_model
from netir.frontends.torch_fx import read_traced
from netir.ir import Graph
from netir.lower.origin import reread

_READERS = {"torch_export": read_model, "torch_fx": read_traced}


def trace(
    model: nn.Module,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Dynamic | None = None,
    frontend: Literal["torch_export", "torch_fx"] = "torch_export",
    name: str = "",
) -> Graph:
    """Read a model into a graph by running it once, in eval mode, on example inputs.

    The first axis of every tensor input is a symbolic batch; `dynamic` opens other axes, as in
    `{"tokens": {0: "batch", 1: "length"}}`. The graph shares the model's tensors. A module that
    netir lowered is read back without running it, and then needs no inputs.
    """
    if not isinstance(model, nn.Module):
        raise NetirError(
            f"cannot trace a {type(model).__name__}", fix="pass a torch.nn.Module and its inputs"
        )
    if frontend not in _READERS:
        raise NetirError(f"there is no frontend '{frontend}'", fix=nearest(frontend, _READERS))
    known = reread(model, args, kwargs, dynamic)
    if known is not None:
        return known
    call = Call.of(model, args, kwargs, dynamic)
    graph = _READERS[frontend](model, call, name)
    return warn_of_modes(model, call, graph)


__all__ = ["Dynamic", "trace"]
