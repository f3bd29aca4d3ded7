"""Counting singular values on a processor, beside computing them; and picking columns greedily.

Every way has to come to the same count, or nothing is measured. `incremental` replaces 5 % of the
rows of a window and counts again, where the others start anew. One thread, processor time, float32.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from bench.measure import Cell, Options, Table, Task, interleaved, milliseconds, options, ratio
from bench.measure import report as written
from netir.kernels.gram import GramSum
from netir.kernels.greedy import most_alike
from netir.kernels.rank import LEVELS, Count, count_above, effective_rank, positives
from netir.kernels.window import GramWindow
from tests.spectra import FAMILIES, spectra

TURNOVER = 0.05


@dataclass(frozen=True)
class Shape:
    """How many columns and rows, and of which kind."""

    columns: int
    rows: int
    kind: str = "decaying"

    def __str__(self) -> str:
        return f"{self.kind} {self.rows} x {self.columns}"

    def made(self) -> tuple[Tensor, float]:
        """Rows of a decaying spectrum, or outputs of a ReLU; and a threshold."""
        torch.manual_seed(0)
        if self.kind == "decaying":
            turned = torch.linalg.qr(torch.randn(self.columns, self.columns)).Q
            values = torch.logspace(0, -4, self.columns)
            return (torch.randn(self.rows, self.columns) * values) @ turned, 1e-2
        latent = torch.randn(self.rows, self.columns // 2)
        mixed = latent @ torch.randn(self.columns // 2, self.columns) / sqrt(self.columns // 2)
        return (mixed + 0.5).relu(), 1e-1


SHAPES = {str(shape): shape for shape in (
    Shape(64, 1568), Shape(256, 4096), Shape(256, 16384), Shape(512, 25088), Shape(1024, 32768),
    Shape(256, 4096, "ReLU"), Shape(512, 25088, "ReLU"),
)}  # fmt: skip
QUICK = ("decaying 1568 x 64",)


class Case:
    """The ways to count for one shape."""

    def __init__(self, shape: Shape) -> None:
        self.data, self.epsilon = shape.made()
        self.window = GramWindow(len(self.data))
        self.window.add(self.data)
        self.parts = self.data.split(int(TURNOVER * len(self.data)))
        self.turn = 0

    def values(self, rows: Tensor) -> int:
        return int((torch.linalg.svdvals(rows) / sqrt(len(rows)) > self.epsilon).sum())

    def counted(self, start: str | None) -> Count:
        return effective_rank(self.data, self.epsilon, start)

    def moved(self) -> Count:
        self.turn += 1
        self.window.add(self.parts[self.turn % (len(self.parts) - 1)])
        return self.window.count(self.epsilon)

    def checked(self) -> int:
        """The count by all ways, in float64; or the end."""
        found = {self.values(self.data.double()), *(self.counted(s).count for s in LEVELS)}
        moved = {self.moved().count, self.values(self.window.rows.double())}
        if len(found) > 1 or len(moved) > 1:
            raise SystemExit(f"the counts differ: {found}, and in a window {moved}")
        return found.pop()

    def certain(self, count: int) -> float:
        """The share of thresholds, up to twice or half this one, for which float32 will do."""
        total = GramSum("float32")
        total.add(self.data)
        factors = torch.logspace(-1, 1, count, 2.0).tolist()
        found = [count_above(total.gram, self.epsilon * factor) for factor in factors]
        return 1 - found.count(None) / count

    def tasks(self) -> dict[str, Task]:
        return {
            "svdvals": Task(lambda _: self.values(self.data)),
            "counted": Task(lambda _: self.counted(None)),
            "float64": Task(lambda _: self.counted("float64")),
            "moved": Task(lambda _: self.moved()),
        }


def counted(given: Options) -> list[list[Cell]]:
    """One row for each shape."""
    rows: list[list[Cell]] = []
    for name in given.wanted(tuple(SHAPES), QUICK):
        case = Case(SHAPES[name])
        count = case.checked()
        times = interleaved(case.tasks(), 3 if given.quick else 9, 20)
        rows.append([
            name, count, milliseconds(times, "svdvals"), milliseconds(times, "counted"),
            ratio(times, "svdvals", "counted"), 1.8, case.counted(None).level,
            ratio(times, "svdvals", "float64"), case.certain(5 if given.quick else 100),
            milliseconds(times, "moved"), ratio(times, "svdvals", "moved"), 10.0,
        ])  # fmt: skip
        print(*rows[-1], flush=True)
    return rows


def factorized(given: Options) -> list[list[Cell]]:
    """One row for each size: what one count of eigenvalues takes beside torch's factorization."""
    rows: list[list[Cell]] = []
    for size in (64,) if given.quick else (64, 256, 512, 1024):
        torch.manual_seed(0)
        half = torch.randn(size, size, dtype=torch.float64)
        matrix = half + half.mT
        times = interleaved({
            "ours": Task(lambda _, m=matrix: positives(m, [0.0], "inertia")),
            "torch": Task(lambda _, m=matrix: torch.linalg.ldl_factor_ex(m)),
        }, 3 if given.quick else 15, 20)  # fmt: skip
        rows.append([size, milliseconds(times, "ours"), milliseconds(times, "torch"),
                     ratio(times, "torch", "ours")])  # fmt: skip
        print(*rows[-1], flush=True)
    return rows


