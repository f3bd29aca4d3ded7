"""Making filters of mixed-group convolutions on a GPU, beside what the memory could do at best.

Needs one CUDA device; anywhere else it says so and stops. Six groups are mixed: C1, C2, C4, D1, D2
and D4. The floor of a time is the larger of its arithmetic and its traffic, over what an H200
reaches in practice. Ways are measured in turn, each as a CUDA graph of several calls on rotating
inputs, timed by events; times are medians. Convolutions of float32 are exact: TF32 is off.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.measure import Cell, Options, Table, options, ratio
from bench.measure import report as written
from bench.rotations import Rotations, mixed
from netir.kernels.bank import FilterBank
from netir.kernels.expand import expand, plain
from netir.kernels.plan import Plan

GROUPS = ("C1", "C2", "C4", "D1", "D2", "D4")
COMPACT = sum(1 / order for order in (1, 2, 4, 2, 4, 8))  # parameters, in filters: 2.625
MEMORY = 4.3e12  # bytes a second, reached in practice
MATH = {torch.bfloat16: 790e12, torch.float32: 54e12}  # operations a second
ROTATION, CALLS = 4, 8


@dataclass(frozen=True)
class Shape:
    """A convolution: channels in and out, kernel, and the map and batch that it reads."""

    into: int
    out: int
    kernel: int
    pixels: int
    batch: int

    def __str__(self) -> str:
        return f"{self.into}→{self.out} k{self.kernel} {self.pixels}² B{self.batch}"

    @property
    def weights(self) -> int:
        return self.into * self.out * self.kernel**2

    def convolution(self, dtype: torch.dtype) -> float:
        """The least seconds of a convolution, forward and backward."""
        work = 3 * 2 * self.weights * self.batch * self.pixels**2
        maps = 3 * (self.into + self.out) * self.batch * self.pixels**2
        traffic = (maps + 3 * self.weights) * dtype.itemsize
        return max(work / MATH[dtype], traffic / MEMORY)

    def expansion(self, dtype: torch.dtype) -> float:
        """The least seconds of making the filter, forward and backward: each number once."""
        forward = 4 * COMPACT + dtype.itemsize
        backward = 8 * COMPACT + dtype.itemsize
        return self.weights * (forward + backward) / MEMORY


SHAPES = {str(s): s for s in (
    Shape(128, 128, 3, 28, 64), Shape(128, 256, 3, 28, 64), Shape(256, 256, 3, 28, 256),
    Shape(128, 128, 3, 64, 64), Shape(512, 512, 3, 32, 128), Shape(256, 256, 3, 7, 64),
    Shape(256, 256, 5, 4, 64),
)}  # fmt: skip
QUICK = ("128→128 k3 28² B64",)


class Inputs:
    """One of the rotating sets of tensors of a layer."""

    def __init__(self, shape: Shape, plan: Plan, dtype: torch.dtype) -> None:
        fields = shape.out // 8, shape.into // 8
        self.own = [
            torch.randn(plan.shape(n, *fields), device="cuda", requires_grad=True) for n in GROUPS
        ]
        self.mix = torch.randn(len(GROUPS), device="cuda").softmax(0).requires_grad_()
        self.ways = [Rotations(name, plan, "cuda") for name in GROUPS]
        self.theirs = [
            way.parameters(own).detach().clone().requires_grad_()
            for way, own in zip(self.ways, self.own, strict=True)
        ]
        last = {"memory_format": torch.channels_last}
        maps = (shape.batch, shape.into, shape.pixels, shape.pixels)
        self.x = torch.randn(maps, device="cuda", dtype=dtype).to(**last).requires_grad_()
        filters = (shape.out, shape.into, shape.kernel, shape.kernel)
        self.dense = torch.randn(filters, device="cuda", dtype=dtype).to(**last).requires_grad_()
        self.slope = torch.randn_like(self.dense)
        maps = (shape.batch, shape.out, shape.pixels, shape.pixels)
        self.above = torch.randn(maps, device="cuda", dtype=dtype).to(**last)


@dataclass(frozen=True)
class Layer:
    """The ways to make one layer's filter, and to run it."""

    shape: Shape
    dtype: torch.dtype

    def ways(self) -> dict[str, Callable[[Inputs], object]]:
        plan, padding = Plan(GROUPS, self.shape.kernel), self.shape.kernel // 2
        alone = [Plan((name,), self.shape.kernel, ambient="D4") for name in GROUPS]
        tables = plan.tables("cuda")
        torch._dynamo.reset()  # or it would be compiled for any shape from the second on
        indexed = torch.compile(
            lambda own, mix: plain(own, mix, *tables, plan.into, self.dtype).permute(0, 3, 1, 2),
            dynamic=False,
        )

        def ours(i: Inputs) -> Tensor:
            return expand(i.own, plan, i.mix, tables, self.dtype)

        def rotated(i: Inputs) -> Tensor:
            return mixed(i.ways, i.theirs, i.mix).to(self.dtype)

        def each(i: Inputs) -> Tensor:
            made = [expand([p], a, dtype=self.dtype) for p, a in zip(i.own, alone, strict=True)]
            parts = [F.conv2d(i.x, w, padding=padding) for w in made]
            return sum((z.to(self.dtype) * y for z, y in zip(i.mix, parts, strict=True)),
                       torch.zeros((), device="cuda"))  # fmt: skip

        def layer(i: Inputs, weight: Tensor) -> Tensor:
            return F.conv2d(i.x, weight, padding=padding)

        return {
            "expand": lambda i: back(ours(i), [*i.own, i.mix], i.slope),
            "rotations": lambda i: back(rotated(i), [*i.theirs, i.mix], i.slope),
            "compiled": lambda i: back(indexed(i.own, i.mix), [*i.own, i.mix], i.slope),
            "dense": lambda i: back(layer(i, i.dense), [i.x, i.dense], i.above),
            "layer": lambda i: back(layer(i, ours(i)), [i.x, *i.own, i.mix], i.above),
            "per group": lambda i: back(each(i), [i.x, *i.own, i.mix], i.above),
        }

    def times(self, repeat: int) -> dict[str, list[float]]:
        plan = Plan(GROUPS, self.shape.kernel)
        inputs = [Inputs(self.shape, plan, self.dtype) for _ in range(ROTATION)]
        graphs = {name: captured(way, inputs) for name, way in self.ways().items()}
        return turns(graphs, repeat)


