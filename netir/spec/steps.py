"""The steps of a spec: passes with their options, and training between them; and the task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from netir.passes.growth.grower import Grower
from netir.rewrite import Pass
from netir.spec.options import by_name, instance, plain_options, text, text_of, written
from netir.spec.problems import Problem, refuse, shown
from netir.spec.yaml import Path
from netir.task import Task
from netir.train_options import TrainOptions


@dataclass(frozen=True)
class PassStep:
    """A pass that rewrites the network."""

    rewrite: Pass

    @property
    def name(self) -> str:
        """What the step is called in reports."""
        return self.rewrite.name

    def plain(self) -> dict[str, Any]:
        """The step as a spec writes it, with every option."""
        return written("pass", "pass", self.rewrite)

    def __str__(self) -> str:
        return str(self.rewrite)


@dataclass(frozen=True)
class TrainStep:
    """Training on the task, with these options; `grow` adds units meanwhile.

    A run grows by a grower of its own with the options of `grow`, its loss being the task's.
    """

    options: TrainOptions = field(default_factory=TrainOptions)
    grow: Grower | None = None

    @property
    def name(self) -> str:
        """What the step is called in reports."""
        return "train"

    def plain(self) -> dict[str, Any]:
        """The step as a spec writes it."""
        grow = None if self.grow is None else written("grower", "method", self.grow)
        return {"train": {**plain_options(self.options), "grow": grow}}

    def __str__(self) -> str:
        grow = {} if self.grow is None else {"grow": text_of("grower", self.grow)}
        return text("train", self.options, grow)


Step = PassStep | TrainStep


def step_of(value: Any) -> Step:
    """A step: of plain data, of a pass, or as it is."""
    if isinstance(value, PassStep | TrainStep):
        return value
    if isinstance(value, Pass):
        return PassStep(value)
    if isinstance(value, dict) and isinstance(value.get("pass"), str):
        return PassStep(_refused(*by_name("pass", "pass", value)))
    if isinstance(value, dict) and isinstance(value.get("train", ""), dict | None):
        return _training(value)
    refuse([Problem((), f"{shown(value)} is no step",
                    "write 'pass: NAME' with its options, or 'train: {epochs: 1}'")])  # fmt: skip


def _training(value: Mapping[str, Any]) -> TrainStep:
    outside = [name for name in value if name != "train"]
    if outside:
        fix = f"write 'train: {{{outside[0]}: …}}'"
        refuse([Problem((outside[0],), f"'{outside[0]}' is no key of a step", fix, key=True)])
    given = dict(value["train"] or {})
    grow, problems = _grower(given.pop("grow", None))
    options, wrong = instance(TrainOptions, "train", given, more=("grow",))
    return TrainStep(options, _refused(grow, [*wrong, *problems], ("train",)))


def _grower(value: Any) -> tuple[Grower | None, Iterable[Problem]]:
    """What grows during a training, of plain data or as it is, and what is wrong with it."""
    if value is None or isinstance(value, Grower):
        return value, ()
    found, problems = by_name("grower", "method", value)
    return found, (replace(problem, path=("grow", *problem.path)) for problem in problems)


def task_of(value: Any) -> Task | None:
    """A task: of plain data, or as it is."""
    if value is None or isinstance(value, Task):
        return value
    found: Task
    if isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("name"), str)):
        found = _refused(*by_name("task", "name", value))
        return found
    refuse([Problem((), f"{shown(value)} is no task", "write 'task: {name: digits}'")])


def task_plain(task: Task) -> dict[str, Any]:
    """A task as a spec writes it, with every option."""
    return written("task", "name", task)


def _refused(found: Any, problems: Iterable[Problem], path: Path = ()) -> Any:
    """What was made, unless there are problems; it stands at `path`."""
    problems = [replace(problem, path=(*path, *problem.path)) for problem in problems]
    if problems:
        refuse(problems)
    return found


__all__ = ["PassStep", "Step", "TrainStep", "step_of", "task_of", "task_plain"]
