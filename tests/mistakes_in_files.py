"""Mistakes in files and on the command line: graphs as text, specs, runs, reports.

As mistakes.py has them: by the message that each ends in, made in an empty folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
import torch
from typer.testing import CliRunner

import netir
from netir import NetirError, passes, registry
from netir.cli import app
from netir.ir import Param
from netir.ops import OPS
from netir.report import Drawing, Stage, Story, write_report
from netir.runs import run_spec
from netir.runs.folder import RunFolder
from netir.runs.journal import Journal
from netir.spec import Spec, load, parse
from netir.text import parse_graph
from tests.mistakes import Mistake, calls, graph, written

MAKERS = """
import torch
from torch import nn

def bare():
    return nn.Linear(3, 2)

def pair():
    return bare(), torch.zeros(2, 3)

def number():
    return 3

def needs(x):
    return x
"""


def command(line: str) -> None:
    """A command that ends in code 2 and a message, raised here as the error that it tells."""
    Path("makers.py").write_text(MAKERS)
    netir.save(graph(), "net.netir")
    Path("taken").touch()
    Path("tiny.yaml").write_text("netir_spec: 1\nname: tiny\n")
    sys.modules.pop("makers", None)
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 2, result.output
    raise NetirError(result.stderr.removeprefix("error: ").strip())


COMMANDS: Mapping[str, str] = {
    "'…' is no model": "show nothing",
    "'…' names no Python module": "show .makers:pair",
    "there is no Python module '…'": "show nowhere:pair",
    "module '…' has no function '…'": "show makers:par",
    "'…' cannot be called without arguments": "show makers:needs",
    "the factory gives a …": "show makers:number",
    "the factory gives no example inputs": "show makers:bare",
    "the factory gives example inputs already": "show makers:pair --input x=f32[2]",
    "--input is for Python models only": "show net.netir --input x=f32[2]",
    "'…' gives no size": "show net.netir --cost --size batch",
    "the two networks take different inputs": "verify net.netir builtin:digits_mlp",
    "'…' takes other inputs than '…'": "bench net.netir builtin:digits_mlp",
    "'…' is no name for a saved graph": "trace net.netir -o net.onnx",
    "cannot lower to '…'": "lower net.netir -o net.onnx",
    "cannot export to '…'": "export net.netir -o net.tflite",
    "there is no grower, trigger or init '…'": "methods nort",
    "cannot make the folder: …": "lower net.netir -o taken",
    "the spec names no model": "run tiny.yaml",
    "no run has begun in this folder": "report .",
}


def text(line: str = "%y = relu(%x) : f32[2, 3]") -> str:
    return f"graph g(%x: f32[2, 3]) {{ {line} return %y }}"


def opaque(target: str, arguments: str = "($0,)") -> str:
    return text(f'%y = opaque(%x) {{target="{target}", arguments={arguments}}} : f32[2, 3]')


TEXTS: Mapping[str, str] = {
    "expected …, found …": "graph g(%x: f32[2]) { return",
    "unexpected character '…'": "graph g() { return ~ }",
    "a string is not closed on its line": text('step "widen'),
    "there is no op '…'": text("%y = rellu(%x) : f32[2, 3]"),
    "there is no element type '…'": text("%y = relu(%x) : float[2, 3]"),
    "… has no attribute '…'": text("%y = elu(%x) {alhpa=1.0} : f32[2, 3]"),
    "attribute '…' of … is …": text('%y = elu(%x) {alpha="big"} : f32[2, 3]'),
    "… takes …, … given": text("%y = relu(%x, %x) : f32[2, 3]"),
    "… needs operand …, which is left out": text("%y = relu(_) : f32[2, 3]"),
    "nothing before makes the value '…'": text("%y = relu(%z) : f32[2, 3]"),
    "there is a node or an input '%…' already": text("%x = relu(%x) : f32[2, 3]"),
    "there is no parameter '…'": text("%y = relu(@w) : f32[2, 3]"),
    "… gives …, but the text says …": text("%y = relu(%x) : f32[2, 4]"),
    "… cannot have these operands and attributes (…)":
        text("%y = cat() {dim=0} : f32[2, 3]"),
    "… names axis … of tensors of … dimensions":
        text("%y = squeeze(%x) {dims=(9,)} : f32[2, 3]"),
    "no axis has size …": text("%y = relu(%x) : f32[-2]"),
    "'…' names no torch operator": opaque("aten.relu"),
    "the operator '…' is not torch's own": opaque("prims.abs.default"),
    "the operator '…' takes a string that could name a file": opaque("aten.from_file.default"),
    "the operator '…' writes to its arguments": opaque("aten.relu_.default"),
    "the operator '…' does not give tensors": opaque("aten.item.default"),
    "the arguments of '…' do not use each of its … operands once":
        opaque("aten.relu.default", "($0, $0)"),
    "values are nested too deeply": text("%y = add(%x) {other=" + "(" * 500),
    "this size is too long": text("%y = add(%x) {other=" + "*".join(["(a + b + c)"] * 40) + "}"),
    "a whole number is too large": text("%y = add(%x) {other=" + "9" * 500 + "}"),
}  # fmt: skip


def holding(**tensors: torch.Tensor) -> netir.Graph:
    """A graph of these parameters."""
    return graph().replace(params={**graph().params, **{n: Param(t) for n, t in tensors.items()}})


def of_tensors(**tensors: torch.Tensor) -> object:
    return parse_graph(text("param @w: f32[2] %y = relu(%x) : f32[2, 3]"), tensors)


def stored(change: Callable[[dict[str, str]], object]) -> object:
    """A file whose metadata somebody changed."""
    netir.save(graph(), "net.netir")
    with safetensors.safe_open("net.netir", "pt") as file:
        metadata, tensors = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    change(metadata)
    safetensors.torch.save_file(tensors, "net.netir", metadata)
    return netir.load("net.netir")


def attribute_of_tensors() -> object:
    with graph().edit() as edit:
        edit.insert("y", OPS["mul"](other=torch.ones(1)), ["linear"])
    return str(edit.graph)


FILES: Mapping[str, Mistake] = {
    "there is no such file": lambda: netir.load("none.netir"),
    "this is a folder, not a file": lambda: netir.load("."),
    "cannot read the file: …": lambda: load("."),
    "cannot write the file: …": lambda: netir.save(graph(), "none/net.netir"),
    "this is no whole .netir file (…)": lambda: netir.load(written("net.netir", b"more")),
    "the file is damaged: its checksum is wrong": lambda: stored(lambda m: m.update(sha256="0")),
    "this safetensors file holds no graph": lambda: stored(lambda m: m.pop("netir")),
    "the file has format '…', this netir reads '1'": lambda: stored(lambda m: m.update(netir="7")),
    "there is no tensor for '@…'": lambda: of_tensors(),
    "the tensor for '@…' is …": lambda: of_tensors(w=torch.ones(3)),
    "there is a tensor '…', but no such parameter in the text":
        lambda: of_tensors(w=torch.ones(2), v=torch.ones(2)),
    "safetensors cannot store …":
        lambda: netir.save(holding(a=torch.ones(2, dtype=torch.complex128)), "net.netir"),
    "parameter '…' is a … tensor":
        lambda: netir.save(holding(a=torch.ones(2, device="meta")), "net.netir"),
    "a … has no text form": attribute_of_tensors,
}  # fmt: skip


SPECS: Mapping[str, str] = {
    "the spec has … problems": "netir_spec: 1\nsede: 3\nnmae: x",
    "this is no YAML: …": "passes: [1, 2",
    "'…' is there twice": "seed: 1\nseed: 2",
    "anchors and aliases (& and *) are not for specs": "seed: &x 1",
    "this is no spec: it is not a mapping": "[prune]",
    "the spec does not say its version": "name: x",
    "the spec has version …, this netir reads 1": "netir_spec: 7",
    "the spec has no '…'": "netir_spec: 1\nsede: 3",
    "'…' is …: it should be …": "netir_spec: 1\nseed: -1",
    "'…' is missing": "netir_spec: 1\nexports: [{file: x.onnx}]",
    "… has no option '…'": "netir_spec: 1\npasses: [{pass: prune, amout: 0.5}]",
    "option '…' of … takes …, not …": "netir_spec: 1\npasses: [{pass: prune, round_to: true}]",
    "… is no step": "netir_spec: 1\npasses: [prune]",
    "'…' is no key of a step": "netir_spec: 1\ntask: digits\npasses: [{train: {}, lr: 1}]",
    "… is no task": "netir_spec: 1\ntask: 3",
    "… is no grower": "netir_spec: 1\ntask: digits\npasses: [train: {grow: 3}]",
    "step …, …, needs a task": "netir_spec: 1\npasses: [train: {}]",
    "the target 'accuracy' needs a task": "netir_spec: 1\ntargets: {accuracy: 0.5}",
    "the target is an accuracy, and the task is judged by '…'":
        "netir_spec: 1\ntask: {name: digits, loss: mse}\ntargets: {accuracy: 0.5}",
    "'verify' on inputs of the task needs a task": "netir_spec: 1\nverify: {inputs: task}",
    "a spec cannot name the Python function '…': a file runs no code of its own":
        "netir_spec: 1\nmodel: my.nets:net",
    "'…' is no plain file name": "netir_spec: 1\nexports: [{format: onnx, file: ../x.onnx}]",
    "two exports are written to '…'": "netir_spec: 1\nexports: [onnx, onnx]",
}  # fmt: skip

SETS: Mapping[str, str] = {
    "'…' sets nothing": "seed",
    "'…' has no item '…'": "passes.3.amount=0.5",
    "'…' has no parts": "seed.x=1",
}


def spec_with(change: str) -> Spec:
    return parse("netir_spec: 1\nseed: 3\npasses: [pass: fold]", "a.yaml", [change])


def installed(*owners: str) -> object:
    """A pass that packages offer, and that is not to be found in them."""
    for owner in owners:
        info = Path(f"{owner}-1.0.dist-info")
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {owner}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[netir.passes]\ndouble = nowhere:Double\n")
    registry.forget()
    try:
        with patch("sys.path", [str(Path.cwd()), *sys.path]):
            return registry.called("pass", "double")
    finally:
        registry.forget()


STEPS = (passes.Fold(), passes.Widen())


def ran(*steps: Any, **options: Any) -> object:
    spec = Spec(netir_spec=1, name="x", passes=steps, report=False)
    return run_spec(spec, "run", **{"model": graph(), **options})


def ran_twice(
    between: Callable[[], object] = lambda: None, steps: Any = STEPS, **options: Any
) -> object:
    """A run, and another one in the same folder."""
    ran(*STEPS)
    between()
    return ran(*steps, **options)


def unfinished() -> None:
    """Let a run look as if it had been killed in its second step."""
    journal = Path("run/journal.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    steps = [n for n, line in enumerate(lines) if '"step"' in line]
    journal.write_text("".join(lines[: steps[1] + 1]))


def spoiled(change: Callable[[Path], object]) -> object:
    """A run that goes on, and finds the network of its first step changed."""

    def spoil() -> None:
        unfinished()
        (file,) = Path("run/steps").glob("00*/graph.netir")
        change(file)

    return ran_twice(spoil)


def held_twice() -> None:
    with RunFolder.held(Path("run")), RunFolder.held(Path("run")):
        pass


def linked() -> None:
    Path("run").mkdir()
    Path("run/journal.jsonl").touch()
    Path("run/steps").symlink_to(Path.cwd())
    with RunFolder.held(Path("run")):
        pass


def journal_of(line: str) -> Journal:
    return Journal(written("journal.jsonl", f"{line}\n".encode() * 2))


RUNS: Mapping[str, Mistake] = {
    "a run cannot begin with a …": lambda: ran(model=7),
    "the folder is of another run": lambda: ran_twice(steps=STEPS[:1]),
    "the run began with the network '…', not '…'": lambda: ran_twice(name="another"),
    "the network '…' is another than the one that the run began with":
        lambda: ran_twice(model=passes.Widen()(graph())),
    "'…' has files in it and is not the folder of a run":
        lambda: run_spec(Spec(netir_spec=1, name="x"), written("a.txt", b"").parent, model=graph()),
    "another process is running in this folder": held_twice,
    "a link stands where the run would write": linked,
    "'…' is no place inside the folder of the run": lambda: RunFolder(Path("run")).inside("../x"),
    "the journal is damaged": lambda: journal_of("["),
    "the journal has format …, this netir reads 1":
        lambda: journal_of('{"journal": 7, "time": "", "event": "begun"}'),
    "a file of the run has changed since it was written":
        lambda: spoiled(lambda file: netir.save(calls(torch.relu), file)),
    "cannot read a file of the run: …": lambda: spoiled(lambda file: file.unlink()),
    "this is no story that netir knows: its version is …": lambda: Story.from_json([]),
    "the story lacks '…'": lambda: Story.from_json({"netir_story": 1}),
    "the story has … where … must stand":
        lambda: Story.from_json({"netir_story": 1, "title": 3}),
    "the drawing is damaged: …": lambda: Drawing.from_json({"texts": [1]}),
    "a story holds texts and numbers, not …":
        lambda: Story("x", stages=(Stage("pass", "y", error=torch.ones(1)),)).to_json(),  # type: ignore[arg-type]
    "the report needs the name of a file, not of a folder":
        lambda: write_report(Story("x"), Path.cwd()),
}  # fmt: skip


def each(make: Callable[[str], object], table: Mapping[str, str]) -> dict[str, Mistake]:
    return {message: partial(make, given) for message, given in table.items()}


MISTAKES: Mapping[str, Mistake] = {
    **each(command, COMMANDS), **each(parse_graph, TEXTS), **FILES, **each(parse, SPECS),
    **each(spec_with, SETS), **RUNS,
    "two packages offer a … '…': … and …": lambda: installed("one", "two"),
    "the … '…' of … cannot be imported: …": lambda: installed("one"),
}  # fmt: skip
