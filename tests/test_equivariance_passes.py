"""Passes over equivariant layers keep what they say, and how equivariance is measured."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import netir
from netir.basis import Contract
from netir.errors import ContractError, NetirError, NetirWarning
from netir.ir import Graph
from netir.kernels.groups import SQUARE, group
from netir.kernels.layers import FieldBatchNorm2d, GroupConv2d, GroupPool
from netir.passes import Collapse, Constrain, Deepen, Lift, Mix, Relax, Widen
from netir.rewrite import Pass
from netir.verify import verify
from tests.equivariant import MAP, Net, gap, net, plain, shaken, traced

PAIRS = [(a, b) for a, b in product(SQUARE, SQUARE) if a != b and group(b) <= group(a)]
CHAINS = [(a, b, c) for (a, b), (d, c) in product(PAIRS, PAIRS) if b == d]


# Relax and constrain.


@pytest.mark.parametrize(("large", "small"), PAIRS)
def test_relaxed_networks_are_the_same_and_keep_their_symmetry(large: str, small: str) -> None:
    graph = traced(net(large, large))
    relaxed = Relax(to=small).apply(graph)
    assert relaxed.report.contract is Contract.EXACT
    verify(graph, relaxed.graph, (MAP,), bound=1e-12)
    times = group(large).order // group(small).order
    sizes = [len(g.params["inner.weight"].data) for g in (graph, relaxed.graph)]
    assert sizes == [1, times]
    for node, other in zip(graph.nodes.values(), relaxed.graph.nodes.values(), strict=True):
        if node.op.name == "group_conv":
            assert torch.equal(_filter(graph, node), _filter(relaxed.graph, other))
    assert netir.equivariance(relaxed.graph, large, MAP).error <= 1e-12  # type: ignore[operator]
    trained = shaken(relaxed.graph)
    assert netir.equivariance(trained, small, MAP).error <= 1e-12  # type: ignore[operator]
    assert netir.equivariance(trained, large, MAP).error > 1e-6  # type: ignore[operator]


def _filter(graph: Graph, node: Any) -> Tensor:
    return node.op.dense(*(graph.params[name].data for name in node.params))[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("chain", [("D4", "C4", "C1"), ("D4", "D2", "D1_90"), ("D2", "C2", "C1")])
def test_relaxations_compose_and_are_undone(chain: tuple[str, str, str]) -> None:
    large, middle, small = chain
    graph = traced(net(large, "D4"))
    layers = "lift inner last"
    stepwise = Relax(layers, to=small)(Relax(layers, to=middle)(graph))
    at_once = Relax(layers, to=small)(graph)
    for name, param in at_once.params.items():
        assert torch.equal(param.data, stepwise.params[name].data)
    back = Constrain(layers, to=large).apply(at_once)
    assert back.report.contract is Contract.BOUNDED
    for name, param in graph.params.items():
        assert torch.allclose(param.data, back.graph.params[name].data, rtol=1e-12, atol=1e-12)
    verify(at_once, back.graph, (MAP,))


def _pooled(name: str) -> Net:
    """A network of a subgroup of D4, whose head reads one row of fields for each coset of it."""
    model = net(name)
    model.pool = GroupPool("D4", name)
    model.head = nn.Linear(3 * group("D4").order // group(name).order, 5).double()
    return model


@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
def test_whole_networks_relax_in_steps_as_at_once(chain: tuple[str, str, str]) -> None:
    large, middle, small = chain
    graph = traced(_pooled(large))
    first, at_once = Relax(to=middle).apply(graph), Relax(to=small).apply(graph)
    second = Relax(to=small).apply(first.graph)
    assert first.report.changed == second.report.changed == at_once.report.changed
    assert "group_pool" in second.report.changed
    verify(graph, second.graph, (MAP,), contract=Contract.EXACT, bound=1e-12)
    trained = _trained(first.graph)
    verify(trained, Relax(to=small)(trained), (MAP,), contract=Contract.EXACT, bound=1e-12)
    for node in at_once.graph.nodes.values():
        assert second.graph.node(node.name).op == node.op
    moves = first.moves.then(second.moves).params
    assert moves.keys() == at_once.moves.params.keys()
    for name, move in at_once.moves.params.items():
        assert torch.equal(second.graph.params[name].data, at_once.graph.params[name].data)
        state = torch.rand_like(graph.params[name].data)
        for power in (1, 2):
            assert torch.equal(moves[name].apply(state, power), move.apply(state, power))
    assert netir.equivariance(second.graph, large, MAP).error <= 1e-12  # type: ignore[operator]
    trained = _trained(second.graph)
    assert netir.equivariance(trained, small, MAP).error <= 1e-12  # type: ignore[operator]
    assert netir.equivariance(trained, large, MAP).error > 1e-6  # type: ignore[operator]


def _trained(graph: Graph) -> Graph:
    """All weights of group convolutions and of the head drawn anew."""
    with shaken(graph).edit() as edit:
        edit.set_param("head.weight", torch.randn_like(graph.params["head.weight"].data))
    return edit.graph


@pytest.mark.parametrize(
    "head",
    [
        [nn.Conv2d(6, 5, 3)],
        [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(6 * 4, 5)],
    ],
    ids=["conv", "flatten"],
)
def test_what_reads_several_cosets_goes_along(head: list[nn.Module]) -> None:
    lift = GroupConv2d(3, 3, 3, "C4", "D4", lifting=True)
    graph = traced(nn.Sequential(lift, GroupPool("D4", "C4"), *head).double())
    relaxed = Relax(to="C1").apply(graph)
    assert not relaxed.report.skipped
    verify(graph, relaxed.graph, (MAP,), contract=Contract.EXACT, bound=1e-12)


def test_training_goes_on_after_each_step_of_a_chain() -> None:
    model = _pooled("D4").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    live = netir.Live(model, optimizer, example=MAP)
    for name, columns in (("C4", 6), ("C2", 12), ("C1", 24)):
        model.train()
        optimizer.zero_grad()
        model(MAP).square().sum().backward()
        optimizer.step()
        before, state = model.eval()(MAP), dict(optimizer.state[model.head.weight])
        move = live.apply(Relax(to=name)).moves.params["head.weight"]
        assert gap(model(MAP), before) <= 1e-12
        assert model.head.weight.shape == (5, columns)
        moved = optimizer.state[model.head.weight]
        assert torch.equal(moved["exp_avg"], move.apply(state["exp_avg"]))
        assert torch.equal(moved["exp_avg_sq"], move.apply(state["exp_avg_sq"], 2))


@pytest.mark.parametrize("to", ["C4", "C1"])
def test_constraining_undoes_relaxing_for_the_optimizer_too(to: str) -> None:
    model = net().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, amsgrad=True)
    live = netir.Live(model, optimizer, example=MAP)
    model(MAP).square().sum().backward()
    optimizer.step()
    before = {n: {k: v.clone() for k, v in optimizer.state[p].items()}
              for n, p in model.named_parameters()}  # fmt: skip
    layers = "lift inner last"
    live.apply(Relax(layers, to=to))
    live.apply(Constrain(layers, to="D4"))
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            assert torch.allclose(value, before[name][key], rtol=1e-9, atol=0), (name, key)


def test_a_layer_whose_stride_tears_its_map_is_left() -> None:
    lift = GroupConv2d(3, 2, 3, "C1", "D4", lifting=True, stride=2, padding=1)
    inner = GroupConv2d(2, 2, 3, "C1", "D4", padding=1)
    graph = netir.trace(nn.Sequential(lift, inner), (torch.randn(1, 3, 8, 8),))
    found = Constrain(to="D4").apply(graph)
    groups = [node.op.groups for node in found.graph.nodes.values() if node.op.name == "group_conv"]
    assert groups == [("C1",), ("D4",)]
    assert [name for name, _ in found.report.skipped] == ["group_conv"]
    assert "symmetrically" in str(found.report)


def test_deepening_loses_the_symmetry_only_as_it_is_trained() -> None:
    graph = Deepen()(traced(net()))
    assert netir.equivariance(graph, "D4", MAP).error <= 1e-12  # type: ignore[operator]
    with graph.edit() as edit:
        for name, param in graph.params.items():
            if name.endswith("weight") and param.data.dim() == 4:
                edit.set_param(name, param.data + 0.1 * torch.randn_like(param.data))
    assert netir.equivariance(edit.graph, "D4", MAP).error > 1e-3  # type: ignore[operator]


def test_a_single_field_is_no_space() -> None:
    lift, last = GroupConv2d(3, 1, 3, lifting=True), GroupConv2d(1, 2, 3)
    graph = netir.trace(nn.Sequential(lift, last), (torch.randn(2, 3, 9, 9),))
    assert all(space.reason for space in graph.spaces())


@pytest.mark.parametrize("rewrite", [Relax, Constrain, Mix])
def test_a_norm_that_is_named_has_no_group_to_change(rewrite: type[Pass]) -> None:
    with pytest.raises(NetirError, match="field_norm has no group of its own to change"):
        rewrite("norm")(traced(net("C2")))


def test_constrained_layers_are_the_nearest_and_within_their_bound() -> None:
    graph = shaken(traced(net("C2")))
    result = Constrain(to="D4").apply(graph)
    assert result.report.contract is Contract.BOUNDED
    assert set(result.moves.bounds) == {"group_conv", "group_conv_1", "group_conv_2"}
    assert set(result.moves.shifts) == {"group_conv", "group_conv_1"}
    verify(graph, result.graph, (MAP,))
    assert netir.equivariance(result.graph, "D4", MAP).error <= 1e-12  # type: ignore[operator]
    node, other = graph.node("group_conv_1"), result.graph.node("group_conv_1")
    old, new = _filter(graph, node), _filter(result.graph, other)
    worse = new + 1e-3 * _filter(shaken(result.graph), other)
    assert abs(float(((old - new) * (worse - new)).sum())) <= 1e-10  # a right angle


def test_a_bias_that_changes_is_in_the_bound() -> None:
    graph = Relax("inner", to="C2")(traced(net()))
    with graph.edit() as edit:
        old = torch.randn_like(graph.params["inner.bias"].data)
        edit.set_param("inner.bias", old)
    result = Constrain("inner", to="D4").apply(edit.graph)
    new = result.graph.params["inner.bias"].data
    (shift,) = result.moves.shifts.values()
    assert shift == pytest.approx(float((old - new).std(correction=0)))
    assert result.moves.bounds["group_conv_1"] <= 1e-10  # the filter had the symmetry before
    verdict = verify(edit.graph, result.graph, (MAP,))
    assert verdict.contract is Contract.BOUNDED
    assert 0.99 <= verdict.error <= 1  # nothing else is off, so no smaller shift would do
    less = netir.Moves(bounds=result.moves.bounds, shifts={"group_conv_1": 0.9 * shift})
    with pytest.raises(ContractError, match=r"off by 1\.11 times"):
        verify(edit.graph, result.graph, (MAP,), contract="bounded", moves=less)


@pytest.mark.parametrize("rewrite", [Relax(to="C4"), Mix(groups="C1"), Collapse()], ids=str)
def test_training_goes_on_after_a_rewrite(rewrite: Pass) -> None:
    model = net().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    live = netir.Live(model, optimizer, example=MAP)

    def step() -> None:
        optimizer.zero_grad()
        model(MAP).square().sum().backward()
        optimizer.step()

    step()
    moment = optimizer.state[model.inner.weight]["exp_avg"].clone()
    before = model.eval()(MAP)
    live.apply(rewrite)
    assert gap(model(MAP), before) <= 1e-12
    moved = optimizer.state[model.inner.weight]["exp_avg"]
    assert moved.shape == model.inner.weight.shape
    if not isinstance(rewrite, Mix):
        move = rewrite.apply(traced(net())).moves.params["inner.weight"]
        assert torch.equal(moved, move.apply(moment))
    weight = model.inner.weight.detach().clone()
    model.train()
    step()
    assert gap(model.inner.weight, weight) > 0


def test_moves_of_several_passes_are_one() -> None:
    graph = traced(net())
    current, total = graph, None
    for rewrite in (Widen("*"), Relax("inner", to="C2"), Collapse("inner"), Relax(to="C1")):
        result = rewrite.apply(current)
        total = result.moves if total is None else total.then(result.moves)
        current = result.graph
    assert total is not None
    for name in ("inner.weight", "inner.bias", "lift.weight", "last.weight"):
        moved = total.params[name].apply(graph.params[name].data)
        assert torch.allclose(moved, current.params[name].data, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: Relax("head")(g), "no equivariant layer"),
        (lambda g: Relax("inner", to="D4")(g), "is D4 already"),
        (lambda g: Relax("inner", to="C8")(g), "no subgroup of its group"),
        (lambda g: Relax("inner", to="C4")(Mix(groups="C1")(g)), "a mixture"),
        (lambda g: Constrain("inner", to="C4")(g), "no subgroup of C4"),
        (lambda g: Constrain("inner", to="D4")(g), "is D4 already"),
        (lambda g: Constrain("inner", to="D8")(Relax(to="C1")(g)), "its ambient group"),
        (lambda g: Mix("inner", groups="D4")(g), "proper subgroup"),
        (lambda g: Mix("inner")(Mix("inner")(g)), "a mixture"),
        (lambda g: Relax("group_pool")(traced(net(kind="max"))), "takes the max"),
        (lambda g: Relax(to="D5x"), "relax knows no group 'D5x'"),
        (lambda g: Mix(groups="C8"), "mix cannot use C8"),
        (lambda g: Mix(prior=float("nan")), "mix cannot use prior nan"),
        (lambda g: Mix(prior=float("inf")), "mix cannot use prior inf"),
        (lambda g: Mix(prior=-1e40), "mix cannot use prior -1e+40"),  # more than float32 holds
    ],
)
def test_passes_say_why_not(make: Any, message: str) -> None:
    graph = traced(net())
    with pytest.raises(NetirError) as caught:
        make(graph)
    assert message in str(caught.value)
    assert caught.value.fix


def test_pools_relax_only_before_what_is_linear() -> None:
    class Bent(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pool(self.lift(x))[:, [0, 1, 1]].relu().mean((2, 3)))

    with pytest.raises(NetirError, match="not linear in channels"):
        Relax("group_pool")(traced(Bent().double()))


# Lift.


@pytest.mark.parametrize("name", SQUARE)
def test_lifted_networks_are_equivariant(name: str) -> None:
    model = plain()
    graph = traced(model)
    lifted = Lift(to=name)(graph)
    assert netir.equivariance(lifted, name, MAP).error <= 1e-12  # type: ignore[operator]
    module = netir.to_torch(lifted)
    assert isinstance(module.get_submodule("1"), FieldBatchNorm2d)
    assert netir.equivariance(traced(module.train()), name, MAP).error <= 1e-12  # type: ignore[operator]
    if name == "C1":
        verify(graph, lifted, (MAP,), contract=Contract.EXACT_EVAL)


@pytest.mark.parametrize(
    ("model", "where", "message"),
    [
        (plain(size=3), "0 1 4 5", "adaptive_avg_pool does not commute"),
        (plain(act=nn.PReLU), "0 1 4 5", "a parameter that is no layer's"),
        (plain(), "0", "go together"),
        (plain()[:7], "0 1 4 5", "it is returned"),
        (nn.Sequential(nn.Conv2d(3, 6, 3)).double(), "0", "6 channels are no fields of 8"),
        (nn.Sequential(nn.Conv2d(3, 8, 3, stride=4)).double(), "0", "symmetrically"),
        (nn.Sequential(nn.Conv2d(3, 8, (3, 1))).double(), "0", "only a square convolution"),
        (nn.Sequential(nn.Conv2d(3, 8, 3, dilation=2)).double(), "0", "or it is dilated"),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding="same")).double(), "0", "its padding is 'same'"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)).double(), "0", "the image itself"),
    ],
)
def test_networks_that_cannot_be_lifted(model: nn.Module, where: str, message: str) -> None:
    with pytest.raises(NetirError) as caught:
        Lift(where)(traced(model.eval()))
    assert message in str(caught.value)


# Measuring.


def test_the_layer_that_breaks_the_symmetry_is_found() -> None:
    graph = Relax("inner", to="C4")(traced(net()))
    with graph.edit() as edit:
        edit.set_param("inner.weight", torch.randn_like(graph.params["inner.weight"].data))
    report = netir.equivariance(edit.graph, "D4", MAP)
    own = {layer.name: layer.own for layer in report.layers}
    assert [name for name, error in own.items() if error > 1e-12] == ["group_conv_1"]  # type: ignore[operator]
    assert report.error > 1e-6  # type: ignore[operator]
    assert netir.equivariance(edit.graph, "C4", MAP).error <= 1e-12  # type: ignore[operator]
    assert "under D4: outputs are off by" in str(report)


def test_ordinary_networks_are_measured_too() -> None:
    report = netir.equivariance(traced(plain()), "C4", MAP)
    assert report.error > 1e-6  # type: ignore[operator]
    flat = netir.equivariance(traced(plain(size=3)), "C4", MAP)
    assert flat.layers[-1].own is None


@pytest.mark.parametrize(
    ("name", "example", "message"),
    [
        ("C8", MAP, "moves pixels between pixels"),
        ("Z2", MAP, "no group is called 'Z2'"),
        ("C4", torch.ones(2, 3, 9, 7, dtype=torch.float64), "9 x 7 pixels"),
    ],
)
def test_what_cannot_be_measured(name: str, example: Tensor, message: str) -> None:
    graph = netir.trace(nn.Conv2d(3, 4, 3).double(), (example,))
    with pytest.raises(NetirError, match=message):
        netir.equivariance(graph, name, example)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_as_far_off_as_can_be(number: float) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[3].weight[0, 0] = number
    found = netir.equivariance(traced(net.double()), "C4", MAP)
    assert found.error == torch.inf
    conv, linear = found.layers
    assert conv.own is not None
    assert conv.own < torch.inf
    assert (linear.own, linear.total) == (torch.inf, torch.inf)
    assert "outputs are off by inf" in str(found)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.full_like(MAP, torch.nan), "holds numbers that are not finite"),
        (MAP[:0], "is empty: nothing can be measured"),
    ],
)
def test_inputs_that_would_hide_every_error_are_refused(example: Tensor, message: str) -> None:
    graph = netir.trace(nn.Conv2d(3, 4, 3).double(), (MAP,), dynamic={"input": {0: "batch"}})
    with pytest.raises(NetirError, match=message) as caught:
        netir.equivariance(graph, "C4", example)
    assert caught.value.fix


def test_networks_without_maps_are_not_measured() -> None:
    graph = netir.trace(nn.Linear(3, 2), (torch.ones(2, 3),))
    with pytest.raises(NetirError, match="no input is a batch of maps"):
        netir.equivariance(graph, "C4", torch.ones(2, 3))


def test_a_dilated_pool_is_not_lifted_as_a_plain_one() -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.MaxPool2d(2, 2, dilation=2),
                        nn.Conv2d(8, 8, 3, padding=1))  # fmt: skip
    x = torch.randn(2, 1, 16, 16)
    with pytest.warns(NetirWarning, match="changes nothing"):
        netir.passes.Lift(to="C4")(netir.trace(net, (x,)))


def test_groups_that_move_pixels_between_pixels_are_refused() -> None:
    with pytest.raises(NetirError, match="lift cannot use C8"):
        netir.passes.Lift(to="C8")
    with pytest.raises(NetirError, match="in one text"):
        netir.passes.Mix(groups=("C4", "C1"))  # type: ignore[arg-type]


def test_a_network_that_gives_classes_is_measured() -> None:
    class Classes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).mean((2, 3)).argmax(1)

    x = torch.randn(3, 1, 8, 8)
    found = netir.equivariance(netir.trace(Classes(), (x,)), "C4", x)
    assert found.error is None or found.error >= 0
