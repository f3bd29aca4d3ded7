"""Planting: new units with given weights put into spaces, all of them in one change of basis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor

from netir.basis import Basis, Contract, extend
from netir.change import Rewritten, change_basis
from netir.ir import Graph, Param
from netir.layout_moves import LayoutMoves
from netir.moves import AxisMove, Gather
from netir.ops.activation import Clamp, Threshold
from netir.ops.base import Op
from netir.passes.compensation.consumers import Consumer
from netir.passes.growth.hidden import Hidden, row_axis
from netir.passes.scores.members import positions
from netir.spaces import Space


@dataclass(frozen=True, eq=False)
class Fans:
    """The weights of new units, by the name of the parameter; what is not named is neutral or 0.

    `rows` make the units and `columns` read them: units x entries of one x the other axes of the
    parameter, as `Hidden.rows` and `Hidden.columns` give them. A unit of which `source` names an
    old one is its copy: both take half of what reads the old one, the copy has `apart` added to
    its rows and the old one has it taken away.
    """

    count: int
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    source: Tensor | None = None
    apart: Mapping[str, Tensor] = field(default_factory=dict)
    keeps: Contract = Contract.EXACT
    open: tuple[str, ...] = ()
    """The ReLU nodes that become a clamp at 0: the same function, but with a gradient at 0."""
    why: str = ""
    """Why the weights are not those that were asked for, where they are not."""

    def basis(self, size: int) -> Basis:
        """The new indices: the old ones, then the new or copied ones."""
        if self.source is None:
            return replace(extend(size, self.count), keeps=self.keeps)
        index = torch.cat([torch.arange(size), self.source])
        copies = torch.bincount(index[index >= 0], minlength=size).double()
        share = torch.where(index < 0, 1.0, 1 / copies[index.clamp(min=0)])
        return Basis(index, share, keeps=self.keeps)


@dataclass(frozen=True, eq=False)
class Sown(Basis):
    """A basis that knows the weights of its new indices."""

    layer: Hidden | None = None
    fans: Fans | None = None

    @property
    def sizes(self) -> LayoutMoves:
        """Sizes once this space alone has changed."""
        assert self.layer is not None
        return LayoutMoves({self.layer.space.atom: self})

    def places(self, maker: Consumer) -> Tensor:
        """The entries of a maker's rows that belong to each index, old and new."""
        assert self.layer is not None
        layout = self.layer.graph.analysis.shape(f"@{maker.weight}")[row_axis(maker)]
        return positions(layout, self.layer.space.atom, self.sizes.size)

    @staticmethod
    def of(layer: Hidden, fans: Fans) -> Sown:
        basis = fans.basis(layer.width)
        return Sown(index=basis.index, share=basis.share, keeps=basis.keeps, layer=layer, fans=fans)


def planted(graph: Graph, planned: Sequence[tuple[Space, Sown]]) -> Rewritten:
    """Change all the spaces, and give the new entries their weights."""
    bases: dict[str | Space, Basis] = dict(planned)
    sizes = LayoutMoves({space.atom: basis for space, basis in planned})
    new: dict[str, Tensor] = {}
    for space, basis in planned:
        for name, axis, part in _given(basis):
            if name not in new:
                new[name] = _empty(graph, name, sizes)
            place = _Place(graph, name, axis, space, sizes)
            place.add(new[name], place.entries[space.size :], part)
    done = change_basis(graph, bases, new)
    return replace(done, graph=_opened(_parted(graph, done.graph, planned, sizes), planned))


def _empty(graph: Graph, param: str, sizes: LayoutMoves) -> Tensor:
    """Zeros of the shape that a parameter will have."""
    shape = [sizes.size(layout) for layout in graph.analysis.shape(f"@{param}")]
    device = graph.params[param].data.device
    return torch.zeros(shape, dtype=torch.float64, device=device)  # type: ignore[arg-type]


