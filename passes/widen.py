"""Widen: more channels, the same function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from netir.basis import Basis, Contract, replicate
from netir.errors import NetirError
from netir.ir import Graph
from netir.spaces import Space
from netir.width import WidthPass, expect_width

Split = Literal["equal", "uneven"]
Order = Literal["cycle", "random"]
_APART = 0.2
"""How far from equal the shares of copies may be: two copies take 0.5 ± 0.1."""


@dataclass(frozen=True)
class Widen(WidthPass):
    """Grow spaces, keeping the function (Net2Net: Chen, Goodfellow, Shlens 2016).

    The new width is `factor` times the old one (2 if nothing is said), `count` more, or `to`; with
    `multiple` it is rounded up to a multiple of that. The first channels are the old ones; further
    ones copy old ones in turn (`order="cycle"`) or drawn by chance ("random"). Whatever sums over a
    copied channel shares its weight out among the copies: equally, or with `split="uneven"` in
    unequal shares that sum to 1. Copies with equal shares get equal gradients and stay equal for
    ever; unequal ones part in training.

    A space that a normalisation reads grows by whole factors only, since there every channel
    needs equally many copies; others are left, with the reason. `seed` matters to what is drawn.
    """

    name: ClassVar[str] = "widen"
    preserves: ClassVar[Contract] = Contract.EXACT
    factor: float | None = None
    count: int | None = None
    to: int | None = None
    multiple: int = 1
    split: Split = "equal"
    order: Order = "cycle"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor is not None and not 1 <= self.factor < float("inf"):
            raise NetirError(f"widen cannot use factor {self.factor}", fix="use a number from 1 up")
        if [self.factor, self.count, self.to].count(None) < 2:
            raise NetirError(
                f"{self} has more than one width", fix="give one of factor, count and to"
            )
        for option in ("count", "to", "multiple"):
            value = getattr(self, option)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise NetirError(f"widen cannot use {option} {value}", fix="use 1, 2, 3 and so on")
        for option, value, kind in (("split", self.split, Split), ("order", self.order, Order)):
            if value not in get_args(kind):
                known = " or ".join(get_args(kind))
                raise NetirError(f"widen has no {option} '{value}'", fix=known)

    def basis(self, graph: Graph, space: Space) -> Basis | str:
        width = self._width(space.size)
        if width == space.size:
            return f"its width is {width} already"
        if width < space.size:
            return f"its width {space.size} is more than {width}"
        expect_width(graph, space, width)
        generator = torch.Generator().manual_seed(self.seed)
        index = torch.arange(width) % space.size
        if self.order == "random":
            index = _drawn(space, width, generator)
        return replicate(index, _uneven(index, generator) if self.split == "uneven" else None)

    def _width(self, size: int) -> int:
        """The width that a space of this size gets."""
        wanted = round(min(size * (self.factor or 2), 1e30))
        if self.count is not None:
            wanted = size + self.count
        elif self.to is not None:
            wanted = self.to
        return -(-wanted // self.multiple) * self.multiple


def _drawn(space: Space, width: int, generator: torch.Generator) -> Tensor:
    """The old indices, then drawn ones: each as often as any other where a norm needs that."""
    old, new = torch.arange(space.size), width - space.size
    if space.uniform and new % space.size == 0:
        rounds = [torch.randperm(space.size, generator=generator) for _ in range(new // len(old))]
        return torch.cat([old, *rounds])
    return torch.cat([old, torch.randint(space.size, (new,), generator=generator)])


def _uneven(index: Tensor, generator: torch.Generator) -> Tensor:
    """Positive shares that sum to 1 over the copies of each index."""
    drawn = torch.rand(len(index), generator=generator, dtype=torch.float64)
    weight = 1 + _APART * (2 * drawn - 1)
    total = torch.zeros(int(index.max()) + 1, dtype=torch.float64).index_add_(0, index, weight)
    return weight / total[index]
