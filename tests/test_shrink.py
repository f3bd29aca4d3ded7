"""Shrink: what is exact is, what is dropped is what the rule says, and Deepen's way back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import netir
from netir.basis import Contract
from netir.builtin import BUILTINS
from netir.calibration import Calibration
from netir.errors import NetirError
from netir.ir import Graph
from netir.passes import Deepen, Shrink
from netir.rewrite import Result
from netir.verify import check, verify
from tests.doubled import doubled, doubled_tensors
from tests.zoo.traced import traced

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def graph_of(*layers: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Sequential, Graph, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(*layers).double().eval()
    x = torch.randn(*shape, dtype=torch.float64)
    return model, netir.trace(model, (x,)), x


def ops(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes.values()]


def shrunk(graph: Graph, rewrite: Shrink, contract: Contract, *args: Any) -> Result:
    """The result of a rewrite that must keep this contract, proved on the arguments."""
    result = rewrite.apply(graph)
    assert result.report.contract is contract
    check(result.graph)
    assert verify(graph, result.graph, args, bound=1e-11)
    return result


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)])
def test_dense_layers_with_nothing_between_become_one(biases: tuple[bool, bool]) -> None:
    layers = nn.Linear(4, 7, biases[0]), nn.Linear(7, 3, biases[1]), nn.ReLU()
    model, graph, x = graph_of(*layers, shape=(5, 4))
    thin = shrunk(graph, Shrink("0"), Contract.EXACT, x).graph
    assert ops(thin) == ["linear", "relu"]
    a, b = model[0].weight, model[1].weight
    assert torch.allclose(thin.params["1.weight"].data, b @ a, atol=1e-15)
    assert ("1.bias" in thin.params) is any(biases)
    if biases == (True, True):
        want = b @ model[0].bias + model[1].bias
        assert torch.allclose(thin.params["1.bias"].data, want, atol=1e-15)
    module = netir.to_torch(thin)
    assert isinstance(module.get_submodule("1"), nn.Linear)
    assert torch.allclose(module(x), model(x), atol=1e-12)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU(), nn.PReLU()])
def test_between_dense_layers_the_activation_of_the_first_is_dropped(act: nn.Module) -> None:
    layers = nn.Linear(4, 7), act, nn.Dropout(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 2)
    model, graph, x = graph_of(*layers, shape=(6, 4))
    thin = shrunk(graph, Shrink("0"), Contract.CHANGED, x).graph
    a, b = model[0], model[3]
    want = model[5](torch.tanh((x @ a.weight.T + a.bias) @ b.weight.T + b.bias))
    assert torch.allclose(netir.run(thin, x), want, atol=1e-12)
    assert ops(thin) == ["linear", "tanh", "linear"]


def test_dropout_between_them_is_exact_in_eval_mode() -> None:
    layers = nn.Linear(4, 7), nn.Dropout(), nn.Linear(7, 2)
    _, graph, x = graph_of(*layers, shape=(6, 4))
    assert ops(shrunk(graph, Shrink(), Contract.EXACT_EVAL, x).graph) == ["linear"]


def test_the_optimizer_starts_anew_on_a_merged_weight() -> None:
    _, graph, x = graph_of(nn.Linear(4, 7), nn.Linear(7, 3), shape=(6, 4))
    result = shrunk(graph, Shrink(), Contract.EXACT, x)
    move = result.moves.params["1.weight"]
    assert move.apply(torch.ones(3, 7)).shape == (3, 4)
    assert not move.apply(torch.ones(3, 7)).any()
    assert result.moves.removed == ("0.weight", "0.bias")


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"k": 1}, {"k": 3, "padding": 1, "stride": 2}),
        ({"k": 1, "stride": 2}, {"k": 2, "dilation": 2}),
        ({"k": 3, "padding": 1, "dilation": 2, "stride": 2}, {"k": 1, "stride": 2}),
        ({"k": 3, "padding": 1}, {"k": 2}),
        ({"k": 2, "stride": 2}, {"k": 3, "stride": 3}),
        ({"k": 3, "dilation": 2}, {"k": 2, "dilation": 3, "stride": 2}),
        ({"k": 2, "stride": 3}, {"k": 2, "dilation": 2}),
        ({"k": 1}, {"k": 1}),
    ],
)
def test_convolutions_with_nothing_between_become_one(
    rank: int, first: dict[str, int], second: dict[str, int]
) -> None:
    pads = second.get("padding", 0) > 0
    one = CONVS[rank](3, 4, first.pop("k"), bias=not pads, **first)
    two = CONVS[rank](4, 5, second.pop("k"), **second)
    first["k"], second["k"] = one.kernel_size[0], two.kernel_size[0]
    model, graph, x = graph_of(one, nn.Dropout(), two, shape=(2, 3, *[14, 17, 13][:rank]))
    thin = shrunk(graph, Shrink("0", kind="conv"), Contract.EXACT_EVAL, x).graph
    assert ops(thin) == ["conv"]
    module = netir.to_torch(thin)
    assert isinstance(module.get_submodule("2"), CONVS[rank])
    assert torch.allclose(module(x), model(x), atol=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1), "the second pads"),
        (nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3, padding=1), "the second pads"),
        (nn.Conv2d(3, 4, 3), nn.ReLU(), "not one conv layer that reads conv2d, but relu;"),
        (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), "but batch_norm;"),
    ],
)
def test_convolutions_that_are_not_one(first: nn.Module, second: nn.Module, message: str) -> None:
    width = 5 if isinstance(second, nn.Conv2d) else 4
    _, graph, _ = graph_of(first, second, nn.Conv2d(width, 2, 1), shape=(2, 3, 9, 9))
    with pytest.raises(NetirError, match=message):
        Shrink("0", kind="conv")(graph)


def test_convolutions_in_groups_are_not_composed() -> None:
    layers = nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 8, 3, groups=8)
    _, graph, _ = graph_of(*layers, shape=(2, 4, 9, 9))
    with pytest.raises(NetirError, match="cannot be merged"):
        Shrink("0", kind="conv")(graph)


def test_a_convolution_is_bypassed_with_its_norm_and_a_second_activation() -> None:
    def block() -> list[nn.Module]:
        return [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU()]

    model, graph, x = graph_of(
        nn.Conv2d(3, 4, 1), nn.GELU(), *block(), *block(), shape=(2, 3, 5, 5)
    )
    thin = shrunk(graph, Shrink("2", kind="conv"), Contract.CHANGED, x).graph
    assert torch.allclose(netir.run(thin, x), model[5:](model[:2](x)), atol=1e-12)
    assert not [name for name in thin.params if name.startswith(("2.", "3."))]
    # Behind a norm the activation is still needed, and stays.
    model, graph, x = graph_of(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), *block(), shape=(2, 3, 5, 5)
    )
    thin = shrunk(graph, Shrink("2", kind="conv"), Contract.CHANGED, x).graph
    assert torch.allclose(netir.run(thin, x), model[4](model[:2](x)), atol=1e-12)


def test_all_that_can_go_goes_at_once() -> None:
    layers = [m for _ in range(4) for m in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())]
    model, graph, x = graph_of(nn.Conv2d(3, 4, 1), nn.ReLU(), *layers, shape=(2, 3, 5, 5))
    thin = shrunk(graph, Shrink(kind="conv", count=0), Contract.CHANGED, x).graph
    assert ops(thin) == ["conv", "relu"]
    assert torch.allclose(netir.run(thin, x), model[:2](x), atol=1e-12)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("data", [False, True])
def test_what_deepen_inserts_goes_again(norm: bool, data: bool) -> None:
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5), nn.ReLU6()
    _, graph, x = graph_of(*layers, nn.Linear(5, 2), shape=(4, 3, 5, 5))
    deep = Deepen(norm=norm)(graph, Calibration([x]) if data else None)
    contract = Contract.EXACT_EVAL if norm else Contract.EXACT
    back = shrunk(deep, Shrink("4_deep.layer"), contract, x).graph
    back = shrunk(back, Shrink("1_deep.layer", kind="conv"), contract, x).graph
    assert back.nodes == graph.nodes
    assert back.params.keys() == graph.params.keys()
    assert torch.equal(netir.run(back, x), netir.run(graph, x))


@pytest.mark.parametrize("norm", [False, True])
def test_in_float32_too(norm: bool) -> None:
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
    _, graph, x = graph_of(*layers, shape=(4, 3, 5, 5))
    single = netir.trace(nn.Sequential(*layers).float(), (x.float(),))
    for data in (None, Calibration([x.float()])):
        deep = Deepen(norm=norm)(single, data)
        verify(single, deep, x.float())
        back = Shrink(kind="conv", where="*deep*", count=0).apply(deep)
        assert back.report.contract is (Contract.EXACT_EVAL if norm else Contract.EXACT)
        assert back.graph.nodes == single.nodes
        verify(deep, back.graph, x.float())
    assert graph.nodes.keys() == single.nodes.keys()


def test_a_layer_that_deepen_inserted_goes_first() -> None:
    layers = [m for _ in range(3) for m in (nn.Linear(4, 4), nn.ReLU())]
    _, graph, x = graph_of(*layers, nn.Linear(4, 2), shape=(5, 4))
    deep = Deepen("3")(graph)
    result = shrunk(deep, Shrink(), Contract.EXACT, x)
    assert result.report.changed == ("relu_1_layer",)
    assert result.graph.nodes == graph.nodes


def test_a_layer_that_became_something_in_training_does_not() -> None:
    layers = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
    _, graph, x = graph_of(*layers, nn.ReLU(), shape=(2, 3, 5, 5))
    weight = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    nn.init.dirac_(weight)
    with graph.edit() as edit:
        edit.set_param("2.weight", weight)
        edit.set_param("2.bias", torch.zeros(4, dtype=torch.float64))
        edit.set_param("3.weight", torch.full((4,), 0.5, dtype=torch.float64))
    thin = shrunk(edit.graph, Shrink("2", kind="conv"), Contract.EXACT, x).graph
    assert ops(thin) == ["conv", "relu", "batch_norm", "relu"]
    with edit.graph.edit() as second:
        second.set_param("2.bias", torch.full((4,), 1e-3, dtype=torch.float64))
    thin = shrunk(second.graph, Shrink("2", kind="conv"), Contract.CHANGED, x).graph
    assert ops(thin) == ["conv", "relu"]


def test_scores() -> None:
    layers = [m for _ in range(4) for m in (nn.Linear(4, 4), nn.ReLU())]
    _, graph, x = graph_of(*layers, nn.Linear(4, 2), shape=(50, 4))
    eye = torch.eye(4, dtype=torch.float64)
    with graph.edit() as edit:
        for number, away in ((0, 3.0), (2, 2.0), (4, 0.1), (6, 1.0)):
            noise = torch.randn(4, 4, dtype=torch.float64)
            edit.set_param(f"{number}.weight", eye + away * noise / noise.norm())
        edit.set_param("2.bias", torch.full((4,), 99.0, dtype=torch.float64))
    graph = edit.graph
    assert Shrink().apply(graph).report.changed == ("linear_2",)
    data = Calibration([x[:20], x[20:]])
    result = Shrink(score="change").apply(graph, data)
    assert result.report.changed == ("linear_1",)  # never negative: its ReLU changes nothing
    assert torch.allclose(netir.run(result.graph, x), netir.run(graph, x), atol=1e-10)
    with pytest.raises(NetirError, match="the score 'change' needs data"):
        Shrink(score="change")(graph)
    chance = [Shrink(score="random", seed=s).apply(graph).report.changed for s in range(12)]
    assert len(set(chance)) == 4
    assert chance[3] == Shrink(score="random", seed=3).apply(graph).report.changed


def test_neighbours_go_one_at_a_time() -> None:
    layers = nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)
    _, graph, x = graph_of(*layers, shape=(3, 4))
    report = shrunk(graph, Shrink(count=0), Contract.CHANGED, x).report
    assert len(report.changed) == 1
    assert any("apply again" in why for _, why in report.skipped)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Linear(4, 5)], "that reads linear, but the caller"),
        ([nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)], "linear, but batch_norm"),
        ([nn.Linear(4, 5), nn.Softmax(1), nn.Linear(5, 2)], "linear, but softmax"),
    ],
)
def test_dense_layers_that_stay(layers: list[nn.Module], message: str) -> None:
    _, graph, _ = graph_of(*layers, shape=(3, 4))
    with pytest.raises(NetirError, match=message):
        Shrink("0")(graph)


def test_tied_weights_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.b(torch.relu(self.a(x))) + self.b(x)
            return found

    graph = netir.trace(Tied(), (torch.randn(2, 4),))
    with pytest.raises(NetirError, match=r"b\.weight is read by several nodes"):
        Shrink("a")(graph)


def test_weights_that_are_not_finite_stay() -> None:
    _, graph, _ = graph_of(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), shape=(3, 4))
    with graph.edit() as edit:
        edit.set_param("0.weight", torch.full((5, 4), float("nan"), dtype=torch.float64))
    with pytest.raises(NetirError, match="not finite"):
        Shrink("0")(edit.graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "dance"}, "no kind 'dance'"),
        ({"count": -1}, "remove -1 layers"),
        ({"score": "size"}, "no score 'size'"),
        ({"kind": "block", "score": "identity"}, "no score 'identity'"),
        ({"exact": True}, "exact means nothing to kind='dense'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetirError, match=message) as caught:
        Shrink(**options)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("before", "contract", "left"),
    [
        ([nn.ReLU6(), nn.MaxPool2d(2)], Contract.EXACT, 1),
        ([nn.ReLU6(), nn.Dropout()], Contract.EXACT, 2),
        ([nn.ReLU6(), nn.AvgPool2d(3, 2, 1)], Contract.EXACT, 2),
        ([nn.GELU()], Contract.EXACT, 2),
        ([], Contract.EXACT, 1),
    ],
)
def test_an_activation_goes_with_an_identity_only_where_it_does_nothing(
    before: list[nn.Module], contract: Contract, left: int
) -> None:
    act = nn.GELU() if before and isinstance(before[0], nn.GELU) else nn.ReLU6()
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight)
    layers = nn.Conv2d(3, 4, 1), *before, conv, act
    _, graph, x = graph_of(*layers, shape=(2, 3, 6, 6))
    thin = shrunk(graph, Shrink(f"{len(before) + 1}", kind="conv"), contract, x).graph
    assert ops(thin).count("conv") == 1
    assert sum(name in ("gelu", "hardtanh", "relu6") for name in ops(thin)) == left


def test_a_convolution_with_a_stride_is_no_identity() -> None:
    conv = nn.Conv2d(2, 2, 3, stride=2, padding=3, bias=False)
    nn.init.dirac_(conv.weight)
    _, graph, x = graph_of(conv, nn.ReLU(), shape=(2, 2, 4, 4))
    shrunk(graph, Shrink("0", kind="conv"), Contract.CHANGED, x)


def test_merged_weights_that_would_overflow_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).half()
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(1e3)
    graph = netir.trace(model, (torch.randn(2, 4).half(),))
    with pytest.raises(NetirError, match="would overflow"):
        Shrink("0")(graph)


# Cells.


def cell_net(
    side: int, pool: nn.Module, act: type[nn.Module] = nn.ReLU, tail: tuple[nn.Module, ...] = ()
) -> tuple[nn.Sequential, Graph, Tensor]:
    """A network with a cell whose convolution and norm are the identity."""
    half = (side + 1) // 2
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), act(), nn.Conv2d(3, 3, 3, padding=1), pool,
        nn.BatchNorm2d(3), act(), *tail, nn.Flatten(), nn.Linear(3 * half * half, 4), nn.ReLU(),
        nn.Linear(4, 2),
    )  # fmt: skip
    torch.manual_seed(1)
    nn.init.dirac_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    nn.init.constant_(model[4].weight, (1 + 1e-5) ** 0.5)
    model = model.double().eval()
    with torch.no_grad():
        model[4].weight.copy_((model[4].running_var + model[4].eps).sqrt())
    x = torch.randn(5, 2, side, side, dtype=torch.float64)
    return model, netir.trace(model, (x,)), x


def mean_pool() -> nn.Module:
    return nn.AvgPool2d(2, ceil_mode=True)


@pytest.mark.parametrize("side", [8, 7])
def test_a_mean_pool_before_flatten_goes_exactly(side: int) -> None:
    model, graph, x = cell_net(side, mean_pool())
    thin = shrunk(graph, Shrink("2", kind="cell", exact=True), Contract.EXACT_EVAL, x).graph
    assert ops(thin) == ["conv", "relu", "reshape", "linear", "relu", "linear"]
    half = (side + 1) // 2
    old, new = model[7].weight.view(4, 3, half, half), thin.params["7.weight"].data
    new = new.view(4, 3, side, side)
    for i in range(side):
        for j in range(side):
            size = (2 if i // 2 * 2 + 1 < side else 1) * (2 if j // 2 * 2 + 1 < side else 1)
            assert torch.allclose(new[..., i, j], old[..., i // 2, j // 2] / size, atol=1e-15)


def test_repeated_weights_are_four_times_as_much() -> None:
    model, graph, x = cell_net(8, mean_pool())
    thin = shrunk(graph, Shrink("2", kind="cell"), Contract.CHANGED, x).graph
    old, new = model[7].weight.view(4, 3, 4, 4), thin.params["7.weight"].data.view(4, 3, 8, 8)
    assert torch.equal(new, old.repeat_interleave(2, 2).repeat_interleave(2, 3))
    head, values = model[7], model[:7](x)
    with torch.no_grad():
        hidden = torch.relu(4 * (values @ head.weight.T) + head.bias)
    assert torch.allclose(netir.run(thin, x), model[9](hidden), atol=1e-11)


@pytest.mark.parametrize("how", ["avg", "max"])
def test_a_cell_comes_back_with_the_same_weights(how: str) -> None:
    """Taking a cell out repeats the dense weights; putting one in brings the old ones back."""
    _, graph, x = cell_net(7, mean_pool())
    thin = Shrink("2", kind="cell")(graph)
    back = Deepen("1", kind="cell", pool=how)(thin)
    want = graph.params["7.weight"].data
    assert torch.allclose(back.params["7.weight"].data, want, atol=1e-14)
    if how == "avg":
        assert torch.allclose(netir.run(back, x), netir.run(graph, x), atol=1e-11)


def test_an_exact_cell_needs_a_mean_pool_that_flatten_reads() -> None:
    for pool, act, tail in (
        (nn.MaxPool2d(2), nn.ReLU, ()),
        (nn.AvgPool2d(2), nn.GELU, ()),
        (nn.AvgPool2d(2), nn.ReLU, (nn.Conv2d(3, 3, 1),)),
    ):
        _, graph, x = cell_net(8, pool, act, tail)
        shrunk(graph, Shrink("2", kind="cell", exact=True), Contract.CHANGED, x)
    _, graph, x = cell_net(8, nn.AvgPool2d(3, 2, 1))
    shrunk(graph, Shrink("2", kind="cell", exact=True), Contract.CHANGED, x)
    _, graph, x = cell_net(8, mean_pool())
    with graph.edit() as edit:
        edit.set_param("4.bias", torch.ones(3, dtype=torch.float64))
    shrunk(edit.graph, Shrink("2", kind="cell", exact=True), Contract.CHANGED, x)


def test_the_moments_of_the_dense_layer_follow() -> None:
    _, graph, _ = cell_net(8, mean_pool())
    for exact, scale in ((False, 1.0), (True, 0.25)):
        move = Shrink("2", kind="cell", exact=exact).apply(graph).moves.params["7.weight"]
        old = torch.randn(4, 3 * 16, dtype=torch.float64)
        want = old.view(4, 3, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(1)
        assert torch.allclose(move.apply(old), scale * want, atol=1e-14)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Conv2d(2, 4, 3, padding=1), nn.MaxPool2d(2)], "it makes 4 channels from 2"),
        ([nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()], "no pool belongs to it"),
        ([nn.Conv2d(2, 2, 3, padding=1), nn.MaxPool2d(2)], "the network returns"),
        ([nn.Conv2d(2, 2, 3, padding=1), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(8, 2)],
         "not half of it"),
    ],
)  # fmt: skip
def test_cells_that_stay(layers: list[nn.Module], message: str) -> None:
    _, graph, _ = graph_of(*layers, shape=(2, 2, 8, 8))
    with pytest.raises(NetirError, match=message):
        Shrink("0", kind="cell")(graph)


# Blocks.


def test_a_block_is_bypassed() -> None:
    model, args = BUILTINS["attention"]()
    graph = netir.trace(model, args)
    x = torch.randn(2, 1, 8, 8)
    result = Shrink("layers.0", kind="block").apply(graph)
    assert result.report.contract is Contract.CHANGED
    assert not [name for name in result.graph.params if name.startswith("layers.0.")]
    model.layers[0] = nn.Identity()
    assert torch.allclose(netir.run(result.graph, x), model(x), atol=1e-6)
    both = Shrink("layers.?", kind="block", count=0)(graph)
    assert not [name for name in both.params if name.startswith("layers.")]
    netir.to_torch(both)(x)


def test_the_block_that_changes_least_goes_first() -> None:
    model, args = BUILTINS["attention"]()
    with torch.no_grad():
        for part in (model.layers[1].attention.out, model.layers[1].down):
            part.weight.mul_(1e-3)
            part.bias.zero_()
    graph = netir.trace(model, args)
    x = torch.randn(2, 1, 8, 8)
    result = Shrink("layers.?", kind="block").apply(graph, Calibration([x]))
    assert result.report.changed == ("layers.1",)
    with pytest.raises(NetirError, match="needs data"):
        Shrink("layers.?", kind="block")(graph)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("head", "reads 0 values of the type"),
        ("layers.0.up", "reads 0 values of the type"),
        ("layers.9", "names no module"),
    ],
)
def test_blocks_that_stay(where: str, message: str) -> None:
    model, args = BUILTINS["attention"]()
    with pytest.raises(NetirError, match=message):
        Shrink(where, kind="block")(netir.trace(model, args))


def test_nothing_of_the_graph_that_came_in_changes() -> None:
    _, graph, _ = cell_net(8, mean_pool())
    text, state = str(graph), {n: p.data.clone() for n, p in graph.params.items()}
    for kind in ("dense", "conv", "cell"):
        Shrink(kind=kind)(graph)
    assert str(graph) == text
    assert all(torch.equal(state[n], p.data) for n, p in graph.params.items())


SAMPLES = ["resnet", "mobilenet_v1", "vit", "bert", "llama", "factored_weight", "chain"]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("kind", ["dense", "conv", "block"])
@pytest.mark.filterwarnings("ignore::netir.NetirWarning")
def test_on_networks_of_the_zoo(name: str, kind: str) -> None:
    sample, graph = traced(name)
    graph = doubled(graph)
    args, kwargs = doubled_tensors(sample.args), doubled_tensors(sample.kwargs)
    result = Shrink(kind=kind, count=0, score="random").apply(graph)
    check(result.graph)
    verify(graph, result.graph, args, kwargs)
    netir.to_torch(result.graph)(*args, **kwargs)


def test_vgg() -> None:
    """Its later convolutions keep their width: cells, of which the last feeds the dense layers."""
    sample, graph = traced("vgg11_bn")
    result = Shrink(kind="cell").apply(graph)
    assert len(result.report.changed) == 1
    netir.to_torch(result.graph)(*sample.args)
    with pytest.raises(NetirError, match=r"it cannot be merged, .*; nor bypassed"):
        Shrink("features.0", kind="conv")(graph)
