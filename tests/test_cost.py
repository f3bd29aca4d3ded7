"""Costs against numbers that are known from papers, and against counting by hand."""

import pytest
import torch
from torch import Tensor, nn

from netir.cost import NodeCost, cost
from netir.errors import NetirError
from netir.frontends import trace
from netir.ir import Param
from netir.text import parse_graph
from tests.zoo.classics import FULL
from tests.zoo.traced import traced

# Published: parameters, and the multiply-adds of one 224 by 224 image in billions as torchvision's
# model cards give them.
PUBLISHED = {
    "resnet18": (11_689_512, 1.81),
    "resnet50": (25_557_032, 4.09),
    "vgg11_bn": (132_868_840, 7.61),
    "mobilenet_v2": (3_504_872, 0.30),
    "vit_b_16": (86_567_656, 17.56),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name: str) -> None:
    with torch.device("meta"):
        model, image = FULL[name](), torch.zeros(2, 3, 224, 224)
    found = cost(trace(model, (image,)))
    parameters, macs = PUBLISHED[name]
    assert found.parameters == parameters
    assert round(found.macs / 1e9, 2) == macs
    assert found.sizes == {"batch": 1}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def test_counted_by_hand() -> None:
    graph = trace(Small().eval(), (torch.zeros(2, 2, 5, 5),))
    found = cost(graph)
    conv, norm, mean, head = found.nodes.values()
    assert conv == NodeCost(6 * 9 + 6, 6 * 25 * 9, 4 * 6 * 25)
    assert norm == NodeCost(12, 0, 4 * 6 * 25)
    assert mean == NodeCost(0, 0, 4 * 6)
    assert head == NodeCost(24, 24, 4 * 4)
    assert found.parameters == 60 + 12 + 24
    assert found.stored == found.parameters + 6 + 6 + 1
    assert found.parameter_bytes == 4 * (found.stored - 1) + 8
    assert found.macs == conv.macs + head.macs
    assert found.activation_bytes == 1200 + 24 + 16


def test_symbols() -> None:
    graph = trace(Small().eval(), (torch.zeros(2, 2, 5, 5),))
    one, many = cost(graph), cost(graph, {"batch": 10})
    assert many.macs == 10 * one.macs
    assert many.parameters == one.parameters
    _, resnet = traced("resnet18")
    assert cost(resnet, {"h": 64, "w": 32}).macs > cost(resnet, {"h": 32, "w": 32}).macs
    with pytest.raises(NetirError, match="depends on the size 'h'") as caught:
        cost(resnet)
    assert caught.value.fix == "give h=…, w=…"
    with pytest.raises(NetirError, match="has no size 'height'"):
        cost(resnet, {"height": 3})


def test_tied_frozen_and_unused_parameters() -> None:
    text = """graph g(%x: f32[3, 8]) {
      param @a: f32[8, 8]
      param @still: f32[8, 8] frozen
      param @unused: f32[100]
      param @out: f32[5]
      alias @b = @a
      %l1 = linear(%x, @a) : f32[3, 8]
      %l2 = linear(%l1, @a) : f32[3, 8]
      %l3 = linear(%l2, @still) : f32[3, 8]
      return (%l3, @out)
    }"""
    found = cost(parse_graph(text))
    assert found.parameters == 64 + 5
    assert found.stored == 64 + 64 + 100 + 5
    assert found.nodes["l2"].parameters == 64
    assert found.nodes["l3"].parameters == 0
    assert found.macs == 3 * 3 * 64


def test_a_graph_without_nodes() -> None:
    graph = parse_graph("graph g(%x: f32[3]) { return %x }")
    found = cost(graph.replace(params={"p": Param(torch.zeros(4))}))
    assert (found.parameters, found.macs, found.activation_bytes) == (0, 0, 0)
