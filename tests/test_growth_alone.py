"""What growing works out without running the network: each beside the plain way to the same."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from netir.calibration import Calibration
from netir.ir import Graph
from netir.kernels.gram import Gram, GramSum
from netir.kernels.rank import all_above, count_above
from netir.kernels.svd import leading
from netir.passes.growth import inits
from netir.passes.growth.alone import chain
from netir.passes.growth.bridge import Bridge, bridge
from netir.passes.growth.gradients import _planted_sizes, _sizes, _tried
from netir.passes.growth.hidden import Hidden, hidden
from netir.passes.growth.inits import Wanted
from netir.passes.growth.plant import Fans
from netir.passes.growth.seen import Seen
from netir.passes.growth.triggers import Gradients, Reading
from netir.passes.growth.watch import Caught, Watch
from netir.passes.methods import Grower, Nest, North

LAYERS = ("0", "3", "7")


def network() -> nn.Sequential:
    """Batch norm, a pool, a stride and a flatten between what makes a layer and what reads it."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24, 10), nn.Tanh(), nn.Linear(10, 3),
    ).double()  # fmt: skip


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(24, 3, 8, 8, dtype=torch.float64), torch.randint(0, 3, (24,))


def layers_of(graph: Graph) -> list[Hidden]:
    return [hidden(graph, s) for s in graph.spaces() if not s.frozen and s.producers]


def watched(train: bool) -> tuple[nn.Sequential, Graph, list[Hidden], Caught]:
    """A network after one backward pass, and what a watch caught of it."""
    net, (x, y) = network().train(train), batch()
    live = netir.Live(net, torch.optim.SGD(net.parameters(), lr=0.0), x)
    layers, watch = layers_of(live.graph), Watch(slopes=True)
    watch.follow(live, layers)
    F.cross_entropy(net(x), y).backward()
    return net, live.graph, layers, watch.caught()


@pytest.fixture(scope="module")
def run() -> Mapping[str, Seen]:
    """By layer what a run in eval mode shows, in two batches."""
    x, y = batch()
    graph = netir.trace(network().eval(), (x,))
    seen = Seen(graph, layers_of(graph), Calibration([x[:10], x[10:]], [y[:10], y[10:]],
                                                     F.cross_entropy))  # fmt: skip
    return {h.space.name: seen for h in seen.layers}


def wanted(run: Mapping[str, Seen], name: str, count: int = 3) -> Wanted:
    seen = run[name]
    layer = next(h for h in seen.layers if h.space.name == name)
    return Wanted(layer, count, seen, candidates=20)


# --- ranks


def test_all_values_are_above_only_where_a_count_says_so() -> None:
    torch.manual_seed(0)
    rows = torch.randn(400, 12, dtype=torch.float64)
    for last in (1.0, 0.2, 0.0101, 0.0099, 0.0):
        rows[:, -1] = last * rows[:, -1] / rows[:, -1].norm() * 20
        gram = Gram(rows.mT @ rows / 400, 400, 0.0)
        assert all_above(gram, 0.01) == (count_above(gram, 0.01) == 12), last
    assert not all_above(Gram(torch.eye(2, dtype=torch.float64), 2, 1.0), 0.01), "a margin"


def test_some_rows_can_show_that_all_units_are_of_use() -> None:
    torch.manual_seed(0)
    rows = torch.randn(640, 8, dtype=torch.float64)
    part = GramSum()
    part.add(rows[:80])
    assert all_above(part.over(640), 0.1)
    assert not all_above(part.over(640), 0.5), "the others could add enough"


@pytest.mark.parametrize("rank", [8, 5])
def test_a_hint_changes_no_rank(rank: int) -> None:
    torch.manual_seed(0)
    rows = torch.randn(640, rank) @ torch.randn(rank, 8)
    graph = netir.trace(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), (rows,))
    (layer,) = layers_of(graph)
    seen = Seen(graph, (layer,), None, caught=Caught({layer.value: rows}))
    assert seen.rows(layer) == 640
    assert seen.rank(layer, 0.01, full=True) == seen.rank(layer, 0.01) == rank


def test_at_its_bound_a_layer_is_not_looked_at() -> None:
    asked = []

    def ask(reading: Reading) -> int:
        asked.append(reading.layer.space.name)
        return 0

    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    live, x = netir.Live(net, torch.optim.SGD(net.parameters(), lr=0.1)), torch.randn(5, 4)
    net(x)
    Grower(ask, most=8).step(live, x)
    assert asked == ["0"]


def test_leading_vectors_of_a_large_matrix() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(400, 300, dtype=torch.float64) * torch.logspace(0, -2, 300)
    left, values = leading(matrix, 5)
    expected = torch.linalg.svdvals(matrix)[:5]
    assert torch.allclose(values, expected, rtol=1e-4)
    gain = (left.mT @ matrix).square().sum()
    assert float(gain) == pytest.approx(float(expected.square().sum()), rel=1e-5)
    assert torch.allclose(left.mT @ left, torch.eye(5, dtype=torch.float64), atol=1e-12)


# --- units by themselves


@pytest.mark.parametrize("name", LAYERS)
def test_units_show_alone_what_they_show_when_planted(run: Mapping[str, Seen], name: str) -> None:
    want = wanted(run, name)
    assert chain(want.layer) is not None
    many = inits._drawn(want, 7)
    assert isinstance(many, Fans)
    for alone, planted in zip(inits._activations(want, many), inits._together(want, many),
                              strict=True):  # fmt: skip
        assert torch.allclose(alone, planted, rtol=0, atol=1e-12)


