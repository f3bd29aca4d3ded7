"""How every bench measures and reports: interleaved repetitions, medians, one kind of table.

Whoever else uses the machine slows all tasks of a repetition alike, so that ratios say more than
times. What runs on one thread is measured in processor time, which others disturb least. Nothing
here measures netir itself, and running this file does nothing.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from math import log
from pathlib import Path
from statistics import median
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"

Cell = str | int | float | None
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Task:
    """What is timed: `run` on what `prepare` gives; preparing is not timed."""

    run: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Table:
    """A title, columns and rows, and what a reader has to know."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        cells = [list(self.columns), *([show(cell) for cell in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_line(row, widths) for row in cells]
        lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
        notes = "".join(f"\n{note}\n" for note in self.notes)
        return f"## {self.title}\n\n" + "\n".join(lines) + f"\n{notes}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return "| " + " | ".join(cells) + " |"


def show(cell: Cell) -> str:
    """A number with three digits that matter; None as nothing."""
    match cell:
        case None:
            return ""
        case bool() | str():
            return str(cell)
        case int():
            return f"{cell:,}"
    return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"


def interleaved(
    tasks: Mapping[str, Task],
    repeat: int,
    budget: float = 60.0,
    clock: Callable[[], float] = time.thread_time,
) -> Times:
    """Seconds of every task in turn, `repeat` times after a warm-up; every second turn backwards.

    Stops early once `budget` seconds are spent, but not before the first two repetitions. The
    clock is right for one thread; give `time.perf_counter` for more.
    """
    times: Times = {name: [] for name in tasks}
    once = {name: timed(task, clock) for name, task in tasks.items()}
    for turn in range(repeat):
        if turn > 1 and sum(map(sum, times.values())) + sum(once.values()) > budget:
            break
        order = list(tasks)[:: -1 if turn % 2 else 1]
        for name in order:
            times[name].append(timed(tasks[name], clock))
    return times


def timed(task: Task, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one run."""
    ready = task.prepare()
    gc.collect()
    start = clock()
    result = task.run(ready)
    spent = clock() - start
    del result
    return spent


def ratio(times: Times, over: str, under: str) -> float:
    """The median over the repetitions of one task's time over another's."""
    return median(a / b for a, b in zip(times[over], times[under], strict=True))


def milliseconds(times: Times, name: str) -> float:
    """The median time of a task."""
    return 1e3 * median(times[name])


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The slope of time over size on logarithmic axes: 1 is linear growth."""
    x, y = [log(s) for s in sizes], [log(t) for t in times]
    middle, level = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True))
    return rise / sum((a - middle) ** 2 for a in x)


@dataclass
class Options:
    """The command line that all benches share."""

    quick: bool = False
    results: Path = RESULTS
    only: tuple[str, ...] = ()
    data: Path = Path()
    large: bool = False
    started: float = field(default_factory=time.perf_counter)

    @property
    def device(self) -> str:
        """Where it runs: large sizes on a GPU, if there is one."""
        return "cuda" if self.large and torch.cuda.is_available() else "cpu"

    def named(self, name: str) -> str:
        """What results are called: large ones have a name of their own."""
        return f"{name}_large" if self.large else name

    def wanted(self, names: Sequence[str], quick: Sequence[str]) -> list[str]:
        """The names that this run is about."""
        return list(self.only or (quick if self.quick else names))


def options(
    about: str, threads: int = 1, data: bool = False, large: bool = False, needed: bool = True
) -> Options:
    """Read the command line and set up torch; what is imported is left out of collections."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="a smoke run; writes no results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are written")
    parser.add_argument("--only", nargs="*", default=(), help="these models only; no results")
    if data:
        parser.add_argument("--data", type=Path, required=needed, default=Path(),
                            help="the folder with the data")  # fmt: skip
    if large:
        parser.add_argument("--large", action="store_true", help="published sizes; hours")
    given = parser.parse_args()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    gc.collect()
    gc.freeze()
    folder = given.data if data else Path()
    return Options(given.quick, given.results, tuple(given.only), folder, large and given.large)


def machine() -> dict[str, Cell]:
    """What the numbers depend on, in generic words."""
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "netir", "torch-pruning", "transformers")},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def report(name: str, title: str, tables: Sequence[Table], given: Options) -> None:
    """Print all tables; a full run is also written, as Markdown and as JSON."""
    about = machine()
    head = ", ".join(f"{key} {value}" for key, value in about.items())
    text = f"# {title}\n\n{head}.\n\n" + "\n".join(map(str, tables))
    print(text)
    print(f"took {time.perf_counter() - given.started:.0f} s")
    if given.quick or given.only:
        return
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / f"{name}.md").write_text(text)
    (given.results / f"{name}.json").write_text(json.dumps({"machine": about, "tables": [
        {"title": t.title, "notes": list(t.notes),
         "rows": [dict(zip(t.columns, row, strict=True)) for row in t.rows]}
        for t in tables
    ]}, indent=1, ensure_ascii=False) + "\n")  # fmt: skip
