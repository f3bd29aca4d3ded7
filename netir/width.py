"""Passes that give spaces a new width: they choose a basis for each, and all change at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from netir.basis import Basis, Contract, kept
from netir.calibration import Calibration
from netir.change import Rewritten, change_basis
from netir.ir import Graph
from netir.rewrite import FROZEN, STRENGTH, Pass, Result, weakest
from netir.room import expect_room
from netir.spaces import Space
from netir.verify import check
from netir.where import chosen_spaces

Planned = list[tuple[Space, Basis]]
Skipped = list[tuple[str, str]]


def expect_width(graph: Graph, space: Space, width: int) -> None:
    """Refuse a width of which no memory holds the weights, before anything is made for it."""
    sizes = {m.param: graph.params[m.param].data.numel() for m in space.members}
    expect_room(graph.params, {n: size * width // space.size for n, size in sizes.items()})


@dataclass(frozen=True)
class WidthPass(Pass):
    """A pass that gives spaces a new width; `where="*"` is every free space."""

    def basis(self, graph: Graph, space: Space) -> Basis | str:
        """The new basis of a space, or why it is left as it is."""
        raise NotImplementedError

    def bases(
        self, graph: Graph, spaces: Sequence[Space], calibration: Calibration | None
    ) -> Mapping[str, Basis | str]:
        """The new basis of every space, by its name: for a pass that looks at all of them."""
        return {space.name: self.basis(graph, space) for space in spaces}

    def rewrite(
        self, graph: Graph, planned: Planned, calibration: Calibration | None
    ) -> tuple[Rewritten, Contract]:
        """Change the spaces, and tell the weakest contract that this adds."""
        return change_basis(graph, dict(planned)), Contract.EXACT

    def match(self, graph: Graph, calibration: Calibration | None = None) -> Iterator[Space]:
        yield from (space for space, _ in self._plan(graph, calibration)[0])

    def apply(self, graph: Graph, calibration: Calibration | None = None) -> Result:
        planned, skipped, contract = self._plan(graph, calibration)
        if not planned:
            return self.unchanged(graph, skipped)
        done, added = self.rewrite(graph, planned, calibration)
        check(done.graph)
        names = [space.name for space, _ in planned]
        contract = weakest((contract, added))
        return self.finished(graph, done.graph, done.moves, contract, names, skipped)

    def _plan(
        self, graph: Graph, calibration: Calibration | None
    ) -> tuple[Planned, Skipped, Contract]:
        skipped, open_to_change = [], []
        for space in chosen_spaces(graph, self.where):
            if space.frozen:
                skipped.append((space.name, f"{FROZEN}{space.reason}"))
            elif not space.producers:
                skipped.append((space.name, "no parameter makes it"))
            else:
                open_to_change.append(space)
        planned = []
        found = self.bases(graph, open_to_change, calibration) if open_to_change else {}
        for space in open_to_change:
            basis = found[space.name]
            if isinstance(basis, str):
                skipped.append((space.name, basis))
            else:
                planned.append((space, basis))
        return self._honest(planned, skipped)

    def _honest(
        self, planned: Planned, skipped: Skipped
    ) -> tuple[Planned, Skipped, Contract]:
        """Without the changes that would keep less than the pass promises; one may need another."""
        while True:
            together = {space.atom: basis for space, basis in planned}
            found = [(space, basis, *kept(space, basis, together)) for space, basis in planned]
            lost = [STRENGTH[c] > STRENGTH[self.preserves] for _, _, c, _ in found]
            if not any(lost):
                return planned, skipped, weakest(c for _, _, c, _ in found)
            pairs = list(zip(found, lost, strict=True))
            skipped = [*skipped, *((space.name, why) for (space, _, _, why), bad in pairs if bad)]
            planned = [(space, basis) for (space, basis, _, _), bad in pairs if not bad]


__all__ = ["Planned", "Skipped", "WidthPass", "expect_width"]
