"""How a processor expands filters: along the lattice of subgroups, by whole rows of numbers.

Every group is gathered only as far as the largest of its subgroups that is present, as that
subgroup's parameters; sums are formed there and go on. For {C1, C2, C4, D1, D2, D4} this moves
3.25 filters instead of 5. All is plain torch, and the order of sums is fixed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def lines(rows: Tensor, taps: Tensor, fields: int, size: int) -> Tensor:
    """Which lines of fields in to read from a filter [rows, fields, size, fields in].

    For every entry of `rows` a whole row of the result, whose places are `taps`.
    """
    first = rows[:, None] * fields + torch.arange(fields, dtype=rows.dtype, device=rows.device)
    return (first[:, :, None] * size + taps[:, None, :]).reshape(-1)


def gathered(source: Tensor, rows: Tensor, taps: Tensor, factors: Tensor | None) -> Tensor:
    """The rows of a filter with their places exchanged, or summed over several taps."""
    _, fields, size, _ = source.shape
    return _read(source, _lines(rows, taps, fields, size), factors)


def _lines(rows: Tensor, taps: Tensor, fields: int, size: int) -> list[Tensor]:
    """The lines of every tap."""
    return [lines(rows, part, fields, size) for part in taps.split(size, 1)]


def _read(source: Tensor, chosen: Sequence[Tensor], factors: Tensor | None) -> Tensor:
    _, fields, size, inner = source.shape
    flat = source.reshape(-1, inner)
    total: Tensor | None = None
    for tap, each in enumerate(chosen):
        part = flat.index_select(0, each).view(-1, fields, size, inner)
        if factors is not None:
            share = factors[:, None, tap * size : (tap + 1) * size, None]
            part = part * share.to(source.dtype)
        total = part if total is None else total + part
    assert total is not None
    return total


@dataclass(frozen=True)
class Gather:
    """The lines to read for some rows, and their factors if they interpolate."""

    lines: list[Tensor]
    factors: Tensor | None

    def __call__(self, source: Tensor) -> Tensor:
        return _read(source, self.lines, self.factors)


class Step:
    """Gathering one group's parameters into those of a subgroup, or into the filter."""

    def __init__(
        self, tables: tuple[Tensor, Tensor | None], group: int, into: int, cosets: Sequence[int],
        fields: int, size: int,
    ) -> None:  # fmt: skip
        table, weights = tables[0][group], None if tables[1] is None else tables[1][group]
        elements, width = table.shape
        self.trivial = into < 0 and cosets[group] == elements
        if into >= 0:
            chosen = tables[0][into, :: elements // cosets[into], -1]
            table = table.index_select(0, chosen)
            weights = None if weights is None else weights.index_select(0, chosen)
        half = (width - 2) // 2

        def gather(rows: Tensor, whole: Tensor, factors: Tensor | None, part: slice) -> Gather:
            own = None if factors is None else factors[:, part]
            return Gather(_lines(rows, whole[:, part], fields, size), own)

        self.forwards = gather(table[:, -2], table, weights, slice(half))
        self.backwards = []
        readers = torch.argsort(table[:, -2], stable=True).to(torch.int32)
        for reader in readers.view(cosets[group], -1).unbind(1):
            factors = None if weights is None else weights.index_select(0, reader)
            whole = table.index_select(0, reader)
            self.backwards.append(gather(reader, whole, factors, slice(half, 2 * half)))

    def forward(self, source: Tensor) -> Tensor:
        return source if self.trivial else self.forwards(source)

    def backward(self, source: Tensor) -> Tensor:
        """The transpose: every parameter's sum over the entries that read it."""
        if self.trivial:
            return source
        first, *others = self.backwards
        total = first(source)
        for other in others:
            total.add_(other(source))
        return total


_KEPT: OrderedDict[tuple[Hashable, ...], tuple[Tensor, Tensor | None, list[Step]]] = OrderedDict()
_MOST = 64


def steps(
    parameters: Sequence[Tensor], table: Tensor, weights: Tensor | None, into: Sequence[int]
) -> list[Step]:
    """The steps of a layer, kept for the next time, with the tables whose addresses name them."""
    _, fields, size, _ = rows_of(parameters[0]).shape
    cosets = [parameter.shape[0] for parameter in parameters]
    version = -1 if table.is_inference() else table._version
    places = table.data_ptr(), 0 if weights is None else weights.data_ptr()
    key = (*places, version, *table.shape, *cosets, *into, fields, size)
    known = _KEPT.pop(key, None)
    if known is None:
        made = [Step((table, weights), g, into[g], cosets, fields, size) for g in range(len(into))]
        known = (table, weights, made)
    _KEPT[key] = known
    if len(_KEPT) > _MOST:
        _KEPT.popitem(last=False)
    return known[2]


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """What sums are formed in: numbers of 16 bits are widened."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _order(parameters: Sequence[Tensor]) -> list[int]:
    """The groups, large ones first: few parameters, so few cosets."""
    return sorted(range(len(parameters)), key=lambda g: parameters[g].shape[0])


def rows_of(parameter: Tensor) -> Tensor:
    """Parameters as [cosets, fields out, size, fields in]."""
    cosets, fields, *_, inner = parameter.shape
    return parameter.reshape(cosets, fields, -1, inner)


def expand(
    parameters: Sequence[Tensor], coefficients: Tensor, table: Tensor, weights: Tensor | None,
    into: Sequence[int],
) -> Tensor:  # fmt: skip
    """The dense filter [elements, fields out, size, fields in], in the type of sums."""
    kind = sum_type(parameters[0].dtype)
    walk = steps(parameters, table, weights, into)
    factors = coefficients.tolist()
    arrived: dict[int, Tensor] = {}
    for g in _order(parameters):
        own = rows_of(parameters[g]).to(kind)
        total = arrived.pop(g, None)
        total = own * factors[g] if total is None else total.add_(own, alpha=factors[g])
        moved = walk[g].forward(total)
        known = arrived.get(into[g])
        arrived[into[g]] = moved if known is None else known.add_(moved)
    return arrived[-1]


def backward(
    parameters: Sequence[Tensor], coefficients: Tensor, gradient: Tensor, table: Tensor,
    weights: Tensor | None, into: Sequence[int], wanted: bool,
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """The gradients of the parameters, empty unless `wanted`, and of the coefficients."""
    kind = sum_type(parameters[0].dtype)
    walk = steps(parameters, table, weights, into)
    factors = coefficients.tolist()
    summed: dict[int, Tensor] = {-1: gradient.to(kind)}
    found = [parameter.new_empty(0) for parameter in parameters]
    products = [0.0] * len(into)
    for g in reversed(_order(parameters)):
        own, total = parameters[g], walk[g].backward(summed[into[g]])
        summed[g] = total
        products[g] = float(torch.dot(own.reshape(-1).to(kind), total.reshape(-1)))
        if wanted:
            found[g] = (total * factors[g]).view(own.shape).to(own.dtype)
    return found, coefficients.new_tensor(products)
