"""Layers for random networks (networks.py) that can read any value, and what all layers share.

Each function draws a layer for a given value: a map (batch, channels, height, width), a sequence
(batch, time, channels) or a vector (batch, channels). `pick(a, b, c)` draws one of its arguments,
the simplest first. Layers of maps are in layers_map.py, the others in layers_flat.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pick = Callable[..., Any]
Layer = Callable[[Pick, Tensor], nn.Module]


class Apply(nn.Module):
    """A function of the inputs and of what the module holds: modules, parameters, buffers."""

    def __init__(self, title: str, function: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.title, self.function = title, function
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(self, *values)

    def extra_repr(self) -> str:
        return self.title


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / math.sqrt(max(shape)))


def when(fits: Callable[..., bool]) -> Callable[[Layer], Layer]:
    """Say which shapes a layer can read: `fits` is told all sizes but the batch."""

    def mark(layer: Layer) -> Layer:
        layer.fits = fits  # type: ignore[attr-defined]
        return layer

    return mark


def divisors(size: int) -> list[int]:
    return [d for d in (1, 2, 3, 4) if size % d == 0]


def channel_axis(x: Tensor) -> int:
    return 2 if x.dim() == 3 else 1


def activation(pick: Pick, x: Tensor) -> nn.Module:
    return pick(nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.Hardswish, nn.ELU)()


def cut(pick: Pick, x: Tensor) -> nn.Module:
    """A slice of the channels."""
    axis = channel_axis(x)
    size = x.shape[axis]
    start = pick(*range(size))
    end = pick(size, *range(start + 1, size))
    return Apply(f"{start}:{end}", lambda m, x: x.narrow(axis, start, end - start))


CHUNKED: dict[str, Callable[[list[Tensor], int], Tensor]] = {
    "first": lambda parts, axis: parts[0],
    "gate": lambda parts, axis: parts[0] * torch.sigmoid(parts[-1]),
    "sum": lambda parts, axis: sum(parts[1:], parts[0]),
    "swap": lambda parts, axis: torch.cat(parts[::-1], axis),
    "some": lambda parts, axis: torch.cat([torch.tanh(parts[0]), *parts[1:]], axis),
    "turn": lambda parts, axis: torch.cat([-parts[-1], parts[0]], axis),
}


def chunk(pick: Pick, x: Tensor) -> nn.Module:
    """Equal or unequal parts of the channels, put to use."""
    axis = channel_axis(x)
    size = x.shape[axis]
    counts = [c for c in divisors(size) if c > 1]
    how = pick(*CHUNKED)
    if counts and (how in ("gate", "sum") or pick(True, False)):
        count = pick(*counts)
        use = CHUNKED[how]
        return Apply(f"{count} chunks: {how}", lambda m, x: use(x.chunk(count, axis), axis))
    how = pick("first", "swap", "some", "turn")
    left = pick(*range(1, size))
    use = CHUNKED[how]
    return Apply(
        f"{left} | {size - left}: {how}",
        lambda m, x: use(list(x.split([left, size - left], axis)), axis),
    )


chunk = when(lambda *sizes: (sizes[0] if len(sizes) != 2 else sizes[1]) > 1)(chunk)


def doubled(pick: Pick, x: Tensor) -> nn.Module:
    """The value beside itself, or beside a function of itself."""
    axis, other = channel_axis(x), pick("itself", "tanh", "nested", "zeros")

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        match other:
            case "itself":
                return torch.cat([x, x], axis)
            case "tanh":
                return torch.cat([x, torch.tanh(x)], axis)
            case "zeros":
                return torch.cat([x, torch.zeros_like(x)], axis)
        return torch.cat([torch.cat([x, torch.relu(x)], axis), x], axis)

    return Apply(other, forward)


doubled = when(lambda *sizes: math.prod(sizes) <= 150 and max(sizes) <= 12)(doubled)


def scale(pick: Pick, x: Tensor) -> nn.Module:
    """A parameter or a buffer for every channel, position, or both: LayerScale and the like."""
    axis = channel_axis(x)
    full = [1] * x.dim()
    full[axis] = x.shape[axis]
    shape = pick(full, full[axis:], list(x.shape[1:]))
    held = pick(weight, lambda *s: torch.rand(s) + 0.5)(*shape)
    return pick(
        Apply("scale", lambda m, x: x * m.held, held=held),
        Apply("shift", lambda m, x: x + m.held, held=held),
        Apply("scale squared", lambda m, x: x * (1 + m.held * m.held), held=held),
    )


def mix_channels(pick: Pick, x: Tensor) -> nn.Module:
    """Something that every channel has a share in."""
    axis = channel_axis(x)
    return pick(
        Apply("x * softmax(x)", lambda m, x: x * x.softmax(axis)),
        Apply("x * mean(x)", lambda m, x: x * x.mean(axis, keepdim=True)),
        Apply("x - sum(x)", lambda m, x: x - x.sum(axis, keepdim=True)),
        Apply("x - max(x)", lambda m, x: x - x.amax(axis, keepdim=True)),
        Apply("normalize", lambda m, x: F.normalize(x, dim=axis)),
    )


def turned(pick: Pick, x: Tensor) -> nn.Module:
    """The channels, or positions, in another order."""
    axis = pick(channel_axis(x), *range(1, x.dim()))
    return pick(
        Apply(f"flip {axis}", lambda m, x: x.flip(axis)),
        Apply(f"roll {axis}", lambda m, x: x.roll(1, axis)),
    )


def shuffle(pick: Pick, x: Tensor) -> nn.Module:
    """The channel shuffle, as the view, transpose, reshape that everyone writes."""
    axis = channel_axis(x)
    groups = pick(*[d for d in divisors(x.shape[axis]) if d > 1])
    return Apply(
        f"shuffle {groups}",
        lambda m, x: x.unflatten(axis, (groups, -1)).transpose(axis, axis + 1).reshape(x.shape),
    )


def by_head(pick: Pick, x: Tensor) -> nn.Module:
    """The channels as heads, each normalised, scaled or softmaxed by itself."""
    axis = channel_axis(x)
    heads = pick(*divisors(x.shape[axis]))
    size = x.shape[axis] // heads
    function: Callable[..., Tensor] = pick(
        lambda m, y: y * m.scale, lambda m, y: y.softmax(-1), lambda m, y: m.norm(y) + m.scale
    )
    return Apply(
        f"{heads} heads",
        lambda m, x: function(m, x.movedim(axis, -1).unflatten(-1, (heads, size)))
        .flatten(-2).movedim(-1, axis),
        norm=nn.LayerNorm(size), scale=weight(heads, 1),
    )  # fmt: skip


def _even(*sizes: int) -> bool:
    return (sizes[1] if len(sizes) == 2 else sizes[0]) % 2 == 0


def glu(pick: Pick, x: Tensor) -> nn.Module:
    return nn.GLU(channel_axis(x))


glu, shuffle = when(_even)(glu), when(_even)(shuffle)


def dropout(pick: Pick, x: Tensor) -> nn.Module:
    return nn.Dropout(0.25)


ANY: tuple[Layer, ...] = (
    activation, scale, cut, chunk, doubled, shuffle, glu, by_head, mix_channels, turned, dropout,
)  # fmt: skip
"""Layers that read any value."""
