"""Factorize and Merge: low-rank pairs with certified errors, and back to one layer."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from netir.basis import Contract
from netir.errors import NetirError, NetirWarning
from netir.ir import Graph
from netir.ops.conv import Conv
from netir.passes import Factorize, Merge
from netir.passes.layers.lowrank import Amount, gain, reach, spectral_norm
from netir.passes.merge import Layer, layer_of, merged
from netir.rewrite import Result
from netir.verify import verify
from tests.doubled import doubled, doubled_tensors
from tests.zoo.traced import NAMES, traced


def graph_of(model: nn.Module, *shape: int) -> tuple[Graph, Tensor]:
    """A float64 network and an input of the given shape."""
    x = torch.randn(*shape, dtype=torch.float64)
    return netir.trace(model.double().eval(), (x,)), x


def quietly(rewrite: netir.rewrite.Pass, graph: Graph) -> Result:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        return rewrite.apply(graph)


def why(result: Result) -> str:
    """The reason why the only site was left."""
    ((_, reason),) = result.report.skipped
    return reason


def conv_graph(seed: int, **options: Any) -> tuple[Graph, Tensor]:
    torch.manual_seed(seed)
    size = options.pop("size", 9)
    conv = nn.Conv2d(**{"in_channels": 6, "out_channels": 10, "kernel_size": 3, **options})
    return graph_of(nn.Sequential(conv), 2, conv.in_channels, size, size)


def difference(before: Graph, after: Graph, x: Tensor) -> Tensor:
    return netir.run(after, x) - netir.run(before, x)


def worst_input(before: Graph, after: Graph, x: Tensor, steps: int = 60) -> Tensor:
    """An input that the linear map after - before magnifies most: the power method."""
    zero = torch.zeros_like(x)
    constant = difference(before, after, zero)
    for _ in range(steps):
        x = (x / x.norm()).requires_grad_()
        off = difference(before, after, x) - constant
        (x,) = torch.autograd.grad(off.square().sum(), x)
    return x.detach()


# --- what a pair is


def test_a_pair_is_the_best_of_its_rank() -> None:
    """Eckart and Young: the product is the truncated SVD, its error the squares that are cut."""
    torch.manual_seed(0)
    graph, x = graph_of(nn.Sequential(nn.Linear(12, 20)), 3, 12)
    done = Factorize(rank=4)(graph)
    weight = graph.params["0.weight"].data
    product = done.params["0.expand.weight"].data @ done.params["0.reduce.weight"].data
    u, s, v = np.linalg.svd(weight.numpy())
    best = torch.from_numpy((u[:, :4] * s[:4]) @ v[:4])
    assert torch.allclose(product, best, atol=1e-12)
    assert (weight - product).square().sum() == pytest.approx((s[4:] ** 2).sum(), rel=1e-10)
    want = x @ best.T + graph.params["0.bias"].data
    assert torch.allclose(netir.run(done, x), want, atol=1e-12)


def test_the_second_factor_keeps_the_name_of_the_node() -> None:
    graph, _ = conv_graph(0)
    done = Factorize(rank=2)(graph)
    (name,) = graph.nodes
    assert list(done.nodes) == [f"{name}.reduce", name]
    assert done.node(name).types == graph.node(name).types
    assert list(done.params) == ["0.reduce.weight", "0.expand.weight", "0.expand.bias"]
    assert torch.equal(done.params["0.expand.bias"].data, graph.params["0.bias"].data)
    assert list(graph.params) == ["0.weight", "0.bias"], "the old graph is as it was"


class Product(nn.Module):
    """A layer that stores its weight with a row for each input, as GPT-2 does."""

    def __init__(self, **scales: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(12, 20)), nn.Parameter(torch.randn(20))
        self.scales = scales

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight, **self.scales)


def test_a_bias_and_a_product_become_two_linear_layers() -> None:
    torch.manual_seed(0)
    graph, x = graph_of(nn.Sequential(Product(alpha=2)), 3, 12)
    done = Factorize(rank=4)(graph)
    assert [node.op.name for node in done.nodes.values()] == ["linear", "linear"]
    u, s, v = np.linalg.svd(2 * graph.params["0.weight"].data.numpy())
    best = torch.from_numpy((u[:, :4] * s[:4]) @ v[:4])
    assert torch.allclose(netir.run(done, x), x @ best + graph.params["0.bias"].data, atol=1e-12)
    verify(graph, done, x)
    assert isinstance(netir.to_torch(done).get_submodule("0.expand"), nn.Linear)


def test_a_product_with_a_scaled_bias_is_left() -> None:
    graph, _ = graph_of(nn.Sequential(Product(beta=0.5)), 3, 12)
    with pytest.warns(NetirWarning, match="not a bias and the product"):
        assert Factorize(rank=4)(graph).nodes == graph.nodes


def test_factors_share_the_singular_values_equally() -> None:
    graph, _ = graph_of(nn.Sequential(nn.Linear(12, 20)), 3, 12)
    done = Factorize(rank=4)(graph)
    low, high = done.params["0.reduce.weight"].data, done.params["0.expand.weight"].data
    assert torch.allclose(low @ low.T, high.T @ high, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "kernels"),
    [
        ("channel", [(3, 5), (1, 1)]),
        ("spatial", [(3, 1), (1, 5)]),
        ("tucker", [(1, 1), (3, 5), (1, 1)]),
    ],
)
def test_the_kinds_of_convolution(kind: str, kernels: list[tuple[int, int]]) -> None:
    graph, x = conv_graph(1, kernel_size=(3, 5), stride=(2, 1), padding=(1, 2))
    result = Factorize(ratio=0.4, kind=kind).apply(graph)
    weights = [p.data for n, p in result.graph.params.items() if n.endswith("weight")]
    assert [tuple(w.shape[2:]) for w in weights] == kernels
    assert result.report.parameters[1] < result.report.parameters[0]
    assert verify(graph, result.graph, x).contract is Contract.BOUNDED


def test_groups_have_factors_of_their_own() -> None:
    graph, x = conv_graph(2, in_channels=8, out_channels=12, groups=2)
    done = Factorize(rank=2)(graph)
    old = graph.params["0.weight"].data
    low, high = done.params["0.reduce.weight"].data, done.params["0.expand.weight"].data
    assert low.shape == (4, 4, 3, 3)
    assert high.shape == (12, 2, 1, 1)
    for g in range(2):
        u, s, v = torch.linalg.svd(old[6 * g : 6 * g + 6].flatten(1), full_matrices=False)
        best = (u[:, :2] * s[:2]) @ v[:2]
        product = high[6 * g : 6 * g + 6, :, 0, 0] @ low[2 * g : 2 * g + 2].flatten(1)
        assert torch.allclose(product, best, atol=1e-12)
    verify(graph, done, x)


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_one_and_three_dimensions(rank: int) -> None:
    torch.manual_seed(3)
    make = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    graph, x = graph_of(nn.Sequential(make(6, 9, 3, stride=2, padding=1)), 2, 6, *[7] * rank)
    for kind in ("channel", "tucker"):
        result = Factorize(rank=3, kind=kind).apply(graph)
        verify(graph, result.graph, x)
        back = Merge(always=True)(result.graph)
        verify(result.graph, back, x)
    assert "only a convolution of two dimensions" in why(quietly(Factorize(kind="spatial"), graph))


def test_hooi_is_at_least_as_good_as_hosvd() -> None:
    graph, _ = conv_graph(4, in_channels=8, out_channels=12)
    done = Factorize(ratio=0.5, kind="tucker")(graph)
    weight = graph.params["0.weight"].data
    parts = [done.params[f"0.{leaf}.weight"].data for leaf in ("reduce", "core", "expand")]
    into, core, out = parts[0][:, :, 0, 0], parts[1], parts[2][:, :, 0, 0]
    found = torch.einsum("or,rskl,si->oikl", out, core, into)
    basis = [np.linalg.svd(weight.movedim(a, 0).flatten(1).numpy())[0] for a in (0, 1)]
    u, v = torch.from_numpy(basis[0][:, :6]), torch.from_numpy(basis[1][:, :4])
    hosvd = torch.einsum("op,ij,pjkl->oikl", u @ u.T, v @ v.T, weight)
    assert (weight - found).norm() <= (weight - hosvd).norm() + 1e-12


# --- how much is kept


@pytest.mark.parametrize("energy", [0.3, 0.6, 0.9, 0.99])
def test_energy_against_a_plain_computation(energy: float) -> None:
    torch.manual_seed(5)
    graph, _ = graph_of(nn.Sequential(nn.Linear(30, 60)), 3, 30)
    done = Factorize(energy=energy, only_if_smaller=False)(graph)
    squares = np.linalg.svd(graph.params["0.weight"].data.numpy(), compute_uv=False) ** 2
    rank = next(r for r in range(1, 31) if squares[:r].sum() >= energy * squares.sum())
    assert done.params["0.reduce.weight"].data.shape[0] == rank


@pytest.mark.parametrize("error", [0.8, 0.4, 0.1])
def test_error_against_a_plain_computation(error: float) -> None:
    torch.manual_seed(6)
    graph, _ = graph_of(nn.Sequential(nn.Linear(30, 60)), 3, 30)
    done = Factorize(error=error, only_if_smaller=False)(graph)
    values = np.linalg.svd(graph.params["0.weight"].data.numpy(), compute_uv=False)
    rank = next(r for r in range(1, 31) if r == 30 or values[r] <= error * values[0])
    assert done.params["0.reduce.weight"].data.shape[0] == rank


@pytest.mark.parametrize("kind", ["channel", "spatial", "tucker"])
@pytest.mark.parametrize("energy", [0.5, 0.9])
def test_every_kind_keeps_the_energy(kind: str, energy: float) -> None:
    graph, _ = conv_graph(7, in_channels=8, out_channels=12)
    done = Factorize(energy=energy, kind=kind, only_if_smaller=False)(graph)
    weight, left = graph.params["0.weight"].data, product_of(done)
    assert (weight - left).square().sum() <= (1 - energy) * weight.square().sum() + 1e-12


@pytest.mark.parametrize("kind", ["channel", "spatial", "tucker", "auto"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_kind_is_within_the_error(kind: str, dtype: torch.dtype) -> None:
    """In what is stored, and with one rank less it would not be."""
    torch.manual_seed(8)
    conv = nn.Conv2d(8, 12, 3).to(dtype)
    graph = netir.trace(conv, (torch.randn(1, 8, 6, 6, dtype=dtype),))
    done = Factorize(error=0.3, kind=kind, only_if_smaller=False)(graph)
    weight = graph.params["weight"].data.double().flatten(1)
    off = np.linalg.norm((weight - product_of(done).flatten(1)).numpy(), 2)
    assert off <= 0.3 * np.linalg.norm(weight.numpy(), 2)
    assert all(p.data.dtype is dtype for p in done.params.values())
    if kind == "channel":
        values = np.linalg.svd(weight.numpy(), compute_uv=False)
        rank = done.params["weight.reduce.weight"].data.shape[0]
        assert values[rank - 1] > 0.3 * values[0]


def product_of(graph: Graph) -> Tensor:
    """The weight that the factors of the only layer stand for, in float64."""
    layers = [layer_of(graph, node) for node in graph.nodes.values()]
    found = layers[0]
    for layer in layers[1:]:
        assert isinstance(found, Layer)
        assert isinstance(layer, Layer)
        found = merged(found, layer)
    assert isinstance(found, Layer)
    return found.weight.double()


def test_auto_takes_the_smallest() -> None:
    graph, _ = conv_graph(9, in_channels=16, out_channels=16)
    weight = graph.params["0.weight"].data
    thin = torch.einsum("orv,riu->oiuv", torch.randn(16, 2, 3), torch.randn(2, 16, 3)).to(weight)
    for data, kind in ((thin, "spatial"), (low_channels(weight), "tucker")):
        with graph.edit() as edit:
            edit.set_param("0.weight", data)
        sizes = {}
        for each in ("channel", "spatial", "tucker", "auto"):
            result = quietly(Factorize(energy=0.999, kind=each, only_if_smaller=False), edit.graph)
            sizes[each] = result.report.parameters[1]
        assert sizes["auto"] == sizes[kind] == min(sizes.values())


def low_channels(weight: Tensor) -> Tensor:
    """A weight with few directions of input and output, but all of its kernels."""
    made, read, *kernel = weight.shape
    core = torch.randn(3, 3, *kernel)
    found = torch.einsum("or,rskl,si->oikl", torch.randn(made, 3), core, torch.randn(3, read))
    return found.to(weight)


def test_a_rank_above_the_full_one_is_the_full_one() -> None:
    graph, x = graph_of(nn.Sequential(nn.Linear(6, 9)), 3, 6)
    done = Factorize(rank=100, only_if_smaller=False)(graph)
    assert done.params["0.reduce.weight"].data.shape == (6, 6)
    assert torch.allclose(netir.run(done, x), netir.run(graph, x), atol=1e-12)


def test_a_weight_of_zeros_has_rank_one() -> None:
    graph, x = graph_of(nn.Sequential(nn.Linear(6, 9)), 3, 6)
    with graph.edit() as edit:
        edit.set_param("0.weight", torch.zeros(9, 6, dtype=torch.float64))
    for amount in ({"energy": 0.5}, {"ratio": 0.01}, {"error": 0.5}):
        done = Factorize(**amount)(edit.graph)
        assert done.params["0.reduce.weight"].data.shape == (1, 6)
        verify(edit.graph, done, x)


# --- the bound


SHAPES = list(itertools.product((1, 2, 3, 5), (1, 2, 3, 4), (1, 2, 3), (0, 1, 2)))


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [s[:3] for s in SHAPES[::3]])
def test_reach_counts_the_windows(kernel: int, stride: int, dilation: int) -> None:
    """A kernel of ones, transposed, adds up in how many windows each position is."""
    op = Conv(rank=1, stride=(stride,), dilation=(dilation,))
    layer = Layer(op, torch.ones(1, 1, kernel))
    counts = F.conv_transpose1d(
        torch.ones(1, 1, 40), layer.weight, stride=stride, dilation=dilation
    )
    assert reach(layer) == counts.max()


def test_dilation_and_stride_with_a_common_factor_read_more_often() -> None:
    """Stride 2 with dilation 2: every tap reads even positions, which ceil(3 / 2) would miss."""
    layer = Layer(Conv(stride=(2, 2), dilation=(2, 2)), torch.ones(1, 1, 3, 3))
    assert reach(layer) == 9
    x = torch.zeros(1, 1, 9, 9)
    x[..., ::2, ::2] = 1
    y = F.conv2d(x, layer.weight, stride=2, dilation=2, padding=2)
    assert y.norm() / x.norm() <= gain(layer)
    assert y.norm() / x.norm() > gain(layer) * 2 / 3, "more than ceil(3 / 2) along each axis allows"


@pytest.mark.parametrize("seed", range(48))
def test_no_input_exceeds_the_bound(seed: int) -> None:
    """Random and worst inputs, over shapes, strides, paddings, dilations, groups and types."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    groups = draw.choice((1, 1, 1, 2))
    dilation = draw.choice((1, 1, 2))
    stride = draw.choice((1, 2, 3))
    padding: Any = draw.choice((0, 1, 2, "same" if stride == 1 else 1, "valid"))
    conv = nn.Conv2d(
        4 * groups, 6 * groups, (draw.randint(1, 3), draw.randint(1, 4)), stride, padding, dilation,
        groups, bias=draw.random() < 0.5,
    )  # fmt: skip
    dtype = draw.choice((torch.float64, torch.float32, torch.bfloat16, torch.float16))
    x = torch.randn(2, 4 * groups, 11, 12)
    graph = netir.trace(conv.to(dtype), (x.to(dtype),))
    kind = draw.choice(("auto", "channel", "spatial", "tucker"))
    amount = draw.choice(({"rank": 2}, {"energy": 0.7}, {"error": 0.5}, {"ratio": 1.0}))
    result = quietly(Factorize(**amount, kind=kind, only_if_smaller=False), graph)
    if not result.report.changed:
        assert "only a convolution" in why(result)
        return
    before, after, x = doubled(graph), doubled(result.graph), x.double()
    (bound,) = result.moves.bounds.values()
    for probe in (x, torch.randn_like(x), worst_input(before, after, x)):
        off = difference(before, after, probe).norm()
        allowed = bound * probe.norm()
        assert off <= allowed + 1e-12 * netir.run(before, probe).norm()
    assert verify(graph, result.graph, x.to(dtype)).error <= 1


