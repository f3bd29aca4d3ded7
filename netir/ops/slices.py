"""Ops that read or write a part of one axis: slice, select, and their writing forms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from netir.dims import evaluate, same, symbols
from netir.layouts import Layout, concat, cut, size_of, split_layout
from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


def cut_all(layout: Layout, sizes: tuple[Dim, ...]) -> list[Layout] | None:
    """A layout cut into pieces of the given sizes, or None where that cannot be expressed."""
    pieces: list[Layout] = []
    rest = layout
    for size in sizes[:-1]:
        if not isinstance(size, int):
            return None
        if size == 0:
            return None
        both = cut(rest, size) if size_of(rest) != size else None
        if both is None:
            return None
        pieces.append(both[0])
        rest = both[1]
    return [*pieces, rest]


@dataclass(frozen=True)
class Slice(Op):
    """Every `step`-th index from `start` up to, not including, `end` along `dim`.

    Without `end`, up to the last.
    """

    name = "slice"
    aten = ("slice.Tensor", "narrow.default")
    dim: int = 0
    start: Dim = 0
    end: Dim | None = None
    step: int = 1

    def layouts(self, site: Any) -> Any:
        shape, size = site.shape(0), site.node.types[0].shape[self.dim]
        layout = shape[self.dim]
        piece = self._piece(site, layout)
        if piece is None:
            site.freeze(layout, f"cannot be cut at {self.start}:{self.end}:{self.step}")
            piece = site.extent(size)
        return [(*shape[: self.dim], piece, *shape[self.dim + 1 :])]

    def _piece(self, site: Any, layout: Layout) -> Layout | None:
        total = size_of(layout)
        if (self.start, self.step) == (0, 1) and self.end in (None, total):
            if self.end is not None:
                site.derive("end", layout)
            return layout
        if not isinstance(self.start, int) or not isinstance(self.end, int):
            return None
        if not isinstance(total, int):
            return None
        if self.step > 1:
            whole = self.start < self.step and self.end == total
            return self._every(site, layout) if whole else None
        bounds = (0, self.start, self.end, total)
        sizes = tuple(b - a for a, b in pairwise(bounds))
        pieces = cut_all(layout, tuple(s for s in sizes if s))
        if pieces is None or not sizes[1]:
            return None
        before = pieces[0] if sizes[0] else None
        piece = pieces[1 if sizes[0] else 0]
        if before is not None:
            site.derive("start", before)
        site.derive("end", concat([before, piece]) if before is not None else piece)
        return piece

    def _every(self, site: Any, layout: Layout) -> Layout | None:
        """One of every `step` indices of an axis that these divide: only the `step` is fixed."""
        pieces = split_layout(layout, self.step)
        if pieces is None:
            return None
        site.freeze(pieces[1], f"one of every {self.step} indices is picked")
        site.derive("end", layout)
        return pieces[0]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        end = x.shape[self.dim] if self.end is None else self.end
        size = (end - self.start + self.step - 1) // self.step
        return x.with_shape((*x.shape[: self.dim], size, *x.shape[self.dim + 1 :]))

    def left_open(self, *operands: Any) -> Op:
        return replace(self, end=None) if self.end == operands[0].shape[self.dim] else self

    def to_torch(self, x: Tensor) -> Tensor:
        first = isinstance(self.start, int) and self.start == 0  # open sizes are not compared here
        if first and self.end is None and self.step == 1:
            return x
        where = (slice(None),) * self.dim
        return x[(*where, slice(self.start, self.end, self.step if self.step > 1 else None))]

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        size = x.shape[self.dim]
        end = None if self.end is None or same(self.end, size) else self.end
        if (self.start, end, self.step) == (0, None, 1):
            return x
        return g.slice(x, self.dim, self.start, end, self.step)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        dim = call.axis()
        step, size = call.options.get("step", 1), call.types[0].shape[dim]
        made = call.results[0].shape[dim]
        start = call.options.get("start") or 0
        if _counts_from_end(start):
            start = start + size
        if isinstance(start, int) and isinstance(size, int):
            start = min(max(start, 0), size)
        end = start + made * step
        if step > 1:
            end = size if made * step == size else start + (made - 1) * step + 1
        return cls(dim, start, end, step)


def _counts_from_end(index: Dim) -> bool:
    """Whether an index is negative; one of open size, when that is large."""
    return bool(evaluate(index, dict.fromkeys(symbols(index), 1 << 20)) < 0)


@dataclass(frozen=True)
class Select(Op):
    """One index along `dim`, which disappears."""

    name = "select"
    aten = ("select.int",)
    dim: int = 0
    index: Dim = 0

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        site.freeze(shape[self.dim], f"index {self.index} is picked from it")
        return [(*shape[: self.dim], *shape[self.dim + 1 :])]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        size = x.shape[self.dim]
        inside = not isinstance(size, int) or not isinstance(self.index, int) or (
            -size <= self.index < size
        )
        expect(inside, f"axis {self.dim} of {x} has no index {self.index}")
        return x.with_shape((*x.shape[: self.dim], *x.shape[self.dim + 1 :]))

    def to_torch(self, x: Tensor) -> Tensor:
        return x.select(self.dim, self.index)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        return g.gather(x, g.size(self.index), self.dim)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options["dim"] % call.types[0].rank, call.options["index"])


@dataclass(frozen=True)
class SliceScatter(Op):
    """`x` with the slice that `slice` would give replaced by `y`."""

    name = "slice_scatter"
    aten = ("slice_scatter.default",)
    dim: int = 0
    start: Dim = 0
    end: Dim | None = None
    step: int = 1

    def layouts(self, site: Any) -> Any:
        shape, part = site.shape(0), site.shape(1)
        site.freeze(shape[self.dim], "a part of it is written")
        site.freeze(part[self.dim], "it is written over a part")
        for axis, layout in enumerate(shape):
            if axis != self.dim:
                site.unify(layout, part[axis])
        return [shape]

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        return x

    def to_torch(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.slice_scatter(x, y, self.dim, self.start, self.end, self.step)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        y = g.cast(y, x.dtype)
        if self.step == 1:
            return _patched(g, x, y, self.dim, self.start, self.end)
        places = g.arange(self.start, y.shape[self.dim], self.step)
        places = g.unsqueeze(places, [i for i in range(x.rank) if i != self.dim])
        operands = [x, g.expand(places, y.shape), y]
        return g.op("ScatterElements", operands, {"axis": self.dim})  # type: ignore[no-any-return]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        piece = Slice.from_aten(
            AtenCall(call.target, call.operands, call.types, call.options, (call.types[1],))
        )
        assert isinstance(piece, Slice)
        return cls(piece.dim, piece.start, piece.end, piece.step)


@dataclass(frozen=True)
class SelectScatter(Op):
    """`x` with index `index` along `dim` replaced by `y`."""

    name = "select_scatter"
    aten = ("select_scatter.default",)
    dim: int = 0
    index: Dim = 0

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        site.freeze(shape[self.dim], "one index of it is written")
        rest = (*shape[: self.dim], *shape[self.dim + 1 :])
        for a, b in zip(rest, site.shape(1), strict=True):
            site.unify(a, b)
        return [shape]

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        return x

    def to_torch(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.select_scatter(x, y, self.dim, self.index)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        index = self.index
        if isinstance(index, int) and index < 0:
            index = index + x.shape[self.dim]
        row = g.unsqueeze(g.cast(y, x.dtype), [self.dim])
        return _patched(g, x, row, self.dim, index, index + 1)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options["dim"] % call.types[0].rank, call.options["index"])


def _patched(
    g: Tape, x: OnnxValue, y: OnnxValue, dim: int, start: Dim, end: Dim | None
) -> OnnxValue:
    """`x` with `y` in place of the indices from `start` to `end`."""
    parts = [] if start == 0 else [g.slice(x, dim, 0, start)]
    parts.append(y)
    if end is not None and not same(end, x.shape[dim]):
        parts.append(g.slice(x, dim, end, None))
    return g.concat(parts, dim)
