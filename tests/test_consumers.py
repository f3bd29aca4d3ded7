"""Consumers as products of windows and a matrix; what a graph shows to be the same for every input.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from netir.passes.compensation.constants import constants
from netir.passes.compensation.consumers import Windows, summing
from tests.doubled import doubled, doubled_tensors
from tests.test_compensate import lively, values
from tests.zoo.classics import CLASSICS
from tests.zoo.traced import traced


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (3, 5, 6)),
        (nn.Conv1d(6, 4, 3, stride=2, padding=2, dilation=2), (2, 6, 11)),
        (nn.Conv2d(6, 8, (3, 2), (1, 2), (1, 0), (2, 1), groups=2), (2, 6, 9, 8)),
        (nn.Conv2d(6, 8, (4, 3), padding="same"), (2, 6, 9, 8)),
        (nn.Conv3d(2, 4, 2, padding=1), (2, 2, 4, 5, 3)),
        (nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, groups=2), (2, 6, 5, 4)),
        (nn.ConvTranspose1d(6, 4, 3, 3, 0, 2, dilation=2), (2, 6, 5)),
        (nn.ConvTranspose2d(6, 4, 3, 1, 4), (2, 6, 9, 9)),
    ],
)
def test_a_consumer_is_windows_times_a_matrix(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    graph = netir.trace(layer.double(), (x,))
    consumer = summing(graph, next(iter(graph.nodes.values())))
    assert consumer is not None
    weight = graph.params[consumer.weight].data
    matrix = consumer.matrix(weight)
    assert torch.equal(consumer.weight_of(matrix, weight.shape), weight)
    windows = Windows(consumer, x, tuple(weight.shape[2:]))
    rows = windows.at(torch.arange(len(windows)))
    found = torch.einsum("ngk,gko->ngo", rows, matrix.flatten(1, 2)).flatten(1)
    want = consumer.rows(layer(x)) - layer.bias
    assert torch.allclose(found, want, atol=1e-12)


class Net(nn.Module):
    """Convolutions, norms, a depthwise one, a cut, a concatenation, flatten, dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.slope, self.depthwise = nn.PReLU(6), nn.Conv2d(6, 6, 3, groups=6, bias=False)
        self.second, self.scale = nn.BatchNorm2d(6), nn.Parameter(torch.randn(6, 1, 1))
        self.dense, self.last, self.head = nn.Linear(96, 7), nn.LayerNorm(7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.slope(self.norm(self.first(x)))
        y = F.max_pool2d(F.hardswish(self.second(self.depthwise(y))), 2)
        y = torch.cat([y * self.scale, y], 1)[:, :6]
        return self.head(torch.sigmoid(self.last(self.dense(y.flatten(1)))))


def test_constants_are_what_every_input_gives() -> None:
    model = lively(Net())
    with torch.no_grad():
        model.slope.weight.normal_()
        model.last.bias.normal_()
        model.norm.weight[2] = model.first.weight[4] = model.last.weight[3] = 0
        model.scale[0] = model.dense.weight[5] = 0
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    graph = netir.trace(model, (x,))
    shares = {}
    for name, value in values(graph, x).items():
        found = constants(graph).get(name)
        if found is None:
            continue
        known = found.known.expand_as(value)
        assert torch.allclose(found.value.expand_as(value)[known], value[known], atol=1e-12)
        shares[name] = round(known.double().mean().item() * value.shape[1])
    assert shares == {
        "conv2d": 1, "batch_norm": 2, "prelu": 2, "conv2d_1": 2, "batch_norm_1": 2,
        "hardswish": 2, "max_pool2d": 2, "mul": 3, "cat": 5, "slice_1": 5, "slice_2": 3,
        "flatten": 48, "linear": 1, "layer_norm": 1, "sigmoid": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", CLASSICS)
def test_nothing_is_constant_but_a_class_token(name: str) -> None:
    sample, graph = traced(name)
    graph, args = doubled(graph), doubled_tensors(sample.args)
    found = constants(graph)
    assert bool(found) is (name == "vit_b_16")
    for value, constant in found.items():
        have = values(graph, *args)[value]
        known = constant.known.expand_as(have)
        assert torch.allclose(constant.value.expand_as(have)[known], have[known], atol=1e-12)
        assert known[:, 0].all()
        assert not known[:, 1:].any()
