"""Regularisers: the penalty by hand, its gradients by autograd, and channels that go as a whole."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from netir.errors import NetirError
from netir.ir import Graph
from netir.passes import Prune
from netir.passes.regularise import KINDS, Regulariser
from tests.zoo.traced import fresh, traced


class Net(nn.Module):
    """A residual space of two makers with norms, one alone, and a dense layer behind flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 4, 3, padding=1)
        self.outer, self.last = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        y = y + self.last(self.outer(torch.relu(self.inner(y))))
        return self.head(F.avg_pool2d(y, 2).flatten(1))


MADE = {
    "stem": ["stem.weight", "norm.weight", "norm.bias", "outer.weight", "outer.bias",
             "last.weight", "last.bias"],
    "inner": ["inner.weight", "inner.bias"],
}  # fmt: skip


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    net = Net().double()
    for norm in (net.norm, net.last):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return net


@pytest.fixture
def graph(model: Net) -> Graph:
    return netir.trace(model, (torch.randn(2, 3, 8, 8, dtype=torch.float64),))


def by_hand(model: Net, index: int, space: str, readers: bool = False) -> Tensor:
    """All that makes one channel, and all that reads it, as one vector."""
    params = dict(model.named_parameters())
    parts = [params[name][index].flatten() for name in MADE[space]]
    if readers and space == "stem":
        parts += [params["inner.weight"][:, index].flatten()]
        parts += [params["head.weight"].view(3, 6, 16)[:, index].flatten()]
    elif readers:
        parts += [params["outer.weight"][:, index].flatten()]
    return torch.cat(parts)


@pytest.mark.parametrize("readers", [False, True])
def test_group_lasso_is_the_sum_of_lengths(model: Net, graph: Graph, readers: bool) -> None:
    want = 0.0
    for space, size in (("stem", 6), ("inner", 4)):
        for i in range(size):
            vector = by_hand(model, i, space, readers)
            want += sqrt(len(vector)) * vector.norm().item()
    found = Regulariser(graph, readers=readers).penalty(model)
    assert found.item() == pytest.approx(want, rel=1e-12)


def test_bn_is_the_length_of_all_scales_of_a_channel(model: Net, graph: Graph) -> None:
    scales = torch.stack([model.norm.weight, model.last.weight])
    want = sqrt(2) * scales.norm(dim=0).sum().item()
    assert Regulariser(graph, kind="bn").penalty(model).item() == pytest.approx(want, rel=1e-12)


