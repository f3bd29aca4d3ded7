"""Prune: fewer channels, the rest as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from netir.basis import Basis, Contract, select
from netir.calibration import Calibration
from netir.errors import NetirError
from netir.ir import Graph
from netir.passes.scores import Evidence, Score, score_called, scored
from netir.spaces import Space
from netir.width import WidthPass


@dataclass(frozen=True)
class Prune(WidthPass):
    """Remove the share `amount` of every space, the indices of lowest `score` first.

    The result equals the original with the contribution of the removed channels zeroed wherever
    something sums over them; normalisations run over what is left. At least one index of a space
    stays. `seed` matters to the score `random` alone.
    """

    name: ClassVar[str] = "prune"
    preserves: ClassVar[Contract] = Contract.MASKED
    amount: float = 0.3
    score: str | Score = "l2"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.amount < 1:
            raise NetirError(
                f"prune cannot remove {self.amount} of a space", fix="use an amount between 0 and 1"
            )
        score_called(self.score)

    def bases(
        self, graph: Graph, spaces: Sequence[Space], calibration: Calibration | None
    ) -> Mapping[str, Basis | str]:
        evidence = Evidence(graph, spaces, calibration, seed=self.seed)
        return {s.name: self._basis(s, evidence) for s in spaces}

    def _basis(self, space, evidence):
        left = max(1, space.size - round(space.size * self.amount))
        if left == space.size:
            return f"{self.amount} of {space.size} is less than one"
        values = scored(score_called(self.score), space, evidence)
        if isinstance(values, str):
            return values
        kept = values.argsort(descending=True, stable=True)[:left]
        return select(kept.sort().values)
