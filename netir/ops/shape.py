"""Ops that give the same elements other axes: reshape, permute, squeeze, unsqueeze."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netir.dims import Sym, divide
from netir.layouts import Layout, regroup, resolve, size_of
from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect, product

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in the same order, dealt out to other axes."""

    name = "reshape"
    aten = ("view.default", "reshape.default", "flatten.using_ints", "unflatten.int",
            "_unsafe_view.default", "reshape_as.default", "view_as.default",
            "ravel.default")  # fmt: skip
    shape: tuple[Dim, ...] = ()

    def layouts(self, site: Any) -> Any:
        old, sizes = site.shape(0), site.node.types[0].shape
        kept = _kept(old, sizes)
        found, rest = regroup(sum(map(resolve, old[kept:]), ()), sizes[kept:])
        if rest:
            site.freeze(rest, f"cannot be divided into ({', '.join(map(str, sizes))})")
        dealt = [site.extent(size) if layout is None else layout
                 for layout, size in zip(found, sizes[kept:], strict=True)]  # fmt: skip
        for layout, size in zip(dealt, sizes[kept:], strict=True):
            if isinstance(size, Sym):
                site.freeze(_between_open(layout), "it is between two open sizes of one axis")
        shape = (*old[:kept], *dealt)
        site.derive("shape", shape)
        return [shape]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        before, after = product(x.shape), product(self.shape)
        expect(divide(before, after) == 1, f"{x} has not the {after} elements of {self.shape}")
        return x.with_shape(self.shape)

    def left_open(self, *operands: Any) -> Op:
        if joined := _joined(operands[0].shape, self.shape):
            return joined
        named = [d for d in self.shape if not isinstance(d, int)]
        if len(named) != 1 or 0 in self.shape:
            return self
        return Reshape(tuple(d if isinstance(d, int) else -1 for d in self.shape))

    def to_torch(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        return g.reshape(x, self.shape)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        del call.operands[1:]
        return cls(call.results[0].shape)


def _between_open(layout: Layout) -> Layout:
    """The terms of an axis that have sizes on both sides which only the network's inputs tell."""
    terms = resolve(layout)
    places = [place for place, term in enumerate(terms) if isinstance(term.size, Sym)]
    return terms[places[0] : places[-1]] if len(places) > 1 else ()


@dataclass(frozen=True)
class _Flatten(Op):
    """A reshape that only joins axes, written without a size."""

    name = Reshape.name
    first: int
    last: int

    def to_torch(self, x: Tensor) -> Tensor:
        return x.flatten(self.first, self.last)


def _joined(old: tuple[Dim, ...], new: tuple[Dim, ...]) -> Op | None:
    """The reshape, if it joins a run of axes and leaves all others as they are."""
    apart = (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    first = next(apart, len(new) - 1)  # what is joined to it may be of size 1
    last = first + len(old) - len(new)
    joins = 0 <= first < last < len(old) and old[last + 1 :] == new[first + 1 :]
    return _Flatten(first, last - len(old)) if joins else None


def _kept(shape: tuple[Layout, ...], sizes: tuple[Dim, ...]) -> int:
    """How many leading axes stay as they are."""
    for count, (layout, size) in enumerate(zip(shape, sizes, strict=False)):
        if size_of(layout) != size:
            return count
    return min(len(shape), len(sizes))


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
        return [tuple([shape[d] for d in self.dims])]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        expect(len(self.dims) == len(x.shape), f"{self.dims} does not order the axes of {x}")
        return x.with_shape(tuple(x.shape[d] for d in self.dims))

    def to_torch(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        return g.transpose(x, self.dims)

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

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        return g.unsqueeze(x, [self.dim])

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

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        return g.squeeze(x, self.dims) if self.dims else x

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        rank = call.types[0].rank
        dims = call.options.get("dim", tuple(range(rank)))
        dims = (dims,) if isinstance(dims, int) else dims
        shape = call.types[0].shape
        return cls(tuple(sorted({d % rank for d in dims if rank and shape[d] == 1})))
