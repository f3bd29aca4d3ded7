"""What a run does: its steps, files, targets and exports, and how it goes on."""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import netir
from netir import NetirError
from netir.builtin import BUILTINS
from netir.errors import ContractError
from netir.passes import Prune, Widen
from netir.runs import Event, Outcome, checkpoints, report, run_spec
from netir.runs.state import read_state
from netir.spec import Spec, load
from netir.task import Task
from tests.liar import Liar
from tests.run_worker import bytes_of, kinds


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    model, args = BUILTINS["residual"]()
    file = tmp_path_factory.mktemp("net") / "net.netir"
    netir.save(netir.trace(model, args), file)
    return str(file)


TASK = {"name": "digits", "test_share": 0.1}
SHORT = {"steps": 4, "batch_size": 64}


def spec_of(net: str | None, *passes: Any, **parts: Any) -> Spec:
    return Spec(netir_spec=1, name="small", model=net, passes=passes, **parts)


@pytest.fixture(scope="module")
def trained(net: str, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run with all there is."""
    spec = spec_of(
        net,
        {"train": {**SHORT, "optimizer": "adam", "lr": 0.002}},
        {"pass": "prune", "amount": 0.5, "compensate": "mean"},
        {"pass": "widen", "factor": 2.0},
        {"train": SHORT},
        task=TASK,
        targets={"parameters": 40_000, "macs": 10, "accuracy": 1.0},
        exports=["netir", "python", "onnx"],
    )
    return run_spec(spec, tmp_path_factory.mktemp("runs") / "all")


def test_everything_is_where_it_belongs(trained: Outcome) -> None:
    run = trained.folder
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    steps = ("model", "00-train", "01-prune", "02-widen", "03-train")
    assert names == {
        ".lock", "journal.jsonl", "log.txt", "report.html", "spec.yaml",
        "exports/small.netir", "exports/small.py", "exports/small.safetensors",
        "exports/small.onnx",
        *(f"steps/{step}/{file}" for step in steps for file in ("graph.netir", "step.json")),
        *(f"steps/{step}/optimizer.safetensors" for step in steps[1:]),
    }  # fmt: skip
    assert kinds(run)[0] == "begun"
    assert kinds(run)[-4:] == ["measured", "exported", "judged", "finished"]
    last = netir.load(run / "steps/03-train/graph.netir")
    assert str(last) == str(trained.graph) == str(netir.load(run / "exports/small.netir"))
    assert [step.text for step in last.history] == [
        "prune(amount=0.5, compensate='mean')", "widen(factor=2.0)",
    ]  # fmt: skip
    log = (run / "log.txt").read_text()
    assert "step 1: prune(amount=0.5, compensate='mean')" in log
    assert "target macs: wanted at most 10, got" in log


def test_the_moments_of_the_optimizer_move_along(trained: Outcome) -> None:
    run = trained.folder
    before, after = (read_state(run / "steps" / s) for s in ("00-train", "02-widen"))
    assert before.memory is not None
    assert after.memory is not None
    assert after.memory.name == "adam"
    assert after.memory.settings == {"lr": 0.002}
    graph = before.graph
    calibration = load(run / "spec.yaml").task.calibration()  # type: ignore[union-attr]
    name = "layer1.conv2.weight"
    want = {key: before.memory.state[f"{key}/{name}"] for key in ("exp_avg", "exp_avg_sq")}
    for rewrite in (Prune(amount=0.5, compensate="mean"), Widen(factor=2.0)):
        result = rewrite.apply(graph, calibration)
        move = result.moves.params[name]
        want = {key: move.apply(want[key], 1 + (key == "exp_avg_sq")) for key in want}
        graph = result.graph
    for key, value in want.items():
        assert torch.equal(after.memory.state[f"{key}/{name}"], value)
        assert value.abs().sum() > 0
    assert after.memory.state[f"step/{name}"] == 4
    last = read_state(run / "steps/03-train").memory
    assert last is not None
    assert last.state[f"step/{name}"] == 8


def test_the_story_tells_before_and_after(trained: Outcome) -> None:
    story = trained.story
    assert [stage.kind for stage in story.stages] == ["trace", "train", "pass", "pass", "train"]
    _, before, prune, widen, after = story.stages
    assert (prune.contract, widen.contract) == ("masked", "exact")
    assert prune.error is not None
    assert prune.widths_before["stem"] == 16
    assert prune.widths_after["stem"] == widen.widths_before["stem"] == 8
    assert "Remove indices of spaces" in prune.what
    assert ("head", "frozen: graph output") in prune.left
    assert before.measured is not None
    assert after.measured is not None
    for found in (before.measured, after.measured):
        assert found.latency_torch is not None
        assert found.latency_onnx is not None
        assert found.metric is not None
    assert before.measured.parameters == 19_658
    assert [e.step for s in story.stages for e in s.epochs] == [4, 8]
    assert story.metric == "accuracy"
    assert story.timing.startswith("Median of ")


def test_targets_are_judged(trained: Outcome) -> None:
    assert not trained.met
    got = {target.name: target.met for target in trained.story.targets}
    assert got == {"parameters": True, "macs": False, "accuracy": False}


def test_a_finished_run_is_not_run_again(trained: Outcome) -> None:
    journal = (trained.folder / "journal.jsonl").read_bytes()
    again = run_spec(load(trained.folder / "spec.yaml"), trained.folder)
    assert again.again
    assert not again.met
    assert again.story == trained.story
    assert (trained.folder / "journal.jsonl").read_bytes() == journal


def test_its_own_spec_gives_the_same_bytes(trained: Outcome, tmp_path: Path) -> None:
    run_spec(load(trained.folder / "spec.yaml"), tmp_path / "again")
    assert bytes_of(tmp_path / "again") == bytes_of(trained.folder)


def test_the_report_can_be_made_again(trained: Outcome) -> None:
    page = trained.folder / "report.html"
    first = page.read_text()
    page.unlink()
    assert report(trained.folder) == page
    assert "prune(amount=0.5, compensate='mean')".replace("'", "\\u0027") in first or (
        "prune(amount=0.5" in first
    )
    assert len(page.read_text()) == pytest.approx(len(first), rel=0.05)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 1}, "seed is 0 there and 1 in this spec"),
        ({"exports": ["onnx"]}, "exports.0.format is netir there and onnx in this spec"),
        ({"passes": ()}, "passes.0 is "),
        ({"targets": {}}, "targets.parameters is 40000 there and nothing in this spec"),
    ],
)
def test_a_folder_of_another_spec_is_refused(
    trained: Outcome, change: dict[str, Any], what: str
) -> None:
    plain = load(trained.folder / "spec.yaml").plain()
    with pytest.raises(NetirError, match="the folder is of another run") as raised:
        run_spec(Spec(**{**plain, **change}), trained.folder)
    assert what in raised.value.where
    assert "--fresh" in raised.value.fix


def test_fresh_starts_anew(net: str, tmp_path: Path) -> None:
    run_spec(spec_of(net, {"pass": "fold"}), tmp_path / "run")
    spec = spec_of(net, {"pass": "widen"}, report=False)
    done = run_spec(spec, tmp_path / "run", fresh=True)
    assert [p.name for p in sorted((tmp_path / "run/steps").iterdir())] == ["00-widen", "model"]
    assert not (tmp_path / "run/report.html").exists()
    assert not done.again


def interrupt(at: str, count: int = 1) -> Callable[[Event], None]:
    """A listener that interrupts the run at the `count`-th event of a kind."""
    seen = []

    def listen(event: Event) -> None:
        seen.append(event.kind)
        if event.kind == at and seen.count(at) == count:
            raise KeyboardInterrupt

    return listen


@pytest.mark.parametrize("at", ["begun", "step", "measured", "exported", "judged", "finished"])
def test_an_interrupted_run_goes_on(net: str, tmp_path: Path, at: str) -> None:
    spec = spec_of(net, {"pass": "fold"}, {"pass": "widen"}, exports=["netir"])
    with pytest.raises(KeyboardInterrupt):
        run_spec(spec, tmp_path / "run", listen=interrupt(at))
    done = run_spec(spec, tmp_path / "run")
    assert done.met
    found = kinds(tmp_path / "run")
    assert found.count("step") == 3
    for kind in ("begun", "measured", "exported", "judged"):
        assert found.count(kind) == 1
    assert report(tmp_path / "run").exists()


def test_a_long_training_goes_on_from_its_checkpoint(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(net, {"train": {"epochs": 3, "batch_size": 256, "schedule": "cosine"}},
                   task=TASK)  # fmt: skip
    run_spec(spec, tmp_path / "whole")
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run_spec(spec, tmp_path / "run", listen=interrupt("epoch", 2))
    assert (tmp_path / "run/steps/.00-train.part/graph.netir").exists()
    told: list[Event] = []
    done = run_spec(spec, tmp_path / "run", listen=told.append)
    assert [event["number"] for event in told if event.kind == "epoch"] == [3]
    assert len(done.story.stages[1].epochs) == 3
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "whole")


def test_a_broken_contract_ends_the_run(net: str, tmp_path: Path) -> None:
    spec = spec_of(net, {"pass": "fold"}, Liar())
    with pytest.raises(ContractError, match="does not keep its contract 'exact'"):
        run_spec(spec, tmp_path / "run")
    assert kinds(tmp_path / "run")[-1] == "failed"
    assert "does not keep its contract" in (tmp_path / "run/log.txt").read_text()
    assert [p.name for p in sorted((tmp_path / "run/steps").iterdir())] == ["00-fold", "model"]
    page = report(tmp_path / "run").read_text()
    assert "fold()" in page
    unproved = run_spec(spec_of(net, Liar(), verify=False), tmp_path / "unproved")
    assert unproved.story.stages[1].error is None


def test_a_tolerance_and_inputs_of_the_task(net: str, tmp_path: Path) -> None:
    spec = spec_of(net, {"pass": "fold"}, verify={"tolerance": 1e-30})
    with pytest.raises(ContractError, match="is allowed"):
        run_spec(spec, tmp_path / "run")
    spec = spec_of(net, {"pass": "fold"}, verify={"inputs": "task"}, task=TASK)
    found = run_spec(spec, tmp_path / "task").story.stages[1]
    random = run_spec(spec_of(net, {"pass": "fold"}), tmp_path / "random").story.stages[1]
    assert found.error != random.error
    spec = spec_of(net, {"pass": "widen"}, verify={"contract": "exact-eval"})
    assert run_spec(spec, tmp_path / "contract").story.stages[1].contract == "exact-eval"


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({"model": None}, "the spec names no model"),
        ({"model": "nowhere.netir"}, "there is no such file"),
        ({"passes": [{"pass": "prune", "score": "taylor"}]}, "needs data"),
    ],
)
def test_what_cannot_be_run_is_refused(
    net: str, tmp_path: Path, parts: dict[str, Any], what: str
) -> None:
    with pytest.raises(NetirError, match=what):
        run_spec(Spec(**{"model": net, **parts}), tmp_path / "run")


def test_networks_of_a_program(tmp_path: Path) -> None:
    model, args = BUILTINS["residual"]()
    spec = spec_of(None, {"pass": "fold"})
    graph = netir.trace(model, args)
    done = run_spec(spec, tmp_path / "graph", model=graph)
    assert run_spec(spec, tmp_path / "graph", model=graph, name="a graph").again
    other = netir.passes.Widen()(graph)
    with pytest.raises(NetirError, match="another than the one that the run began with"):
        run_spec(spec, tmp_path / "graph", model=other)
    with pytest.raises(NetirError, match="the run began with the network 'a graph', not 'mine'"):
        run_spec(spec, tmp_path / "graph", model=graph, name="mine")
    for number, given in enumerate([(model, args), lambda: graph]):
        again = run_spec(spec, tmp_path / str(number), model=given)
        assert str(again.graph) == str(done.graph)
    with pytest.raises(NetirError, match="a run cannot begin with a int"):
        run_spec(spec, tmp_path / "x", model=7)  # type: ignore[arg-type]


def test_a_module_is_traced_with_examples_of_the_task(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    spec = spec_of(None, {"train": SHORT}, task=TASK)
    done = run_spec(spec, tmp_path / "run", model=module)
    assert done.story.stages[-1].measured.metric > 0.1  # type: ignore[union-attr, operator]
    with pytest.raises(NetirError, match="gives no example inputs"):
        run_spec(spec_of(None), tmp_path / "other", model=module)


def test_a_task_of_a_program(tmp_path: Path) -> None:
    x = torch.randn(64, 3)
    own = Task.of((x, (x[:, 0] > 0).long()), (x, (x[:, 0] > 0).long()), name="sign")
    step = {"train": {"epochs": 3, "lr": 0.5}}
    spec = spec_of(None, step, targets={"accuracy": 0.6}, task=own)
    done = run_spec(spec, tmp_path / "run", model=nn.Linear(3, 2))
    assert done.met
    assert "task: sign" in (tmp_path / "run/spec.yaml").read_text()
    assert run_spec(spec, tmp_path / "run", model=lambda: done.graph, name="a module").again
    other = spec_of(None, step, targets={"accuracy": 0.6}, task=TASK)
    with pytest.raises(NetirError, match="the folder is of another run"):
        run_spec(other, tmp_path / "run", model=lambda: done.graph, name="a module")


def test_another_optimizer_begins_anew(net: str, tmp_path: Path) -> None:
    spec = spec_of(
        net, {"train": {**SHORT, "optimizer": "adam"}}, {"train": {**SHORT, "optimizer": "sgd"}},
        task=TASK,
    )  # fmt: skip
    told: list[Event] = []
    run_spec(spec, tmp_path / "run", listen=told.append)
    notes = [event["notes"] for event in told if event.kind == "step"]
    assert notes == [[], [], ["sgd begins anew: what adam remembered is no use to it"]]
    memory = read_state(tmp_path / "run/steps/01-train").memory
    assert memory is not None
    assert memory.name == "sgd"
    assert {key.partition("/")[0] for key in memory.state} == {"momentum_buffer"}


def test_warnings_are_notes_of_the_run(net: str, tmp_path: Path) -> None:
    told: list[Event] = []
    run_spec(spec_of(net, {"pass": "slim"}), tmp_path / "run", listen=told.append)
    step = [event for event in told if event.kind == "step"][-1]
    assert "changes nothing" in step["notes"][0]
    assert "note: slim() changes nothing" in (tmp_path / "run/log.txt").read_text()


def test_files_that_changed_are_noticed(net: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    spec = spec_of(net, {"pass": "fold"}, {"pass": "widen"})
    with pytest.raises(KeyboardInterrupt):
        run_spec(spec, run, listen=interrupt("step", 2))
    graph = run / "steps/00-fold/graph.netir"
    good = graph.read_bytes()
    graph.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(NetirError, match="has changed since it was written") as raised:
        run_spec(spec, run)
    assert raised.value.where == str(graph)
    graph.unlink()
    with pytest.raises(NetirError, match="cannot read a file of the run"):
        run_spec(spec, run)
    graph.write_bytes(good)
    assert run_spec(spec, run).met


@pytest.mark.parametrize("kind", ["begun", "step", "measured", "exported", "judged", "finished"])
@pytest.mark.parametrize("data", [{}, {"index": "x", "stage": 3, "spec": 1, "targets": 4}])
def test_a_journal_that_lies_is_refused(
    trained: Outcome, tmp_path: Path, kind: str, data: dict[str, Any]
) -> None:
    """Whatever an edited journal says, it is told as damage and never a traceback."""
    run = tmp_path / "run"
    run.mkdir()
    lines = map(json.loads, (trained.folder / "journal.jsonl").read_text().splitlines())
    changed = [
        {**{k: line[k] for k in ("journal", "time", "event")}, **data}
        if line["event"] == kind else line
        for line in lines
    ]  # fmt: skip
    (run / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
    spec = load(trained.folder / "spec.yaml")
    with pytest.raises(NetirError):
        run_spec(spec, run)


def test_other_versions_are_noted(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(net, {"pass": "fold"})
    with pytest.raises(KeyboardInterrupt):
        run_spec(spec, tmp_path / "run", listen=interrupt("step"))
    monkeypatch.setattr("netir.runs.run.versions", lambda: {"torch": "9.9"})
    told: list[Event] = []
    run_spec(spec, tmp_path / "run", listen=told.append)
    assert told[0].kind == "resumed"
    assert told[0]["notes"] == [
        f"torch is 9.9 now and was {version('torch')} when the run began"
    ]


def test_a_report_needs_a_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NetirError, match="no run has begun in this folder"):
            report(folder)
