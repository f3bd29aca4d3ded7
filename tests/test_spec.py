"""Specs: what is read, every message with its place, `--set`, the canonical text, the schema."""

import pickle
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netir import passes
from netir.errors import NetirError
from netir.passes import PASSES
from netir.passes.scores import SCORES
from netir.spec import Export, PassStep, Spec, Targets, TrainStep, Verify, load, parse
from netir.spec.yaml import write
from netir.tasks import Digits
from netir.train_options import TrainOptions

WHOLE = """\
netir_spec: 1
name: shrink-digits
seed: 3
model: builtin:residual
task: {name: digits, batch_size: 32}
passes:
  - train: {epochs: 5, lr: 0.002}
  - pass: prune
    where: "layer*"
    amount: 0.4
    score: l1
  - pass: widen
    factor: 1.25
verify: {contract: exact, tolerance: 1e-3, inputs: task}
targets: {parameters: 20000, macs: 1e6, accuracy: 0.95, latency_ms: 1.0}
exports: [onnx, netir, {format: python, file: thin.py}]
report: false
"""


def refused(text: str, *sets: str) -> str:
    with pytest.raises(NetirError) as error:
        parse(text, "a.yaml", sets)
    return str(error.value)


def test_a_whole_spec() -> None:
    spec = parse(WHOLE)
    assert spec == Spec(
        name="shrink-digits",
        seed=3,
        model="builtin:residual",
        task=Digits(batch_size=32),
        passes=[
            TrainStep(TrainOptions(epochs=5, lr=0.002)),
            passes.Prune("layer*", amount=0.4, score="l1"),
            passes.Widen(factor=1.25),
        ],
        verify=Verify(contract="exact", tolerance=1e-3, inputs="task"),
        targets=Targets(parameters=20000, macs=1_000_000, accuracy=0.95, latency_ms=1.0),
        exports=["onnx", "netir", Export(format="python", file="thin.py")],
        report=False,
    )
    files = [export.file for export in spec.exports]
    assert files == ["shrink-digits.onnx", "shrink-digits.netir", "thin.py"]
    assert [str(step) for step in spec.passes] == [
        "train(epochs=5, lr=0.002)", "prune(where='layer*', amount=0.4, score='l1')",
        "widen(factor=1.25)",
    ]  # fmt: skip


def test_the_least_spec() -> None:
    spec = parse("netir_spec: 1")
    assert spec == Spec()
    assert spec.verify == Verify()
    assert spec.exports == spec.passes == ()
    assert spec.targets.given() == {}


def test_short_forms() -> None:
    spec = parse("{netir_spec: 1, task: digits, verify: false, passes: [train: , pass: fold]}")
    assert spec.task == Digits()
    assert spec.verify is None
    assert [step.name for step in spec.passes] == ["train", "fold"]
    assert parse("{netir_spec: 1, verify: true}").verify == Verify()


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(WHOLE).seed = 4  # type: ignore[misc]


