"""Passes in random order: every step keeps its contract, and the result lowers and is stored."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

import netir
from netir import NetirWarning
from netir.rewrite import Pass
from netir.verify import check, verify
from tests.doubled import doubled, doubled_tensors
from tests.pass_examples import EXAMPLES
from tests.zoo.traced import NAMES, traced

STEPS: tuple[Pass, ...] = tuple(example for several in EXAMPLES.values() for example in several)
LARGEST = 120
"""Nodes of a network that passes are tried on here; what deepens it may make it larger."""

slow = settings(
    suppress_health_check=list(HealthCheck), database=None, deadline=None, max_examples=25
)
pipelines = st.lists(st.sampled_from(STEPS), min_size=2, max_size=4)


def holds(name: str, steps: list[Pass]) -> None:
    """Apply the steps one after the other; prove each, then what the result is good for."""
    sample, traced_graph = traced(name)
    if len(traced_graph.nodes) > LARGEST:
        return
    graph = doubled(traced_graph)
    args, kwargs = doubled_tensors(sample.args), doubled_tensors(sample.kwargs)
    for step in steps:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NetirWarning)
            done = step.apply(graph)
        check(done.graph)
        verify(graph, done.graph, args, kwargs)
        if not done.graph.params:
            break
        graph = done.graph
    with TemporaryDirectory() as folder:
        netir.save(graph, Path(folder, "net.netir"))
        again = netir.load(Path(folder, "net.netir"))
    assert str(again) == str(graph)
    with torch.no_grad():
        want = pytree.tree_leaves(netir.run(graph, *args, **kwargs))
        have = pytree.tree_leaves(netir.to_torch(graph)(*args, **kwargs))
    for one, two in zip(want, have, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("part", range(4))
def test_random_pipelines(part: int) -> None:
    seed(part)(slow(given(st.sampled_from(NAMES), pipelines)(holds)))()


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
def test_many_pipelines(part: int) -> None:
    settings(slow, max_examples=200)(given(st.sampled_from(NAMES), pipelines)(holds))()