@pytest.mark.parametrize("rank", [1, 5, 11])
def test_the_top_direction_reaches_the_bound_of_a_linear_layer(rank: int) -> None:
    torch.manual_seed(9)
    graph, x = graph_of(nn.Sequential(nn.Linear(16, 12)), 3, 16)
    result = Factorize(rank=rank, only_if_smaller=False).apply(graph)
    ((node, bound),) = result.moves.bounds.items()
    assert node == "linear"
    off = difference(graph, result.graph, probe := worst_input(graph, result.graph, x)).norm()
    assert 0.9 * bound * probe.norm() <= off <= bound * probe.norm()
    values = torch.linalg.svdvals(graph.params["0.weight"].data)
    assert bound == pytest.approx(float(values[rank]), rel=1e-9)
    assert bound >= values[rank]


def test_a_wrong_bound_is_found_out() -> None:
    graph, x = graph_of(nn.Sequential(nn.Linear(16, 12)), 3, 16)
    result = Factorize(rank=3).apply(graph)
    probe = worst_input(graph, result.graph, x)
    assert 0.99 < verify(graph, result.graph, probe).error <= 1
    (step,) = result.graph.history
    moves = netir.Moves(bounds={n: 0.9 * b for n, b in result.moves.bounds.items()})
    wrong = result.graph.replace(history=(netir.ir.Step(step.text, step.contract, moves),))
    with pytest.raises(NetirError, match="does not keep its contract 'bounded'"):
        verify(graph, wrong, probe)


