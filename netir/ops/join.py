"""Ops that put values together or take them apart: cat, stack, split, unbind, expand, repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from netir.dims import same
from netir.layouts import Layout, concat
from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect, promote
from netir.ops.slices import cut_all

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


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
        fits = all(a == 1 or same(a, b) for a, b in zip(x.shape, tail, strict=True))
        expect(fits, f"{x} does not expand to {self.shape}")
        return x.with_shape(self.shape)

    def left_open(self, *operands: Any) -> Op:
        have = operands[0].shape
        lead = len(self.shape) - len(have)
        kept = (-1 if a == b else a for a, b in zip(self.shape[lead:], have, strict=True))
        return Expand((*self.shape[:lead], *kept))

    def to_torch(self, x: Tensor) -> Tensor:
        return x.expand(self.shape)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        return g.expand(x, self.shape)

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
        shapes = site.shapes()
        rank = len(site.node.types[0].shape)
        full = [shape for shape in shapes if len(shape) == rank]
        if len(full) < len(shapes):
            for (layout,) in (shape for shape in shapes if len(shape) < rank):
                site.freeze(layout, "it is empty")
        out = list(full[0])
        for axis, layouts in enumerate(zip(*full, strict=True)):
            if axis == self.dim:
                out[axis] = self._joined(site, layouts)
                continue
            first = layouts[0]
            for layout in layouts:
                if layout is not first:
                    site.unify(first, layout)
        return [tuple(out)]

    def _joined(self, site: Any, parts: tuple[Layout, ...]) -> Layout:
        if all(isinstance(term.size, int) for part in parts for term in part):
            return concat(parts)
        for part in parts:
            site.freeze(part, "laid beside an axis of open size")
        return site.extent(site.node.types[0].shape[self.dim])  # type: ignore[no-any-return]

    def linear(self) -> bool:
        return True

    def infer(self, *operands: TensorType) -> TensorType:
        first = max(operands, key=lambda o: len(o.shape))
        full = [o for o in operands if len(o.shape) == len(first.shape)]
        total: Dim = 0
        for operand in full:
            for axis, (a, b) in enumerate(zip(first.shape, operand.shape, strict=True)):
                fits = axis == self.dim or same(a, b)
                expect(fits, f"{first} and {operand} differ on axis {axis}")
            total = operand.shape[self.dim] + total
        shape = (*first.shape[: self.dim], total, *first.shape[self.dim + 1 :])
        return TensorType(promote(*operands), shape)

    def to_torch(self, *operands: Tensor) -> Tensor:
        return torch.cat(operands, self.dim)

    def to_onnx(self, g: Tape, *operands: OnnxValue) -> OnnxValue:
        rank = g.types[0].rank
        whole = [g.cast(o, g.types[0].dtype) for o in operands if o.rank == rank]
        return g.concat(whole, self.dim)

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
        pairs = ((a, b) for o in operands for a, b in zip(operands[0].shape, o.shape, strict=True))
        expect(all(same(a, b) for a, b in pairs), "operands differ in shape")
        shape = list(operands[0].shape)
        shape.insert(self.dim, len(operands))
        return TensorType(promote(*operands), tuple(shape))

    def to_torch(self, *operands: Tensor) -> Tensor:
        return torch.stack(operands, self.dim)

    def to_onnx(self, g: Tape, *operands: OnnxValue) -> OnnxValue:
        layers = [g.unsqueeze(g.cast(o, g.types[0].dtype), [self.dim]) for o in operands]
        return g.concat(layers, self.dim)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options.get("dim", 0) % (call.types[0].rank + 1))


@dataclass(frozen=True)
class Split(Op):
    """Pieces of the given sizes, in order, along `dim`."""

    name = "split"
    several = True
    aten = ("split_with_sizes.default", "split.Tensor", "chunk.default", "split.sizes",
            "tensor_split.sections", "tensor_split.indices", "unsafe_chunk.default",
            "unsafe_split.Tensor", "unsafe_split_with_sizes.default")  # fmt: skip
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
        fits = same(total, x.shape[self.dim])
        expect(fits, f"{self.sizes} do not add up to axis {self.dim} of {x}")
        before, after = x.shape[: self.dim], x.shape[self.dim + 1 :]
        return tuple(x.with_shape((*before, size, *after)) for size in self.sizes)

    def to_torch(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, list(self.sizes), self.dim)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, x: OnnxValue) -> tuple[OnnxValue, ...]:
        return tuple(g.split(x, self.dim, self.sizes))

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        dim = call.options.get("dim", 0) % call.types[0].rank
        return cls(tuple(t.shape[dim] for t in call.results), dim)


@dataclass(frozen=True)
class Unbind(Op):
    """Every index along `dim` as a value of its own."""

    name = "unbind"
    several = True
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
        expect(size < 2**16, f"axis {self.dim} of {x} has too many indices to be values")
        return (x.with_shape((*x.shape[: self.dim], *x.shape[self.dim + 1 :])),) * size

    def to_torch(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.unbind(x, self.dim)

    def to_onnx(self, g: Tape, x: OnnxValue) -> tuple[OnnxValue, ...]:
        return tuple(g.gather(x, g.constant(i), self.dim) for i in range(len(g.types)))

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options.get("dim", 0) % call.types[0].rank)


@dataclass(frozen=True)
class Repeat(Op):
    """Every axis laid end to end as often as `repeats` says; missing axes come in front."""

    name = "repeat"
    aten = ("repeat.default", "tile.default")
    repeats: tuple[Dim, ...] = ()

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        lead = len(self.repeats) - len(shape)
        found: list[Layout] = []
        follow: list[Layout | None] = []
        for layout, count in zip(((),) * lead + shape, self.repeats, strict=True):
            if layout or not isinstance(count, int):
                found.append((*site.extent(count), *layout))
                follow.append(None)
            else:
                grown = site.fresh(count)
                found.append(grown)
                follow.append(grown)
        site.derive("repeats", tuple(follow))
        return [tuple(found)]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        lead = len(self.repeats) - x.rank
        expect(lead >= 0, f"{len(self.repeats)} counts for the {x.rank} axes of {x}")
        sizes = zip((1,) * lead + x.shape, self.repeats, strict=True)
        return x.with_shape(tuple(size * count for size, count in sizes))

    def to_torch(self, x: Tensor) -> Tensor:
        return x.repeat(self.repeats)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        x = g.unsqueeze(x, range(len(self.repeats) - x.rank))
        return x if set(self.repeats) <= {1} else g.op("Tile", [x, self.repeats])

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        repeats = call.options.get("repeats", call.options.get("dims", ()))
        return cls((1,) * (call.types[0].rank - len(repeats)) + tuple(repeats))


@dataclass(frozen=True)
class RepeatInterleave(Op):
    """Every index along `dim`, `repeats` times in a row."""

    name = "repeat_interleave"
    aten = ("repeat_interleave.self_int",)
    repeats: Dim = 1
    dim: int = 0

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        grown = (*shape[self.dim], *site.extent(self.repeats))
        return [(*shape[: self.dim], grown, *shape[self.dim + 1 :])]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        size = self.repeats * x.shape[self.dim]
        return x.with_shape((*x.shape[: self.dim], size, *x.shape[self.dim + 1 :]))

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.repeat_interleave(x, self.repeats, self.dim)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        size, count = x.shape[self.dim], self.repeats
        if isinstance(size, int) and isinstance(count, int):
            return g.gather(x, [i // count for i in range(size * count)], self.dim)
        before, after = x.shape[: self.dim + 1], x.shape[self.dim + 1 :]
        wide = g.expand(g.unsqueeze(x, [self.dim + 1]), (*before, count, *after))
        return g.reshape(wide, g.types[0].shape)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        if "dim" not in call.options and call.types[0].rank != 1:
            return None
        return cls(call.options["repeats"], call.axis())


@dataclass(frozen=True)
class Meshgrid(Op):
    """Vectors as axes of one grid: a value for each, constant along the other axes."""

    name = "meshgrid"
    several = True
    aten = ("meshgrid.indexing", "meshgrid.default")
    indexing: str = "ij"

    def layouts(self, site: Any) -> Any:
        axes = [(site.shape(i) or ((),))[0] for i in range(len(site.node.operands))]
        return [tuple(self._ordered(axes))] * len(axes)

    def _ordered(self, axes: list[Any]) -> list[Any]:
        if self.indexing == "xy" and len(axes) > 1:
            axes[:2] = axes[1], axes[0]
        return axes

    def linear(self) -> bool:
        return True

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        shape = tuple(self._ordered([o.shape[0] if o.shape else 1 for o in operands]))
        return tuple(o.with_shape(shape) for o in operands)

    def to_torch(self, *operands: Tensor) -> Any:
        return torch.meshgrid(*operands, indexing=self.indexing)

    def to_onnx(self, g: Tape, *operands: OnnxValue) -> tuple[OnnxValue, ...]:
        axes = self._ordered(list(range(len(operands))))
        return tuple(
            g.expand(self._along(g, x, axes.index(i), len(axes)), g.types[i].shape)
            for i, x in enumerate(operands)
        )

    def _along(self, g: Tape, x: OnnxValue, axis: int, rank: int) -> OnnxValue:
        """A vector as the only axis of `rank` that is not 1."""
        return g.unsqueeze(x, [i for i in range(rank) if i != axis or not x.rank])
