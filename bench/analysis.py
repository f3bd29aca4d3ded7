"""How long it takes to find all spaces of a graph, how that grows, and what memory it needs.

Synthetic graphs of 100 to 50,000 nodes in five layouts, and real models. The time is that of
`analyse(graph).spaces` on a graph that has not been asked anything yet; tracing is not in it.
"""

from __future__ import annotations

import tracemalloc
import warnings

from bench.measure import Options, Table, Task, exponent, interleaved, milliseconds, options, report
from bench.models import REAL, traced
from bench.synthetic import LAYOUTS
from netir import Graph
from netir.spaces import Analysis, analyse
from netir.verify import check

SIZES = (100, 1_000, 5_000, 20_000, 50_000)
TARGETS = {1_000: 10.0, 50_000: 1_000.0}


def find(graph: Graph) -> int:
    """All spaces of a graph."""
    return len(analyse(graph).spaces)


def untouched(graph: Graph) -> Task:
    """Analyse a copy that shares no cached result with the graph."""
    return Task(find, graph.replace)


def named(graph: Graph) -> Task:
    """Name the spaces of a copy whose spaces are known; the analysis is not in the time."""
    return Task(lambda found: len(found.names), lambda: known(graph))


def known(graph: Graph) -> Analysis:
    """An analysis that has been asked for its spaces, and not for their names."""
    found = analyse(graph.replace())
    assert found.spaces
    return found


def memory(graph: Graph) -> float:
    """Peak bytes per node while the spaces of a graph are found, the result included."""
    fresh = graph.replace()
    tracemalloc.start()
    kept = analyse(fresh)
    assert kept.spaces
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / len(graph.nodes)


def synthetic(given: Options) -> Table:
    rows, sizes = [], (100, 1_000) if given.quick else SIZES
    for layout, build in LAYOUTS.items():
        check(build(100))
        graphs = {size: build(size) for size in sizes}
        times = {s: interleaved({layout: untouched(g)}, 3 if given.quick else 25, 5)
                 for s, g in graphs.items()}  # fmt: skip
        names = interleaved({"names": named(graphs[1_000])}, 3 if given.quick else 25)["names"]
        spent = {size: 1e3 * min(found[layout]) for size, found in times.items()}
        large = [s for s in sizes if s >= 1_000] if len(sizes) > 2 else sizes
        grows = exponent([len(graphs[s].nodes) for s in large], [spent[s] for s in large])
        for size, graph in graphs.items():
            naming = 1e3 * min(names) if size == 1_000 else None
            rows.append((layout, len(graph.nodes), find(graph), spent[size],
                         milliseconds(times[size], layout), 1e3 * spent[size] / len(graph.nodes),
                         memory(graph), naming, _met(size, spent[size]),
                         grows if size == sizes[-1] else None))
    columns = ("layout", "nodes", "spaces", "least ms", "median ms", "us a node",
               "peak bytes a node", "names ms", "target", "exponent")
    return Table("Synthetic graphs", columns, rows, (
        "Processor time. The least of up to 25 runs is what the work takes, and is judged: it is "
        "the same every time, and what a run takes longer is others on the machine. The exponent "
        "is fitted from 1,000 nodes on; 1 is linear growth. Memory is what Python allocates "
        "(tracemalloc), apart from the time. Names are made when the first is asked for: "
        "`names ms` is what that takes, at least, and is in no other column.",
    ))  # fmt: skip


def _met(size: int, spent: float) -> str:
    if size not in TARGETS:
        return ""
    return f"{'met' if spent <= TARGETS[size] else 'missed'}: {TARGETS[size]:g} ms"


def real(given: Options) -> Table:
    rows = []
    for name in given.wanted(REAL, ("resnet18",)):
        graph = traced(name)
        times = interleaved({name: untouched(graph)}, 3 if given.quick else 11)
        spent = milliseconds(times, name)
        free = [s for s in graph.spaces() if not s.frozen]
        rows.append((name, len(graph.nodes), len(graph.spaces()), len(free), spent,
                     1e3 * spent / len(graph.nodes), memory(graph)))  # fmt: skip
    columns = ("model", "nodes", "spaces", "free", "ms", "us a node", "peak bytes a node")
    return Table("Real models", columns, rows)


def main() -> None:
    given = options(__doc__ or "")
    warnings.simplefilter("ignore")
    tables = [synthetic(given)] if not given.only else []
    report("analysis", "All spaces of a graph", [*tables, real(given)], given)


if __name__ == "__main__":
    main()
