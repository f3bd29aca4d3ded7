"""Ops that write at places that other operands name: scatter, index put, masked scatter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from netir.dims import Dim, same
from netir.ops.base import (
    AtenCall,
    NoLowering,
    Op,
    Tensor,
    TensorType,
    broadcast,
    expect,
    product,
)
from netir.ops.index import beside, fronted, indexed, joined, place

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape

WRITTEN = "parts of it are written by position"


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
                beside(site, axis, positions, WRITTEN)
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

    def to_onnx(
        self, g: Tape, x: OnnxValue, index: OnnxValue, *values: OnnxValue
    ) -> OnnxValue:
        if self.reduce is None:
            given = values[0] if values else g.filled(index.shape, self.value, x.dtype)
            return self._written(g, x, index, given)
        x, given = _wide(g, x), _wide(g, g.cast(values[0], x.dtype))
        if not self.include_self:
            neutral = _neutral(self.reduce, x.dtype)
            x = self._written(g, x, index, g.filled(index.shape, neutral, x.dtype))
        found = self._written(g, x, index, given, _REDUCTIONS[self.reduce])
        return self._mean(g, found, index) if self.reduce == "mean" else found

    def _written(
        self, g: Tape, x: OnnxValue, index: OnnxValue, given: OnnxValue, reduction: str = "none"
    ) -> OnnxValue:
        values = g.cast(_corner(g, given, index.shape), x.dtype)
        attributes = {"axis": self.dim, "reduction": reduction}
        return g.op("ScatterElements", [x, index, values], attributes, shape=x.shape)  # type: ignore[no-any-return]

    def _mean(self, g: Tape, total: OnnxValue, index: OnnxValue) -> OnnxValue:
        """Sums divided by how much was added up at each place."""
        one = g.filled(index.shape, 1, total.dtype)
        count = g.filled(total.shape, int(self.include_self), total.dtype)
        count = self._written(g, count, index, one, "add")
        count = count if self.include_self else g.binary("Max", count, 1)
        if not total.dtype.is_floating_point:  # rounded down, where ONNX rounds towards zero
            total = g.binary("Sub", total, g.binary("Mod", total, count))
        return g.binary("Div", total, count)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        if not all(t.rank for t in call.types):
            return None
        dim = call.axis()
        if call.base == "scatter_add":
            call.options["reduce"] = "sum"
        return cls(dim, **call.options)


_REDUCTIONS = {"sum": "add", "mean": "add", "prod": "mul", "amax": "max", "amin": "min"}


def _neutral(reduce: str, dtype: torch.dtype) -> int | float:
    """What changes nothing when it is combined."""
    if reduce not in ("amax", "amin"):
        return int(reduce == "prod")
    if dtype.is_floating_point:
        return float("-inf" if reduce == "amax" else "inf")
    info = torch.iinfo(dtype)
    return info.min if reduce == "amax" else info.max


def _wide(g: Tape, x: OnnxValue) -> OnnxValue:
    """`x` in an element type in which ONNX Runtime combines what is scattered."""
    half = x.dtype in (torch.float16, torch.bfloat16)
    return g.cast(x, torch.float32) if half else g.computable(x)


def _corner(g: Tape, x: OnnxValue, shape: tuple[Dim, ...]) -> OnnxValue:
    """The first indices of every axis, up to this shape."""
    axes = [i for i, (a, b) in enumerate(zip(x.shape, shape, strict=True)) if not same(a, b)]
    if not axes:
        return x
    ends = [shape[i] for i in axes]
    return g.op("Slice", [x, (0,) * len(axes), ends, axes], shape=shape)  # type: ignore[no-any-return]


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

    def to_onnx(
        self, g: Tape, x: OnnxValue, values: OnnxValue, *indices: OnnxValue | None
    ) -> OnnxValue:
        given = {axis: i for axis, i in enumerate(indices) if i is not None}
        values = g.cast(values, x.dtype)
        masks = [i for i in given.values() if i.dtype in (torch.bool, torch.uint8)]
        if not masks:
            return self._at(g, x, values, given)
        if len(given) > 1:
            raise NoLowering("ONNX cannot write where a mask and another index meet")
        ((axis, mask),) = given.items()
        mask = g.cast(mask, torch.bool)
        tail = x.rank - axis - mask.rank
        if values.rank <= tail or values.shape[-tail - 1] == 1:
            return self._under(g, x, values, mask, tail)
        return self._behind(g, x, values, mask, axis)

    def _at(
        self, g: Tape, x: OnnxValue, values: OnnxValue, given: dict[int, OnnxValue]
    ) -> OnnxValue:
        """Values at places that tensors of whole numbers name."""
        axes = list(given)
        made = broadcast(*(i.shape for i in given.values()))
        values = g.expand(values, indexed(x.shape, made, axes))
        first = [*range(place(axes), place(axes) + len(made))]
        return self._put(g, x, fronted(g, values, first), axes, joined(g, given.values(), made))

    def _under(
        self, g: Tape, x: OnnxValue, values: OnnxValue, mask: OnnxValue, tail: int
    ) -> OnnxValue:
        """Values that are the same wherever the mask holds; `tail` axes of `x` follow it."""
        if values.rank > tail:
            lead = values.rank - tail
            values = g.unsqueeze(values, range(lead, lead + mask.rank - 1))
        mask = g.unsqueeze(mask, range(mask.rank, mask.rank + tail))
        old, new = g.computable(x), g.computable(values)
        return g.where(mask, g.binary("Add", old, new) if self.accumulate else new, old)

    def _behind(
        self, g: Tape, x: OnnxValue, values: OnnxValue, mask: OnnxValue, axis: int
    ) -> OnnxValue:
        """One value after the other wherever the mask holds."""
        covered = list(range(axis, axis + mask.rank))
        rest = [size for i, size in enumerate(x.shape) if i not in covered]
        values = fronted(g, g.unsqueeze(values, range(len(rest) + 1 - values.rank)), [axis])
        if list(values.shape[1:]) != rest:
            values = g.op("Expand", [values, (1, *rest)])
        places = g.transpose(g.op("NonZero", [mask]), [1, 0])
        return self._put(g, x, values, covered, places)

    def _put(
        self, g: Tape, x: OnnxValue, values: OnnxValue, axes: list[int], places: OnnxValue
    ) -> OnnxValue:
        """Write values at places on some axes of `x`; the places' axes are the values' first."""
        order = [*axes, *(i for i in range(x.rank) if i not in axes)]
        x, values = (_wide(g, x), _wide(g, values)) if self.accumulate else (x, values)
        attributes = {"reduction": "add" if self.accumulate else "none"}
        found = g.op("ScatterND", [g.transpose(x, order), places, values], attributes)
        return g.transpose(found, [order.index(i) for i in range(x.rank)])

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

    def to_onnx(self, g: Tape, x: OnnxValue, mask: OnnxValue, y: OnnxValue) -> OnnxValue:
        shape = g.types[0].shape
        mask = g.expand(mask, shape)
        held = g.reshape(g.cast(mask, torch.int64), (product(shape),))
        order = g.binary("Sub", g.op("CumSum", [held, g.constant(0)]), 1)
        drawn = g.reshape(g.gather(g.reshape(y, (product(y.shape),)), order, 0), shape)
        return g.where(mask, g.computable(drawn), g.computable(x))
