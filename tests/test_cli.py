"""The command line: what each command prints, and how each mistake ends."""

import errno
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from netir.cli import app
from netir.store import load
from netir.text import parse_graph, print_graph

FACTORIES = '''
import torch
from torch import nn

def bare():
    """Only a module."""
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()

def pair():
    return bare(), (torch.zeros(2, 3),)

def one():
    return bare(), torch.zeros(2, 3)

class Keyword(nn.Module):
    def forward(self, tokens, *, mask=None):
        return tokens.float() * mask

def keywords():
    return Keyword(), (torch.zeros(2, 3, dtype=torch.int64),), {"mask": torch.ones(2, 3) > 0}

def wrong():
    return 7

def needs_more(x):
    return x

def late():
    import beside
    return beside.add(), (torch.zeros(2, 3), torch.zeros(2, 3))

def add():
    import beside
    return beside.add()

def fails():
    raise RuntimeError("a fault of the factory")

def missing():
    open("nowhere.pt")

number = 3
made = bare()
'''

BESIDE = """
from torch import nn

class add(nn.Module):
    def forward(self, x, y):
        return x + y
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in a folder of its own with a module of factories."""
    (tmp_path / "factories.py").write_text(FACTORIES)
    (tmp_path / "beside.py").write_text(BESIDE)
    monkeypatch.chdir(tmp_path)
    for name in ("factories", "beside"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def invoke(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def good(*args: str) -> str:
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*args: str) -> str:
    """The message of a request that is refused: no traceback, exit code 2."""
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


def test_help_names_every_command() -> None:
    text = good("--help")
    for name in (
        "trace", "show", "spaces", "verify", "lower", "run", "report", "export", "demo",
    ):
        assert name in text
        assert "Usage" in good(name, "--help")


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from netir.cli import app; sys.argv = ['netir', '--help']\n"
        "try: app()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_version() -> None:
    from netir import __version__

    assert good("--version") == f"netir {__version__}\n"


def test_trace_and_show() -> None:
    said = good("trace", "factories:pair", "-o", "net.netir")
    assert said == (
        "Sequential: 3 nodes, 26 parameters, 3 spaces of which 1 are free\nwrote net.netir\n"
    )
    graph = load("net.netir")
    assert good("show", "net.netir") == print_graph(graph)
    assert good("show", "factories:pair") == print_graph(graph)
    assert print_graph(parse_graph(good("show", "net.netir"))) == print_graph(graph)


@pytest.mark.parametrize("name", ["one", "keywords"])
def test_other_factories(name: str) -> None:
    assert good("show", f"factories:{name}").startswith("graph ")


def test_inputs_on_the_command_line() -> None:
    text = good("show", "factories:bare", "--input", "input=f32[batch, 3]")
    assert "%input: f32[batch, 3]" in text
    assert good("show", "factories:made", "--input", "input=f32[batch, 3]") == text
    assert "f32[batch, 3]" in good("show", "factories:bare", "--input", "input=f32[4, 3]")
    deep = ("--input", "input=f32[batch, length, 3]")
    assert "f32[batch, length, 2]" in good("show", "factories:bare", *deep, "--size", "length=5")
    assert "the size 'length' has no number" in refused("show", "factories:bare", *deep)


def test_a_factory_that_imports_when_it_is_called() -> None:
    before = list(sys.path)
    assert "add(%x, %y)" in good("show", "factories:late")
    assert sys.path == before


def test_sizes_that_no_network_has() -> None:
    sizes = ("--size", "btach=3")
    for line in (
        ("show", "builtin:residual", "--cost"), ("trace", "builtin:residual", "-o", "net.netir"),
        ("diff", "builtin:residual", "factories:pair"), ("export", "factories:pair", "-o", "a.py"),
    ):  # fmt: skip
        said = refused(*line, *sizes)
        assert "the network has no size 'btach'" in said
        assert "the open sizes are: batch\n  fix did you mean 'batch'?" in said
    assert not Path("net.netir").exists()
    good("diff", "factories:pair", "builtin:residual", "--size", "batch=3")


def test_a_size_that_is_equal_to_another() -> None:
    inputs = ("--input", "x=f32[one, 3]", "--input", "y=f32[other, 3]")
    sizes = ("--size", "one=4", "--size", "other=4")
    assert "%y: f32[one, 3]" in good("show", "factories:add", "--cost", *inputs, *sizes)


def test_cost_table() -> None:
    text = good("show", "builtin:residual", "--cost")
    assert "533,824" in text
    assert "for batch = 1" in text
    assert "1,067,648" in good("show", "builtin:residual", "--cost", "--size", "batch=2")


def test_spaces_are_told_in_words() -> None:
    text = good("spaces", "builtin:residual")
    row = next(line for line in text.splitlines() if line.startswith("layer2.conv2"))
    assert re.split("  +", row) == [
        "layer2.conv2",
        "32",
        "free",
        "layer2.conv2 (conv), layer2.around (conv)",
        "summed over by head (linear)",
        "layer2.bn2 (batch_norm)",
    ]
    assert "4 of 5 spaces are free" in text
    assert "graph output" in text
    assert "frozen: graph output" not in text
    assert "frozen: graph output" in good("spaces", "builtin:residual", "--all")


def test_spaces_of_a_layer() -> None:
    text = good("spaces", "builtin:attention", "--layer", "layers.1.up")
    assert "layers.1.up" in text
    assert "layers.0.attention.qkv[1]" not in text
    assert "0 of 0 spaces" in good("spaces", "builtin:attention", "--layer", "nothing")


def test_spaces_as_json() -> None:
    found = {s["name"]: s for s in json.loads(good("spaces", "builtin:attention", "--json"))}
    head = found["head"]
    assert (head["size"], head["free"], head["reason"]) == (10, False, "graph output")
    width = found["layers.0.attention.qkv[2]"]
    assert width["free"]
    assert ["paired in", "scaled_dot_product_attention (attention)"] in width["read_by"]
    assert ["layers.0.attention.out.weight", 1, False] in width["members"]


def test_verify() -> None:
    good("trace", "builtin:attention", "-o", "a.netir")
    assert good("verify", "builtin:attention", "a.netir").startswith("exact: holds, error 0")
    broken = invoke("verify", "builtin:attention", "builtin:residual", "--seed", "3")
    assert broken.exit_code == 1
    assert "does not keep its contract 'exact'" in broken.stderr
    assert isinstance(broken.exception, SystemExit)
    good("trace", "factories:pair", "-o", "b.netir")
    assert "different inputs" in refused("verify", "a.netir", "b.netir")
    assert "'exakt'" in refused("verify", "a.netir", "a.netir", "--contract", "exakt")


def test_lower() -> None:
    good("trace", "factories:pair", "-o", "net.netir")
    assert good("lower", "net.netir", "-o", "net.py") == "wrote net.py\n"
    assert good("lower", "net.netir", "-o", "out") == "wrote out/model.py\n"
    assert "netir" not in Path("net.py").read_text().split("import", 1)[1]
    assert "cannot lower to '.onnx'" in refused("lower", "net.netir", "-o", "net.onnx")


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("show", "nothing"), "'nothing' is no model"),
        (("show", "nothing.netir"), "there is no such file"),
        (("show", "factories.py"), "no whole .netir file"),
        (("show", "builtin:residul"), "did you mean 'residual'?"),
        (("show", "nowhere.at.all:f"), "there is no Python module 'nowhere'"),
        (("show", "factories:par"), "did you mean 'pair'?"),
        (("show", "factories:number"), "has no function 'number'"),
        (("show", "factories:wrong"), "the factory gives a int"),
        (("show", "factories:bare"), "the factory gives no example inputs"),
        (("show", "factories:pair", "--input", "x=f32[2]"), "gives example inputs already"),
        (("show", "factories:bare", "--input", "x:f32"), "expected '='"),
        (("show", "factories:bare", "--input", "y=f32[2, 3]"), "cannot be called with these"),
        (("show", "factories:bare", "--input", "input=f32[2, 9]"), "torch.export cannot export"),
        (("show", "builtin:residual", "--cost", "--size", "batch"), "'batch' gives no size"),
        (("trace", "builtin:residual", "-o", "none/net.netir"), "cannot write the file"),
        (("trace", "builtin:residual", "-o", "net.onnx"), "use netir export"),
        (("trace", "builtin:residual", "-o", "net.py"), "use netir lower"),
    ],
)
def test_mistakes(args: tuple[str, ...], what: str) -> None:
    assert what in refused(*args)