MISTAKES = [
    ("[1]", "this is no spec", "a.yaml:1:1"),
    ("", "this is no spec", "a.yaml"),
    ("name: x", "the spec does not say its version", "a.yaml:1:1"),
    ("netir_spec: 2", "the spec has version 2, this netir reads 1", "a.yaml:1:13"),
    ("netir_spec: true", "the spec has version True", "a.yaml:1:13"),
    ("netir_spec: 1\nsede: 3", "the spec has no 'sede'\n", "a.yaml:2:1"),
    ("netir_spec: 1\nsede: 3", "fix did you mean 'seed'?", "a.yaml:2:1"),
    ("netir_spec: 1\nseed: -1", "'seed' is -1: it should be greater than or equal to 0",
     "a.yaml:2:7"),
    ("netir_spec: 1\nseed: '1'", "'seed' is \"1\": it should be a valid integer", "a.yaml:2:7"),
    ("netir_spec: 1\nname: a b", "'name' is \"a b\": it may have letters, digits", "a.yaml:2:7"),
    ("netir_spec: 1\nreport: 1", "'report' is 1: it should be a valid boolean", "a.yaml:2:9"),
    ("netir_spec: 1\nmodel: builtin:residul", "did you mean 'residual'?", "a.yaml:2:8"),
    ("netir_spec: 1\nmodel: my.nets:net", "cannot name the Python function", "a.yaml:2:8"),
    ("netir_spec: 1\nmodel: net.pt", "'net.pt' is no model", "a.yaml:2:8"),
    ("netir_spec: 1\nsizes: {height: 0}", "'sizes.height' is 0", "a.yaml:2:17"),
    ("netir_spec: 1\ntask: 3", "3 is no task", "a.yaml:2:7"),
    ("netir_spec: 1\ntask: {name: digts}", "there is no task 'digts'", "a.yaml:2:14"),
    ("netir_spec: 1\ntask: digts", "there is no task 'digts'", "a.yaml:2:7"),
    ("netir_spec: 1\ntask: {name: digits, batch: 3}", "you mean 'batch_size'?", "a.yaml:2:22"),
    ("netir_spec: 1\ntask: {name: digits, batch_size: 0}", "batch_size=0", "a.yaml:2:34"),
    ("netir_spec: 1\npasses: prune", "'passes' is prune", "a.yaml:2:9"),
    ("netir_spec: 1\npasses: [prune]", "prune is no step", "a.yaml:2:10"),
    ("netir_spec: 1\npasses: [pass: prun]", "did you mean 'prune'?", "a.yaml:2:16"),
    ("netir_spec: 1\npasses:\n  - pass: prune\n    amout: 1", "prune has no option 'amout'\n",
     "a.yaml:4:5"),
    ("netir_spec: 1\npasses:\n  - pass: prune\n    amount: 1.5", "prune cannot remove 1.5",
     "a.yaml:4:13"),
    ("netir_spec: 1\npasses:\n  - pass: prune\n    amount: yes",
     "option 'amount' of prune takes a number or null, not yes", "a.yaml:4:13"),
    ("netir_spec: 1\npasses:\n  - pass: prune\n    round_to: true",
     "option 'round_to' of prune takes a whole number, not true", "a.yaml:4:15"),
    ("netir_spec: 1\npasses:\n  - pass: prune\n    score: l3", "there is no score 'l3'",
     "a.yaml:4:12"),
    ("netir_spec: 1\npasses:\n  - pass: prune\n    scope: locl", "did you mean 'local'?",
     "a.yaml:4:12"),
    ("netir_spec: 1\npasses:\n  - pass: widen\n    to: 3\n    count: 2", "more than one width",
     "a.yaml:3:5"),
    ("netir_spec: 1\ntask: digits\npasses: [train: 3]", "is no step", "a.yaml:3:10"),
    ("netir_spec: 1\ntask: digits\npasses: [train: {epoch: 3}]", "did you mean 'epochs'?",
     "a.yaml:3:18"),
    ("netir_spec: 1\ntask: digits\npasses: [train: {epochs: 0}]", "epochs=0", "a.yaml:3:26"),
    ("netir_spec: 1\ntask: digits\npasses: [{train: {}, lr: 1}]", "'lr' is no key of a step",
     "a.yaml:3:22"),
    ("netir_spec: 1\ntask: digits\npasses: [train: {schedule: cosin}]", "did you mean 'cosine'?",
     "a.yaml:3:28"),
    ("netir_spec: 1\npasses: [train: {}]", "step 0, train, needs a task", "a.yaml:2:10"),
    ("netir_spec: 1\ntargets: {accuracy: 0.5}", "the target 'accuracy' needs a task",
     "a.yaml:2:21"),
    ("netir_spec: 1\ntask: {name: digits, metric: top5}\ntargets: {accuracy: 0.5}",
     "the target is an accuracy, and the task is judged by 'top5'\n", "a.yaml:3:21"),
    ("netir_spec: 1\nverify: {inputs: task}", "on inputs of the task needs a task", "a.yaml:2:18"),
    ("netir_spec: 1\nverify: {contract: exakt}", "'verify.contract' is exakt", "a.yaml:2:20"),
    ("netir_spec: 1\nverify: 1", "'verify' is 1", "a.yaml:2:9"),
    ("netir_spec: 1\ntargets: {params: 1}", "'targets' has no 'params'", "a.yaml:2:11"),
    ("netir_spec: 1\ntargets: {macs: 1.5}", "'targets.macs' is 1.5", "a.yaml:2:17"),
    ("netir_spec: 1\ntargets: {bytes: .inf}", "'targets.bytes' is .inf", "a.yaml:2:18"),
    ("netir_spec: 1\nexports: [onyx]", "'exports.0.format' is onyx", "a.yaml:2:11"),
    ("netir_spec: 1\nexports: [{file: x.onnx}]", "'format' is missing", "a.yaml:2:11"),
    ("netir_spec: 1\nexports: [{format: onnx, file: ../x.onnx}]", "no plain file name",
     "a.yaml:2:32"),
    ("netir_spec: 1\nexports: [{format: onnx, file: x.py}]", "ends in .onnx", "a.yaml:2:32"),
    ("netir_spec: 1\nexports: [onnx, onnx]", "two exports are written to 'net.onnx'",
     "a.yaml:2:17"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what", "place"), MISTAKES)
def test_mistakes(text: str, what: str, place: str) -> None:
    message = refused(text)
    assert what in message
    assert f"at  {place}\n" in f"{message}\n"


def test_all_mistakes_at_once() -> None:
    text = WHOLE.replace("seed", "sede").replace("0.4", "4").replace("factor", "faktor")
    assert refused(text).splitlines() == [
        "the spec has 3 problems",
        "  a.yaml:10:13: prune cannot remove 4.0 of a space (use an amount between 0 and 1)",
        "  a.yaml:13:5: widen has no option 'faktor' (did you mean 'factor'?)",
        "  a.yaml:3:1: the spec has no 'sede' (did you mean 'seed'?)",
    ]


def test_very_many_mistakes() -> None:
    steps = ", ".join(["pass: no"] * 30)
    lines = refused(f"{{netir_spec: 1, passes: [{steps}]}}").splitlines()
    assert lines[0] == "the spec has 30 problems"
    assert lines[-1] == "  and 10 more"


def test_in_a_program() -> None:
    with pytest.raises(NetirError, match="the spec has no 'sede'\n  at  sede\n"):
        Spec(sede=3)
    with pytest.raises(NetirError, match=r"prune cannot remove .*\n  at  passes\.0\.amount\n"):
        Spec(passes=[{"pass": "prune", "amount": 3}])
    with pytest.raises(NetirError, match="option 'score' of prune takes text, not a function"):
        Spec(passes=[{"pass": "prune", "score": SCORES["l1"]}])
    with pytest.raises(NetirError, match="3 is no step"):
        Spec(passes=[3])
    with pytest.raises(NetirError, match="a object is no step"):
        Spec(passes=[object()])
    steps = [passes.Prune(amount=0.5), TrainStep()]
    assert len(Spec(task=Digits(), passes=steps).passes) == 2


def test_functions_of_programs() -> None:
    by_name = Spec(passes=[passes.Prune(score=SCORES["l1"])])
    assert parse(by_name.dump()).passes == (PassStep(passes.Prune(score="l1")),)

    def mine(space: Any, evidence: Any) -> str:
        return "none"

    with pytest.raises(NetirError, match="a function that no name is registered for"):
        Spec(passes=[passes.Prune(score=mine)]).dump()


def test_what_has_no_name() -> None:
    @dataclass(frozen=True)
    class Mine(Digits):
        name: ClassVar[str] = "unheard-of"

    @dataclass(frozen=True)
    class Wider(passes.Widen):
        pass

    with pytest.raises(NetirError, match="the task 'unheard-of' is not registered"):
        Spec(task=Mine()).dump()
    with pytest.raises(NetirError, match="the pass 'widen' is not registered"):
        Spec(passes=[Wider()]).dump()


def test_the_error_can_go_to_another_process() -> None:
    with pytest.raises(NetirError) as error:
        parse("{netir_spec: 1, sede: 1}", "a.yaml")
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_load(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("netir_spec: 1\nmodel: nets/x.onnx\ntask: {name: arrays, path: data.npz}\n")
    spec = load(file, ["seed=4"])
    assert spec.model == str(tmp_path / "nets/x.onnx")
    assert spec.task is not None
    assert spec.task.path == str(tmp_path / "data.npz")  # type: ignore[attr-defined]
    assert spec.seed == 4
    assert load(file, ["model=builtin:residual"]).model == "builtin:residual"
    for content, what in ((b"\xff", "is not in UTF-8"), (b" " * 2_000_000, "too large"),
                          (b"\xef\xbb\xbfnetir_spec: 2", "version 2")):  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(NetirError, match=what) as error:
            load(file)
        assert error.value.where.startswith(str(file))
    with pytest.raises(NetirError, match="there is no such file"):
        load(tmp_path / "b.yaml")
    with pytest.raises(NetirError, match="cannot read the file"):
        load(tmp_path)


def test_set() -> None:
    spec = parse(WHOLE, sets=[
        "passes.1.amount=0.2", "passes.0.train.epochs=1", "targets={}", "report=true",
        "exports.0={format: onnx, file: a.onnx}", "verify.tolerance=0.5", "name=other",
    ])  # fmt: skip
    assert str(spec.passes[1]) == "prune(where='layer*', amount=0.2, score='l1')"
    assert str(spec.passes[0]) == "train(epochs=1, lr=0.002)"
    assert spec.targets == Targets()
    assert spec.report
    assert spec.exports[0].file == "a.onnx"
    assert spec.verify == Verify(contract="exact", tolerance=0.5, inputs="task")
    assert parse("netir_spec: 1", sets=["targets.bytes=5"]).targets.bytes == 5
    assert parse("netir_spec: 1", sets=["passes=[pass: fold]", "passes.0.freeze=true"])
    assert parse(WHOLE, sets=["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("seed", "'seed' sets nothing", "write --set passes.0.amount=0.3"),
        ("=3", "'=3' sets nothing", "write --set"),
        ("a..b=3", "sets nothing", "write --set"),
        ("seed.a=1", "'seed' has no parts", "set it as a whole"),
        ("passes.3=1", "'passes' has no item '3'", "its items: 0 to 2"),
        ("passes.x.amount=1", "'passes' has no item 'x'", "its items: 0 to 2"),
        ("passes.1.amout=1", "prune has no option 'amout'", "did you mean 'amount'?"),
        ("passes.1.amount=[", "this is no YAML", ""),
        ("tragets.bytes=1", "the spec has no 'tragets'", "did you mean 'targets'?"),
        ("sizes.3=0", "'sizes.3' is 0", ""),
        ("targets.byte=1", "'targets' has no 'byte'", "did you mean 'bytes'?"),
    ],
)
def test_set_mistakes(text: str, what: str, fix: str) -> None:
    message = refused(WHOLE, text)
    assert what in message
    assert fix in message
    assert f"at  --set {text}" in message


PASS_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "where": st.sampled_from(["*", "layer1.*", "a b", "", "null", "1"]),
    "amount": st.floats(0.01, 0.99),
    "factor": st.floats(1, 1e6) | st.integers(1, 5),
    "seed": st.integers(0, 2**40),
    "score": st.sampled_from(list(SCORES)),
    "require_change": st.booleans(),
}


@st.composite
def steps(draw: st.DrawFn) -> Any:
    cls = PASSES[draw(st.sampled_from(["prune", "widen", "deepen", "fold", "slim"]))]
    names = [f.name for f in fields(cls) if f.name in PASS_VALUES]
    chosen = draw(st.lists(st.sampled_from(names), unique=True))
    return cls(**{name: draw(PASS_VALUES[name]) for name in chosen})


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    return Spec(
        name=draw(st.sampled_from(["net", "1", "null", "a-b.c", "true", "1e3"])),
        seed=draw(st.integers(0, 2**32 - 1)),
        model=draw(st.sampled_from([None, "builtin:residual", "a: b.onnx", "é/ü #1.netir"])),
        inputs=draw(st.lists(st.sampled_from(["x=f32[batch, 3]", "y=i64[2]"]), max_size=2)),
        sizes=draw(st.dictionaries(st.text("abc", min_size=1), st.integers(1, 9), max_size=3)),
        task=Digits(batch_size=draw(st.integers(1, 99)), test_share=draw(st.floats(0.1, 0.9))),
        passes=draw(st.lists(steps() | st.just(TrainStep(TrainOptions(epochs=2))), max_size=4)),
        verify=draw(st.booleans() | st.builds(Verify, tolerance=st.none() | st.floats(1e-9, 1))),
        targets=draw(st.builds(Targets, macs=st.none() | st.integers(1, 10**15),
                               latency_ms=st.none() | st.floats(1e-9, 1e9))),
        exports=draw(st.lists(st.sampled_from(["onnx", "netir", "python"]), unique=True)),
        report=draw(st.booleans()),
    )  # fmt: skip


@given(specs())
@settings(max_examples=60, deadline=None)
def test_the_canonical_text(spec: Spec) -> None:
    text = spec.dump()
    again = parse(text)
    assert again == spec
    assert again.dump() == text


def test_equal_specs_have_equal_texts() -> None:
    one = parse("{netir_spec: 1, sizes: {a: 1, b: 2}, verify: true, exports: [onnx]}")
    other = parse("exports: [{file: net.onnx, format: onnx}]\nsizes: {b: 2, a: 1}\nnetir_spec: 1")
    assert one == other
    assert one.dump() == other.dump()


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_by_its_options(name: str) -> None:
    """Written with all its options, a pass is read as it was."""
    spec = Spec(passes=[PASSES[name]()])
    assert parse(spec.dump()) == spec


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.sampled_from(["*", "prune", "l2", "digits", "onnx", "builtin:residual", "", "x.onnx"]),
    lambda part: st.lists(part, max_size=3)
    | st.dictionaries(
        st.sampled_from(["pass", "train", "name", "amount", "format", "file", "self", "a", "macs"]),
        part, max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip
KEYS = st.sampled_from([*Spec.model_fields, "self", "parts", "__init__", "model_config"])


@given(st.dictionaries(KEYS, TREES, max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_data_is_a_spec_or_refused(tree: dict[str, Any]) -> None:
    try:
        found = parse(write({**tree, "netir_spec": 1}))
    except NetirError:
        return
    assert parse(found.dump()) == found


PATHS = ["seed", "task", "task.name", "passes", "passes.0", "passes.1", "passes.1.amount",
         "passes.1.pass", "passes.0.train", "passes.0.train.lr", "verify", "verify.tolerance",
         "targets", "targets.macs", "exports", "exports.2", "exports.2.file", "x.y.z",
         "model"]  # fmt: skip


@given(st.sampled_from(PATHS), TREES)
@settings(max_examples=300, deadline=None)
def test_any_change_is_a_spec_or_refused(path: str, tree: Any) -> None:
    value = write(tree) if isinstance(tree, (dict, list)) and tree else write(tree).strip()
    try:
        found = parse(WHOLE, sets=[f"{path}={value}"])
    except NetirError:
        return
    assert parse(found.dump()) == found


@given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_spec_or_refused(tmp_path_factory: Any, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "bytes"
    folder.mkdir(exist_ok=True)
    file = folder / "a.yaml"
    for text in (content, WHOLE.encode() + content, content + WHOLE.encode()):
        file.write_bytes(text)
        with suppress(NetirError):
            load(file)
    assert [entry.name for entry in folder.iterdir()] == ["a.yaml"]