def test_full_rank_is_exact_up_to_rounding() -> None:
    for options in ({}, {"groups": 2}, {"stride": 2, "dilation": 2, "padding": 1}):
        graph, x = conv_graph(10, **options)
        for kind in ("channel", "spatial", "tucker"):
            result = quietly(Factorize(ratio=1.0, kind=kind, only_if_smaller=False), graph)
            if result.report.changed:
                verify(graph, result.graph, x, contract="exact", bound=1e-12)
                assert max(result.moves.bounds.values()) < 1e-11


def test_spectral_norm_is_never_less() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((1, 1), (7, 3), (3, 7), (40, 40), (2, 5, 6)):
        for scale in (1e-6, 1.0, 1e6):
            matrix = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
            exact = float(np.linalg.norm(matrix.numpy(), 2, axis=(-2, -1)).max())
            assert exact * (1 - 1e-15) <= spectral_norm(matrix) <= exact * (1 + 1e-10)


# --- what is left alone


class Odd(nn.Module):
    """Layers whose weights are shared, computed, or not a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(8, 8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.embed = nn.Embedding(5, 8)
        self.head = nn.Linear(8, 5)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.shared(self.embed(x)).relu())
        return self.head(self.normed(x).relu())


def test_shared_computed_and_tied_weights_are_left() -> None:
    graph = netir.trace(Odd().double(), (torch.arange(5)[None],))
    left = dict(quietly(Factorize(rank=1), graph).report.skipped)
    assert left == {
        "linear": "shared.weight is read by several nodes",
        "linear_1": "shared.weight is read by several nodes",
        "linear_2": "its weights are computed, by _weight_norm",
        "linear_3": "embed.weight is read by several nodes",
    }


def test_a_layer_that_would_not_be_smaller_is_left() -> None:
    graph, _ = graph_of(nn.Sequential(nn.Linear(10, 10)), 3, 10)
    reason = why(quietly(Factorize(rank=5), graph))
    assert reason == (
        "rank 5 (channel) has 100 weights, the layer 100: the largest rank that pays is 4"
    )
    assert Factorize(rank=4).apply(graph).report.changed == ("linear",)
    assert Factorize(rank=5, only_if_smaller=False).apply(graph).report.changed == ("linear",)


def test_depthwise_convolutions_have_no_rank_that_pays() -> None:
    graph, _ = conv_graph(11, in_channels=6, out_channels=6, groups=6)
    assert why(quietly(Factorize(rank=1), graph)).endswith("no rank pays")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_left(bad: float) -> None:
    graph, _ = graph_of(nn.Sequential(nn.Linear(10, 10)), 3, 10)
    weight = graph.params["0.weight"].data.clone()
    weight[3, 3] = bad
    with graph.edit() as edit:
        edit.set_param("0.weight", weight)
    assert why(quietly(Factorize(rank=1), edit.graph)) == "its weights are not finite"


def test_an_error_that_a_type_cannot_hold_is_said() -> None:
    layer = nn.Linear(10, 10).to(torch.bfloat16)
    graph = netir.trace(layer, (torch.randn(2, 10, dtype=torch.bfloat16),))
    reason = why(quietly(Factorize(error=1e-6, only_if_smaller=False), graph))
    assert reason == "no smaller rank (channel) is within 1e-06 in torch.bfloat16"


def test_a_named_place_that_cannot_change_is_an_error() -> None:
    graph, _ = graph_of(nn.Sequential(nn.Linear(10, 10), nn.ReLU()), 3, 10)
    with pytest.raises(NetirError, match="cannot change 'relu'") as caught:
        Factorize("relu")(graph)
    assert "neither a linear layer nor a convolution" in caught.value.where


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "cannot use rank 0"),
        ({"rank": 1.5}, "cannot use rank 1.5"),
        ({"ratio": 0.0}, "cannot use ratio 0"),
        ({"ratio": 1.1}, "cannot use ratio 1.1"),
        ({"energy": 0.0}, "cannot use energy 0"),
        ({"energy": float("nan")}, "cannot use energy nan"),
        ({"error": 1.0}, "cannot use error 1"),
        ({"error": 0.0}, "cannot use error 0"),
        ({"rank": 3, "energy": 0.5}, "is given rank and energy"),
        ({"kind": "chanel"}, "has no kind 'chanel'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetirError, match=message) as caught:
        Factorize(**options)
    assert caught.value.fix


def test_the_default_is_nine_tenths_of_the_energy() -> None:
    assert Factorize().amount == Amount(energy=0.9)
    assert str(Factorize()) == "factorize()"


# --- what comes out


def test_the_lowered_pair_is_made_of_real_modules_and_trains() -> None:
    torch.manual_seed(12)
    model = nn.Sequential(nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 6))
    graph = netir.trace(model, (torch.randn(4, 8, 6, 6),))
    done = Factorize(ratio=0.25)(graph)
    lowered = netir.to_torch(done)
    kinds = {name: type(part) for name, part in lowered.named_modules() if "." in name}
    assert kinds == {
        "0.reduce": nn.Conv2d, "0.expand": nn.Conv2d, "3.reduce": nn.Linear, "3.expand": nn.Linear,
    }  # fmt: skip
    assert list(lowered.state_dict()) == [
        "0.reduce.weight", "0.expand.weight", "0.expand.bias",
        "3.reduce.weight", "3.expand.weight", "3.expand.bias",
    ]  # fmt: skip
    x, y = torch.randn(4, 8, 6, 6), torch.randint(6, (4,))
    optimizer = torch.optim.SGD(lowered.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(lowered(x), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in lowered.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_moves_name_what_came_and_went_and_the_optimizer_goes_on() -> None:
    model = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 12)).sum().backward()
    optimizer.step()
    graph = netir.trace(model, (torch.randn(4, 12),))
    result = Factorize("0", rank=3).apply(graph)
    assert result.moves.removed == ("0.weight", "0.bias")
    assert result.moves.added == ("0.reduce.weight", "0.expand.weight", "0.expand.bias")
    assert not result.moves.params
    lowered = netir.to_torch(result.graph)
    moment = optimizer.state[model[2].weight]["exp_avg"].clone()
    netir.move_optimizer(optimizer, result.moves, model, lowered)
    kept = lowered.get_submodule("2").weight
    assert torch.equal(optimizer.state[kept]["exp_avg"], moment)


def test_frozen_weights_stay_frozen() -> None:
    model = nn.Sequential(nn.Linear(12, 12)).requires_grad_(False)
    graph = netir.trace(model, (torch.randn(4, 12),))
    done = Factorize(rank=3)(graph)
    assert not any(p.trainable for p in done.params.values())


def test_factors_survive_a_file(tmp_path: Path) -> None:
    graph, x = conv_graph(13)
    done = Factorize(rank=2, kind="tucker")(graph)
    netir.save(done, tmp_path / "net.netir")
    assert torch.equal(netir.run(netir.load(tmp_path / "net.netir"), x), netir.run(done, x))


def test_names_that_are_taken_are_not_taken_again() -> None:
    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 12)
            self.layer.reduce = nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer.reduce(self.layer(x).relu())

    graph, x = graph_of(Taken(), 3, 12)
    done = Factorize("linear", rank=3)(graph)
    assert {"layer.reduce.weight", "layer_2.reduce.weight", "layer_2.expand.weight"} <= (
        done.params.keys()
    )
    verify(graph, done, x)
    assert torch.allclose(netir.to_torch(done)(x), netir.run(done, x))


class Table(nn.Module):
    """Two layers over a tensor of the model's own, and its sum with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 12))
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(self.table))


