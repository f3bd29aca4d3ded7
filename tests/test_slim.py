"""Slim: hidden units removed by singular values; METHODS' formulas, bounds, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from netir.basis import Contract, nonlinear
from netir.calibration import Calibration
from netir.errors import NetirError, NetirWarning
from netir.ir import Graph
from netir.passes import Slim
from netir.rewrite import Result
from netir.verify import verify
from tests.doubled import doubled, doubled_tensors
from tests.test_factorize import worst_input
from tests.zoo.traced import traced


def graph_of(model: nn.Module, *shape: int) -> tuple[Graph, Tensor]:
    x = torch.randn(*shape, dtype=torch.float64)
    return netir.trace(model.double().eval(), (x,)), x


def quietly(rewrite: Slim, graph: Graph) -> Result:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        return rewrite.apply(graph)


def why(graph: Graph, space: str, **options: Any) -> str:
    """Why a space is left."""
    return dict(quietly(Slim(**options), graph).report.skipped)[space]


def low_rank(layer: nn.Module, rank: int, bias: bool = True) -> None:
    """Give a layer's rows only so many directions, the bias too if `bias`."""
    with torch.no_grad():
        made = layer.weight.shape[0]
        basis = torch.randn(made, rank, dtype=layer.weight.dtype)
        rows = torch.randn(rank, layer.weight[0].numel(), dtype=layer.weight.dtype)
        layer.weight.copy_((basis @ rows).view_as(layer.weight))
        if bias and layer.bias is not None:
            layer.bias.copy_(basis @ torch.randn(rank, dtype=layer.weight.dtype))


def two(bend: nn.Module | None = None, bias: bool = True) -> tuple[nn.Sequential, Graph, Tensor]:
    """x A + a, perhaps an activation, then B and b."""
    torch.manual_seed(0)
    layers = [nn.Linear(7, 12), *([bend] if bend else []), nn.Linear(12, 5, bias=bias)]
    model = nn.Sequential(*layers)
    return model, *graph_of(model, 6, 7)


