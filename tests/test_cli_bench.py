"""`netir bench`: networks side by side."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import netir
from netir.builtin import BUILTINS
from netir.cli import app
from netir.passes import Prune


@pytest.fixture
def smaller(tmp_path: Path) -> str:
    module, args = BUILTINS["digits_mlp"]()
    path = tmp_path / "smaller.netir"
    netir.save(Prune(amount=0.5)(netir.trace(module, args)), path)
    return str(path)


def test_networks_stand_side_by_side(smaller: str) -> None:
    command = ["bench", "builtin:digits_mlp", smaller, "--seconds", "0.1"]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.output)
    assert second["parameters"] < first["parameters"]
    assert second["macs"] < first["macs"]
    assert all(row["torch_ms"] > 0 and row["onnx_ms"] > 0 for row in (first, second))
    table = CliRunner().invoke(app, command)
    assert table.exit_code == 0, table.output
    assert "ONNX Runtime" in table.output
    assert "%)" in table.output, "the second is told as a share of the first"


def test_a_batch_counts_as_it_is_large(smaller: str) -> None:
    one, four = (
        json.loads(CliRunner().invoke(
            app, ["bench", smaller, "--seconds", "0.1", "--json", "--batch", str(n)]
        ).output)[0] for n in (1, 4)
    )  # fmt: skip
    assert four["macs"] == 4 * one["macs"]


def test_other_inputs_are_refused(smaller: str, tmp_path: Path) -> None:
    other = tmp_path / "other.netir"
    netir.save(netir.trace(nn.Linear(3, 2), (torch.randn(2, 3),)), other)
    done = CliRunner().invoke(app, ["bench", smaller, str(other)])
    assert done.exit_code == 2
    assert "takes other inputs" in done.output
