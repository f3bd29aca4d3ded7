"""Growth in `train` and in runs of specs: what is told, kept, and done again after a kill."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import netir
from netir import NetirError
from netir.passes.growth.triggers import Reading
from netir.passes.methods import Grower, North
from netir.runs import Event, Outcome, checkpoints, report, run_spec
from netir.spec import Spec, TrainStep, load
from netir.task import Task
from netir.train import train
from netir.train_options import TrainOptions
from tests.run_worker import bytes_of, kinds

torch.manual_seed(0)
X = torch.randn(160, 6)
Y = (X @ torch.randn(6, 3)).argmax(1)
TASK = Task.of((X[:128], Y[:128]), (X[128:], Y[128:]), name="made-up", batch_size=32)
EVERY = {"method": "grower", "trigger": {"name": "every", "steps": 2}, "most": 8}
PASSES: tuple[Any, ...] = (
    {"train": {"epochs": 1, "optimizer": "adam", "lr": 0.01}},
    {"train": {"epochs": 2, "grow": {**EVERY, "init": "gradmax"}}},
    {"pass": "prune", "amount": 0.25},
    {"train": {"epochs": 1, "grow": {"method": "north", "gamma": 0.5, "observe": "batch"}}},
)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def spec_of(*passes: Any, **parts: Any) -> Spec:
    return Spec(name="grown", passes=passes, task=parts.pop("task", TASK), **parts)


def run(spec: Spec, folder: Path, **options: Any) -> Outcome:
    return run_spec(spec, folder, model=(network(), (X[:2],)), **options)


# --- train


def test_on_step_is_told_every_step() -> None:
    seen: list[tuple[Tensor, Tensor, float]] = []
    module = network()
    before = [p.detach().clone() for p in module.parameters()]

    def on_step(inputs: Tensor, target: Tensor, loss: float) -> None:
        assert any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
        seen.append((inputs, target, loss))

    done = train(module, TASK, TrainOptions(epochs=2), on_step=on_step)
    assert len(seen) == sum(epoch.steps for epoch in done.epochs) == 8
    assert all(len(x) == len(y) == 32 for x, y, _ in seen)
    mean = sum(loss for _, _, loss in seen[:4]) / 4
    assert mean == pytest.approx(done.epochs[0].loss)


def test_a_live_network_grows_in_train() -> None:
    module = network()
    live = netir.Live(module, torch.optim.Adam(module.parameters(), lr=1e-2))
    grower = North(gamma=0.5, most=9, candidates=10)
    done = train(live, TASK, TrainOptions(epochs=4), on_step=partial(grower.step, live))
    assert module[0].out_features == 9
    assert grower.events[-1].step <= 16
    assert done.state["exp_avg/0.weight"].shape == (9, 6)


# --- runs


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(spec_of(*PASSES), tmp_path_factory.mktemp("grown") / "run")


def test_a_run_tells_its_growth(grown: Outcome) -> None:
    _, first, second, thin, third = grown.story.stages
    assert not first.growth
    assert not first.rewrites
    assert second.rewrites
    assert [(g.step, g.space, g.before, g.after) for g in second.growth] == [
        (6, "0", 4, 5), (6, "2", 5, 6), (8, "0", 5, 6), (8, "2", 6, 7),
        (10, "0", 6, 7), (10, "2", 7, 8), (12, "0", 7, 8),
    ]  # fmt: skip
    assert {g.init for g in second.growth} == {"gradmax"}
    assert second.changed == ("0", "2")
    assert (second.widths_before["0"], second.widths_after["0"]) == (4, 8)
    assert second.drawing is None
    assert second.measured
    assert second.measured.parameters == 6 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3
    assert thin.widths_before["0"] == 8
    assert third.growth
    assert all(12 < g.step <= 16 for g in third.growth)
    assert third.growth[0].value is not None
    assert "as many units as `trigger` says they lack" in second.what
    widths = {s.name: s.size for s in grown.graph.spaces()}
    assert widths["0"] == third.widths_after["0"] > thin.widths_after["0"]


def test_the_journal_and_the_log_have_each_growth(grown: Outcome) -> None:
    events = list(map(json.loads, (grown.folder / "journal.jsonl").read_text().splitlines()))
    told = [e for e in events if e["event"] == "grown"]
    assert len(told) == sum(len(stage.growth) for stage in grown.story.stages)
    assert {k: told[0][k] for k in ("index", "step", "space", "before", "after", "init")} == {
        "index": 1, "step": 2, "space": "0", "before": 4, "after": 5, "init": "gradmax",
    }  # fmt: skip
    log = (grown.folder / "log.txt").read_text()
    assert "at step 2: 0 4 → 5 (gradmax)" in log
    assert "(select, the trigger saw " in log


def test_the_memory_of_the_optimizer_grows_along(grown: Outcome) -> None:
    folder = grown.folder / "steps/01-train"
    memory = safetensors.torch.load_file(folder / "optimizer.safetensors")
    graph = netir.load(folder / "graph.netir")
    for name, param in graph.params.items():
        assert memory[f"exp_avg/{name}"].shape == param.data.shape
        assert float(memory[f"step/{name}"]) == 12


def test_growth_is_a_rewrite_in_the_report(grown: Outcome) -> None:
    page = report(grown.folder).read_text()
    assert "One rewrite and growth in training left the network with" in page
    assert '"growth":[{"step":6,' in page
    assert page.count('"drawing":') == 4, "the network at first, and after each that changed it"


def test_what_growth_is_compared_with(tmp_path: Path) -> None:
    """The network before the first rewrite: here what the first training made."""
    from netir.cli.outcome import compared

    done = run(spec_of({"train": {"epochs": 2}}, {"train": {"grow": EVERY}}), tmp_path / "run")
    assert compared(done.story)[0] == done.story.stages[1].measured
    assert "Growth in training left" in report(done.folder).read_text()


class Killed(BaseException):
    """The end of a process, for a run in this one."""


def test_a_killed_training_that_grows_begins_anew(
    grown: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)
    folder, spec = tmp_path / "killed", spec_of(*PASSES)

    def kill(event: Event) -> None:
        if event.kind == "grown" and event["step"] == 6:
            raise Killed

    with pytest.raises(Killed):
        run(spec, folder, listen=kill)
    assert kinds(folder)[-1] == "grown"
    assert not list((folder / "steps").glob(".*.part")), "half a growth is no state to go on from"
    done = run(spec, folder)
    assert bytes_of(folder) == bytes_of(grown.folder)
    assert done.story.stages[2].growth == grown.story.stages[2].growth
    assert kinds(folder).count("grown") > kinds(grown.folder).count("grown")


def test_a_program_gives_its_own_functions(tmp_path: Path) -> None:
    def twice(reading: Reading) -> int:
        return 1 if reading.step in (2, 3) else 0

    grower = Grower(twice, most=20)
    step = TrainStep(TrainOptions(steps=4), grower)
    done = run(spec_of(step), tmp_path / "run")
    assert [g.step for g in done.story.stages[1].growth] == [2, 2, 3, 3]
    assert grower.events == [], "the run has a grower of its own"
    assert done.story.stages[1].text == "train(steps=4, grow=grower(trigger=twice, most=20))"
    assert run(spec_of(step), tmp_path / "run").again


def test_what_cannot_grow_is_told(tmp_path: Path) -> None:
    grow = {**EVERY, "where": "3"}
    with pytest.raises(NetirError, match="'3' names no space") as error:
        run(spec_of({"train": {"grow": grow}}), tmp_path / "run")
    assert "known: 0" in error.value.fix
    assert kinds(tmp_path / "run")[-1] == "failed"
    normed = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    spec = spec_of({"train": {"steps": 2, "grow": {**EVERY, "init": "random"}}})
    done = run_spec(spec, tmp_path / "normed", model=(normed, (X[:2],)))
    stage = done.story.stages[1]
    assert not stage.growth
    assert not stage.rewrites
    assert stage.left == (("0", "layer_norm takes in every index (mix), new ones too"),)


def test_the_loss_of_a_grower_is_that_of_the_training(tmp_path: Path) -> None:
    """Smoothed labels give other gradients, so what GradMax plants differs."""
    weights = []
    for smoothing in (0.0, 0.3):
        train_ = {"steps": 2, "lr": 1e-9, "label_smoothing": smoothing,
                  "grow": {**EVERY, "init": "gradmax"}}  # fmt: skip
        done = run(spec_of({"train": train_}), tmp_path / str(smoothing))
        weights.append(done.graph.params["2.weight"].data[:5, 4])
    assert weights[0].abs().max() > 0
    assert not torch.allclose(weights[0], weights[1])


def test_the_example_grows(tmp_path: Path) -> None:
    sets = ["passes.1.train.epochs=1", "passes.2.train.epochs=1", "targets={}", "exports=[]"]
    spec = load(Path(__file__).parents[1] / "examples/growing.yaml", sets)
    done = run_spec(spec, tmp_path / "run")
    found = done.story.stages[2]
    assert {g.space for g in found.growth} == {"layers.1", "layers.3"}
    assert all(g.after <= 48 and g.init == "select" for g in found.growth)
    assert not done.story.stages[3].growth
