"""PruneBranches: whole residual branches go, with all that only they needed, and nothing else."""

from __future__ import annotations

import warnings
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import netir
from netir.basis import Contract
from netir.calibration import Calibration
from netir.errors import NetirError, NetirWarning
from netir.ir import Graph
from netir.passes import PruneBranches
from netir.passes.branches import SCORES, branches
from netir.verify import verify
from tests.zoo.traced import traced


class Block(nn.Module):
    """`x + f(x)`, with a norm at the end of f and the branch on either side of the sum."""

    def __init__(self, width: int, first: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm, self.first = nn.BatchNorm2d(width), first

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(torch.relu(x)))
        return y + x if self.first else x + y


class Net(nn.Module):
    """Four blocks in a row, of which two go by one weight, and a block that changes the width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 6, 3), nn.Sequential(
            *(Block(6, first=bool(i % 2)) for i in range(4))
        )
        self.blocks[3].conv.weight = self.blocks[1].conv.weight
        self.left, self.right = nn.Conv2d(6, 5, 1), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.stem(x))
        return self.left(y) + self.right(y)


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    net = Net().double().eval()
    for scale, block in zip((3.0, 1.0, 2.0, 4.0), net.blocks, strict=True):
        nn.init.constant_(block.norm.weight, scale)
        nn.init.normal_(block.norm.bias)
        block.norm.running_var.uniform_(0.5, 2)
    return net


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def without(model: Net, x: Tensor, *gone: int) -> Tensor:
    """The network with some blocks left out."""
    y = model.stem(x)
    for i, block in enumerate(model.blocks):
        y = y if i in gone else block(y)
    return model.left(y) + model.right(y)


def named(graph: Graph, *modules: int) -> str:
    """The sums of these blocks."""
    wanted = {f"blocks.{i}" for i in modules}
    sums = (n for n in graph.nodes.values() if n.op.name == "add" and n.scope in wanted)
    return " ".join(node.name for node in sums)


@pytest.mark.parametrize("gone", [(0,), (3,), (0, 1), (1, 2, 3), (0, 1, 2, 3)])
def test_the_rest_is_as_it_was(model: Net, x: Tensor, gone: tuple[int, ...]) -> None:
    graph = netir.trace(model, (x,))
    result = PruneBranches(named(graph, *gone), amount=1).apply(graph)
    assert torch.equal(netir.run(result.graph, x), without(model, x, *gone))
    assert result.report.contract is Contract.CHANGED
    assert len(result.graph.nodes) == len(graph.nodes) - 4 * len(gone)


def test_parameters_go_with_the_branch_that_alone_needed_them(model: Net, x: Tensor) -> None:
    """The weight of blocks 1 and 3 is one tensor: it stays until both are gone."""
    graph = netir.trace(model, (x,))
    own = {f"blocks.1.norm.{leaf}" for leaf in model.blocks[1].norm.state_dict()}
    one = PruneBranches(named(graph, 1), amount=1).apply(graph)
    assert set(one.moves.removed) == own
    both = PruneBranches(named(graph, 1, 3), amount=1).apply(graph)
    assert own < set(both.moves.removed)
    assert "blocks.1.conv.weight" in both.moves.removed
    assert not any("blocks.3" in name for name in both.graph.state_dict())
    lowered = netir.to_torch(both.graph)
    assert torch.allclose(lowered(x), without(model, x, 1, 3), atol=1e-12)


def test_the_weakest_norms_go_first(model: Net, x: Tensor) -> None:
    graph = netir.trace(model, (x,))
    for count, gone in ((1, (1,)), (2, (1, 2)), (3, (0, 1, 2))):
        result = PruneBranches(count=count).apply(graph)
        assert result.report.changed == tuple(named(graph, *gone).split())
    assert PruneBranches(amount=0.5).apply(graph).report.changed == tuple(
        named(graph, 1, 2).split()
    )


def test_a_branch_is_as_strong_as_the_rows_of_its_last_weight() -> None:
    class Scaled(nn.Module):
        def __init__(self, rows: float, scale: float) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 9), nn.Linear(9, 4, bias=False)
            self.scale = nn.Parameter(torch.full((4,), scale))
            nn.init.constant_(self.down.weight, rows)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.scale * self.down(torch.relu(self.up(x))) * 0.5

    model = nn.Sequential(Scaled(3.0, 1.0), Scaled(1.0, 2.0), Scaled(1.0, 7.0))
    graph = netir.trace(model, (torch.randn(2, 4),))
    found = list(branches(graph).values())
    scores = PruneBranches()._scores(graph, found, None)
    want = [sqrt(9) * w * s * 0.5 for w, s in ((3, 1), (1, 2), (1, 7))]
    assert list(scores.values()) == pytest.approx(want)


def test_shares_of_the_stream_over_data(model: Net, x: Tensor) -> None:
    graph = netir.trace(model, (x,))
    batches = [x, x[:1] * 3]
    scores = PruneBranches(score="residual")._scores(
        graph, list(branches(graph).values()), Calibration(batches)
    )
    shares: list[list[float]] = [[], [], [], []]
    for sample in (*x, x[0] * 3):
        y = model.stem(sample[None])
        for i, block in enumerate(model.blocks):
            new = block(y)
            shares[i].append(((new - y).norm() / y.norm()).item())
            y = new
    assert list(scores.values()) == pytest.approx([sum(s) / 4 for s in shares])
    result = PruneBranches(count=1, score="residual").apply(graph, Calibration(batches))
    lowest = min(range(4), key=lambda i: sum(shares[i]))
    assert result.report.changed == (named(graph, lowest),)


def test_random_follows_its_seed(model: Net, x: Tensor) -> None:
    graph = netir.trace(model, (x,))

    def gone(seed: int) -> tuple[str, ...]:
        return PruneBranches(count=2, score="random", seed=seed).apply(graph).report.changed

    assert gone(1) == gone(1)
    assert any(gone(1) != gone(seed) for seed in range(2, 8))


@pytest.mark.parametrize("ending", ["norm", "weight", "scale"])
def test_a_branch_that_gives_zero_is_removed_exactly(ending: str) -> None:
    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.norm = nn.Linear(5, 7), nn.Linear(7, 5), nn.LayerNorm(5)
            self.scale = nn.Parameter(torch.randn(5))
            with torch.no_grad():
                for p in {"norm": self.norm.parameters(), "weight": self.two.parameters(),
                          "scale": [self.scale]}[ending]:  # fmt: skip
                    p.zero_()

        def forward(self, x: Tensor) -> Tensor:
            y = self.two(torch.relu(self.one(x)))
            return x + (y if ending == "weight" else self.norm(y)) * self.scale

    model = nn.Sequential(nn.Linear(5, 5), Zero(), nn.Linear(5, 2)).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    graph = netir.trace(model, (x,))
    result = PruneBranches(amount=1).apply(graph)
    assert result.report.contract is Contract.EXACT
    verify(graph, result.graph, x, bound=1e-14)
    assert torch.equal(netir.run(result.graph, x), model(x))


class Nested(nn.Module):
    """A branch around a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return x + self.last(y + self.inner(y))


