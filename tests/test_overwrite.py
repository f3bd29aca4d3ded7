"""Writes in place: kept in lowered modules where the model had them, and only where it is right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netir import Graph, to_python, to_torch, trace
from netir.edit import Edit
from netir.ir import Ref
from netir.lower.torch import Lowered
from netir.ops import OPS
from netir.text import parse_graph, print_graph
from tests.called import operators
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
"""What may be written over the result of a convolution, and is."""

APART: dict[str, Call] = {
    "pure": lambda h, x: F.relu(h) + x,
    "read before": lambda h, x: h.sin().add(F.relu_(h.clone())),
    "read by a sum": lambda h, x: (h + 1).detach() + F.relu_(h),
    "copied onto itself": lambda h, x: (total := h + x).copy_(total),
    "scaled": lambda h, x: h.mul_(2),
    "narrower": lambda h, x: h.bfloat16().add(1).add_(x).float(),
    "over a copy": lambda h, x: F.relu_(h.sigmoid().clone()),
    "over a sine": lambda h, x: F.relu_(h.sin()),
}
"""What must not be, or is not worth it."""

MAKERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(4, 4, 3),
    "conv_transpose": lambda: nn.ConvTranspose2d(4, 4, 3),
    "linear": lambda: nn.Linear(6, 6),
    "linear without bias": lambda: nn.Linear(6, 6, bias=False),
    "batch_norm": lambda: nn.BatchNorm2d(4),
    "batch_norm of the batch": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "instance_norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "layer_norm": lambda: nn.LayerNorm(6),
    "group_norm": lambda: nn.GroupNorm(2, 4),
}
"""Layers whose results may be written over; with sums and differences these are all."""


class Written(nn.Module):
    """A layer, and what is done with its result."""

    def __init__(self, call: Call, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer or nn.Conv2d(3, 3, 3, padding=1)
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(self.layer(x), x)


def writes(module: Lowered) -> list[str]:
    """The calls in its forward that write in place."""
    return [str(n.target) for n in module.graph.nodes
            if n.kwargs.get("inplace") or n.target == "add_"]  # fmt: skip


def gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    module(x).square().sum().backward()
    return [tensor.grad for tensor in (x, *module.parameters()) if tensor.grad is not None]


def expect_equal_training(module: Lowered, model: nn.Module, x: Tensor) -> None:
    given = x.clone()
    for train in (False, True):
        found = [gradients(copy.deepcopy(each).train(train), x) for each in (module, model)]
        assert len(found[1]) > 1
        for ours, theirs in zip(*found, strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(x, given)


@pytest.mark.parametrize("name", [*KEPT, *APART])
def test_the_same_gradients(name: str) -> None:
    x = torch.randn(2, 3, 6, 6)
    model = Written({**KEPT, **APART}[name])
    expect_equal_training(to_torch(trace(model, (x,))), model, x)


@pytest.mark.parametrize("name", KEPT)
def test_writes_in_place_are_kept(name: str, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 6, 6)
    model = Written(KEPT[name]).eval()
    graph = trace(model, (x,))
    assert operators(to_torch(graph), (x,)) == operators(model, (x,))
    assert writes(to_torch(parse_graph(print_graph(graph)))) == writes(to_torch(graph)) != []
    to_python(graph, tmp_path / "net.py")
    written = run_path(str(tmp_path / "net.py"))["load"]()
    assert operators(written, (x,)) == operators(model, (x,))
    assert torch.equal(written(x), model(x))


@pytest.mark.parametrize("name", APART)
def test_nothing_else_is_written_over(name: str) -> None:
    x = torch.randn(2, 3, 6, 6)
    assert writes(to_torch(trace(Written(APART[name]), (x,)))) == []


@pytest.mark.parametrize("name", MAKERS)
def test_no_gradient_reads_what_is_written_over(name: str) -> None:
    x = torch.randn(2, 4, 6, 6)
    model = Written(lambda h, x: F.relu_(h), MAKERS[name]())
    module = to_torch(trace(model, (x,)))
    assert writes(module)
    expect_equal_training(module, model, x)


def test_every_op_that_may_be_written_over_is_tested() -> None:
    known = {name.split()[0] for name in MAKERS} | {"add", "sub"}
    assert {name for name, op in OPS.items() if op.overwritable} == known


def relu_over_conv() -> tuple[Graph, str, str]:
    """A graph that writes in place, and the names of what writes and what is there before."""
    graph = trace(Written(KEPT["relu"]), (torch.randn(2, 3, 6, 6),))
    (relu,) = (n for n in graph.nodes.values() if n.in_place)
    assert writes(to_torch(graph))
    return graph, relu.name, relu.values[0]


def test_what_another_node_reads_now_stays() -> None:
    graph, _, conv = relu_over_conv()
    with Edit(graph) as edit:
        edit.insert("more", OPS["sigmoid"](), [conv])
    assert not writes(to_torch(edit.graph))


def test_what_is_returned_now_stays() -> None:
    graph, relu, conv = relu_over_conv()
    assert not writes(to_torch(graph.replace(output=(Ref(conv), Ref(relu)))))


def test_what_the_model_did_not_write_over_stays() -> None:
    """A node that reads another operand now does not write over it."""
    graph, relu, conv = relu_over_conv()
    with Edit(graph) as edit:
        edit.insert("more", OPS["add"](other=1), [conv], before=relu)
        edit.set_operands(relu, ["more"])
    assert not writes(to_torch(edit.graph))
    with Edit(graph) as edit:
        edit.insert("more", OPS["add"](other=1), [conv], before=relu)
        edit.replace(conv, "more", but=["more"])
    assert not writes(to_torch(edit.graph))


TEXTS = (
    "%a = add(%x, %x) : f32[4] %b = add(%a, %y) : f32[2, 4] in_place",
    "%a = add(%x, %x) : f32[4] %i = identity(%a) : f32[4] in_place %b = add(%i, %y) : f32[2, 4]",
    "%a = full() {shape=(4,), value=1.0, dtype=f32} : f32[4] in_place %b = add(%y, %a) : f32[2, 4]",
    "%b = add(%y, %x) : f32[2, 4] in_place",
    "%a = cast(%x) {dtype=bf16} : bf16[4] in_place %b = add(%y, %a) : f32[2, 4]",
)
"""Marks of writes where there is nothing that they could go over."""


@pytest.mark.parametrize("text", TEXTS)
def test_a_mark_in_a_wrong_place_changes_nothing(text: str) -> None:
    graph = parse_graph(f"graph g(%x: f32[4], %y: f32[2, 4]) {{ {text} return %b }}")
    plain = parse_graph(f"graph g(%x: f32[4], %y: f32[2, 4]) {{ {text} return %b }}".replace(
        " in_place", ""))  # fmt: skip
    x, y = torch.randn(4), torch.randn(2, 4)
    given = x.clone(), y.clone()
    module = to_torch(graph)
    assert not writes(module)
    assert torch.equal(module(x, y), to_torch(plain)(x, y))
    assert torch.equal(x, given[0])
    assert torch.equal(y, given[1])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_networks_call_what_they_called(name: str) -> None:
    given = CLASSICS[name]()
    module, model = to_torch(trace(given.model, given.args)), copy.deepcopy(given.model)
    for train in (False, True):
        ours = operators(module.train(train), given.args)
        assert ours == operators(model.train(train), given.args)
