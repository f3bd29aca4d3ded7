"""ONNX Resize and Upsample, where they are what torch's interpolation computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from netir.dims import Dim
from netir.frontends.onnx.call import Call
from netir.frontends.onnx.value import Value
from netir.ops.index import IndexSelect
from netir.ops.resize import Interpolate

Places = np.ndarray[Any, Any]
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize(call: Call) -> Value:
    """Other sizes of some axes: by factors, or to sizes."""
    x = call[0]
    factors, sizes = _wanted(call)
    mode = call.text("mode", "nearest")
    spatial = range(2, x.rank)
    changed = [a for a in range(x.rank) if factors[a] != 1 or sizes[a] != x.shape[a]]
    if not changed:
        return x
    if mode == "nearest":
        return _nearest(call, x, changed, factors, sizes)
    if any(a not in spatial for a in changed) or not 3 <= x.rank <= 5:
        call.refuse(f"changes axes {tuple(changed)} of {x.type}", "resize spatial axes only")
    return _smooth(call, x, mode, factors, sizes)


def _wanted(call: Call) -> tuple[list[Fraction], list[Dim]]:
    """Factor and size of every axis; a factor that is not told follows from the size."""
    x = call[0]
    place = 2 if call.operator == "Resize" and call.version >= 11 else 1
    to = call.sizes(3) if call.given(3) and call[3].shape != (0,) else None
    axes = call.integers("axes") or tuple(range(x.rank))
    axes = tuple(call.front(a, x.rank) for a in axes)
    factors, sizes = [Fraction(1)] * x.rank, list(x.shape)
    if to is not None:
        for axis, size in zip(axes, _kept_aspect(call, axes, to), strict=True):
            old = x.shape[axis]
            sizes[axis] = size
            if isinstance(old, int) and isinstance(size, int):
                factors[axis] = Fraction(size, old)
            elif old != size:
                factors[axis] = Fraction(0)  # known when the network runs
        return factors, sizes
    told = call.numbers("scales") if call.version < 9 else call.content(place).tolist()
    for axis, factor in zip(axes, told or (), strict=True):
        factors[axis] = Fraction(factor)
        sizes[axis] = _scaled(call, x.shape[axis], Fraction(factor))
    return factors, sizes


def _kept_aspect(call: Call, axes: tuple[int, ...], to: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The sizes, made so that all axes are scaled alike where that is asked for."""
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return to
    old = [call[0].shape[a] for a in axes]
    if not all(isinstance(s, int) for s in (*old, *to)):
        call.refuse(f"has the policy '{policy}' over open sizes", "fix the sizes when exporting")
    factors = [Fraction(n, o) for n, o in zip(to, old, strict=True)]  # type: ignore[arg-type]
    factor = min(factors) if policy == "not_larger" else max(factors)
    return tuple(int(factor * o + Fraction(1, 2)) for o in old)  # type: ignore[operator]


def _scaled(call: Call, size: Dim, factor: Fraction) -> Dim:
    if isinstance(size, int):
        return int(size * factor)
    if factor.denominator > 64:
        call.refuse(f"scales an open size by {float(factor)}", "fix the size when exporting")
    return size * factor.numerator // factor.denominator


def _nearest(
    call: Call, x: Value, changed: list[int], factors: list[Fraction], sizes: list[Dim]
) -> Value:
    """One neighbour for each position: torch's, where it has the same, else by index."""
    for mode in ("nearest", "nearest-exact"):
        if x.rank in (3, 4, 5) and all(a >= 2 for a in changed) and all(
            _agrees(call, mode, x.shape[a], factors[a], sizes[a]) for a in changed
        ):
            scale = _scales(factors[2:], x, sizes)
            size = None if scale else tuple(sizes[2:])
            return call.emit(Interpolate(x.rank - 2, mode, size, scale), x)
    for axis in changed:
        places = _places(call, x.shape[axis], factors[axis], sizes[axis])
        x = call.emit(IndexSelect(axis), x, call.constant(places, torch.int64))
    return x


def _scales(
    factors: Sequence[Fraction], x: Value, sizes: list[Dim]
) -> tuple[float, ...] | None:
    """The factors, where an open size depends on them; sizes that are known say it better."""
    if all(isinstance(s, int) for s in sizes[2:]) or any(not f for f in factors):
        return None
    return tuple(float(f) for f in factors)


