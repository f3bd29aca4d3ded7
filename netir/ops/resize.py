"""Resampling of positions: interpolation by neighbours, lines or cubics, at grids of places."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from netir.dims import same
from netir.ops.base import AtenCall, Dim, NoLowering, Op, Tensor, TensorType, expect

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape

_KINDS = {
    f"upsample_{kind}{rank}d": (mode, rank, False)
    for kind, mode, ranks in (
        ("nearest", "nearest", (1, 2, 3)), ("linear", "linear", (1,)),
        ("bilinear", "bilinear", (2,)), ("bicubic", "bicubic", (2,)),
        ("trilinear", "trilinear", (3,)),
    )
    for rank in ranks
}  # fmt: skip
_KINDS |= {f"_upsample_nearest_exact{rank}d": ("nearest-exact", rank, False) for rank in (1, 2, 3)}
_KINDS |= {f"_upsample_{mode}2d_aa": (mode, 2, True) for mode in ("bilinear", "bicubic")}


@dataclass(frozen=True)
class Interpolate(Op):
    """Resample the last `rank` axes to `size`, or by the factors `scale`."""

    name = "interpolate"
    aten = tuple(f"{kind}.vec" for kind in _KINDS)
    rank: int = 2
    mode: str = "nearest"
    size: tuple[Dim, ...] | None = None
    scale: tuple[float, ...] | None = None
    align_corners: bool | None = None
    antialias: bool = False

    def layouts(self, site: Any) -> Any:
        rank = len(site.shape(0))
        return self.along(site, range(rank - self.rank, rank), "its positions are not channels")

    def linear(self) -> bool:
        return True

    def infer(self, x: TensorType) -> TensorType:
        expect(x.rank == self.rank + 2, f"input has {x.rank} dimensions")
        if self.size is not None:
            return x.with_shape((*x.shape[:2], *self.size))
        assert self.scale is not None
        made = (_scaled(s, f) for s, f in zip(x.shape[2:], self.scale, strict=True))
        return x.with_shape((*x.shape[:2], *made))

    def to_torch(self, x: Tensor) -> Tensor:
        return F.interpolate(
            x, self.size, self.scale, self.mode, self.align_corners, antialias=self.antialias  # type: ignore[arg-type]
        )

    def to_onnx(self, g: Tape, x: OnnxValue) -> OnnxValue:
        nearest = self.mode.startswith("nearest")
        if not nearest and not x.dtype.is_floating_point:
            raise NoLowering(f"ONNX has no {self.mode} interpolation of whole numbers")
        if x.dtype not in _RESIZED:
            x = g.cast(x, torch.float32)
        attributes: dict[str, Any] = {"axes": range(2, x.rank), **_RULES[self.mode]}
        if self.align_corners:
            attributes["coordinate_transformation_mode"] = "align_corners"
        if self.antialias:
            attributes |= {"antialias": 1, "exclude_outside": 1, "cubic_coeff_a": -0.5}
        scale = g.constant(self.scale, torch.float32) if self.size is None else None
        return g.op("Resize", [x, None, scale, self.size], attributes)  # type: ignore[no-any-return]

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        mode, rank, antialias = _KINDS[call.base]
        options = call.options
        size, scale = options.get("output_size"), options.get("scale_factors")
        corners = None if "nearest" in mode else bool(options.get("align_corners"))
        return cls(rank, mode, size, None if size else scale, corners, antialias)


_HALVES = {"coordinate_transformation_mode": "half_pixel"}
_LINEAR: dict[str, Any] = {**_HALVES, "mode": "linear"}
_RULES: dict[str, dict[str, Any]] = {
    "nearest": {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "nearest-exact": {**_HALVES, "nearest_mode": "round_prefer_ceil"},
    "bicubic": {**_HALVES, "mode": "cubic", "cubic_coeff_a": -0.75},
    **dict.fromkeys(("linear", "bilinear", "trilinear"), _LINEAR),
}
_RESIZED = (torch.float32, torch.float16, torch.int32, torch.int8, torch.uint8)
"""The element types in which ONNX Runtime resizes."""


def _scaled(size: Dim, factor: float) -> Dim:
    """`floor(size * factor)`."""
    exact = Fraction(factor)
    if isinstance(size, int):
        return int(size * factor)
    expect(exact.denominator <= 64, f"an open size cannot be scaled by {factor}")
    return size * exact.numerator // exact.denominator


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
        axes = x.rank - 2
        expect(axes in (2, 3), f"{x} is no batch of planes or volumes")
        expect(grid.rank == x.rank and same(grid.shape[-1], axes), f"{grid} does not lead into {x}")
        expect(axes == 2 or self.mode != 2, "torch has no cubic sampling of volumes")
        expect(same(x.shape[0], grid.shape[0]), f"{x} and grid {grid} differ in batch")
        return x.with_shape((*x.shape[:2], *grid.shape[1:-1]))

    def to_torch(self, x: Tensor, grid: Tensor) -> Tensor:
        return torch.grid_sampler(x, grid, self.mode, self.padding, self.align_corners)

    def to_onnx(self, g: Tape, x: OnnxValue, grid: OnnxValue) -> OnnxValue:
        attributes = {
            "mode": ("linear", "nearest", "cubic")[self.mode],
            "padding_mode": ("zeros", "border", "reflection")[self.padding],
            "align_corners": self.align_corners,
        }
        return g.op("GridSample", [x, grid], attributes)  # type: ignore[no-any-return]

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

    def to_onnx(self, g: Tape, theta: OnnxValue) -> OnnxValue:
        return g.op("AffineGrid", [theta, self.size], {"align_corners": self.align_corners})  # type: ignore[no-any-return]
