"""The CIFAR-10 part that some benches train on, and a small residual network for it.

`DIR/cifar10-20k.zip` holds `train/<class>/*.jpg` and `test/<class>/*.jpg`. Accuracies are
comparable among themselves, not with published ones: there are 20,000 images to train on.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


@dataclass(frozen=True)
class Pictures:
    """Images, normalised, and their classes."""

    images: Tensor
    classes: Tensor

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled batches, moved by up to four pixels and flipped at random."""
        for chunk in torch.randperm(len(self.images), generator=generator).split(size):
            x = F.pad(self.images[chunk], (4, 4, 4, 4))
            top, left = torch.randint(9, (2,), generator=generator).tolist()
            x = x[:, :, top : top + 32, left : left + 32]
            flip = torch.rand(len(chunk), generator=generator) < 0.5
            yield torch.where(flip[:, None, None, None], x.flip(3), x), self.classes[chunk]


def load(folder: Path, part: str, limit: int | None = None) -> Pictures:
    """A part of the data, `train` or `test`; `limit` images of each class."""
    images, classes = [], []
    with zipfile.ZipFile(folder / "cifar10-20k.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.startswith(part) and n.endswith(".jpg"))
        kinds = sorted({n.split("/")[1] for n in names})
        for number, kind in enumerate(kinds):
            for name in [n for n in names if n.split("/")[1] == kind][:limit]:
                images.append(np.asarray(Image.open(BytesIO(archive.read(name))).convert("RGB")))
                classes.append(number)
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(255)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
    return Pictures(((x - mean) / deviation).contiguous(), torch.tensor(classes))


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, read: int, made: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(read, made, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(made)
        self.conv2 = nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(made)
        self.short = nn.Sequential()
        if stride > 1 or read != made:
            self.short = nn.Sequential(
                nn.Conv2d(read, made, 1, stride, bias=False), nn.BatchNorm2d(made)
            )

    def forward(self, x: Tensor) -> Tensor:
        found = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (found + self.short(x)).relu()


class SmallResNet(nn.Module):
    """Three stages of residual blocks for images of 32 pixels."""

    def __init__(self, width: int = 16, blocks: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages, read = [], width
        for stage in range(3):
            for block in range(blocks):
                made = width << stage
                stages.append(Block(read, made, 2 if stage and not block else 1))
                read = made
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(read, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.head(self.stages(x).mean((2, 3)))


def train(
    model: nn.Module, data: Pictures, epochs: int, rate: float, seed: int = 0, batch: int = 128
) -> nn.Module:
    """SGD with momentum, one cycle of the learning rate, labels smoothed."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = epochs * -(-len(data.images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.2)
    model.train()
    for _ in range(epochs):
        for x, y in data.batches(batch, generator):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y, label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model: nn.Module, data: Pictures) -> float:
    """The share of images that are put into their class, in per cent."""
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(x).argmax(1) == y).sum())
            for x, y in zip(data.images.split(500), data.classes.split(500), strict=True)
        )
    return 100 * right / len(data.images)
