"""The steps of a run: reading the network, passes, and trainings.

Each takes the state that the step before left and gives the next one, with a stage that tells what
it did. None knows of files or of the journal.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from netir.calibration import Calibration
from netir.errors import NetirWarning
from netir.ir import Graph
from netir.live import Live
from netir.lower.torch import Lowered, to_torch
from netir.optimizers import (
    load_optimizer_state,
    make_optimizer,
    moved_optimizer_state,
    optimizer_state,
)
from netir.pipeline import applied
from netir.report import Epoch, Growth, Stage
from netir.runs.growing import Growing
from netir.runs.measure import measured, sizes_of, widths
from netir.runs.state import Memory, State
from netir.samples import random_arguments
from netir.score import Score
from netir.seeds import seed_of, seeded
from netir.spec import PassStep, Spec, TrainStep
from netir.train import Epoch as Trained
from netir.train import TrainOptions, train
from netir.verify import Verdict, verify


@dataclass(frozen=True, eq=False)
class Done:
    """A step that is done: the state that it leaves, what to tell of it, and what it warned of."""

    state: State
    stage: Stage
    notes: tuple[str, ...] = ()


def start(spec: Spec, read: Callable[[], Graph]) -> Done:
    """The network that the run begins with."""
    begun = time.perf_counter()
    with _noted() as notes, seeded(seed_of(spec.seed, "model")):
        graph = read()
    stage = Stage(
        kind="trace",
        name=graph.name,
        text=spec.model or "",
        what=f"The network as it was given: {len(graph.nodes)} nodes.",
        seconds=time.perf_counter() - begun,
        widths_after=widths(graph),
        measured=measured(graph, spec),
    )
    return Done(State(graph), stage, tuple(notes))


def rewrite(step: PassStep, index: int, state: State, spec: Spec) -> Done:
    """Apply a pass, prove it, and let the optimizer's memory follow."""
    before = state.graph
    with _noted() as notes, seeded(seed_of(spec.seed, index)):
        data = _calibration(spec)
        done = applied(step.rewrite, before, data, _proof(spec, before))
    memory = state.memory
    if memory is not None:
        moved = moved_optimizer_state(memory.state, done.result.moves, before)
        memory = replace(memory, state=moved)
    verdict, report = done.verdict, done.report
    stage = Stage(
        kind="pass",
        name=step.name,
        text=str(step.rewrite),
        what=_first_sentence(type(step.rewrite)),
        contract=report.contract.value if verdict is None else verdict.contract.value,
        error=None if verdict is None else verdict.error,
        allowed=None if verdict is None else verdict.bound,
        seconds=done.seconds,
        changed=report.changed,
        left=report.skipped,
        widths_before=widths(before),
        widths_after=widths(done.graph),
        measured=measured(done.graph, spec),
    )
    return Done(State(done.graph, memory), stage, tuple(notes))


def _calibration(spec: Spec) -> Calibration | None:
    return None if spec.task is None else spec.task.calibration()


def _proof(spec: Spec, graph: Graph) -> Callable[[Graph, Graph], Verdict] | None:
    """How the spec wants a pass to be proved."""
    if spec.verify is None:
        return None
    wanted = spec.verify
    args: tuple[Any, ...] = ()
    kwargs = None
    if wanted.inputs == "task" and spec.task is not None:
        example = spec.task.example(8)
        args, kwargs = (example, None) if isinstance(example, tuple) else ((), dict(example))
    else:
        sizes = sizes_of(graph, spec)
        kwargs = random_arguments(graph, sizes, seed_of(spec.seed, "proof"))

    def prove(before: Graph, after: Graph) -> Verdict:
        return verify(
            before, after, args, kwargs, contract=wanted.contract, bound=wanted.tolerance
        )

    return prove


def training(
    step: TrainStep,
    index: int,
    state: State,
    spec: Spec,
    *,
    so_far: Sequence[Epoch] = (),
    on_epoch: Callable[[Sequence[Epoch], Callable[[], State]], object],
    on_growth: Callable[[Growth], object],
) -> Done:
    """Train on the task, from where `so_far` epochs of it have led.

    `on_epoch` is told all epochs after each, with a way to get the state, `on_growth` every width
    that changes.
    """
    begun = time.perf_counter()
    options = replace(step.options, seed=seed_of(spec.seed, index, step.options.seed))
    notes: list[str] = []
    module = to_torch(state.graph)
    optimizer, name, settings = _optimizer(module, options, state.memory, notes)

    live = Live(module, optimizer)
    growing = _growing(step, index, spec, live, on_growth)

    def left() -> State:
        return State(live.graph, Memory(name, settings, optimizer_state(optimizer, module)))

    epochs = list(so_far)

    def tell(epoch: Trained) -> None:
        epochs.append(_point(epoch, epochs[-1].step if epochs else 0))
        on_epoch(epochs, left)

    assert spec.task is not None
    made = train(live, spec.task, options, first=len(so_far), on_epoch=tell, on_step=growing)
    done = left()
    before, after = widths(state.graph), widths(done.graph)
    stage = Stage(
        kind="train",
        name=step.name,
        text=str(step),
        what=_what(step, spec.task.name),
        seconds=time.perf_counter() - begun,
        changed=tuple(name for name, width in after.items() if before.get(name) != width),
        left=() if growing is None else tuple(growing.grower.left.items()),
        widths_before=before,
        widths_after=after,
        measured=measured(done.graph, spec, made.score),
        epochs=tuple(epochs),
        growth=() if growing is None else tuple(growing.growth),
    )
    return Done(done, stage, tuple(notes))


def _growing(
    step: TrainStep, index: int, spec: Spec, live: Live, tell: Callable[[Growth], object]
) -> Growing | None:
    """The growth that the step asks for, with the loss that it trains for."""
    if step.grow is None or spec.task is None:
        return None
    loss = spec.task.trained_for.smoothed(step.options.label_smoothing)
    return Growing(step.grow, live, loss, seed_of(spec.seed, index, "grow", step.grow.seed), tell)


def _what(step: TrainStep, task: str) -> str:
    how = "" if step.grow is None else f" {_first_sentence(type(step.grow))}"
    return f"Training on {task}.{how}"


def _optimizer(
    module: Lowered, options: TrainOptions, memory: Memory | None, notes: list[str]
) -> tuple[Any, str, dict[str, Any]]:
    """The optimizer of the training before with its memory, unless another one is asked for."""
    goes_on = memory is not None and options.optimizer in (None, memory.name)
    name = options.optimizer or (memory.name if memory is not None else "sgd")
    settings = dict(options.settings)
    if goes_on and memory is not None:
        settings = {**memory.settings, **settings}
    optimizer = make_optimizer(module, name, **settings)
    if goes_on and memory is not None:
        load_optimizer_state(optimizer, module, memory.state)
    elif memory is not None:
        notes.append(f"{name} begins anew: what {memory.name} remembered is no use to it")
    return optimizer, name, settings


def _point(epoch: Trained, before: int) -> Epoch:
    score: Score | None = epoch.score
    return Epoch(
        step=before + epoch.steps,
        loss=epoch.loss,
        metric=None if score is None else score.metric,
        held_back_loss=None if score is None else score.loss,
    )


def _first_sentence(cls: type) -> str:
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Warnings of netir as notes of the run; others go their way."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NetirWarning)
        yield notes
    for item in caught:
        if issubclass(item.category, NetirWarning):
            notes.append(str(item.message))
        else:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)


__all__ = ["Done", "rewrite", "start", "training"]
