"""Graphs of any size without a model: five layouts that networks have, built node by node.

They are for timing the analysis. Their weights are empty and they are never run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch

from netir import Graph
from netir.ir import Kind, Node, Param, Ref, TensorType
from netir.ops.arithmetic import Add
from netir.ops.base import Op
from netir.ops.conv import Conv
from netir.ops.join import Cat
from netir.ops.linear import Linear, MatMul
from netir.ops.norm import BatchNorm, LayerNorm
from netir.ops.pointwise import Relu
from netir.ops.reduce import Softmax
from netir.ops.shape import Permute, Reshape


class Maker:
    """Nodes and parameters in the making; every verb gives the name of its value."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.inputs = {"x": TensorType(torch.float32, shape)}
        self.types = dict(self.inputs)
        self.nodes: dict[str, Node] = {}
        self.params: dict[str, Param] = {}

    def add(self, op: Op, *operands: str, shape: tuple[int, ...] | None = None) -> str:
        name = f"{op.name}_{len(self.nodes)}"
        kind = self.types[operands[0]]
        kind = kind if shape is None else kind.with_shape(shape)
        self.nodes[name] = Node(name, op, operands, (kind,))
        self.types[name] = kind
        return name

    def param(self, name: str, *shape: int, kind: Kind = "param") -> str:
        self.params[name] = Param(torch.empty(shape, device="meta"), kind)
        return f"@{name}"

    def conv(self, x: str, out: int, kernel: int = 3, groups: int = 1) -> str:
        n, read, *size = self.types[x].shape
        assert isinstance(read, int)
        name = f"conv{len(self.nodes)}.weight"
        weight = self.param(name, out, read // groups, kernel, kernel)
        op = Conv(padding=(kernel // 2,), groups=groups)
        return self.add(op, x, weight, shape=(n, out, *size))

    def batch_norm(self, x: str) -> str:
        width, base = self.types[x].shape[1], f"norm{len(self.nodes)}"
        assert isinstance(width, int)
        learned = [self.param(f"{base}.{n}", width) for n in ("weight", "bias")]
        kept = [self.param(f"{base}.running_{n}", width, kind="buffer") for n in ("mean", "var")]
        return self.add(BatchNorm(), x, *learned, *kept)

    def unit(self, x: str, out: int, kernel: int = 3, groups: int = 1) -> str:
        return self.add(Relu(), self.batch_norm(self.conv(x, out, kernel, groups)))

    def linear(self, x: str, out: int) -> str:
        *lead, read = self.types[x].shape
        name = f"linear{len(self.nodes)}"
        weight, bias = self.param(f"{name}.weight", out, read), self.param(f"{name}.bias", out)
        return self.add(Linear(), x, weight, bias, shape=(*lead, out))

    def layer_norm(self, x: str) -> str:
        width, base = self.types[x].shape[-1], f"norm{len(self.nodes)}"
        assert isinstance(width, int)
        op = LayerNorm(normalized_shape=(width,))
        return self.add(op, x, *(self.param(f"{base}.{n}", width) for n in ("weight", "bias")))


Block = Callable[[Maker, str], str]


def _residual(make: Maker, x: str, groups: int = 1) -> str:
    y = make.unit(x, 32, 1)
    y = make.batch_norm(make.conv(make.unit(y, 32, 3, groups), 64, 1))
    return make.add(Relu(), make.add(Add(), y, x))


def _inception(make: Maker, x: str) -> str:
    branches = make.unit(x, 16, 1), make.unit(make.unit(x, 12, 1), 24), make.unit(x, 24, 5)
    return make.add(Cat(dim=1), *branches, shape=(2, 64, 8, 8))


def _dense(make: Maker, x: str) -> str:
    """A dense block of 24 layers of growth 8, and a transition back to 64 channels."""
    made = [x]
    for layer in range(24):
        joined = make.add(Cat(dim=1), *made, shape=(2, 64 + 8 * layer, 8, 8))
        made.append(make.conv(make.add(Relu(), make.batch_norm(joined)), 8))
    joined = make.add(Cat(dim=1), *made, shape=(2, 64 + 8 * 24, 8, 8))
    return make.unit(joined, 64, 1)


def _attention(make: Maker, x: str) -> str:
    """A pre-norm transformer block: 4 heads of 16, 10 tokens."""
    y = make.layer_norm(x)
    query, key, value = (_heads(make, make.linear(y, 64)) for _ in range(3))
    key = make.add(Permute(dims=(0, 1, 3, 2)), key, shape=(2, 4, 16, 10))
    scores = make.add(Softmax(dim=3), make.add(MatMul(), query, key, shape=(2, 4, 10, 10)))
    mixed = make.add(MatMul(), scores, value, shape=(2, 4, 10, 16))
    mixed = make.add(Permute(dims=(0, 2, 1, 3)), mixed, shape=(2, 10, 4, 16))
    mixed = make.add(Reshape(shape=(2, 10, 64)), mixed, shape=(2, 10, 64))
    x = make.add(Add(), x, make.linear(mixed, 64))
    hidden = make.add(Relu(), make.linear(make.layer_norm(x), 128))
    return make.add(Add(), x, make.linear(hidden, 64))


def _heads(make: Maker, x: str) -> str:
    x = make.add(Reshape(shape=(2, 10, 4, 16)), x, shape=(2, 10, 4, 16))
    return make.add(Permute(dims=(0, 2, 1, 3)), x, shape=(2, 4, 10, 16))


def _graph(name: str, shape: tuple[int, ...], block: Block, nodes: int) -> Graph:
    make = Maker(shape)
    image = len(shape) == 4
    x = make.unit("x", 64) if image else make.linear("x", 64)
    while len(make.nodes) < nodes - 1:
        x = block(make, x)
    x = make.conv(x, 10, 1) if image else make.linear(x, 10)
    return Graph(name, make.inputs, make.nodes, make.params, Ref(x), {"x": Ref("x")})


LAYOUTS: Mapping[str, Callable[[int], Graph]] = MappingProxyType({
    "residual": partial(_graph, "residual", (2, 3, 8, 8), _residual),
    "grouped": partial(_graph, "grouped", (2, 3, 8, 8), partial(_residual, groups=4)),
    "concat": partial(_graph, "concat", (2, 3, 8, 8), _inception),
    "dense": partial(_graph, "dense", (2, 3, 8, 8), _dense),
    "attention": partial(_graph, "attention", (2, 10, 12), _attention),
})  # fmt: skip
"""By the name of a layout: a graph of at least so many nodes."""
