"""Ops that move elements and compute nothing: reshape, permute, cat, split, slice, expand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from netir.dims import divide
from netir.layouts import Layout, concat, cut, regroup, resolve, size_of
from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect, product


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in the same order, dealt out to other axes."""

    name = "reshape"
    aten = ("view.default", "reshape.default", "flatten.using_ints", "unflatten.int",
            "_unsafe_view.default", "reshape_as.default", "view_as.default",
            "ravel.default")  # fmt: skip
    shape: tuple[Dim, ...] = ()

    def layouts(self, site: Any) -> Any:
        terms = sum((resolve(layout) for layout in site.shape(0)), ())
        sizes = site.node.types[0].shape
        found = regroup(terms, sizes)
        for layout in site.shape(0) if None in found else ():
            if not any(layout is part for part in found):
                site.freeze(layout, f"cannot be divided into ({', '.join(map(str, sizes))})")
        shape = tuple(site.extent(s) if f is None else f for f, s in zip(found, sizes, strict=True))
        site.derive("shape", shape)
        return [shape]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        before, after = product(x.shape), product(self.shape)
        expect(divide(before, after) == 1, f"{x} has not the {after} elements of {self.shape}")
        return x.with_shape(self.shape)

    def left_open(self, *operands: Any) -> Op:
        named = [d for d in self.shape if not isinstance(d, int)]
        if len(named) != 1 or 0 in self.shape:
            return self
        return Reshape(tuple(d if isinstance(d, int) else -1 for d in self.shape))

    def to_torch(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)  # type: ignore[arg-type]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        del call.operands[1:]
        return cls(call.results[0].shape)


@dataclass(frozen=True)
class Permute(Op):
    """The axes in another order."""

    name = "permute"
    aten = ("permute.default", "transpose.int", "swapaxes.default", "t.default", "movedim.int",
            "swapdims.default", "movedim.intlist", "moveaxis.int", "moveaxis.intlist",
            "numpy_T.default", "mT.default", "mH.default", "adjoint.default")  # fmt: skip
    dims: tuple[int, ...] = ()

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        return [tuple(shape[d] for d in self.dims)]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        expect(len(self.dims) == len(x.shape), f"{self.dims} does not order the axes of {x}")
        return x.with_shape(tuple(x.shape[d] for d in self.dims))

    def to_torch(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        rank = call.types[0].rank
        order = list(range(rank))
        match call.base:
            case "permute":
                order = [d % rank for d in call.options["dims"]]
            case "transpose" | "swapdims":
                _swap(order, call.options["dim0"], call.options["dim1"])
            case "swapaxes":
                _swap(order, call.options["axis0"], call.options["axis1"])
            case "t" | "numpy_T":
                order.reverse()
            case "mT":
                _swap(order, -2, -1)
            case "mH" | "adjoint":
                if call.types[0].dtype.is_complex:
                    return None
                _swap(order, -2, -1)
            case _:
                return _moved(rank, call.options)
        return cls(tuple(order))


def _swap(order: list[int], first: int, second: int) -> None:
    if order:
        order[first], order[second] = order[second], order[first]


def _moved(rank: int, options: dict[str, Any]) -> Op:
    source, target = options["source"], options["destination"]
    sources = [source] if isinstance(source, int) else list(source)
    targets = [target] if isinstance(target, int) else list(target)
    sources, targets = [s % rank for s in sources], [t % rank for t in targets]
    order: list[int] = [d for d in range(rank) if d not in sources]
    for to, which in sorted(zip(targets, sources, strict=True)):
        order.insert(to, which)
    return Permute(tuple(order))


@dataclass(frozen=True)
class Unsqueeze(Op):
    """A new axis of size 1 at `dim`."""

    name = "unsqueeze"
    aten = ("unsqueeze.default",)
    dim: int = 0

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        return [(*shape[: self.dim], (), *shape[self.dim :])]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        return x.with_shape((*x.shape[: self.dim], 1, *x.shape[self.dim :]))

    def to_torch(self, x: Tensor) -> Tensor:
        return x.unsqueeze(self.dim)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options["dim"] % (call.types[0].rank + 1))


@dataclass(frozen=True)
class Squeeze(Op):
    """Without the axes `dims`, which have size 1."""

    name = "squeeze"
    aten = ("squeeze.dim", "squeeze.dims", "squeeze.default")
    dims: tuple[int, ...] = ()

    def layouts(self, site: Any) -> Any:
        return [tuple(s for i, s in enumerate(site.shape(0)) if i not in self.dims)]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        expect(all(x.shape[d] == 1 for d in self.dims), f"axes {self.dims} of {x} are not all 1")
        return x.with_shape(tuple(s for i, s in enumerate(x.shape) if i not in self.dims))

    def to_torch(self, x: Tensor) -> Tensor:
        return x.squeeze(self.dims)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        rank = call.types[0].rank
        dims = call.options.get("dim", tuple(range(rank)))
        dims = (dims,) if isinstance(dims, int) else dims
        shape = call.types[0].shape
        return cls(tuple(sorted({d % rank for d in dims if rank and shape[d] == 1})))


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
        if self.step != 1 or not isinstance(self.start, int) or not isinstance(self.end, int):
            return None
        if not isinstance(total, int):
            return None
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

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        end = x.shape[self.dim] if self.end is None else self.end
        size = (end - self.start + self.step - 1) // self.step
        return x.with_shape((*x.shape[: self.dim], size, *x.shape[self.dim + 1 :]))

    def left_open(self, *operands: Any) -> Op:
        return replace(self, end=None) if self.end == operands[0].shape[self.dim] else self

    def to_torch(self, x: Tensor) -> Tensor:
        if self.start == 0 and self.end is None and self.step == 1:
            return x
        where = (slice(None),) * self.dim
        return x[(*where, slice(self.start, self.end, self.step if self.step > 1 else None))]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        dim = call.axis()
        step, size = call.options.get("step", 1), call.types[0].shape[dim]
        made = call.results[0].shape[dim]
        start = call.options.get("start") or 0
        start = start if not isinstance(start, int) or start >= 0 else start + size
        if isinstance(start, int) and isinstance(size, int):
            start = min(max(start, 0), size)
        end = start + made * step
        if step > 1:
            end = start + (made - 1) * step + 1
        return cls(dim, start, end, step)


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

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options["dim"] % call.types[0].rank, call.options["index"])
