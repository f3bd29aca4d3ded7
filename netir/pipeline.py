"""Pipelines: passes in order as one value, each proved when it has run.

A pipeline is no pass: it has no contract of its own, each of its passes keeps its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from netir.calibration import Calibration
from netir.errors import NetirError, out_of_memory
from netir.ir import Graph
from netir.moves import Moves
from netir.rewrite import Pass, Report, Result
from netir.samples import random_arguments
from netir.verify import Verdict
from netir.verify import verify as verified


@dataclass(frozen=True, eq=False)
class Applied:
    """One pass that has run: what it gave, what `verify` measured (None if it was told not to)
    and how long both took."""

    rewrite: Pass
    before: Graph
    result: Result
    verdict: Verdict | None
    seconds: float

    @property
    def graph(self) -> Graph:
        return self.result.graph

    @property
    def report(self) -> Report:
        return self.result.report


@dataclass(frozen=True, eq=False)
class Piped:
    """What a pipeline gave: the graph after its last pass, and each of its passes."""

    graph: Graph
    steps: tuple[Applied, ...]

    @property
    def moves(self) -> Moves:
        """Where the tensors of the last graph came from in the first: for optimizers and averages.

        Constants that a step folded are left out: they matter to the proof of that step only.
        """
        moves = (replace(step.result.moves, folded={}) for step in self.steps)
        return reduce(Moves.then, moves, Moves())

    def __str__(self) -> str:
        return "\n".join(map(_told, self.steps))


@dataclass(frozen=True)
class Pipeline:
    """Passes in order: `Pipeline([Fold(), Prune(amount=0.3)])`."""

    passes: tuple[Pass, ...] = ()

    def __init__(self, passes: Iterable[Pass] = ()) -> None:
        found = tuple(passes)
        for item in found:
            if not isinstance(item, Pass):
                raise NetirError(
                    f"a pipeline is made of passes, not of {type(item).__name__}",
                    fix="write Pipeline([passes.Fold(), passes.Prune(amount=0.3)])",
                )
        object.__setattr__(self, "passes", found)

    def __call__(self, graph: Graph, calibration: Calibration | None = None) -> Graph:
        return self.apply(graph, calibration=calibration).graph

    def apply(
        self,
        graph: Graph,
        args: tuple[Any, ...] | Any = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        calibration: Calibration | None = None,
        verify: bool = True,
    ) -> Piped:
        """Apply every pass, and prove each on the inputs; random ones where none are given.

        A pass that breaks its contract raises, and so does one that cannot do what it should.
        """
        if args is None and kwargs is None and verify:
            args, kwargs = (), random_arguments(graph, {})

        def prove(before: Graph, after: Graph) -> Verdict:
            return verified(before, after, () if args is None else args, kwargs)

        steps: list[Applied] = []
        for rewrite in self.passes:
            done = applied(rewrite, graph, calibration, prove if verify else None)
            steps.append(done)
            graph = done.graph
        return Piped(graph, tuple(steps))

    def __str__(self) -> str:
        return " | ".join(map(str, self.passes))


def applied(
    rewrite: Pass,
    graph: Graph,
    calibration: Calibration | None = None,
    prove: Callable[[Graph, Graph], Verdict] | None = None,
) -> Applied:
    """Apply one pass; `prove` is asked whether it kept its word."""
    begun = time.perf_counter()
    try:
        result = rewrite.apply(graph, calibration)
    except (MemoryError, OverflowError, RuntimeError) as error:
        if not (isinstance(error, OverflowError) or out_of_memory(error)):
            raise
        raise NetirError(
            f"{rewrite} needs more memory than there is", fix="use smaller numbers"
        ) from error
    verdict = None if prove is None else prove(graph, result.graph)
    return Applied(rewrite, graph, result, verdict, time.perf_counter() - begun)


def _told(step: Applied) -> str:
    verdict = step.verdict
    if verdict is None:
        return f"{step.report}\n  not verified"
    return f"{step.report}\n  {verdict.contract.value}: holds, error {verdict.error:.2g}"


__all__ = ["Applied", "Piped", "Pipeline", "applied"]
