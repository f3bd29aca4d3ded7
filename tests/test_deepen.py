"""Deepen: what it inserts changes nothing where it says so, trains, and has sensible names."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import netir
from netir.basis import Contract
from netir.builtin import BUILTINS
from netir.calibration import Calibration
from netir.errors import NetirError, NetirWarning
from netir.ir import Graph
from netir.ops import OPS
from netir.passes import Deepen, Prune, Widen
from netir.passes.layers.activations import IDEMPOTENT, INTERVAL, activates
from netir.passes.layers.pooling import Map, largest, moved
from netir.verify import check, verify
from tests.doubled import doubled, doubled_tensors
from tests.zoo.traced import traced

ACTIVATIONS = {
    "relu": nn.ReLU(), "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(-0.5, 0.7),
}  # fmt: skip
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def convolutional(rank: int, act: nn.Module, width: int = 5) -> tuple[nn.Module, Tensor]:
    """A convolution, an activation and a dense head, in float64, and an input."""
    torch.manual_seed(rank)
    model = nn.Sequential(
        CONVS[rank](3, width, 3, padding=1), act, nn.Flatten(), nn.Linear(width * 4**rank, 6),
        act, nn.Linear(6, 2),
    )  # fmt: skip
    return model.double().eval(), torch.randn(7, 3, *[4] * rank, dtype=torch.float64)


def output(graph: Graph, *args: Any) -> Tensor:
    found: Tensor = netir.run(graph, *args)
    return found


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_an_identity_layer_keeps_every_bit(rank: int, act: str) -> None:
    model, x = convolutional(rank, ACTIVATIONS[act])
    graph = netir.trace(model, (x,))
    result = Deepen().apply(graph)
    assert result.report.contract is Contract.EXACT
    assert len(result.report.changed) == 2
    assert torch.equal(output(result.graph, x), model(x))
    added = [n for n in result.graph.nodes.values() if n.name not in graph.nodes]
    bends = [n.op for n in graph.nodes.values() if activates(n)]
    assert [n.op.name for n in added] == ["conv", bends[0].name, "linear", bends[1].name]
    assert [n.op for n in added if activates(n)] == bends
    kernel = result.graph.params["1_deep.layer.weight"].data
    assert kernel.shape == (5, 5, *[3] * rank)
    assert kernel.sum() == 5
    assert torch.equal(kernel[(..., *[1] * rank)], torch.eye(5, dtype=torch.float64))
    assert torch.equal(result.graph.params["4_deep.layer.weight"].data, torch.eye(6).double())


@pytest.mark.parametrize("name", [n for n in OPS if n in IDEMPOTENT or n in ("gelu", "leaky_relu")])
def test_the_table_of_activations_that_do_nothing_twice(name: str) -> None:
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    form: Any = OPS[name]
    options = {"clamp": {"min": -2}, "threshold": {"threshold": 1, "value": -3}}
    op = form(**options.get(name, {}))
    once = op.to_torch(x)
    assert torch.equal(op.to_torch(once), once) is (name in IDEMPOTENT)
    means = (once[:, None] + once[None, ::40]) / 2
    assert torch.equal(op.to_torch(means), means) is (name in INTERVAL)


@pytest.mark.parametrize("act", [nn.LeakyReLU(), nn.GELU(), nn.SiLU(), nn.PReLU(), nn.Sigmoid()])
def test_other_activations_are_left_and_the_reason_says_what_works(act: nn.Module) -> None:
    model, x = convolutional(2, act)
    graph = netir.trace(model, (x,))
    with pytest.warns(NetirWarning, match="only kind='residual' is exact here"):
        assert Deepen()(graph).nodes == graph.nodes
    with pytest.raises(NetirError, match="applied twice is not itself"):
        Deepen("1")(graph)
    assert verify(graph, Deepen("1", kind="residual")(graph), x).contract is Contract.EXACT


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_norm_is_the_identity_in_eval_mode(rank: int) -> None:
    model, x = convolutional(rank, nn.ReLU())
    graph = netir.trace(model, (x,))
    deep = Deepen(norm=True)(graph)
    assert verify(graph, deep, x).contract is Contract.EXACT_EVAL
    params = deep.params
    assert float(params["1_deep.norm.weight"].data[0]) == math.sqrt(1 + 1e-5)
    assert not params["1_deep.norm.bias"].data.any()
    assert torch.allclose(output(deep, x), model(x), atol=1e-12, rtol=0)


def test_a_calibrated_norm_is_the_identity_in_train_mode_too() -> None:
    model, x = convolutional(2, nn.ReLU())
    graph = netir.trace(model, (x,))
    deep = Deepen(norm=True)(graph, Calibration([x]))
    values = torch.relu(model[0](x)).detach()
    params = {n.removeprefix("1_deep.norm."): p.data for n, p in deep.params.items()}
    mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)
    assert torch.allclose(params["running_mean"], mean, atol=1e-14)
    assert torch.allclose(params["running_var"], variance, atol=1e-14)
    assert torch.allclose(params["weight"], (variance + 1e-5).sqrt(), atol=1e-14)
    assert torch.equal(params["bias"], params["running_mean"])
    assert params["bias"].data_ptr() != params["running_mean"].data_ptr()
    module = netir.to_torch(deep)
    for mode in (module.eval(), module.train()):
        assert torch.allclose(mode(x), model(x), atol=1e-11, rtol=0)
    plain = netir.to_torch(Deepen(norm=True)(graph)).train()
    assert not torch.allclose(plain(x), model(x), atol=1e-3)


def test_data_that_is_not_finite_gives_no_statistics() -> None:
    model, x = convolutional(2, nn.ReLU())
    graph = netir.trace(model, (x,))
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(NetirError, match="on the calibration data are not finite"):
        Deepen("1", norm=True)(graph, Calibration([x]))


def test_statistics_are_those_of_all_batches() -> None:
    model, x = convolutional(1, nn.ReLU())
    graph = netir.trace(model, (x,))
    whole = Deepen(norm=True)(graph, Calibration([x]))
    parts = Deepen(norm=True)(graph, Calibration([x[:2], x[2:]]))
    for name, param in whole.params.items():
        assert torch.allclose(param.data, parts.params[name].data, atol=1e-13), name


@pytest.mark.parametrize("act", [nn.GELU(), nn.SiLU(), nn.LeakyReLU(0.3), nn.Tanh(), nn.PReLU()])
@pytest.mark.parametrize("norm", [False, True])
def test_a_branch_of_zeros_is_exact_behind_any_activation(act: nn.Module, norm: bool) -> None:
    model, x = convolutional(2, act)
    graph = netir.trace(model, (x,))
    rewrite = Deepen(kind="residual", norm=norm, ratio=1.5, seed=3)
    deep = rewrite(graph)
    assert torch.equal(output(deep, x), model(x))
    first, second = (deep.params[f"1_branch.{n}.weight"].data for n in ("first", "second"))
    assert first.shape == (8, 5, 3, 3)
    assert second.shape == (5, 8, 3, 3)
    assert not second.any()
    assert 0.6 < float(first.std()) / math.sqrt(2 / (5 * 9)) < 1.4
    assert torch.equal(rewrite(graph).params["1_branch.first.weight"].data, first)
    other = Deepen(kind="residual", norm=norm, ratio=1.5, seed=4)(graph)
    assert not torch.equal(other.params["1_branch.first.weight"].data, first)
    # the branch is x + W2 φ(W1 x): with another W2 the difference is that
    value = nn.Sequential(*list(model)[:2])(x)
    weight = torch.randn_like(second)
    with deep.edit() as edit:
        edit.set_param("1_branch.second.weight", weight)
    have = _value(edit.graph, next(n for n in deep.nodes if n.endswith("_sum")), x)
    bend = nn.ReLU() if isinstance(act, nn.PReLU) else act
    want = value + torch.conv2d(bend(torch.conv2d(value, first, padding=1)), weight, padding=1)
    assert torch.allclose(have, want, atol=1e-12)


def _value(graph: Graph, name: str, *args: Any) -> Tensor:
    from netir.evaluate import input_values, values_of

    return values_of(graph, input_values(graph, args, {}), keep=lambda n: n == name)[name]


class Axes(nn.Module):
    """Two values of one shape: tokens of width 6, and 6 channels on 8 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.channels = nn.Linear(4, 6), nn.Conv1d(4, 8, 1)
        self.image = nn.Linear(4, 6)

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        tokens, channels = torch.relu(self.tokens(x)), torch.relu(self.channels(y))
        return tokens, channels, torch.relu(self.image(z))


