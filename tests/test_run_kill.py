"""Runs that are killed, interrupted or short of room go on, and end in the same bytes."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

import netir
from netir.builtin import BUILTINS
from tests.run_worker import bytes_of, ended, kinds, once, started

SPEC = """\
netir_spec: 1
name: small
model: net.netir
task: {name: digits, test_share: 0.1}
passes:
  - train: {epochs: 1, lr: 0.05, batch_size: 128}
  - {pass: prune, amount: 0.3, compensate: least-squares}
  - train: {epochs: 1, batch_size: 128}
  - {pass: fold}
  - {pass: widen, factor: 2, split: uneven}
  - train: {epochs: 1, batch_size: 128}
exports: [netir, python, onnx]
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    model, args = BUILTINS["residual"]()
    netir.save(netir.trace(model, args), folder / "net.netir")
    (folder / "spec.yaml").write_text(SPEC)
    return folder / "spec.yaml"


@pytest.fixture(scope="module")
def whole(spec: Path) -> Path:
    """The folder of a run that nothing disturbed."""
    out = spec.parent / "whole"
    assert ended(started(spec, out)) == 0, out.with_suffix(".out").read_text()
    return out


def test_ten_kills_change_nothing(spec: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    chance = random.Random(0)
    points = sorted(chance.sample(range(len(kinds(whole)) - 1), 10))
    killed = 0
    for done, point in enumerate(points):
        process = started(spec, out)
        # Every life of the run adds "resumed", and begins the step anew in which it was killed.
        once(process, lambda p=point + done: len(kinds(out)) >= p, signal.SIGKILL,
             chance.uniform(0, 0.15))  # type: ignore[misc] # fmt: skip
        killed += process.exitcode == -signal.SIGKILL
    assert killed == 10
    assert ended(started(spec, out)) == 0, out.with_suffix(".out").read_text()
    assert bytes_of(out) == bytes_of(whole)
    found = kinds(out)
    assert found.count("begun") == found.count("finished") == 1
    assert found.count("step") == 7
    assert (out / "report.html").exists()


def test_an_interrupt_ends_in_130_and_the_run_goes_on(
    spec: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "interrupted"
    process = started(spec, out)
    once(process, lambda: kinds(out).count("step") == 3, signal.SIGINT, 0.05)
    assert process.exitcode == 130
    assert "Traceback" not in out.with_suffix(".out").read_text()
    assert kinds(out)[-1] == "interrupted"
    assert ended(started(spec, out)) == 0
    assert bytes_of(out) == bytes_of(whole)


def test_a_disk_that_takes_no_more_is_told(spec: Path, whole: Path, tmp_path: Path) -> None:
    largest = (whole / "steps/model/graph.netir").stat().st_size + 2000
    out = tmp_path / "full"
    assert ended(started(spec, out, largest)) == 2
    said = out.with_suffix(".out").read_text()
    assert "error: cannot write the file: " in said
    assert "File too large" in said
    assert "Traceback" not in said
    assert kinds(out)[-1] == "failed"
    finished = sorted(p.name for p in (out / "steps").iterdir())
    assert finished == ["00-train", "01-prune", "02-train", "03-fold", "model"]
    assert ended(started(spec, out)) == 0
    assert bytes_of(out) == bytes_of(whole)


def test_two_processes_in_one_folder(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "both"
    first = started(spec, out)
    end = time.monotonic() + 60
    while not kinds(out) and time.monotonic() < end:
        time.sleep(0.002)
    assert ended(started(spec, out)) == 2
    assert "another process is running in this folder" in out.with_suffix(".out").read_text()
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join()
