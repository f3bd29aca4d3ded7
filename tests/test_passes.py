"""Every pass over every construct and family: contracts hold to 1e-10, one space and all."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import netir
from netir.basis import Contract, kept, replicate, select
from netir.errors import NetirError, NetirWarning
from netir.ir import Graph
from netir.passes import PASSES, Prune, Widen
from netir.rewrite import Pass
from netir.spaces import Space
from netir.verify import check, verify
from netir.width import WidthPass
from tests.doubled import doubled, doubled_tensors
from tests.pass_examples import EXAMPLES
from tests.zoo.traced import NAMES, traced

BOUND = 1e-10


@lru_cache(maxsize=4)
def prepared(name: str) -> tuple[Graph, tuple[Any, ...], dict[str, Any]]:
    """A sample's graph in float64, and its inputs."""
    sample, graph = traced(name)
    return doubled(graph), doubled_tensors(sample.args), doubled_tensors(sample.kwargs)


def quietly(rewrite: Pass, graph: Graph) -> netir.rewrite.Result:
    """Apply a pass that may find nothing to change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        return rewrite.apply(graph)


def free(graph: Graph) -> list[Space]:
    return [s for s in graph.spaces() if not s.frozen and s.producers]


@pytest.mark.parametrize("name", NAMES)
def test_all_spaces_at_once(name: str) -> None:
    """Widen, widen again, prune, prune again: every step keeps what it promised."""
    graph, args, kwargs = prepared(name)
    for rewrite in (
        Widen(factor=1.5),
        Widen(factor=2),
        Prune(amount=0.4, score="random"),
        Prune(amount=0.3),
    ):
        result = quietly(rewrite, graph)
        check(result.graph)
        verify(graph, result.graph, args, kwargs, bound=BOUND)
        if result.graph.outputs:
            graph = result.graph


@pytest.mark.parametrize("name", NAMES)
def test_every_space_by_itself(name: str) -> None:
    """Each free space is copied exactly, and pruned with the contract `masked`."""
    graph, args, kwargs = prepared(name)
    generator = torch.Generator().manual_seed(7)
    for space in free(graph):
        n = space.size
        extra = torch.randint(n, (1,), generator=generator)
        uneven = replicate(torch.cat([torch.arange(n), extra]))
        even = replicate(torch.arange(n).repeat(2))
        wide = next((b for b in (uneven, even) if kept(space, b)[0] is Contract.EXACT), None)
        if wide is not None:
            done = netir.change_basis(graph, {space: wide})
            verify(graph, done.graph, args, kwargs, contract="exact", moves=done.moves, bound=BOUND)
        if n > 1:
            index = torch.randperm(n, generator=generator)[: max(1, n - 1 - n // 4)]
            done = netir.change_basis(graph, {space: select(index)})
            contract = kept(space, select(index))[0]
            verify(graph, done.graph, args, kwargs, contract=contract, moves=done.moves)


@pytest.mark.parametrize("name", NAMES)
def test_after_saving_and_loading(name: str, tmp_path: Path) -> None:
    graph, args, kwargs = prepared(name)
    netir.save(graph, tmp_path / "net.netir")
    loaded = netir.load(tmp_path / "net.netir")
    for rewrite in (Widen(factor=2), Prune(amount=0.4)):
        ours, theirs = quietly(rewrite, graph), quietly(rewrite, loaded)
        assert str(ours.graph) == str(theirs.graph)
        verify(loaded, theirs.graph, args, kwargs, bound=BOUND)


class Chain(nn.Module):
    """Two convolutions, a norm and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 12, 3), nn.GroupNorm(3, 12), nn.ReLU())
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer2(self.layer1(x)).mean((2, 3)))


@pytest.fixture
def chain() -> Graph:
    return netir.trace(Chain(), (torch.randn(2, 3, 8, 8),))


