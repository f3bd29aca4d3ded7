"""`netir plan`, `passes`, `schema` and `diff`: what they print, and how each mistake ends."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import netir
from netir import passes
from netir.builtin import BUILTINS
from netir.cli import app
from netir.cli.models import of_spec
from netir.compare import Change, compare, differing, in_words, totals
from netir.errors import NetirError
from netir.frontends import trace
from netir.ir import Graph
from netir.passes import PASSES
from netir.spec import Spec, TrainStep, load, parse
from netir.spec.planning import plan
from netir.tasks import Digits

EXAMPLES = sorted(Path(__file__).parents[1].glob("examples/*.yaml"))
SPEC = """\
netir_spec: 1
name: thin
model: builtin:residual
task: digits
passes:
  - train: {epochs: 2}
  - pass: prune
    amount: 0.5
    score: taylor
  - pass: widen
    where: "layer2.*"
    factor: 1.25
targets: {parameters: 7000, macs: 1e3, accuracy: 0.9}
"""

FACTORIES = """
from torch import nn

def bare():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("thin.yaml").write_text(SPEC)


@pytest.fixture(scope="module")
def residual() -> Graph:
    return trace(*BUILTINS["residual"]())


def invoke(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def good(*args: str) -> str:
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*args: str) -> str:
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


def test_plan() -> None:
    text = good("plan", "thin.yaml")
    rows = [re.split("  +", line.strip()) for line in text.splitlines()]
    assert ["the network", "19,658", "533,824"] in rows
    assert ["0", "train(epochs=2)", "19,658", "533,824"] in rows
    prune = next(row for row in rows if row[0] == "1")
    assert prune[1:3] == ["prune(amount=0.5, score='taylor')", "masked"]
    assert "stem 16 → 8, layer1.conv1 16 → 8" in prune[3]
    assert ["parameters", "≤ 7,000", "6,774", "met"] in rows
    assert any(row[0] == "macs" and row[-1] == "missed" for row in rows)
    assert ["accuracy", "≥ 0.9", "only a run can tell"] in rows
    assert "in all: parameters 19,658 → 6,774 (-65.5 %)" in text
    assert [entry.name for entry in Path().iterdir()] == ["thin.yaml"]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples(file: Path) -> None:
    """They are read, can be planned, and what costs can tell of their targets is met."""
    spec = load(file)
    assert parse(spec.dump()) == spec
    found = json.loads(good("plan", str(file), "--json"))
    assert all(step["changed"] for step in found["steps"] if step["contract"])
    assert [target["met"] for target in found["targets"] if target["met"] is False] == []