def svd(graph: Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The singular vectors of A in METHODS' row-vector form: columns are units."""
    return np.linalg.svd(graph.params["0.weight"].data.numpy().T, full_matrices=False)


# --- METHODS 3


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_it_is_the_best_approximation_of_its_rank(rank: int) -> None:
    """With nothing between: the same as with A replaced by its best rank-r approximation."""
    _, graph, x = two()
    done = Slim("0", rank=rank)(graph)
    u, s, v = svd(graph)
    best = torch.from_numpy((u[:, :rank] * s[:rank]) @ v[:rank])
    a, weight, b = (graph.params[n].data for n in ("0.bias", "1.weight", "1.bias"))
    want = (x @ best + a) @ weight.T + b
    assert torch.allclose(netir.run(done, x), want, atol=1e-12)
    assert done.params["0.weight"].data.shape == (rank, 7)
    assert done.params["1.weight"].data.shape == (5, rank)


def test_the_formulas_of_the_paper() -> None:
    """A' = A V, a' = a V, B' = V'B, b' = b + a (I - V V') B, up to the sign of each unit."""
    _, graph, _ = two()
    done = Slim("0", rank=3)(graph)
    v = torch.from_numpy(svd(graph)[2][:3].T)
    old = {n: p.data for n, p in graph.params.items()}
    new = {n: p.data for n, p in done.params.items()}
    sign = torch.sign((v.T @ old["0.weight"] * new["0.weight"]).sum(1))
    v = v * sign
    assert torch.allclose(new["0.weight"], v.T @ old["0.weight"], atol=1e-12)
    assert torch.allclose(new["0.bias"], old["0.bias"] @ v, atol=1e-12)
    assert torch.allclose(new["1.weight"].T, v.T @ old["1.weight"].T, atol=1e-12)
    lost = old["0.bias"] @ (torch.eye(12) - v @ v.T) @ old["1.weight"].T
    assert torch.allclose(new["1.bias"], old["1.bias"] + lost, atol=1e-12)


@pytest.mark.parametrize("rank", [3, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_exact_from_the_rank_on(rank: int, bias: bool) -> None:
    model, _, x = two(bias=bias)
    low_rank(model[0], 3, bias=False)
    graph = netir.trace(model, (x,))
    result = Slim("0", rank=rank).apply(graph)
    assert torch.allclose(netir.run(result.graph, x), netir.run(graph, x), atol=1e-12)
    assert verify(graph, result.graph, x).contract is Contract.BOUNDED
    assert max(result.moves.bounds.values()) < 1e-11


def test_the_error_is_the_sum_of_the_dropped_squares() -> None:
    _, graph, _ = two()
    done = Slim("0", rank=3)(graph)
    weight = graph.params["0.weight"].data
    v = torch.from_numpy(svd(graph)[2][:3].T)
    kept = done.params["0.weight"].data
    projected = v @ (v.T @ weight)
    dropped = torch.tensor((svd(graph)[1][3:] ** 2).sum())
    assert torch.isclose((weight - projected).square().sum(), dropped, rtol=1e-10)
    assert torch.isclose(weight.square().sum() - kept.square().sum(), dropped, rtol=1e-10)


# --- how much is kept


@pytest.mark.parametrize("energy", [0.4, 0.7, 0.95])
def test_energy_against_a_plain_computation(energy: float) -> None:
    _, graph, _ = two()
    squares = svd(graph)[1] ** 2
    rank = next(r for r in range(1, 8) if squares[:r].sum() >= energy * squares.sum())
    assert Slim("0", energy=energy)(graph).params["0.weight"].data.shape[0] == rank


@pytest.mark.parametrize("error", [0.9, 0.5, 0.2])
def test_error_against_a_plain_computation(error: float) -> None:
    _, graph, _ = two()
    values = [*svd(graph)[1], 0.0]
    rank = next(r for r in range(1, 8) if values[r] <= error * values[0])
    assert Slim("0", error=error)(graph).params["0.weight"].data.shape[0] == rank


def test_ratio_is_of_the_full_rank() -> None:
    _, graph, _ = two()
    assert Slim("0", ratio=1.0)(graph).params["0.weight"].data.shape[0] == 7
    assert Slim("0", ratio=0.5)(graph).params["0.weight"].data.shape[0] == 4


def test_nothing_is_removed_where_all_is_needed() -> None:
    model = nn.Sequential(nn.Linear(9, 4), nn.Linear(4, 9))
    graph, _ = graph_of(model, 2, 9)
    assert why(graph, "0", ratio=1.0) == "all 4 are needed"


# --- the bound


LINKED: list[tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.Linear(7, 12), lambda: nn.Linear(12, 5), (3, 4, 7)),
    (lambda: nn.Linear(7, 12), lambda: nn.Linear(12, 5, bias=False), (3, 7)),
    (lambda: nn.Conv2d(4, 12, 3, 2, 1), lambda: nn.Conv2d(12, 6, 1), (2, 4, 9, 9)),
    (lambda: nn.Conv2d(4, 12, 1), lambda: nn.Conv2d(12, 6, 3, 2, dilation=2), (2, 4, 9, 9)),
    (lambda: nn.Conv2d(4, 12, 1, bias=False), lambda: nn.Conv2d(12, 6, 3, padding=1), (2, 4, 7, 7)),
    (lambda: nn.Conv2d(4, 12, (3, 1), padding=(1, 0)), lambda: nn.Conv2d(12, 6, (1, 3)),
     (2, 4, 7, 7)),
    (lambda: nn.Conv1d(4, 12, 3), lambda: nn.Conv1d(12, 6, 1), (2, 4, 9)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("first", "second", "shape"), LINKED)
def test_no_input_exceeds_the_bound(
    first: Callable[[], nn.Module],
    second: Callable[[], nn.Module],
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(1)
    x = torch.randn(*shape)
    model = nn.Sequential(first(), nn.Dropout(), second()).to(dtype).eval()
    graph = netir.trace(model, (x.to(dtype),))
    result = Slim("0", rank=3).apply(graph)
    assert result.report.contract is Contract.BOUNDED
    ((reader, bound),) = result.moves.bounds.items()
    assert reader == list(graph.nodes)[-1]
    before, after, x = doubled(graph), doubled(result.graph), x.double()
    zero = torch.zeros_like(x)
    constant = netir.run(after, zero) - netir.run(before, zero)
    rounding = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 5e-2}[dtype]
    assert constant.norm() <= rounding * netir.run(before, zero).norm(), "biases are made up for"
    ratios = []
    for probe in (x, torch.randn_like(x), worst_input(before, after, x)):
        off = netir.run(after, probe) - netir.run(before, probe) - constant
        ratios.append(float(off.norm() / (bound * probe.norm())))
    assert max(ratios) <= 1 + 1e-9
    if isinstance(first(), nn.Linear):
        assert ratios[-1] > 0.9
    assert verify(graph, result.graph, x.to(dtype)).error <= 1


def test_a_wrong_bound_is_found_out() -> None:
    _, graph, x = two()
    result = Slim("0", rank=3).apply(graph)
    probe = worst_input(graph, result.graph, x)
    assert 0.9 < verify(graph, result.graph, probe).error <= 1
    (step,) = result.graph.history
    bounds = {n: 0.8 * b for n, b in result.moves.bounds.items()}
    moves = netir.Moves(result.moves.params, result.moves.values, bounds=bounds)
    wrong = result.graph.replace(history=(netir.ir.Step(step.text, step.contract, moves),))
    with pytest.raises(NetirError, match="does not keep its contract 'bounded'"):
        verify(graph, wrong, probe)


def test_several_readers_have_a_bound_each() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(7, 12), nn.Linear(12, 5), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.a(x)
            return self.b(y), self.c(y)

    graph, x = graph_of(Forked(), 4, 7)
    result = Slim("a", rank=2).apply(graph)
    assert result.moves.bounds.keys() == {"linear_1", "linear_2"}
    assert verify(graph, result.graph, x).contract is Contract.BOUNDED


def test_neighbours_at_once_have_no_bound_and_one_after_the_other_have() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 10), nn.Linear(10, 8))
    graph, x = graph_of(model, 5, 8)
    both = Slim("0 1", rank=4).apply(graph)
    assert both.report.changed == ("0", "1")
    assert both.report.contract is Contract.CHANGED
    one = Slim("0", rank=4).apply(graph)
    other = Slim("1", rank=4).apply(one.graph)
    for before, result in ((graph, one), (one.graph, other)):
        assert verify(before, result.graph, x).contract is Contract.BOUNDED


def test_neighbours_of_low_rank_are_exact_at_once() -> None:
    """What the first bias loses is added to the second before that loses anything."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 10, bias=False), nn.Linear(10, 8))
    model.double()
    for layer, rank in zip(model, (3, 4), strict=False):
        low_rank(layer, rank, bias=False)
    graph, x = graph_of(model, 5, 8)
    done = Slim("0 1", rank=4)(graph)
    assert [done.params[f"{i}.weight"].data.shape[0] for i in range(3)] == [4, 4, 8]
    assert torch.allclose(netir.run(done, x), netir.run(graph, x), atol=1e-11)


# --- where a bias cannot be made up for, it counts as one more column


def test_behind_padding_the_bias_is_part_of_the_matrix() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 5, 3, padding=1)).double()
    graph, x = graph_of(model, 2, 3, 7, 7)
    result = Slim("0", rank=4).apply(graph)
    assert result.report.contract is Contract.CHANGED
    assert torch.allclose(netir.run(result.graph, x), netir.run(graph, x), atol=1e-12)
    three = Slim("0", rank=3)(graph)
    assert not torch.allclose(netir.run(three, x), netir.run(graph, x), atol=1e-6)


class Attention(nn.Module):
    """Self-attention, by the one operator or by its parts; no activation behind the values."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.q, self.k, self.v = (nn.Linear(12, 12) for _ in range(3))
        self.out = nn.Linear(12, 9)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (3, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) * 0.5, -1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("fused", [True, False])
def test_values_of_attention_have_a_basis_of_their_own(fused: bool) -> None:
    """Heads share the basis of their size: exact where their rows have few directions."""
    torch.manual_seed(5)
    model = Attention(fused).double()
    basis = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0][:, :2]
    with torch.no_grad():
        for tensor in (model.v.weight, model.v.bias):
            heads = tensor.unflatten(0, (3, 4))
            tensor.copy_(torch.einsum("de,fe,hf...->hd...", basis, basis, heads).flatten(0, 1))
    graph, x = graph_of(model, 2, 5, 12)
    result = Slim("v*", rank=2).apply(graph)
    assert result.report.changed == ("v[1]",)
    assert result.graph.params["v.weight"].data.shape == (6, 12)
    assert result.graph.params["out.weight"].data.shape == (9, 6)
    assert torch.allclose(netir.run(result.graph, x), netir.run(graph, x), atol=1e-12)
    assert "another way than by weights" in why(graph, "q[1]", rank=2)
    assert why(graph, "q[0]", rank=2).endswith("works on it and is not linear"), "heads meet"


