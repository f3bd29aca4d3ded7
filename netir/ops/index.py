"""Ops that read at places that other operands name: index, gather, one-hot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from netir.dims import Dim, same
from netir.layouts import Layout, size_of
from netir.ops.base import AtenCall, Op, Tensor, TensorType, broadcast, expect

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape

PICKED = "its indices are picked by position"


def _joint(site: Any, shapes: list[tuple[Layout, ...]]) -> list[Layout]:
    """The layouts of operands that broadcast against each other."""
    out: list[Layout] = [()] * max(map(len, shapes))
    for shape in shapes:
        for axis, layout in enumerate(shape, len(out) - len(shape)):
            if not out[axis]:
                out[axis] = layout
            elif layout:
                site.unify(out[axis], layout)
    return out


@dataclass(frozen=True)
class Index(Op):
    """`x[i, :, j]`: index tensors for some axes (None for the rest), broadcast together."""

    name = "index"
    aten = ("index.Tensor",)

    def layouts(self, site: Any) -> Any:
        x, operands = site.shape(0), site.node.operands[1:]
        picked = [axis for axis, operand in enumerate(operands) if operand is not None]
        for axis in picked:
            site.freeze(x[axis], PICKED)
        made = _joint(site, [site.shape(axis + 1) for axis in picked])
        return [indexed(x, made, picked)]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType, *indices: TensorType | None) -> TensorType:
        given = {axis: i for axis, i in enumerate(indices) if i is not None}
        integral = all(i.dtype in (torch.int64, torch.int32) for i in given.values())
        expect(given and integral, "only tensors of whole numbers can index")
        made = broadcast(*(i.shape for i in given.values()))
        return x.with_shape(indexed(x.shape, made, list(given)))

    def to_torch(self, x: Tensor, *indices: Tensor | None) -> Tensor:
        return x[tuple(slice(None) if i is None else i for i in indices)]

    def to_onnx(self, g: Tape, x: OnnxValue, *indices: OnnxValue | None) -> OnnxValue:
        given = {axis: i for axis, i in enumerate(indices) if i is not None}
        if len(given) == 1:
            ((axis, index),) = given.items()
            return g.gather(x, index, axis)
        made = broadcast(*(i.shape for i in given.values()))
        found = g.op("GatherND", [fronted(g, x, list(given)), joined(g, given.values(), made)])
        at, rank = place(list(given)), len(made)
        rest = range(rank, rank + x.rank - len(given))
        return g.transpose(found, [*rest[:at], *range(rank), *rest[at:]])

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return None if torch.bool in [t.dtype for t in call.types[1:]] else cls()


def indexed(shape: Any, made: Any, picked: list[int]) -> Any:
    """`shape` with the axes `picked` replaced by the axes `made`."""
    at = place(picked)
    rest = [s for axis, s in enumerate(shape) if axis not in picked]
    return (*rest[:at], *made, *rest[at:])


def place(picked: list[int]) -> int:
    """Where the axes that indices make go: where the picked ones were if side by side."""
    return picked[0] if picked == list(range(picked[0], picked[-1] + 1)) else 0


def fronted(g: Tape, x: OnnxValue, axes: list[int]) -> OnnxValue:
    """`x` with some axes moved to its front."""
    return g.transpose(x, [*axes, *(i for i in range(x.rank) if i not in axes)])


def joined(g: Tape, indices: Iterable[OnnxValue], shape: tuple[Dim, ...]) -> OnnxValue:
    """Indices of this shape together, with a last axis that runs over them."""
    each = (g.expand(g.cast(i, torch.int64), shape) for i in indices)
    return g.concat([g.unsqueeze(i, [len(shape)]) for i in each], -1)


@dataclass(frozen=True)
class IndexSelect(Op):
    """The indices along `dim` that a vector names."""

    name = "index_select"
    aten = ("index_select.default",)
    dim: int = 0

    def layouts(self, site: Any) -> Any:
        shape, index = site.shape(0), site.shape(1)
        site.freeze(shape[self.dim], PICKED)
        return [(*shape[: self.dim], index[0] if index else (), *shape[self.dim + 1 :])]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType, index: TensorType) -> TensorType:
        count = index.shape[0] if index.shape else 1
        return x.with_shape((*x.shape[: self.dim], count, *x.shape[self.dim + 1 :]))

    def to_torch(self, x: Tensor, index: Tensor) -> Tensor:
        return torch.index_select(x, self.dim, index)

    def to_onnx(self, g: Tape, x: OnnxValue, index: OnnxValue) -> OnnxValue:
        return g.gather(x, index if index.rank else g.unsqueeze(index, [0]), self.dim)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.axis()) if call.types[0].rank else None


def beside(site: Any, axis: int, positions: tuple[int, ...], why: str) -> None:
    """One axis of several operands, which is carried where all have it whole, else frozen."""
    layouts = [site.shape(position)[axis] for position in positions]
    for layout in layouts[1:]:
        if same(size_of(layout), size_of(layouts[0])):
            site.unify(layouts[0], layout)
        else:
            for each in layouts:
                site.freeze(each, why)


@dataclass(frozen=True)
class Gather(Op):
    """For every place of `index`, the value of `x` that it names along `dim`."""

    name = "gather"
    aten = ("gather.default",)
    dim: int = 0

    def layouts(self, site: Any) -> Any:
        shape, index = site.shape(0), site.shape(1)
        for axis in range(len(shape)):
            if axis == self.dim:
                site.freeze(shape[axis], PICKED)
            else:
                beside(site, axis, (0, 1), "only a part of it is read")
        return [index]

    def infer(self, x: TensorType, index: TensorType) -> TensorType:
        expect(x.rank == index.rank, f"{x} and index {index} differ in rank")
        return x.with_shape(index.shape)

    def to_torch(self, x: Tensor, index: Tensor) -> Tensor:
        return torch.gather(x, self.dim, index)

    def to_onnx(self, g: Tape, x: OnnxValue, index: OnnxValue) -> OnnxValue:
        return g.op("GatherElements", [x, index], {"axis": self.dim})  # type: ignore[no-any-return]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        call.options.pop("sparse_grad", None)
        return cls(call.axis()) if call.types[0].rank else None


@dataclass(frozen=True)
class OneHot(Op):
    """A last axis of `num_classes` that is 1 at the index and 0 elsewhere."""

    name = "one_hot"
    aten = ("one_hot.default",)
    num_classes: int = 1

    def layouts(self, site: Any) -> Any:
        return [(*site.shape(0), site.extent(self.num_classes))]

    def infer(self, index: TensorType) -> TensorType:
        return TensorType(torch.int64, (*index.shape, self.num_classes))

    def to_torch(self, index: Tensor) -> Tensor:
        return F.one_hot(index, self.num_classes)

    def to_onnx(self, g: Tape, index: OnnxValue) -> OnnxValue:
        depth, values = g.size(self.num_classes), g.constant([0, 1])
        line = index if index.rank else g.unsqueeze(index, [0])
        found = g.op("OneHot", [line, depth, values])
        return found if index.rank else g.squeeze(found, [0])

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(**call.options) if call.options.get("num_classes", -1) > 0 else None
