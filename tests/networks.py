"""Random valid networks: a Hypothesis strategy over layers (layers.py) and their wiring.

A network keeps a pool of values; every layer reads values of the pool and adds one. What nobody
reads ends in a head. Weights are random and fitted to the signal (zoo/weights.py); everything is
in float64 and in eval mode, and follows from what Hypothesis draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.layers import Apply, Layer, Pick, channel_axis, weight
from tests.layers_flat import SEQUENCE, VECTOR
from tests.layers_map import MAP
from tests.zoo.weights import calibrate, randomise

LAYERS = {2: VECTOR, 3: SEQUENCE, 4: MAP}
VOCABULARY = 7
WIDEST = 24
LARGEST = 450

INPUTS: dict[str, tuple[int, ...]] = {
    "image": (3, 4, 4), "sequence": (4, 6), "tokens": (5,), "vector": (6,), "large": (2, 4, 6),
}  # fmt: skip


class Program(nn.Module):
    """Layers in order, with the places in the pool that each reads; a head on all that is left."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.reads: list[tuple[int, ...]] = []
        self.calls: list[int] = []
        self.heads = nn.ModuleDict()
        self.inputs = inputs
        self.form = "sum"

    def call(self, layer: int, reads: tuple[int, ...]) -> None:
        self.calls.append(layer)
        self.reads.append(reads)

    def forward(self, *inputs: Tensor) -> Any:
        pool = list(inputs)
        for layer, reads in zip(self.calls, self.reads, strict=True):
            pool.append(self.layers[layer](*(pool[i] for i in reads)))
        found = [head(pool[int(place)]) for place, head in self.heads.items()]
        match self.form:
            case "tuple":
                return tuple(found)
            case "dict":
                return {f"head{i}": value for i, value in enumerate(found)}
        return sum(found[1:], found[0])

    def extra_repr(self) -> str:
        calls = zip(self.calls, self.reads, strict=True)
        steps = [f"%{self.inputs + i} = {layer}{reads}" for i, (layer, reads) in enumerate(calls)]
        return f"{', '.join(steps)}; {self.form}"


@dataclass(frozen=True)
class Network:
    """A drawn network: the model and inputs that it accepts."""

    model: Program
    args: tuple[Tensor, ...]

    def __repr__(self) -> str:
        return f"{self.model!r} on {[tuple(a.shape) for a in self.args]}"


@st.composite
def networks(draw: st.DrawFn, most: int = 10) -> Network:
    """Networks of up to `most` layers; the first layer of each kind is the simplest."""

    def pick(*choices: Any) -> Any:
        return choices[draw(st.integers(0, len(choices) - 1))] if len(choices) > 1 else choices[0]

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        names = draw(st.lists(st.sampled_from(list(INPUTS)), min_size=1, max_size=2))
        batch = pick(2, 3)
        pool = [_example(name, batch) for name in names]
        args = tuple(map(_double, pool))
        program = Program(len(pool)).eval()
        for place, value in enumerate(tuple(pool)):
            if pick(True, True, False):
                _append(program, pool, _stem(pick, value), (place,))
        for _ in draw(st.lists(st.none(), min_size=1, max_size=most)):
            _add(pick, program, pool)
        read = {place for reads in program.reads for place in reads}
        for place, value in enumerate(pool):
            if place not in read:
                program.heads[str(place)] = _head(pick, value)
        program.form = pick("sum", "tuple", "dict")
        model = randomise(program.double()).eval()
        calibrate(model, args, {})
    return Network(model, args)


def _example(name: str, batch: int) -> Tensor:
    shape = (batch, *INPUTS[name])
    return torch.randint(VOCABULARY, shape) if name == "tokens" else torch.randn(shape)


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _add(pick: Pick, program: Program, pool: list[Tensor]) -> None:
    """Draw one more layer, and what it reads: more often something recent."""
    place = len(pool) - 1 - min(pick(*range(len(pool))), pick(*range(len(pool))))
    families = [made for made in _makers(program, pool, place) if made]
    _append(program, pool, *pick(*pick(*families))(pick))


def _append(
    program: Program, pool: list[Tensor], layer: nn.Module | int, reads: tuple[int, ...]
) -> None:
    """Let a new layer, or once more one of the network's, read values of the pool."""
    if isinstance(layer, int):
        number = layer
    else:
        program.layers.append(layer.eval())
        number = len(program.layers) - 1
    value = program.layers[number](*(pool[i] for i in reads))
    if value.shape[1:].numel() > LARGEST or max(value.shape[1:]) > WIDEST * 2:
        del program.layers[number:]
        return
    program.call(number, reads)
    pool.append(value)


def _stem(pick: Pick, value: Tensor) -> nn.Module:
    """A first layer, so that not everything is as wide as the input."""
    made = pick(4, 6, 8)
    if not value.is_floating_point():
        return nn.Embedding(VOCABULARY, made)
    if value.dim() == 4:
        return nn.Conv2d(value.shape[1], made, 3, padding=1)
    return nn.Linear(value.shape[-1], made)