def test_where_selects_by_space_module_and_parameter(chain: Graph) -> None:
    for where in ("layer1.0", "layer1.*", "layer1.0.weight", "layer1.0 layer1.0.bias"):
        result = Widen(where, factor=1.5).apply(chain)
        assert result.report.changed == ("layer1.0",), where
    assert result.graph.params["layer1.0.weight"].data.shape[0] == 12
    assert result.graph.params["layer2.0.weight"].data.shape == (12, 12, 3, 3)


def test_group_norm_leaves_the_widths_that_work(chain: Graph) -> None:
    names = [s.name for s in chain.spaces() if not s.frozen]
    assert names == ["layer1.0", "layer2.0[0]", "layer2.0[1]"]
    result = Widen("layer2.0[0]", factor=1.4)(chain)
    assert result.node("group_norm").op.num_groups == 4
    assert result.params["layer2.0.weight"].data.shape[0] == 16
    refused = Widen("layer2.0[1]", factor=1.5)
    with pytest.warns(NetirWarning, match="equally many copies"):
        assert refused(chain).params["layer2.0.weight"].data.shape[0] == 12
    with pytest.raises(NetirError, match="changes nothing"):
        Widen("layer2.0[1]", factor=1.5, require_change=True)(chain)


def test_match_lists_the_sites_and_changes_nothing(chain: Graph) -> None:
    before = str(chain)
    assert [s.name for s in Prune("*", amount=0.5).match(chain)] == [
        "layer1.0", "layer2.0[0]", "layer2.0[1]",
    ]  # fmt: skip
    assert str(chain) == before


def test_the_report_says_what_was_left_and_why(chain: Graph) -> None:
    report = Widen("*", factor=1.5).apply(chain).report
    left = dict(report.skipped)
    assert left["head"] == "frozen: graph output"
    assert "equally many copies" in left["layer2.0[1]"]
    assert report.contract is Contract.EXACT
    assert "left head: frozen: graph output" in str(report)
    before, after = report.parameters
    assert after > before == sum(p.data.numel() for p in chain.params.values() if p.kind == "param")


def test_history_and_the_contract_of_a_pipeline(chain: Graph) -> None:
    wide = Widen("layer1.0", factor=2)(chain)
    thin = Prune("layer1.0", amount=0.25)(wide)
    assert [s.text for s in thin.history] == [
        "widen(where='layer1.0', factor=2)", "prune(where='layer1.0', amount=0.25)",
    ]  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    assert verify(chain, wide, x).contract is Contract.EXACT
    assert verify(wide, thin, x).contract is Contract.MASKED