def test_a_parameter_that_is_read_is_no_weight() -> None:
    graph, x = graph_of(Table(), 6, 12)
    for rewrite in (Factorize(rank=2), Factorize("second", rank=2), Merge()):
        result = rewrite.apply(graph)
        assert torch.equal(result.graph.params["table"].data, graph.params["table"].data)
        verify(graph, result.graph, x)


FAMILIES = [n for n in NAMES if n.startswith(("resnet", "vit", "llama", "mobilenet"))]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_of_a_family(name: str) -> None:
    """All linear layers and convolutions at once, those that do not get smaller too."""
    sample, graph = traced(name)
    graph = doubled(graph)
    args, kwargs = doubled_tensors(sample.args), doubled_tensors(sample.kwargs)
    result = Factorize(energy=0.9, only_if_smaller=False).apply(graph)
    layers = [n for n in graph.nodes.values() if n.op.name in ("conv", "linear")]
    left = dict(result.report.skipped)
    assert len(result.report.changed) + len(left) == len(layers)
    assert all("read by several" in reason or "tied" in reason for reason in left.values())
    assert verify(graph, result.graph, args, kwargs).contract is Contract.BOUNDED
    back = Merge(always=True)(result.graph)
    verify(result.graph, back, args, kwargs, bound=1e-10)