def test_in_train_mode_units_are_normalised_by_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inits, "_ROWS", 10_000)  # all samples of the batch
    net, graph, layers, caught = watched(train=True)
    first = next(h for h in layers if h.space.name == "0")
    want = Wanted(first, 1, Seen(graph, layers, None, caught=caught))
    conv, norm = net[0], net[1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert bool((norm.weight == 1).all())
    copies = Fans(8, {"0.weight": conv.weight.detach()[:, None]})
    old, new = inits._activations(want, copies)
    assert torch.allclose(old, new, atol=1e-12), "a bias makes no difference to a norm"
    assert caught.training


def test_what_joins_indices_is_no_chain() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    graph = netir.trace(net, (torch.randn(3, 4),))
    assert chain(hidden(graph, next(s for s in graph.spaces() if s.name == "0"))) is None


@pytest.mark.parametrize("name", LAYERS)
def test_fireflies_are_sized_alone_as_when_planted(run: Mapping[str, Seen], name: str) -> None:
    want = wanted(run, name)
    tried = _tried(want)
    alone, planted = _sizes(want, tried), _planted_sizes(want, tried)
    assert alone is not None
    assert torch.allclose(alone, planted, rtol=1e-3, atol=1e-3 * float(planted.max()))


# --- gradients


def bridged(run: Mapping[str, Seen]) -> Bridge:
    want = wanted(run, "7")
    found = bridge(want.layer, want.seen)
    assert isinstance(found, Bridge)
    return found


def test_products_with_the_matrix_without_the_matrix() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(45, 3),
    ).double()  # fmt: skip
    x, y = batch()
    graph = netir.trace(net, (x,))
    seen = Seen(graph, layers_of(graph), Calibration([x], [y], F.cross_entropy))
    for layer in seen.layers:
        found = bridge(layer, seen)
        assert isinstance(found, Bridge)
        made, read = (torch.randn(2, n, dtype=torch.float64) for n in found.matrix.mT.shape)
        assert torch.allclose(found._forth(made), made @ found.matrix.mT, atol=1e-14)
        assert torch.allclose(found._back(read), read @ found.matrix, atol=1e-14)


def test_a_bound_holds_without_the_matrix(run: Mapping[str, Seen]) -> None:
    found = bridged(run)
    largest = float(torch.linalg.matrix_norm(found.matrix, 2))
    assert found.below(3 * largest)
    assert not any(found.below(size * largest, seed) for size in (0.5, 0.99) for seed in range(20))
    assert not found.below(0.0)


def test_a_trigger_by_gradients_counts_as_the_matrix_does() -> None:
    for train in (False, True):
        _, graph, layers, caught = watched(train)
        x, y = batch()
        plain = Seen(graph, layers, Calibration([x], [y], F.cross_entropy))
        for layer in layers:
            quick = Gradients()(Reading(layer, Seen(graph, layers, None, caught=caught), 1, {}))
            assert quick == 0
            if not train:
                assert Gradients()(Reading(layer, plain, 1, {})) == quick


def test_a_watch_catches_the_gradients_of_the_step() -> None:
    net, graph, layers, caught = watched(train=False)
    x, y = batch()
    seen = Seen(graph, layers, Calibration([x], [y], F.cross_entropy))
    quick = Seen(graph, layers, None, caught=caught)
    for layer in layers:
        (known,), training = quick.slopes(layer)
        (found,), _ = seen.slopes(layer)
        assert not training
        for values, others in zip(known, found, strict=True):
            for name in values.keys() & others.keys():
                assert torch.allclose(values[name].flatten(), others[name].flatten(), atol=1e-12)
        for part in (*layer.makers, *layer.readers):
            for axis in (0, 1):
                one, two = (s.squares(part.weight, axis) for s in (quick, seen))
                assert torch.allclose(one, two, atol=1e-14)
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("init", ["gradmax", "firefly", "nest"])
def test_of_the_last_step_gradients_need_no_loss(init: str) -> None:
    def some(reading: Reading) -> int:
        assert Gradients()(reading) == 0, "at the first step there is nothing to see"
        return 2 if reading.step > 1 else 0

    net, (x, y) = network(), batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    live, grower = netir.Live(net, optimizer), Grower(some, init=init, observe="batch")
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        grower.step(live, x, y)
    assert {e.space for e in grower.events} == set(LAYERS)


def test_padding_at_one_end_is_told() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 2, padding="same"), nn.ReLU(), nn.Conv2d(4, 2, 3))
    x = torch.randn(3, 1, 6, 6)
    graph = netir.trace(net, (x,))
    layer = layers_of(graph)[0]
    why = bridge(layer, Seen(graph, [layer], Calibration([x])))
    assert isinstance(why, str)
    assert "padded more at one end" in why


# --- the graph of a model in training


def test_a_live_graph_is_the_same_while_its_tensors_are() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    live = netir.Live(net, optimizer, torch.randn(3, 4))
    graph = live.graph
    net(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    assert live.graph is graph
    weight = net[0].weight
    assert isinstance(weight, nn.Parameter)
    assert torch.equal(graph.params["0.weight"].data, weight)
    weight.data = weight.data + 1
    other = live.graph
    assert other is not graph
    assert torch.equal(other.params["0.weight"].data, weight)
    weight.requires_grad_(False)
    assert not live.graph.params["0.weight"].trainable
    live.apply(netir.passes.Widen("0", count=2))
    assert live.graph.params["0.weight"].data.shape == (8, 4)
    assert live.graph is live.graph


def test_north_by_batch_sees_train_mode_and_grows() -> None:
    net, (x, y) = network(), batch()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    live = netir.Live(net, optimizer)
    for grower in (North(gamma=0.5, observe="batch", candidates=5, most=12),
                   Nest(trigger=Gradients(), observe="batch", loss=F.cross_entropy)):  # fmt: skip
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            grower.step(live, x, y)
    conv = net[0]
    assert isinstance(conv, nn.Conv2d)
    assert conv.out_channels == 12