def _opened(graph: Graph, planned: Sequence[tuple[Space, Sown]]) -> Graph:
    """Every ReLU that must let a gradient through at 0 as an op that does."""
    names = {name for _, basis in planned if basis.fans is not None for name in basis.fans.open}
    changed = {name: replace(graph.nodes[name], op=open_relu()) for name in names}
    return graph.replace(nodes={**graph.nodes, **changed}) if changed else graph


@cache
def open_relu() -> Op:
    """A ReLU with a slope of 1 at 0: a clamp where torch gives it that, else a threshold.

    The threshold is below 0 by the least that every type which torch computes in can tell.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.zeros(1, requires_grad=True)
        (slope,) = torch.autograd.grad(torch.clamp(x, min=0).sum(), x)
    return Clamp(min=0) if slope.item() == 1 else Threshold(threshold=-1e-37)


def _given(basis: Sown) -> list[tuple[str, int, Tensor]]:
    """Every parameter that gets new entries, along which axis, and the entries."""
    layer, fans = basis.layer, basis.fans
    assert layer is not None
    assert fans is not None
    axes = {m.weight: row_axis(m) for m in layer.makers}
    axes |= {c.param: c.axis for c in layer.carriers}
    rows = [(name, axes[name], part) for name, part in fans.rows.items()]
    read = {r.weight: r.weight_axis for r in layer.readers}
    return rows + [(name, read[name], part) for name, part in fans.columns.items()]


class _Place:
    """Where the indices of a space stand along an axis of a parameter, before and after."""

    def __init__(
        self, graph: Graph, param: str, axis: int, space: Space, sizes: LayoutMoves
    ) -> None:
        shape = graph.analysis.shape(f"@{param}")
        self.axis = axis
        self.entries = positions(shape[axis], space.atom, sizes.size)
        self._others = [None if a == axis else sizes.of(part) for a, part in enumerate(shape)]
        self._from = self._old_entries(positions(shape[axis], space.atom), sizes.of(shape[axis]))

    def _old_entries(self, before: Tensor, move: AxisMove | None) -> Tensor:
        """For each entry of an index now which it was of its entries before, -1 for a new one."""
        if self.entries.shape[1] == before.shape[1] or not isinstance(move, Gather):
            return torch.arange(before.shape[1])
        known = {int(entry): number for number, entry in enumerate(before[0])}
        return torch.tensor([known.get(int(e), -1) for e in move.index[self.entries[0]]])

    def add(self, data: Tensor, entries: Tensor, part: Tensor) -> None:
        """Add weights of some indices in place; where two spaces meet, one of them adds zeros."""
        for other, step in enumerate(self._others):
            if step is not None:
                part = step.apply(part, 2 + other - (other > self.axis))
        old = self._from >= 0
        flat = part[:, self._from[old]].reshape(-1, *part.shape[2:]).to(data)
        data.movedim(self.axis, 0).index_add_(0, entries[:, old].flatten().to(data.device), flat)


def _parted(
    before: Graph, after: Graph, planned: Sequence[tuple[Space, Sown]], sizes: LayoutMoves
) -> Graph:
    """Copies and their originals pulled apart."""
    params: dict[str, Param] = dict(after.params)
    for space, basis in planned:
        assert basis.fans is not None
        assert basis.layer is not None
        source = basis.fans.source
        for maker in basis.layer.makers:
            apart = basis.fans.apart.get(maker.weight)
            if apart is None or source is None:
                continue
            old, copied = params[maker.weight], source >= 0
            place = _Place(before, maker.weight, row_axis(maker), space, sizes)
            step = apart[copied.to(apart.device)]
            data = old.data.to(torch.float64, copy=True)
            place.add(data, place.entries[space.size :][copied], step)
            place.add(data, place.entries[source[copied]], -step)
            params[maker.weight] = replace(old, data=data.to(old.data.dtype))
    return after.replace(params=params)


__all__ = ["Fans", "Sown", "planted"]
