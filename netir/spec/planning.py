"""What a spec would change and save, found out without training and without writing anything.

Every pass runs on a graph that is thrown away afterwards. What training would do to the weights is
not known, so what is chosen by weights or data is an estimate.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from netir.calibration import Calibration
from netir.compare import Change, Totals, compare, differing, in_words, totals
from netir.errors import DataError, NetirError, NetirWarning
from netir.ir import Graph
from netir.pipeline import applied
from netir.rewrite import Pass, Result
from netir.spec.model import Spec
from netir.spec.steps import PassStep, Step, TrainStep


@dataclass(frozen=True)
class PlannedGrowth:
    """A space that a training may make wider: its width before, and the most that it may get."""

    space: str
    width: int
    most: int | None


@dataclass(frozen=True)
class PlannedStep:
    """A step: what it would change, what it would leave and why, and the cost before and after.

    How far spaces grow in a training only a run can tell; the costs are those without growth.
    """

    step: str
    contract: str
    changed: tuple[str, ...]
    left: tuple[tuple[str, str], ...]
    spaces: tuple[Change[int], ...]
    layers: tuple[Change[str], ...]
    before: Totals
    after: Totals
    grows: tuple[PlannedGrowth, ...] = ()


@dataclass(frozen=True)
class PlannedTarget:
    """A target: what is wanted, what is expected and whether that is met; None is not known yet."""

    name: str
    wanted: float
    expected: float | None
    met: bool | None


@dataclass(frozen=True)
class Plan:
    """All steps of a spec, the cost before the first and after the last, and the targets."""

    steps: tuple[PlannedStep, ...]
    before: Totals
    after: Totals
    targets: tuple[PlannedTarget, ...]


def plan(spec: Spec, graph: Graph, sizes: Mapping[str, int] | None = None) -> Plan:
    """What the steps of a spec would do to a network; `sizes` are numbers for open sizes."""
    known = {**spec.sizes, **(sizes or {})}
    data = None if spec.task is None else spec.task.calibration()
    first, steps = graph, []
    for place, step in enumerate(spec.passes):
        after, planned = _planned(graph, step, data, known, f"passes.{place}: {step.name}")
        steps.append(planned)
        graph = after
    before, after_all = totals(first, known), totals(graph, known)
    grows = any(step.grows for step in steps)
    return Plan(tuple(steps), before, after_all, _targets(spec, None if grows else after_all))


def _planned(
    graph: Graph, step: Step, data: Calibration | None, sizes: Mapping[str, int], where: str
) -> tuple[Graph, PlannedStep]:
    if not isinstance(step, PassStep):
        cost = totals(graph, sizes)
        grows, left = _growing(step, graph, where)
        return graph, PlannedStep(str(step), "", (), left, (), (), cost, cost, grows)
    done = _applied(step.rewrite, graph, data, where)
    found = compare(graph, done.graph, sizes)
    return done.graph, PlannedStep(
        str(step),
        done.report.contract.value,
        done.report.changed,
        done.report.skipped,
        tuple(differing(found.spaces)),
        tuple(map(in_words, differing(found.layers))),
        *found.totals,
    )


def _growing(
    step: TrainStep, graph: Graph, where: str
) -> tuple[tuple[PlannedGrowth, ...], tuple[tuple[str, str], ...]]:
    """The spaces that a training may make wider, and those that it would have to leave."""
    if step.grow is None:
        return (), ()
    grower = replace(step.grow)
    with _placed(where):
        bounds = grower.bounds(graph)
    grows = (PlannedGrowth(name, width, most) for name, (width, most) in bounds.items())
    return tuple(grows), tuple(grower.left.items())


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """Errors tell at which step they are."""
    try:
        yield
    except DataError as error:
        fix = "add a task to the spec: a pass looks at the data of the task"
        raise NetirError(error.what, where, fix) from None
    except NetirError as error:
        place = f"{where}, {error.where}" if error.where else where
        raise NetirError(error.what, place, error.fix) from None


def _applied(rewrite: Pass, graph: Graph, data: Calibration | None, where: str) -> Result:
    """The pass on the graph as it is now; that it changes nothing is part of the plan."""
    with _placed(where), warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        return applied(rewrite, graph, data).result


def _targets(spec: Spec, after: Totals | None) -> tuple[PlannedTarget, ...]:
    costs = {} if after is None else {
        "parameters": after.parameters, "bytes": after.bytes, "macs": after.macs,
    }  # fmt: skip
    found = []
    for name, wanted in spec.targets.given().items():
        expected = costs.get(name)
        met = None if expected is None else expected <= wanted
        found.append(PlannedTarget(name, wanted, expected, met))
    return tuple(found)


__all__ = ["Plan", "PlannedGrowth", "PlannedStep", "PlannedTarget", "plan"]