@pytest.mark.parametrize("fused", [True, False])
def test_what_attention_loses_is_the_projection(fused: bool) -> None:
    torch.manual_seed(6)
    model = Attention(fused).double()
    graph, x = graph_of(model, 2, 5, 12)
    done = Slim("v*", rank=2)(graph)
    rows = torch.cat([model.v.weight, model.v.bias[:, None]], 1).unflatten(0, (3, 4)).detach()
    u = np.linalg.svd(rows.movedim(1, 0).flatten(1).numpy())[0][:, :2]
    projector = torch.from_numpy(u @ u.T)
    with torch.no_grad():
        for tensor in (model.v.weight, model.v.bias):
            heads = tensor.unflatten(0, (3, 4))
            tensor.copy_(torch.einsum("de,he...->hd...", projector, heads).flatten(0, 1))
        want = model(x)
    assert torch.allclose(netir.run(done, x), want, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["grouped_native", "grouped_repeat", "attention_pooling", "llama"]
)
def test_no_linear_space_bends(name: str) -> None:
    """A rotation of a space that counts as linear is exact, or refused: heads never are."""
    sample, graph = traced(name)
    graph, tried = doubled(graph), 0
    args, kwargs = doubled_tensors(sample.args), doubled_tensors(sample.kwargs)
    for space in graph.spaces():
        if space.frozen or nonlinear(graph.analysis, space):
            continue
        turn = torch.linalg.qr(torch.randn(space.size, space.size, dtype=torch.float64))[0]
        try:
            done = netir.change_basis(graph, {space: netir.linear(turn, turn.T)})
        except NetirError:
            continue
        verify(graph, done.graph, args, kwargs, contract="exact", moves=done.moves, bound=1e-9)
        tried += 1
    assert tried


