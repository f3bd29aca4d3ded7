"""Prune: fewer channels, the rest as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from netir.basis import Basis, Contract, select
from netir.calibration import Calibration
from netir.change import Rewritten, change_basis
from netir.errors import NetirError, nearest
from netir.ir import Graph
from netir.passes.compensation import COMPENSATIONS, Compensation, compensated
from netir.passes.pruning.allocate import Allocation, Normalisation, Rules, Scope, Widths
from netir.passes.pruning.kinds import KINDS, Kind, Kinds
from netir.passes.pruning.targets import (
    TARGETS,
    Cost,
    latency_left,
    macs_left,
    parameters_left,
    reached,
)
from netir.passes.scores import Evidence, Score, score_called, scored
from netir.spaces import Space
from netir.width import Planned, WidthPass


@dataclass(frozen=True)
class Prune(WidthPass):
    """Remove indices of spaces, those of lowest `score` first.

    The result equals the original with the contribution of what was removed zeroed wherever
    something sums over it; normalisations run over what is left. At least one index of a space
    stays.

    How much goes: the share `amount` of all indices (0.3 if nothing is said), or as much as it
    takes until only a share of the `parameters`, of the `macs` or of the measured `latency` of the
    whole network is left.

    Which go: `score` is a name out of `SCORES`, or a function of a space and an `Evidence`; with
    `readers`, the weights that read an index count beside those that make it. Indices compete
    within their space (`scope="local"`), with those of all spaces ("global") or of spaces of the
    same structure ("isomorphic"), their scores divided by the `normalise` of their space ("mean",
    "max" or "none"). `kind` chooses spaces by what their indices are: "units", "heads",
    "head_size" or "groups".

    What stays: a multiple of `round_to`, at least `least`, and of every space no more than the
    share `most` goes; with `uniform`, spaces of one size and role keep equally many.

    `compensate` makes up for what was removed; a fit to data keeps no contract (see `compensated`).
    `seed` is for scores that draw.
    """

    name: ClassVar[str] = "prune"
    preserves: ClassVar[Contract] = Contract.MASKED
    amount: float | None = None
    parameters: float | None = None
    macs: float | None = None
    latency: float | None = None
    score: str | Score = "l2"
    readers: bool = False
    scope: Scope = "local"
    normalise: Normalisation = "mean"
    kind: Kind = "any"
    round_to: int = 1
    least: int = 1
    most: float = 1.0
    uniform: bool = False
    compensate: Compensation = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [t for t in ("amount", *TARGETS) if getattr(self, t) is not None]
        if len(given) > 1:
            raise NetirError(
                f"prune has two targets: {given[0]} and {given[1]}", fix="give one of them"
            )
        if not 0 < self.share < 1:
            if self.target == "amount":
                raise NetirError(
                    f"prune cannot remove {self.share} of a space",
                    fix="use an amount between 0 and 1",
                )
            raise NetirError(
                f"prune cannot keep {self.share} of the {self.target}",
                fix="use a share between 0 and 1",
            )
        known = (("kind", self.kind, KINDS), ("compensation", self.compensate, COMPENSATIONS))
        for what, name, names in known:
            if name not in names:
                raise NetirError(f"there is no {what} '{name}'", fix=nearest(name, names))
        score_called(self.score)
        _ = self.rules

    @property
    def target(self) -> str:
        """The option that says how much goes."""
        return next((t for t in TARGETS if getattr(self, t) is not None), "amount")

    @property
    def share(self) -> float:
        """How much goes, or of a target how much may be left."""
        found: float | None = getattr(self, self.target)
        return 0.3 if found is None else found

    @property
    def rules(self) -> Rules:
        """How indices compete, and what must stay."""
        return Rules(
            self.scope, self.normalise, self.round_to, self.least, self.most, self.uniform
        )

    def bases(
        self, graph: Graph, spaces: Sequence[Space], calibration: Calibration | None
    ) -> Mapping[str, Basis | str]:
        found, chosen = self._of_kind(graph, spaces)
        evidence = Evidence(graph, chosen, calibration, readers=self.readers, seed=self.seed)
        score = score_called(self.score)
        scores: dict[Space, Tensor] = {}
        for space in chosen:
            values = scored(score, space, evidence)
            if isinstance(values, str):
                found[space.name] = values
            else:
                scores[space] = values
        widths = self._widths(graph, scores, calibration)
        for space, values in scores.items():
            width = widths[space]
            found[space.name] = self._why(space) if width == space.size else _best(values, width)
        return found

    def rewrite(
        self, graph: Graph, planned: Planned, calibration: Calibration | None
    ) -> tuple[Rewritten, Contract]:
        if self.compensate == "none":
            return super().rewrite(graph, planned, calibration)
        return compensated(graph, planned, calibration, self.compensate)

    def _of_kind(
        self, graph: Graph, spaces: Sequence[Space]
    ) -> tuple[dict[str, Basis | str], Sequence[Space]]:
        """The spaces of the wanted kind, and by name what the others are."""
        if self.kind == "any":
            return {}, spaces
        kinds = Kinds(graph)
        of = {space: kinds.of(space) for space in spaces}
        others: dict[str, Basis | str] = {
            space.name: f"its indices are {kind.replace('_', ' ')}"
            for space, kind in of.items()
            if kind != self.kind
        }
        return others, [space for space, kind in of.items() if kind == self.kind]

    def _widths(
        self, graph: Graph, scores: Mapping[Space, Tensor], calibration: Calibration | None
    ) -> Widths:
        """How many indices of each space stay."""
        allocation = Allocation(graph, scores, self.rules)
        if self.target == "amount":
            return allocation.widths(self.share)

        def build(widths: Widths) -> Graph:
            return change_basis(graph, {s: _best(scores[s], n) for s, n in widths.items()}).graph

        costs: dict[str, Callable[[], Cost]] = {
            "parameters": lambda: parameters_left(graph),
            "macs": lambda: macs_left(graph, calibration),
            "latency": lambda: latency_left(graph, calibration, build),
        }
        return reached(allocation, self.target, self.share, costs[self.target]())

    def _why(self, space: Space) -> str:
        """Why a space stays as it is."""
        if self.scope == "local" and self.target == "amount" and space.size * self.share <= 0.5:
            return f"{self.share} of {space.size} is less than one"
        if self.rules.fitted(0, space.size) == space.size:
            return f"none of its {space.size} may go: round_to, least or most forbids it"
        return "nothing of it has to go"


def _best(scores: Tensor, width: int) -> Basis:
    """The indices of the highest scores, in their old order."""
    return select(scores.argsort(descending=True, stable=True)[:width].sort().values)
