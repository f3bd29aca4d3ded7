"""Widen: new widths by every option, exact for any activation, also with batch norm in training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import netir
from netir.basis import Contract, extend
from netir.errors import NetirError, NetirWarning
from netir.ir import Graph
from netir.passes import Grow, Widen
from netir.verify import verify


class Stack(nn.Module):
    """Convolutions with batch norm and an odd activation, flattened into linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 4, 3)
        self.bn2 = nn.BatchNorm2d(4)
        self.fc1 = nn.Linear(4 * 16, 10)
        self.fc2 = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sin(self.bn1(self.conv1(x)))
        y = torch.tanh(self.bn2(self.conv2(y)))
        return self.fc2(torch.cos(self.fc1(y.flatten(1))))


def randomised(model: nn.Module) -> nn.Module:
    """Float64, no parameter at its usual start."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.2 * torch.randn_like(tensor).abs())
    return model.double().eval()


X = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(3)).double()


@pytest.fixture
def graph() -> Graph:
    return netir.trace(randomised(Stack()), (X,))


WIDE = [
    Widen(factor=1.5),
    Widen(factor=2, split="uneven", seed=1),
    Widen(factor=1.7, order="random", seed=2),
    Widen(count=3, split="uneven", order="random"),
    Widen(multiple=8),
    Widen("conv1 fc1", to=13, split="uneven"),
]


@pytest.mark.parametrize("widen", WIDE, ids=str)
def test_exact_in_eval_and_in_train_mode(graph: Graph, widen: Widen) -> None:
    """The batch's own statistics of a copy are those of its source."""
    result = widen.apply(graph)
    assert result.report.contract is Contract.EXACT
    verify(graph, result.graph, X)
    before, after = netir.to_torch(graph).train(), netir.to_torch(result.graph).train()
    want, have = before(X), after(X)
    assert (want - before.eval()(X)).abs().max() > 1e-3
    assert (want - have).abs().max() <= 1e-10
    copied = after.get_buffer("bn1.running_mean")
    assert torch.allclose(copied[:6], before.get_buffer("bn1.running_mean"), atol=1e-12)


@pytest.mark.parametrize(
    ("widen", "widths"),
    [
        (Widen(), (12, 8, 20)),
        (Widen(factor=1.5), (9, 6, 15)),
        (Widen(count=3), (9, 7, 13)),
        (Widen(to=10), (10, 10, 10)),
        (Widen(factor=1.5, multiple=4), (12, 8, 16)),
        (Widen(count=1, multiple=8), (8, 8, 16)),
        (Widen(factor=1, multiple=5), (10, 5, 10)),
    ],
    ids=str,
)
def test_widths(graph: Graph, widen: Widen, widths: tuple[int, ...]) -> None:
    params = widen(graph).params
    names = ("conv1.weight", "conv2.weight", "fc1.weight")
    assert tuple(params[n].data.shape[0] for n in names) == widths


def test_what_has_its_width_already_is_left(graph: Graph) -> None:
    left = dict(Widen(to=6).apply(graph).report.skipped)
    assert left["conv1"] == "its width is 6 already"
    assert left["fc1"] == "its width 10 is more than 6"
    with pytest.warns(NetirWarning, match="its width is 10 already"):
        Widen("fc1", factor=1)(graph)


def sources(graph: Graph, wide: Graph, name: str) -> list[int]:
    """Which old row each row of a weight is."""
    old, new = graph.params[name].data, wide.params[name].data
    return [next(i for i, row in enumerate(old) if torch.equal(row, r)) for r in new]


def test_order(graph: Graph) -> None:
    """g(j) = j for the old channels; further ones in turn, or drawn."""
    assert sources(graph, Widen("conv1", count=8)(graph), "conv1.weight") == [
        *range(6), *range(6), 0, 1
    ]  # fmt: skip
    drawn = [Widen("conv1", count=8, order="random", seed=seed) for seed in range(4)]
    draws = {tuple(sources(graph, widen(graph), "conv1.weight")) for widen in drawn}
    assert all(draw[:6] == tuple(range(6)) for draw in draws)
    assert len(draws) > 1
    again = Widen("conv1", count=8, order="random", seed=1)
    assert str(again(graph)) == str(again(graph))