def test_options_that_do_not_exist() -> None:
    assert "No such option" in refused("show", "builtin:residual", "--costs")


@pytest.mark.parametrize(
    ("name", "kind"), [("fails", RuntimeError), ("missing", FileNotFoundError)]
)
def test_faults_have_a_traceback(name: str, kind: type[Exception]) -> None:
    result = invoke("show", f"factories:{name}")
    assert result.exit_code == 1
    assert isinstance(result.exception, kind)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is full")
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("line", ["show factories:pair", "--help", "passes"])
def test_output_that_finds_no_room(line: str, both: bool) -> None:
    script = str(Path(sys.executable).with_name("netir"))
    with Path("/dev/full").open("w") as full:
        err = full if both else subprocess.PIPE
        done = subprocess.run([script, *line.split()], stdout=full, stderr=err)
    assert done.returncode == 2
    assert both or done.stderr == b"error: cannot write the output: the disk is full\n"


def test_as_a_program() -> None:
    """The console script, outside of this process, into a pipe."""
    script = str(Path(sys.executable).with_name("netir"))
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [script, "spaces", "factories:pair"], capture_output=True, text=True, env=env, check=True
    )
    assert "\x1b" not in done.stdout
    assert "0 (linear)" in done.stdout
    failed = subprocess.run([script, "show", "x"], capture_output=True, text=True, env=env)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: 'x' is no model\n  fix name a .netir or .onnx file")


