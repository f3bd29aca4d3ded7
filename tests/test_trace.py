"""Tracing: inputs and outputs, sizes, writes in place, warnings, and clear errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils import _pytree as pytree

import netir
from netir.ops.activation import Dropout
from netir.ops.attention import Attention
from tests.mistakes import Calls
from tests.zoo.traced import NAMES, fresh, traced


def slice_added(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 1:3] += 1
    return y


def view_of_view(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :4].transpose(0, 1)[1:3].mul_(3)
    return y


def read_after_write(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 1
    left, row, turned = y[:, :2], y[0], y.t()
    y[:, 0] = 7
    y.mul_(2)
    return left + 1, row - 1, turned * 2, y


def two_views(x: Tensor) -> Tensor:
    y = x + 0.5
    a, b = y[:, :3], y[:, 2:5]
    a.add_(1)
    b.mul_(2)
    a.sub_(b)
    return y


def copied(x: Tensor) -> Tensor:
    y = torch.zeros(x.shape[0], 6, dtype=torch.float64)
    y[:, 1:4].copy_(x[:, :1])
    y[:, 4].copy_(x[0, 1])
    return y


def filled(x: Tensor) -> Tensor:
    y = x * 3
    y[:, 2].fill_(5)
    y[:, 3:].zero_()
    return y


def relu_on_view(x: Tensor) -> Tensor:
    y = x - 0.1
    y[:, ::2].relu_()
    F.relu(y[:, 1:3], inplace=True)
    return y


def indexed(x: Tensor) -> Tensor:
    y = x * 1
    y[:, torch.tensor([0, 4])] = -1.0
    y[y > 1] = 0.0
    y.index_put_((torch.tensor([0]),), y[1:2].clone())
    return y


def scattered(x: Tensor) -> Tensor:
    y = x * 1
    y.scatter_(1, torch.zeros(x.shape[0], 1, dtype=torch.long), 9.0)
    y.index_add_(1, torch.tensor([2]), y[:, :1])
    return y.masked_fill_(y < 0, 0.25).clamp_(-1, 8)


def chunk_written(x: Tensor) -> Tensor:
    y = x * 1
    a, b = y.chunk(2, 1)
    a += b
    b.mul_(2)
    return y + torch.cat([b, a], 1)


def split_written(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 1
    parts = y.split([1, 3, 2], 1)
    parts[1].zero_()
    first, *_ = y.unbind(1)
    first.add_(4)
    return y, parts[0] * 1, parts[1] + parts[1]


def unbind_written(x: Tensor) -> Tensor:
    y = x.t() * 1
    rows = y.unbind(0)
    rows[2].neg_()
    rows[0].copy_(rows[2])
    return y


def reshaped(x: Tensor) -> Tensor:
    y = x * 1
    y.view(-1, 2, 3)[:, 1].add_(5)
    y.unsqueeze(1).squeeze(1).mul_(2)
    return y


def written_in_no_grad(x: Tensor) -> Tensor:
    y = x * 1
    with torch.no_grad():
        z = y[:, 1:]
        z.add_(1)
    return y * 2 + z.sum()


def dtype_kept(x: Tensor) -> Tensor:
    y = x.half()
    y += x
    y[:, :2] *= x[:, :2]
    return y


def result_of_write(x: Tensor) -> Tensor:
    y = x * 1
    z = y.add_(1)
    w = y[:, 1].mul_(2)
    z[:, 0] = 3
    return y + z + w[:, None]


def detached(x: Tensor) -> Tensor:
    y = x * 1
    y.detach()[:, 0] = 2
    return y


def swapped(x: Tensor) -> Tensor:
    y = x * 1
    y[:, 0], y[:, 1] = y[:, 1].clone(), y[:, 0].clone()
    y[:, 1:] = y[:, :-1].clone()
    return y


def masked_in_loop(x: Tensor) -> Tensor:
    mask = torch.zeros(6, 6)
    for i in range(3):
        mask[i, i:] = i + 1.0
    return x @ mask


def in_place_on_input_alias(x: Tensor) -> Tensor:
    return x.view(-1)[:5].clone().add_(1) + x.flatten()[:5]


WRITES = [
    slice_added, view_of_view, read_after_write, two_views, copied, filled, relu_on_view, indexed,
    scattered, chunk_written, split_written, unbind_written, reshaped, written_in_no_grad,
    dtype_kept, result_of_write, detached, swapped, masked_in_loop, in_place_on_input_alias,
]  # fmt: skip


@pytest.mark.parametrize("function", WRITES, ids=lambda f: f.__name__)
def test_writes_in_place(function: Callable[..., Any]) -> None:
    torch.manual_seed(1)
    x = torch.randn(3, 6)
    graph = netir.trace(Calls(function), (x,))
    other = torch.randn(5, 6)
    for given in (x, other):
        expected, found = function(given.clone()), netir.run(graph, given)
        pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
        for a, b in pairs:
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
    module = netir.to_torch(graph)
    assert all(map(torch.equal, pytree.tree_leaves(function(other.clone())),
                   pytree.tree_leaves(module(other))))  # fmt: skip


def doubtful_reshape(x: Tensor) -> Tensor:
    y = x.t()
    z = y.reshape(-1)
    z += 1
    return y * 1 + z.sum()


def doubtful_dropout(x: Tensor) -> Tensor:
    y = x * 1
    z = F.dropout(y, 0.5, False)
    z += 1
    return y + z


def expanded(x: Tensor) -> Tensor:
    y = x * 1
    d = torch.diagonal(y, 0, 0, 1)
    d += 1
    return y


@pytest.mark.parametrize("function", [doubtful_reshape, doubtful_dropout, expanded])
def test_writes_that_cannot_be_told_are_refused_or_right(function: Callable[..., Any]) -> None:
    x = torch.randn(3, 6)
    try:
        graph = netir.trace(Calls(function), (x,))
    except netir.NetirError as error:
        assert "in place" in error.what  # noqa: PT017 - one of two good ends
        return
    assert torch.equal(netir.run(graph, x), function(x.clone()))


def test_written_inputs_and_buffers_are_told() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            x.mul_(2)
            return x + self.calls

    model, x = Counts(), torch.randn(2, 3)
    kept = x.clone()
    with pytest.warns(netir.NetirWarning) as told:
        graph = netir.trace(model, (x,))
    messages = [str(w.message) for w in told]
    assert any("buffer 'calls'" in m for m in messages)
    assert any("input 'x'" in m for m in messages)
    assert torch.equal(x, kept)
    assert torch.equal(netir.run(graph, x), x * 2 + model.calls + 1)


# Sizes.


def test_a_batch_of_one_stays_open() -> None:
    graph = netir.trace(nn.Linear(3, 4), (torch.randn(1, 3),))
    assert str(graph.inputs["input"].shape[0]) == "batch"
    assert netir.run(graph, torch.randn(5, 3)).shape == (5, 4)


def test_axes_are_named_on_request() -> None:
    model = Calls(lambda x: x.cumsum(1).flatten(0, 1))
    graph = netir.trace(model, (torch.randn(2, 5, 3),), dynamic={"x": {0: "batch", 1: "length"}})
    assert [str(d) for d in graph.inputs["x"].shape] == ["batch", "length", "3"]
    assert netir.run(graph, torch.randn(4, 7, 3)).shape == (28, 3)


def test_an_axis_that_cannot_be_open_is_named() -> None:
    model = Calls(lambda x: x.view(-1, 5, 3) if x.shape[1] == 5 else x)
    with pytest.raises(netir.NetirError, match=r"axis 1 of 'x', wanted open as 'n', is always 5"):
        netir.trace(model, (torch.randn(2, 5, 3),), dynamic={"x": {1: "n"}})


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({2: "n"}, "'x' has no axis 2\n  fix use 0 to 1"),
        ({-1: "n"}, "'x' has no axis -1"),
        ({1: "two words"}, r"dynamic of 'x' is \{1: 'two words'\}\n  fix name axes, as in"),
        ({1: 5}, "dynamic of 'x' is"),
        (["n"], "dynamic of 'x' is"),
    ],
)
def test_axes_that_cannot_be_named(axes: Any, message: str) -> None:
    with pytest.raises(netir.NetirError, match=message):
        netir.trace(Calls(torch.relu), (torch.randn(2, 3),), dynamic={"x": axes})


def test_an_op_that_fits_only_some_of_the_wanted_sizes_is_told() -> None:
    model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))
    with pytest.warns(netir.NetirWarning, match="linear does not fit every size: .* h and w out"):
        graph = netir.trace(
            model, (torch.randn(2, 2, 8, 8),), dynamic={"input": {2: "h", 3: "w"}}
        )
    assert netir.run(graph, torch.randn(5, 2, 8, 8)).shape == (5, 3)


def test_unknown_inputs_are_named() -> None:
    with pytest.raises(netir.NetirError, match="'y'"):
        netir.trace(Calls(torch.relu), (torch.randn(2, 3),), dynamic={"y": {0: "n"}})


def test_sizes_that_depend_on_data_are_refused() -> None:
    with pytest.raises(netir.NetirError, match="depends on the values"):
        netir.trace(Calls(lambda x: x.nonzero()), (torch.randn(2, 3),))


def test_returned_sizes_are_refused() -> None:
    with pytest.raises(netir.NetirError, match="size"):
        netir.trace(Calls(lambda x: (x, x.shape[0])), (torch.randn(2, 3),))


# Inputs.


class Collects(nn.Module):
    """Takes whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor, *rest: Tensor, **more: Tensor) -> Tensor:
        return self.head(x + sum(rest)) * more["gain"] - more["shift"]


