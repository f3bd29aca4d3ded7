"""Ops that shift, mirror, pad or blank positions: the axes they work along cannot change."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from netir.dims import same
from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect, product

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


@dataclass(frozen=True)
class Pad(Op):
    """More indices at both ends of axes, less where negative; pairs from the last axis on.

    `mode` says what they hold: "constant", "reflect", "replicate" or "circular".
    """

    name = "pad"
    aten = ("pad.default", "constant_pad_nd.default", "reflection_pad1d.default",
            "reflection_pad2d.default", "reflection_pad3d.default", "replication_pad1d.default",
            "replication_pad2d.default", "replication_pad3d.default")  # fmt: skip
    pad: tuple[Dim, ...] = ()
    mode: str = "constant"
    value: int | float | bool | None = None

    def _pairs(self) -> list[tuple[Dim, Dim]]:
        return list(zip(self.pad[::2], self.pad[1::2], strict=True))

    def layouts(self, site: Any) -> Any:
        last = len(site.shape(0)) - 1
        dims = [last - i for i, pair in enumerate(self._pairs()) if pair != (0, 0)]
        return self.along(site, dims, "it is padded")

    def linear(self) -> bool:
        return not self.value

    def infer(self, x: TensorType) -> TensorType:
        pairs = self._pairs()
        expect(len(pairs) <= x.rank, f"{self.pad} pads more axes than {x} has")
        shape = list(x.shape)
        for number, (before, after) in enumerate(pairs, 1):
            shape[-number] = shape[-number] + before + after
        return x.with_shape(tuple(shape))

    def to_torch(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pad, self.mode, self.value)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        pairs = {x.rank - 1 - i: pair for i, pair in enumerate(self._pairs()) if pair != (0, 0)}
        x = g.computable(x)
        if self.mode == "constant":
            return self._grown(g, x, pairs)
        # ONNX is not clear about negative padding in these modes: it is cut off by itself
        grown = {axis: tuple(map(_positive, pair)) for axis, pair in pairs.items()}
        cut = {axis: tuple(map(_negative, pair)) for axis, pair in pairs.items()}
        if self.mode == "circular":
            return self._grown(g, _cut(g, x, cut), grown)
        return _cut(g, self._grown(g, x, grown), cut)

    def _grown(self, g: Tape, x: OnnxValue, pairs: Mapping[int, tuple[Dim, ...]]) -> OnnxValue:
        pairs = {axis: pair for axis, pair in pairs.items() if pair != (0, 0)}
        if not pairs:
            return x
        sizes = [pair[end] for end in (0, 1) for pair in pairs.values()]
        value = g.number(self.value, x) if self.value else None
        return g.op("Pad", [x, sizes, value, list(pairs)], {"mode": _MODES[self.mode]})  # type: ignore[no-any-return]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        pad, value = call.options.get("pad"), call.options.get("value")
        kinds = {"reflection": "reflect", "replication": "replicate"}
        mode = call.options.get("mode", "constant")
        if call.base not in ("pad", "constant_pad_nd"):
            pad, mode = call.options["padding"], kinds[call.base.split("_")[0]]
        return None if pad is None else cls(tuple(pad), mode, value)


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _positive(pad: Dim) -> Dim:
    return max(pad, 0) if isinstance(pad, int) else pad


def _negative(pad: Dim) -> int:
    return max(-pad, 0) if isinstance(pad, int) else 0


def _cut(g: Tape, x: OnnxValue, pairs: Mapping[int, tuple[int, ...]]) -> OnnxValue:
    """`x` without so many indices at both ends of axes."""
    for axis, (before, after) in pairs.items():
        if before or after:
            x = g.slice(x, axis, before, -after if after else None)
    return x


@dataclass(frozen=True)
class Roll(Op):
    """Axes shifted in a circle; all of them as one where no `dims` are named."""

    name = "roll"
    aten = ("roll.default",)
    shifts: tuple[Dim, ...] = ()
    dims: tuple[int, ...] = ()

    def layouts(self, site: Any) -> Any:
        dims = self.dims or range(len(site.shape(0)))
        return self.along(site, dims, "its indices move in a circle")

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        return x

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.roll(x, self.shifts, self.dims)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        if not self.dims:
            count = product(x.shape)
            return g.reshape(_rolled(g, g.reshape(x, (count,)), 0, self.shifts[0], count), x.shape)
        found = x
        for dim, shift in zip(self.dims, self.shifts, strict=True):
            found = _rolled(g, found, dim, shift, x.shape[dim])
        return found

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        shifts, dims = call.options["shifts"], call.options.get("dims", ())
        shifts = shifts if isinstance(shifts, tuple) else (shifts,)
        dims = dims if isinstance(dims, tuple) else (dims,)
        return cls(shifts, tuple(d % call.types[0].rank for d in dims))


def _rolled(g: Tape, x: OnnxValue, dim: int, shift: Dim, size: Dim) -> OnnxValue:
    """An axis of this size shifted in a circle."""
    cut = (-shift) % size if size != 0 else 0
    if cut == 0:
        return x
    return g.concat([g.slice(x, dim, cut, None), g.slice(x, dim, 0, cut)], dim)


@dataclass(frozen=True)
class Flip(Op):
    """The indices of some axes in reverse."""

    name = "flip"
    aten = ("flip.default",)
    dims: tuple[int, ...] = ()

    def layouts(self, site: Any) -> Any:
        dims = self.dims if site.shape(0) else ()
        return self.along(site, dims, "its indices are reversed")

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        return x

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.flip(x, self.dims)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        return _flipped(g, x, self.dims)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        rank = max(call.types[0].rank, 1)
        return cls(tuple(d % rank for d in call.options.get("dims", ())))


def _flipped(g: Tape, x: OnnxValue, dims: Sequence[int]) -> OnnxValue:
    """Axes in reverse: from the last index to before the first."""
    back = (-1,) * len(dims)
    if not dims or not x.rank:
        return x
    return g.op("Slice", [x, back, (-sys.maxsize,) * len(dims), dims, back], shape=x.shape)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Rot90(Op):
    """A plane of two axes turned by `k` quarters."""

    name = "rot90"
    aten = ("rot90.default",)
    k: int = 1
    dims: tuple[int, int] = (0, 1)

    def layouts(self, site: Any) -> Any:
        shape = list(site.shape(0))
        a, b = self.dims
        for dim in self.dims:
            site.freeze(shape[dim], "it is turned")
        if self.k % 2:
            shape[a], shape[b] = shape[b], shape[a]
        return [tuple(shape)]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        shape, (a, b) = list(x.shape), self.dims
        if self.k % 2:
            shape[a], shape[b] = shape[b], shape[a]
        return x.with_shape(tuple(shape))

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.rot90(x, self.k, self.dims)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        turns, (a, b) = self.k % 4, self.dims
        found = _flipped(g, x, ((), (b,), (a, b), (a,))[turns])
        order = list(range(x.rank))
        if turns % 2:
            order[a], order[b] = b, a
        return g.transpose(found, order)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        rank = call.types[0].rank
        a, b = call.options.get("dims", (0, 1))
        return cls(call.options.get("k", 1), (a % rank, b % rank))


@dataclass(frozen=True)
class Diff(Op):
    """Differences of neighbours along `dim`, `n` times, after what `before` and `after` add.

    Operands: x, then what is put before it, then what is put after it.
    """

    name = "diff"
    aten = ("diff.default",)
    n: int = 1
    dim: int = -1

    def layouts(self, site: Any) -> Any:
        shape = list(site.shape(0))
        for position, operand in enumerate(site.node.operands):
            if operand is None:
                continue
            for axis, layout in enumerate(site.shape(position)):
                if axis == self.dim:
                    site.freeze(layout, "its neighbours are subtracted")
                else:
                    site.unify(shape[axis], layout)
        shape[self.dim] = site.extent(site.node.types[0].shape[self.dim])
        return [tuple(shape)]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType, *rest: TensorType | None) -> TensorType:
        size = x.shape[self.dim]
        for other in rest:
            if other is not None:
                pairs = zip(x.shape, other.shape, strict=True)
                fits = all(i == self.dim or same(a, b) for i, (a, b) in enumerate(pairs))
                expect(fits, f"{x} and {other} do not fit end to end")
                size = size + other.shape[self.dim]
        dtype = torch.bool if x.dtype == torch.bool else x.dtype
        shape = (*x.shape[: self.dim], size - self.n, *x.shape[self.dim + 1 :])
        return TensorType(dtype, shape)

    def to_torch(self, x: Tensor, *rest: Tensor | None) -> Tensor:
        before, after = (*rest, None, None)[:2]
        return torch.diff(x, self.n, self.dim, prepend=before, append=after)

    def to_onnx(self, g: Tape, x: OnnxValue, *rest: OnnxValue | None) -> OnnxValue:
        before, after = (*rest, None, None)[:2]
        dim = self.dim % x.rank
        found = g.concat([part for part in (before, x, after) if part is not None], dim)
        for _ in range(self.n):
            later, sooner = g.slice(found, dim, 1, None), g.slice(found, dim, 0, -1)
            found = g.op("Xor" if x.dtype == torch.bool else "Sub", [later, sooner])
        return found

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options.get("n", 1), call.axis(default=-1))


@dataclass(frozen=True)
class Triangle(Op):
    """The part of matrices on and above the diagonal, or on and below it; 0 elsewhere."""

    name = "triangle"
    aten = ("triu.default", "tril.default")
    upper: bool = True
    diagonal: Dim = 0

    def layouts(self, site: Any) -> Any:
        rank = len(site.shape(0))
        return self.along(site, (rank - 2, rank - 1), "a triangle of it is blanked")

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        expect(x.rank >= 2, f"{x} is no matrix")
        return x

    def to_torch(self, x: Tensor) -> Tensor:
        return (torch.triu if self.upper else torch.tril)(x, self.diagonal)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        diagonal = g.size(self.diagonal)
        return g.op("Trilu", [g.computable(x), diagonal], {"upper": self.upper})  # type: ignore[no-any-return]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.base == "triu", **call.options)


@dataclass(frozen=True)
class Diagonal(Op):
    """The diagonal of two axes, as a last axis."""

    name = "diagonal"
    aten = ("diagonal.default",)
    offset: int = 0
    dims: tuple[int, int] = (0, 1)

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        for dim in self.dims:
            site.freeze(shape[dim], "its diagonal is read")
        rest = (layout for axis, layout in enumerate(shape) if axis not in self.dims)
        return [(*rest, site.extent(site.node.types[0].shape[-1]))]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        rows, columns = (x.shape[d] for d in self.dims)
        expect(isinstance(rows, int) and isinstance(columns, int), "a diagonal of open size")
        shift = self.offset
        count = min(rows + min(shift, 0), columns - max(shift, 0))  # type: ignore[type-var]
        rest = (size for axis, size in enumerate(x.shape) if axis not in self.dims)
        return x.with_shape((*rest, max(count, 0)))  # type: ignore[type-var]

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.diagonal(x, self.offset, *self.dims)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        count = g.types[0].shape[-1]
        assert isinstance(count, int)
        rows = torch.arange(count) + max(-self.offset, 0)
        places = g.constant(torch.stack([rows, rows + self.offset], dim=1))
        front = g.transpose(x, [*self.dims, *(i for i in range(x.rank) if i not in self.dims)])
        found = g.op("GatherND", [front, places])
        return g.transpose(found, [*range(1, x.rank - 1), 0])

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        first, second = call.axis("dim1", 0), call.axis("dim2", 1)
        return cls(call.options.get("offset", 0), (first, second))
