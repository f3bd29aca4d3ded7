"""New layers in a graph: where they go, what they are called, and weights that change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from netir.calibration import Calibration
from netir.edit import Edit
from netir.ir import Graph, Node, Param, TensorType
from netir.ops.base import Op
from netir.ops.conv import Conv
from netir.ops.linear import Linear
from netir.ops.norm import BatchNorm
from netir.passes.layers.channels import Channels

Statistics = tuple[Tensor, Tensor]
"""Mean and variance of each channel."""


@dataclass(frozen=True)
class Place:
    """A value after which layers go: the axis of its channels, and the path of their modules."""

    node: Node
    axis: int
    before: str | None
    path: str
    device: torch.device

    @property
    def value(self) -> str:
        return self.node.results[0]

    @property
    def type(self) -> TensorType:
        return self.node.types[0]

    @property
    def channels(self) -> int:
        size = self.type.shape[self.axis]
        assert isinstance(size, int)
        return size

    @property
    def spatial(self) -> int:
        """How many axes a convolution slides along here; 0 where a dense layer belongs."""
        return 0 if self.axis == self.type.rank - 1 else self.type.rank - 2

    def weight(self, made: int, read: int, kernel: int) -> Tensor:
        """A weight of zeros for a layer that goes here."""
        shape = (made, read, *[kernel] * self.spatial)
        return torch.zeros(shape, dtype=self.type.dtype, device=self.device)


class Places:
    """Finds the places of a graph; every module path is given out once."""

    def __init__(self, graph: Graph, suffix: str) -> None:
        self._graph, self._suffix = graph, suffix
        self._channels = Channels(graph)
        order = list(graph.nodes)
        self._next: dict[str, str | None] = dict(zip(order, [*order[1:], None], strict=True))
        names = (*graph.params, *graph.aliases)
        modules = {name.rpartition(".")[0] for name in names}
        modules |= {node.scope for node in graph.nodes.values()}
        self._outer = {above for path in modules for above in _above(path)}
        self._taken = {*names, *modules, *self._outer}

    def after(self, node: Node) -> Place | str:
        """The place after a node, or why there is none."""
        if len(node.types) > 1:
            return "it gives several values"
        if not node.types[0].dtype.is_floating_point:
            return f"its values are {node.types[0].dtype}"
        found = self._channels.find(node.results[0])
        if found is None:
            return "no layer made one axis of it, so its channels are not known"
        axis, layer = found
        rank = node.types[0].rank
        if axis != rank - 1 and not (axis == 1 and 3 <= rank <= 5):
            return f"its channels are on axis {axis} of {rank}, where no layer reads them"
        params = self._graph.params
        near = next((params[name].data for name in (*layer.params, *params)), torch.empty(0))
        return Place(node, axis, self._next[node.name], "", near.device)

    def named(self, place: Place) -> Place:
        """The place with a free path: inside a module that has parts, or beside one without."""
        scope = place.node.scope
        inside = not scope or scope in self._outer
        joint = "." if scope and inside else "_" if scope else ""
        base = f"{scope}{joint}{self._suffix}"
        path, number = base, 2
        while path in self._taken:
            path, number = f"{base}_{number}", number + 1
        self._taken.add(path)
        return replace(place, path=path)


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition(".")[0]:
        yield path


def identity(weight: Tensor, groups: int = 1) -> Tensor:
    """A weight of this shape that gives back what it reads: the identity, or a Dirac kernel.

    The centre of a kernel is its middle tap, so its sizes must be odd.
    """
    made, read, *kernel = weight.shape
    found = weight.new_zeros(made, read, prod(kernel))
    rows = torch.arange(made, device=weight.device)
    columns = rows % (made // groups)
    there = columns < read
    found[rows[there], columns[there], prod(kernel) // 2] = 1
    return found.view(weight.shape)


def kaiming(weight: Tensor, seed: int) -> Tensor:
    """Normal weights that keep the variance before a ReLU (He et al. 2015)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.empty(weight.shape, dtype=torch.float64)
    torch.nn.init.kaiming_normal_(drawn, nonlinearity="relu", generator=generator)
    return drawn.to(weight)


def put_layer(
    edit: Edit, place: Place, part: str, read: str, weight: Tensor, groups: int, bias: bool
) -> str:
    """Insert a dense layer or a convolution that keeps positions; gives its value."""
    path, rank = f"{place.path}.{part}", place.spatial
    operands = [read, edit.add_param(f"{path}.weight", Param(weight))]
    if bias:
        zeros = Param(weight.new_zeros(weight.shape[0]))
        operands.append(edit.add_param(f"{path}.bias", zeros))
    padding = tuple(size // 2 for size in weight.shape[2:])
    op: Op = Conv(rank=rank, padding=padding, groups=groups) if rank else Linear()
    return put(edit, place, part, op, operands, path)


def put_norm(edit: Edit, place: Place, read: str, statistics: Statistics) -> str:
    """Insert a batch norm that gives back what it reads: γ = √(v + ε) and β = μ."""
    mean, variance = (tensor.to(place.device, place.type.dtype) for tensor in statistics)
    op = BatchNorm()
    scale = (variance.double() + op.eps).sqrt().to(variance)
    path = f"{place.path}.norm"
    count = torch.zeros((), dtype=torch.int64, device=place.device)
    params = {
        "weight": Param(scale), "bias": Param(mean.clone()),
        "running_mean": Param(mean, "buffer", trainable=False),
        "running_var": Param(variance, "buffer", trainable=False),
    }  # fmt: skip
    operands = [read, *(edit.add_param(f"{path}.{leaf}", p) for leaf, p in params.items())]
    edit.add_param(f"{path}.num_batches_tracked", Param(count, "buffer", trainable=False))
    return put(edit, place, "norm", op, operands, path)


def put(
    edit: Edit, place: Place, part: str, op: Op, operands: list[str], scope: str = ""
) -> str:
    """Insert a node at a place; gives its value."""
    name = edit.fresh(f"{place.node.name}_{part}")
    scope = scope or place.node.scope
    return edit.insert(name, op, operands, before=place.before, scope=scope)


def unit(width: int) -> Statistics:
    """The statistics that a fresh batch norm has."""
    return torch.zeros(width, dtype=torch.float64), torch.ones(width, dtype=torch.float64)


def measured(
    graph: Graph, calibration: Calibration, places: Mapping[str, Place], pools: Mapping[str, Op]
) -> dict[str, Statistics]:
    """Mean and variance of the channels at each place over all batches, behind a pool if any."""
    sums = {name: torch.zeros(3, p.channels, dtype=torch.float64) for name, p in places.items()}
    for values in calibration.values(graph, [p.value for p in places.values()]):
        for name, place in places.items():
            value = values[place.value].double()
            value = pools[name].to_torch(value) if name in pools else value
            rows = value.movedim(place.axis, 0).flatten(1).cpu()
            counts = torch.full((place.channels,), float(rows.shape[1]), dtype=torch.float64)
            sums[name] += torch.stack([counts, rows.sum(1), rows.square().sum(1)])
    return {name: _moments(*sums[name]) for name in places}


def _moments(count: Tensor, total: Tensor, squares: Tensor) -> Statistics:
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_(min=0)