def test_inputs_are_in_the_order_of_the_arguments() -> None:
    _, graph = traced("keywords")  # called with gain before y
    assert list(graph.inputs) == list(graph.arguments) == ["x", "y", "gain"]


def test_collected_inputs() -> None:
    model = Collects()
    made = lambda n: [torch.randn(n, 3) for _ in range(5)]  # noqa: E731
    x, y, z, gain, shift = made(2)
    graph = netir.trace(model, (x, y, z), {"shift": shift, "gain": gain})
    assert list(graph.arguments) == ["x", "rest_0", "rest_1", "shift", "gain"]
    x, y, z, gain, shift = made(4)
    found = netir.to_torch(graph)(x, y, z, gain=gain, shift=shift)
    assert torch.equal(found, model(x, y, z, gain=gain, shift=shift))
    assert "forward" not in model.__dict__


@dataclass
class Pair:
    """Two tensors."""

    left: Tensor
    right: Tensor | None = None


pytree.register_dataclass(Pair)


def test_dataclasses_and_nested_containers() -> None:
    class Takes(nn.Module):
        def forward(self, pair: Pair, more: dict[str, Any]) -> dict[str, Any]:
            return {"sum": [pair.left + more["a"][0]], "pair": Pair(pair.left * 2, more["a"][1])}

    pair, more = Pair(torch.randn(2, 3)), {"a": (torch.randn(2, 3), torch.randn(2, 1))}
    graph = netir.trace(Takes(), (pair, more))
    module = netir.to_torch(graph)
    pair, more = Pair(torch.randn(4, 3)), {"a": (torch.randn(4, 3), torch.randn(4, 1))}
    expected, found = Takes()(pair, more), module(pair, more)
    assert torch.equal(found["sum"][0], expected["sum"][0])
    assert isinstance(found["pair"], Pair)
    assert torch.equal(found["pair"].right, more["a"][1])


