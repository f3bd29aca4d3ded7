"""Fold: norms and scales against the original in float64, what is refused, and that it ends."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import netir
from netir.errors import NetirError, NetirWarning
from netir.ir import Graph
from netir.passes import Fold
from netir.verify import verify
from tests.zoo.traced import traced

BOUND = 1e-12


def randomised(model: nn.Module) -> nn.Module:
    """Float64, no parameter or statistic at its usual start."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point():
                tensor.normal_()
                if name.endswith("var"):
                    tensor.abs_().add_(0.3)
    return model.double().eval()


def folded(model: nn.Module, x: Tensor, **options: Any) -> tuple[Graph, Graph]:
    """A model's graph before and after; the outputs agree, computed by torch itself."""
    graph = netir.trace(randomised(model), (x,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        after = Fold(**options)(graph)
    want = model(x).detach()
    error = (want - netir.to_torch(after)(x)).abs().max()
    assert error <= BOUND * max(1, float(want.abs().max()))
    return graph, after


def ops(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes.values()]


IMAGE = torch.randn(2, 4, 7, 7, generator=torch.Generator().manual_seed(1)).double()
ROW = torch.randn(5, 4, generator=torch.Generator().manual_seed(2)).double()
LINE = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(3)).double()
CUBE = torch.randn(2, 4, 3, 4, 5, generator=torch.Generator().manual_seed(4)).double()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("layer", "norm", "x"),
    [
        (lambda bias: nn.Linear(4, 6, bias=bias), nn.BatchNorm1d, ROW),
        (lambda bias: nn.Conv1d(4, 6, 3, bias=bias), nn.BatchNorm1d, LINE),
        (lambda bias: nn.Conv2d(4, 6, 3, 2, 1, bias=bias), nn.BatchNorm2d, IMAGE),
        (lambda bias: nn.Conv2d(4, 6, 3, padding="same", groups=2, bias=bias), nn.BatchNorm2d,
         IMAGE),
        (lambda bias: nn.Conv2d(4, 8, 3, groups=4, bias=bias), nn.BatchNorm2d, IMAGE),
        (lambda bias: nn.Conv3d(4, 6, 2, bias=bias), nn.BatchNorm3d, CUBE),
        (lambda bias: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, bias=bias), nn.BatchNorm2d, IMAGE),
        (lambda bias: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=bias), nn.BatchNorm2d, IMAGE),
        (lambda bias: nn.ConvTranspose1d(4, 6, 3, groups=2, bias=bias), nn.BatchNorm1d, LINE),
    ],
)  # fmt: skip
def test_norm_behind_a_layer(
    layer: Callable[[bool], nn.Module], norm: Any, x: Tensor, bias: bool, affine: bool
) -> None:
    first = layer(bias)
    width = first.out_features if isinstance(first, nn.Linear) else first.out_channels
    model = nn.Sequential(first, norm(width, affine=affine))
    graph, after = folded(model, x, what="norm")
    assert ops(after) == ops(graph)[:1]
    assert list(after.params) == ["0.weight", "0.bias"]
    module = netir.to_torch(after)
    assert type(module.get_submodule("0")) is type(first)
    assert module.state_dict().keys() == {"0.weight", "0.bias"}


def test_norm_by_its_formula() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, eps=0.1))
    _, after = folded(model, ROW, what="norm")
    linear, norm = model
    scale = norm.weight / (norm.running_var + 0.1).sqrt()
    assert torch.allclose(after.params["0.weight"].data, linear.weight * scale[:, None])
    shift = (linear.bias - norm.running_mean) * scale + norm.bias
    assert torch.allclose(after.params["0.bias"].data, shift)


@pytest.mark.parametrize(
    ("norm", "layer", "x"),
    [
        (nn.BatchNorm1d(4), nn.Linear(4, 3), ROW),
        (nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, bias=False), IMAGE),
        (nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, 2, dilation=2, groups=2), IMAGE),
        (nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 3, groups=4, padding="valid"), IMAGE),
        (nn.BatchNorm1d(4), nn.Conv1d(4, 2, 1), LINE),
    ],
)
def test_norm_before_a_layer(norm: nn.Module, layer: nn.Module, x: Tensor) -> None:
    _, after = folded(nn.Sequential(norm, layer), x, what="norm-before")
    assert len(after.nodes) == 1
    assert list(after.params) == ["1.weight", "1.bias"]


