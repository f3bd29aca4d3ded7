"""New units: where they go, with what weights, and what each init promises."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from netir.basis import Contract
from netir.calibration import Calibration
from netir.errors import NetirError, NetirWarning
from netir.ir import Graph
from netir.passes import Grow, Keep
from netir.passes.growth import inits
from netir.passes.growth.bridge import bridge
from netir.passes.growth.gradients import firefly, gradmax, mean_loss, nest, tiny
from netir.passes.growth.hidden import Hidden, hidden
from netir.passes.growth.inits import Wanted
from netir.passes.growth.plant import Fans, Sown, open_relu, planted
from netir.passes.growth.seen import Seen
from netir.verify import verify
from tests.zoo.traced import traced

SAME = ("random", "select", "pre", "weight", "gradmax")


def network() -> nn.Module:
    """Convolutions with batch norm and stride, a flatten, and linear layers."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(54, 10), nn.ReLU(), nn.Linear(10, 3),
    ).double()  # fmt: skip
    for norm in (net[1],):
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
    return net


@pytest.fixture(scope="module")
def small() -> tuple[Graph, Calibration]:
    torch.manual_seed(0)
    x = torch.randn(24, 3, 8, 8, dtype=torch.float64)
    y = torch.randint(0, 3, (24,))
    graph = netir.trace(network(), (x,))
    return graph, Calibration([x[:10], x[10:]], [y[:10], y[10:]], F.cross_entropy)


def layer(graph: Graph, name: str) -> Hidden:
    return hidden(graph, next(s for s in graph.spaces() if s.name == name))


def wanted(small: tuple[Graph, Calibration], name: str, count: int = 2, **given: Any) -> Wanted:
    graph, calibration = small
    found = layer(graph, name)
    return Wanted(found, count, Seen(graph, (found,), calibration), **{"candidates": 20, **given})


def grown(want: Wanted, fans: Fans | str) -> Graph:
    assert isinstance(fans, Fans)
    return planted(want.seen.graph, [(want.layer.space, Sown.of(want.layer, fans))]).graph


LAYERS = ("0", "3", "6")


# --- the pass


@pytest.mark.parametrize("init", [*SAME, "net2wider"])
def test_inits_that_keep_the_function_keep_it(
    small: tuple[Graph, Calibration], init: str
) -> None:
    graph, calibration = small
    done = Grow(count=3, init=init, candidates=10).apply(graph, calibration)
    assert done.report.changed == LAYERS
    assert done.report.contract is Contract.EXACT
    x = calibration.batches[0]
    assert verify(graph, done.graph, (x,)).error < 1e-12
    assert [done.graph.params[f"{n}.bias"].data.shape[0] for n in LAYERS] == [11, 9, 13]


@pytest.mark.parametrize("init", ["firefly", "nest", "tiny"])
def test_the_other_inits_say_that_they_change_it(
    small: tuple[Graph, Calibration], init: str
) -> None:
    graph, calibration = small
    done = Grow("3", count=2, init=init).apply(graph, calibration)
    assert done.report.contract is Contract.CHANGED
    assert done.graph.params["3.weight"].data.shape == (8, 8, 3, 3)


def test_old_entries_are_as_they_were(small: tuple[Graph, Calibration]) -> None:
    graph, calibration = small
    for init in (*SAME, "nest"):
        done = Grow(count=3, init=init, candidates=10)(graph, calibration)
        for name, param in graph.params.items():
            places = tuple(slice(0, n) for n in param.data.shape)
            if name != "6.weight":
                assert torch.equal(done.params[name].data[places], param.data), (init, name)
        by_channel = done.params["6.weight"].data.unflatten(1, (9, 9))[:10, :6]
        assert torch.equal(by_channel, graph.params["6.weight"].data.unflatten(1, (6, 9)))


def test_counts_are_for_spaces_by_name(small: tuple[Graph, Calibration]) -> None:
    graph, _ = small
    done = Grow(counts=(("0", 2), ("6", 5)), round_to=4)(graph)
    sizes = {s.name: s.size for s in done.spaces()}
    assert (sizes["0"], sizes["3"], sizes["6"]) == (12, 6, 16)


