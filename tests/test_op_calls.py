"""Calls of torch as models write them, and the ops that they become."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netir.dims import symbol
from netir.evaluate import run
from netir.frontends import trace
from netir.ops import OPS, Op
from netir.ops.opaque import Opaque

F = nn.functional
B = symbol("batch")
X = torch.randn(2, 4, 6)
IMAGE = torch.randn(2, 4, 6, 6)
PLACES = torch.randint(0, 4, (2, 5))


class Calls(nn.Module):
    """A model that is one call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        return self.function(x) if y is None else self.function(x, y)


def op(name: str, **attributes: Any) -> Op:
    return OPS[name](**attributes)


CALLS: tuple[tuple[Callable[..., Any], tuple[Tensor, ...], Op], ...] = (
    (lambda x: x.mT, (X,), op("permute", dims=(0, 2, 1))),
    (lambda x: x.movedim(1, -1), (IMAGE,), op("permute", dims=(0, 2, 3, 1))),
    (lambda x: torch.moveaxis(x, (1, 2), (2, 1)), (X,), op("permute", dims=(0, 2, 1))),
    (lambda x: x.swapaxes(-1, 1), (X,), op("permute", dims=(0, 2, 1))),
    (lambda x: x.flatten(1), (X,), op("reshape", shape=(B, 24))),
    (lambda x: x.unflatten(1, (2, 2)), (X,), op("reshape", shape=(B, 2, 2, 6))),
    (lambda x: x.narrow(1, 1, 2), (X,), op("slice", dim=1, start=1, end=3)),
    (lambda x: x[:, -2:], (X,), op("slice", dim=1, start=2, end=4)),
    (lambda x: x[..., ::2], (X,), op("slice", dim=2, start=0, end=6, step=2)),
    (lambda x: x.chunk(2, 1)[0], (X,), op("split", sizes=(2, 2), dim=1)),
    (lambda x: x.repeat(1, 2, 1), (X,), op("repeat", repeats=(1, 2, 1))),
    (lambda x: x.tile(2), (X,), op("repeat", repeats=(1, 1, 2))),
    (lambda x: x.repeat_interleave(2, 1), (X,), op("repeat_interleave", repeats=2, dim=1)),
    (lambda x: F.pad(x, (1, 2)), (X,), op("pad", pad=(1, 2))),
    (lambda x: F.pad(x, (1, 2), value=1.5), (X,), op("pad", pad=(1, 2), value=1.5)),
    (lambda x: F.pad(x, (1, 1), "circular"), (X,), op("pad", pad=(1, 1), mode="circular")),
    (nn.ReflectionPad2d(1), (IMAGE,), op("pad", pad=(1, 1, 1, 1), mode="reflect")),
    (lambda x: x.roll(1, -1), (X,), op("roll", shifts=(1,), dims=(2,))),
    (lambda x: x.flip(-1), (X,), op("flip", dims=(2,))),
    (lambda x: x.rot90(1, (2, 3)), (IMAGE,), op("rot90", k=1, dims=(2, 3))),
    (lambda x: x.tril(-1), (X,), op("triangle", upper=False, diagonal=-1)),
    (lambda x: x.diff(dim=1), (X,), op("diff", n=1, dim=1)),
    (lambda x: x.cumsum(-1), (X,), op("cumsum", dim=2)),
    (lambda x: x.topk(2, -1)[0], (X,), op("topk", k=2, dim=2)),
    (lambda x: x.sort(1, True)[1], (X,), op("sort", dim=1, descending=True)),
    (lambda x: x.argsort(-1), (X,), op("argsort", dim=2)),
    (lambda x: x.argmax(-1), (X,), op("argmax", dim=2)),
    (lambda x: x.argmin(), (X,), op("argmin")),
    (lambda x: x.max(1)[0], (X,), op("max_at", dim=1)),
    (lambda x: x.max(), (X,), op("amax", dims=(0, 1, 2))),
    (lambda x: x.kthvalue(2, 1, True)[0], (X,), op("kthvalue", k=2, dim=1, keepdim=True)),
    (lambda x: x.std(1), (X,), op("var", dims=(1,), root=True)),
    (lambda x: x.var(-1, unbiased=False), (X,), op("var", dims=(2,), correction=0)),
    (lambda x: torch.var_mean(x, (1, 2))[0], (X,), op("var_mean", dims=(1, 2))),
    (lambda x: x.prod(1), (X,), op("prod", dims=(1,))),
    (lambda x: x.norm(dim=1), (X,), op("vector_norm", dims=(1,))),
    (lambda x: torch.linalg.norm(x, dim=-1), (X,), op("vector_norm", dims=(2,))),
    (lambda x: x.sum(), (X,), op("sum", dims=(0, 1, 2))),
    (lambda x: x.any(1), (X > 0,), op("any", dims=(1,))),
    (lambda x: x[:, [0, 2]], (X,), op("index")),
    (lambda x, y: x[y], (torch.randn(4, 3), PLACES), op("index")),
    (lambda x, y: x.gather(1, y), (torch.randn(2, 5), PLACES), op("gather", dim=1)),
    (lambda x, y: x.scatter(1, y, 2.0), (torch.randn(2, 5), PLACES),
     op("scatter", dim=1, value=2.0)),
    (lambda x, y: x.scatter_add(1, y, x), (torch.randn(2, 5), PLACES),
     op("scatter", dim=1, reduce="sum")),
    (lambda x: F.one_hot(x, 7), (PLACES,), op("one_hot", num_classes=7)),
    (lambda x, y: x.masked_fill(y, 0.5), (X, X > 0), op("masked_fill", value=0.5)),
    (lambda x, y: torch.where(y, x, 0.0), (X, X > 0), op("where", y=0.0)),
    (lambda x: F.glu(x, 1), (X,), op("glu", dim=1)),
    (lambda x: F.interpolate(x, scale_factor=2), (IMAGE,), op("interpolate", scale=(2.0, 2.0))),
    (lambda x: F.interpolate(x, (9, 3), mode="bicubic"), (IMAGE,),
     op("interpolate", size=(9, 3), mode="bicubic", align_corners=False)),
    (lambda x: F.interpolate(x, 9), (X,), op("interpolate", rank=1, size=(9,))),
    (nn.PixelShuffle(2), (IMAGE,), op("pixel_shuffle", factor=2)),
    (nn.ChannelShuffle(2), (IMAGE,), op("channel_shuffle", groups=2)),
    (nn.Unfold(3, padding=1), (IMAGE,), op("im2col", kernel_size=(3, 3), padding=(1, 1))),
    (lambda x: x.unfold(2, 3, 2), (X,), op("unfold", dim=2, size=3, step=2)),
    (nn.MaxPool2d(2, return_indices=True), (IMAGE,),
     op("max_pool_at", kernel_size=(2, 2), stride=(2, 2))),
    (nn.MaxPool2d(2), (IMAGE,), op("max_pool", kernel_size=(2, 2), stride=(2, 2))),
    (nn.AdaptiveMaxPool2d(3), (IMAGE,), op("adaptive_max_pool", output_size=(3, 3))),
    (nn.AdaptiveAvgPool2d((None, 1)), (IMAGE,), op("adaptive_avg_pool", output_size=(6, 1))),
    (nn.Dropout1d(), (X,), op("feature_dropout", rank=3)),
    (nn.Dropout3d(), (torch.randn(2, 3, 4, 4, 4),), op("feature_dropout", rank=5)),
    (nn.FeatureAlphaDropout(), (IMAGE,), op("feature_alpha_dropout")),
    (nn.RReLU(), (X,), op("rrelu")),
    (nn.BatchNorm1d(4, affine=False, track_running_stats=False), (X,), op("batch_norm")),
    (lambda x: x.softmax(-1), (X,), op("softmax", dim=2)),
    (lambda x: 1 - x, (X,), op("rsub", other=1)),
    (lambda x: 2**x, (X,), op("rpow", other=2)),
    (lambda x: x // 2, (X,), op("div", other=2, rounding_mode="floor")),
    (lambda x: x.half().type_as(x), (X,), op("cast", dtype=torch.float32)),
    (lambda x: torch.zeros_like(x), (X,), op("full", shape=(B, 4, 6), value=0)),
    (lambda x: x.new_full((x.shape[0], 3), 2.5), (X,), op("full", shape=(B, 3), value=2.5)),
    (lambda x: F.cosine_similarity(x, x + 1, -1), (X,), op("cosine_similarity", dim=2)),
    (lambda x: F.scaled_dot_product_attention(x, x, x), (X,), op("attention", scale=6**-0.5)),
    (lambda x: (x + 0).addmm_(x, x), (torch.randn(4, 4),), op("addmm")),
    (lambda x: (x + 0).clamp_(min=0), (X,), op("clamp", min=0)),
    (lambda x: (x + 0).mul_(2).cumsum_(1), (X,), op("cumsum", dim=1)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("function", "args", "wanted"), CALLS, ids=[f"{i}-{c[2].name}" for i, c in enumerate(CALLS)]
)
def test_call_becomes_op(function: Any, args: tuple[Tensor, ...], wanted: Op) -> None:
    model = Calls(function).eval()
    graph = trace(model, args)
    found = [node.op for node in graph.nodes.values()]
    assert wanted in found
    assert not any(isinstance(o, Opaque) for o in found)
    with torch.no_grad():
        before, after = model(*[a.clone() for a in args]), run(graph, *args)
    for a, b in zip(_flat(before), _flat(after), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def _flat(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


LAYERS: tuple[tuple[nn.Module, Tensor, Op], ...] = (
    (nn.LSTM(6, 3, 2, bidirectional=True, batch_first=True), X,
     op("lstm", num_layers=2, bidirectional=True, batch_first=True)),
    (nn.LSTM(6, 5, proj_size=2, bias=False), X, op("lstm", has_biases=False)),
    (nn.GRU(6, 3, batch_first=True), X, op("gru", batch_first=True)),
    (nn.RNN(6, 3, nonlinearity="relu"), X, op("rnn_relu")),
    (nn.LSTMCell(6, 3), torch.randn(2, 6), op("lstm_cell")),
    (nn.GRUCell(6, 3), torch.randn(2, 6), op("gru_cell")),
    (nn.RNNCell(6, 3), torch.randn(2, 6), op("rnn_tanh_cell")),
)  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "x", "wanted"), LAYERS, ids=[f"{i}-{c[2].name}" for i, c in enumerate(LAYERS)]
)
def test_layer_becomes_op(layer: nn.Module, x: Tensor, wanted: Op) -> None:
    graph = trace(Calls(layer).eval(), (x,))
    assert wanted in [node.op for node in graph.nodes.values()]


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (lambda x: x.repeat_interleave(2), (X,)),
        (lambda x: torch.linalg.norm(x, 1, (1, 2)), (X,)),
        (lambda x, y: F.conv2d(x.flatten(0, 1)[None], y, groups=x.shape[0]),
         (torch.randn(3, 4, 5, 5), torch.randn(3, 4, 3, 3))),
        (lambda x: torch.cdist(x, x), (X,)),
    ],
    ids=["flat repeat", "matrix norm", "open groups", "cdist"],
)  # fmt: skip
def test_what_no_op_understands_is_opaque(
    function: Callable[..., Any], args: tuple[Tensor, ...]
) -> None:
    graph = trace(Calls(function).eval(), args)
    assert [node.op for node in graph.nodes.values() if isinstance(node.op, Opaque)]
    with torch.no_grad():
        assert torch.equal(function(*args), run(graph, *args))
