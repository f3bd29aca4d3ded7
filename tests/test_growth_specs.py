"""Growth in a spec: what a training step can say of it, what is refused, and what is told of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import netir
from netir.builtin import BUILTINS
from netir.cli import app
from netir.errors import NetirError
from netir.passes.grow import INITS
from netir.passes.growth.triggers import TRIGGERS, Activations, Every, Linear
from netir.passes.methods import GROWERS, Dyno, Grower, North
from netir.spec import Spec, TrainStep, parse
from netir.spec.planning import PlannedGrowth, plan
from netir.spec.schema import json_schema
from netir.tasks import Digits
from netir.train_options import TrainOptions


def text(grow: str) -> str:
    return f"netir_spec: 1\ntask: digits\npasses:\n  - train: {{epochs: 2, grow: {grow}}}\n"


def grower(grow: str) -> Grower:
    step = parse(text(grow)).passes[0]
    assert isinstance(step, TrainStep)
    assert step.grow is not None
    return step.grow


def test_a_grower_with_options() -> None:
    found = grower('{method: north, gamma: 0.9, most: 64, where: "layers.*"}')
    assert found == North(gamma=0.9, most=64, where="layers.*")
    found = grower("{method: grower, trigger: {name: every, steps: 9, count: 2}, init: tiny}")
    assert found == Grower(Every(9, count=2), init="tiny")
    assert grower("dyno") == Dyno()
    assert grower("{method: north, trigger: activations}").trigger == Activations()
    assert grower("{method: north, trigger: null}").asked() == Activations()


@pytest.mark.parametrize("name", GROWERS)
def test_every_grower_goes_to_text_and_back(name: str) -> None:
    trigger = {"trigger": "activations"} if name == "grower" else {}
    spec = Spec(task=Digits(), passes=[{"train": {"grow": {"method": name, **trigger}}}])
    assert parse(spec.dump()) == spec
    assert parse(spec.dump()).dump() == spec.dump()


@pytest.mark.parametrize(("name", "made"), [
    ("{name: linear, to: 20, steps: 5}", Linear(20, 5)), ("plateau", TRIGGERS["plateau"]()),
    ("{name: weights, gamma: 0.5}", TRIGGERS["weights"](gamma=0.5)),
    ("gradients", TRIGGERS["gradients"]()),
])  # fmt: skip
def test_triggers_by_name(name: str, made: Any) -> None:
    assert grower(f"{{method: grower, trigger: {name}}}").trigger == made


def test_a_step_that_grows_as_text() -> None:
    spec = parse(text("{method: grower, trigger: {name: every, steps: 9}, init: tiny}"))
    assert str(spec.passes[0]) == (
        "train(epochs=2, grow=grower(trigger=every(steps=9), init='tiny'))"
    )
    assert str(parse(text("null")).passes[0]) == "train(epochs=2)"


MISTAKES = [
    ("{method: nort}", "there is no grower 'nort'", "did you mean 'north'?", "4:39"),
    ("{gamma: 1}", "{gamma: 1} is no grower", "write 'method: NAME' with its options", "4:30"),
    ("3", "3 is no grower", "there are dyno, firefly", "4:30"),
    ("{method: grower}", "a grower needs a trigger", "use one of activations", "4:30"),
    ("{method: north, gama: 1}", "north has no option 'gama'", "'gamma'?", "4:46"),
    ("{method: north, most: x}", "takes a whole number or null, not x", "", "4:52"),
    ("{method: north, most: 0}", "cannot use most 0", "use a whole number from 1", "4:52"),
    ("{method: north, gamma: -1}", "a trigger cannot use gamma -1", "", "4:53"),
    ("{method: north, observe: btch}", "takes buffer or batch", "'batch'?", "4:55"),
    ("{method: north, init: selct}", "there is no init 'selct'", "'select'?", "4:52"),
    ("{method: north, loss: l1}", "cannot be given in a file", "in a program", "4:46"),
    ("{method: dyno, trigger: every}", "dyno has no option 'trigger'", "", "4:45"),
    ("{method: grower, trigger: evry}", "there is no trigger 'evry'", "'every'?", "4:56"),
    ("{method: grower, trigger: {name: evry}}", "no trigger 'evry'", "'every'?", "4:63"),
    ("{method: grower, trigger: {steps: 3}}", "is no trigger", "'name: NAME'", "4:56"),
    ("{method: grower, trigger: every}", "every needs the option 'steps'", "whole", "4:56"),
    ("{method: grower, trigger: {name: every, steps: 0}}", "cannot use steps 0", "", "4:56"),
    ("{method: grower, trigger: {name: linear, to: 1, steps: 2, t: 3}}", "linear has no option 't'",
     "", "4:88"),
]  # fmt: skip


@pytest.mark.parametrize(("grow", "what", "fix", "where"), MISTAKES)
def test_mistakes_are_told_with_their_place(grow: str, what: str, fix: str, where: str) -> None:
    with pytest.raises(NetirError) as error:
        parse(text(grow), "a.yaml")
    assert what in error.value.what
    assert fix in error.value.fix
    assert error.value.where == f"a.yaml:{where}"


def test_mistakes_in_a_grower_are_gathered() -> None:
    with pytest.raises(NetirError) as error:
        parse(text("{method: grower, trigger: {name: every, steps: x}, most: 1.5, ini: no}"))
    told = error.value.what
    assert "3 problems" in told
    assert all(part in told for part in ("'steps' of every", "'most' of grower", "'ini'"))
    with pytest.raises(NetirError, match="train has no option 'grwo'") as error:
        parse(text("null").replace("grow", "grwo"))
    assert error.value.fix == "did you mean 'grow'?"


def test_set_reaches_into_a_grower() -> None:
    sets = ["passes.0.train.grow.most=9", "passes.0.train.grow.trigger.steps=4"]
    spec = parse(text("{method: grower, trigger: {name: every, steps: 9}}"), "a.yaml", sets)
    assert spec.passes[0] == TrainStep(TrainOptions(epochs=2), Grower(Every(4), most=9))


def test_what_only_a_program_can_give_has_no_text() -> None:
    for own in (Grower(lambda reading: 1), North(init=lambda wanted: "no")):
        spec = Spec(task=Digits(), passes=[TrainStep(grow=own)])
        assert "<lambda>" in str(spec.passes[0])
        with pytest.raises(NetirError, match=r"is not registered|no name is registered"):
            spec.dump()
    spec = Spec(task=Digits(), passes=[{"train": {"grow": North()}}])
    assert spec.passes[0] == TrainStep(grow=North())


def test_growth_needs_a_task() -> None:
    with pytest.raises(NetirError, match="train, needs a task"):
        Spec(passes=[{"train": {"grow": "north"}}])


def test_the_schema_knows_growth() -> None:
    steps = json_schema()["properties"]["passes"]["items"]["anyOf"]
    train = next(s for s in steps if "train" in s["properties"])["properties"]["train"]["anyOf"][0]
    grow = train["properties"]["grow"]["anyOf"]
    by_name = {g["properties"]["method"]["const"]: g for g in grow if "properties" in g}
    assert set(by_name) == set(GROWERS)
    assert {"enum": list(GROWERS)} in grow
    trigger = by_name["gradmax"]["properties"]["trigger"]
    assert trigger["default"]["name"] == "every"
    names = {t["properties"]["name"]["const"] for t in trigger["anyOf"] if "properties" in t}
    assert names == set(TRIGGERS)
    assert by_name["north"]["properties"]["init"]["enum"] == list(INITS)
    assert by_name["north"]["properties"]["observe"]["enum"] == ["buffer", "batch"]
    assert "trigger" not in by_name["dyno"]["properties"]
    assert "loss" not in by_name["north"]["properties"]


# --- plan


def test_a_plan_tells_what_may_grow_and_how_far() -> None:
    graph = netir.trace(*BUILTINS["digits_mlp"]())
    grow = "{method: north, most: 200, where: layers.3}"
    spec = parse(text(grow) + "  - {pass: prune}\ntargets: {parameters: 9000}")
    found = plan(spec, graph)
    assert found.steps[0].grows == (PlannedGrowth("layers.3", 64, 200),)
    assert found.steps[0].before == found.steps[0].after
    assert found.targets[0].expected is None, "only a run can tell how far it grows"
    open_ = plan(parse(text("{method: north, factor: 1.5}")), graph).steps[0].grows
    assert open_ == (PlannedGrowth("layers.1", 128, 192), PlannedGrowth("layers.3", 64, 96))
    assert plan(parse(text("dyno")), graph).steps[0].grows[0].most is None


def test_a_plan_tells_what_cannot_grow() -> None:
    graph = netir.trace(*BUILTINS["attention"]())
    found = plan(parse(text("north")), graph).steps[0]
    assert ("embed", "layer_norm takes in every index (mix), new ones too") in found.left
    assert "embed" not in {g.space for g in found.grows}
    with pytest.raises(NetirError, match="names no space") as error:
        plan(parse(text("{method: north, where: embd}")), graph)
    assert error.value.where.startswith("passes.0: train")


# --- the command line


def said(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_plan(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model: builtin:digits_mlp\n" + text("{method: north, most: 200}"))
    told = said("plan", str(file))
    assert "may grow: layers.1 128 up to 200, layers.3 64 up to 200" in told
    assert "growth comes on top: how much, only a run can tell" in told
    plain = json.loads(said("plan", str(file), "--json"))
    assert plain["steps"][0]["grows"][0] == {"space": "layers.1", "width": 128, "most": 200}


def test_the_command_methods() -> None:
    every = said("methods")
    assert all(name in every for name in (*GROWERS, *TRIGGERS, *INITS))
    plain = json.loads(said("methods", "--json"))
    assert [m["kind"] for m in plain].count("trigger") == len(TRIGGERS)
    assert "did you mean 'north'?" in said("methods", "norht", code=2)
    both = said("methods", "gradmax")
    assert "gradmax (grower)" in both
    assert "gradmax (init)" in both
    assert "the name of a trigger" in both


@pytest.mark.parametrize("name", [*GROWERS, *INITS, "activations", "plateau"])
def test_what_methods_shows_of_a_spec_can_be_read(name: str) -> None:
    for part in said("methods", name).split("in a spec:\n\n")[1:]:
        lines = [line for line in part.splitlines() if line.startswith(("passes", " "))]
        assert parse("netir_spec: 1\ntask: digits\n" + "\n".join(lines)).passes


def test_what_the_passes_list_says_of_inits() -> None:
    assert f"inits: {', '.join(INITS)}" in said("passes", "grow")




def test_what_the_docs_show_of_growth_can_be_read() -> None:
    page = (Path(__file__).parents[1] / "docs/spec.md").read_text().partition("## Growth")[2]
    shown = page.partition("```yaml\n")[2].partition("```")[0]
    spec = parse(f"netir_spec: 1\ntask: digits\n{shown}")
    assert [type(step.grow) for step in spec.passes if isinstance(step, TrainStep)] == [
        North, Grower,
    ]  # fmt: skip
