"""The pages tell the truth: every block of code in them runs, and what they list is there.

A block says by its label what it is: `python`, `bash`, `yaml`, `json`, `toml`, or `text` for what
is no code.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import netir
from netir import NetirError, passes, registry
from netir.builtin import BUILTINS
from netir.cli import app
from netir.ops import OPS
from netir.spec import parse
from netir.text import parse_graph, print_graph
from tests.marked import embedded
from tests.reference import reference

ROOT = Path(__file__).parents[1]
PAGES = {page.stem: page for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page, moved down to their lines so that tracebacks point there."""
    text = PAGES[page].read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, m.start(1)) + m[1] for m in found]


def pages_with(language: str) -> list[str]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    fences = re.findall(r"^ *```(.*)$", PAGES[page].read_text(), re.MULTILINE)
    assert set(fences[::2]) <= {"python", "bash", "yaml", "json", "toml", "text"}
    assert set(fences[1::2]) <= {""}


# Python


@pytest.fixture
def _lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a framework that the pages mention and the tests do not need."""
    monkeypatch.setitem(sys.modules, "lightning", SimpleNamespace(Callback=object))  # type: ignore[arg-type]


@pytest.mark.parametrize("page", pages_with("python"))
@pytest.mark.usefixtures("_lightning")
def test_python_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, str(PAGES[page]), "exec", dont_inherit=True), names)
    printed = _without_numbers(capsys.readouterr().out)
    for told in re.findall(r"```\n\n```text\n(.*?)^```$", PAGES[page].read_text(), re.M | re.S):
        assert _without_numbers(told) in printed


def _without_numbers(text: str) -> str:
    """The words of a text; numbers and the device differ from machine to machine."""
    return re.sub(r"\d[\d.e+-]*", "0", " ".join(text.split())).replace("CUDA", "CPU")


@pytest.mark.usefixtures("_lightning")
def test_the_callback_rewrites_what_a_framework_trains() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(blocks("live", "python")[-1], names)
    net = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 2))
    trainer = SimpleNamespace(optimizers=[torch.optim.SGD(net.parameters(), lr=0.1)])
    callback = names["Grow"]()
    callback.on_fit_start(trainer, SimpleNamespace(net=net))
    net(torch.ones(2, 3))
    callback.on_train_epoch_end(trainer, SimpleNamespace(net=net))
    assert net[0].out_features == 44


@pytest.mark.parametrize(
    "example", sorted((ROOT / "examples").glob("*.py")), ids=lambda file: file.stem
)
def test_examples_run(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")


# Specs and other data

MISSING = {"netir_spec": "1", "model": "builtin:digits_mlp", "task": "digits"}
"""What a part of a spec leaves out."""


def whole(text: str) -> str:
    """A spec of a part of one: a list is that of its steps."""
    if text.lstrip().startswith("-"):
        text = f"passes:\n{text}"
    return "".join(f"{k}: {v}\n" for k, v in MISSING.items() if f"\n{k}:" not in f"\n{text}") + text


@pytest.mark.parametrize("page", pages_with("yaml"))
def test_specs_are_read(page: str) -> None:
    for block in blocks(page, "yaml"):
        text = block.lstrip("\n")
        complete = "netir_spec:" in text
        spec = parse(text if complete else whole(text), str(PAGES[page]))
        assert spec.passes
        assert parse(spec.dump()) == spec


def test_other_data_is_read() -> None:
    for page in PAGES:
        for block in blocks(page, "json"):
            json.loads(block)
        for block in blocks(page, "toml"):
            tomllib.loads(block)


def test_entry_points_have_groups_that_netir_reads() -> None:
    (block,) = blocks("spec", "toml")
    groups = tomllib.loads(block)["project"]["entry-points"]
    assert set(groups) <= {kind.group for kind in registry._KINDS.values()}


# Commands

QUICK = """
netir_spec: 1
name: quick
model: builtin:digits_mlp
task: digits
passes:
  - train: {epochs: 1}
  - {pass: prune, amount: 0.3}
"""
MODELS = """
from torch import nn
from netir.builtin import BUILTINS

class Net(nn.Sequential):
    def forward(self, x):
        return super().forward(x)

def bare():
    return Net(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Conv2d(4, 2, 1))

