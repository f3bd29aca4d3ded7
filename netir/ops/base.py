"""What an op is: one frozen dataclass that tells all there is to know about an operation.

Fields are its attributes. `axes` (or `layouts`) is its axis rule, `infer` its shape rule, `macs`
its cost, `to_torch` what it computes, `aten` the torch operators that it stands for. No op knows
a pass, and no walker knows an op.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from netir.dims import Dim, product, same
from netir.errors import NetirError, expect
from netir.ir import TensorType
from netir.layouts import size_of

if TYPE_CHECKING:
    from netir.layouts import Layout
    from netir.lower.tape import OnnxValue, Tape
    from netir.site import Site

Types = TensorType | tuple[TensorType, ...]


class NoLowering(NetirError):
    """An op, or a form of it, that a target cannot express."""


@dataclass
class AtenCall:
    """A call of a torch operator, as a frontend met it.

    `options` are the arguments that are not tensors, by the operator's own names and without
    those that have their default value. `operands` may be changed in place.
    """

    target: str
    operands: list[str | None]
    types: list[TensorType]
    options: dict[str, Any]
    results: tuple[TensorType, ...]

    @property
    def base(self) -> str:
        """The operator's name without overload, and without the mark of a write in place."""
        return self.target.partition(".")[0].rstrip("_")

    def axis(self, name: str = "dim", default: int = 0) -> int:
        """Take the option that names an axis of the first operand, counted from its front."""
        dim: int = self.options.pop(name, default)
        return dim % max(self.types[0].rank, 1)


@dataclass(frozen=True)
class Op:
    """An operation on tensors, with its attributes as fields."""

    name: ClassVar[str]
    aten: ClassVar[tuple[str, ...]] = ()
    """Torch operators that it stands for, as `add.Tensor`, which includes `add_.Tensor`."""
    custom: ClassVar[str] = ""
    """The operator of netir's own that stands for it, where it comes from a layer of netir."""
    letters: ClassVar[Mapping[str, str]] = {}
    """Letters of the axis rule whose size is an attribute, which follows when they change."""
    fills: ClassVar[Mapping[int, float]] = {}
    """What new entries of an operand start with, where that is not 0."""
    bends: ClassVar[frozenset[int]] = frozenset()
    """The operands in which it is not linear, of an op that is in others."""
    several: ClassVar[bool] = False
    """Whether `to_torch` gives a tuple even where there is one result."""
    ties: ClassVar[bool] = False
    """Whether it tells places that are not defined where values are equal."""
    overwritable: ClassVar[bool] = False
    """Whether its only reader may write over its result: always new memory, which no gradient of
    the op reads."""
    placed: ClassVar[bool] = False
    """Whether it makes a tensor out of numbers, and `to_torch` is told `device` and `dtype`."""

    onnx: ClassVar[str] = ""
    """The ONNX operator that does the same to the same operands, if it needs no attributes."""
    numeric: ClassVar[bool] = False
    """Whether `to_onnx` computes with the numbers of all operands but the first."""

    modal: ClassVar[bool] = False
    """Whether `to_torch` may be told `training`; without it, it means eval mode."""

    @property
    def axes(self) -> str:
        """The axis rule; an op without one freezes what it touches."""
        return ""

    def layouts(self, site: Site) -> list[tuple[Layout, ...]]:
        """Tell the layouts of the results, and unify what must agree."""
        if not self.axes:
            return self.wall(site, "its axes are not known")
        return site.apply(self.axes, self.letters)

    def wall(self, site: Site, why: str) -> list[tuple[Layout, ...]]:
        """Freeze every axis of every operand; the results are extents."""
        for position, operand in enumerate(site.node.operands):
            if operand is not None:
                for layout in site.shape(position):
                    site.freeze(layout, why)
        return [site.extents(i) for i in range(len(site.node.types))]

    def along(self, site: Site, dims: Iterable[int], why: str) -> list[tuple[Layout, ...]]:
        """Freeze the axes `dims` of the first operand; every result carries the others.

        A result of lower rank is without `dims`; where one changes in size, it is an extent.
        """
        shape, gone = site.shape(0), set(dims)
        for dim in gone:
            site.freeze(shape[dim], why)
        found = []
        for kind in site.node.types:
            if kind.rank < len(shape):
                found.append(tuple(s for i, s in enumerate(shape) if i not in gone))
                continue
            found.append(tuple(
                layout if axis not in gone or same(size, size_of(layout)) else site.extent(size)
                for axis, (layout, size) in enumerate(zip(shape, kind.shape, strict=True))
            ))  # fmt: skip
        return found

    def linear(self) -> bool:
        """Whether it commutes with any linear map on an axis that it carries."""
        return False

    def infer(self, *operands: Any) -> Types | None:
        """The types of the results; None for an op that only torch knows."""
        return None

    def macs(self, out: TensorType, *operands: Any) -> Dim:
        """Multiply-accumulates, counted as is usual: for products of matrices only."""
        return 0

    def to_torch(self, *operands: Any, **settings: Any) -> Any:
        """Compute the results; operands are tensors, or anything that torch functions take.

        The settings there are: `device` and `dtype` for an op that is `placed`, `training` for
        one that is `modal`.
        """
        raise NotImplementedError

    def to_onnx(self, g: Tape, *operands: Any) -> OnnxValue | tuple[OnnxValue, ...]:
        """Write it on a tape, as in eval mode; operands are `OnnxValue`, or None if left out.

        A result of another element type than `infer` says is cast to it.
        """
        if not self.onnx:
            raise NoLowering(f"ONNX has no counterpart of '{self.name}'")
        kind = g.types[0]
        return g.op(self.onnx, operands, dtype=kind.dtype, shape=kind.shape)  # type: ignore[no-any-return]

    def to_module(self) -> nn.Module | None:
        """A module that does it, for an op that behaves differently in train mode."""
        return None

    def left_open(self, *operands: Any) -> Op:
        """The op with sizes that torch finds by itself left to it, as -1."""
        return self

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        """The op for a call of a torch operator, or None where it cannot tell.

        An op whose fields bear the names of the operator's arguments needs no more than this.
        """
        known = {f.name for f in fields(cls)}
        return cls(**call.options) if call.options.keys() <= known else None