@pytest.mark.parametrize("pad", [0, 1])
def test_norm_before_a_linear_layer_behind_flatten(pad: int) -> None:
    """Each column takes the scale and shift of the channel that it reads."""
    channels, *sides = IMAGE.shape[1:]
    inputs = channels * math.prod(side + 2 * pad for side in sides)
    first = nn.Conv2d(channels, channels, 1, padding=pad)
    model = nn.Sequential(
        first, nn.ReLU(), nn.BatchNorm2d(channels), nn.Flatten(), nn.Linear(inputs, 3, bias=False)
    )
    _, after = folded(model, IMAGE, what="norm-before")
    assert [node.op.name for node in after.nodes.values()] == ["conv", "relu", "reshape", "linear"]
    assert "4.bias" in after.params


def test_norm_behind_flatten_that_others_read_stays() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(IMAGE[0].numel(), 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            flat = self.norm(x).flatten(1)
            return self.head(flat), flat.tanh()

    graph = netir.trace(randomised(Two()), (IMAGE,))
    with pytest.warns(NetirWarning, match="changes nothing"):
        assert Fold(what="norm-before")(graph) is graph


def test_norm_before_padding_is_refused_unless_it_shifts_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1))
    graph = netir.trace(randomised(model), (IMAGE,))
    with pytest.raises(NetirError, match="cannot change 'batch_norm'") as caught:
        Fold("0", what="norm-before")(graph)
    assert "pads with zeros" in caught.value.where
    with pytest.warns(NetirWarning, match="pads with zeros"):
        assert Fold("*")(graph) is graph
    with torch.no_grad():
        model[0].bias.zero_()
        model[0].running_mean.zero_()
    after = Fold()(netir.trace(model, (IMAGE,)))
    assert ops(after) == ["conv"]
    assert (model(IMAGE) - netir.run(after, IMAGE)).abs().max() <= BOUND


class Branches(nn.Module):
    """A batch norm that two layers read, after one whose input is read elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.one, self.two = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.norm(y)
        return self.one(z) * self.two(z) + y[:, :3]


def test_a_norm_moves_forward_where_it_cannot_move_back() -> None:
    graph, after = folded(Branches(), IMAGE, what="norm")
    assert after is graph
    with pytest.warns(NetirWarning, match="'slice_1' reads 'conv2d' too|reads 'conv2d' too"):
        Fold(what="norm")(graph)
    _, after = folded(Branches(), IMAGE, what="norm norm-before")
    assert "batch_norm" not in ops(after)


class Twice(nn.Module):
    """A layer that is called twice, normalised once."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.norm(self.linear(x))))


def test_a_tied_weight_is_left() -> None:
    graph = netir.trace(randomised(Twice()), (ROW,))
    with pytest.warns(NetirWarning, match=r"'linear.weight' is read elsewhere too"):
        assert Fold()(graph) is graph