def _agrees(call: Call, mode: str, size: Dim, factor: Fraction, made: Dim) -> bool:
    """Whether torch picks the same neighbours along an axis."""
    if isinstance(size, int) and isinstance(made, int):
        ours = _places(call, size, factor, made)
        at = np.arange(made)
        step = Fraction(size, made) if made else Fraction(1)
        torch_step = float(step)
        if mode == "nearest":
            theirs = np.floor(at * torch_step)
        else:
            theirs = np.floor((at + 0.5) * torch_step)
        return bool((np.minimum(theirs, size - 1) == ours).all())
    kind = _coordinates(call)
    rounding = call.text("nearest_mode", "round_prefer_floor")
    if mode == "nearest":
        return kind == "asymmetric" and (rounding == "floor")
    upwards = factor.denominator == 1 and factor > 0
    return kind in ("half_pixel", "pytorch_half_pixel") and (
        rounding == "round_prefer_ceil" or (rounding == "round_prefer_floor" and upwards)
    )


def _coordinates(call: Call) -> str:
    if call.operator == "Upsample" or call.version < 11:
        return "asymmetric"
    return call.text("coordinate_transformation_mode", "half_pixel")


def _places(call: Call, size: Dim, factor: Fraction, made: Dim) -> Places:
    """The neighbour that ONNX picks for every position."""
    if not isinstance(size, int) or not isinstance(made, int) or made > 2**20:
        call.refuse("picks neighbours on an axis of open size", "fix the size when exporting")
    at, scale = np.arange(made, dtype=np.float64), float(factor)
    match _coordinates(call):
        case "asymmetric":
            x = at / scale
        case "half_pixel":
            x = (at + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            x = (at + 0.5) / scale - 0.5 if made > 1 else at * 0
        case "align_corners":
            x = at * (size - 1) / (made - 1) if made > 1 else at * 0
        case "half_pixel_symmetric":
            x = size / 2 * (1 - made / (scale * size)) + (at + 0.5) / scale - 0.5
        case other:
            call.refuse(f"has the coordinates '{other}'", "export with half_pixel or asymmetric")
    floor_mode = "floor" if call.version < 11 or call.operator == "Upsample" else (
        call.text("nearest_mode", "round_prefer_floor")
    )
    rounded: dict[str, Callable[[Places], Places]] = {
        "floor": np.floor, "ceil": np.ceil,
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    }  # fmt: skip
    if floor_mode not in rounded:
        call.refuse(f"has the rounding '{floor_mode}'", "the file is damaged")
    found: Places = np.clip(rounded[floor_mode](x), 0, size - 1).astype(np.int64)
    return found


def _smooth(
    call: Call, x: Value, mode: str, factors: list[Fraction], sizes: list[Dim]
) -> Value:
    """Lines, planes or cubics between neighbours."""
    rank, kind = x.rank - 2, _coordinates(call)
    antialias = bool(call.integer("antialias"))
    if kind not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        call.refuse(f"has the coordinates '{kind}'", "export with half_pixel or align_corners")
    if kind == "pytorch_half_pixel" and any(s == 1 for s in sizes[2:]):
        call.refuse("gives an axis of size 1", "export with half_pixel")
    coefficient = -0.5 if antialias else -0.75
    if mode == "cubic" and (rank != 2 or call.number("cubic_coeff_a", -0.75) != coefficient):
        call.refuse("is cubic in a way that torch has not", f"torch has {coefficient}, in 2-d")
    outside = bool(call.integer("exclude_outside"))
    plain = not antialias and not (outside and mode == "cubic")
    smoothed = antialias and outside and rank == 2 and kind != "align_corners"
    if not plain and not smoothed:
        call.refuse("smooths in a way that torch has not", "torch leaves out what is outside")
    scale = _scales(factors[2:], x, sizes) or _uneven(factors[2:], x, sizes)
    if kind == "align_corners" and scale and _uneven(factors[2:], x, sizes):
        call.refuse("aligns corners over rounded sizes", "give sizes instead of scales")
    size = None if scale else tuple(sizes[2:])
    name = "bicubic" if mode == "cubic" else _LINEAR[rank]
    op = Interpolate(rank, name, size, scale, kind == "align_corners", antialias)
    return call.emit(op, x)


def _uneven(factors: list[Fraction], x: Value, sizes: list[Dim]) -> tuple[float, ...] | None:
    """Factors that do not follow from the sizes, because the result was rounded down."""
    exact = all(
        isinstance(s, int) and isinstance(n, int) and n * f == s
        for f, n, s in zip(factors, x.shape[2:], sizes[2:], strict=True)
    )
    return None if exact or any(not f for f in factors) else tuple(float(f) for f in factors)