def test_the_spec_in_the_docs() -> None:
    page = (Path(__file__).parents[1] / "docs/spec.md").read_text()
    text = re.search(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert text
    assert [step.name for step in parse(text[1]).passes] == ["train", "prune", "train"]
    assert EXAMPLES


def test_plan_says_what_a_run_does(residual: Graph) -> None:
    """Without training, the last graph of the passes costs what the plan says."""
    spec = parse("{netir_spec: 1, passes: [{pass: prune}, {pass: slim, ratio: 0.5, where: '*'}]}")
    found = plan(spec, residual)
    thin = passes.Prune()(residual)
    assert found.steps[0].after == totals(thin, {})
    assert found.after.parameters == found.steps[-1].after.parameters
    widths = {c.name: (c.before, c.after) for c in found.steps[0].spaces}
    assert widths["stem"] == (16, {s.name: s.size for s in thin.spaces()}["stem"])
    assert residual.history == ()


def test_plan_of_what_changes_nothing(residual: Graph) -> None:
    found = plan(parse("{netir_spec: 1, passes: [pass: unmask]}"), residual)
    assert found.steps[0].changed == ()
    assert found.before == found.after
    Path("unmask.yaml").write_text("{netir_spec: 1, passes: [pass: unmask]}")
    assert "changes nothing" in good("plan", "unmask.yaml", "--model", "builtin:residual")


def test_plan_in_full() -> None:
    text = good("plan", "thin.yaml", "--all")
    assert "step 1 leaves head: frozen: graph output" in text
    assert "layers that step 2 changes" in text
    assert "step 1 leaves" not in good("plan", "thin.yaml")


def test_plan_as_json() -> None:
    found = json.loads(good("plan", "thin.yaml", "--json"))
    assert found["name"] == "thin"
    assert found["steps"][0]["step"] == "train(epochs=2)"
    assert found["steps"][1]["spaces"][0] == {"name": "stem", "before": 16, "after": 8}
    assert found["after"]["parameters"] == 6774
    assert found["targets"][0]["met"] is True


def test_plan_of_another_model() -> None:
    Path("factories.py").write_text(FACTORIES)
    inputs = "['input=f32[batch, 3]']"
    Path("a.yaml").write_text(f"{{netir_spec: 1, inputs: {inputs}, passes: [pass: widen]}}")
    text = good("plan", "a.yaml", "--model", "factories:bare")
    assert "0 4 → 8" in text
    assert "names no model" in refused("plan", "a.yaml")
    assert "gives no example inputs" in refused(
        "plan", "a.yaml", "--model", "factories:bare", "--set", "inputs=[]"
    )
    sizes = ["--set", "inputs=['input=f32[batch, length, 3]']", "--set", "sizes.length=7"]
    assert "0 4 → 8" in good("plan", "a.yaml", "--model", "factories:bare", *sizes)


def test_open_sizes() -> None:
    Path("factories.py").write_text(FACTORIES)
    inputs = ["--input", "input=f32[batch, length, 3]", "--size", "length=5"]
    good("trace", "factories:bare", "-o", "a.netir", *inputs)
    Path("a.yaml").write_text("{netir_spec: 1, model: a.netir, passes: [pass: widen]}")
    text = good("plan", "a.yaml")
    assert "MACs ? → ? (?)" in text
    assert "add --size NAME=NUMBER" in text
    assert "MACs 100 → 200" in good("plan", "a.yaml", "--size", "length=5")
    assert "add --size NAME=NUMBER" in good("diff", "a.netir", "a.netir")


def test_plan_of_passes_that_need_data() -> None:
    message = refused("plan", "thin.yaml", "--set", "task=null", "--set", "passes=[{pass: prune, "
                      "score: taylor}]", "--set", "targets={}")  # fmt: skip
    assert message.startswith("error: the score 'taylor' needs data\n  at  passes.0: prune\n")
    assert "add a task to the spec" in message


def test_plan_of_passes_that_are_refused() -> None:
    message = refused("plan", "thin.yaml", "--set", "passes.2.where=layer9")
    assert "'layer9' names no space" in message
    assert "at  passes.2: widen" in message
    message = refused("plan", "thin.yaml", "--set", "passes.2.where=head")
    assert "at  passes.2: widen, graph output" in message


@pytest.mark.parametrize("width", [10**12, 10**30])
def test_plan_of_what_is_too_large(width: int) -> None:
    message = refused("plan", "thin.yaml", "--set", f"passes=[{{pass: widen, to: {width}}}]")
    assert "this needs more memory than there is\n  at  passes.0: widen" in message


def test_plan_on_a_plain_terminal() -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    script = Path(sys.executable).with_name("netir")
    command = [script, "diff", "builtin:residual", "builtin:attention"]
    done = subprocess.run(command, env=env, capture_output=True, check=True)
    assert b"conv(weight 16?1?3?3, bias 16)" in done.stdout


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("plan", "nothing.yaml"), "there is no such file"),
        (("plan", "thin.yaml", "--set", "passes.1.amount=2"), "--set passes.1.amount=2"),
        (("plan", "thin.yaml", "--model", "builtin:x"), "there is no model 'x'"),
        (("plan", "thin.yaml", "--set", "model=gone.netir"), "there is no such file"),
        (("passes", "prun"), "did you mean 'prune'?"),
        (("diff", "builtin:residual", "nothing"), "'nothing' is no model"),
    ],
)
def test_mistakes(args: tuple[str, ...], what: str) -> None:
    assert what in refused(*args)


def test_passes() -> None:
    text = good("passes")
    for name in PASSES:
        assert f"\n{name} " in text
    assert re.search(r"widen +exact +Grow spaces, keeping the function", text)


@pytest.mark.parametrize("name", PASSES)
def test_one_pass(name: str) -> None:
    """Its part of a spec is one, and gives the pass as it is without options."""
    text = good("passes", name)
    snippet = text.partition("in a spec:\n\n")[2]
    assert parse(f"netir_spec: 1\n{snippet}") == Spec(passes=[PASSES[name]()])
    assert f"keeps the contract '{PASSES[name].preserves.value}'" in text


def test_one_pass_in_full() -> None:
    text = good("passes", "prune")
    assert re.search(r"\nround_to +a whole number +1 *\n", text)
    assert "scores: random, l1, l2" in text
    assert "Remove indices of spaces" in text


def test_passes_as_json() -> None:
    found = json.loads(good("passes", "--json"))
    assert [item["name"] for item in found] == list(PASSES)
    (one,) = json.loads(good("passes", "widen", "--json"))
    multiple = next(option for option in one["options"] if option["name"] == "multiple")
    assert multiple == {
        "name": "multiple", "takes": "a whole number", "required": False, "in_files": True,
        "default": 1,
    }  # fmt: skip


