"""What a spec says: the network, the task, the steps, and what the result must be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from netir import registry
from netir.errors import NetirError
from netir.spec.problems import Problem, SpecError, problems_of, refuse
from netir.spec.steps import Step, TrainStep, step_of, task_of, task_plain
from netir.spec.yaml import Document, write
from netir.task import Task

FORMAT = 1
_SUFFIXES = {"netir": ".netir", "onnx": ".onnx", "python": ".py"}
_TASK = "add 'task: {name: digits}' to the spec"
_PYTHON = re.compile(r"[\w.]+:[\w.]+")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

def _whole(value: Any) -> Any:
    """A float such as 1e6 that is a whole number, as that."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Number = Annotated[int, BeforeValidator(_whole), Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    """A part of a spec: frozen, with nothing extra."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Verify(_Part):
    """How every pass is proved: nothing given means by its own contract, on random inputs."""

    contract: Literal["exact", "exact-eval", "masked", "bounded", "changed"] | None = None
    """Another contract than the one that the pass promises."""
    tolerance: Positive | None = None
    """The error that is allowed, relative to the output; without, what rounding explains."""
    inputs: Literal["random", "task"] = "random"
    """What the networks are compared on: random numbers, or the first batch of the task."""


class Targets(_Part):
    """What the result must reach: at most these costs, at least this accuracy."""

    parameters: Number | None = None
    macs: Number | None = None
    bytes: Number | None = None
    latency_ms: Positive | None = None
    accuracy: Share | None = None

    def given(self) -> dict[str, int | float]:
        """The targets that there are, by name."""
        return {name: value for name, value in self if value is not None}


class Export(_Part):
    """A file that the result is written to, in the folder of the run."""

    format: Literal["netir", "onnx", "python"]
    file: str = ""
    """Its name; without one, that of the spec with the ending of the format."""

    @field_validator("file")
    @classmethod
    def _safe(cls, file: str) -> str:
        if file and not _FILE_NAME.fullmatch(file):
            refuse([Problem((), f"'{file}' is no plain file name",
                            "use letters, digits, '.', '-' and '_', and no folder")])  # fmt: skip
        return file

    @model_validator(mode="after")
    def _fits(self) -> Self:
        suffix = _SUFFIXES[self.format]
        if self.file and not self.file.endswith(suffix):
            refuse([Problem(("file",), f"a file in the format {self.format} ends in {suffix}",
                            f"name it '{Path(self.file).stem}{suffix}'")])  # fmt: skip
        return self

    def named(self, name: str) -> Export:
        """The same with a file's name, made from the spec's where it has none."""
        stem = name.replace("-", "_").replace(".", "_") if self.format == "python" else name
        return self.model_copy(update={"file": self.file or f"{stem}{_SUFFIXES[self.format]}"})


def _export_of(value: Any) -> Any:
    return {"format": value} if isinstance(value, str) else value


def _verify_of(value: Any) -> Any:
    return ({} if value else None) if isinstance(value, bool) else value