def test_the_channel_axis_is_where_a_layer_made_channels() -> None:
    model = Axes().double()
    shapes = ((2, 8, 4), (2, 4, 6), (2, 3, 3, 4))
    args = tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)
    graph = netir.trace(model, args)
    assert [graph.types[name].shape[1:] for name in ("relu", "relu_1")] == [(8, 6)] * 2
    deep = Deepen()(graph)
    shapes = [tuple(p.data.shape) for n, p in deep.params.items() if n.endswith("layer.weight")]
    assert shapes == [(6, 6), (8, 8, 3), (6, 6)]
    verify(graph, deep, args)


def test_a_transposed_value_keeps_its_channels() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Linear(4, 6), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.out(torch.relu(self.embed(x).transpose(1, 2)))
            return found

    x = torch.randn(2, 5, 4)
    deep = Deepen()(netir.trace(Turned(), (x,)))
    assert deep.params["deep.layer.weight"].data.shape == (6, 6, 3)


def test_groups_kernels_and_biases() -> None:
    model, x = convolutional(2, nn.ReLU(), width=6)
    graph = netir.trace(model, (x,))
    for groups, read in ((1, 6), (3, 2), (0, 1)):
        deep = Deepen("1", groups=groups, kernel=5, bias=False)(graph)
        assert deep.params["1_deep.layer.weight"].data.shape == (6, read, 5, 5)
        assert "1_deep.layer.bias" not in deep.params
        assert deep.node("relu_layer").op.groups == (groups or 6)
        assert torch.equal(output(deep, x), model(x))
        wide = Deepen("1", kind="residual", groups=groups, ratio=2)(graph)
        assert wide.params["1_branch.second.weight"].data.shape == (6, 2 * read, 3, 3)
        assert torch.equal(output(wide, x), model(x))
    with pytest.raises(NetirError, match="4 groups do not divide 6 channels"):
        Deepen("1", groups=4)(graph)
    with pytest.raises(NetirError, match="a dense layer has no groups"):
        Deepen("4", groups=2)(graph)


