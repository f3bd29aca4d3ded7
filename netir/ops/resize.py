"""Resampling of positions: interpolation by neighbours, lines, planes or cubics."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch.nn.functional as F

from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect

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

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        mode, rank, antialias = _KINDS[call.base]
        options = call.options
        size, scale = options.get("output_size"), options.get("scale_factors")
        corners = None if "nearest" in mode else bool(options.get("align_corners"))
        return cls(rank, mode, size, None if size else scale, corners, antialias)


def _scaled(size: Dim, factor: float) -> Dim:
    """`floor(size * factor)`."""
    exact = Fraction(factor)
    if isinstance(size, int):
        return int(size * factor)
    expect(exact.denominator <= 64, f"an open size cannot be scaled by {factor}")
    return size * exact.numerator // exact.denominator