class Spec(_Part):
    """One run: which network, what is done to it in which order, and what must come out."""

    netir_spec: Literal[1] = 1
    """The version of the format."""
    name: str = Field("net", pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")
    """What the run is called; exports are named after it."""
    seed: int = Field(0, ge=0, lt=2**32)
    """For all that is drawn by chance; a pass or a task may have a seed of its own."""
    model: str | None = None
    """A .netir or .onnx file, relative to the spec, or builtin:NAME; a Python model is named on
    the command line, by --model."""
    inputs: tuple[str, ...] = Field((), strict=False)
    """Example inputs of a model that brings none: 'x=f32[batch, 3, 32, 32]'."""
    sizes: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Numbers for open sizes other than the batch: {height: 224}."""
    task: Annotated[Task | None, PlainValidator(task_of), WithJsonSchema({})] = None
    """The data, loss and metric that the network is for, by a registered name, with options."""
    passes: tuple[Annotated[Step, PlainValidator(step_of), WithJsonSchema({})], ...] = Field(
        (), strict=False
    )
    """The steps in order: passes with their options, and training."""
    verify: Annotated[Verify | None, BeforeValidator(_verify_of)] = Verify()
    """How every pass is proved; true is the default, false leaves it out."""
    targets: Targets = Targets()
    """What the result must reach: a run that misses one ends with exit code 1."""
    exports: tuple[Annotated[Export, BeforeValidator(_export_of)], ...] = Field((), strict=False)
    """The files that the result is written to: formats, or formats with names of files."""
    report: bool = True
    """Whether the run writes a report as a web page."""

    def __init__(self, /, **parts: Any) -> None:
        try:
            super().__init__(**parts)
        except ValidationError as error:
            raise SpecError(problems_of(error, _keys), Document(parts)) from None

    @field_validator("exports")
    @classmethod
    def _named(cls, exports: tuple[Export, ...], info: ValidationInfo) -> tuple[Export, ...]:
        """Every export with the name of its file, which no other has."""
        found = [e.named(info.data.get("name", "net")) for e in exports]
        files = [export.file for export in found]
        twice = [place for place, file in enumerate(files) if file in files[:place]]
        if twice:
            refuse(Problem((place,), f"two exports are written to '{files[place]}'",
                           "give one another file") for place in twice)  # fmt: skip
        return tuple(found)

    @model_validator(mode="after")
    def _has_task(self) -> Self:
        """What needs a task has one."""
        if self.task is None:
            wanting = [
                Problem(("passes", place), f"step {place}, {step.name}, needs a task", _TASK)
                for place, step in enumerate(self.passes)
                if isinstance(step, TrainStep)
            ]
            if self.targets.accuracy is not None:
                path = ("targets", "accuracy")
                wanting.append(Problem(path, "the target 'accuracy' needs a task", _TASK))
            if self.verify is not None and self.verify.inputs == "task":
                path = ("verify", "inputs")
                wanting.append(Problem(path, "'verify' on inputs of the task needs a task", _TASK))
            if wanting:
                refuse(wanting)
        return self

    @model_validator(mode="after")
    def _is_judged(self) -> Self:
        """The task measures the accuracy that is wanted."""
        name = "accuracy" if self.task is None else self.task.judged_by.name
        if self.targets.accuracy is not None and name != "accuracy":
            refuse([Problem(
                ("targets", "accuracy"),
                f"the target is an accuracy, and the task is judged by '{name}'",
                "leave the target out, or give the task 'metric: accuracy'",
            )])  # fmt: skip
        return self

    @field_validator("model")
    @classmethod
    def _known(cls, model: str | None) -> str | None:
        if model is not None:
            _check_model(model)
        return model

    def at(self, folder: Path) -> Spec:
        """The spec with its model file, and the path of its task, taken relative to a folder."""
        changes: dict[str, Any] = {}
        if self.model is not None and not self.model.startswith("builtin:"):
            changes["model"] = str((folder / self.model).absolute())
        task: Any = self.task
        path = getattr(task, "path", None)
        if isinstance(path, str) and path:
            changes["task"] = replace(task, path=str((folder / path).absolute()))
        return self.model_copy(update=changes) if changes else self

    def plain(self) -> dict[str, Any]:
        """The spec as plain data, with every default written out."""
        parts = {
            **self.model_dump(mode="json", exclude={"task", "passes"}),
            "sizes": dict(sorted(self.sizes.items())),
            "task": None if self.task is None else task_plain(self.task),
            "passes": [step.plain() for step in self.passes],
            "verify": False if self.verify is None else self.verify.model_dump(),
            "targets": self.targets.given(),
        }
        return {name: parts[name] for name in Spec.model_fields}

    def dump(self) -> str:
        """Canonical YAML with every default written out: equal specs give equal bytes."""
        return write(self.plain())


def _keys(path: tuple[str | int, ...]) -> Iterable[str]:
    """The keys of the mapping at a path."""
    parts: Mapping[Any, type[_Part]] = {"targets": Targets, "verify": Verify, "exports": Export}
    return (parts[path[0]] if path else Spec).model_fields


def _check_model(model: str) -> None:
    if model.startswith("builtin:"):
        try:
            registry.called("model", model.removeprefix("builtin:"))
        except NetirError as error:
            refuse([Problem((), error.what, error.fix)])
    elif not model.endswith((".netir", ".onnx")):
        if _PYTHON.fullmatch(model):
            refuse([Problem((), f"a spec cannot name the Python function '{model}': a file runs "
                            "no code of its own", f"leave it out and add --model {model}")])
        refuse([Problem((), f"'{model}' is no model",
                        "name a .netir or .onnx file, or builtin:NAME")])  # fmt: skip


__all__ = ["Export", "Spec", "Targets", "Verify"]
