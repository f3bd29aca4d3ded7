"""Mask, Unmask, Regrow: which connections go and come back, and that a mask follows its weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import netir
from netir.basis import Contract
from netir.calibration import Calibration
from netir.errors import NetirError, NetirWarning
from netir.ir import Graph
from netir.passes import Mask, Prune, Regrow, Unmask, Widen
from netir.verify import verify


class Small(nn.Module):
    """Two convolutions, the second grouped, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, groups=2)
        self.fc1, self.fc2 = nn.Linear(4, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc2(torch.tanh(self.fc1(y.mean((2, 3)))))


X = torch.randn(5, 3, 7, 7, generator=torch.Generator().manual_seed(3)).double()
NAMES = ("conv1", "conv2", "fc1", "fc2")


@pytest.fixture
def graph() -> Graph:
    return netir.trace(Small().double(), (X,))


def masks(graph: Graph) -> dict[str, Tensor]:
    return {
        n.removesuffix("_mask"): p.data for n, p in graph.params.items() if n.endswith("_mask")
    }


def squared(graph: Graph) -> Calibration:
    """Two batches, with the mean square as the loss."""
    return Calibration([X[:2], X[2:]], None, lambda y, _: y.square().mean())


@pytest.mark.parametrize("score", ["magnitude", "random", "taylor"])
@pytest.mark.parametrize("amount", [0.3, 0.5, 0.9])
def test_the_share_of_each_weight(graph: Graph, score: str, amount: float) -> None:
    result = Mask(amount=amount, score=score).apply(graph, squared(graph))
    found = masks(result.graph)
    assert result.report.changed == tuple(f"{name}.weight" for name in NAMES)
    for name, mask in found.items():
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert int((mask == 0).sum()) == round(amount * mask.numel())
        assert result.graph.params[name] is graph.params[name]
        assert result.graph.params[f"{name}_mask"].kind == "buffer"
    assert result.report.contract is Contract.CHANGED


def test_magnitude_and_taylor_by_their_formulas(graph: Graph) -> None:
    model = netir.to_torch(graph)
    for batch in (X[:2], X[2:]):
        model(batch).square().mean().backward()
    weight = model.get_parameter("fc1.weight")
    assert weight.grad is not None
    for score, want in (("magnitude", weight.abs()), ("taylor", (weight * weight.grad).abs())):
        mask = masks(Mask("fc1", amount=0.25, score=score).apply(graph, squared(graph)).graph)
        assert want[mask["fc1.weight"] == 0].max() < want[mask["fc1.weight"] == 1].min()


def test_the_share_of_all_weights_together(graph: Graph) -> None:
    found = masks(Mask(amount=0.4, scope="global")(graph))
    weights = {f"{name}.weight": graph.params[f"{name}.weight"].data for name in NAMES}
    out = torch.cat([w[found[n] == 0].abs() for n, w in weights.items()])
    kept = torch.cat([w[found[n] == 1].abs() for n, w in weights.items()])
    assert len(out) == round(0.4 * sum(w.numel() for w in weights.values()))
    assert out.max() < kept.min()


@pytest.mark.parametrize(("pattern", "few", "many"), [("2:4", 2, 4), ("1:3", 1, 3), ("1:2", 1, 2)])
def test_patterns(graph: Graph, pattern: str, few: int, many: int) -> None:
    """Of every block along the inputs the largest stay; the columns that are left over all do."""
    found = masks(Mask(pattern=pattern)(graph))
    for name, mask in found.items():
        weight = graph.params[name].data.movedim(1, -1)
        mask = mask.movedim(1, -1)
        whole = mask.shape[-1] // many * many
        blocks = mask[..., :whole].reshape(-1, many)
        assert (blocks.sum(-1) == few).all()
        best = weight[..., :whole].reshape(-1, many).abs().topk(few).indices.sort().values
        assert torch.equal(blocks.nonzero()[:, 1].view(-1, few), best)
        assert (mask[..., whole:] == 1).all()


def test_a_pattern_on_a_transposed_convolution_goes_along_its_rows() -> None:
    model = nn.ConvTranspose2d(10, 6, 3, groups=2).double()
    graph = netir.trace(model, (torch.randn(1, 10, 3, 3).double(),))
    mask = masks(Mask(pattern="2:4")(graph))["weight"]
    for group in mask.split(5):
        assert (group[:4].sum(0) == 2).all()
        assert (group[4] == 1).all()


def test_the_masked_network_computes_with_zeros(graph: Graph) -> None:
    after = Mask(amount=0.6)(graph)
    model = Small().double()
    state = {n: p.data for n, p in graph.params.items()}
    model.load_state_dict(state | {n: state[n] * mask for n, mask in masks(after).items()})
    assert torch.allclose(model(X), netir.to_torch(after)(X), rtol=1e-12)


def test_training_keeps_the_zeros(graph: Graph) -> None:
    module = netir.to_torch(Mask(amount=0.5)(graph))
    assert {"fc1.weight", "fc1.weight_mask", "fc1.bias"} <= module.state_dict().keys()
    weight, mask = module.get_parameter("fc1.weight"), module.get_buffer("fc1.weight_mask")
    before, kept = weight.detach().clone(), mask.clone()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(4):
        optimizer.zero_grad()
        module(X).square().mean().backward()
        optimizer.step()
    assert torch.equal(mask, kept)
    assert torch.equal(weight[mask == 0], before[mask == 0])
    assert (weight[mask == 1] != before[mask == 1]).all()
    again = netir.trace(module, (X,))
    assert torch.equal(masks(again)["fc1.weight"], kept)


def test_a_second_mask_takes_out_more(graph: Graph) -> None:
    once = Mask(amount=0.3)(graph)
    twice = Mask(amount=0.6, score="random", seed=4)(once)
    assert len(twice.nodes) == len(once.nodes)
    for name, mask in masks(twice).items():
        assert not (mask > masks(once)[name]).any()
        assert int((mask == 0).sum()) == round(0.6 * mask.numel())
    with pytest.warns(NetirWarning, match="none of its connections goes"):
        Mask(amount=0.3)(once)
    named = Mask("fc1.weight", amount=0.5)(once)
    assert int((masks(named)["fc1.weight"] == 0).sum()) == 20


def test_exact_where_all_that_goes_is_zero(graph: Graph) -> None:
    weight = graph.params["fc1.weight"].data.clone()
    weight.view(-1)[::2] = 0
    with graph.edit() as edit:
        edit.set_param("fc1.weight", weight)
    result = Mask("fc1", amount=0.5).apply(edit.graph)
    assert result.report.contract is Contract.EXACT
    assert verify(edit.graph, result.graph, X).contract is Contract.EXACT
    back = Unmask().apply(result.graph)
    assert back.report.contract is Contract.EXACT


def test_unmask_brings_the_weights_back(graph: Graph) -> None:
    masked = Mask(amount=0.5)(graph)
    some = Unmask("fc1")(masked)
    assert masks(some).keys() == {"conv1.weight", "conv2.weight", "fc2.weight"}
    result = Unmask().apply(masked)
    assert result.report.contract is Contract.CHANGED
    assert not masks(result.graph)
    assert set(result.moves.removed) == {f"{name}.weight_mask" for name in NAMES}
    assert list(result.graph.nodes) == list(graph.nodes)
    assert torch.equal(netir.run(result.graph, X), netir.run(graph, X))
    assert type(netir.to_torch(result.graph).get_submodule("fc1")) is nn.Linear


@pytest.mark.parametrize("pattern", ["", "1:2"])
def test_masks_follow_the_width(graph: Graph, pattern: str) -> None:
    """Widening copies the mask's rows and columns with those of the weight, pruning drops them."""
    masked = Mask(pattern=pattern)(graph)
    spaces = {s.name: s for s in masked.spaces()}
    assert not spaces["fc1"].frozen
    current = masked
    for rewrite in (
        Widen(factor=1.5, split="uneven"), Prune(amount=0.4), Widen(factor=2, order="random"),
    ):  # fmt: skip
        after = rewrite(current)
        verify(current, after, X)
        current = after
    for name, mask in masks(current).items():
        weight = current.params[name].data
        assert mask.shape == weight.shape != graph.params[name].data.shape
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
    verify(masked, Prune("conv1 fc1", amount=0.5)(masked), X, contract="masked")


class Sequence(nn.Module):
    """Two layers that read a sequence in both directions, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, num_layers=2, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


def test_recurrent_weights() -> None:
    """Several weights read one sequence: each is scaled for itself when its columns are copied."""
    x = torch.randn(4, 2, 5).double()
    model = Sequence().double()
    graph = netir.trace(model, (x,))
    masked = Mask("lstm", amount=0.5)(graph)
    assert len(masks(masked)) == 8
    state = model.state_dict()
    model.load_state_dict(state | {n: state[n] * mask for n, mask in masks(masked).items()})
    assert torch.allclose(model(x), netir.run(masked, x), rtol=1e-10)
    one = Mask("lstm.weight_ih_l1", amount=0.5)(graph)
    for before in (masked, one):
        for rewrite in (Widen(factor=1.5, split="uneven"), Prune(amount=0.4)):
            verify(before, rewrite(before), x)


class Tied(nn.Module):
    """A table that is also the head's weight, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.twice = nn.Embedding(9, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 9)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.twice(torch.relu(self.twice(self.table(x)))))


def test_tied_weights() -> None:
    x = torch.randint(9, (3, 5))
    graph = netir.trace(Tied().double(), (x,))
    result = Mask().apply(graph)
    assert result.report.changed == ("twice.weight",)
    assert dict(result.report.skipped) == {
        "table.weight": "'embedding' reads it too, and not as a weight"
    }
    product = next(n for n in result.graph.nodes.values() if n.op.name == "mul")
    assert len(result.graph.users[product.name]) == 2
    with pytest.raises(NetirError, match=r"cannot change 'table.weight'"):
        Mask("head")(graph)


def test_regrow_picks_the_largest_gradients() -> None:
    """loss = w · c with a mask: the gradient by each masked weight is its c."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x)

    model = Plain().double()
    with torch.no_grad():
        model.fc.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]))
    c = torch.tensor([[2.0, -7.0, 1.0, 4.0, 9.0, 9.0]]).double()
    masked = Mask(amount=4 / 6)(netir.trace(model, (c,)))
    assert masks(masked)["fc.weight"].tolist() == [[0, 0, 0, 0, 1, 1]]
    data = Calibration([c], None, lambda y, _: y.sum())
    result = Regrow(amount=0.5).apply(masked, data)
    assert masks(result.graph)["fc.weight"].tolist() == [[0, 1, 0, 1, 1, 1]]
    assert result.graph.params["fc.weight"].data.tolist() == [[1.0, 0.0, 3.0, 0.0, 5.0, 6.0]]
    assert verify(masked, result.graph, c).contract is Contract.EXACT


def test_regrow_after_mask_keeps_the_function(graph: Graph) -> None:
    masked = Mask(amount=0.6)(graph)
    for regrow in (Regrow(amount=0.3), Regrow(amount=1), Regrow(amount=0.3, score="random")):
        after = regrow.apply(masked, squared(masked)).graph
        for name, mask in masks(after).items():
            out = int((masks(masked)[name] == 0).sum())
            assert int((mask == 0).sum()) == out - round(regrow.amount * out)
            assert (mask >= masks(masked)[name]).all()
        verify(masked, after, X)
    module = netir.to_torch(after)
    module(X).square().sum().backward()
    weight, mask = module.get_parameter("fc1.weight"), masks(after)["fc1.weight"]
    assert weight.grad is not None
    assert bool(weight.grad[(mask == 1) & (masks(masked)["fc1.weight"] == 0)].any())


def test_what_needs_data_says_so(graph: Graph) -> None:
    masked = Mask()(graph)
    for rewrite, given in ((Regrow(), masked), (Mask(score="taylor"), graph)):
        with pytest.raises(NetirError, match="needs data"):
            rewrite(given)
        with pytest.raises(NetirError, match="no loss"):
            rewrite(given, Calibration([X]))


def test_weights_that_are_not_finite_are_left(graph: Graph) -> None:
    with graph.edit() as edit:
        edit.set_param("fc1.weight", torch.full((10, 4), float("inf"), dtype=torch.float64))
    report = Mask().apply(edit.graph).report
    assert ("fc1.weight", "it is not finite") in report.skipped


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mask(amount=0), "take out 0"),
        (lambda: Mask(amount=1.0), "take out 1.0"),
        (lambda: Mask(score="l2"), "no score 'l2'"),
        (lambda: Mask(scope="layer"), "no scope 'layer'"),
        (lambda: Mask(pattern="4:2"), "'4:2' is no pattern"),
        (lambda: Mask(pattern="2/4"), "'2/4' is no pattern"),
        (lambda: Mask(pattern="2:4", amount=0.7), "a pattern says that 2 of 4 go"),
        (lambda: Mask(pattern="2:4", scope="global"), "a pattern says"),
        (lambda: Regrow(amount=0), "bring back 0"),
        (lambda: Regrow(amount=1.5), "bring back 1.5"),
        (lambda: Regrow(score="magnitude"), "no score 'magnitude'"),
    ],
)
def test_options_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(NetirError, match=message) as caught:
        make()
    assert caught.value.fix