@pytest.mark.parametrize("name", ["vit", "bert", "llama", "grouped_native", "t5"])
def test_spaces_of_low_rank_are_exact_in_families(name: str) -> None:
    """Each space is put into a random subspace of half its size first, then slimmed to that."""
    sample, graph = traced(name)
    graph, tried = doubled(graph), 0
    args, kwargs = doubled_tensors(sample.args), doubled_tensors(sample.kwargs)
    for space in graph.spaces():
        rank = max(1, space.size // 2)
        if space.frozen or not isinstance(Slim(rank=rank).basis(graph, space), netir.Basis):
            continue
        kept = torch.linalg.qr(torch.randn(space.size, rank, dtype=torch.float64))[0]
        flat = netir.linear(kept @ kept.T, torch.eye(space.size))
        low = netir.change_basis(graph, {space.name: flat}).graph
        done = Slim(space.name, rank=rank)(low)
        verify(low, done, args, kwargs, contract="exact", bound=1e-9)
        assert sum(p.data.numel() for p in (done.params[m.param] for m in space.members)) < sum(
            low.params[m.param].data.numel() for m in space.members
        )
        tried += 1
    assert tried


def test_flattened_channels() -> None:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 5))
    low_rank(model.double()[0], 4)
    graph, x = graph_of(model, 2, 3, 6, 6)
    done = Slim("0", rank=4)(graph)
    assert done.params["3.weight"].data.shape == (5, 16)
    assert torch.allclose(netir.run(done, x), netir.run(graph, x), atol=1e-11)


