"""Generated Python files: they stand alone, compute the same, and no name becomes code."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import netir
from netir.errors import NetirError
from netir.ir import Node, Record, Ref
from netir.lower.python import to_python
from netir.lower.source import wrapped
from netir.ops.activation import Gelu
from netir.ops.opaque import Opaque
from tests.test_lower import distance, tensors
from tests.zoo.traced import NAMES, traced

LONG_PATHS = {"cvt"}
"""Samples in which the path of one module is longer than a line."""


def imported(path: Path) -> Any:
    """The module in a file, by itself."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_the_file_computes_the_same(name: str, tmp_path: Path) -> None:
    sample, graph = traced(name)
    path = tmp_path / f"{name}.py"
    to_python(graph, path)
    text = path.read_text()
    assert "netir" not in text.partition("\n")[2]
    imports = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
    roots = {n.module or "" if isinstance(n, ast.ImportFrom) else n.names[0].name for n in imports}
    assert {r.partition(".")[0] for r in roots} <= {"torch", "typing", "pathlib", "safetensors"}
    assert name in LONG_PATHS or max(map(len, text.splitlines())) <= 100
    network = imported(path).load()
    with torch.no_grad():
        expected = tensors(netir.to_torch(graph)(*sample.args, **sample.kwargs))
        found = tensors(network(*sample.args, **sample.kwargs))
    assert all(distance(a, b) == 0 or bool(a.isnan().any())
               for a, b in zip(expected, found, strict=True))  # fmt: skip
    assert sorted(network.state_dict()) == sorted(sample.model.state_dict())
    same = dict(network.named_parameters())
    for key, parameter in sample.model.named_parameters():
        assert (same[key].requires_grad, same[key].dtype) == (
            parameter.requires_grad, parameter.dtype
        )  # fmt: skip


def test_it_stands_alone(tmp_path: Path) -> None:
    _, graph = traced("constants")
    to_python(graph, tmp_path / "net.py")
    program = (
        "import net, sys, torch; net.load()(torch.ones(2, 3, 6, 6)); print('netir' in sys.modules)"
    )
    call = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_it_replaces_only_what_netir_wrote(tmp_path: Path) -> None:
    _, graph = traced("one_example")
    path, weights = tmp_path / "net.py", tmp_path / "net.safetensors"
    to_python(graph, path)
    to_python(graph, path)
    path.write_text("mine = 1\n")
    with pytest.raises(netir.NetirError, match="did not write"):
        to_python(graph, path)
    assert path.read_text() == "mine = 1\n"
    path.unlink()
    weights.write_bytes(b"mine")
    with pytest.raises(netir.NetirError, match="did not write"):
        to_python(graph, path)
    assert weights.read_bytes() == b"mine"
    to_python(graph, path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.py", "net.safetensors"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    _, graph = traced("one_example")
    (tree,) = graph.arguments.values()
    with pytest.raises(netir.NetirError):
        to_python(graph.replace(arguments={"a b": tree}), tmp_path / "net.py")
    with pytest.raises(netir.NetirError, match=r"\.py"):
        to_python(graph, tmp_path / "net.txt")
    assert not list(tmp_path.iterdir())


HOSTILE = '"); import os; os.abort() #\n\\'


def test_names_and_texts_cannot_be_code(tmp_path: Path) -> None:
    _, graph = traced("one_example")
    leaf = Ref(graph.outputs[0])
    output = (
        {HOSTILE: leaf},
        Record(f"x.{HOSTILE}", {"a": leaf}, dict),
        Record("x.Y", {HOSTILE: leaf}, dict),
    )
    to_python(graph.replace(name=HOSTILE, output=output), tmp_path / "net.py")
    network = imported(tmp_path / "net.py").load()
    found = network(torch.ones(1, 5))
    assert HOSTILE in found[0]


@pytest.mark.parametrize(
    "op", [Opaque(target=f"aten.{HOSTILE}.default"), Opaque(target=f"{HOSTILE}.relu.default"),
           Gelu(approximate=HOSTILE)],
)  # fmt: skip
def test_attributes_cannot_be_code(op: Any, tmp_path: Path) -> None:
    _, graph = traced("one_example")
    name, kind = next(iter(graph.inputs.items()))
    node = Node("extra", op, (name,), (kind,))
    hostile = graph.replace(nodes={**graph.nodes, "extra": node}, output=Ref("extra"))
    try:
        to_python(hostile, tmp_path / "net.py")
    except netir.NetirError:
        return
    call = ast.parse((tmp_path / "net.py").read_text())
    assert HOSTILE in [n.value for n in ast.walk(call) if isinstance(n, ast.Constant)]


@pytest.mark.parametrize(
    "line",
    [
        "    x = f(" + ", ".join(f"argument_{i}={i}" for i in range(30)) + ")",
        "        y = torch.tensor([" + ", ".join(["0.25"] * 64) + "], dtype=torch.float32)",
        "    z = g('a, (b', " + ", ".join(["[1, 2]"] * 40) + ")",
    ],
)
def test_long_lines_are_broken_and_mean_the_same(line: str) -> None:
    broken = wrapped(line)
    assert max(map(len, broken.splitlines())) <= 100
    assert ast.dump(ast.parse(broken.lstrip())) == ast.dump(ast.parse(line.lstrip()))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    _, graph = traced("chain")
    with pytest.raises(netir.NetirError, match="cannot write the file"):
        to_python(graph, tmp_path / "none" / "net.py")


def test_a_pipe_in_the_way_is_told_before_anything_is_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.py")
    graph = traced("fused_chunk")[1]
    with pytest.raises(NetirError, match="there is a device, a pipe or a socket"):
        to_python(graph, tmp_path / "net.py", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["net.py"]
