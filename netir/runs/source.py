"""Where the network of a run comes from: the spec's model, or what a program hands over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netir.errors import NetirError
from netir.frontends import trace
from netir.ir import Graph
from netir.models import BUILTIN, read_model, traced
from netir.spec import Spec

Given = Graph | nn.Module | tuple[Any, ...] | Callable[[], Graph]
"""A network as a program hands it over: a graph, a module, a module with its example inputs, or a
function that gives a graph."""


@dataclass(frozen=True)
class Source:
    """A network to read; `steady` if reading it again must give the same one."""

    name: str
    read: Callable[[], Graph]
    steady: bool

    def check(self, first: Graph) -> None:
        """Refuse to go on with a run that began with another network."""
        if self.steady and not same_network(self.read(), first):
            raise NetirError(
                f"the network '{self.name}' is another than the one that the run began with",
                fix="run into another folder, or start anew with --fresh",
            )


def source_of(spec: Spec, model: Given | None, name: str) -> Source:
    """The network that was handed over, else the one that the spec names."""
    match model:
        case None:
            return _named(spec)
        case Graph():
            return Source(name or "a graph", lambda: model, True)
        case nn.Module() | tuple():
            return Source(name or "a module", lambda: _traced(spec, model), True)
        case _ if callable(model):
            return Source(name or "a function", model, False)
    raise NetirError(
        f"a run cannot begin with a {type(model).__name__}",
        fix="pass a graph, a module, (module, args), or a function that gives a graph",
    )


def _named(spec: Spec) -> Source:
    model = spec.model
    if model is None:
        raise NetirError(
            "the spec names no model", fix="add 'model: net.netir' to it, or --model pkg.mod:fn"
        )
    file = not model.startswith(BUILTIN)
    return Source(
        model, lambda: read_model(model, spec.inputs, spec.sizes), file and Path(model).exists()
    )


def _traced(spec: Spec, given: nn.Module | tuple[Any, ...]) -> Graph:
    if isinstance(given, nn.Module) and spec.task is not None and not spec.inputs:
        example = spec.task.example()
        if isinstance(example, Mapping):
            return trace(given, (), example)
        return trace(given, example)
    return traced(given, "the network that was handed over", spec.inputs, spec.sizes)


def same_network(one: Graph, other: Graph) -> bool:
    """Whether two graphs are the same, to the last bit of every tensor."""
    return str(one) == str(other) and all(
        torch.equal(param.data.cpu(), other.params[name].data.cpu())
        for name, param in one.params.items()
    )


__all__ = ["Given", "Source", "source_of"]
