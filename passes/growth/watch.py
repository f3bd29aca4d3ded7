"""Watching what layers read while a model trains, by hooks that keep the last of each.

With slopes also the gradients that came back in the same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from netir.passes.compensation.consumers import Consumer, owned
from netir.passes.growth.hidden import Hidden

if TYPE_CHECKING:
    from netir.live import Live


@dataclass(frozen=True, eq=False)
class Caught:
    """What was there in the last step of training."""

    values: Mapping[str, Tensor]
    """What makers and readers of layers read, by the names of the values."""
    slopes: Mapping[str, Tensor] = field(default_factory=dict)
    """The gradients of the loss by what they made."""
    squares: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)
    """Of a weight along an axis the sums of the squares of its gradients, one for each entry."""
    training: bool = True
    """Whether the model was in train mode."""


@dataclass(eq=False)
class _Call:
    """One call of a module, and what came back."""

    read: Tensor
    shape: torch.Size
    training: bool
    slope: Tensor | None = None
    squares: tuple[Tensor, ...] = ()

    def returned(self, slope: Tensor) -> None:
        self.slope = slope.detach()


class Watch:
    """Hooks on the modules that make and read hidden layers; they stay through rewrites."""

    def __init__(self, slopes: bool = False) -> None:
        self.slopes = slopes
        self._hooks: dict[nn.Module, list[Any]] = {}
        self._calls: dict[nn.Module, _Call] = {}
        self._parts: dict[nn.Module, Consumer] = {}
        self._layers: Sequence[Hidden] | None = None

    def follow(self, live: Live, layers: Sequence[Hidden]) -> None:
        """Watch what makes and reads these layers, and nothing else from now on."""
        if layers is self._layers:
            return
        self._layers = layers
        self._parts = {}
        for layer in layers:
            for part in (*layer.makers, *layer.readers):
                module = live.owner(part.weight)
                if module is not None and owned(layer.graph, part.weight):
                    self._parts[module] = part
        for module in [m for m in self._hooks if m not in self._parts]:
            for hook in self._hooks.pop(module):
                hook.remove()
            self._calls.pop(module, None)
        for module in self._parts.keys() - self._hooks.keys():
            self._hooks[module] = self._hooked(module)

    def _hooked(self, module: nn.Module) -> list[Any]:
        def squared(slope: Tensor) -> None:
            if module in self._calls:
                self._calls[module].squares = _squares(slope)

        hooks: list[Any] = [module.register_forward_hook(self._see)]
        weight = module.weight
        if self.slopes and isinstance(weight, Tensor) and weight.requires_grad:
            hooks.append(weight.register_hook(squared))
        return hooks

    def _see(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        weight = module.weight
        if not args or not isinstance(args[0], Tensor) or not isinstance(weight, Tensor):
            return
        call = _Call(args[0].detach(), weight.shape, module.training)
        self._calls[module] = call
        if self.slopes and isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(call.returned)

    def caught(self) -> Caught:
        """What there was in the last step; each only once."""
        values: dict[str, Tensor] = {}
        slopes: dict[str, Tensor] = {}
        squares: dict[tuple[str, int], Tensor] = {}
        training = True
        for module, part in self._parts.items():
            call = self._calls.get(module)
            if call is None or call.shape != module.weight.shape:
                continue
            values[part.x], training = call.read, training and call.training
            if call.slope is not None:
                slopes[part.node.results[0]] = call.slope
            squares |= {(part.weight, axis): s for axis, s in enumerate(call.squares)}
        self._calls.clear()
        return Caught(values, slopes, squares, training)


def _squares(slope: Tensor) -> tuple[Tensor, ...]:
    """For each of the first two axes the sums of squares over all others."""
    square = slope.detach().square().flatten(2).sum(-1) if slope.dim() > 2 else slope.square()
    return square.sum(1), square.sum(0)


__all__ = ["Caught", "Watch"]
