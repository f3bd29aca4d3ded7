"""Compensation: what removed channels gave is made up for exactly, on average, or at its best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from netir.basis import Contract, extend, replicate, select
from netir.calibration import Calibration
from netir.errors import NetirError
from netir.evaluate import values_of
from netir.ir import Graph
from netir.passes.compensation import COMPENSATIONS, compensated, leastsquares
from netir.verify import check, verify
from netir.width import Planned
from tests.doubled import doubled, doubled_tensors
from tests.zoo.classics import CLASSICS
from tests.zoo.traced import traced


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def lively(model: nn.Module) -> nn.Module:
    """In float64 and eval mode, with norms that do something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.double().eval()


def planned(graph: Graph, **kept: Sequence[int]) -> Planned:
    """The plan to keep these indices of each space; `_` in a name stands for a dot."""
    spaces = {s.name.replace(".", "_"): s for s in graph.spaces()}
    return [(spaces[name], select(list(index))) for name, index in kept.items()]


def traced_of(model: nn.Module, x: Tensor) -> Graph:
    return netir.trace(model, (x,))


def removed(
    model: nn.Module, x: Tensor, how: str, data: Tensor | None = None, **kept: Sequence[int]
) -> tuple[Graph, netir.change.Rewritten]:
    """The graph and what comes of it; a contract that can be proved is."""
    graph = traced_of(model, x)
    calibration = None if data is None else Calibration([data])
    done, contract = compensated(graph, planned(graph, **kept), calibration, how)
    check(done.graph)
    if contract is not Contract.CHANGED:
        verify(graph, done.graph, x, contract="masked", moves=done.moves, bound=1e-10)
    return graph, done


def values(graph: Graph, x: Tensor) -> dict[str, Tensor]:
    return values_of(graph, {next(iter(graph.inputs)): x}, keep=lambda _: True)


# Constants, folded exactly


def with_dead_scales(model: nn.Sequential, *channels: int) -> nn.Sequential:
    with torch.no_grad():
        model[1].weight[list(channels)] = 0
    return model


def test_a_scale_of_zero_goes_into_the_next_bias_of_a_dense_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Linear(6, 3))
    with_dead_scales(lively(model), 1, 4)
    x = torch.randn(5, 4, dtype=torch.float64)
    _, done = removed(model, x, "constant", **{"0": (0, 2, 3, 5)})
    assert torch.allclose(netir.run(done.graph, x), model(x), rtol=0, atol=1e-12)
    value = F.gelu(model[1].bias)[[1, 4]]
    want = model[3].bias + model[3].weight[:, [1, 4]] @ value
    assert torch.allclose(done.graph.params["3.bias"].data, want, rtol=0, atol=1e-14)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_scale_of_zero_is_exact_before_a_convolution_without_padding(groups: int) -> None:
    layers = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.SiLU())
    model = nn.Sequential(*layers, nn.Conv2d(6, 4, 3, groups=groups, bias=False), nn.Flatten())
    with_dead_scales(lively(model), 1, 4)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    space = "0" if groups == 1 else "0[1]"
    kept = (0, 2, 3, 5) if groups == 1 else (0, 2)
    _, done = removed(model, x, "constant", **{space: kept})
    assert torch.allclose(netir.run(done.graph, x), model(x), rtol=0, atol=1e-12)
    assert done.moves.added == ("3.bias",)


def test_a_scale_of_zero_is_exact_behind_flatten() -> None:
    layers = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    model = with_dead_scales(lively(nn.Sequential(*layers, nn.Linear(6 * 9, 5))), 0, 3)
    with torch.no_grad():
        model[1].bias[[0, 3]] = torch.tensor([0.7, 1.3], dtype=torch.float64)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    _, done = removed(model, x, "constant", **{"0": (1, 2, 4, 5)})
    assert torch.allclose(netir.run(done.graph, x), model(x), rtol=0, atol=1e-12)
    blocks = model[5].weight.view(5, 6, 9).sum(2)
    want = model[5].bias + 0.7 * blocks[:, 0] + 1.3 * blocks[:, 3]
    assert torch.allclose(done.graph.params["5.bias"].data, want, rtol=0, atol=1e-14)


def test_with_zero_padding_a_constant_is_exact_in_the_interior() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Sigmoid(), nn.Conv2d(6, 4, 3, padding=1)
    )
    with_dead_scales(lively(model), 2)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    _, done = removed(model, x, "constant", **{"0": (0, 1, 3, 4, 5)})
    error = (netir.run(done.graph, x) - model(x)).abs()
    assert error[:, :, 1:-1, 1:-1].max() < 1e-12
    error[:, :, 1:-1, 1:-1] = 1
    assert error.min() > 1e-6


