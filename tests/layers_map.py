"""Layers for random networks that read a map (batch, channels, height, width)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.layers import ANY, Apply, Layer, Pick, divisors, weight, when
from tests.layers_flat import attention, layer_norm, linear


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
    return Apply("gate", lambda m, x: x * m.excite(m.squeeze(x)), squeeze=squeeze, excite=excite)


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


MAP: tuple[Layer, ...] = (
    conv, *ANY, norm, block, depthwise, conv, deconv, weight_normed, norm, pool, upsample,
    pixel_shuffle, pixel_unshuffle, gate, prelu, einsum_map, over_channels, flatten, windows,
    map_to_vector, map_to_sequence, into_batch,
)  # fmt: skip
