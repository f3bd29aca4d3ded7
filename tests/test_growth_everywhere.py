"""Inits that look at data keep the function of every network, or say why a space is left alone."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

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