def test_a_dead_unit_leaves_without_a_trace() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    with torch.no_grad():
        model[0].weight[[1, 5]] = model[0].bias[[1, 5]] = 0
        model[0].bias[3], model[0].weight[3] = -1, 0
    x = torch.randn(2, 3, 8, 8)
    _, plain = removed(model, x, "none", **{"0": (0, 2, 4)})
    _, done = removed(model, x, "constant", **{"0": (0, 2, 4)})
    assert torch.equal(done.graph.params["2.bias"].data, model[2].bias)
    assert torch.equal(netir.run(done.graph, x), netir.run(plain.graph, x))
    with torch.no_grad():
        assert torch.allclose(netir.run(done.graph, x), model(x), atol=1e-6)


def test_a_channel_that_varies_is_only_dropped() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    with_dead_scales(lively(model), 1)
    x = torch.randn(5, 4, dtype=torch.float64)
    _, done = removed(model, x, "constant", **{"0": (0, 2, 3, 4)})
    want = model[3].bias + model[3].weight[:, 1] * torch.tanh(model[1].bias[1])
    assert torch.allclose(done.graph.params["3.bias"].data, want, rtol=0, atol=1e-14)


def test_a_batch_norm_takes_what_a_bias_would() -> None:
    """No bias is added between a convolution and its norm: the running mean takes the shift."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Sigmoid(),
        nn.Conv2d(6, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    with_dead_scales(lively(model), 2)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    _, done = removed(model, x, "constant", **{"0": (0, 1, 3, 4, 5)})
    assert torch.allclose(netir.run(done.graph, x), model(x), rtol=0, atol=1e-12)
    assert done.moves.added == ()
    assert done.graph.state_dict().keys() == model.state_dict().keys()
    _, both = removed(model, x, "constant", **{"0": (0, 1, 3, 4, 5), "3": (1, 3)})
    assert both.moves.folded["conv2d_1"].shape == (4, 1, 1)


# Means over data


class Wide(nn.Module):
    """A residual space with several consumers: padded, grouped, transposed, dense."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner, self.outer = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.strided = nn.Conv2d(8, 4, 3, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 6, 3, padding=1, groups=2)
        self.raised = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.head = nn.Linear(4 + 4 + 4 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.stem(x))
        y = y + self.outer(torch.relu(self.inner(y)))
        a = torch.relu(self.strided(y))
        b = torch.relu(self.raised(torch.sigmoid(self.grouped(y))))
        return self.head(torch.cat([a.mean((2, 3)), b.mean((2, 3)), a.flatten(1)], 1))


WIDE = {"stem[0]": (1,), "stem[1]": (0, 1, 3), "inner": (1, 2, 5), "strided": (0, 3),
        "grouped[1]": (0, 2)}  # fmt: skip
CONSUMERS = {"inner": "conv2d_1", "outer": "conv2d_2", "strided": "conv2d_3",
             "grouped": "conv2d_4", "raised": "conv_transpose2d", "head": "linear"}  # fmt: skip


def test_means_of_every_consumer_stay_on_the_data() -> None:
    model, x = lively(Wide()), torch.randn(7, 3, 8, 8, dtype=torch.float64)
    graph, done = removed(model, x, "mean", x, **WIDE)
    plain = removed(model, x, "none", **WIDE)[1]
    before, after, bare = (values(g, x) for g in (graph, done.graph, plain.graph))
    for module, node in CONSUMERS.items():
        move = done.moves.values.get(node)
        want = before[node] if move is None else move.apply(before[node])
        dims = tuple(d for d in range(want.dim()) if d != 1)
        assert torch.allclose(after[node].mean(dims), want.mean(dims), rtol=0, atol=1e-12), module
        assert (bare[node].mean(dims) - want.mean(dims)).abs().max() > 1e-3, module
    assert set(done.moves.folded) == set(CONSUMERS.values())
    assert done.moves.added == ("strided.bias",)


