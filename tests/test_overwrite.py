"""Writes in place: kept in lowered modules where the model had them, and only where it is right."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from netir import to_python, to_torch, trace
from netir.edit import Edit
from netir.ir import Ref
from netir.ops import OPS
from netir.text import parse_graph, print_graph
from tests.zoo.classics import CLASSICS

Call = Callable[[Tensor, Tensor], Any]

KEPT: dict[str, Call] = {
    "relu": lambda h, x: F.relu_(h),
    "relu6": lambda h, x: F.relu6(h, inplace=True),
    "clamped": lambda h, x: F.hardtanh_(h),
    "silu": lambda h, x: F.silu(h, inplace=True),
    "hardswish": lambda h, x: F.hardswish(h, inplace=True),
    "leaky": lambda h, x: F.leaky_relu(h, 0.2, inplace=True),
    "sum": lambda h, x: h.add_(x),
    "augmented": lambda h, x: F.relu_(h.__iadd__(x)),
    "number": lambda h, x: F.relu_(h.add_(1)),
    "through": lambda h, x: F.relu_(h - x),
}
"""What may be written over the result of a convolution."""

APART: dict[str, Call] = {
    "pure": lambda h, x: F.relu(h) + x,
    "read twice": lambda h, x: F.relu_(h.clone()) + h,
    "read as a view": lambda h, x: h.flatten(1).sum(1) + F.relu_(h.clone()).flatten(1).sum(1),
    "both returned": lambda h, x: (h, F.relu_(h.clone())),
    "over what a gradient reads": lambda h, x: F.relu_(h.sigmoid().clone()),
    "over an input": lambda h, x: F.relu_(x.clone()) + h,
    "scaled": lambda h, x: h.mul_(x.detach()),
    "copied onto itself": lambda h, x: (total := h + x).copy_(total),
}
"""What must not, or was not."""


class Written(nn.Module):
    """A convolution, and what is done with its result."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(self.conv(x), x)


class Called(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operators(module: nn.Module, args: tuple[Any, ...]) -> Counter[str]:
    with torch.no_grad(), Called() as called:
        module(*args)
    return called.found


def gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    found = module(x)
    outputs = found if isinstance(found, tuple) else (found,)
    sum(out.square().sum() for out in outputs).backward()
    return [p.grad for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", [*KEPT, *APART])
def test_the_same_values_and_gradients(name: str) -> None:
    x = torch.randn(2, 3, 6, 6)
    model = Written({**KEPT, **APART}[name])
    module = to_torch(trace(model, (x,)))
    given = x.clone()
    for ours, theirs in zip(gradients(module, x), gradients(model, x), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(x, given)


@pytest.mark.parametrize("name", KEPT)
def test_writes_in_place_are_kept(name: str, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 6, 6)
    model = Written(KEPT[name]).eval()
    graph = trace(model, (x,))
    assert operators(to_torch(graph), (x,)) == operators(model, (x,))
    read = parse_graph(print_graph(graph))
    assert [n.in_place for n in read.nodes.values()] == [
        n.in_place for n in graph.nodes.values()
    ]
    to_python(graph, tmp_path / "net.py")
    written = run_path(str(tmp_path / "net.py"))["load"]()
    assert operators(written, (x,)) == operators(model, (x,))
    assert torch.equal(written(x), model(x))


@pytest.mark.parametrize("name", APART)
def test_nothing_else_is_overwritten(name: str) -> None:
    x = torch.randn(2, 3, 6, 6)
    code = to_torch(trace(Written(APART[name]), (x,))).code
    assert "inplace = True" not in code
    assert "_(" not in code.replace("forward(", "")


def test_a_rewrite_that_needs_the_operand_ends_the_write() -> None:
    """What another node reads now, or what is returned, or a gradient reads, stays."""
    x = torch.randn(2, 3, 6, 6)
    graph = trace(Written(KEPT["relu"]), (x,))
    (relu,) = (n for n in graph.nodes.values() if n.in_place)
    conv = relu.values[0]
    with Edit(graph) as read:
        read.insert("more", OPS["sigmoid"](), [conv])
    with Edit(graph) as bent:
        made = bent.insert("bent", OPS["sigmoid"](), [conv], before=relu.name)
        bent.set_operands(relu.name, [made])
    returned = graph.replace(output=(Ref(conv), Ref(relu.name)))
    assert "inplace = True" in to_torch(graph).code
    for after in (read.graph, bent.graph, returned):
        assert after.nodes[relu.name].in_place
        assert "inplace = True" not in to_torch(after).code


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_networks_call_what_they_called(name: str) -> None:
    given = CLASSICS[name]()
    graph = trace(given.model, given.args)
    model = copy.deepcopy(given.model)
    for train in (False, True):
        ours = operators(to_torch(graph).train(train), given.args)
        assert ours == operators(model.train(train), given.args)
