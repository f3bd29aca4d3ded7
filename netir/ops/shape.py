"""Ops that move elements and compute nothing: reshape, permute, cat, split, slice, expand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from netir.dims import divide
from netir.layouts import Layout, concat, cut, regroup, resolve, size_of
from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect, product, promote


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in the same order, dealt out to other axes."""

    name = "reshape"
    aten = ("view.default", "reshape.default", "flatten.using_ints", "unflatten.int",
            "_unsafe_view.default", "reshape_as.default", "view_as.default")  # fmt: skip
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

    def to_torch(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        del call.operands[1:]
        return cls(call.results[0].shape)


@dataclass(frozen=True)
class Permute(Op):
    """The axes in another order."""

    name = "permute"
    aten = ("permute.default", "transpose.int", "swapaxes.default", "t.default", "movedim.int",
            "swapdims.default", "movedim.intlist", "numpy_T.default", "mT.default")  # fmt: skip
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
        base = call.target.split(".")[0]
        if base == "permute":
            order = [d % rank for d in call.options["dims"]]
        elif base in ("transpose", "swapaxes", "swapdims"):
            pairs = {"transpose": ("dim0", "dim1"), "swapaxes": ("axis0", "axis1")}
            first, second = (call.options.get(k, 0) % rank for k in pairs.get(base, ("dim0", "dim1")))
            order[first], order[second] = order[second], order[first]
        elif base in ("t", "numpy_T"):
            order.reverse()
        elif base == "mT":
            order[-2:] = order[:-3:-1]
        else:
            return _moved(rank, call.options)
        return cls(tuple(order))


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
    aten = ("unsqueeze.default", "unsqueeze_.default")
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
    aten = ("squeeze.dim", "squeeze.dims", "squeeze.default", "squeeze_.dim")
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
        return cls(tuple(sorted(d % rank for d in dims if call.types[0].shape[d] == 1)))


@dataclass(frozen=True)
class Expand(Op):
    """Repeat axes of size 1 without copying."""

    name = "expand"
    aten = ("expand.default", "expand_as.default", "broadcast_to.default")
    shape: tuple[Dim, ...] = ()

    def layouts(self, site: Any) -> Any:
        shape, sizes = site.shape(0), site.node.types[0].shape
        lead = len(sizes) - len(shape)
        found = [site.fresh(s) if isinstance(s, int) else site.extent(s) for s in sizes[:lead]]
        for layout, size in zip(shape, sizes[lead:], strict=True):
            grown = () if size == 1 else (
                site.fresh(size) if isinstance(size, int) else site.extent(size)
            )
            found.append(layout or grown)
        site.derive("shape", tuple(found))
        return [tuple(found)]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        tail = self.shape[len(self.shape) - len(x.shape) :]
        fits = all(a in (1, b) for a, b in zip(x.shape, tail, strict=True))
        expect(fits, f"{x} does not expand to {self.shape}")
        return x.with_shape(self.shape)

    def to_torch(self, x: Tensor) -> Tensor:
        return x.expand(self.shape)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        del call.operands[1:]
        return cls(call.results[0].shape)


@dataclass(frozen=True)
class Cat(Op):
    """Operands laid end to end along `dim`."""

    name = "cat"
    aten = ("cat.default", "concat.default", "concatenate.default")
    dim: int = 0

    def layouts(self, site: Any) -> Any:
        shapes = [site.shape(i) for i in range(len(site.node.operands))]
        shapes = [s for s in shapes if len(s) == len(site.node.types[0].shape)]
        out = list(shapes[0])
        for shape in shapes[1:]:
            for axis, layout in enumerate(shape):
                if axis != self.dim:
                    site.unify(out[axis], layout)
        sizes = [size_of(shape[self.dim]) for shape in shapes]
        whole = all(isinstance(s, int) for s in sizes)
        if whole:
            out[self.dim] = concat(shape[self.dim] for shape in shapes)
        else:
            out[self.dim] = site.extent(site.node.types[0].shape[self.dim])
            for shape in shapes:
                site.freeze(shape[self.dim], "laid beside an axis of open size")
        return [tuple(out)]

    def linear(self) -> bool:
        return True

    def infer(self, *operands: TensorType) -> TensorType:
        first = max(operands, key=lambda o: len(o.shape))
        full = [o for o in operands if len(o.shape) == len(first.shape)]
        total: Dim = 0
        for operand in full:
            for axis, (a, b) in enumerate(zip(first.shape, operand.shape, strict=True)):
                expect(axis == self.dim or a == b, f"{first} and {operand} differ on axis {axis}")
            total = operand.shape[self.dim] + total
        shape = (*first.shape[: self.dim], total, *first.shape[self.dim + 1 :])
        return TensorType(promote(*operands), shape)

    def to_torch(self, *operands: Tensor) -> Tensor:
        return torch.cat(operands, self.dim)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options.get("dim", 0) % max(t.rank for t in call.types))