def test_a_mean_of_one_dense_layer_is_the_mean_of_what_it_reads() -> None:
    """One layer, no padding: k_i is the mean of channel i over the batch and all positions."""
    model = lively(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    x, data = (torch.randn(5, 9, 4, dtype=torch.float64) for _ in range(2))
    _, done = removed(model, x, "mean", data, **{"0": (0, 2, 5)})
    gone = [1, 3, 4]
    value = torch.tanh(model[0](data)).mean((0, 1))[gone]
    want = model[2].bias + model[2].weight[:, gone] @ value
    assert torch.allclose(done.graph.params["2.bias"].data, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("how", ["constant", "mean"])
@pytest.mark.parametrize("name", CLASSICS)
def test_classics_keep_their_contract(name: str, how: str) -> None:
    sample, graph = traced(name)
    graph, args = doubled(graph), doubled_tensors(sample.args)
    plan = [
        (s, select(torch.randperm(s.size)[: max(1, s.size * 3 // 5)]))
        for s in graph.spaces() if not s.frozen and s.producers
    ]  # fmt: skip
    data = Calibration([torch.randn_like(args[0]) for _ in range(2)])
    done, contract = compensated(graph, plan, data, how)
    assert contract is (Contract.MASKED if how == "mean" else Contract.EXACT)
    check(done.graph)
    verify(graph, done.graph, args, contract="masked", moves=done.moves, bound=1e-10)


# Least squares


def test_a_fit_is_the_least_squares_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leastsquares, "RIDGES", (1e-13,))
    monkeypatch.setattr(leastsquares, "ROWS", 10**6)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, (3, 2), padding=(1, 0)))
    x = torch.randn(9, 3, 9, 9, dtype=torch.float64)
    graph, done = removed(lively(model), x, "least-squares", x, **{"0": (0, 2, 5)})
    read = values(graph, x)["relu"][:, [0, 2, 5]]
    rows = F.unfold(read, (3, 2), padding=(1, 0)).transpose(1, 2).flatten(0, 1)
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    want = torch.linalg.lstsq(rows, model(x).flatten(2).transpose(1, 2).flatten(0, 1)).solution
    weight, bias = done.graph.params["2.weight"].data, done.graph.params["2.bias"].data
    assert torch.allclose(weight.flatten(1), want[:-1].t(), atol=1e-8)
    assert torch.allclose(bias, want[-1], atol=1e-8)


@pytest.mark.parametrize("samples", [3, 30])
def test_a_fit_is_never_worse_than_plain_removal(samples: int) -> None:
    model = lively(Wide())
    x = torch.randn(samples, 3, 8, 8, dtype=torch.float64)
    for module, node in CONSUMERS.items():
        own = {name: kept for name, kept in WIDE.items() if name != module}
        kept = own if module == "inner" else WIDE
        graph = traced_of(model, x)
        errors = {}
        for how in COMPENSATIONS:
            _, done = removed(model, x, how, x, **kept)
            move = done.moves.values.get(node)
            want = values(graph, x)[node]
            want = want if move is None else move.apply(want)
            errors[how] = (values(done.graph, x)[node] - want).square().mean()
        assert errors["least-squares"] <= errors["none"] * (1 + 1e-9), module
        assert errors["least-squares"] <= errors["mean"] * (1 + 1e-9), module
        assert errors["mean"] < errors["none"], module
        assert samples < 30 or errors["least-squares"] < 0.95 * errors["mean"], module


@pytest.mark.parametrize("groups", [1, 2])
def test_channels_that_others_make_up_are_made_up(groups: int) -> None:
    """Channels 1 and 3 are multiples of 0 and 2, through a ReLU too: nothing is lost."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=groups))
    lively(model)
    with torch.no_grad():
        for kept, gone, factor in ((0, 1, 2.0), (2, 3, 0.5)):
            model[0].weight[gone] = factor * model[0].weight[kept]
            model[0].bias[gone] = factor * model[0].bias[kept]
    x = torch.randn(20, 3, 9, 9, dtype=torch.float64)
    kept = {"0": (0, 2)} if groups == 1 else {"0[1]": (0,)}
    _, done = removed(model, x, "least-squares", x, **kept)
    new = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    assert torch.allclose(netir.run(done.graph, new), model(new), atol=1e-6)
    bare = removed(model, x, "none", **kept)[1].graph
    assert (netir.run(bare, new) - model(new)).abs().max() > 0.1


def test_units_that_are_combinations_are_made_up_behind_flatten() -> None:
    model = lively(nn.Sequential(nn.Conv1d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 6, 4)))
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter[4] = parameter[0] - 3 * parameter[1]
            parameter[2] = parameter[3] + parameter[1]
    x = torch.randn(200, 3, 8, dtype=torch.float64)
    _, done = removed(model, x, "least-squares", x, **{"0": (0, 1, 3)})
    assert torch.allclose(netir.run(done.graph, x), model(x), atol=1e-6)


def test_layers_are_fitted_one_after_the_other() -> None:
    """The second fit makes up for what the first left: better than fits to what was read before."""
    model = lively(nn.Sequential(
        nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4)
    ))  # fmt: skip
    x = torch.randn(400, 8, dtype=torch.float64)
    first, second = range(0, 30, 2), range(1, 30, 2)
    _, done = removed(model, x, "least-squares", x, **{"0": first, "2": second})
    alone = traced_of(model, x)
    params = dict(done.graph.params)
    for name, kept in (("0", {"0": first}), ("2", {"2": second})):
        fitted = removed(model, x, "least-squares", x, **kept)[1].graph
        reader = {"0": "2", "2": "4"}[name]
        for leaf in ("weight", "bias"):
            data = fitted.params[f"{reader}.{leaf}"].data
            rows = data[list(second)] if reader == "2" else data
            params[f"{reader}.{leaf}"] = netir.ir.Param(rows)
    apart = done.graph.replace(params=params)
    want = netir.run(alone, x)
    errors = [(netir.run(g, x) - want).square().mean() for g in (done.graph, apart)]
    assert errors[0] < errors[1]


def test_too_large_a_fit_becomes_a_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = lively(Wide()), torch.randn(7, 3, 8, 8, dtype=torch.float64)
    graph = traced_of(model, x)
    monkeypatch.setattr(leastsquares, "MEMORY", 8)
    plan, data = planned(graph, **WIDE), Calibration([x])
    small, contract = compensated(graph, plan, data, "least-squares")
    mean, _ = compensated(graph, plan, data, "mean")
    assert contract is Contract.MASKED
    for name, param in mean.graph.params.items():
        assert torch.equal(small.graph.params[name].data, param.data)


def test_rows_are_drawn_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 1))
    x = torch.randn(20, 3, 30, 30, dtype=torch.float64)
    seen: list[int] = []
    add = leastsquares._Sums.add

    def counted(self: Any, read: Tensor, wanted: Tensor) -> None:
        seen.append(len(read))
        add(self, read, wanted)

    monkeypatch.setattr(leastsquares._Sums, "add", counted)
    removed(lively(model), x, "least-squares", x, **{"0": (0, 2)})
    assert sum(seen) <= leastsquares.ROWS * 3 + 2


# What cannot take it, and what is refused


class Tied(nn.Module):
    """Two layers with one weight, and a product with a weight that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Linear(4, 6)
        self.one, self.two = nn.Linear(6, 3), nn.Linear(6, 3)
        self.two.weight = self.one.weight
        self.base = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.maker(x))
        return self.one(y) + self.two(y).exp() + F.linear(y, self.base * 2)


@pytest.mark.parametrize("how", COMPENSATIONS)
def test_shared_and_computed_weights_are_left_plain(how: str) -> None:
    model, x = lively(Tied()), torch.randn(5, 4, dtype=torch.float64)
    _, done = removed(model, x, how, x, maker=(0, 1, 4))
    _, plain = removed(model, x, "none", maker=(0, 1, 4))
    assert str(done.graph) == str(plain.graph)
    assert torch.equal(netir.run(done.graph, x), netir.run(plain.graph, x))


def test_a_new_bias_becomes_part_of_the_module() -> None:
    model = lively(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)))
    x = torch.randn(5, 4, dtype=torch.float64)
    graph, done = removed(model, x, "mean", x, **{"0": (0, 1, 4)})
    lowered = netir.to_torch(done.graph)
    assert isinstance(lowered.get_submodule("2"), nn.Linear)
    assert lowered.get_submodule("2").bias.requires_grad
    assert torch.allclose(lowered(x), netir.run(done.graph, x), atol=1e-12)
    assert "2.bias" not in graph.params
    assert torch.equal(graph.params["2.weight"].data, model[2].weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("how", ["mean", "least-squares"])
def test_other_types(dtype: torch.dtype, how: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)
    x = torch.randn(50, 4, dtype=dtype)
    _, done = removed(model, x, how, x, **{"0": (0, 1, 4)})
    assert {p.data.dtype for p in done.graph.params.values()} == {dtype}
    want = model.double()(x.double())
    graph = doubled(done.graph)
    plain = doubled(removed(model.to(dtype), x, "none", **{"0": (0, 1, 4)})[1].graph)
    errors = [(netir.run(g, x.double()) - want).square().mean() for g in (graph, plain)]
    assert errors[0] < errors[1]


def test_data_that_is_not_finite_changes_no_parameter() -> None:
    model, x = lively(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))), torch.randn(5, 4)
    bad = torch.full((5, 4), float("nan"), dtype=torch.float64)
    for how in ("mean", "least-squares"):
        _, done = removed(model, x.double(), how, bad, **{"0": (0, 1, 4)})
        assert torch.equal(done.graph.params["2.bias"].data, model[2].bias)
        assert done.moves.folded == {}


def test_what_is_refused() -> None:
    model, x = lively(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))), torch.randn(5, 4)
    graph = traced_of(model, x.double())
    plan, data = planned(graph, **{"0": (0, 1)}), Calibration([x])
    with pytest.raises(NetirError, match="no compensation 'means'") as caught:
        compensated(graph, plan, data, "means")
    assert caught.value.fix == "did you mean 'mean'?"
    for how in ("mean", "least-squares"):
        with pytest.raises(NetirError, match=f"'{how}' needs data"):
            compensated(graph, plan, None, how)
    for basis in (replicate([0, 0, 1, 2, 3, 4, 5]), extend(6, 2)):
        with pytest.raises(NetirError, match="for what was removed"):
            compensated(graph, [(plan[0][0], basis)], data, "mean")
