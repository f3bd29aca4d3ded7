"""Passes: rewrites with options, a name and a contract.

`Pass` is what every pass is; `WidthPass` is a pass that chooses a new basis for each space that
it matches. `apply` is written once, here: match, rewrite, check, and hand back the new graph, the
moves and a report. The graph that came in is untouched.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from netir.basis import Basis, Contract, kept
from netir.change import change_basis
from netir.errors import NetirError, NetirWarning, nearest
from netir.ir import Graph, Step
from netir.moves import Moves
from netir.spaces import Space
from netir.verify import check

_Planned = list[tuple[Space, Basis]]
_Skipped = list[tuple[str, str]]
_STRENGTH = {c: i for i, c in enumerate(Contract)}


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
    """A rewrite with parameters, a name and a contract; its fields are its options."""

    name: ClassVar[str]
    preserves: ClassVar[Contract]

    def __call__(self, graph: Graph) -> Graph:
        return self.apply(graph).graph

    def apply(self, graph: Graph) -> Result:
        """Rewrite every site that the pass matches."""
        raise NotImplementedError

    def match(self, graph: Graph) -> Iterator[Any]:
        """The sites that the pass would change; changes nothing."""
        raise NotImplementedError

    def __str__(self) -> str:
        given = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return f"{self.name}({', '.join(given)})"


@dataclass(frozen=True)
class WidthPass(Pass):
    """A pass that gives spaces a new width.

    `where` is a glob over the names of spaces, of the nodes' modules and of the parameters that
    make a space; several are separated by blanks. `"*"` is every free space.
    """

    where: str = "*"
    require_change: bool = False

    def match(self, graph: Graph) -> Iterator[Space]:
        yield from (space for space, _ in self._plan(graph)[0])

    def apply(self, graph: Graph) -> Result:
        planned, skipped, contract = self._plan(graph)
        if not planned:
            self._nothing(skipped)
            return Result(graph, Moves(), self._report((graph, graph), Contract.EXACT, [], skipped))
        done = change_basis(graph, dict(planned))
        step = Step(str(self), contract.value, done.moves)
        rewritten = done.graph.replace(history=(*graph.history, step))
        check(rewritten)
        report = self._report((graph, rewritten), contract, planned, skipped)
        return Result(rewritten, done.moves, report)

    def _report(
        self, graphs: tuple[Graph, Graph], contract: Contract, planned: _Planned, skipped: _Skipped
    ) -> Report:
        names = tuple(space.name for space, _ in planned)
        before, after = map(_count, graphs)
        return Report(str(self), contract, names, tuple(skipped), (before, after))

    def basis(self, graph: Graph, space: Space) -> Basis | str:
        """The new basis of a space, or why it is left as it is."""
        raise NotImplementedError

    def _plan(self, graph: Graph) -> tuple[_Planned, _Skipped, Contract]:
        planned, skipped = [], []
        for space in chosen(graph, self.where):
            if space.frozen:
                skipped.append((space.name, f"frozen: {space.reason}"))
                continue
            if not space.producers:
                skipped.append((space.name, "no parameter makes it"))
                continue
            found = self.basis(graph, space)
            if isinstance(found, str):
                skipped.append((space.name, found))
                continue
            planned.append((space, found))
        return self._honest(planned, skipped)

    def _honest(self, planned: _Planned, skipped: _Skipped) -> tuple[_Planned, _Skipped, Contract]:
        """Without the changes that would keep less than the pass promises; one may need another."""
        while True:
            together = {space.atom: basis for space, basis in planned}
            found = [(space, basis, *kept(space, basis, together)) for space, basis in planned]
            lost = [_STRENGTH[c] > _STRENGTH[self.preserves] for _, _, c, _ in found]
            if not any(lost):
                least = max(
                    (c for _, _, c, _ in found), key=_STRENGTH.__getitem__, default=Contract.EXACT
                )
                return planned, skipped, least
            pairs = list(zip(found, lost, strict=True))
            skipped = [*skipped, *((space.name, why) for (space, _, _, why), bad in pairs if bad)]
            planned = [(space, basis) for (space, basis, _, _), bad in pairs if not bad]

    def _nothing(self, skipped: Iterable[tuple[str, str]]) -> None:
        reasons = "; ".join(f"{site}: {why}" for site, why in list(skipped)[:3])
        if self.require_change:
            raise NetirError(
                f"{self} changes nothing", where=reasons, fix="netir spaces tells what can change"
            )
        warnings.warn(f"{self} changes nothing. {reasons}", NetirWarning, stacklevel=4)


def chosen(graph: Graph, where: str) -> list[Space]:
    """The spaces that a glob selects; a name without `*` or `?` must be there and free."""
    spaces = graph.spaces()
    found: dict[str, Space] = {}
    for pattern in where.split():
        hits = [s for s in spaces if _selects(pattern, s)]
        if not hits:
            known = [s.name for s in spaces]
            raise NetirError(f"'{pattern}' names no space", fix=nearest(pattern, known))
        plain = not any(c in pattern for c in "*?")
        if plain and all(s.frozen for s in hits):
            raise NetirError(
                f"space '{hits[0].name}' cannot change", where=hits[0].reason,
                fix="choose a free space: netir spaces lists them",
            )  # fmt: skip
        found |= {s.name: s for s in hits}
    return [s for s in spaces if s.name in found]


def _selects(pattern: str, space: Space) -> bool:
    if _matches(space.name, pattern):
        return True
    names = {m.param for m in space.producers}
    owners = {n.rpartition(".")[0] for n in names if n.endswith(".weight")}
    return any(_matches(n, pattern) for n in (*names, *owners))


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _count(graph: Graph) -> int:
    return sum(p.data.numel() for p in graph.params.values() if p.kind == "param")


__all__ = ["Contract", "Pass", "Report", "Result", "WidthPass", "chosen"]
