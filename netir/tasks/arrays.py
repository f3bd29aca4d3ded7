"""A task of arrays in a file: a table, signals, tokens, anything with numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from netir.checked import Data
from netir.data import Arrays, Change
from netir.task import Task
from netir.tasks.files import existing, four_arrays, parts_of
from netir.tasks.levels import floats, levels
from netir.tasks.split import sound_share, split


@dataclass(frozen=True)
class ArrayFile(Task):
    """Arrays x_train, y_train, x_test and y_test of a .npz or .safetensors file, or of a folder
    with a .npy file for each.

    Without x_test and y_test, `test_share` of the examples are chosen by the seed. Whole numbers of
    one byte are pixels, and become numbers from 0 to 1. `normalise` subtracts from every feature
    its mean over the training examples and divides by its deviation.
    """

    name: ClassVar[str] = "arrays"
    path: str
    test_share: float = field(default=0.2, kw_only=True)
    normalise: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        sound_share(self.test_share, self.name)

    def read(self) -> Data:
        """The arrays, split where the file does not split them."""
        path = existing(self.path, self.name)
        tensors = four_arrays(path, test_needed=False)
        (x, y), *test = parts_of(tensors, str(path))
        if not test:
            first, second = split(y, self.test_share, self.seed, self.name)
            test = [(x[second], y[second])]
            x, y = x[first], y[first]
        change = _features(x, self.normalise)
        return Data(Arrays(x, y, change), Arrays(*test[0], change))


def _features(inputs: Tensor, normalise: bool) -> Change:
    """Numbers as a network takes them: whole ones of more than a byte stay as they are."""
    if not inputs.is_floating_point() and inputs.dtype not in (torch.uint8, torch.bool):
        return lambda found, generator: found.long()
    mean, deviation = levels(inputs, (0,)) if normalise else (torch.zeros(()), torch.ones(()))
    return lambda found, generator: (floats(found) - mean) / deviation


__all__ = ["ArrayFile"]