def test_growing_raises_the_smallest_most(model: Net, graph: Graph) -> None:
    regulariser = Regulariser(graph, "inner", kind="growing")
    assert regulariser.penalty(model).item() == 0
    lengths = torch.stack([by_hand(model, i, "inner").norm() for i in range(4)])
    assert torch.allclose(regulariser.lengths(model)["inner"], lengths)
    regulariser.grow(model, 0.5)
    regulariser.grow(model, 0.25)
    strengths = 0.75 * (lengths.max() - lengths) / (lengths.max() - lengths.min())
    want = (strengths * lengths.square()).sum().item()
    assert regulariser.penalty(model).item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("readers", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_added_gradients_are_those_of_the_penalty(
    model: Net, graph: Graph, kind: str, readers: bool
) -> None:
    regulariser = Regulariser(graph, kind=kind, readers=readers)
    with torch.no_grad():
        for name in MADE["inner"]:
            model.get_parameter(name)[2] = 0  # a channel that is gone
    if kind == "growing":
        regulariser.grow(model, 0.3)
    loss = model(torch.ones(2, 3, 8, 8, dtype=torch.float64)).square().sum()
    loss.backward(retain_graph=True)
    regulariser.add_gradients(model, 0.7)
    total = loss + 0.7 * regulariser.penalty(model)
    want = torch.autograd.grad(total, list(model.parameters()))
    for have, wanted in zip(model.parameters(), want, strict=True):
        assert wanted.isfinite().all()
        assert torch.allclose(have.grad, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["llama", "shufflenet_v2", "densenet121", "vit_b_16"])
def test_products_and_concatenations_of_spaces(name: str) -> None:
    """Heads, shuffled halves, concatenations: gradients by the penalty's own autograd."""
    sample, (_, graph) = fresh(name), traced(name)
    regulariser = Regulariser(graph, readers=True)
    regulariser.add_gradients(sample.model, 0.1)
    have = {n: p.grad for n, p in sample.model.named_parameters() if p.grad is not None}
    sample.model.zero_grad()
    (0.1 * regulariser.penalty(sample.model)).backward()
    for name, parameter in sample.model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(have[name], parameter.grad, rtol=1e-4, atol=1e-6), name
    assert len(have) > 5


@pytest.mark.parametrize("name", ["llama", "shufflenet_v2", "densenet121", "gpt2"])
def test_the_weights_of_a_channel_are_those_that_go_with_it(name: str) -> None:
    sample, graph = traced(name)
    for space in [s for s in graph.spaces() if not s.frozen and s.producers][:12]:
        made = {m.param for m in space.producers if graph.params[m.param].kind == "param"}
        index = space.size // 2
        kept = [i for i in range(space.size) if i != index]
        thin = netir.change_basis(graph, {space: netir.select(kept)}).graph if kept else None
        if thin is None or any(m.param in made and m not in space.producers for m in space.members):
            continue
        mass = [sum(g.params[n].data.double().square().sum() for n in made) for g in (graph, thin)]
        length = Regulariser(graph, space.name).lengths(sample.model)[space.name][index]
        assert length.square().item() == pytest.approx((mass[0] - mass[1]).item(), rel=1e-4)


def test_training_drives_channels_to_zero_as_a_whole() -> None:
    """Two makers of one residual space lose the same channels, in all their weights together."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 8)
            self.head = nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x)
            return self.head(torch.tanh(y + self.outer(torch.tanh(self.inner(y)))))

    torch.manual_seed(0)
    model, x = Small(), torch.randn(256, 4)
    target = torch.tanh(x[:, :1] + x[:, 1:2])
    graph = netir.trace(model, (x,))
    regulariser = Regulariser(graph)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        optimizer.zero_grad()
        F.mse_loss(model(x), target).backward()
        regulariser.add_gradients(model, 2e-3)
        optimizer.step()
        schedule.step()
    lengths = regulariser.lengths(model)["stem"]
    gone = lengths < 1e-2
    assert 1 <= gone.sum() < 8
    assert lengths[~gone].min() > 0.1
    for name in ("stem.weight", "stem.bias", "outer.weight", "outer.bias"):
        assert model.get_parameter(name).detach()[gone].abs().max() < 1e-2
    with torch.no_grad():
        thin = Prune("stem", amount=gone.double().mean().item(), score="l2")(graph_of(model, x))
        assert (netir.run(thin, x) - model(x)).abs().max() < 0.05
        assert F.mse_loss(model(x), target) < 0.1


def graph_of(model: nn.Module, x: Tensor) -> Graph:
    return netir.trace(model, (x,))


def test_a_lowered_and_a_compiled_module_have_the_names(model: Net, graph: Graph) -> None:
    regulariser = Regulariser(graph)
    want = regulariser.penalty(model).item()
    lowered = netir.to_torch(graph)
    assert regulariser.penalty(lowered).item() == pytest.approx(want)
    assert regulariser.penalty(torch.compile(model, backend="eager")).item() == pytest.approx(want)
    assert regulariser.penalty(nn.DataParallel(model)).item() == pytest.approx(want)


def test_parameters_that_are_not_trained_stay(model: Net, graph: Graph) -> None:
    model.inner.requires_grad_(False)
    Regulariser(graph).add_gradients(model, 1.0)
    assert model.inner.weight.grad is None
    assert model.stem.weight.grad.any()


def test_half_precision_sums_are_wide() -> None:
    model = nn.Sequential(nn.Linear(4000, 2), nn.ReLU(), nn.Linear(2, 2)).half()
    nn.init.constant_(model[0].weight, 200.0)
    nn.init.zeros_(model[0].bias)
    regulariser = Regulariser(netir.trace(model, (torch.randn(2, 4000).half(),)))
    want = 2 * sqrt(4001) * 200 * sqrt(4000)
    assert regulariser.penalty(model).item() == pytest.approx(want, rel=1e-5)
    regulariser.add_gradients(model, 1.0)
    assert model[0].weight.grad.dtype == torch.float16
    assert model[0].weight.grad[0, 0].item() == pytest.approx(sqrt(4001 / 4000), rel=1e-3)


def test_what_is_refused(model: Net, graph: Graph) -> None:
    with pytest.raises(NetirError, match="no regulariser 'lasso'") as caught:
        Regulariser(graph, kind="lasso")
    assert "group_lasso" in caught.value.fix
    with pytest.raises(NetirError, match="nothing to regularise by 'bn'"):
        Regulariser(graph, "inner", kind="bn")
    with pytest.raises(NetirError, match="names no space"):
        Regulariser(graph, "intter")
    with pytest.raises(NetirError, match="do not grow"):
        Regulariser(graph).grow(model, 0.1)
    with pytest.raises(NetirError, match="the module has none") as caught:
        Regulariser(graph).penalty(nn.Linear(3, 3))
    assert caught.value.where == "stem.weight"
    thin = netir.to_torch(Prune("inner", amount=0.5)(graph))
    with pytest.raises(NetirError, match=r"one of shape \(6, 2, 3, 3\)") as caught:
        Regulariser(graph).add_gradients(thin, 0.1)
    assert "new graph" in caught.value.fix
    assert all(p.grad is None for p in thin.parameters())