def broadcast(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The shape that elementwise operands have together."""
    rank = max(map(len, shapes))
    found: list[Dim] = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            if found[axis] == 1:
                found[axis] = size
            elif size != 1 and not same(size, found[axis]):
                raise NetirError(f"shapes {_text(shapes)} do not broadcast")
    return tuple(found)


def promote(*types: TensorType) -> torch.dtype:
    """The element type of an elementwise result."""
    if len({t.dtype for t in types}) == 1:
        return types[0].dtype
    return _promote(tuple((t.dtype, bool(t.shape)) for t in types))


@lru_cache(maxsize=1024)
def _promote(kinds: tuple[tuple[torch.dtype, bool], ...]) -> torch.dtype:
    tensors = [torch.empty((1,) if ranked else (), dtype=d, device="meta") for d, ranked in kinds]
    found = tensors[0]
    for tensor in tensors[1:]:
        found = found + tensor if found.dtype != torch.bool else found | tensor
    return found.dtype


def _text(shapes: tuple[tuple[Dim, ...], ...]) -> str:
    return " and ".join(f"({', '.join(map(str, s))})" for s in shapes)


def per_axis(value: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
    """An attribute that torch lets one write once for all spatial axes."""
    if isinstance(value, int):
        return (value,) * rank
    return tuple(value) * rank if len(value) == 1 else tuple(value)


__all__ = [
    "AtenCall",
    "Dim",
    "NoLowering",
    "Op",
    "Tensor",
    "TensorType",
    "Types",
    "broadcast",
    "expect",
    "per_axis",
    "product",
    "promote",
]