def test_a_file_has_no_moves_to_verify_masked_with(chain: Graph, tmp_path: Path) -> None:
    netir.save(Prune()(chain), tmp_path / "thin.netir")
    with pytest.raises(NetirError, match="what was removed is not known"):
        verify(chain, netir.load(tmp_path / "thin.netir"), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("score", ["random", "l1", "l2"])
def test_scores_keep_the_best(chain: Graph, score: str) -> None:
    thin = Prune("layer1.0", amount=0.5, score=score)(chain).params["layer1.0.weight"].data
    old = chain.params["layer1.0.weight"].data
    rows = [next(i for i in range(8) if torch.equal(old[i], row)) for row in thin]
    assert rows == sorted(rows)
    assert len(rows) == 4
    if score != "random":
        norms = old.flatten(1).norm(p=int(score[1]), dim=1)
        assert set(rows) == set(norms.topk(4).indices.tolist())


def test_a_score_sums_over_all_that_makes_a_space() -> None:
    """A residual space is made by two convolutions: a channel that one of them needs stays."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.c = nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.c(y + self.b(y))

    model = Residual()
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor([9.0, 1, 1, 2]).view(4, 1, 1, 1).expand(4, 3, 1, 1))
        model.b.weight.copy_(torch.tensor([1.0, 9, 1, 2]).view(4, 1, 1, 1).expand(4, 4, 1, 1))
    graph = netir.trace(model, (torch.randn(2, 3, 4, 4),))
    thin = Prune("a", amount=0.5, score="l1")(graph)
    assert thin.params["a.weight"].data[:, 0, 0, 0].tolist() == [9.0, 1.0]


def test_random_scores_follow_their_seed(chain: Graph) -> None:
    def rows(seed: int) -> torch.Tensor:
        thin = Prune("layer1.0", amount=0.5, score="random", seed=seed)(chain)
        return thin.params["layer1.0.weight"].data

    assert torch.equal(rows(1), rows(1))
    assert any(not torch.equal(rows(1), rows(seed)) for seed in range(2, 6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Widen(factor=0.5), "factor 0.5"),
        (lambda: Widen(factor=float("nan")), "factor nan"),
        (lambda: Widen(factor=float("inf")), "factor inf"),
        (lambda: Prune(amount=0), "remove 0"),
        (lambda: Prune(amount=1.0), "remove 1.0"),
        (lambda: Prune(score="l3"), "no score 'l3'"),
    ],
)
def test_options_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(NetirError, match=message) as caught:
        make()
    assert caught.value.fix


@pytest.mark.parametrize(
    ("where", "message", "fix"),
    [
        ("layer3.*", "names no space", "layer"),
        ("layer1.O", "names no space", "did you mean 'layer1.0'"),
        ("head", "'head' cannot change", "free space"),
    ],
)
def test_spaces_that_cannot_change(chain: Graph, where: str, message: str, fix: str) -> None:
    for make in PASSES.values():
        if issubclass(make, WidthPass):
            with pytest.raises(NetirError, match=message) as caught:
                make(where)(chain)
            assert fix in caught.value.fix


@pytest.mark.parametrize("where", ["layer3.*", "layer1.O"])
def test_places_that_are_not_there(chain: Graph, where: str) -> None:
    for make in PASSES.values():
        with pytest.raises(NetirError, match="names no"):
            make(where)(chain)


@pytest.mark.parametrize("name", NAMES)
def test_every_pass_keeps_its_contract(name: str) -> None:
    """One example of each pass, another one for each next sample: sound, and proved."""
    turn = NAMES.index(name)
    keeps_its_contract(name, [several[turn % len(several)] for several in EXAMPLES.values()])


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_every_example_keeps_its_contract(name: str) -> None:
    keeps_its_contract(name, [example for several in EXAMPLES.values() for example in several])


def keeps_its_contract(name: str, rewrites: list[Pass]) -> None:
    graph, args, kwargs = prepared(name)
    for rewrite in rewrites:
        result = quietly(rewrite, graph)
        check(result.graph)
        verify(graph, result.graph, args, kwargs)


def test_every_pass_has_an_example() -> None:
    assert EXAMPLES.keys() == PASSES.keys()
    for name, examples in EXAMPLES.items():
        assert examples, name
        assert all(type(e) is PASSES[name] for e in examples)


def test_weights_that_are_not_finite_are_left(chain: Graph) -> None:
    with chain.edit() as edit:
        edit.set_param("layer1.0.weight", torch.full((8, 3, 3, 3), float("nan")))
    with pytest.warns(NetirWarning, match="not finite"):
        Prune("layer1.0")(edit.graph)


def test_every_pass_has_a_name_a_contract_and_a_docstring() -> None:
    for name, cls in PASSES.items():
        assert cls.name == name
        assert cls.__doc__
        assert isinstance(cls.preserves, Contract)
        assert str(cls()) == f"{name}()"


@pytest.mark.parametrize(
    ("batches", "message"),
    [(torch.ones(2, 3), "a Tensor, not a list"), (iter(()), "not a list"), ([], "at least one")],
)
def test_calibrations_that_are_none(batches: Any, message: str) -> None:
    with pytest.raises(NetirError, match=message):
        netir.Calibration(batches)
    with pytest.raises(NetirError, match="1 targets for 2 batches"):
        netir.Calibration([torch.ones(1), torch.ones(1)], [0])
