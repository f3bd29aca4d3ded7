"""A small equivariant network, and what its tests say of it again and again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import netir
from netir.ir import Graph
from netir.kernels.layers import (
    EquivariantAvgPool2d,
    FieldBatchNorm2d,
    GroupConv2d,
    GroupPool,
    cat_fields,
)

MAP = torch.randn(2, 3, 9, 9, dtype=torch.float64)


class Net(nn.Module):
    """Lifting, field norm, a residual, fields laid end to end, pooling, a stride, a head."""

    def __init__(self, name: str = "D4", ambient: str = "D4", kind: str = "mean") -> None:
        super().__init__()
        self.lift = GroupConv2d(3, 2, 5, name, ambient, lifting=True, padding=2)
        self.norm = FieldBatchNorm2d(2, ambient)
        self.inner = GroupConv2d(2, 2, 3, name, ambient, padding=1)
        self.shrink = EquivariantAvgPool2d(3, 2, 1)
        self.last = GroupConv2d(4, 3, 3, name, ambient, stride=2, padding=1, bias=False)
        self.pool = GroupPool(ambient, kind=kind)
        self.head = nn.Linear(3, 5)
        self.ambient = ambient

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.lift(x)).relu()
        x = cat_fields([self.inner(x).relu() + x, x], self.ambient)
        return self.head(self.pool(self.last(self.shrink(x))).mean((2, 3)))


def net(name: str = "D4", ambient: str = "D4", kind: str = "mean") -> Net:
    """A network in float64 whose statistics and affine maps say something."""
    made = Net(name, ambient, kind).double().eval()
    with torch.no_grad():
        for tensor in (made.norm.weight, made.norm.running_var):
            tensor.uniform_(0.5, 1.5)
        for tensor in (made.norm.bias, made.norm.running_mean):
            tensor.normal_()
    return made


def traced(model: nn.Module) -> Graph:
    return netir.trace(model, (MAP,))


def shaken(graph: Graph) -> Graph:
    """All weights of group convolutions drawn anew."""
    with graph.edit() as edit:
        for node in graph.nodes.values():
            for name in node.params if node.op.name == "group_conv" else ():
                edit.set_param(name, torch.randn_like(graph.params[name].data) / 8)
    return edit.graph


def gap(left: Tensor, right: Tensor) -> float:
    return float((left - right).detach().abs().max())


def plain(*, size: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """An ordinary convolutional network."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), act(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), act(),
        nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Linear(16 * size**2, 4),
    ).double().eval()  # fmt: skip
