"""Fold, the rules that are exact in train mode too: identities, common, constants, dead."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import netir
from netir.basis import Contract
from netir.errors import NetirWarning
from netir.ir import Graph
from netir.passes import Fold
from netir.verify import verify
from tests.doubled import doubled, doubled_tensors
from tests.test_fold import BOUND, IMAGE, ROW, ops, randomised
from tests.zoo.traced import traced


class Idle(nn.Module):
    """What changes nothing, what is done twice, what nobody reads; dropout and batch norm too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
        self.drop, self.never = nn.Dropout(0.4), nn.Dropout(0.0)
        self.register_buffer("ones", torch.ones(6, 1, 1))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv((x * 1 + 0.0).contiguous()))
        dead = torch.exp(y) + self.head(x.mean((2, 3)) @ torch.ones(4, 6, dtype=x.dtype))[0, 0]
        del dead
        y = torch.cat([y.transpose(1, 2).transpose(2, 1)]) * self.ones
        y = y.reshape(-1, 6, 25).reshape(-1, 6, 5, 5)[:, :, 0:5].unsqueeze(1).squeeze(1)
        y = torch.relu(self.drop(y)) + torch.relu(self.never(y)) * torch.relu(y) * torch.relu(y)
        y = y + torch.cos(self.ones * 0.5)
        return self.head(nn.functional.pad(y, (0, 0)).to(y.dtype).mean((2, 3)))


@pytest.mark.parametrize("what", ["identities", "common", "constants", "dead"])
def test_exact_in_train_mode(what: str) -> None:
    model = Idle()
    with torch.no_grad():
        graph = netir.trace(randomised(model), (IMAGE,))
    graph = with_ones(graph)
    after = Fold(what=what)(graph)
    assert after.history[-1].contract == "exact"
    assert len(after.nodes) < len(graph.nodes)
    same_in_both_modes(graph, after, IMAGE)


def with_ones(graph: Graph) -> Graph:
    with graph.edit() as edit:
        edit.set_param("ones", torch.ones_like(graph.params["ones"].data))
    return edit.graph


def same_in_both_modes(before: Graph, after: Graph, *args: Any) -> None:
    for mode in (False, True):
        found = []
        for graph in (before, after):
            torch.manual_seed(5)
            found.append(netir.to_torch(graph).train(mode)(*args).detach())
        assert (found[0] - found[1]).abs().max() <= BOUND * max(1, float(found[0].abs().max()))


def test_nothing_idle_is_left() -> None:
    graph = with_ones(netir.trace(randomised(Idle()), (IMAGE,)))
    after = Fold(what="identities common constants dead")(graph)
    assert ops(after) == [
        "conv", "batch_norm", "dropout", "relu", "relu", "mul", "mul", "add", "add", "mean",
        "linear",
    ]  # fmt: skip
    everything = Fold()(graph)
    assert "batch_norm" not in ops(everything)
    assert verify(graph, everything, IMAGE).contract is Contract.EXACT_EVAL


def test_random_nodes_are_not_common() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            drop = nn.functional.dropout
            y = drop(x, 0.5, self.training) * drop(x, 0.5, self.training)
            return y + self.norm(x) - self.norm(x)

    model = randomised(Pair())
    graph = netir.trace(model, (ROW,))
    assert (ops(graph).count("dropout"), ops(graph).count("batch_norm")) == (2, 2)
    with pytest.warns(NetirWarning, match="changes nothing"):
        assert Fold(what="common")(graph) is graph


class Returns(nn.Module):
    """An output that is an input, and one that is a constant."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 1, torch.arange(3.0).exp() + 1


def test_what_is_returned_stays_apart_from_what_is_given() -> None:
    graph = netir.trace(Returns(), (ROW,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        after = Fold()(graph)
    assert "mul" in ops(after)
    verify(graph, after, ROW)


class Tables(nn.Module):
    """A table made from a buffer, one made from a trained parameter, one that rounding decides."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.tensor([0.1, 0.3, 0.5, 0.7]))
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        wave = torch.cos(self.steps * 0.5).expand(3, 4).sum(0)
        bucket = (self.steps * 10).floor().to(torch.int64)
        return (x + wave) * torch.exp(self.scale) + bucket


def test_constants_are_computed_once() -> None:
    graph = netir.trace(Tables(), (ROW.float(),))
    result = Fold(what="constants").apply(graph)
    made = [n for n in result.graph.params if n not in graph.params]
    assert "exp" in ops(result.graph)
    assert "cos" not in ops(result.graph)
    assert result.graph.params[made[0]].kind == "buffer"
    x = ROW.float()
    assert torch.allclose(netir.run(graph, x), netir.run(result.graph, x), rtol=1e-6)
    frozen = Fold(what="constants", freeze=True)(graph)
    assert "exp" not in ops(frozen)
    assert "scale" not in frozen.params
    verify(graph, frozen, x)


def test_what_rounding_decides_is_left() -> None:
    """0.7 is a little less in float32; ten times that is rounded to 7 there, not in float64."""
    graph = netir.trace(Tables(), (ROW.float(),))
    report = Fold(what="constants").apply(graph).report
    assert any("rounded" in why for _, why in report.skipped)


@pytest.mark.parametrize("name", ["swin", "llama", "t5"])
def test_constants_make_families_smaller(name: str) -> None:
    sample, graph = traced(name)
    graph, args = doubled(graph), doubled_tensors(sample.args)
    kwargs = doubled_tensors(sample.kwargs)
    after = Fold(what="constants identities common dead")(graph)
    assert len(after.nodes) <= 0.85 * len(graph.nodes)
    verify(graph, after, args, kwargs, bound=1e-12)
    trained = [n for n, p in graph.params.items() if p.kind == "param"]
    assert all(after.params[n] is graph.params[n] for n in trained)
    if name != "llama":
        kinds = [sum(p.kind == "const" for p in g.params.values()) for g in (graph, after)]
        assert kinds[1] < kinds[0]
