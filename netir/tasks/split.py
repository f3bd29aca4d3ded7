"""Examples split in two by a seed."""

from __future__ import annotations

import torch
from torch import Tensor

from netir.errors import NetirError
from netir.seeds import seed_of


def split(targets: Tensor, share: float, seed: int, where: str) -> tuple[Tensor, Tensor]:
    """Numbers of the examples to train and to test on; of classes, the same share of each."""
    if len(targets) < 2:
        raise NetirError("one example cannot be split", where, "give more")
    order = torch.randperm(
        len(targets), generator=torch.Generator().manual_seed(seed_of(seed, "split"))
    )
    classes = not targets.is_floating_point() and targets.dim() == 1
    groups = [order[targets[order] == c] for c in targets.unique()] if classes else [order]
    train, test = [], []
    for members in groups:
        count = min(max(1, round(share * len(members))), len(members) - 1)
        test.append(members[:count])
        train.append(members[count:])
    return torch.cat(train).sort().values, torch.cat(test).sort().values


def sound_share(share: float, where: str) -> None:
    """Refuse what is no share to test on."""
    if not 0 < share < 1:
        raise NetirError(f"test_share={share}", where, "give a share between 0 and 1")


__all__ = ["sound_share", "split"]