def test_heads_and_head_sizes_grow_without_a_trace() -> None:
    """Queries and keys meet in a sum: one side of a new head size is zero, the other is not."""
    sample, graph = traced("vit_sdpa")
    done = Grow(count=2).apply(graph)
    assert done.report.contract is Contract.EXACT
    assert verify(graph, done.graph, sample.args, sample.kwargs)
    assert any("takes in every index" in why for _, why in done.report.skipped), "layer norm"
    assert len(done.report.changed) > len(done.report.skipped) / 4


def test_a_norm_can_take_copies_only() -> None:
    _, graph = traced("vit_sdpa")
    with pytest.warns(NetirWarning, match="changes nothing"):
        Grow("vit.embeddings.patch_embeddings.projection", count=1).apply(graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "cannot use count 0"),
        ({"round_to": 0}, "cannot use round_to 0"),
        ({"init": "selekt"}, "no init 'selekt'"),
        ({"counts": (("0", -1),)}, "can only add"),
    ],
)
def test_bad_options_of_grow(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetirError, match=message):
        Grow(**options)


@pytest.mark.parametrize("init", ["select", "pre", "gradmax", "tiny", "nest", "firefly"])
def test_data_is_asked_for(small: tuple[Graph, Calibration], init: str) -> None:
    with pytest.raises(NetirError, match="needs data"):
        Grow(init=init).apply(small[0])


def test_a_loss_is_asked_for(small: tuple[Graph, Calibration]) -> None:
    graph, calibration = small
    with pytest.raises(NetirError, match="there is no loss"):
        Grow(init="gradmax").apply(graph, Calibration(calibration.batches))


def test_a_function_of_ones_own_is_an_init(small: tuple[Graph, Calibration]) -> None:
    def ones(want: Wanted) -> Fans:
        (maker,) = want.layer.makers
        shape = want.layer.rows(maker).shape[1:]
        return Fans(want.count, {maker.weight: torch.ones(want.count, *shape)})

    graph, calibration = small
    done = Grow(count=2, init=ones).apply(graph, calibration)
    assert bool((done.graph.params["0.weight"].data[8:] == 1).all())
    assert verify(graph, done.graph, (calibration.batches[0],))
    assert "init=ones" in done.report.text


# --- the inits


@pytest.mark.parametrize("name", LAYERS)
def test_random_rows_have_the_mean_norm(small: tuple[Graph, Calibration], name: str) -> None:
    want = wanted(small, name)
    graph = grown(want, inits.random(want))
    weight = graph.params[f"{name}.weight"].data.flatten(1)
    old = weight[:-2, : want.seen.graph.params[f"{name}.weight"].data.flatten(1).shape[1]]
    assert torch.allclose(weight[-2:].norm(dim=1), old.norm(dim=1).mean().expand(2))


@pytest.mark.parametrize("name", LAYERS)
def test_weight_rows_are_orthogonal(small: tuple[Graph, Calibration], name: str) -> None:
    want = wanted(small, name)
    weight = grown(want, inits.weight(want)).params[f"{name}.weight"].data.flatten(1)
    products = weight @ weight.mT
    assert products[-2:, :-2].abs().max() < 1e-10
    assert abs(float(products[-1, -2])) < 1e-10


def test_weight_says_where_there_is_no_room() -> None:
    torch.manual_seed(0)
    graph = netir.trace(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), (torch.randn(3, 4),))
    found = layer(graph, "0")
    fans = inits.weight(Wanted(found, 2, Seen(graph, (found,), None)))
    assert isinstance(fans, Fans)
    assert "no room at right angles" in fans.why


@pytest.mark.parametrize("name", LAYERS)
def test_pre_rows_give_orthogonal_results(small: tuple[Graph, Calibration], name: str) -> None:
    want = wanted(small, name)
    fans = inits.pre(want)
    assert isinstance(fans, Fans)
    assert not fans.why
    (maker,) = want.layer.makers
    x = want.seen.windows(maker)[:, 0]
    old = x @ want.layer.rows(maker).flatten(1).mT
    new = x @ fans.rows[maker.weight].flatten(1).mT
    cosines = F.normalize(old, dim=0).mT @ F.normalize(new, dim=0)
    assert cosines.abs().max() < 1e-10


