"""Small group convolutions and the actions that they commute with, for the tests of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netir.kernels.expand import expand, expand_bias
from netir.kernels.groups import Element, group
from netir.kernels.plan import Plan, Tables

MIXED = ("C1", "C2", "C4", "D1", "D2", "D4")


class Mixed(nn.Module):
    """One mixed layer with softmax coefficients, as a user of `expand` would write it."""

    def __init__(self, plan: Plan, fields_in: int, fields_out: int, bias: bool = True) -> None:
        super().__init__()
        self.plan = plan
        self.weights = nn.ParameterList(
            torch.randn(plan.shape(name, fields_out, fields_in)) / plan.size**0.5
            for name in plan.groups
        )
        self.biases = nn.ParameterList(
            torch.randn(plan.elements // group(name).order, fields_out)
            for name in plan.groups
            if bias
        )
        self.logits = nn.Parameter(torch.randn(len(plan.groups)))
        tables = plan.tables()
        self.register_buffer("table", tables.table, persistent=False)
        self.register_buffer("factors", tables.weights, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mix = self.logits.softmax(0)
        tables = Tables(self.table, self.factors)
        made = expand(list(self.weights), self.plan, mix, tables)
        bias = expand_bias(list(self.biases), self.plan, mix, tables) if len(self.biases) else None
        return F.conv2d(x, made, bias, padding=self.plan.kernel // 2)


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference over the largest number."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max())


def moved(element: Element, x: Tensor) -> Tensor:
    """Pixels moved, by torch's own flips and turns."""
    turned = torch.flip(x, (-2,)) if element.flip else x
    return torch.rot90(turned, int(4 * element.turn), (-2, -1))


def acted(element: Element, x: Tensor, ambient: str, lifted: bool = True) -> Tensor:
    """The action on a map of features: pixels move, and so do the channels of every field."""
    turned = moved(element, x)
    if not lifted:
        return turned
    elements = group(ambient).elements
    order = [elements.index(element.inverse * b) for b in elements]
    split = turned.unflatten(1, (len(elements), -1))
    return split[:, order].flatten(1, 2)
