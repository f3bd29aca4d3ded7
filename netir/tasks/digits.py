"""The digits that come with scikit-learn: 1,797 pictures of 8×8 pixels in ten classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from netir.checked import Data
from netir.tasks.pictures import Pictures
from netir.tasks.split import sound_share, split


@dataclass(frozen=True)
class Digits(Pictures):
    """Handwritten digits, 8×8 pixels, embedded in scikit-learn: needs no file.

    `test_share` of them, chosen by the seed, are there to test on.
    """

    name: ClassVar[str] = "digits"
    test_share: float = field(default=0.2, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        sound_share(self.test_share, self.name)

    def read(self) -> Data:
        """All pictures, split by the seed."""
        from sklearn.datasets import load_digits

        found = load_digits()
        images = torch.from_numpy(found.images).float().div_(16).unsqueeze(1)
        labels = torch.from_numpy(found.target).long()
        train, test = split(labels, self.test_share, self.seed, self.name)
        tensors = [images[train], labels[train], images[test], labels[test]]
        return self.prepared(tensors, self.name, 10)


__all__ = ["Digits"]
