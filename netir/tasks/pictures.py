"""What tasks of pictures have in common: they are normalised, and moved a little at random."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from netir.checked import Data
from netir.data import Arrays
from netir.errors import NetirError
from netir.task import Task
from netir.tasks.files import parts_of
from netir.tasks.levels import floats, levels


@dataclass(frozen=True)
class Pictures(Task):
    """A task of pictures and their classes.

    `normalise` subtracts the mean of each colour of the training pictures and divides by its
    deviation. While training, pictures are moved by up to `shift` pixels and, with `flip`, every
    second one is mirrored.
    """

    normalise: bool = field(default=True, kw_only=True)
    shift: int = field(default=0, kw_only=True)
    flip: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shift < 0:
            raise NetirError(f"shift={self.shift}", self.name, "give a number of pixels, or 0")

    def prepared(self, tensors: list[Tensor], where: str, classes: int | None = None) -> Data:
        """Pictures and labels to train on, and to test on, to be changed batch by batch."""
        (images, labels), (others, theirs) = parts_of(tensors, where)
        images, others = colours_first(images, where), colours_first(others, where)
        mean, deviation = torch.zeros(1), torch.ones(1)
        if self.normalise:
            mean, deviation = levels(images, (0, 2, 3))
        mean, deviation = mean.view(-1, 1, 1), deviation.view(-1, 1, 1)
        shift = min(self.shift, *images.shape[-2:])

        def change(found: Any, generator: torch.Generator | None) -> Tensor:
            found = (floats(found) - mean) / deviation
            return found if generator is None else _moved(found, shift, self.flip, generator)

        return Data(Arrays(images, labels, change), Arrays(others, theirs, change), classes)


def colours_first(images: Tensor, where: str) -> Tensor:
    """Pictures as examples × colours × height × width."""
    if images.dim() == 3:
        return images.unsqueeze(1)
    if images.dim() != 4:
        raise NetirError(
            f"the pictures have {images.dim()} axes", where,
            "give examples × height × width, with or without colours",
        )  # fmt: skip
    last = images.shape[1] not in (1, 3, 4) and images.shape[3] in (1, 3, 4)
    return images.permute(0, 3, 1, 2).contiguous() if last else images


def _moved(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each picture moved by its own way, and some mirrored."""
    count, _, height, width = images.shape
    if shift:
        down, right = torch.randint(2 * shift + 1, (2, count, 1), generator=generator)
        rows, columns = down + torch.arange(height), right + torch.arange(width)
        wide = F.pad(images, (shift,) * 4)
        each = torch.arange(count)[:, None, None]
        images = wide.movedim(1, -1)[each, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    if flip:
        chosen = torch.rand(count, generator=generator) < 0.5
        images = torch.where(chosen.view(-1, 1, 1, 1), images.flip(-1), images)
    return images.contiguous()


__all__ = ["Pictures"]
