"""Layers for random networks that read a sequence (batch, time, channels) or a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.layers import ANY, Apply, Layer, Pick, divisors, weight, when

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
    width, depth, both = pick(3, 2), pick(1, 2), pick(False, True)
    inner = kind(x.shape[2], width, depth, batch_first=True, bidirectional=both)
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


VECTOR: tuple[Layer, ...] = (
    linear, *ANY, vector_norm, mlp, vector_to_map, vector_to_sequence, squared, repeated,
)  # fmt: skip
SEQUENCE: tuple[Layer, ...] = (
    linear, *ANY, layer_norm, mlp, conv_in_time, attention, multihead, recurrent, similarity,
    class_token, in_time, patch_merging, sequence_to_map, sequence_to_vector,
)  # fmt: skip
