"""Keep: exactly the indices that are named, of the spaces that are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from netir.basis import Basis, Contract, select
from netir.calibration import Calibration
from netir.errors import NetirError
from netir.ir import Graph
from netir.spaces import Space
from netir.where import expect_free
from netir.width import WidthPass


@dataclass(frozen=True)
class Keep(WidthPass):
    """Keep the indices given in `keep`, as ("fc1", (0, 2, 5)), and remove the others.

    The result equals the original with the contribution of what was removed zeroed wherever
    something sums over it. For a choice by a score use `prune`.
    """

    name: ClassVar[str] = "keep"
    preserves: ClassVar[Contract] = Contract.MASKED
    keep: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, indices in self.keep:
            if not indices or min(indices) < 0 or len(set(indices)) < len(indices):
                raise NetirError(
                    f"keep cannot use the indices of '{name}'", where=str(indices)[:80],
                    fix="name at least one, none twice, counted from 0",
                )  # fmt: skip

    def bases(
        self, graph: Graph, spaces: Sequence[Space], calibration: Calibration | None
    ) -> Mapping[str, Basis | str]:
        expect_free(graph, (name for name, _ in self.keep))
        return super().bases(graph, spaces, calibration)

    def basis(self, graph: Graph, space: Space) -> Basis | str:
        wanted = dict(self.keep).get(space.name)
        if wanted is None:
            return "no indices of it are named"
        if max(wanted) >= space.size:
            raise NetirError(
                f"'{space.name}' has no index {max(wanted)}", fix=f"use 0 to {space.size - 1}"
            )
        return select(sorted(wanted)) if len(wanted) < space.size else "all of it is kept"


__all__ = ["Keep"]
