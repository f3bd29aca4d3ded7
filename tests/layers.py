"""Layers for random networks (networks.py): each function draws one that can read a given value.

A map is (batch, channels, height, width), a sequence (batch, time, channels), a vector (batch,
channels). `pick(a, b, c)` draws one of its arguments, the simplest first.
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


# Of any value


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


# Of a map


def conv(pick: Pick, x: Tensor) -> nn.Module:
    size = x.shape[1]
    groups = pick(*divisors(size))
    made = groups * pick(4, 1, 2, 3)
    kernel, stride, dilation = pick(1, 3), pick(1, 2), pick(1, 2)
    return nn.Conv2d(
        size, min(made, 12 * groups), kernel, stride, kernel // 2 * dilation, dilation, groups,
        bias=pick(True, False),
    )  # fmt: skip


def block(pick: Pick, x: Tensor) -> nn.Module:
    """A residual block."""
    size, width = x.shape[1], pick(4, 2, 3)
    body = nn.Sequential(
        nn.Conv2d(size, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, size, 3, padding=1),
    )  # fmt: skip
    return Apply("residual", lambda m, x: x + m.body(x), body=body)


def depthwise(pick: Pick, x: Tensor) -> nn.Module:
    size = x.shape[1]
    made = size * (pick(1, 2) if size <= 8 else 1)
    return nn.Conv2d(size, made, 3, padding=1, groups=size, bias=pick(True, False))


@when(lambda c, h, w: h * w <= 16)
def deconv(pick: Pick, x: Tensor) -> nn.Module:
    groups = pick(*divisors(x.shape[1]))
    made = groups * pick(2, 1, 3)
    return nn.ConvTranspose2d(x.shape[1], made, 2, 2, groups=groups, bias=pick(True, False))


def weight_normed(pick: Pick, x: Tensor) -> nn.Module:
    made = nn.Conv2d(x.shape[1], pick(3, 4), 1)
    return nn.utils.parametrizations.weight_norm(made)


def norm(pick: Pick, x: Tensor) -> nn.Module:
    size = x.shape[1]
    match pick("batch", "group", "instance", "channels", "all"):
        case "batch":
            return nn.BatchNorm2d(size, affine=pick(True, False))
        case "group":
            return nn.GroupNorm(pick(*divisors(size)), size, affine=pick(True, False))
        case "instance" if x.shape[2:].numel() > 1:
            return nn.InstanceNorm2d(size, affine=pick(True, False))
        case "channels":
            return Apply(
                "channels last",
                lambda m, x: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
                norm=nn.LayerNorm(size),
            )
    return nn.LayerNorm(list(x.shape[1:]))


@when(lambda c, h, w: h > 1 and w > 1)
def pool(pick: Pick, x: Tensor) -> nn.Module:
    return pick(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(2))


@when(lambda c, h, w: h * w <= 9)
def upsample(pick: Pick, x: Tensor) -> nn.Module:
    return nn.Upsample(scale_factor=2, mode=pick("nearest", "bilinear"))


@when(lambda c, h, w: c % 4 == 0 and h * w <= 16)
def pixel_shuffle(pick: Pick, x: Tensor) -> nn.Module:
    return nn.PixelShuffle(2)


@when(lambda c, h, w: c <= 4 and h % 2 == w % 2 == 0)
def pixel_unshuffle(pick: Pick, x: Tensor) -> nn.Module:
    return nn.PixelUnshuffle(2)


def gate(pick: Pick, x: Tensor) -> nn.Module:
    """Squeeze and excite, or a softmax over the channels in its place."""
    size, width = x.shape[1], pick(2, 3)
    squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(size, width, 1), nn.ReLU())
    last = pick(nn.Sigmoid(), nn.Softmax(1))
    excite = nn.Sequential(nn.Conv2d(width, size, 1), last)
    return Apply(
        "gate", lambda m, x: x * m.excite(m.squeeze(x)), squeeze=squeeze, excite=excite
    )


def prelu(pick: Pick, x: Tensor) -> nn.Module:
    return nn.PReLU(pick(x.shape[1], 1))


def einsum_map(pick: Pick, x: Tensor) -> nn.Module:
    return Apply(
        "nchw,cd->ndhw",
        lambda m, x: torch.einsum("nchw,cd->ndhw", x, m.weight),
        weight=weight(x.shape[1], pick(3, 4)),
    )


def over_channels(pick: Pick, x: Tensor) -> nn.Module:
    return pick(
        Apply("mean of channels", lambda m, x: x.mean(1, keepdim=True)),
        Apply("sum of channels", lambda m, x: x.sum(1, keepdim=True)),
        Apply("max and mean", lambda m, x: torch.cat([x.amax(1, True), x.mean(1, True)], 1)),
    )


def flatten(pick: Pick, x: Tensor) -> nn.Module:
    """All of a map to a vector: channels first or last."""
    head = nn.Linear(x.shape[1:].numel(), pick(4, 3))
    return pick(
        nn.Sequential(nn.Flatten(), head),
        Apply("last", lambda m, x: m.head(x.permute(0, 2, 3, 1).flatten(1)), head=head),
    )


def map_to_vector(pick: Pick, x: Tensor) -> nn.Module:
    return pick(
        Apply("mean", lambda m, x: x.mean((2, 3))),
        Apply("flatten", lambda m, x: x.flatten(1)),
    )


def map_to_sequence(pick: Pick, x: Tensor) -> nn.Module:
    return pick(
        Apply("tokens", lambda m, x: x.flatten(2).transpose(1, 2)),
        Apply("merged", lambda m, x: x.flatten(1, 2)),
        Apply("rows", lambda m, x: x.permute(0, 2, 3, 1).flatten(2)),
    )


def into_batch(pick: Pick, x: Tensor) -> nn.Module:
    """Groups of channels join the batch, go through a layer, and come back."""
    groups = pick(*divisors(x.shape[1]))
    size = x.shape[1] // groups
    inner = pick(
        nn.Conv2d(size, size, 3, padding=1), nn.GroupNorm(1, size), nn.Conv2d(size, 2, 1), nn.ReLU()
    )
    shape = x.shape[2:]
    return Apply(
        f"{groups} groups in the batch",
        lambda m, x: m.inner(x.reshape(-1, size, *shape)).reshape(x.shape[0], -1, *shape),
        inner=inner,
    )


@when(lambda c, h, w: h % 2 == w % 2 == 0)
def windows(pick: Pick, x: Tensor) -> nn.Module:
    """Windows of 2 by 2 positions in the batch, through a layer of sequences, and back."""
    size, height, width = x.shape[1:]
    inner = pick(linear, attention, layer_norm)(pick, x.flatten(2).transpose(1, 2))

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = x.reshape(-1, size, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1)
        y = m.inner(y.reshape(-1, 4, size))
        y = y.reshape(-1, height // 2, width // 2, 2, 2, y.shape[-1]).permute(0, 5, 1, 3, 2, 4)
        return y.reshape(x.shape[0], -1, height, width)

    return Apply("windows", forward, inner=inner)


# Of a sequence


def linear(pick: Pick, x: Tensor) -> nn.Module:
    return nn.Linear(x.shape[-1], pick(4, 1, 3, 6, 8), bias=pick(True, False))


def mlp(pick: Pick, x: Tensor) -> nn.Module:
    """Two linear layers, with or without a gate."""
    size, width = x.shape[-1], pick(4, 6)
    up, side, down = nn.Linear(size, width), nn.Linear(size, width), nn.Linear(width, size)
    return pick(
        nn.Sequential(up, nn.GELU(), down),
        Apply("gated", lambda m, x: m.down(F.silu(m.up(x)) * m.side(x)),
              up=up, side=side, down=down),
        Apply("both in one", lambda m, x: m.down(F.glu(m.up(x))),
              up=nn.Linear(size, 2 * width), down=down),
    )  # fmt: skip


def layer_norm(pick: Pick, x: Tensor) -> nn.Module:
    return pick(nn.LayerNorm(x.shape[-1]), nn.RMSNorm(x.shape[-1]))


def conv_in_time(pick: Pick, x: Tensor) -> nn.Module:
    size = x.shape[2]
    groups = pick(1, size)
    inner = nn.Conv1d(size, pick(1, 2) * size if size < 8 else size, 3, padding=1, groups=groups)
    return Apply("in time", lambda m, x: m.inner(x.transpose(1, 2)).transpose(1, 2), inner=inner)


def attention(pick: Pick, x: Tensor) -> nn.Module:
    """Attention with separate or fused projections; keys and values may serve several queries."""
    heads, size = pick(2, 1, 4), pick(2, 3)
    shared = pick(1, 2) if heads % 2 == 0 else 1
    count = heads // shared
    fused, sdpa = pick(True, False), pick(True, False)
    widths = [heads * size, count * size, count * size]
    if fused:
        parts = {"qkv": nn.Linear(x.shape[-1], sum(widths))}
    else:
        parts = {n: nn.Linear(x.shape[-1], w) for n, w in zip("qkv", widths, strict=True)}

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        found = m.qkv(x).split(widths, -1) if fused else (m.q(x), m.k(x), m.v(x))
        q, k, v = (y.unflatten(-1, (-1, size)).transpose(1, 2) for y in found)
        if shared > 1:
            k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        if sdpa:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-1, -2) / math.sqrt(size)).softmax(-1) @ v
        return m.out(y.transpose(1, 2).flatten(2))

    title = f"{heads} heads of {size}, {count} for keys"
    return Apply(title, forward, out=nn.Linear(heads * size, x.shape[-1]), **parts)


@when(lambda t, c: c % 2 == 0)
def multihead(pick: Pick, x: Tensor) -> nn.Module:
    inner = nn.MultiheadAttention(x.shape[2], 2, batch_first=True, bias=pick(True, False))
    return Apply("multihead", lambda m, x: m.inner(x, x, x, need_weights=False)[0], inner=inner)


def recurrent(pick: Pick, x: Tensor) -> nn.Module:
    kind = pick(nn.GRU, nn.LSTM, nn.RNN)
    inner = kind(x.shape[2], pick(3, 2), pick(1, 2), batch_first=True, bidirectional=pick(False, True))
    return Apply("recurrent", lambda m, x: m.inner(x)[0], inner=inner)


def similarity(pick: Pick, x: Tensor) -> nn.Module:
    """Every position looks at every other, with no weights in between."""
    return Apply("similarity", lambda m, x: (x @ x.transpose(1, 2)).softmax(-1) @ x)


@when(lambda t, c: t < 9)
def class_token(pick: Pick, x: Tensor) -> nn.Module:
    token = weight(1, 1, x.shape[2])
    return Apply(
        "token", lambda m, x: torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1), token=token
    )


def in_time(pick: Pick, x: Tensor) -> nn.Module:
    """What mixes positions and leaves channels alone."""
    time = x.shape[1]
    return pick(
        Apply("cumsum", lambda m, x: x.cumsum(1)),
        Apply("mixer", lambda m, x: m.inner(x.transpose(1, 2)).transpose(1, 2),
              inner=nn.Linear(time, time)),
        Apply("softmax", lambda m, x: x * x.softmax(1)),
    )  # fmt: skip


@when(lambda t, c: t % 2 == 0 and c <= 8)
def patch_merging(pick: Pick, x: Tensor) -> nn.Module:
    time, size = x.shape[1] // 2, x.shape[2]
    return pick(
        Apply("merge", lambda m, x: x.reshape(-1, time, 2 * size)),
        Apply("strided", lambda m, x: torch.cat([x[:, ::2], x[:, 1::2]], -1)),
    )


def sequence_to_map(pick: Pick, x: Tensor) -> nn.Module:
    rows = pick(*divisors(x.shape[1]))
    return Apply("map", lambda m, x: x.transpose(1, 2).unflatten(2, (rows, -1)))


def sequence_to_vector(pick: Pick, x: Tensor) -> nn.Module:
    return pick(
        Apply("mean", lambda m, x: x.mean(1)),
        Apply("first", lambda m, x: x[:, 0]),
        Apply("flatten", lambda m, x: x.flatten(1)),
    )


# Of a vector


def vector_norm(pick: Pick, x: Tensor) -> nn.Module:
    return pick(nn.BatchNorm1d, nn.LayerNorm)(x.shape[1])


def vector_to_map(pick: Pick, x: Tensor) -> nn.Module:
    rows = pick(*divisors(x.shape[1]))
    return pick(
        Apply("map", lambda m, x: x[:, :, None, None]),
        Apply("plane", lambda m, x: x.unflatten(1, (-1, 1, rows))),
    )


def vector_to_sequence(pick: Pick, x: Tensor) -> nn.Module:
    parts = pick(*divisors(x.shape[1]))
    return pick(
        Apply("parts", lambda m, x: x.unflatten(1, (parts, -1))),
        Apply("repeated", lambda m, x: x.unsqueeze(1).repeat(1, 3, 1)),
    )


@when(lambda c: c <= 5)
def squared(pick: Pick, x: Tensor) -> nn.Module:
    """Products of two channels."""
    return pick(
        Apply("outer", lambda m, x: (x[:, :, None] * x[:, None, :]).flatten(1)),
        Apply("bilinear", lambda m, x: m.inner(x, x), inner=nn.Bilinear(x.shape[1], x.shape[1], 3)),
    )


@when(lambda c: c <= 8)
def repeated(pick: Pick, x: Tensor) -> nn.Module:
    return pick(
        Apply("repeat", lambda m, x: x.repeat(1, 2)),
        Apply("interleave", lambda m, x: x.repeat_interleave(2, 1)),
        Apply("stack", lambda m, x: torch.stack([x, torch.tanh(x)], 1).flatten(1)),
        Apply("stack inside", lambda m, x: torch.stack([x, torch.tanh(x)], 2).flatten(1)),
    )


ANY: tuple[Layer, ...] = (
    activation, scale, cut, chunk, doubled, shuffle, glu, by_head, mix_channels, turned, dropout,
)  # fmt: skip
LAYERS: dict[int, tuple[Layer, ...]] = {
    2: (linear, *ANY, vector_norm, mlp, vector_to_map, vector_to_sequence, squared, repeated),
    3: (linear, *ANY, layer_norm, mlp, conv_in_time, attention, multihead, recurrent, similarity,
        class_token, in_time, patch_merging, sequence_to_map, sequence_to_vector),
    4: (conv, *ANY, norm, block, depthwise, conv, deconv, weight_normed, norm, pool, upsample,
        pixel_shuffle, pixel_unshuffle, gate, prelu, einsum_map, over_channels, flatten, windows,
        map_to_vector, map_to_sequence, into_batch),
}  # fmt: skip
"""By the rank of a value: the layers that may read it."""
