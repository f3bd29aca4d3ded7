"""The commands that run specs: what they print, where they write, and how they end."""

import json
import os
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

import netir
from netir.cli import app
from netir.cli.progress import _Bars
from netir.runs import Event

SPEC = """\
netir_spec: 1
name: tiny
model: net.netir
passes:
  - {pass: prune, amount: 0.5}
targets: {parameters: 20}
exports: [netir]
"""
FACTORY = """
import torch
from torch import nn

def bare():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("makers.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(os.sys.modules, "makers", raising=False)  # type: ignore[attr-defined]
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    netir.save(netir.trace(net, torch.zeros(2, 3)), "net.netir")
    Path("tiny.yaml").write_text(SPEC)


def invoke(code: int, *args: str) -> Result:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_a_run_tells_its_steps_and_what_came_of_it() -> None:
    said = invoke(0, "run", "tiny.yaml").stdout
    assert "step 0: prune(amount=0.5)" in said
    assert "masked: holds, error" in said
    rows = [line.split() for line in said.splitlines()]
    assert ["parameters", "26", "14", "54", "%"] in rows
    assert ["parameters", "at", "most", "20", "14", "met"] in rows
    assert any(row[:2] == ["latency,", "PyTorch"] and row[-1] == "%" for row in rows)
    assert "report: runs/tiny/report.html" in said
    assert Path("runs/tiny/exports/tiny.netir").exists()
    again = invoke(0, "run", "tiny.yaml").stdout
    assert "was finished before; nothing was done now" in again
    assert "step 0" not in again


def test_a_missed_target_ends_in_1_after_everything_is_written() -> None:
    for _ in range(2):
        said = invoke(1, "run", "tiny.yaml", "--set", "targets.parameters=5", "-o", "out").stdout
        assert "NOT MET" in said
    assert Path("out/report.html").exists()
    assert Path("out/exports/tiny.netir").exists()


def test_another_spec_in_the_folder_is_refused_unless_fresh() -> None:
    invoke(0, "run", "tiny.yaml")
    other = ("run", "tiny.yaml", "--set", "passes.0.amount=0.25")
    assert "passes.0.amount is 0.5 there and 0.25 in this spec" in invoke(2, *other).stderr
    invoke(0, *other, "--fresh")
    assert "amount: 0.25" in Path("runs/tiny/spec.yaml").read_text()


def test_an_accuracy_that_the_task_does_not_judge_is_refused_by_plan_and_run() -> None:
    with Path("tiny.yaml").open("a") as spec:
        spec.write("task: {name: digits, metric: top5}\n")
    one, two = (invoke(2, word, "tiny.yaml", "--set", "targets.accuracy=0.5").stderr
                for word in ("plan", "run"))  # fmt: skip
    assert one == two
    assert "judged by 'top5'" in one
    assert "at  --set targets.accuracy=0.5" in one
    assert not Path("runs").exists()


def test_json_is_all_on_standard_output() -> None:
    result = invoke(0, "run", "tiny.yaml", "--json")
    found = json.loads(result.stdout)
    assert found["met"] is True
    assert found["before"]["parameters"] == 26
    assert found["after"]["parameters"] == 14
    assert found["targets"] == [
        {"name": "parameters", "wanted": "at most 20", "got": "14", "met": True}
    ]
    assert found["exports"][0]["file"] == "exports/tiny.netir"
    assert "step 0: prune" in result.stderr


def test_a_python_model_is_named_on_the_command_line() -> None:
    Path("own.yaml").write_text(SPEC.replace("model: net.netir\n", ""))
    assert "the spec names no model" in invoke(2, "run", "own.yaml").stderr
    command = ("run", "own.yaml", "--model", "makers:bare", "--input", "input=f32[batch, 3]")
    invoke(0, *command)
    text = Path("runs/tiny/spec.yaml").read_text()
    assert "model: null" in text
    assert "input=f32[batch, 3]" in text
    first = Path("runs/tiny/steps/00-prune/graph.netir").read_bytes()
    invoke(0, *command, "-o", "second")  # its random weights come from the seed of the spec
    assert Path("second/steps/00-prune/graph.netir").read_bytes() == first
    invoke(0, *command)
    message = invoke(2, "run", "own.yaml", "--model", "makers:other", *command[4:]).stderr
    assert "the run began with the network 'makers:bare', not 'makers:other'" in message


def test_a_file_in_place_of_the_model_becomes_part_of_the_spec() -> None:
    Path("own.yaml").write_text(SPEC.replace("model: net.netir\n", ""))
    invoke(0, "run", "own.yaml", "--model", "net.netir")
    assert str(Path("net.netir").absolute()) in Path("runs/tiny/spec.yaml").read_text()
    invoke(0, "run", "runs/tiny/spec.yaml")


def test_a_report_is_written_again() -> None:
    invoke(0, "run", "tiny.yaml")
    Path("runs/tiny/report.html").unlink()
    assert invoke(0, "report", "runs/tiny").stdout == "wrote runs/tiny/report.html\n"
    assert Path("runs/tiny/report.html").exists()
    assert "no run has begun in this folder" in invoke(2, "report", ".").stderr


def test_export() -> None:
    said = invoke(0, "export", "net.netir", "-o", "net.onnx").stdout
    assert "ONNX Runtime" in said
    assert said.endswith("wrote net.onnx\n")
    onnx.checker.check_model("net.onnx")
    assert invoke(0, "export", "net.netir", "-o", "net.py").stdout == "wrote net.py\n"
    assert "netir" not in Path("net.py").read_text().split("import", 1)[1]
    invoke(0, "export", "net.onnx", "-o", "again.netir")
    x = torch.randn(5, 3)
    want = netir.run(netir.load("net.netir"), x)
    again = netir.load("again.netir")
    torch.testing.assert_close(netir.run(again, x), want)
    message = invoke(2, "export", "net.netir", "-o", "net.tflite").stderr
    assert "cannot export to 'net.tflite'" in message


def test_bars_follow_a_run() -> None:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(force_terminal=True, width=100, highlight=False)
    with console.capture() as said, Progress(console=console) as progress:
        bars = _Bars(progress)
        bars(Event("step-begun", "", {"index": 0, "count": 2, "name": "train", "text": "train()"}))
        epoch = {"loss": 0.5, "metric": 0.75}
        bars(Event("epoch", "", {"index": 0, "number": 1, "epochs": 4, "epoch": epoch,
                                 "metric": "accuracy"}))  # fmt: skip
        steps, epochs = progress.tasks
        assert (steps.completed, steps.total) == (1, 3)
        assert (epochs.completed, epochs.total) == (1, 4)
        assert "accuracy 75.0 %" in epochs.description
        stage = {"kind": "train", "seconds": 1.0, "measured": {"parameters": 7}}
        bars(Event("step", "", {"index": 0, "stage": stage, "notes": [], "metric": "accuracy"}))
        assert steps.completed == 2
        assert not epochs.visible
    assert "step 0: train()" in said.get()
    assert "7 parameters" in said.get()