resnet = {"bare": bare, "pair": BUILTINS["residual"]}
"""
NOT_RUN = {
    "pip install .": "installs; CI checks types in an installed wheel",
    "make demo": "CI runs it as a step of its own",
    "make test": "this is a part of it",
    "make test PYTHON=python3.12 VENV=/tmp/netir-venv": "installs",
    "make bench": "takes half an hour",
    "make bench BENCHES=analysis": "takes minutes",
    "make bench ARGS=--quick": "installs",
    "python -m bench.trace --only bert_12": "takes minutes",
    "make aot TRITON=3.6.0": "installs",
    "pytest -m gpu": "needs a GPU",
    "compute-sanitizer --tool memcheck python -m pytest -m gpu tests/test_kernels_triton.py":
        "needs a GPU",
    "python -m bench.gpu_expand": "needs a GPU",
}  # fmt: skip
"""Commands that no test runs, and why; what they name is there."""


def commands(page: str) -> Iterator[list[str]]:
    for block in blocks(page, "bash"):
        lines = (shlex.split(line, comments=True) for line in block.splitlines())
        yield from (line for line in lines if line)


@pytest.fixture
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Iterator[None]:
    """A folder with the files that the commands of a page name."""
    page = request.node.callspec.params["page"]
    monkeypatch.chdir(tmp_path)
    specs = [block for block in blocks(page, "yaml") if "netir_spec" in block]
    Path("shrink.yaml").write_text(specs[0].lstrip("\n") if specs else QUICK)
    kind = "bare" if page == "cli" else "pair"
    Path("mypackage").mkdir()
    for module in ("models.py", "mypackage/models.py"):
        Path(module).write_text(f'{MODELS.rstrip()}["{kind}"]\n')
    before = netir.trace(*BUILTINS["residual"]())
    for name, graph in {"before": before, "after": passes.Widen("stem")(before)}.items():
        netir.save(graph, f"{name}.netir")
        netir.to_onnx(graph, f"{name}.onnx")
    yield
    for module in ("models", "mypackage", "mypackage.models"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("page", [p for p in PAGES if any(c[0] == "netir" for c in commands(p))])
@pytest.mark.usefixtures("_files")
def test_commands_run(page: str) -> None:
    for name, *arguments in commands(page):
        if name == "netir":
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, f"{arguments}\n{done.output}"


def test_other_commands_name_what_is_there() -> None:
    found = [c for page in PAGES for c in commands(page) if c[0] != "netir"]
    assert {" ".join(command) for command in found} == set(NOT_RUN)
    makefile = (ROOT / "Makefile").read_text()
    for command in found:
        if command[0] == "make":
            assert f"\n{command[1]}:" in makefile
            assert all(f"\n{part.split('=')[0]} ?=" in makefile for part in command[2:])
        for word in command:
            if word.startswith("bench."):
                assert (ROOT / f"{word.replace('.', '/')}.py").exists()
            if word.startswith("tests/"):
                assert (ROOT / word).exists()


# What is no code

TEXTS = {
    "net.onnx: 19 nodes": "what the Python before it prints",
    "netir trace  MODEL": "test_every_command_has_its_line",
    "n i _*, o i _*, o ": "test_the_rule_of_a_convolution",
    "there is no op 're": "test_the_message_is_one",
    "graph stem(%x: f32": "test_the_printed_graph_is_one",
    'graph   = "graph" ': "a grammar: the tests of the text hold the parser to it",
}
"""What holds each of these to the truth, by how it begins."""


def test_every_text_is_looked_at() -> None:
    assert {b.lstrip("\n")[:18] for page in PAGES for b in blocks(page, "text")} == set(TEXTS)


def test_the_rule_of_a_convolution() -> None:
    assert OPS["conv"]().axes == blocks("concepts", "text")[0].strip()  # type: ignore[attr-defined]


def test_the_message_is_one() -> None:
    text = "graph g(%x: f32[2]) {\n  %y = rellu(%x) : f32[2]\n  return %y\n}\n"
    with pytest.raises(NetirError) as caught:
        parse_graph(text)
    assert str(caught.value) == blocks("errors", "text")[0].strip()


def test_the_printed_graph_is_one() -> None:
    text = blocks("text", "text")[0].lstrip("\n")
    assert print_graph(parse_graph(text)) == text


def test_every_command_has_its_line() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    for command in app.registered_commands:
        assert command.callback is not None
        assert f"\nnetir {command.callback.__name__}" in page


def test_every_pass_is_described_as_it_is() -> None:
    found = embedded((ROOT / "docs/passes.md").read_text(), "reference")
    assert found == reference(), "run `python -m tests.reference docs/passes.md`"


def test_pages_are_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [p.name for p in (ROOT / "docs").glob("*.md") if p.name not in menu] == []