def test_where_count_and_every() -> None:
    layers = [m for _ in range(6) for m in (nn.Linear(4, 4), nn.ReLU())]
    x = torch.randn(3, 4)
    graph = netir.trace(nn.Sequential(*layers), (x,))
    names = [s.name for s in Deepen().match(graph)]
    assert names == ["relu", *(f"relu_{i}" for i in range(1, 6))]
    assert [s.name for s in Deepen(every=2).match(graph)] == names[::2]
    assert [s.name for s in Deepen(every=2, count=2).match(graph)] == names[:4:2]
    assert [s.name for s in Deepen("3 relu_4").match(graph)] == ["relu_1", "relu_4"]
    before = str(graph)
    with pytest.raises(NetirError, match="linear is no activation"):
        Deepen("0")(graph)
    assert str(graph) == before


def test_a_branch_goes_anywhere_that_is_named() -> None:
    model, args = BUILTINS["attention"]()
    graph = netir.trace(model, args)
    x = torch.randn(2, 1, 8, 8)
    for where, width in (("layers.0.norm1", 32), ("layers.1.down", 32), ("layers.0.up", 64)):
        deep = Deepen(where, kind="residual", ratio=0.5)(graph)
        weights = [p.data.shape for n, p in deep.params.items() if n.endswith("first.weight")]
        assert weights == [(width // 2, width)]
        assert torch.equal(output(deep, x), output(graph, x))
    with pytest.raises(NetirError, match="a batch norm reads channels on axis 1 only"):
        Deepen("layers.0.up", kind="residual", norm=True)(graph)


def test_places_whose_channels_are_not_known_are_left() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) + torch.relu(self.dense(x)).sum(-1, keepdim=True)

    report = Deepen().apply(netir.trace(Strange(), (torch.randn(3, 4),))).report
    assert report.changed == ("relu_1",)
    assert dict(report.skipped)["relu"].startswith("no layer made one axis of it")


def test_what_is_inserted_are_modules_that_train() -> None:
    model, x = convolutional(2, nn.ReLU())
    graph = netir.trace(model, (x,))
    once = Deepen(norm=True)(graph)
    twice = Deepen(kind="residual")(Deepen(norm=True)(once))
    module = netir.to_torch(twice)
    kinds = {path: type(m) for path, m in module.named_modules()}
    for path in ("1_deep", "1_deep_2", "1_deep_3"):
        assert kinds[f"{path}.layer"] is nn.Conv2d
        assert kinds[f"{path}.norm"] is nn.BatchNorm2d
    assert kinds["4_deep.layer"] is nn.Linear
    assert kinds["4_deep.norm"] is nn.BatchNorm1d
    assert kinds["1_branch.first"] is nn.Conv2d
    assert len(list(module.named_parameters())) == len(set(module.state_dict())) - 3 * sum(
        issubclass(k, nn.modules.batchnorm._BatchNorm) for k in kinds.values()
    )
    module.train()(x).square().mean().backward()
    zero = [n for n, p in module.named_parameters() if p.grad is None]
    assert zero == []
    for path in ("1_deep.layer", "4_deep_2.layer", "1_branch.second"):
        assert float(module.get_parameter(f"{path}.weight").grad.norm()) > 0  # type: ignore[union-attr]
    torch.optim.SGD(module.parameters(), 0.1).step()
    assert module.get_parameter("1_branch.second.weight").any()


def test_paths_beside_leaves_and_inside_blocks() -> None:
    model, args = BUILTINS["residual"]()
    deep = Deepen()(netir.trace(model, args))
    paths = [n.removesuffix(".layer.weight") for n in deep.params if n.endswith("layer.weight")]
    assert paths == ["deep", "layer1.deep", "layer1.deep_2", "layer2.deep", "layer2.deep_2"]
    x = torch.randn(2, 1, 8, 8)
    lowered = netir.to_torch(deep)
    assert isinstance(lowered.get_submodule("layer1.deep_2.layer"), nn.Conv2d)
    assert torch.allclose(lowered(x), model(x), atol=1e-6)


@pytest.mark.parametrize("kind", ["layer", "residual"])
def test_new_layers_are_spaces_that_widen_and_prune_know(kind: str) -> None:
    model, args = BUILTINS["residual"]()
    graph, x = doubled(netir.trace(model, args)), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    deep = Deepen(kind=kind, norm=True)(graph)
    part = "layer" if kind == "layer" else "first"
    path = "layer1.deep" if kind == "layer" else "layer1.branch"
    free = {s.name for s in deep.spaces() if not s.frozen}
    assert f"{path}.{part}" in free
    assert {s.name for s in graph.spaces() if not s.frozen} <= free
    wide = Widen(factor=1.5)(deep)
    assert wide.params[f"{path}.{part}.weight"].data.shape[0] == 24
    verify(graph, wide, x, bound=1e-10)
    thin = Prune(amount=0.3)(wide)
    assert thin.params[f"{path}.{part}.weight"].data.shape[0] == 17
    verify(wide, thin, x)
    verify(thin, Deepen(kind=kind)(thin), x, bound=1e-10)


def test_nothing_of_the_graph_that_came_in_changes() -> None:
    model, x = convolutional(2, nn.ReLU())
    graph = netir.trace(model, (x,))
    text, state = str(graph), {n: p.data.clone() for n, p in graph.params.items()}
    for kind in ("layer", "residual", "cell"):
        Deepen("1", kind=kind, norm=True)(graph)
    assert str(graph) == text
    assert all(torch.equal(state[n], p.data) for n, p in graph.params.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "layr"}, "no kind 'layr'"),
        ({"kernel": 4}, "a kernel of 4 has no centre"),
        ({"kernel": -1}, "a kernel of -1 has no centre"),
        ({"ratio": 0.0, "kind": "residual"}, "ratio 0.0"),
        ({"ratio": float("nan"), "kind": "residual"}, "ratio nan"),
        ({"every": 0}, "every=0"),
        ({"count": -1}, "count=-1"),
        ({"groups": -2}, "groups=-2"),
        ({"pool": "sum", "kind": "cell"}, "no pool 'sum'"),
        ({"ratio": 2.0}, "ratio means nothing to kind='layer'"),
        ({"exact": True}, "exact means nothing to kind='layer'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetirError, match=message) as caught:
        Deepen(**options)
    assert caught.value.fix


def test_half_precision_stays_what_it_is() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).to(dtype)
        x = torch.randn(3, 4, dtype=dtype)
        graph = netir.trace(model, (x,))
        deep = Deepen(norm=True)(graph)
        assert {p.data.dtype for p in deep.params.values()} == {dtype, torch.int64}
        verify(graph, deep, x)


