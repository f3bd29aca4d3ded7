"""Widen: more channels, the same function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from netir.basis import Basis, Contract, replicate
from netir.errors import NetirError
from netir.ir import Graph
from netir.spaces import Space
from netir.width import WidthPass


@dataclass(frozen=True)
class Widen(WidthPass):
    """Grow spaces by `factor`, keeping the function (Net2Net: Chen, Goodfellow, Shlens 2016).

    New channels copy old ones in turn; whatever sums over a copied channel has its weight
    divided by the number of copies. A space that a normalisation reads grows by whole factors
    only, since there every channel needs equally many copies; others are left, with the reason.
    """

    name: ClassVar[str] = "widen"
    preserves: ClassVar[Contract] = Contract.EXACT
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.factor < float("inf"):
            raise NetirError(f"widen cannot use factor {self.factor}", fix="use a number from 1 up")

    def basis(self, graph: Graph, space: Space) -> Basis | str:
        width = round(space.size * self.factor)
        if width == space.size:
            return f"{self.factor} times {space.size} is {width}"
        return replicate(torch.arange(width) % space.size)