def test_shares_are_positive_apart_and_sum_to_one(graph: Graph) -> None:
    """A consumer's columns are a_j of the old column, with the a_j of each source summing to 1."""
    widen = Widen("fc1", factor=2.5, split="uneven", seed=4)
    old, new = graph.params["fc2.weight"].data, widen(graph).params["fc2.weight"].data
    index = torch.arange(25) % 10
    shares = (new / old[:, index])[0]
    assert torch.allclose(new, old[:, index] * shares)
    sums = torch.zeros(10, dtype=torch.float64).index_add_(0, index, shares)
    assert torch.allclose(sums, torch.ones_like(sums))
    assert (shares > 0).all()
    for source in range(10):
        own = shares[index == source]
        count = len(own)
        assert len(set(own.tolist())) == count
        assert ((own * count - 1).abs() < 0.5).all()
    equal = Widen("fc1", factor=2)(graph).params["fc2.weight"].data
    assert torch.equal(equal, (old / 2).repeat(1, 2))


@pytest.mark.parametrize("split", ["equal", "uneven"])
def test_only_uneven_copies_part_in_training(graph: Graph, split: str) -> None:
    module = netir.to_torch(Widen("fc1", factor=2, split=split)(graph))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        module(X).square().mean().backward()
        optimizer.step()
    weight = module.get_parameter("fc1.weight")
    gap = (weight[:10] - weight[10:]).abs().amax(1)
    assert (gap > 1e-9).all() if split == "uneven" else (gap < 1e-15).all()


class ReadTwice(nn.Module):
    """One layer reads groups that joined the batch, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.small, self.read = nn.Linear(2, 3), nn.Linear(4, 3), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.small(x)
        grouped = self.inner(x.view(-1, 2)).view(-1, 6)
        return torch.relu(self.read(grouped)) + torch.relu(self.read(torch.cat([y, y], 1)))


def test_a_weight_takes_the_shares_that_its_readers_have_in_common() -> None:
    x = torch.randn(3, 4)
    before = netir.trace(ReadTwice(), (x,))
    after = Widen("inner", factor=2)(before)
    assert after.params["read.weight"].data.shape == (5, 12)
    assert len(after.nodes) == len(before.nodes)
    verify(before, after, (x,), contract="exact")


class Normed(nn.Module):
    """A hidden space that a layer norm mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)))


def test_where_a_norm_mixes_every_channel_has_equally_many_copies() -> None:
    x = torch.randn(3, 4).double()
    graph = netir.trace(randomised(Normed()), (x,))
    wide = Widen("a", factor=3, order="random", split="uneven")(graph)
    found = sources(graph, wide, "a.weight")
    assert [found.count(i) for i in range(6)] == [3] * 6
    assert found != [*range(6)] * 3
    verify(graph, wide, x)
    for widen in (Widen("a", count=4), Widen("a", to=16, order="random")):
        with pytest.warns(NetirWarning, match="equally many copies"):
            widen(graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 2, "count": 2}, "more than one width"),
        ({"count": 2, "to": 8}, "more than one width"),
        ({"factor": 0.9}, "factor 0.9"),
        ({"count": 0}, "count 0"),
        ({"to": -1}, "to -1"),
        ({"multiple": 0}, "multiple 0"),
        ({"to": 2.5}, "to 2.5"),
        ({"split": "halves"}, "no split 'halves'"),
        ({"order": "sorted"}, "no order 'sorted'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetirError, match=message) as caught:
        Widen(**options)
    assert caught.value.fix


@pytest.mark.parametrize("much", [{"factor": 1e308}, {"count": 10**400}, {"to": 10**8}])
def test_more_than_the_memory_holds(graph: Graph, much: dict[str, Any]) -> None:
    with pytest.raises(NetirError, match="this needs more memory than there is") as caught:
        Widen("conv1 conv2", **much)(graph)
    assert "the most for 'conv2.weight'" in caught.value.where
    with pytest.raises(NetirError, match="this needs more memory than there is"):
        Grow("conv1 conv2", count=10**9).apply(graph)
    with pytest.raises(NetirError, match="this needs more memory than there is"):
        netir.change_basis(graph, {"conv1": extend(6, 200_000), "conv2": extend(4, 200_000)})