SAMPLES = ["resnet", "mobilenet_v1", "vit", "bert", "llama", "one_channel", "half", "called_twice"]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("kind", ["layer", "residual"])
def test_on_networks_as_they_are_stored(name: str, kind: str) -> None:
    sample, graph = traced(name)
    found = [n for n in graph.nodes.values() if activates(n)]
    rewrite = Deepen(kind=kind)
    if kind == "layer" and not any(n.op.name in IDEMPOTENT for n in found):
        with pytest.warns(NetirWarning, match="only kind='residual'"):
            rewrite(graph)
        return
    deep = rewrite(graph)
    check(deep)
    assert verify(graph, deep, sample.args, sample.kwargs).error <= 1e-12
    module = netir.to_torch(deep)
    module(*sample.args, **sample.kwargs)
    again = rewrite(deep)
    verify(graph, again, sample.args, sample.kwargs)
    assert len(again.params) > len(deep.params)


def test_vgg() -> None:
    sample, graph = traced("vgg11_bn")
    graph, args = doubled(graph), doubled_tensors(sample.args)
    verify(graph, Deepen(norm=True, every=3)(graph), args)
    with pytest.warns(NetirWarning, match=r"max_pool2d_4 \(max_pool\) cannot follow"):
        Deepen(kind="cell")(graph)  # five pools leave one position of 32


