"""Small networks that come with netir, for the demo, the docs and first steps: 8×8 digits.

They are ordinary modules with random weights from a fixed seed. `BUILTINS` has a factory for
each: called, it gives the module and example arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

Example = tuple[nn.Module, tuple[Tensor, ...]]


class Block(nn.Module):
    """Two convolutions with batch norm, and a way around them."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.around = nn.Conv2d(channels, out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.around(x))


class ResidualDigits(nn.Module):
    """A residual convolutional network for 8×8 images of ten classes."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.layer1 = Block(width, width)
        self.layer2 = Block(width, 2 * width, stride=2)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.stem(image))
        x = self.layer2(self.layer1(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class DigitsCnn(nn.Module):
    """A convolutional network for 8×8 images of ten classes, with two residual blocks.

    Two linear layers read its pictures pixel by pixel.
    """

    def __init__(self, width: int = 24, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.layer1 = Block(width, width)
        self.layer2 = Block(width, 2 * width, stride=2)
        self.hidden = nn.Linear(2 * width * 4, 2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(image)))
        x = nn.functional.max_pool2d(self.layer2(self.layer1(x)), 2)
        logits: Tensor = self.head(torch.relu(self.hidden(x.flatten(1))))
        return logits


class DigitsMlp(nn.Module):
    """Three linear layers for 8×8 images of ten classes."""

    def __init__(self, width: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width // 2), nn.ReLU(),
            nn.Linear(width // 2, classes),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image)
        return logits


class Attention(nn.Module):
    """Self-attention with several heads, queries, keys and values in one linear layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        split = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed


class Layer(nn.Module):
    """A transformer layer with its norms first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        more: Tensor = self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return x + more


class AttentionDigits(nn.Module):
    """A small vision transformer for 8×8 images of ten classes: each row of pixels is a token."""

    def __init__(self, width: int = 32, heads: int = 4, depth: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, 8, width))
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image.squeeze(1)) + self.position
        logits: Tensor = self.head(self.norm(self.layers(x)).mean(1))
        return logits


def _residual() -> Example:
    return _made(ResidualDigits), (torch.zeros(2, 1, 8, 8),)


def _attention() -> Example:
    return _made(AttentionDigits), (torch.zeros(2, 1, 8, 8),)


def _digits_cnn() -> Example:
    return _made(DigitsCnn), (torch.zeros(2, 1, 8, 8),)


def _digits_mlp() -> Example:
    return _made(DigitsMlp), (torch.zeros(2, 1, 8, 8),)


def _made(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


BUILTINS: Mapping[str, Callable[[], Example]] = MappingProxyType(
    {
        "residual": _residual,
        "attention": _attention,
        "digits_cnn": _digits_cnn,
        "digits_mlp": _digits_mlp,
    }
)
"""Factories of the networks that come with netir, by name."""