def test_a_factory_that_needs_arguments() -> None:
    message = refused("trace", "json:loads", "-o", "x.netir")
    assert "'loads' cannot be called without arguments" in message


@pytest.mark.parametrize("model", [":x", ".foo:bar", "foo.:bar"])
def test_no_module_is_named(model: str) -> None:
    done = CliRunner().invoke(app, ["show", model])
    assert done.exit_code == 2
    assert "names no Python module" in done.output


@pytest.mark.parametrize("size", ["batch=0", "batch=" + "9" * 5000])
def test_sizes_that_cannot_be(size: str) -> None:
    both = ["builtin:residual"] * 2
    done = CliRunner().invoke(app, ["verify", *both, "--size", size])
    assert done.exit_code == 2
    assert "gives no size" in done.output


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("here before")
    done = CliRunner().invoke(app, ["lower", "builtin:residual", "-o", str(tmp_path / "Makefile")])
    assert done.exit_code == 2
    assert "cannot make the folder" in done.output
    assert (tmp_path / "Makefile").read_text() == "here before"


@pytest.mark.parametrize("name", ["net.netir", "net.onnx", "net.py"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name")
def test_what_is_no_file_is_not_replaced(name: str) -> None:
    os.mkfifo(name)
    before = os.stat(name)
    said = refused("export", "builtin:digits_mlp", "-o", name)
    assert "there is a device, a pipe or a socket" in said or "did not write it" in said
    assert stat.S_ISFIFO(os.stat(name).st_mode)
    assert os.stat(name).st_ino == before.st_ino


def test_a_folder_called_like_a_python_file() -> None:
    Path("net.py").mkdir()
    assert "netir did not write it" in refused("lower", "builtin:digits_mlp", "-o", "net.py")


def test_no_folder_is_left_of_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("netir.lower.python.save_file", no_room)
    Path("old").mkdir()
    for folder in ("new/deep", "old/deep", "old"):
        assert "the disk is full" in refused("lower", "builtin:digits_mlp", "-o", folder)
    assert not Path("new").exists()
    assert list(Path("old").iterdir()) == []