# --- back to one layer


@pytest.mark.parametrize("kind", ["channel", "spatial", "tucker"])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": (2, 1)}, {"groups": 2},
        {"padding": "same", "kernel_size": (2, 4)}, {"padding": "valid"}, {"bias": False},
        {"padding": 1, "padding_mode": "circular"},
    ],
)  # fmt: skip
def test_factorize_then_merge_is_the_layer_again(kind: str, options: dict[str, Any]) -> None:
    graph, x = conv_graph(14, **options)
    result = quietly(Factorize(ratio=1.0, kind=kind, only_if_smaller=False), graph)
    if not result.report.changed:
        assert options.get("groups") == 2
        return
    back = Merge("0", always=True).apply(result.graph)
    assert torch.allclose(netir.run(back.graph, x), netir.run(graph, x), atol=1e-10)
    verify(result.graph, back.graph, x, bound=1e-10)
    assert back.report.contract is Contract.EXACT
    assert list(back.graph.nodes) == list(graph.nodes)
    assert back.graph.types == graph.types
    weights = graph.params["0.weight"].data, back.graph.params["0.expand.weight"].data
    assert torch.allclose(*weights, atol=1e-10)


def pair(first: nn.Module, second: nn.Module, *shape: int) -> tuple[Graph, Tensor]:
    torch.manual_seed(15)
    return graph_of(nn.Sequential(first, second), *shape)