def test_a_branch_that_holds_others_goes_by_name_only() -> None:
    model, x = Nested(), torch.randn(2, 4)
    graph = netir.trace(model, (x,))
    result = PruneBranches(amount=1).apply(graph)
    assert result.report.changed == ("add",)
    assert dict(result.report.skipped)["add_1"].startswith("other branches are inside")
    y = torch.relu(model.first(x))
    assert torch.equal(netir.run(result.graph, x), x + model.last(y))
    for where in ("add_1", "add add_1"):
        assert torch.equal(netir.run(PruneBranches(where, amount=1)(graph), x), x)


def test_sums_that_are_no_branches_are_left_with_the_reason(model: Net, x: Tensor) -> None:
    graph = netir.trace(model, (x,))
    last = list(graph.nodes)[-1]
    left = dict(PruneBranches().apply(graph).report.skipped)
    assert left[last] == "neither of what it adds leads to the other"
    assert left[named(graph, 3)] == "branches of lower score go first"
    with pytest.raises(NetirError, match="cannot change") as caught:
        PruneBranches(last)(graph)
    assert "leads to the other" in caught.value.where
    with pytest.warns(NetirWarning, match=r"0.1 of 4 branches is less than one"):
        PruneBranches(amount=0.1)(graph)
    with pytest.raises(NetirError, match="no residual branch ends there"):
        PruneBranches("stem")(graph)


def test_a_weighted_sum_keeps_only_what_it_does_not_weigh() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.add(x, self.one(x), alpha=2)
            return torch.add(self.two(y), y, alpha=2)

    model, x = Weighted(), torch.randn(2, 4)
    graph = netir.trace(model, (x,))
    result = PruneBranches(amount=1).apply(graph)
    assert result.report.changed == ("add",)
    assert torch.allclose(netir.run(result.graph, x), model.two(x) + 2 * x)


def test_values_that_others_read_stay() -> None:
    class Shown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = torch.relu(self.one(x))
            return x + self.two(hidden), hidden

    model, x = Shown(), torch.randn(2, 4)
    result = PruneBranches(amount=1).apply(netir.trace(model, (x,)))
    out, hidden = netir.run(result.graph, x)
    assert torch.equal(out, x)
    assert torch.equal(hidden, model(x)[1])
    assert set(result.moves.removed) == {"two.weight", "two.bias"}


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 5), ("mobilenet_v2", 10), ("vit_b_16", 6), ("vgg11_bn", 0)]
)
def test_classics(name: str, count: int) -> None:
    """Basic and inverted blocks without a change of width, and both halves of encoder blocks."""
    sample, graph = traced(name)
    assert len(branches(graph)) == count
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        result = PruneBranches(amount=1).apply(graph)
    assert len(result.report.changed) == count
    have, want = (netir.run(g, *sample.args, **sample.kwargs) for g in (result.graph, graph))
    pairs = zip(tree_leaves(have), tree_leaves(want), strict=True)
    assert all(a.shape == b.shape for a, b in pairs)
    before, after = result.report.parameters
    assert after < before or not count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 0}, "remove 0 of"),
        ({"amount": 1.1}, "remove 1.1 of"),
        ({"count": 0}, "remove 0 branches"),
        ({"score": "l3"}, "no score 'l3'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetirError, match=message) as caught:
        PruneBranches(**options)
    assert caught.value.fix


def test_what_cannot_be_done(model: Net, x: Tensor) -> None:
    graph = netir.trace(model, (x,))
    with pytest.raises(NetirError, match="cannot remove 5 branches") as caught:
        PruneBranches(count=5)(graph)
    assert caught.value.fix == "there are 4"
    with pytest.raises(NetirError, match="'residual' needs data"):
        PruneBranches(score="residual")(graph)
    with graph.edit() as edit:
        edit.set_param("blocks.0.norm.weight", torch.full((6,), float("nan")))
    left = dict(PruneBranches(count=2).apply(edit.graph).report.skipped)
    assert left[named(graph, 0)] == "its score is not finite"
    assert SCORES == ("l2", "random", "residual")
