"""The demo: its spec is packaged and sound, and a short form of it does all that it shows."""

from importlib.resources import files
from pathlib import Path

import pytest
from typer.testing import CliRunner

from netir.cli import app
from netir.passes import Prune
from netir.runs import run_spec
from netir.spec import PassStep, Spec, TrainStep, load

DEMO = Path(str(files("netir") / "demo" / "digits.yaml"))


def test_the_demo_is_what_it_says() -> None:
    spec = load(DEMO)
    assert spec.model == "builtin:digits_cnn"
    names = [step.name for step in spec.passes]
    assert names == ["train", "prune", "fold", "slim", "train", "widen", "train"]
    prune = spec.passes[1]
    assert isinstance(prune, PassStep)
    assert isinstance(prune.rewrite, Prune)
    assert prune.rewrite.compensate == "least-squares"
    assert {export.format for export in spec.exports} == {"onnx", "python", "netir"}


def test_a_short_form_of_the_demo_runs(tmp_path: Path) -> None:
    """Every step as it is, with trainings of a few batches and no targets."""
    plain = load(DEMO).plain()
    for step in plain["passes"]:
        if "train" in step:
            step["train"] |= {"epochs": None, "steps": 3, "schedule": "constant"}
    spec = Spec(**{**plain, "targets": {}})
    done = run_spec(spec, tmp_path / "run")
    stages = done.story.stages
    for stage, step in zip(stages[1:], spec.passes, strict=True):
        if isinstance(step, TrainStep):
            continue
        assert stage.changed, step
        assert stage.error is not None
    prune, slim, widen = stages[2], stages[4], stages[6]
    assert prune.measured.parameters < 0.4 * stages[1].measured.parameters  # type: ignore[union-attr, operator]
    assert slim.widths_after["hidden"] < slim.widths_before["hidden"]
    assert widen.contract == "exact"
    assert done.story.exports[0].error <= done.story.exports[0].allowed  # type: ignore[operator]


def test_the_command_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr("netir.cli.runs.run_and_tell", lambda *args, **options: ran.append(args))
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["demo"]).exit_code == 0
    assert CliRunner().invoke(app, ["demo", "--out", "there"]).exit_code == 0
    assert [(spec.name, str(out)) for spec, out, _ in ran] == [
        ("digits", "netir-demo"), ("digits", "there"),
    ]  # fmt: skip