def test_wrong_calls_are_errors() -> None:
    with pytest.raises(netir.NetirError, match="cannot be called"):
        netir.trace(nn.Linear(3, 4), ())
    with pytest.raises(netir.NetirError, match="cannot trace a builtin"):
        netir.trace(torch.relu, (torch.randn(2),))  # type: ignore[arg-type]
    with pytest.raises(netir.NetirError, match="cannot export"):
        netir.trace(nn.Linear(3, 4), (torch.randn(2, 5),))
    with pytest.raises(netir.NetirError, match="no frontend 'torch_fxx'"):
        netir.trace(nn.Linear(3, 4), (torch.randn(2, 3),), frontend="torch_fxx")  # type: ignore[arg-type]


def test_control_flow_is_refused() -> None:
    sample = fresh("condition")
    with pytest.raises(netir.NetirError, match=r"(?i)cond"):
        netir.trace(sample.model, sample.args)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).to(dtype)
    x = torch.randn(2, 3, dtype=dtype)
    assert torch.equal(netir.run(netir.trace(model, (x,)), x), model(x))


def test_the_graph_shares_the_weights_and_the_mode_is_kept() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).train()
    graph = netir.trace(model, (torch.randn(2, 3),))
    assert graph.params["0.weight"].data.data_ptr() == model[0].weight.data_ptr()
    assert model.training
    assert model[1].training