def rebuilt(matrix: Tensor, count: int) -> list[int]:
    """The plain way: the cosines of all columns that are left, anew after each removal."""
    left, picked = torch.arange(len(matrix)), []
    for _ in range(count):
        some = matrix[left][:, left]
        norms = some.diagonal().sqrt()
        index = int((some / norms / norms[:, None]).square().sum(0).argmax())
        picked.append(int(left[index]))
        left = torch.cat([left[:index], left[index + 1 :]])
    return picked


def picked(given: Options) -> list[list[Cell]]:
    """One row for each number of columns; a rebuild is timed for some picks only."""
    rows: list[list[Cell]] = []
    for size, count in ((64, 16),) if given.quick else ((512, 128), (1024, 256), (2048, 512)):
        data = torch.randn(2 * size, size, dtype=torch.float64) + 0.2
        matrix = data.mT @ data
        few = min(count, 16)
        if most_alike(matrix, count).tolist()[:few] != rebuilt(matrix, few):
            raise SystemExit("the picks differ")
        times = interleaved({
            "ours": Task(lambda _, m=matrix, k=count: most_alike(m, k)),
            "rebuild": Task(lambda _, m=matrix, k=few: rebuilt(m, k)),
        }, 3 if given.quick else 7, 20)  # fmt: skip
        work = [(size - k) ** 2 for k in range(count)]
        share = sum(work) / sum(work[:few])
        rows.append([size, count, milliseconds(times, "ours"),
                     milliseconds(times, "rebuild") * share,
                     ratio(times, "rebuild", "ours") * share, 50.0])  # fmt: skip
        print(*rows[-1], flush=True)
    return rows


def levels(given: Options) -> list[list[Cell]]:
    """Which level was needed for how many spectra of the hard set, and how many are wrong."""
    rows: list[list[Cell]] = []
    for storage in (torch.float32, torch.bfloat16):
        needed: dict[str, Counter[str]] = {family: Counter() for family in FAMILIES}
        wrong: Counter[str] = Counter()
        for spectrum in spectra(storage, 2 if given.quick else 8):
            count = effective_rank(spectrum.rows, spectrum.epsilon, "float32")
            needed[spectrum.family][count.level] += 1
            wrong[spectrum.family] += count.count != spectrum.count
        kind = str(storage).removeprefix("torch.")
        rows += [[family, kind, *(found[level] for level in LEVELS), wrong[family]]
                 for family, found in needed.items()]  # fmt: skip
    return rows


def main() -> None:
    given = options(__doc__ or "")
    tables = [
        Table("Singular values above a threshold", (
            "rows x columns", "count", "svdvals, ms", "counted, ms", "svdvals over counted",
            "target", "level", "svdvals over counted from float64", "certain in float32",
            "incremental, ms", "svdvals over incremental", "target of that"), counted(given),
            ("Certain in float32: the share of 100 thresholds from half of this one to twice it. "
             "For the others the count is taken again in float64.",)),
        Table("Counting the positive eigenvalues of a matrix", (
            "columns", "ours, ms", "torch's factorization, ms", "torch's over ours"),
            factorized(given)),
        Table("Columns picked greedily", (
            "columns", "picked", "ours, ms", "rebuilt, ms", "rebuilt over ours", "target"),
            picked(given), ("A rebuild works out the cosines of all columns that are left after "
            "each pick. It is timed for 16 picks, which are the same, and scaled by the number "
            "of cosines to all.",)),
        Table("Hard spectra", ("family", "storage", *LEVELS, "wrong"), levels(given),
              ("How many were certain at which level, from float32 on.",)),
    ]  # fmt: skip
    written("rank", "Counting singular values", tables, given)


if __name__ == "__main__":
    main()
