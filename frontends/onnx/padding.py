"""ONNX Pad: by torch's padding, or by picking indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from netir.dims import Dim, Sym
from netir.frontends.onnx.call import Call
from netir.frontends.onnx.value import Value
from netir.ops import move
from netir.ops.index import IndexSelect


def pad(call: Call) -> Value:
    """More indices at both ends of axes."""
    x = call[0]
    if call.version < 11:
        pads: Any = call.integers("pads") or ()
        value: float | int | None = call.number("value")
    else:
        pads = call.sizes(1)
        value = call[2].number() if call.given(2) else 0
        if value is None:
            call.refuse("fills with a number that is not constant", "make it a constant")
    given = call.whole(3) if call.given(3) else range(x.rank)
    axes = [call.front(a, x.rank) for a in given]
    if len(pads) != 2 * len(axes):
        call.refuse(f"has {len(pads)} numbers for {len(axes)} axes", "the file is damaged")
    pairs: dict[int, tuple[Dim, Dim]] = {
        axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)
    }
    kind = call.text("mode", "constant")
    if kind == "constant":
        flat = _flat(x.rank, pairs)
        return call.emit(move.Pad(flat, value=value or None), x) if flat else x
    return _mirrored(call, x, pairs, kind)


def _flat(rank: int, pairs: dict[int, tuple[Dim, Dim]]) -> tuple[Dim, ...]:
    first = min((a for a, pair in pairs.items() if pair != (0, 0)), default=rank)
    return tuple(p for axis in reversed(range(first, rank)) for p in pairs.get(axis, (0, 0)))


def _mirrored(call: Call, x: Value, pairs: dict[int, tuple[Dim, Dim]], kind: str) -> Value:
    """Padding with what is there; by torch over spatial axes, else by picking indices."""
    modes = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if kind not in modes:
        call.refuse(f"has the unknown mode '{kind}'", "the file is damaged")
    flat = _flat(x.rank, pairs)
    spatial = 3 <= x.rank <= 5 and len(flat) <= 2 * (x.rank - 2)
    if not flat:
        return x
    positive = all(not isinstance(p, int) or p >= 0 for p in flat)
    if spatial and positive:
        flat = flat + (0, 0) * (x.rank - 2 - len(flat) // 2)
        return call.emit(move.Pad(flat, modes[kind]), x)
    for axis, (before, after) in pairs.items():
        size = x.shape[axis]
        if isinstance(size, Sym) or isinstance(before, Sym) or isinstance(after, Sym):
            call.refuse("mirrors an axis of open size", "fix the size when exporting")
        if max(before, after, size) > 2**20:
            call.refuse("mirrors more than a million indices", "the file is damaged")
        if before or after:
            ends: Any = (before, after)
            places = np.pad(np.arange(size), ends, mode=kind)  # type: ignore[call-overload]
            x = call.emit(IndexSelect(axis), x, call.constant(places, torch.int64))
    return x