# Train mode.


def told(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[netir.Graph, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = netir.trace(model, args, kwargs)
    found = [w for w in caught if issubclass(w.category, netir.NetirWarning)]
    return graph, [str(w.message) for w in found]


DIFFERENT = {
    "stochastic_depth": "StochasticDepth", "auxiliary_head": "auxiliary",
    "spectral_norm": "_SpectralNorm", "swin": "SwinDropPath", "wav2vec2": "Wav2Vec2Encoder",
    "own_function": "Sign",
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_other_train_modes_are_told(name: str) -> None:
    sample = fresh(name)
    state = {k: v.clone() for k, v in sample.model.state_dict().items()}
    _, messages = told(sample.model, *sample.args, **sample.kwargs)
    assert any(DIFFERENT[name] in m for m in messages)
    assert all(torch.equal(v, state[k]) for k, v in sample.model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in sample.model.modules())


ORDINARY = ("resnet", "bert", "vit", "bert_eager", "gpt2", "mamba", "dropouts", "batch_norms",
            "bidirectional_lstm", "encoder_layers", "detr", "swiftformer")  # fmt: skip


@pytest.mark.parametrize("name", [n for n in ORDINARY if n in NAMES])
def test_ordinary_train_modes_are_not_told(name: str) -> None:
    sample = fresh(name)
    assert told(sample.model, *sample.args, **sample.kwargs)[1] == []


def test_random_branches_of_python_are_told() -> None:
    import random

    class Drops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if self.training and random.random() < 1e-9:
                return x
            return x * 2

    assert "Drops" in told(nn.Sequential(Drops()), torch.randn(2, 3))[1][0]


def test_dropout_inside_attention_is_kept() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.25, batch_first=True)
    graph, messages = told(layer, torch.randn(2, 5, 8))
    assert messages == []
    assert [n.op.dropout_p for n in graph.nodes.values() if isinstance(n.op, Attention)] == [0.25]
    attention = nn.MultiheadAttention(8, 2, dropout=0.125, batch_first=True)
    x = torch.randn(2, 5, 8)
    graph, messages = told(attention, x, x, x)
    assert messages == []
    assert [n.op.p for n in graph.nodes.values() if isinstance(n.op, Dropout)] == [0.125]


# torch.fx.


@pytest.mark.parametrize("name", ["residual", "nested_inputs", "constants", "tied_head"])
def test_torch_fx(name: str) -> None:
    sample = fresh(name if name in NAMES else "chain")
    graph = netir.trace(sample.model, sample.args, sample.kwargs, frontend="torch_fx")
    module = netir.to_torch(graph)
    pairs = zip(pytree.tree_leaves(sample.run()), pytree.tree_leaves(
        module(*sample.args, **sample.kwargs)), strict=True)  # fmt: skip
    assert all(torch.equal(a, b) for a, b in pairs)
    assert list(module.state_dict()) == list(sample.model.state_dict())


def test_a_graph_module_is_a_model() -> None:
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    x = torch.randn(2, 3)
    for frontend in ("torch_export", "torch_fx"):
        graph = netir.trace(model, (x,), frontend=frontend)  # type: ignore[arg-type]
        assert torch.equal(netir.run(graph, x), model(x))


def test_torch_fx_refuses_control_flow() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(netir.NetirError, match=r"torch\.fx cannot trace Branches"):
        netir.trace(Branches(), (torch.randn(2, 3),), frontend="torch_fx")


def test_parametrizations_keep_their_names() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)))
    graph = netir.trace(model, (torch.randn(2, 3),))
    assert list(graph.state_dict()) == list(model.state_dict())


def test_no_gradient_where_the_model_has_none() -> None:
    class Stops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                target = self.one(x)
            return self.two(x) + target

    module = netir.to_torch(netir.trace(Stops(), (torch.randn(2, 3),)))
    module(torch.randn(2, 3)).sum().backward()
    assert module.one.weight.grad is None
    assert module.two.weight.grad is not None