def back(made: Tensor, leaves: Sequence[Tensor], slope: Tensor) -> object:
    """Forward has run; this is the backward pass."""
    return torch.autograd.grad(made, leaves, slope)


def captured(way: Callable[[Any], object], inputs: Sequence[Any]) -> torch.cuda.CUDAGraph:
    """A graph of `CALLS` calls, after a few on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for each in inputs:
            way(each)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in range(CALLS):
            way(inputs[call % len(inputs)])
    return graph


def turns(graphs: dict[str, torch.cuda.CUDAGraph], repeat: int) -> dict[str, list[float]]:
    """Seconds of one call of each, in turn; every second turn backwards, the first thrown away."""
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(repeat + 1):
        for name in list(graphs)[:: -1 if turn % 2 else 1]:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graphs[name].replay()
            end.record()
            torch.cuda.synchronize()
            if turn:
                times[name].append(start.elapsed_time(end) / 1e3 / CALLS)
    return times


def microseconds(times: dict[str, list[float]], name: str) -> float:
    return 1e6 * sorted(times[name])[len(times[name]) // 2]


def rows(given: Options, dtype: torch.dtype) -> tuple[list[list[Cell]], list[list[Cell]]]:
    filters: list[list[Cell]] = []
    layers: list[list[Cell]] = []
    for name in given.wanted(tuple(SHAPES), QUICK):
        shape = SHAPES[name]
        times = Layer(shape, dtype).times(5 if given.quick else 31)
        took, floor = microseconds(times, "expand"), 1e6 * shape.expansion(dtype)
        kind = str(dtype).removeprefix("torch.")
        filters.append([name, kind, took, floor, took / floor, ratio(times, "rotations", "expand"),
                        10.0, ratio(times, "compiled", "expand"), 1.3])  # fmt: skip
        floor = 1e6 * shape.convolution(dtype)
        most = 1.10 if floor >= 150 else 1.35 if shape.pixels >= 28 else None
        layers.append([name, kind, microseconds(times, "layer"), microseconds(times, "dense"),
                       floor, ratio(times, "layer", "dense"), most,
                       ratio(times, "per group", "layer"), 5.0])  # fmt: skip
        print(*filters[-1], *layers[-1][2:], flush=True)
    return filters, layers


def bank(given: Options) -> list[list[Cell]]:
    """Seven layers 256→128 k3 and one 128→128 k5, at once and one after the other."""
    plans = [Plan(GROUPS, kernel) for kernel in (3, 3, 3, 3, 3, 3, 3, 5)]
    shapes = [Shape(256 if p.kernel == 3 else 128, 128, p.kernel, 7, 64) for p in plans]
    inputs = [
        [Inputs(s, p, torch.bfloat16) for s, p in zip(shapes, plans, strict=True)]
        for _ in range(ROTATION)
    ]
    whole, tables = FilterBank(plans), [plan.tables("cuda") for plan in plans]

    def together(several: list[Inputs]) -> object:
        own, mixes = [i.own for i in several], [i.mix for i in several]
        made = whole(own, mixes, tables, torch.bfloat16)
        return torch.autograd.grad(
            made, [*(p for some in own for p in some), *mixes], [i.slope for i in several]
        )

    def apart(several: list[Inputs]) -> object:
        return [
            back(expand(i.own, p, i.mix, t, torch.bfloat16), [*i.own, i.mix], i.slope)
            for i, p, t in zip(several, plans, tables, strict=True)
        ]

    graphs = {"bank": captured(together, inputs), "one by one": captured(apart, inputs)}
    times = turns(graphs, 5 if given.quick else 31)
    floor = 1e6 * sum(shape.expansion(torch.bfloat16) for shape in shapes)
    return [[len(plans), sum(shape.weights for shape in shapes), microseconds(times, "bank"),
             floor, 25.0, ratio(times, "one by one", "bank")]]  # fmt: skip


def run(given: Options) -> list[Table]:
    filters, layers = rows(given, torch.bfloat16)
    more = rows(given, torch.float32)
    return [
        Table("Making a filter", ("layer", "type", "µs", "floor, µs", "over the floor",
              "rotations over ours", "target of that", "compiled index over ours",
              "target of that one"), filters + more[0],
              ("Expansion and mixing, forward and backward.",)),
        Table("A whole layer", ("layer", "type", "ours, µs", "dense, µs", "floor of dense, µs",
              "over dense", "target, at most", "one convolution per group over ours",
              "target, at least"), layers + more[1],
              ("No target where the convolution takes no longer than making its filter: there "
               "the bank counts.",)),
        Table("A bank of filters", ("layers", "weights", "µs", "floor, µs", "target, at most",
              "one by one over the bank"), bank(given)),
    ]  # fmt: skip


def main() -> None:
    given = options(__doc__ or "")
    if not torch.cuda.is_available():
        sys.exit("bench.gpu_expand needs a CUDA device, and there is none here")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    title = f"Group convolution on {torch.cuda.get_device_name()}"
    written("gpu_expand", title, run(given), given)


if __name__ == "__main__":
    main()