@pytest.mark.parametrize(
    ("first", "second", "shape"),
    [
        (lambda: nn.Linear(5, 3), lambda: nn.Linear(3, 4), (2, 7, 5)),
        (lambda: nn.Linear(5, 3, bias=False), lambda: nn.Linear(3, 4), (2, 5)),
        (lambda: nn.Linear(5, 3), lambda: nn.Linear(3, 4, bias=False), (2, 5)),
        (lambda: nn.Conv2d(4, 3, 1), lambda: nn.Conv2d(3, 5, 3, 2, dilation=2), (2, 4, 9, 9)),
        (lambda: nn.Conv2d(4, 3, 1, bias=False), lambda: nn.Conv2d(3, 5, 3, 2, 1), (2, 4, 9, 9)),
        (lambda: nn.Conv2d(4, 3, 3, 2, 1), lambda: nn.Conv2d(3, 5, 1), (2, 4, 9, 9)),
        (lambda: nn.Conv2d(4, 6, (3, 1), groups=2), lambda: nn.Conv2d(6, 4, (1, 5), groups=2),
         (2, 4, 9, 9)),
        (lambda: nn.Conv1d(4, 3, 1), lambda: nn.Conv1d(3, 5, 3), (2, 4, 9)),
        (lambda: nn.Conv3d(4, 3, 1, bias=False), lambda: nn.Conv3d(3, 5, 3, padding="same"),
         (2, 4, 5, 5, 5)),
    ],
)  # fmt: skip
def test_pairs_that_are_one_layer(
    first: Callable[[], nn.Module], second: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    graph, x = pair(first(), second(), *shape)
    result = Merge(always=True).apply(graph)
    assert len(result.graph.nodes) == 1
    assert torch.allclose(netir.run(result.graph, x), netir.run(graph, x), atol=1e-12)
    (node,) = result.graph.nodes.values()
    assert node.name == list(graph.nodes)[-1]
    assert node.params[0] == "1.weight"
    kind = type(netir.to_torch(result.graph).get_submodule("1"))
    assert kind is type(second())


def test_the_bias_of_a_merged_layer() -> None:
    """W2 (W1 x + b1) + b2: METHODS' removal of a dense layer, C = AB and c = aB + b."""
    graph, _ = pair(nn.Linear(5, 9), nn.Linear(9, 4), 2, 5)
    done = Merge()(graph)
    a, b, c, d = (graph.params[n].data for n in ("0.weight", "0.bias", "1.weight", "1.bias"))
    assert torch.allclose(done.params["1.weight"].data, c @ a, atol=1e-14)
    assert torch.allclose(done.params["1.bias"].data, c @ b + d, atol=1e-14)
    assert list(done.params) == ["1.weight", "1.bias"]


@pytest.mark.parametrize(
    ("first", "second", "shape", "reason"),
    [
        (lambda: nn.Conv2d(4, 3, 1), lambda: nn.Conv2d(3, 5, 3, padding=1), (2, 4, 9, 9),
         "pads its input with zeros"),
        (lambda: nn.Conv2d(4, 3, 3), lambda: nn.Conv2d(3, 5, 3), (2, 4, 9, 9),
         "neither of the two works on each position"),
        (lambda: nn.Conv2d(4, 3, 1, stride=2), lambda: nn.Conv2d(3, 5, 3), (2, 4, 9, 9),
         "neither of the two works on each position"),
        (lambda: nn.Conv2d(4, 4, 1, groups=2), lambda: nn.Conv2d(4, 5, 3), (2, 4, 9, 9),
         "2 and 1 groups"),
        (lambda: nn.Conv2d(4, 3, (2, 1), padding="same", bias=False),
         lambda: nn.Conv2d(3, 5, (1, 3)), (2, 4, 9, 9), "pads unevenly"),
        (lambda: nn.Conv2d(4, 3, 1), lambda: nn.Linear(9, 3), (2, 4, 9, 9),
         "a conv and a linear are not one layer"),
    ],
)  # fmt: skip
def test_pairs_that_are_not(
    first: Callable[[], nn.Module],
    second: Callable[[], nn.Module],
    shape: tuple[int, ...],
    reason: str,
) -> None:
    graph, _ = pair(first(), second(), *shape)
    assert reason in why(quietly(Merge(always=True), graph))


def test_a_larger_layer_is_left_unless_always() -> None:
    graph, x = pair(nn.Linear(9, 2), nn.Linear(2, 9), 2, 9)
    assert why(quietly(Merge(), graph)) == (
        "one layer has 90 parameters, the 2 have 47: always=True merges them"
    )
    verify(graph, Merge(always=True)(graph), x)


def test_a_chain_is_merged_where_it_pays() -> None:
    """9 -> 9 -> 2 -> 9 -> 9: the first two and the last two are one layer each."""
    sizes = (9, 9, 2, 9, 9)
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)]
    graph, x = graph_of(nn.Sequential(*layers), 3, 9)
    result = Merge().apply(graph)
    assert [tuple(p.data.shape) for p in result.graph.params.values()] == [(2, 9), (9, 2)]
    assert result.report.changed == ("linear_1", "linear_3")
    verify(graph, result.graph, x, bound=1e-12)
    assert len(Merge(always=True)(graph).nodes) == 1


