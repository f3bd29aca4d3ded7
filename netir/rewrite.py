"""Passes: rewrites with options, a name and a contract.

`Pass` is what every pass is; `EditPass` is a pass that rewrites places in the graph, one after the
other, in one edit. (A pass that gives spaces a new width is a `WidthPass`, width.py.) `apply` finds
the sites, rewrites, checks, and hands back the new graph, the moves and a report. The graph that
came in is untouched.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from netir.basis import Contract
from netir.calibration import Calibration
from netir.edit import Edit
from netir.errors import NetirError, NetirWarning
from netir.given import check_options
from netir.ir import Graph, Step, expect_graph
from netir.moves import Moves

STRENGTH = {c: i for i, c in enumerate(Contract)}
"""Contracts from the strongest to the weakest."""
FROZEN = "frozen: "
"""How the reason begins why a space is left that nothing can change."""


def weakest(contracts: Iterable[Contract]) -> Contract:
    """The contract that holds if all of these do."""
    return max(contracts, key=STRENGTH.__getitem__, default=Contract.EXACT)


@dataclass(frozen=True)
class Report:
    """What a pass did: the sites that it changed and those that it left, with the reason."""

    text: str
    contract: Contract
    changed: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    parameters: tuple[int, int]

    def __str__(self) -> str:
        before, after = self.parameters
        lines = [f"{self.text}: {len(self.changed)} sites, {before:,} -> {after:,} parameters"]
        lines += [f"  left {site}: {why}" for site, why in self.skipped]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Result:
    """A rewritten graph, where its tensors came from, and the report."""

    graph: Graph
    moves: Moves
    report: Report


@dataclass(frozen=True)
class Pass:
    """A rewrite with parameters, a name and a contract; its fields are its options.

    `where` is a glob over names of spaces or nodes, of modules and of parameters; several are
    separated by blanks. A pass that changes nothing warns; with `require_change` it raises.
    """

    name: ClassVar[str]
    preserves: ClassVar[Contract]
    """The weakest contract that a rewrite by it keeps."""

    where: str = "*"
    require_change: bool = False

    def __post_init__(self) -> None:
        check_options(self, self.name)

    def __call__(self, graph: Graph, calibration: Calibration | None = None) -> Graph:
        return self.apply(graph, calibration).graph

    def apply(self, graph: Graph, calibration: Calibration | None = None) -> Result:
        """Rewrite every site that the pass matches; `calibration` is for those that need data."""
        raise NotImplementedError

    def match(self, graph: Graph, calibration: Calibration | None = None) -> Iterator[Any]:
        """The sites that the pass would change; changes nothing."""
        raise NotImplementedError

    def __str__(self) -> str:
        given = [
            f"{f.name}={_shown(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return f"{self.name}({', '.join(given)})"

    def finished(
        self,
        before: Graph,
        after: Graph,
        moves: Moves,
        contract: Contract,
        changed: Iterable[str],
        skipped: Iterable[tuple[str, str]],
    ) -> Result:
        """The result of a rewrite, which becomes part of the graph's history."""
        step = Step(str(self), contract.value, moves)
        graph = after.replace(history=(*before.history, step))
        counts = parameters(before), parameters(graph)
        report = Report(str(self), contract, tuple(changed), tuple(skipped), counts)
        return Result(graph, moves, report)

    def unchanged(self, graph: Graph, skipped: Iterable[tuple[str, str]]) -> Result:
        """The result where no site matches: a warning, or an error if a change is required."""
        left = tuple(skipped)
        told = sorted(left, key=lambda item: item[1].startswith(FROZEN))
        reasons = "; ".join(f"{site}: {why}" for site, why in told[:3])
        if self.require_change:
            raise NetirError(
                f"{self} changes nothing", where=reasons, fix="netir spaces tells what can change"
            )
        message = f"{self} changes nothing. {reasons}"
        warnings.warn(message, NetirWarning, stacklevel=_users_level())
        counts = parameters(graph), parameters(graph)
        return Result(graph, Moves(), Report(str(self), Contract.EXACT, (), left, counts))


def _users_level() -> int:
    """The `stacklevel` of a warning in the function that asks, for the line that called netir."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "netir":
        frame, level = frame.f_back, level + 1
    return level


def _shown(option: Any) -> str:
    """An option as Python writes it, a function by its name."""
    return getattr(option, "__name__", repr(option)) if callable(option) else repr(option)


@dataclass(frozen=True)
class Site:
    """A place that a pass would change: its name, and what the pass found there."""

    name: str
    found: Any = field(default=None, compare=False, repr=False)
    contract: Contract | None = field(default=None, compare=False)
    """What a change here keeps, where that is more than the pass promises."""


@dataclass(frozen=True)
class Left:
    """A place that a pass leaves as it is, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class EditPass(Pass):
    """A pass that rewrites places in a graph, all in one edit.

    `sites` looks and `rewrite` changes one place without searching. Sites that a glob without
    `*` names and that cannot change are an error.
    """

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        """Every place that `where` selects: one to change, or one to leave, with the reason."""
        raise NotImplementedError

    def rewrite(self, edit: Edit, site: Site) -> None:
        """Change one place."""
        raise NotImplementedError

    def tidy(self, edit: Edit) -> None:
        """What is left to do once every place is changed, such as `edit.sweep()`."""

    def match(self, graph: Graph, calibration: Calibration | None = None) -> Iterator[Site]:
        yield from self._found(graph, calibration)[0]

    def apply(self, graph: Graph, calibration: Calibration | None = None) -> Result:
        sites, skipped = self._found(graph, calibration)
        if not sites:
            return self.unchanged(graph, skipped)
        with graph.edit() as edit:
            for site in sites:
                self.rewrite(edit, site)
            self.tidy(edit)
        contract = weakest(site.contract or self.preserves for site in sites)
        names = [site.name for site in sites]
        return self.finished(graph, edit.graph, edit.moves, contract, names, skipped)

    def _found(
        self, graph: Graph, calibration: Calibration | None
    ) -> tuple[list[Site], list[tuple[str, str]]]:
        expect_graph(graph)
        every = list(self.sites(graph, calibration))
        sites = [s for s in every if isinstance(s, Site)]
        skipped = [(s.name, s.why) for s in every if isinstance(s, Left)]
        if not sites and skipped and not any(c in self.where for c in "*?"):
            raise NetirError(
                f"{self} cannot change '{skipped[0][0]}'", where=skipped[0][1],
                fix="name another place; match lists those that work",
            )  # fmt: skip
        return sites, skipped


def parameters(graph: Graph) -> int:
    """How many numbers are trained."""
    return sum(p.data.numel() for p in graph.params.values() if p.kind == "param")


__all__ = ["FROZEN", "STRENGTH", "Contract", "EditPass", "Left", "Pass", "Report", "Result", "Site",
           "parameters", "weakest"]  # fmt: skip
