"""Watching what layers read while a model trains, by hooks that keep the last input of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from netir.passes.growth.hidden import Hidden

if TYPE_CHECKING:
    from netir.live import Live


class Watch:
    """Hooks on the modules that read hidden layers; they stay with the modules through rewrites."""

    def __init__(self) -> None:
        self._hooks: dict[nn.Module, Any] = {}
        self._read: dict[nn.Module, Tensor] = {}
        self._values: dict[str, nn.Module] = {}

    def follow(self, live: Live, layers: Iterable[Hidden]) -> None:
        """Watch the first reader of each layer, and nothing else from now on."""
        self._values = {}
        for layer in layers:
            module = _reader(live, layer)
            if module is not None:
                self._values[layer.value] = module
        wanted = set(self._values.values())
        for module in [m for m in self._hooks if m not in wanted]:
            self._hooks.pop(module).remove()
            self._read.pop(module, None)
        for module in wanted - self._hooks.keys():
            self._hooks[module] = module.register_forward_pre_hook(self._see)

    def _see(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            self._read[module] = args[0].detach()

    def caught(self) -> dict[str, Tensor]:
        """What was read in the last step, by the names of the values; each only once."""
        found = {v: self._read[m] for v, m in self._values.items() if m in self._read}
        self._read.clear()
        return found


def _reader(live: Live, layer: Hidden) -> nn.Module | None:
    """The module that reads the activations of a layer, where one does."""
    for reader in layer.readers:
        if reader.x == layer.value:
            return live.owner(reader.weight)
    return None


__all__ = ["Watch"]