# The cell of ECToNAS.


def small(pool: nn.Module | None = None, side: int = 8) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    body = [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), *([pool] if pool else [])]
    rest = side // 2 if pool else side
    head = [nn.Flatten(), nn.Linear(3 * rest**2, 5), nn.ReLU(), nn.Linear(5, 2)]
    model = nn.Sequential(*body, *head)
    return model.double().eval(), torch.randn(4, 2, side, side, dtype=torch.float64)


def blockwise(weight: Tensor, channels: int, side: int, how: str) -> Tensor:
    """Each 2 x 2 block of the columns of a dense layer made one, one entry after the other."""
    rows = weight.view(len(weight), channels, side, side)
    half = (side + 1) // 2
    found = torch.zeros(len(weight), channels, half, half, dtype=weight.dtype)
    for o in range(len(weight)):
        for c in range(channels):
            for i in range(half):
                for j in range(half):
                    entries = rows[o, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten().tolist()
                    found[o, c, i, j] = {
                        "avg": sum(entries) / len(entries), "max": max(entries, key=abs),
                        "sum": sum(entries),
                    }[how]  # fmt: skip
    return found.flatten(1)


@pytest.mark.parametrize("side", [8, 7])
@pytest.mark.parametrize(("pool", "exact"), [("avg", False), ("max", False), ("avg", True)])
def test_a_cell_and_the_dense_layer_behind_it(side: int, pool: str, exact: bool) -> None:
    model, x = small(side=side)
    graph = netir.trace(model, (x,))
    result = Deepen("1", kind="cell", pool=pool, exact=exact).apply(graph)
    deep = result.graph
    assert result.report.contract is Contract.CHANGED
    names = [n.op.name for n in deep.nodes.values()]
    assert names == [
        "conv", "relu", "conv", f"{pool}_pool", "batch_norm", "relu", "reshape", "linear", "relu",
        "linear",
    ]  # fmt: skip
    have = deep.params["3.weight"].data
    want = blockwise(model[3].weight.detach(), 3, side, "sum" if exact else pool)
    assert torch.allclose(have, want, atol=1e-15)
    function = nn.functional.avg_pool2d if pool == "avg" else nn.functional.max_pool2d
    small_map = function(torch.relu(model[0](x)), 2, ceil_mode=True)
    hidden = torch.relu(small_map.flatten(1) @ want.T + model[3].bias)
    assert torch.allclose(output(deep, x), model[5](hidden), atol=1e-12)
    module = netir.to_torch(deep)
    assert isinstance(module.get_submodule("1_cell.conv"), nn.Conv2d)
    assert isinstance(module.get_submodule("1_cell.norm"), nn.BatchNorm2d)


@pytest.mark.parametrize("how", ["mean", "max", "sum"])
def test_the_moments_of_the_dense_layer_follow(how: str) -> None:
    model, x = small(side=7)
    graph = netir.trace(model, (x,))
    pool = "max" if how == "max" else "avg"
    result = Deepen("1", kind="cell", pool=pool, exact=how == "sum").apply(graph)
    old = torch.randn_like(graph.params["3.weight"].data)
    want = blockwise(old, 3, 7, "sum" if how == "sum" else "avg")
    assert torch.allclose(result.moves.params["3.weight"].apply(old), want, atol=1e-14)


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("sizes", [(8, 8), (7, 5), (6,), (4, 3, 5)])
def test_what_is_repeated_and_then_aggregated_is_the_same(how: str, sizes: tuple[int, ...]) -> None:
    half = tuple((s + 1) // 2 for s in sizes)
    weight = torch.randn(4, 3 * math.prod(half), dtype=torch.float64)
    grown = moved(Map(3, half, sizes), "repeat").apply(weight)
    assert grown.shape == (4, 3 * math.prod(sizes))
    back = Map(3, sizes, half)
    again = largest(grown, back) if how == "max" else moved(back, how).apply(grown)
    assert torch.allclose(again, weight, atol=1e-15)


def test_a_cell_with_sums_is_exact_on_maps_that_are_constant_in_blocks() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.head = nn.Conv2d(2, 3, 1), nn.Linear(3 * 64, 5)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(torch.relu(self.lift(x)).flatten(1))
            return found

    model = Mapped().double()
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64).repeat_interleave(2, 2).repeat_interleave(2, 3)
    graph = netir.trace(model, (x,))
    for pool in ("avg", "max"):
        exact = Deepen("relu", kind="cell", pool=pool, exact=True)(graph)
        assert torch.allclose(output(exact, x), model(x), atol=1e-12)
        mean = Deepen("relu", kind="cell", pool="avg")(graph)
        quarter = (model(x) - model.head.bias) / 4 + model.head.bias
        assert torch.allclose(output(mean, x), quarter, atol=1e-12)


def test_a_pool_by_chance_follows_the_seed() -> None:
    model, x = small()
    graph = netir.trace(model, (x,))

    def pool(seed: int) -> str:
        deep = Deepen("1", kind="cell", pool="random", seed=seed)(graph)
        return deep.node("relu_pool").op.name

    assert {pool(seed) for seed in range(12)} == {"avg_pool", "max_pool"}
    assert pool(5) == pool(5)


def test_a_cell_far_from_flatten_halves_all_that_follows() -> None:
    model, x = small(nn.MaxPool2d(2))
    graph = netir.trace(model, (x,))
    deep = Deepen("1", kind="cell")(graph)
    assert deep.types["max_pool2d"].shape[2:] == (2, 2)
    want = blockwise(model[4].weight.detach(), 3, 4, "avg")
    assert torch.allclose(deep.params["4.weight"].data, want, atol=1e-15)


def test_a_calibrated_cell_starts_with_the_statistics_of_its_maps() -> None:
    model, x = small()
    graph = netir.trace(model, (x,))
    deep = Deepen("1", kind="cell")(graph, Calibration([x]))
    maps = nn.functional.avg_pool2d(torch.relu(model[0](x)), 2)
    mean = deep.params["1_cell.norm.running_mean"].data
    assert torch.allclose(mean, maps.mean((0, 2, 3)), atol=1e-14)


def test_a_global_pool_needs_no_adaptation() -> None:
    model, args = BUILTINS["residual"]()
    graph = netir.trace(model, args)
    deep = Deepen("layer1", kind="cell", count=1)(graph)
    assert torch.equal(deep.params["head.weight"].data, graph.params["head.weight"].data)
    netir.to_torch(deep)(torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("tail", "side", "message"),
    [
        ([nn.Flatten(), nn.Linear(3, 2)], 1, "a side of its map is 1"),
        ([nn.MaxPool2d(8), nn.Flatten(), nn.Linear(3, 2)], 8, "no position would be left"),
        ([nn.Conv2d(3, 3, 5), nn.Flatten(), nn.Linear(48, 2)], 8, "no position would be left"),
        ([nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(108, 2)], 8, "not half of it"),
        ([nn.Upsample(scale_factor=2), nn.Flatten()], 4, "no convolution, pool, norm"),
        ([nn.Conv2d(3, 3, 3, padding=1)], 8, "the network returns"),
        ([nn.Flatten()], 8, "the network returns"),
        ([nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 2)], 8, "is no dense layer"),
    ],
)
def test_where_a_cell_cannot_go(tail: list[nn.Module], side: int, message: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), *tail).eval()
    graph = netir.trace(model, (torch.randn(2, 2, side, side),))
    with pytest.raises(NetirError, match=message):
        Deepen("1", kind="cell")(graph)


def test_a_tied_dense_layer_does_not_follow() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.dense = nn.Conv2d(2, 3, 1), nn.Linear(48, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            found: Tensor = self.dense(torch.relu(self.conv(x)).flatten(1)) + self.dense(y)
            return found

    graph = netir.trace(Tied(), (torch.randn(2, 2, 4, 4), torch.randn(2, 48)))
    with pytest.raises(NetirError, match=r"@dense.weight is read elsewhere too"):
        Deepen("relu", kind="cell")(graph)


def test_of_cells_that_meet_the_first_goes_in() -> None:
    body = [nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU()]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(192, 2))
    graph = netir.trace(model, (torch.randn(2, 2, 8, 8),))
    report = Deepen(kind="cell").apply(graph).report
    assert report.changed == ("relu",)
    assert "apply again" in dict(report.skipped)["relu_1"]


def test_a_squeezed_gate_does_not_mind_another_size() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1)
            self.head = nn.Linear(48, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.conv(x))
            y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
            found: Tensor = self.head(y.flatten(1))
            return found

    graph = netir.trace(Gated(), (torch.randn(2, 2, 4, 4),))
    deep = Deepen("relu", kind="cell")(graph)
    assert deep.params["head.weight"].data.shape == (2, 12)
