"""Inits that look at data keep the function of every network, or say why a space is left alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import netir
from netir.basis import Contract
from netir.calibration import Calibration
from netir.errors import NetirWarning
from netir.ir import Graph
from netir.passes import Grow
from netir.verify import check, verify
from tests.doubled import doubled, doubled_tensors
from tests.zoo.traced import NAMES, traced

BOUND = 1e-10
INITS = ("select", "pre", "gradmax")
SOME = ("resnet", "unet", "vit", "dense", "attention_pooling", "buffers", "cross_mha")


def size_of(output: Any, target: Any) -> Tensor:
    """A loss that every output has a part in."""
    found = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    return torch.stack([t.square().mean() for t in found]).sum()


def calibrated(name: str) -> tuple[Graph, Calibration, tuple[Any, ...], dict[str, Any]]:
    sample, graph = traced(name)
    args, kwargs = doubled_tensors(sample.args), doubled_tensors(sample.kwargs)
    batch = {**dict(zip(graph.arguments, args, strict=False)), **kwargs}
    return doubled(graph), Calibration([batch], [torch.zeros(1)], size_of), args, kwargs


def keeps(name: str, init: str) -> tuple[str, ...]:
    """Grow what can grow, and hold the result against the network; gives the spaces."""
    graph, calibration, args, kwargs = calibrated(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        done = Grow(count=2, init=init, candidates=4).apply(graph, calibration)
    check(done.graph)
    assert done.report.contract is Contract.EXACT
    assert all(why for _, why in done.report.skipped)
    verify(graph, done.graph, args, kwargs, bound=BOUND)
    return done.report.changed


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", SOME)
def test_some_networks(name: str, init: str) -> None:
    assert keeps(name, init)


@pytest.mark.soak
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", NAMES)
def test_every_network(name: str, init: str) -> None:
    keeps(name, init)


class Residual(nn.Module):
    """A space that two convolutions make."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x))
        made: Tensor = self.head(torch.relu(h + self.block(h)))
        return made


@pytest.mark.parametrize("init", ["select", "pre"])
def test_a_network_of_a_fixed_batch(init: str, tmp_path: Path) -> None:
    """All samples are looked at where no fewer would fit."""
    x = torch.randn(24, 3, 16, 16)
    file = tmp_path / "net.onnx"
    netir.to_onnx(netir.trace(Residual(), (x,)), file, x)
    model = onnx.load(file)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 24
    onnx.save(model, file)
    graph = netir.from_onnx(file)
    assert [t.shape for t in graph.inputs.values()] == [(24, 3, 16, 16)]
    done = Grow(count=2, init=init, candidates=4).apply(graph, Calibration([x]))
    assert len(done.report.changed) == 1
    verify(graph, done.graph, (x,), bound=BOUND)