def test_schema() -> None:
    assert json.loads(good("schema"))["title"] == "netir spec"


def test_diff(residual: Graph) -> None:
    netir.save(passes.Prune("layer2.*", amount=0.5)(residual), "thin.netir")
    text = good("diff", "builtin:residual", "thin.netir")
    rows = [re.split("  +", line.strip()) for line in text.splitlines()]
    before, after = "conv(weight 32×16×3×3)", "conv(weight 16×16×3×3)"
    assert ["layer2.conv1", "changed", before, after] in rows
    assert ["layer2.conv2", "changed", "32", "16"] in rows
    head = ["linear(weight 10×32, bias 10)", "linear(weight 10×16, bias 10)"]
    assert ["head", "changed", *head] in rows
    assert "5 of 11 are the same" in text
    assert "reshaped" in text
    assert "the second comes from the first by:\n  prune(where='layer2.*', amount=0.5)" in text
    assert "input or output" not in text
    assert "stem" not in text
    assert "stem" in good("diff", "builtin:residual", "thin.netir", "--all")


def test_diff_of_equals() -> None:
    text = good("diff", "builtin:residual", "builtin:residual")
    assert "changed" not in text
    assert "weights: 30 equal" in text


def test_diff_of_strangers() -> None:
    found = json.loads(good("diff", "builtin:residual", "builtin:attention", "--json"))
    kinds = {item["name"]: item["kind"] for item in found["layers"]}
    assert kinds["stem"] == "removed"
    assert kinds["embed"] == "added"
    assert kinds["head"] == "same"
    assert found["weights"]["changed"] == ["head.weight", "head.bias"]
    assert found["totals"]["before"]["parameters"] == 19658
    assert {"name": "conv", "before": 6, "after": None, "kind": "removed"} in found["ops"]
    assert found["passes"] == []
    text = good("diff", "builtin:residual", "builtin:attention")
    assert "changed: head.weight, head.bias" in text


def test_changed_weights_and_attributes(residual: Graph) -> None:
    params = dict(residual.params)
    nan = replace(params["head.bias"], data=params["head.bias"].data * float("nan"))
    moved = replace(params["stem.bias"], data=params["stem.bias"].data + 1)
    found = compare(
        residual.replace(params={**params, "head.bias": nan, "stem.bias": moved}),
        residual.replace(params={**params, "head.bias": replace(nan, data=nan.data.clone())}),
    )
    assert found.weights["changed"] == ("stem.bias",)
    assert "head.bias" in found.weights["equal"]
    nodes = dict(residual.nodes)
    name = next(n for n, node in nodes.items() if node.scope == "layer2.conv1")
    op: Any = nodes[name].op
    nodes[name] = replace(nodes[name], op=replace(op, stride=(1, 1)))
    (change,) = differing(compare(residual, residual.replace(nodes=nodes)).layers)
    told = in_words(change)
    assert told.before == "conv(weight 32×16×3×3) {stride=(2, 2), padding=(1, 1)}"
    assert told.after == "conv(weight 32×16×3×3) {stride=(1, 1), padding=(1, 1)}"


def test_added_layers_stand_where_they_are(residual: Graph) -> None:
    deeper = passes.Deepen(kind="residual", count=1)(residual)
    names = [change.name for change in compare(residual, deeper).layers]
    assert names[:4] == ["stem", "branch.first", "branch.second", "layer1.conv1"]
    backwards = [change.kind for change in compare(deeper, residual).layers][:4]
    assert backwards == ["same", "removed", "removed", "same"]


def test_compare_by_its_public_name(residual: Graph) -> None:
    assert netir.compare is compare
    assert netir.Spec is Spec
    assert not list(differing(netir.compare(residual, residual).layers))


def test_kinds_of_changes() -> None:
    kinds = [Change("x", a, b).kind for a, b in ((None, 1), (1, None), (1, 1), (1, 2))]
    assert kinds == ["added", "removed", "same", "changed"]


def test_the_spec_of_a_program() -> None:
    spec = Spec(task=Digits(), passes=[TrainStep(), passes.Widen()])
    with pytest.raises(NetirError, match="names no model"):
        of_spec(spec)


def test_help_tells_the_exit_codes() -> None:
    text = good("--help")
    for part in ("Exit codes:", "\n    130  interrupted", "a target is missed"):
        assert part in text


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("netir.spec.schema.json_schema", interrupt)
    result = invoke("schema")
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"
