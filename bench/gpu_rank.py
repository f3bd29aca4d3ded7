"""Counting singular values on a GPU, beside computing them and beside what the GPU can do at best.

Needs one CUDA device; anywhere else it says so and stops. The floor of a Gram matrix is the larger
of its arithmetic, upper tiles only, and one reading of the rows, over what an H200 reaches in
practice. Every way has to come to the same count as float64 singular values. Ways are measured in
turn, timed by events with the waiting that a count needs; times are medians.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from bench.measure import Cell, Options, Table, Times, milliseconds, options, ratio
from bench.measure import report as written
from netir.kernels.gram import gram, gram_sum
from netir.kernels.rank import LEVELS, effective_rank, positives
from netir.kernels.window import GramWindow
from tests.spectra import spectra

MEMORY = 4.3e12  # bytes a second, reached in practice
DOUBLE_MATH, HALF_MATH = 50e12, 790e12  # operations a second, of tensor cores
TURNOVER = 0.05


@dataclass(frozen=True)
class Shape:
    """Columns, rows and the type that activations are stored in."""

    columns: int
    rows: int
    kind: torch.dtype

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns} {str(self.kind).removeprefix('torch.')}"

    def floor(self, single: bool) -> float:
        """The least seconds of a Gram matrix."""
        rate = HALF_MATH if single and self.kind.itemsize == 2 else DOUBLE_MATH
        work = self.rows * self.columns * (self.columns + 64)
        return max(work / rate, self.rows * self.columns * self.kind.itemsize / MEMORY)

    def made(self) -> Tensor:
        """Outputs of a ReLU of a low-rank mixture: few large singular values and many small."""
        latent = torch.randn(self.rows, self.columns // 2, device="cuda")
        mixed = latent @ torch.randn(self.columns // 2, self.columns, device="cuda")
        return (mixed / sqrt(self.columns // 2) + 0.5).relu().to(self.kind)


SHAPES = {str(shape): shape for kind in (torch.float32, torch.bfloat16) for shape in (
    Shape(64, 1568, kind), Shape(256, 4096, kind), Shape(512, 25088, kind),
    Shape(1024, 65536, kind), Shape(4096, 16384, kind),
)}  # fmt: skip
QUICK = ("25088 x 512 float32", "25088 x 512 bfloat16")


def turns(ways: dict[str, Callable[[], object]], repeat: int) -> Times:
    """Seconds of each, in turn; every second turn backwards, the first thrown away."""
    times: Times = {name: [] for name in ways}
    for turn in range(repeat + 1):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            ways[name]()
            end.record()
            torch.cuda.synchronize()
            if turn:
                times[name].append(start.elapsed_time(end) / 1e3)
    return times


def chunked(rows: Tensor) -> Tensor:
    """The Gram matrix by torch alone."""
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for part in rows.split(4096):
        wide = part.double()
        total.addmm_(wide.mT, wide)
    return total


def grams(given: Options) -> list[list[Cell]]:
    """The kernel beside torch, and what a float32 sum loses in truth."""
    rows: list[list[Cell]] = []
    for name in given.wanted(tuple(SHAPES), QUICK):
        shape = SHAPES[name]
        data = shape.made()
        x = data[None]
        times = turns({
            "ours": lambda x=x: gram_sum(x, False), "flushed": lambda x=x: gram_sum(x, True),
            "torch": lambda data=data: chunked(data),
        }, 5 if given.quick else 21)  # fmt: skip
        exact, single = gram(data), gram(data, "float32")
        lost, whole = (float(torch.linalg.eigvalsh(matrix).abs().max())
                       for matrix in (single.matrix - exact.matrix, exact.matrix))  # fmt: skip
        rows.append([
            name, milliseconds(times, "ours"), 1e3 * shape.floor(False),
            ratio(times, "torch", "ours"), 1.0, milliseconds(times, "flushed"),
            1e3 * shape.floor(True), lost / whole, single.error / whole,
        ])  # fmt: skip
        print(*rows[-1], flush=True)
    return rows


def counts(given: Options) -> list[list[Cell]]:
    """Counting beside singular values; and one matrix' inertia beside its eigenvalues."""
    rows: list[list[Cell]] = []
    for name in given.wanted(tuple(SHAPES), QUICK):
        data = SHAPES[name].made()
        values = torch.linalg.svdvals(data.double()) / sqrt(len(data))
        epsilon = float(values[len(values) // 2 - 1 : len(values) // 2 + 1].mean())
        count = int((values > epsilon).sum())
        window, fresh = GramWindow(len(data)), data[: int(TURNOVER * len(data))]
        window.add(data)
        found = {effective_rank(data, epsilon, s, method=m).count
                 for s in LEVELS[:-1] for m in ("inertia", "eigenvalues")}  # fmt: skip
        if found != {count}:
            raise SystemExit(f"{name}: {found}, not {count}")
        matrix = window.gram.matrix

        def moved(w: GramWindow = window, part: Tensor = fresh, e: float = epsilon) -> object:
            w.add(part)
            return w.count(e)

        times = turns({
            "svdvals": lambda h=data: torch.linalg.svdvals(h.float()).max().item(),
            "counted": lambda h=data, e=epsilon: effective_rank(h, e), "moved": moved,
            "inertia": lambda m=matrix, e=epsilon: positives(m, [e**2], "inertia"),
            "eigenvalues": lambda m=matrix, e=epsilon: positives(m, [e**2], "eigenvalues"),
        }, 3 if given.quick else 7)  # fmt: skip
        rows.append([
            name, count, milliseconds(times, "svdvals"), milliseconds(times, "counted"),
            ratio(times, "svdvals", "counted"), 20.0, milliseconds(times, "moved"),
            milliseconds(times, "inertia"), milliseconds(times, "eigenvalues"),
        ])  # fmt: skip
        print(*rows[-1], flush=True)
    return rows


def hard(given: Options) -> list[list[Cell]]:
    """The hard spectra, counted on the GPU."""
    rows: list[list[Cell]] = []
    for storage in (torch.float32, torch.bfloat16):
        several = list(spectra(storage, 2 if given.quick else 8))
        found = [effective_rank(s.rows.cuda(), s.epsilon, "float32") for s in several]
        levels = [sum(f.level == level for f in found) for level in LEVELS]
        pairs = zip(found, several, strict=True)
        wrong = sum(not f.count <= s.count <= f.count + f.ties for f, s in pairs)
        rows.append([str(storage).removeprefix("torch."), len(several), *levels, wrong])
    return rows


def main() -> None:
    given = options(__doc__ or "")
    if not torch.cuda.is_available():
        sys.exit("bench.gpu_rank needs a CUDA device, and there is none here")
    tables = [
        Table("Gram matrices", (
            "rows x columns", "ours, ms", "floor, ms", "torch over ours", "target, at least",
            "16-bit products, ms", "floor of that, ms", "lost by float32", "bound on that"),
            grams(given), ("What is lost is over the largest eigenvalue.",)),
        Table("Counts", (
            "rows x columns", "count", "svdvals, ms", "counted, ms", "svdvals over counted",
            "target, at least", "incremental, ms", "inertia alone, ms", "eigenvalues alone, ms"),
            counts(given)),
        Table("Hard spectra", ("storage", "spectra", *LEVELS, "wrong"), hard(given)),
    ]  # fmt: skip
    written("gpu_rank", f"Counting singular values on {torch.cuda.get_device_name()}", tables,
            given)  # fmt: skip


if __name__ == "__main__":
    main()