def test_select_takes_the_units_that_add_rank(small: tuple[Graph, Calibration]) -> None:
    """Against the definition: every candidate by itself beside the units, the best ones kept."""
    want = wanted(small, "6", candidates=30, epsilon=0.05)
    many = inits._drawn(wanted(small, "6"), 32)
    again = inits.select(wanted(small, "6", candidates=30, epsilon=0.05))
    assert isinstance(many, Fans)
    assert isinstance(again, Fans)
    old, new = inits._activations(want, many)

    def worth(column: Tensor) -> tuple[int, float]:
        values = torch.linalg.svdvals(torch.cat([old, column[:, None]], 1)) / len(old) ** 0.5
        return int((values > 0.05).sum()), float(values.sum())

    order = sorted(range(32), key=lambda i: worth(new[:, i]), reverse=True)[:2]
    assert torch.equal(again.rows["6.weight"], many.rows["6.weight"][order])


@pytest.mark.parametrize("name", LAYERS)
def test_gradmax_gains_the_squared_singular_values(
    small: tuple[Graph, Calibration], name: str
) -> None:
    want = wanted(small, name)
    found = bridge(want.layer, want.seen)
    assert not isinstance(found, str)
    after = grown(want, gradmax(want))
    (maker,), (reader,) = want.layer.makers, want.layer.readers
    _, slopes = Seen(after, (), want.seen.calibration).gradients((), [maker.weight])
    size = want.layer.columns(reader).flatten(1).norm(dim=1).mean()
    gain = torch.linalg.svdvals(found.matrix)[:2].square().sum() * size**2
    assert float(slopes[maker.weight][-2:].square().sum()) == pytest.approx(float(gain), rel=1e-10)
    assert not bool(after.params[maker.weight].data[-2:].any())


def test_the_bridge_is_the_gradient_of_a_connection(small: tuple[Graph, Calibration]) -> None:
    """By differences: one new unit with small weights on both sides moves the loss by c·G·w."""
    want = wanted(small, "3", count=1)
    found = bridge(want.layer, want.seen)
    assert not isinstance(found, str)
    torch.manual_seed(1)
    made, read = (torch.rand(1, n, dtype=torch.float64) for n in found.matrix.mT.shape)
    rows = found.rows(made)
    step = 1e-3
    up = Fans(1, {n: step * r for n, r in rows.items()}, found.columns(step * read))
    plain = nn.Sequential(*list(network())[:4], nn.Identity(), *list(network())[5:])
    graph = netir.trace(plain.double(), (want.seen.data("").batches[0],))  # no ReLU to bend it
    straight = layer(graph, "3")
    seen = Seen(graph, (straight,), want.seen.calibration)
    matrix = bridge(straight, seen)
    assert not isinstance(matrix, str)
    after = planted(graph, [(straight.space, Sown.of(straight, up))]).graph
    moved = (mean_loss(after, seen) - mean_loss(graph, seen)) / step**2
    assert moved == pytest.approx(float(read @ matrix.matrix @ made.mT), rel=1e-2)


