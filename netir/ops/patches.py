"""Ops that trade channels for positions: shuffles, and windows taken apart and put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from netir.dims import divide
from netir.ops.base import AtenCall, Dim, NoLowering, Op, Tensor, TensorType, expect, product

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


@dataclass(frozen=True)
class PixelShuffle(Op):
    """Every channel made of `factor`² others, whose pixels lie side by side."""

    name = "pixel_shuffle"
    aten = ("pixel_shuffle.default",)
    factor: int = 1

    def layouts(self, site: Any) -> Any:
        lead = " ".join("abdefg"[: len(site.shape(0)) - 3])
        rule = f"{lead} (c p) _ _ -> {lead} c _ _"
        return site.apply(rule, fixed={"p": self.factor**2})

    def infer(self, x: TensorType) -> TensorType:
        *lead, channels, height, width = x.shape
        made = divide(channels, self.factor**2)
        expect(made is not None, f"{channels} channels are not a multiple of {self.factor}²")
        assert made is not None
        return x.with_shape((*lead, made, height * self.factor, width * self.factor))

    def to_torch(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, self.factor)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        return _by_image(g, x, "DepthToSpace", {"blocksize": self.factor, "mode": "CRD"})

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options["upscale_factor"])


def _by_image(g: Tape, x: OnnxValue, kind: str, attributes: Mapping[str, Any]) -> OnnxValue:
    """Apply an operator that wants images of four axes and floats; batch axes become one."""
    x = x if x.dtype.is_floating_point else g.cast(x, torch.float64)
    if x.rank == 4:
        return g.op(kind, [x], attributes)  # type: ignore[no-any-return]
    flat = g.reshape(x, (product(x.shape[:-3]), *x.shape[-3:]))
    return g.reshape(g.op(kind, [flat], attributes), g.types[0].shape)


def _dealt(groups: int, size: int) -> list[int]:
    """The places of `groups` blocks of this size when their entries are dealt out in turn."""
    return [block * size + entry for entry in range(size) for block in range(groups)]


@dataclass(frozen=True)
class PixelUnshuffle(Op):
    """Every channel as `factor`² others, which share out its pixels."""

    name = "pixel_unshuffle"
    aten = ("pixel_unshuffle.default",)
    factor: int = 1

    def layouts(self, site: Any) -> Any:
        lead = " ".join("abdefg"[: len(site.shape(0)) - 3])
        rule = f"{lead} c _ _ -> {lead} (c p) _ _"
        return site.apply(rule, fixed={"p": self.factor**2})

    def infer(self, x: TensorType) -> TensorType:
        *lead, channels, height, width = x.shape
        sizes = (height // self.factor, width // self.factor)
        return x.with_shape((*lead, channels * self.factor**2, *sizes))

    def to_torch(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, self.factor)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        channels, taps = x.shape[-3], self.factor**2
        if not isinstance(channels, int):
            raise NoLowering("ONNX deals pixels out to a known number of channels only")
        found = _by_image(g, x, "SpaceToDepth", {"blocksize": self.factor})
        return g.gather(found, _dealt(taps, channels), x.rank - 3)  # ONNX has the taps outside

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.options["downscale_factor"])


@dataclass(frozen=True)
class ChannelShuffle(Op):
    """The channels of `groups` groups dealt out in turn."""

    name = "channel_shuffle"
    aten = ("channel_shuffle.default", "native_channel_shuffle.default")
    letters = {"g": "groups"}
    groups: int = 1

    @property
    def axes(self) -> str:
        return "n (g c) ... -> n (c g) ..."

    def infer(self, x: TensorType) -> TensorType:
        fits = divide(x.shape[1], self.groups) is not None
        expect(fits, f"{self.groups} groups do not divide {x.shape[1]} channels")
        return x

    def to_torch(self, x: Tensor) -> Tensor:
        return F.channel_shuffle(x, self.groups)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        channels = x.shape[1]
        if not isinstance(channels, int):
            raise NoLowering("ONNX shuffles a known number of channels only")
        return g.gather(x, _dealt(self.groups, channels // self.groups), 1)


@dataclass(frozen=True)
class _Windows(Op):
    """Windows that slide over two axes."""

    kernel_size: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    stride: tuple[int, ...] = (1, 1)

    @property
    def taps(self) -> int:
        """How many positions a window covers."""
        height, width = self.kernel_size
        return height * width

    def count(self, height: Dim, width: Dim) -> Dim:
        """How many windows there are."""
        fields = (self.kernel_size, self.dilation, self.padding, self.stride)
        rows = zip((height, width), *fields, strict=True)
        return product((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, d, p, s in rows)


@dataclass(frozen=True)
class Im2Col(_Windows):
    """Every window as a column: channels times the positions under it."""

    name = "im2col"
    aten = ("im2col.default",)

    def layouts(self, site: Any) -> Any:
        lead = "n " if len(site.shape(0)) == 4 else ""
        return site.apply(f"{lead}c _ _ -> {lead}(c k) _", fixed={"k": self.taps})

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        *lead, channels, height, width = x.shape
        return x.with_shape((*lead, channels * self.taps, self.count(height, width)))

    def to_torch(self, x: Tensor) -> Tensor:
        return F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        sides = zip(x.shape[-2:], self.kernel_size, self.dilation, self.padding, self.stride,
                    strict=True)  # fmt: skip
        rows, columns = (_windows(g, s + 2 * p, k, d, step) for s, k, d, p, step in sides)
        at = x.rank - 2
        x = g.computable(x)
        if any(self.padding):
            x = g.op("Pad", [x, self.padding * 2, None, (at, at + 1)], shape=x.shape)
        found = g.gather(g.gather(x, rows, at), columns, at + 2)
        order = [*range(at), at, at + 2, at + 1, at + 3]
        return g.reshape(g.transpose(found, order), g.types[0].shape)


def _windows(
    g: Tape, length: Dim, size: int, dilation: int = 1, step: int = 1
) -> OnnxValue:
    """For each of `size` taps a row: what it covers as a window slides over an axis."""
    count = (length - dilation * (size - 1) - 1) // step + 1
    offsets = torch.arange(size).unsqueeze(1) * dilation
    if isinstance(count, int):
        return g.constant(offsets + torch.arange(count) * step)
    starts = g.arange(0, count, step)
    return g.op("Add", [g.constant(offsets), starts], shape=(size, count))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Col2Im(_Windows):
    """Columns added up where their windows lie, on axes of `output_size`."""

    name = "col2im"
    aten = ("col2im.default",)
    output_size: tuple[Dim, ...] = (1, 1)

    def layouts(self, site: Any) -> Any:
        lead = "n " if len(site.shape(0)) == 3 else ""
        return site.apply(f"{lead}(c k) _ -> {lead}c _ _", fixed={"k": self.taps})

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        *lead, rows, _ = x.shape
        channels = divide(rows, self.taps)
        expect(channels is not None, f"{rows} rows are not a multiple of {self.taps}")
        assert channels is not None
        return x.with_shape((*lead, channels, *self.output_size))

    def to_torch(self, x: Tensor) -> Tensor:
        return F.fold(
            x, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride  # type: ignore[arg-type]
        )

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        columns = g.cast(x if x.rank == 3 else g.unsqueeze(x, [0]), torch.float32)
        attributes = {"dilations": self.dilation, "pads": self.padding * 2, "strides": self.stride}
        found = g.op("Col2Im", [columns, self.output_size, self.kernel_size], attributes)
        return found if x.rank == 3 else g.squeeze(found, [0])


@dataclass(frozen=True)
class Unfold(Op):
    """Windows of `size` indices along `dim`, `step` apart; a last axis holds what is in each."""

    name = "unfold"
    aten = ("unfold.default",)
    dim: int = 0
    size: int = 1
    step: int = 1

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        site.freeze(shape[self.dim], "windows slide over it")
        windows = site.extent(site.node.types[0].shape[self.dim])
        rest = shape[self.dim + 1 :]
        return [(*shape[: self.dim], windows, *rest, site.extent(self.size))]

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        count = (x.shape[self.dim] - self.size) // self.step + 1
        return x.with_shape((*x.shape[: self.dim], count, *x.shape[self.dim + 1 :], self.size))

    def to_torch(self, x: Tensor) -> Tensor:
        return x.unfold(self.dim, self.size, self.step)

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        windows = _windows(g, x.shape[self.dim], self.size, step=self.step)
        order = [i for i in range(x.rank + 1) if i != self.dim]
        return g.transpose(g.gather(x, windows, self.dim), [*order, self.dim])

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        dim = call.axis("dimension")
        return cls(dim, **call.options) if call.types[0].rank else None