Maker = Callable[[Pick], tuple[Any, tuple[int, ...]]]


def _makers(program: Program, pool: list[Tensor], place: int) -> Iterator[list[Maker]]:
    """What could read a value: new layers, joins with other values, and what is used again."""
    x = pool[place]
    if not x.is_floating_point():
        yield [lambda pick: (_embedding(pick), (place,)), lambda pick: (_tied(pick), (place,))]
        return
    layers = [f for f in LAYERS[x.dim()] if getattr(f, "fits", _always)(*x.shape[1:])]
    fresh = [_unary(layer, x, place) for layer in layers]
    yield fresh
    yield fresh
    yield [_read(join, place, other) for other, y in enumerate(pool) for join in _joins(x, y)]
    used: list[Maker] = []
    for number, layer in enumerate(program.layers):
        first = program.calls.index(number)
        if [(pool[i].shape, pool[i].dtype) for i in program.reads[first]] == [(x.shape, x.dtype)]:
            used.append(_read(number, place))
        found = _borrowing(layer, x)
        if found is not None:
            used.append(_read(found, place))
    yield used


def _always(*sizes: int) -> bool:
    return True


def _unary(layer: Layer, x: Tensor, place: int) -> Maker:
    return lambda pick: (layer(pick, x), (place,))


def _read(layer: nn.Module | int, *places: int) -> Maker:
    return lambda pick: (layer, places)


def _joins(x: Tensor, y: Tensor) -> Iterator[Apply]:
    """The ways in which two values can meet."""
    if not y.is_floating_point():
        return
    axis = channel_axis(x)
    if x.shape == y.shape:
        yield Apply("x + y", lambda m, x, y: x + y)
        yield Apply("x * y", lambda m, x, y: x * y)
        yield Apply("max(x, y)", lambda m, x, y: torch.maximum(x, y))
        yield Apply("lerp", lambda m, x, y: torch.lerp(x, y, m.rate), rate=weight(1))
    if x.dim() == y.dim() and _without(x, axis) == _without(y, axis):
        if x.shape[axis] + y.shape[axis] <= WIDEST:
            yield Apply("cat", lambda m, x, y: torch.cat([x, y], axis))
        fit = nn.Linear(y.shape[axis], x.shape[axis])
        yield Apply(
            "x + linear(y)",
            lambda m, x, y: x + m.fit(y.movedim(axis, -1)).movedim(-1, axis),
            fit=fit,
        )
    if x.dim() == 4 and y.dim() == 2 and x.shape[1] == y.shape[1]:
        yield Apply("x * y[:, :, None, None]", lambda m, x, y: x * y[:, :, None, None])
    if x.dim() == y.dim() == 3 and x.shape[2] == y.shape[2]:
        yield Apply("cross", lambda m, x, y: F.scaled_dot_product_attention(x, y, y))


def _without(x: Tensor, axis: int) -> list[int]:
    return [size for i, size in enumerate(x.shape) if i != axis]


def _borrowing(layer: nn.Module, x: Tensor) -> nn.Module | None:
    """A layer that uses the weight of another one, as it is or transposed."""
    if not isinstance(layer, nn.Linear) or x.dim() == 4:
        return None
    if layer.out_features == x.shape[-1]:
        return Apply("transposed", lambda m, x: F.linear(x, m.weight.t()), weight=layer.weight)
    if layer.in_features == x.shape[-1]:
        bias = weight(layer.out_features)
        return Apply("borrowed", lambda m, x: F.linear(x, m.weight, m.bias), weight=layer.weight,
                     bias=bias)  # fmt: skip
    return None


def _embedding(pick: Pick) -> nn.Module:
    return nn.Embedding(VOCABULARY, pick(4, 3, 6))


def _tied(pick: Pick) -> nn.Module:
    """An embedding whose table is also the last linear layer."""
    size = pick(4, 3)
    table, inner = nn.Embedding(VOCABULARY, size), pick(nn.Linear(size, size), nn.LayerNorm(size))
    return Apply(
        "tied",
        lambda m, x: F.linear(torch.tanh(m.inner(m.table(x))), m.table.weight),
        table=table, inner=inner,
    )  # fmt: skip


def _head(pick: Pick, value: Tensor) -> nn.Module:
    """Three outputs from any value."""
    if not value.is_floating_point():
        return Apply("head", lambda m, x: m.last(m.table(x)).mean(1),
                     table=nn.Embedding(VOCABULARY, 4), last=nn.Linear(4, 3))  # fmt: skip
    axis = channel_axis(value)
    if value.dim() == 2:
        return nn.Linear(value.shape[1], 3)
    return pick(
        Apply("head", lambda m, x: m.last(x.movedim(axis, -1)).flatten(1, -2).mean(1),
              last=nn.Linear(value.shape[axis], 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(value.shape[1:].numel(), 3)),
    )  # fmt: skip


__all__ = ["Network", "Program", "networks"]