class Branch(nn.Module):
    """A space that two layers make and two read, the one that is made later not by both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(4, 5), nn.Linear(5, 7)
        self.second, self.head = nn.Linear(7, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        head: Tensor = self.head(y + self.second(torch.tanh(self.inner(y))))
        return head


def test_the_bridge_has_all_that_a_residual_space_is_made_and_read_by() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 4, dtype=torch.float64)
    graph = netir.trace(Branch().double(), (x,))
    found = layer(graph, "first")
    assert [maker.weight for maker in found.makers] == ["first.weight", "second.weight"]
    assert [reader.weight for reader in found.readers] == ["inner.weight", "head.weight"]
    seen = Seen(graph, (found,), Calibration([x], [torch.randint(0, 3, (12,))], F.cross_entropy))
    gradient = bridge(found, seen)
    assert not isinstance(gradient, str)
    made, read = (torch.rand(1, n, dtype=torch.float64) for n in gradient.matrix.mT.shape)
    rows, step = gradient.rows(made), 1e-3
    up = Fans(1, {n: step * r for n, r in rows.items()}, gradient.columns(step * read))
    after = planted(graph, [(found.space, Sown.of(found, up))]).graph
    moved = (mean_loss(after, seen) - mean_loss(graph, seen)) / step**2
    assert moved == pytest.approx(float(read @ gradient.matrix @ made.mT), rel=1e-2)


def test_gradmax_gives_a_relu_a_gradient_at_zero(small: tuple[Graph, Calibration]) -> None:
    want = wanted(small, "6")
    after = grown(want, gradmax(want))
    assert [n.op for n in after.nodes.values()].count(open_relu()) == 1
    assert verify(want.seen.graph, after, (want.seen.data("").batches[0],), contract="exact")


def test_where_a_pool_stands_between_gradmax_draws() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    x = torch.randn(5, 1, 8, 8)
    graph = netir.trace(net, (x,))
    found = layer(graph, "0")
    seen = Seen(graph, (found,), Calibration([x], [torch.randint(0, 2, (5,))], F.cross_entropy))
    fans = gradmax(Wanted(found, 2, seen))
    assert isinstance(fans, Fans)
    assert "stands between" in fans.why
    assert bool(fans.rows["0.weight"].any())


@pytest.mark.parametrize("name", LAYERS)
def test_firefly_stays_within_its_epsilon(small: tuple[Graph, Calibration], name: str) -> None:
    want = wanted(small, name)
    fans = firefly(want)
    assert isinstance(fans, Fans)
    assert fans.count == 2
    x = want.seen.data("").batches[0]
    before, after = netir.run(want.seen.graph, x), netir.run(grown(want, fans), x)
    assert float((after - before).abs().max() / before.abs().max()) < 1e-3


def test_firefly_copies_part_and_share_what_reads_them(
    small: tuple[Graph, Calibration],
) -> None:
    want = wanted(small, "6", count=10)
    fans = firefly(want)
    assert isinstance(fans, Fans)
    assert fans.source is not None
    copies = (fans.source >= 0).nonzero().flatten()
    assert len(copies), "with as many copies as drawn units tried, some are kept"
    after, old = grown(want, fans), want.seen.graph.params
    first = int(copies[0])
    unit = int(fans.source[first])
    rows, columns = after.params["6.weight"].data, after.params["8.weight"].data
    assert torch.allclose((rows[unit] + rows[10 + first]) / 2, old["6.weight"].data[unit])
    assert not torch.equal(rows[unit], rows[10 + first])
    assert torch.allclose(columns[:, unit], old["8.weight"].data[:, unit] / 2)
    assert torch.equal(columns[:, unit], columns[:, 10 + first])


@pytest.mark.parametrize("name", LAYERS)
def test_nest_goes_down_the_gradient(small: tuple[Graph, Calibration], name: str) -> None:
    want = wanted(small, name)
    found = bridge(want.layer, want.seen)
    fans = nest(want)
    assert not isinstance(found, str)
    assert isinstance(fans, Fans)
    made = torch.cat([fans.rows[m.weight].flatten(1) for m in want.layer.makers], 1)
    read = torch.cat([fans.columns[r.weight].flatten(1) for r in want.layer.readers], 1)
    for row, column in zip(made, read, strict=True):
        assert float(column @ found.matrix @ row) < 0


@pytest.mark.parametrize("name", LAYERS)
def test_tiny_lowers_the_loss_at_once(small: tuple[Graph, Calibration], name: str) -> None:
    want = wanted(small, name)
    assert mean_loss(grown(want, tiny(want)), want.seen) < mean_loss(want.seen.graph, want.seen)


# --- what is kept by name


def test_keep_removes_all_but_the_named(small: tuple[Graph, Calibration]) -> None:
    graph, calibration = small
    done = Keep("0 6", keep=(("0", (1, 4, 6)), ("6", (0, 9)))).apply(graph)
    assert torch.equal(done.graph.params["0.weight"].data, graph.params["0.weight"].data[[1, 4, 6]])
    assert verify(graph, done.graph, (calibration.batches[0],))


@pytest.mark.parametrize("indices", [(), (1, 1), (-1, 2)])
def test_keep_refuses_strange_indices(indices: tuple[int, ...]) -> None:
    with pytest.raises(NetirError, match="cannot use the indices"):
        Keep(keep=(("0", indices),))


def test_keep_refuses_an_index_that_is_not_there(small: tuple[Graph, Calibration]) -> None:
    with pytest.raises(NetirError, match="has no index 8"):
        Keep("0", keep=(("0", (0, 8)),)).apply(small[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        assert Keep("3", keep=(("0", (0,)),))(small[0]) is small[0]
