"""Ops that read or write at places that other operands name: index, gather, scatter, one-hot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from netir.dims import same
from netir.layouts import Layout, size_of
from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, broadcast, expect

PICKED = "its indices are picked by position"
WRITTEN = "parts of it are written by position"


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
        return [_indexed(x, made, picked)]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType, *indices: TensorType | None) -> TensorType:
        given = {axis: i for axis, i in enumerate(indices) if i is not None}
        integral = all(i.dtype in (torch.int64, torch.int32) for i in given.values())
        expect(given and integral, "only tensors of whole numbers can index")
        made = broadcast(*(i.shape for i in given.values()))
        return x.with_shape(_indexed(x.shape, made, list(given)))

    def to_torch(self, x: Tensor, *indices: Tensor | None) -> Tensor:
        return x[tuple(slice(None) if i is None else i for i in indices)]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return None if torch.bool in [t.dtype for t in call.types[1:]] else cls()


def _indexed(shape: Any, made: Any, picked: list[int]) -> Any:
    """`shape` with the axes `picked` replaced by the axes `made`: in place if side by side."""
    adjacent = picked == list(range(picked[0], picked[-1] + 1))
    at = picked[0] if adjacent else 0
    rest = [s for axis, s in enumerate(shape) if axis not in picked]
    return (*rest[:at], *made, *rest[at:])


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

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.axis()) if call.types[0].rank else None


def _beside(site: Any, axis: int, positions: tuple[int, ...], why: str) -> None:
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
                _beside(site, axis, (0, 1), "only a part of it is read")
        return [index]

    def infer(self, x: TensorType, index: TensorType) -> TensorType:
        expect(x.rank == index.rank, f"{x} and index {index} differ in rank")
        return x.with_shape(index.shape)

    def to_torch(self, x: Tensor, index: Tensor) -> Tensor:
        return torch.gather(x, self.dim, index)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        call.options.pop("sparse_grad", None)
        return cls(call.axis()) if call.types[0].rank else None


@dataclass(frozen=True)
class Scatter(Op):
    """`x` with values put where `index` names places along `dim`.

    The values are an operand or the number `value`; with `reduce` ("sum", "prod", "mean", "amax",
    "amin") they are combined with each other, and with what is there if `include_self`.
    """

    name = "scatter"
    aten = ("scatter.src", "scatter.value", "scatter_add.default", "scatter_reduce.two")
    dim: int = 0
    value: int | float | bool | None = None
    reduce: str | None = None
    include_self: bool = True

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        positions = tuple(range(len(site.node.operands)))
        for axis in range(len(shape)):
            if axis != self.dim:
                _beside(site, axis, positions, WRITTEN)
            else:
                for position in positions:
                    site.freeze(site.shape(position)[axis], WRITTEN)
        return [shape]

    def infer(self, x: TensorType, index: TensorType, *values: TensorType) -> TensorType:
        expect(x.rank == index.rank, f"{x} and index {index} differ in rank")
        return x

    def to_torch(self, x: Tensor, index: Tensor, *values: Tensor) -> Tensor:
        if self.reduce is None:
            given = values[0] if values else self.value
            return torch.scatter(x, self.dim, index, given)  # type: ignore[arg-type]
        if self.reduce == "sum" and self.include_self:
            return torch.scatter_add(x, self.dim, index, values[0])
        return torch.scatter_reduce(
            x, self.dim, index, values[0], self.reduce, include_self=self.include_self
        )

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        if not all(t.rank for t in call.types):
            return None
        dim = call.axis()
        if call.base == "scatter_add":
            call.options["reduce"] = "sum"
        return cls(dim, **call.options)


@dataclass(frozen=True)
class IndexPut(Op):
    """`x` with values written at `x[i, :, j]`, or added there if `accumulate`.

    Operands: x, the values, then an index for each axis from the first on (None for whole axes);
    a boolean index covers as many axes as it has.
    """

    name = "index_put"
    aten = ("index_put.default",)
    accumulate: bool = False

    def layouts(self, site: Any) -> Any:
        x, values = site.shape(0), site.shape(1)
        axis, covered = 0, []
        for position, operand in enumerate(site.node.operands[2:], 2):
            if operand is None:
                axis += 1
                continue
            for layout in site.shape(position):
                site.freeze(layout, "it says where to write")
            boolean = site.type(position).dtype in (torch.bool, torch.uint8)
            count = len(site.shape(position)) if boolean else 1
            covered += list(range(axis, axis + count))
            axis += count
        for axis in covered:
            site.freeze(x[axis], WRITTEN)
        last = max(covered) + 1
        tail = x[last:] if covered == list(range(last)) else ()
        shared = min(len(tail), len(values))
        pairs = zip(values[len(values) - shared :], tail[len(tail) - shared :], strict=True)
        if not tail:
            self._fixed(site, x, values)
        else:
            for value, layout in pairs:
                if value:
                    site.unify(value, layout)
            for layout in values[: len(values) - shared]:
                site.freeze(layout, "it is written by position")
        return [x]

    def _fixed(self, site: Any, x: Any, values: Any) -> None:
        """Nothing is carried, unless one number is written."""
        for layout in values:
            site.freeze(layout, "it is written by position")
        for layout in x if any(values) else ():
            site.freeze(layout, WRITTEN)

    def infer(self, x: TensorType, *rest: TensorType | None) -> TensorType:
        return x

    def to_torch(self, x: Tensor, values: Tensor, *indices: Tensor | None) -> Tensor:
        put = torch.ops.aten.index_put.default
        return put(x, list(indices), values, self.accumulate)  # type: ignore[no-any-return]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        x, *indices, values = call.operands
        call.operands[:] = [x, values, *indices]
        return cls(**call.options)


@dataclass(frozen=True)
class MaskedScatter(Op):
    """`x` with the values of `y`, in order, put where a mask holds."""

    name = "masked_scatter"
    aten = ("masked_scatter.default",)

    def layouts(self, site: Any) -> Any:
        self.wall(site, "values are put into it one after another")
        return [site.extents()]

    def infer(self, x: TensorType, mask: TensorType, y: TensorType) -> TensorType:
        return x.with_shape(broadcast(x.shape, mask.shape))

    def to_torch(self, x: Tensor, mask: Tensor, y: Tensor) -> Tensor:
        return torch.masked_scatter(x, mask, y)


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

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(**call.options) if call.options.get("num_classes", -1) > 0 else None


@dataclass(frozen=True)
class GridSample(Op):
    """`x` read between its positions, where a grid of coordinates says.

    `mode` is 0 for bilinear, 1 for nearest, 2 for bicubic; `padding` 0 for zeros, 1 for the
    border's value, 2 for reflection.
    """

    name = "grid_sample"
    aten = ("grid_sampler.default", "grid_sampler_2d.default", "grid_sampler_3d.default")
    mode: int = 0
    padding: int = 0
    align_corners: bool = False

    def layouts(self, site: Any) -> Any:
        free = " ".join("_" * (len(site.shape(0)) - 2))
        return site.apply(f"n c {free}, n {free} _ -> n c {free}")

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType, grid: TensorType) -> TensorType:
        expect(same(x.shape[0], grid.shape[0]), f"{x} and grid {grid} differ in batch")
        return x.with_shape((*x.shape[:2], *grid.shape[1:-1]))

    def to_torch(self, x: Tensor, grid: Tensor) -> Tensor:
        return torch.grid_sampler(x, grid, self.mode, self.padding, self.align_corners)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        options = call.options
        mode, padding = options["interpolation_mode"], options["padding_mode"]
        return cls(mode, padding, options["align_corners"])


@dataclass(frozen=True)
class AffineGrid(Op):
    """For every place of a result of `size`, where an affine map takes it; for `grid_sample`."""

    name = "affine_grid"
    aten = ("affine_grid_generator.default",)
    size: tuple[Dim, ...] = ()
    align_corners: bool = False

    def layouts(self, site: Any) -> Any:
        free = " ".join("_" * (len(self.size) - 1))
        (made,) = site.apply(f"n _ _ -> n {free}")
        site.derive("size", (made[0], *[None] * (len(self.size) - 1)))
        return [made]

    def linear(self) -> bool:
        return True

    def infer(self, theta: TensorType) -> TensorType:
        rank = len(self.size) - 2
        expect(theta.shape[1:] == (rank, rank + 1), f"{theta} holds no maps of {rank} dimensions")
        return theta.with_shape((theta.shape[0], *self.size[2:], rank))

    def to_torch(self, theta: Tensor) -> Tensor:
        return torch.affine_grid_generator(theta, self.size, self.align_corners)  # type: ignore[arg-type]
