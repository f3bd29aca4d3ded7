"""Data that a pass may look at: what flows through a network, and the gradients of a loss."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from netir.errors import DataError, NetirError
from netir.evaluate import input_values, value_of, values_of
from netir.ir import Graph, Param, map_tree

Batch = Tensor | tuple[Any, ...] | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Batches of inputs; with a loss and a target for each of them, also gradients.

    A batch is one tensor, a tuple of arguments or a mapping of named ones. `loss` takes what the
    network returns and the batch's target, and gives one number.
    """

    batches: Sequence[Batch]
    targets: Sequence[Any] | None = None
    loss: Callable[[Any, Any], Tensor] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.batches, (list, tuple)):
            raise NetirError(
                f"the batches of a calibration are a {type(self.batches).__name__}, not a list",
                fix="pass a list of batches, each a tensor, a tuple of arguments or a mapping",
            )
        if not len(self.batches):
            raise NetirError("a calibration needs at least one batch", fix="give some batches")
        if self.targets is not None and len(self.targets) != len(self.batches):
            raise NetirError(
                f"{len(self.targets)} targets for {len(self.batches)} batches",
                fix="give one target for each batch",
            )

    def inputs(self, graph: Graph) -> Iterator[dict[str, Tensor]]:
        """For each batch the tensors of the call, by the names of the graph's inputs."""
        for batch in self.batches:
            yield input_values(graph, *arguments(batch))

    def values(self, graph: Graph, wanted: Collection[str]) -> Iterator[dict[str, Tensor]]:
        """For each batch the values that are wanted, in eval mode."""
        names = set(wanted)
        for inputs in self.inputs(graph):
            with torch.no_grad():
                found = values_of(graph, inputs, keep=names.__contains__)
            yield {name: found[name] for name in names}

    def gradients(self, graph: Graph) -> Iterator[dict[str, Tensor]]:
        """For each batch the gradient of the loss by every trained parameter that it reaches."""
        if self.loss is None:
            raise NetirError(
                "this needs gradients, and the calibration has no loss",
                fix="pass Calibration(batches, targets, loss)",
            )
        targets = self.targets or [None] * len(self.batches)
        for batch, target in zip(self.batches, targets, strict=True):
            inputs = input_values(graph, *arguments(batch))
            trained = [name for name, param in graph.params.items() if _trained(param)]
            _, found = slopes(graph, inputs, partial(_held, self.loss, target), (), trained)
            yield {name: slope for name, slope in found.items() if slope is not None}


def needed(calibration: Calibration | None, by: str) -> Calibration:
    """The calibration, or an error that says what needs it."""
    if calibration is None:
        raise DataError(
            f"{by} needs data", fix="pass calibration=netir.Calibration(batches) to apply"
        )
    if not isinstance(calibration, Calibration):
        raise NetirError(
            f"{by} needs a calibration, not {type(calibration).__name__}",
            fix="pass netir.Calibration(batches)",
        )
    return calibration


def arguments(batch: Batch) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """A batch as the positional and the keyword arguments of a call."""
    if isinstance(batch, Tensor):
        return (batch,), {}
    return ((), batch) if isinstance(batch, Mapping) else (tuple(batch), {})


Slopes = dict[str, Tensor | None]


def slopes(
    graph: Graph,
    inputs: Mapping[str, Tensor],
    loss: Callable[[Any], Tensor],
    values: Sequence[str],
    params: Sequence[str],
) -> tuple[Slopes, Slopes]:
    """The gradients of a loss of the output by values and by parameters, None where it has none.

    In eval mode, with every trained parameter taking part.
    """
    leaves = {
        name: replace(p, data=p.data.detach().requires_grad_())
        for name, p in graph.params.items()
        if _trained(p)
    }
    graph = graph.replace(params={**graph.params, **leaves})
    with torch.enable_grad():
        have = values_of(graph, inputs, keep=set(values).__contains__)
        output = map_tree(graph.output, lambda leaf: value_of(graph, have, leaf.name))
        tensors = [have[n] for n in values] + [leaves[n].data for n in params]
        found = torch.autograd.grad(loss(output), tensors, allow_unused=True)
    by_value: Slopes = dict(zip(values, found, strict=False))
    return by_value, dict(zip(params, found[len(values) :], strict=True))


def _held(loss: Callable[[Any, Any], Tensor], target: Any, output: Any) -> Tensor:
    return loss(output, target)


def _trained(param: Param) -> bool:
    return param.kind == "param" and param.data.is_floating_point()


__all__ = ["Batch", "Calibration", "arguments", "needed", "slopes"]
