"""What an example of an op is: the op, operands that fit it, and how many spaces stay free.

`N` is a symbolic size that is 3 when an example runs. `free` counts the spaces of the operands
and results that the op leaves free when nothing else is known about them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from netir.dims import Dim, evaluate, symbol
from netir.ir import TensorType
from netir.ops import OPS, Op

N = symbol("n")
SIZES: Mapping[str, int] = {"n": 3}


@dataclass(frozen=True)
class Operand:
    """A tensor to be drawn between two bounds; a parameter rather than a value if `param`."""

    shape: tuple[Dim, ...]
    low: float = -2.0
    high: float = 2.0
    dtype: torch.dtype = torch.float64
    param: bool = False

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, self.shape)

    def draw(self) -> Tensor:
        shape = [evaluate(size, SIZES) for size in self.shape]
        if self.dtype.is_floating_point:
            return torch.empty(shape, dtype=self.dtype).uniform_(self.low, self.high)
        return torch.randint(int(self.low), int(self.high), shape).to(self.dtype)


@dataclass(frozen=True)
class Example:
    """One op with operands."""

    free: int
    op: Op
    operands: tuple[Operand | None, ...]

    def types(self) -> list[TensorType | None]:
        return [None if o is None else o.type for o in self.operands]

    def draw(self) -> list[Tensor | None]:
        return [None if o is None else o.draw() for o in self.operands]


def x(*shape: Dim, low: float = -2.0, high: float = 2.0) -> Operand:
    """A value."""
    return Operand(shape, low, high)


def p(*shape: Dim, low: float = 0.2, high: float = 1.2) -> Operand:
    """A parameter."""
    return Operand(shape, low, high, param=True)


def places(*shape: Dim, below: int) -> Operand:
    """Whole numbers that name indices."""
    return Operand(shape, 0, below, torch.int64)


def flags(*shape: Dim) -> Operand:
    """A boolean value."""
    return Operand(shape, 0, 2, torch.bool)


def at(free: int, name: str, *operands: Operand | None, **attributes: Any) -> Example:
    """An example of the op called `name`."""
    return Example(free, OPS[name](**attributes), operands)