@dataclass(frozen=True)
class Stack(Op):
    """Operands side by side along a new axis `dim`."""

    name = "stack"
    aten = ("stack.default",)
    dim: int = 0

    def layouts(self, site: Any) -> Any:
        shapes = [site.shape(i) for i in range(len(site.node.operands))]
        for shape in shapes[1:]:
            for a, b in zip(shapes[0], shape, strict=True):
                site.unify(a, b)
        out = list(shapes[0])
        out.insert(self.dim, site.extent(len(shapes)))
        return [tuple(out)]

    def linear(self) -> bool:
        return True

    def infer(self, *operands: TensorType) -> TensorType:
        expect(len({o.shape for o in operands}) == 1, "operands differ in shape")
        shape = list(operands[0].shape)
        shape.insert(self.dim, len(operands))
        return TensorType(promote(*operands), tuple(shape))

    def to_torch(self, *operands: Tensor) -> Tensor:
        return torch.stack(operands, self.dim)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options.get("dim", 0) % (call.types[0].rank + 1))


@dataclass(frozen=True)
class Split(Op):
    """Pieces of the given sizes, in order, along `dim`."""

    name = "split"
    aten = ("split_with_sizes.default", "split.Tensor", "chunk.default", "split.sizes",
            "tensor_split.sections")  # fmt: skip
    sizes: tuple[Dim, ...] = ()
    dim: int = 0

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        pieces = cut_all(shape[self.dim], self.sizes)
        if pieces is None:
            site.freeze(shape[self.dim], f"cannot be cut into {self.sizes}")
            pieces = [site.extent(s) for s in self.sizes]
        site.derive("sizes", tuple(pieces))
        return [(*shape[: self.dim], piece, *shape[self.dim + 1 :]) for piece in pieces]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        total: Dim = 0
        for size in self.sizes:
            total = size + total
        expect(total == x.shape[self.dim], f"{self.sizes} do not add up to axis {self.dim} of {x}")
        before, after = x.shape[: self.dim], x.shape[self.dim + 1 :]
        return tuple(x.with_shape((*before, size, *after)) for size in self.sizes)

    def to_torch(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, list(self.sizes), self.dim)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        dim = call.options.get("dim", 0) % call.types[0].rank
        return cls(tuple(t.shape[dim] for t in call.results), dim)


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
    """Every `step`-th index from `start` up to, not including, `end` along `dim`."""

    name = "slice"
    aten = ("slice.Tensor",)
    dim: int = 0
    start: Dim = 0
    end: Dim = 0
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
        if (self.start, self.end, self.step) == (0, total, 1):
            site.derive("end", layout)
            return layout
        if self.step != 1 or not isinstance(self.start, int) or not isinstance(self.end, int):
            return None
        if not isinstance(total, int):
            return None
        bounds = (0, self.start, self.end, total)
        sizes = tuple(b - a for a, b in zip(bounds, bounds[1:], strict=False))
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
        size = (self.end - self.start + self.step - 1) // self.step
        return x.with_shape((*x.shape[: self.dim], size, *x.shape[self.dim + 1 :]))

    def to_torch(self, x: Tensor) -> Tensor:
        where = (slice(None),) * self.dim
        return x[(*where, slice(self.start, self.end, self.step if self.step > 1 else None))]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        dim = call.options.get("dim", 0) % call.types[0].rank
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
        return x.select(self.dim, self.index)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options["dim"] % call.types[0].rank, call.options["index"])


@dataclass(frozen=True)
class Unbind(Op):
    """Every index along `dim` as a value of its own."""

    name = "unbind"
    aten = ("unbind.int",)
    dim: int = 0

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        site.freeze(shape[self.dim], "its indices become values of their own")
        rest = (*shape[: self.dim], *shape[self.dim + 1 :])
        return [rest] * len(site.node.types)

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        size = x.shape[self.dim]
        expect(isinstance(size, int), f"axis {self.dim} of {x} has an open size")
        assert isinstance(size, int)
        return (x.with_shape((*x.shape[: self.dim], *x.shape[self.dim + 1 :])),) * size

    def to_torch(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.unbind(x, self.dim)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options.get("dim", 0) % call.types[0].rank)


@dataclass(frozen=True)
class SliceScatter(Op):
    """`x` with the slice that `slice` would give replaced by `y`."""

    name = "slice_scatter"
    aten = ("slice_scatter.default",)
    dim: int = 0
    start: Dim = 0
    end: Dim = 0
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
        return torch.slice_scatter(x, y, self.dim, self.start, self.end, self.step)

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
        return torch.select_scatter(x, y, self.dim, self.index)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options["dim"] % call.types[0].rank, call.options["index"])
