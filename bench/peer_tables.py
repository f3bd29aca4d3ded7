"""The tables of peer_prune.py: what became known of each model, times and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.measure import Table

CONTENTS = (
    "Ours: `trace` reads the model by torch.export, once per model; `analysis` finds every "
    "space of the graph; `prune` is analysis, scores and the new graph; `to module` lowers "
    "it; `whole` is trace, prune and lowering together. Peer: `graph` is its dependency "
    "graph, with the forward pass that it needs; `groups` is that and all groups, the same "
    "answer as our spaces; `prune` is that, scores, and the change of the module in place.",
    "`graph ratio` and `groups ratio` are over our `analysis`, `prune ratio` compares the two "
    "columns of that name, `ratio with trace` is the peer's prune over our whole. Above 1, "
    "ours is faster. Where the peer changes nothing there is no prune to compare with.",
)


@dataclass
class Row:
    """What became known of a model before its time was over."""

    name: str
    found: dict[str, Any] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        return self.found.get(key)

    def over(self, above: str, below: str) -> float | None:
        """How many times longer the peer took."""
        a, b = self.get(above), self.get(below)
        nothing = above == "peer prune" and self.get("peer") == "changes nothing"
        return None if a is None or b is None or nothing else a / b

    @property
    def whole(self) -> float:
        """All that ours takes from a model to a pruned module."""
        return float(self.get("trace") + self.get("ours prune") + self.get("lower"))


def times(title: str, rows: list[Row]) -> Table:
    columns = ("model", "nodes", "trace", "analysis", "prune", "to module", "whole",
               "peer: graph", "peer: groups", "peer: prune", "graph ratio",
               "groups ratio", "prune ratio", "ratio with trace")
    cells = [
        (r.name, r.get("nodes"), r.get("trace"), r.get("ours analysis"), r.get("ours prune"),
         r.get("lower"), r.whole if r.get("lower") else None, r.get("peer analysis"),
         r.get("peer groups"), r.get("peer prune"), r.over("peer analysis", "ours analysis"),
         r.over("peer groups", "ours analysis"), r.over("peer prune", "ours prune"),
         r.get("peer prune") / r.whole if r.get("peer prune") else None)
        for r in rows
    ]  # fmt: skip
    return Table(f"{title}: times in ms", columns, cells, (
        *CONTENTS,
        *(_summary(cells, column, columns[column]) for column in (10, 11, 12, 13)),
    ))  # fmt: skip


def _summary(cells: list[Any], column: int, name: str) -> str:
    found = [c[column] for c in cells if c[column] is not None]
    if not found:
        return f"{name}: nothing to compare."
    below = sum(r < 1 for r in found)
    return (f"{name}: median {median(found):.2g}, least {min(found):.2g}, largest "
            f"{max(found):.2g}, of {len(found)} models; below 1 for {below}.")  # fmt: skip


def results(title: str, rows: list[Row]) -> Table:
    columns = ("model", "ours", "removed", "peer", "removed by peer")
    cells = [(r.name, r.get("ours"), _share(r.get("ours removed")), r.get("peer"),
              _share(r.get("peer removed"))) for r in rows]  # fmt: skip
    right = sum(r.get("ours") == "equal" for r in rows)
    good = sum(r.get("peer") == "equal" for r in rows)
    return Table(f"{title}: results", columns, cells, (
        "`equal`: the pruned network computes, in float64, what the original does with the "
        "removed channels zeroed, and layer norms restricted to what is left. Ours is checked by "
        "`netir.verify`; the peer by zeroing in the original what its own groups say it removed. "
        "`differs` may also come from another normalisation or mean over channels, for which "
        "other meanings of removal are possible. `removed` is the share of parameters.",
        f"Equal: ours {right}, the peer {good}, of {len(rows)}.",
    ))  # fmt: skip


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def tables(rows: list[Row], published: Sequence[str], constructs: Sequence[str]) -> list[Table]:
    """Published sizes, small models and constructs apart: the last are a few layers each."""
    parts = {
        "Published sizes": [row for row in rows if row.name in published],
        "Small": [row for row in rows if row.name not in (*published, *constructs)],
        "Constructs": [row for row in rows if row.name in constructs],
    }
    found = {title: part for title, part in parts.items() if part}
    timed = [times(title, part) for title, part in found.items()]
    return [*timed, *(results(title, part) for title, part in found.items())]
