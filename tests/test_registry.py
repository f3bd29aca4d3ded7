"""Names of other packages: a distribution is put on the path, with entry points to its modules."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from netir import passes, registry
from netir.builtin import BUILTINS
from netir.cli import app
from netir.errors import NetirError
from netir.frontends import trace
from netir.models import read_model
from netir.runs import run_spec
from netir.spec import PassStep, parse

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar
from torch import nn, zeros
from netir.passes import Widen
from netir.passes.growth.inits import random
from netir.passes.methods import Grower
from netir.rewrite import Pass
from netir.task import Data, Task

@dataclass(frozen=True)
class Double(Widen):
    """Twice as wide."""
    name: ClassVar[str] = "double"
    note: str = ""

class Bare(Widen):
    name = "bare"

@dataclass(frozen=True)
class Mine(Task):
    """A task of nothing."""
    name: ClassVar[str] = "mine"
    count: int = 3
    def read(self) -> Data:
        raise NotImplementedError

def last(space, evidence):
    """Keep the last ones."""
    import torch
    return torch.arange(space.size)

def small():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), (zeros(2, 3),)

@dataclass(frozen=True)
class Lazy:
    """One unit at a step."""
    at: int = 2
    def __call__(self, reading):
        return int(reading.step == self.at)

@dataclass
class Slow(Grower):
    """Grow late."""
    trigger: object = Lazy(3)
    patience: float = 1.5

def plain(wanted):
    """As random."""
    return random(wanted)

number = 3
'''

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a distribution on the path that offers `group: name = value` lines."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name: str, **groups: str) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"[netir.{group}]\n{points}\n" for group, points in groups.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        (tmp_path / "offered.py").write_text(MODULE)
        registry.forget()

    yield put
    sys.modules.pop("offered", None)
    monkeypatch.undo()
    registry.forget()


def refused(kind: str, name: str) -> str:
    with pytest.raises(NetirError) as error:
        registry.called(kind, name)
    return str(error.value)


def test_own_names() -> None:
    assert registry.names("pass") == list(passes.PASSES)
    assert registry.called("pass", "widen") is passes.Widen
    assert registry.called("model", "residual") is BUILTINS["residual"]
    assert "did you mean 'widen'?" in refused("pass", "wide")
    assert "there is no score 'l3'" in refused("score", "l3")


def test_a_pass_of_another_package(install: Install) -> None:
    install("more", passes="double = offered:Double")
    assert registry.names("pass")[-1] == "double"
    spec = parse("{netir_spec: 1, passes: [{pass: double, note: hello}]}")
    step = spec.passes[0]
    assert isinstance(step, PassStep)
    assert str(step) == "double(note='hello')"
    assert parse(spec.dump()) == spec
    assert "double" in CliRunner().invoke(app, ["passes"]).stdout
    assert '"const": "double"' in CliRunner().invoke(app, ["schema"]).stdout


def test_nothing_is_imported_before_it_is_named(install: Install) -> None:
    install("more", passes="double = offered:Double", scores="last = offered:last")
    assert "double" in registry.names("pass")
    assert registry.called("score", "l2")
    assert "offered" not in sys.modules


def test_a_score_of_another_package(install: Install) -> None:
    install("more", scores="last = offered:last")
    spec = parse("{netir_spec: 1, passes: [{pass: prune, score: last, where: stem}]}")
    step = spec.passes[0]
    assert isinstance(step, PassStep)
    graph = trace(*BUILTINS["residual"]())
    thin = step.rewrite(graph)
    kept = thin.params["stem.weight"].data
    assert torch.equal(kept, graph.params["stem.weight"].data[-len(kept) :])
    function = registry.called("score", "last")
    by_function = PassStep(passes.Prune("stem", score=function))
    assert by_function.plain()["score"] == "last"


def test_a_task_and_a_model_of_another_package(install: Install) -> None:
    install("more", tasks="mine = offered:Mine", models="small = offered:small")
    spec = parse("{netir_spec: 1, model: builtin:small, task: {name: mine, count: 5}}")
    assert spec.task is not None
    assert spec.task.count == 5  # type: ignore[attr-defined]
    assert parse(spec.dump()) == spec
    assert spec.model is not None
    assert len(read_model(spec.model).nodes) == 3


def test_growth_of_another_package(install: Install, tmp_path: Path) -> None:
    install("more", growers="slow = offered:Slow", triggers="lazy = offered:Lazy",
            inits="plain = offered:plain")  # fmt: skip
    spec = parse(
        """{netir_spec: 1, model: builtin:digits_mlp, task: digits, passes: [
        {train: {steps: 2, evaluate: false,
                 grow: {method: slow, patience: 2, trigger: {name: lazy, at: 1}, init: plain}}},
        {pass: grow, init: plain}]}"""
    )
    assert parse(spec.dump()) == spec
    assert str(spec.passes[0]).endswith(
        "grow=slow(trigger=lazy(at=1), init='plain', patience=2.0))"
    )
    done = run_spec(spec, tmp_path / "run")
    assert [(g.step, g.init) for g in done.story.stages[1].growth] == [(1, "plain")] * 2
    said = CliRunner().invoke(app, ["methods"]).stdout
    assert all(name in said for name in ("slow", "lazy", "plain"))
    schema = CliRunner().invoke(app, ["schema"]).stdout
    assert all(f'"const": "{name}"' in schema for name in ("slow", "lazy"))


def test_a_package_that_cannot_be_imported(install: Install) -> None:
    install("broken", passes="double = offered_not:Double\nother = offered:Nothing")
    message = refused("pass", "double")
    assert "the pass 'double' of 'broken' cannot be imported: ModuleNotFoundError" in message
    assert "entry point netir.passes: double = offered_not:Double" in message
    assert "AttributeError" in refused("pass", "other")
    with pytest.raises(NetirError, match="of 'broken' cannot be imported"):
        parse("{netir_spec: 1, passes: [{pass: double}]}")


@pytest.mark.parametrize("name", ["widen", "same"])
def test_clashes(install: Install, name: str) -> None:
    install("one", passes=f"{name} = offered:Double")
    install("two", passes=f"{name} = offered:Bare")
    message = refused("pass", name)
    assert f"two packages offer a pass '{name}'" in message
    assert "uninstall one of them" in message
    assert registry.called("pass", "prune") is passes.Prune
    assert registry.names("pass").count(name) == 1


@pytest.mark.parametrize(
    ("group", "kind", "point", "why"),
    [
        ("passes", "pass", "number = offered:number", "is no class derived from netir.rewrite.P"),
        ("passes", "pass", "mine = offered:Mine", "is no class derived from netir.rewrite.Pass"),
        ("tasks", "task", "double = offered:Double", "is no class derived from netir.task.Task"),
        ("passes", "pass", "bare = offered:Bare", "is no dataclass"),
        ("passes", "pass", "triple = offered:Double", "calls itself 'double'"),
        ("scores", "score", "number = offered:number", "is no function"),
        ("inits", "init", "number = offered:number", "is no function"),
        ("growers", "grower", "lazy = offered:Lazy", "derived from netir.passes.growth.grower.G"),
        ("triggers", "trigger", "mine = offered:Mine", "derived from collections.abc.Callable"),
        ("triggers", "trigger", "last = offered:last", "derived from collections.abc.Callable"),
    ],
)
def test_what_does_not_fit(install: Install, group: str, kind: str, point: str, why: str) -> None:
    install("odd", **{group: point})
    assert why in refused(kind, point.partition(" ")[0])
