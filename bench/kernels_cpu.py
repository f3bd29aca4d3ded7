"""Group convolution on a processor: making filters, and whole layers, beside the usual ways.

Six groups are mixed: C1, C2, C4, D1, D2 and D4. `rotations` turns and stacks each group's
parameters (bench/rotations.py); `one convolution per group` expands each by our way, but convolves
six times and adds; `ours` is the layer as it is, with its softmax. All forward and backward, for
parameters and coefficients, and for the input where there is a convolution; five steps in a row.
One thread, processor time, float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.measure import (
    Cell,
    Options,
    Table,
    Task,
    Times,
    interleaved,
    milliseconds,
    options,
    ratio,
)
from bench.measure import report as written
from bench.rotations import Rotations, mixed
from netir.kernels.expand import expand
from netir.kernels.group_calls import planned_conv
from netir.kernels.plan import Plan

GROUPS = ("C1", "C2", "C4", "D1", "D2", "D4")


@dataclass(frozen=True)
class Shape:
    """A convolution: channels, kernel, and the map and batch that it reads."""

    channels: int
    kernel: int
    pixels: int
    batch: int

    def __str__(self) -> str:
        c, k, p, b = self.channels, self.kernel, self.pixels, self.batch
        return f"{c}→{c} k{k} {p}² B{b}"


ALL = (Shape(128, 3, 28, 16), Shape(256, 3, 14, 16), Shape(256, 3, 7, 64), Shape(256, 5, 4, 64),
       Shape(512, 3, 7, 16), Shape(512, 3, 2, 64))  # fmt: skip
SHAPES = {str(shape): shape for shape in ALL}
IN_A_ROW = 5
QUICK = ("128→128 k3 28² B16",)


class Layer:
    """Everything that one row of the tables needs."""

    def __init__(self, shape: Shape) -> None:
        self.plan = Plan(GROUPS, shape.kernel)
        fields = shape.channels // self.plan.elements
        self.alone = [Plan((name,), shape.kernel, ambient="D4") for name in GROUPS]
        self.logits = torch.randn(len(GROUPS)).requires_grad_()
        self.mix = self.logits.detach().softmax(0).requires_grad_()
        self.ours = [torch.randn(self.plan.shape(n, fields, fields)) / shape.channels
                     for n in GROUPS]  # fmt: skip
        self.ways = [Rotations(name, self.plan) for name in GROUPS]
        pairs = zip(self.ways, self.ours, strict=True)
        self.theirs = [way.parameters(own).clone().requires_grad_() for way, own in pairs]
        self.ours = [own.requires_grad_() for own in self.ours]
        self.dense = torch.randn(shape.channels, shape.channels, shape.kernel, shape.kernel)
        self.x = torch.randn(shape.batch, shape.channels, shape.pixels, shape.pixels)
        self.padding = shape.kernel // 2
        self.check()

    @torch.no_grad()
    def check(self) -> None:
        """Both ways make one filter, or nothing is measured."""
        ours, theirs = self.expanded(), mixed(self.ways, self.theirs, self.mix)
        error = float((ours - theirs).abs().max() / theirs.abs().max())
        if error > 1e-5:
            raise SystemExit(f"the two ways disagree by {error:.1e}")

    def expanded(self) -> Tensor:
        return expand(self.ours, self.plan, self.mix)

    def filters(self) -> dict[str, Task]:
        slope = torch.randn_like(self.dense).to(memory_format=torch.channels_last)
        return {
            "ours": _both_ways(self.expanded, [*self.ours, self.mix], slope),
            "rotations": _both_ways(
                lambda: mixed(self.ways, self.theirs, self.mix), [*self.theirs, self.mix],
                slope.contiguous(),
            ),
        }  # fmt: skip

    def layers(self) -> dict[str, Task]:
        last = torch.channels_last
        x = self.x.to(memory_format=last).requires_grad_()
        plain = self.x.clone().requires_grad_()
        dense = self.dense.clone().requires_grad_()
        dense_last = self.dense.to(memory_format=last, copy=True).requires_grad_()
        slope = torch.randn_like(F.conv2d(self.x, self.dense, padding=self.padding))
        slope_last = slope.to(memory_format=last)

        def each() -> Tensor:
            total = torch.zeros(())
            for own, plan, share in zip(self.ours, self.alone, self.mix.unbind(), strict=True):
                total = total + share * self.convolved(x, expand([own], plan))
            return total

        def ours(x: Tensor) -> Tensor:
            return planned_conv(x, self.ours, [], self.logits, None, self.plan, 1, self.padding)

        def rotated() -> Tensor:
            made = mixed(self.ways, self.theirs, self.mix)
            return self.convolved(x, made.contiguous(memory_format=last))

        leaves, own = [x, *self.ours, self.mix], [*self.ours, self.logits]
        return {
            "dense, channels last": _both_ways(lambda: self.convolved(x, dense_last),
                                               [x, dense_last], slope_last),
            "dense, contiguous": _both_ways(lambda: self.convolved(plain, dense),
                                            [plain, dense], slope),
            "ours, channels last": _both_ways(lambda: ours(x), [x, *own], slope_last),
            "ours, contiguous": _both_ways(lambda: ours(plain), [plain, *own], slope),
            "rotations": _both_ways(rotated, [x, *self.theirs, self.mix], slope_last),
            "one convolution per group": _both_ways(each, leaves, slope_last),
        }  # fmt: skip

    def convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=self.padding)


def _both_ways(make: Callable[[], Tensor], leaves: list[Tensor], slope: Tensor) -> Task:
    """A few steps of training in a row, as the memory that one gives back is there for the next."""

    def run(_: Any) -> None:
        for _ in range(IN_A_ROW):
            torch.autograd.grad(make(), leaves, slope)

    return Task(run)


def _one(times: Times, way: str) -> float:
    """Milliseconds of one step."""
    return milliseconds(times, way) / IN_A_ROW


def _faster(times: Times, way: str) -> str:
    """The memory format in which this way is faster."""
    formats = [f"{way}, {kind}" for kind in ("channels last", "contiguous")]
    return min(formats, key=lambda name: milliseconds(times, name))


def run(given: Options) -> list[Table]:
    filters: list[list[Cell]] = []
    layers: list[list[Cell]] = []
    for name in given.wanted(tuple(SHAPES), QUICK):
        layer = Layer(SHAPES[name])
        times = interleaved(layer.filters(), 5 if given.quick else 25, 6)
        one, two = (_one(times, way) for way in ("ours", "rotations"))
        filters.append([name, one, two, ratio(times, "rotations", "ours"), 10.0])
        print(*filters[-1], flush=True)
        times = interleaved(layer.layers(), 3 if given.quick else 9, 60)
        dense, ours = (_faster(times, way) for way in ("dense", "ours"))
        layers.append([name, dense, _one(times, dense), ours, _one(times, ours),
                       ratio(times, ours, dense), 1.10, ratio(times, "rotations", dense),
                       ratio(times, "one convolution per group", ours), 5.0])  # fmt: skip
        print(*layers[-1], flush=True)
    return [
        Table("Making a filter", ("layer", "ours, ms", "rotations, ms", "times faster",
                                  "target, at least"), filters, (
            f"Expansion and mixing alone, forward and backward; a step of {IN_A_ROW} in a row.",
        )),
        Table("A whole layer", ("layer", "dense", "ms", "ours", "ms of ours", "over dense",
                                "target, at most", "rotations over dense",
                                "one convolution per group over ours", "target, at least"),
              layers, (
            "`dense` is an ordinary convolution of the same channels. It and ours get maps in "
            "whichever format is faster; `rotations` and `one convolution per group` in channels "
            "last. On maps smaller than the kernel ours leaves the padding out "
            "(kernels/small_maps.py).",
        )),
    ]  # fmt: skip


def main() -> None:
    given = options(__doc__ or "")
    written("kernels_cpu", "Group convolution on a processor", run(given), given)


if __name__ == "__main__":
    main()