def test_a_space_that_two_layers_make() -> None:
    """A residual sum: both layers count, and the second reads what the first makes."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(7, 12), nn.Linear(12, 12), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.c(y + self.b(y))

    torch.manual_seed(8)
    model = Residual().double()
    basis = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0][:, :5]
    with torch.no_grad():
        for layer in (model.a, model.b):
            layer.weight.copy_(basis @ basis.T @ layer.weight)
            layer.bias.copy_(basis @ basis.T @ layer.bias)
    graph, x = graph_of(model, 4, 7)
    done = Slim("a", rank=5)(graph)
    assert done.params["b.weight"].data.shape == (5, 5)
    assert torch.allclose(netir.run(done, x), netir.run(graph, x), atol=1e-12)


# --- activations


def test_an_activation_is_ignored_if_that_is_asked_for() -> None:
    _, graph, x = two(nn.ReLU())
    assert why(graph, "0", rank=3) == "relu bends it: through_activations=True ignores that"
    result = Slim("0", rank=3, through_activations=True).apply(graph)
    assert result.report.contract is Contract.CHANGED
    new = {n: p.data for n, p in result.graph.params.items()}
    old = {n: p.data for n, p in graph.params.items()}
    hidden = torch.relu(x @ new["0.weight"].T + new["0.bias"])
    want = hidden @ new["2.weight"].T + new["2.bias"]
    assert torch.allclose(netir.run(result.graph, x), want, atol=1e-12)
    v = torch.linalg.lstsq(old["0.weight"].T, new["0.weight"].T).solution
    lost = old["0.bias"] - v @ (v.T @ old["0.bias"])
    assert torch.allclose(new["2.bias"], old["2.bias"] + old["2.weight"] @ lost, atol=1e-10)


def test_calibration_makes_units_positive_on_average() -> None:
    _, graph, x = two(nn.ReLU())
    x = x + 1
    batches = Calibration([x[:2], x[2:]])
    done = Slim("0", rank=6, through_activations=True).apply(graph, batches).graph
    weight, bias = done.params["0.weight"].data, done.params["0.bias"].data
    means = (x[:2] @ weight.T + bias).mean(0) + (x[2:] @ weight.T + bias).mean(0)
    assert (means >= 0).all()
    plain = Slim("0", rank=6, through_activations=True)(graph)
    assert (((x @ plain.params["0.weight"].data.T) + plain.params["0.bias"].data).mean(0) < 0).any()
    flipped = (weight * plain.params["0.weight"].data).sum(1).sign()
    assert torch.allclose(flipped[:, None] * plain.params["0.weight"].data, weight, atol=1e-12)
    assert torch.allclose(plain.params["2.weight"].data * flipped, done.params["2.weight"].data)


def test_calibration_of_convolutions() -> None:
    torch.manual_seed(9)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 3))
    graph, x = graph_of(model, 4, 3, 8, 8)
    x = x + 1
    rewrite = Slim("0", rank=6, through_activations=True)
    done = rewrite.apply(graph, Calibration([x])).graph
    before = F.conv2d(x, done.params["0.weight"].data, done.params["0.bias"].data)
    assert (before.mean((0, 2, 3)) >= 0).all()


def test_the_linear_part_of_a_network_needs_no_calibration() -> None:
    _, graph, x = two()
    plain, fed = Slim("0", rank=3)(graph), Slim("0", rank=3).apply(graph, Calibration([x])).graph
    assert all(torch.equal(p.data, fed.params[n].data) for n, p in plain.params.items())


# --- what is refused


class Mixed(nn.Module):
    """Spaces that meet what no matrix can be moved across."""

    def __init__(self) -> None:
        super().__init__()
        self.batch = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
        self.pool = nn.Sequential(nn.Conv2d(8, 8, 1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1))
        self.norm = nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 6))
        self.square = nn.Sequential(nn.Linear(6, 12), nn.Identity(), nn.Linear(12, 6))
        self.depth = nn.Sequential(nn.Conv1d(6, 8, 1), nn.Conv1d(8, 8, 1, groups=8))
        self.last = nn.Conv1d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.batch(x)).mean((2, 3))
        x = self.square[2](self.square[0](self.norm(x)).square())
        return self.last(self.depth(x[:, :, None]))


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        ("batch.0", "batch.1.weight is part of it, in a batch_norm"),
        ("pool.0", "max_pool2d works on it and is not linear"),
        ("norm.0", "norm.1.weight is part of it, in a layer_norm"),
        ("square.0", "square works on it and is not linear"),
        ("depth.0", "conv1d_1 works on it and is not linear"),
        ("last", "frozen: graph output"),
    ],
)
def test_what_no_matrix_can_be_moved_across(space: str, reason: str) -> None:
    graph, _ = graph_of(Mixed(), 2, 3, 9, 9)
    assert why(graph, space, rank=2, through_activations=True) == reason


def test_a_head_size_that_queries_and_values_share_is_left() -> None:
    """Queries, keys and values of each head in turn: no matrix for the values alone."""
    _, graph = traced("fused_interleaved")
    reasons = dict(quietly(Slim(rank=2), graph).report.skipped).values()
    assert "a linear basis meets a concatenation inside a product" in reasons


def test_an_embedding_is_no_row_of_weights() -> None:
    model = nn.Sequential(nn.Embedding(9, 12), nn.Linear(12, 5)).double()
    graph = netir.trace(model, (torch.arange(4)[None],))
    assert why(graph, "0:1", rank=2) == "0.weight is part of it, in a embedding"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight"])
def test_weights_that_are_not_finite_are_left(name: str, bad: float) -> None:
    _, graph, _ = two()
    with graph.edit() as edit:
        edit.set_param(name, torch.full_like(graph.params[name].data, bad))
    assert why(edit.graph, "0", rank=2) == "its weights are not finite"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "slim cannot use rank 0"),
        ({"ratio": -0.5}, "slim cannot use ratio -0.5"),
        ({"energy": 2.0}, "slim cannot use energy 2.0"),
        ({"error": 1.0}, "slim cannot use error 1.0"),
        ({"rank": 2, "error": 0.1}, "slim is given rank and error"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetirError, match=message) as caught:
        Slim(**options)
    assert caught.value.fix


# --- what comes out


def test_a_reader_without_a_bias_gets_one_where_it_must() -> None:
    _, graph, x = two(bias=False)
    result = Slim("0", rank=3).apply(graph)
    assert result.moves.added == ("1.bias",)
    lowered = netir.to_torch(result.graph)
    assert isinstance(lowered.get_submodule("1"), nn.Linear)
    assert torch.allclose(lowered(x), netir.run(result.graph, x), atol=1e-12)
    model = nn.Sequential(nn.Linear(7, 12, bias=False), nn.Linear(12, 5, bias=False))
    bare = graph_of(model, 2, 7)[0]
    assert Slim("0", rank=3).apply(bare).moves.added == ()


def test_the_old_graph_is_as_it_was() -> None:
    _, graph, _ = two()
    before = {n: p.data.clone() for n, p in graph.params.items()}
    Slim("0", rank=3)(graph)
    assert all(torch.equal(p.data, before[n]) for n, p in graph.params.items())


def test_the_optimizer_goes_on() -> None:
    model = nn.Sequential(nn.Linear(7, 12), nn.Linear(12, 5))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = torch.randn(16, 7), torch.randn(16, 5)
    F.mse_loss(model(x), y).backward()
    optimizer.step()
    graph = netir.trace(model, (x,))
    result = Slim("0", rank=3).apply(graph)
    assert set(result.moves.params) == {"0.weight", "0.bias", "1.weight"}
    moments = optimizer.state[model[0].weight]["exp_avg"].clone()
    lowered = netir.to_torch(result.graph)
    netir.move_optimizer(optimizer, result.moves, model, lowered)
    into = result.moves.params["0.weight"].axes[0].matrix.float()
    moved = optimizer.state[lowered.get_submodule("0").weight]["exp_avg"]
    assert torch.allclose(moved, into @ moments, atol=1e-6)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.mse_loss(lowered(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_stays_what_it_is(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(7, 12), nn.Linear(12, 5, bias=False)).to(dtype)
    x = torch.randn(3, 7, dtype=dtype)
    graph = netir.trace(model, (x,))
    result = Slim("0", rank=4).apply(graph)
    assert {p.data.dtype for p in result.graph.params.values()} == {dtype}
    verify(graph, result.graph, x)