def test_what_is_read_elsewhere_is_left() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.a(x)
            return self.b(y), y

    graph, _ = graph_of(Forked(), 2, 6)
    assert why(quietly(Merge(), graph)) == "linear is read elsewhere too"


def test_moments_of_a_merged_weight_start_anew() -> None:
    model = nn.Sequential(nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 1))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 6, 5, 5)).square().sum().backward()
    optimizer.step()
    graph = netir.trace(model, (torch.randn(2, 6, 5, 5),))
    result = Merge().apply(graph)
    assert result.moves.removed == ("0.weight", "0.bias")
    lowered = netir.to_torch(result.graph)
    bias = optimizer.state[model[1].bias]["exp_avg"].clone()
    netir.move_optimizer(optimizer, result.moves, model, lowered)
    weight = lowered.get_submodule("1").weight
    assert optimizer.state[weight]["exp_avg"].shape == weight.shape == (6, 6, 3, 3)
    assert not optimizer.state[weight]["exp_avg"].any()
    assert torch.equal(optimizer.state[lowered.get_submodule("1").bias]["exp_avg"], bias)
    lowered(torch.randn(2, 6, 5, 5)).sum().backward()
    assert lowered.get_submodule("1").weight.grad is not None


def test_merging_in_low_precision_keeps_the_type() -> None:
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9)).to(torch.bfloat16)
    x = torch.randn(2, 9, dtype=torch.bfloat16)
    graph = netir.trace(model, (x,))
    done = Merge()(graph)
    assert {p.data.dtype for p in done.params.values()} == {torch.bfloat16}
    verify(graph, done, x)


def test_merge_says_where_nothing_stands_before() -> None:
    graph, _ = graph_of(nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5)), 2, 5)
    with pytest.raises(NetirError, match="cannot change 'linear_1'") as caught:
        Merge("2")(graph)
    assert "no linear layer stands directly before it" in caught.value.where
