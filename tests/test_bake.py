"""Bake: computed weights become plain ones, exactly, and layers become modules again."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

import netir
from netir.basis import Contract
from netir.errors import NetirError, NetirWarning
from netir.ir import Graph
from netir.kernels.layers import GroupPool, MixedGroupConv2d
from netir.passes import Bake, Mask, Prune, Widen
from netir.verify import verify

ROW = torch.randn(5, 6, generator=torch.Generator().manual_seed(2)).double()
IMAGE = torch.randn(2, 4, 7, 7, generator=torch.Generator().manual_seed(1)).double()


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(layer)


class Factors(nn.Module):
    """A weight of low rank plus a part that is symmetric."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 6))
        self.whole = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.a @ self.b)
        return nn.functional.linear(y, torch.tril(self.whole) + torch.tril(self.whole, -1).T)


@pytest.mark.parametrize(
    ("model", "x", "names"),
    [
        (parametrizations.weight_norm(nn.Linear(6, 4)), ROW, {"weight", "bias"}),
        (old_weight_norm(nn.Conv2d(4, 3, 3)), IMAGE, {"weight", "bias"}),
        (parametrizations.spectral_norm(nn.Conv2d(4, 3, 3, bias=False)), IMAGE, {"weight"}),
        (prune.l1_unstructured(nn.Linear(6, 4), "weight", 0.4), ROW, {"weight", "bias"}),
        (Factors(), ROW, {"a_baked", "whole"}),
    ],
    ids=["weight_norm", "old_weight_norm", "spectral_norm", "torch_prune", "factors"],
)
def test_computed_weights(model: nn.Module, x: Tensor, names: set[str]) -> None:
    model = nn.ModuleDict({"layer": model}).double().eval()
    layer = model["layer"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)  # spectral norm iterates in train mode
        graph = netir.trace(Wrapped(layer), (x,))
    after = Bake()(graph)
    assert set(after.params) == {f"layer.{name}" for name in names}
    assert all(p.kind == "param" and p.trainable for p in after.params.values())
    assert verify(graph, after, x).contract is Contract.EXACT
    module = netir.to_torch(after)
    assert (layer(x) - module(x)).abs().max() <= 1e-12
    if "weight" in names:
        assert type(module.get_submodule("layer")) in (nn.Linear, nn.Conv2d)
        assert torch.allclose(layer.weight, after.params["layer.weight"].data, rtol=1e-12)


class Wrapped(nn.Module):
    """A layer that has a name."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Two(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))


@pytest.fixture
def graph() -> Graph:
    return netir.trace(Two().double(), (ROW,))


def test_a_baked_mask_is_a_weight_with_zeros(graph: Graph) -> None:
    masked = Mask(amount=0.4)(graph)
    result = Bake().apply(masked)
    assert result.graph.params.keys() == graph.params.keys()
    for name in ("one.weight", "two.weight"):
        want = graph.params[name].data * masked.params[f"{name}_mask"].data
        assert torch.equal(result.graph.params[name].data, want)
    assert torch.equal(netir.run(masked, ROW), netir.run(result.graph, ROW))
    assert [n.op.name for n in result.graph.nodes.values()] == ["linear", "relu", "linear"]
    assert type(netir.to_torch(result.graph).get_submodule("one")) is nn.Linear
    assert set(result.moves.removed) == {"one.weight_mask", "two.weight_mask"}
    one = Bake("one")(masked)
    assert "one.weight_mask" not in one.params
    assert "two.weight_mask" in one.params


def test_after_changes_of_width(graph: Graph) -> None:
    current = Mask(amount=0.4)(graph)
    for rewrite in (Widen("one", factor=1.5), Prune("one", amount=0.3)):
        current = rewrite(current)
    baked = Bake()(current)
    verify(current, baked, ROW)
    assert baked.params["one.weight"].data.shape == (8, 6)


def test_float32_weights_are_rounded_once() -> None:
    layer = parametrizations.weight_norm(nn.Linear(6, 4)).eval()
    x = ROW.float()
    graph = netir.trace(Wrapped(layer), (x,))
    after = Bake()(graph)
    path = "layer.parametrizations.weight.original"
    g, v = (graph.params[f"{path}{i}"].data.double() for i in (0, 1))
    want = (v * g / v.norm(dim=1, keepdim=True)).float()
    assert torch.allclose(after.params["layer.weight"].data, want, rtol=1e-7)
    verify(graph, after, x)


class Shared(nn.Module):
    """One parameter that two layers are made from, in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, torch.tanh(self.table))
        return nn.functional.linear(y, torch.tanh(self.table).T)


class Parts(nn.Module):
    """Three weights that are cut out of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Parameter(torch.randn(9, 6))

    def forward(self, x: Tensor) -> Any:
        return [nn.functional.linear(x, part) for part in self.whole.chunk(3)]


@pytest.mark.parametrize(("model", "reason"), [(Shared(), "'table'"), (Parts(), "'chunk.1'")])
def test_what_is_trained_together_stays_together(model: nn.Module, reason: str) -> None:
    graph = netir.trace(model.double(), (ROW,))
    with pytest.warns(NetirWarning, match=f"{reason}.*is read elsewhere too"):
        assert Bake()(graph) is graph


def test_a_mixture_keeps_the_norms_that_its_weights_have() -> None:
    layers = [MixedGroupConv2d(4, 2, 3, ("C4", "C1"), lifting=True, weight_norm=True),
              MixedGroupConv2d(2, 3, 3, ("C4", "C2"), weight_norm=True)]  # fmt: skip
    model = nn.Sequential(*layers, GroupPool("C4")).double()
    with torch.no_grad():
        for layer in layers:
            layer.weight *= 3
            layer.logits.normal_()  # type: ignore[union-attr]
    graph = netir.trace(model, (IMAGE,))
    result = Bake().apply(graph)
    verify(graph, result.graph, IMAGE)
    assert set(result.moves.removed) == {"0.norms", "1.norms"}
    norm = float(result.graph.params["0.weight"].data.norm())
    assert norm == pytest.approx(float(layers[0].norms[0]))  # type: ignore[index]
    module = netir.to_torch(result.graph).get_submodule("1")
    assert isinstance(module, MixedGroupConv2d)
    assert module.norms is None
    with pytest.raises(NetirError, match="one norm together"):
        Widen("0")(graph)
    wide = Widen("*", factor=2)(result.graph)
    assert wide.params["1.weight_C2"].data.shape == (2, 3, 3, 3, 4, 4)
    verify(result.graph, wide, IMAGE)


def test_mixtures_that_cannot_be_baked() -> None:
    first, second = (MixedGroupConv2d(4, 2, 3, ("C4", "C1"), lifting=True, weight_norm=True)
                     for _ in range(2))  # fmt: skip
    second.weight = first.weight

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + self.second(x)

    graph = netir.trace(Both().double(), (IMAGE,))
    with pytest.warns(NetirWarning, match=r"first.weight is shared.*first.weight is shared"):
        assert Bake()(graph) is graph
    with torch.no_grad():
        second.weight_C1.zero_()
    with pytest.warns(NetirWarning, match="a weight of it has norm 0"):
        Bake()(netir.trace(nn.Sequential(second).double(), (IMAGE,)))


def test_a_place_that_computes_no_weight(graph: Graph) -> None:
    with pytest.warns(NetirWarning, match="changes nothing"):
        assert Bake("one")(graph) is graph
    with pytest.raises(NetirError, match="changes nothing"):
        Bake(require_change=True)(graph)
    with pytest.raises(NetirError, match="names no node"):
        Bake("three")(graph)