class Scaled(nn.Module):
    """Numbers, vectors and images of constants around layers; two of them reach further."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.last = nn.Conv2d(6, 3, 3)
        self.gamma = nn.Parameter(torch.zeros(6, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, 6, 1, 1))
        self.register_buffer("mean", torch.zeros(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = (2.5 - self.conv((x - self.mean) / 0.7)) * self.gamma + self.shift
        return -self.last((torch.relu(y) - self.shift) / 3 + 1)


def test_scales() -> None:
    """All but the shift before a convolution that pads with zeros."""
    graph, after = folded(Scaled(), IMAGE, what="scale")
    assert ops(after) == ["sub", "conv", "relu", "conv"]
    assert after.history[-1].contract == "exact"
    before, now = netir.to_torch(graph).train(), netir.to_torch(after).train()
    assert torch.allclose(before(IMAGE), now(IMAGE), rtol=BOUND)
    assert now.get_submodule("conv").bias is not None


class Mixed(nn.Module):
    """Scales that no layer can take: along positions, by a size, of a tensor of another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.rows = nn.Parameter(torch.zeros(5, 1))
        self.full = nn.Parameter(torch.zeros(5, 4))
        self.grown = nn.Parameter(torch.zeros(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(self.linear(x) * self.rows) + self.full
        return (1 / y) * x.shape[0] + self.grown


def test_scales_that_stay() -> None:
    graph = netir.trace(randomised(Mixed()), (ROW,), dynamic={})
    with pytest.warns(NetirWarning):
        assert Fold(what="scale")(graph) is graph


@pytest.mark.parametrize("name", ["resnet", "convnext_block", "llama", "frozen_batch_norm"])
def test_a_second_fold_finds_nothing(name: str) -> None:
    _, graph = traced(name)
    after = Fold()(graph)
    with pytest.warns(NetirWarning, match="changes nothing"):
        assert Fold()(after) is after


def test_lowering_keeps_the_paths_of_modules() -> None:
    sample, graph = traced("resnet")
    module = netir.to_torch(Fold()(graph))
    convolutions = {n: m for n, m in sample.model.named_modules() if isinstance(m, nn.Conv2d)}
    for path, conv in convolutions.items():
        found = module.get_submodule(path)
        assert type(found) is nn.Conv2d
        assert found.weight.shape == conv.weight.shape
        assert found.bias is not None
    assert not any(isinstance(m, nn.BatchNorm2d) for m in module.modules())


def pairs() -> nn.Module:
    first, second = nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3)
    return nn.Sequential(first, nn.BatchNorm2d(6), nn.ReLU(), second, nn.BatchNorm2d(6))


def test_moves_chain_over_the_rounds() -> None:
    graph = netir.trace(randomised(pairs()), (IMAGE,))
    result = Fold().apply(graph)
    assert len(result.graph.history) == len(graph.history) + 1
    assert {"0.weight", "3.weight"} <= result.moves.params.keys()
    gone = {n for n in graph.params if n.startswith(("1.", "4."))}
    assert set(result.moves.removed) == gone


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float64(dtype: torch.dtype) -> None:
    model = randomised(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))).to(dtype)
    x = IMAGE.to(dtype)
    graph = netir.trace(model, (x,))
    after = Fold()(graph)
    conv, norm = model
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    want = (conv.weight.double() * scale.view(-1, 1, 1, 1)).to(dtype)
    assert torch.equal(after.params["0.weight"].data, want)
    verify(graph, after, x)


def test_weights_that_are_not_finite_are_left() -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.warns(NetirWarning, match="not finite"):
        Fold()(netir.trace(model, (ROW,)))


def test_where() -> None:
    graph = netir.trace(randomised(pairs()), (IMAGE,))
    result = Fold("4").apply(graph)
    assert result.report.changed == ("batch_norm_1",)
    assert ops(result.graph) == ["conv", "batch_norm", "relu", "conv"]
    assert [s.name for s in Fold().match(graph)] == ["batch_norm", "batch_norm_1"]


def test_unknown_rules() -> None:
    with pytest.raises(NetirError, match="no rule 'norms'") as caught:
        Fold(what="dead norms")
    assert caught.value.fix == "did you mean 'norm'?"
    with pytest.raises(NetirError, match="no rule ''"):
        Fold(what="")


def test_rounding_that_a_network_magnifies_is_no_fault() -> None:
    """Folded weights are rounded once more; a badly conditioned network shows what any would."""
    sample, graph = traced("mobilenet_v2")
    after = Fold(what="norm")(graph)
    verdict = verify(graph, after, sample.args, sample.kwargs)
    assert verdict.error <= verdict.bound
    with graph.edit() as edit:
        name = next(iter(after.params))
        edit.set_param(name, graph.params[name].data * 1.5)
    with pytest.raises(NetirError, match="does not keep its contract"):
        verify(graph, edit.graph, sample.args, sample.kwargs)
