"""How a processor expands filters: along the lattice of subgroups, by whole rows of numbers.

Every group is gathered only as far as the largest of its subgroups that is present, as that
subgroup's parameters; sums are formed there and go on. For {C1, C2, C4, D1, D2, D4} this moves
3.25 filters instead of 5. All is plain torch, and the order of sums is fixed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor


def lines(rows: Tensor, taps: Tensor, fields: int, size: int) -> Tensor:
    """Which lines of fields in to read from a filter [rows, fields, size, fields in].

    For every entry of `rows` a whole row of the result, whose places are `taps`.
    """
    first = rows[:, None] * fields + torch.arange(fields, dtype=rows.dtype, device=rows.device)
    return (first[:, :, None] * size + taps[:, None, :]).reshape(-1)


class Gather:
    """Reading one line for every line of the result, or a sum of several.

    `chosen` tells which, [lines, summands], and `factors` weighs them where they are given.
    """

    def __init__(self, chosen: Tensor, factors: Tensor | None) -> None:
        count, summands = chosen.shape
        self.factors = factors
        self.each = [each.long() for each in chosen.unbind(1)]
        self.bags = chosen
        self.starts = torch.arange(count, dtype=chosen.dtype, device=chosen.device) * summands

    def __call__(self, flat: Tensor, part: slice = slice(None)) -> Tensor:
        """All lines of the result, or part of them."""
        factors = None if self.factors is None else self.factors[part]
        if len(self.each) > 1 and flat.dtype == torch.float32:  # torch is fast at this then
            bags, given = self.bags[part], None if factors is None else factors.reshape(-1)
            starts = self.starts[: len(bags)]
            return torch.embedding_bag(flat, bags.reshape(-1), starts, per_sample_weights=given)[0]
        total = flat.index_select(0, self.each[0][part])
        if factors is not None:
            total *= factors[:, :1].to(flat.dtype)
        for number, each in enumerate(self.each[1:], 1):
            more = flat.index_select(0, each[part])
            if factors is not None:
                more *= factors[:, number, None].to(flat.dtype)
            total += more
        return total


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

        def gather(rows: Sequence[Tensor], read: Sequence[Tensor], part: slice) -> Gather:
            """For every row of the result the sum of some: `read` are their rows in the table."""
            found = [lines(row, taps, fields, size)
                     for row, own in zip(rows, read, strict=True)
                     for taps in table.index_select(0, own)[:, part].split(size, 1)]  # fmt: skip
            if weights is None:
                return Gather(torch.stack(found, 1), None)
            given = [taps[:, None].expand(-1, fields, -1).reshape(-1)
                     for own in read
                     for taps in weights.index_select(0, own)[:, part].split(size, 1)]  # fmt: skip
            return Gather(torch.stack(found, 1), torch.stack(given, 1))

        every = torch.arange(len(table), dtype=torch.int32, device=table.device)
        self.forwards = gather([table[:, -2]], [every], slice(half))
        readers = torch.argsort(table[:, -2], stable=True).to(torch.int32)
        each = readers.view(cosets[group], -1).unbind(1)
        self.backwards = gather(each, each, slice(half, 2 * half))

    def forward(self, source: Tensor, part: slice = slice(None)) -> Tensor:
        """Every entry's parameter; parameters, as all that is read and made here, are lines."""
        return source[part] if self.trivial else self.forwards(source, part)

    def backward(self, source: Tensor) -> Tensor:
        """The transpose: every parameter's sum over the entries that read it."""
        return source if self.trivial else self.backwards(source)


_KEPT: OrderedDict[tuple[Hashable, ...], tuple[Tensor, Tensor | None, list[Step]]] = OrderedDict()
_MOST = 64


def steps(
    parameters: Sequence[Tensor], table: Tensor, weights: Tensor | None, into: Sequence[int]
) -> list[Step]:
    """The steps of a layer, kept for the next time, with the tables whose addresses name them."""
    _, fields, width, _, inner, _ = parameters[0].shape
    size = width * width * inner
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


def _lines_in(kind: torch.dtype, numbers: Tensor) -> Tensor:
    """Parameters, or a filter, as lines of fields in, of a type."""
    flat = numbers.detach().reshape(-1, numbers.shape[-1]).contiguous()
    return flat if flat.dtype == kind else flat.to(kind)


def expand(
    parameters: Sequence[Tensor], coefficients: Tensor, table: Tensor, weights: Tensor | None,
    into: Sequence[int],
) -> Tensor:  # fmt: skip
    """The dense filter as lines of fields in, in the type of sums."""
    kind = sum_type(parameters[0].dtype)
    walk = steps(parameters, table, weights, into)
    factors = coefficients.tolist()
    arriving: dict[int, list[_Share]] = {}
    for g in _order(parameters):
        own, others = _lines_in(kind, parameters[g]), arriving.pop(g, [])
        total = _summed([*others, (None, own, factors[g])])
        arriving.setdefault(into[g], []).append((walk[g], total, 1.0))
    return _summed(arriving[-1])


_Share = tuple[Step | None, Tensor, float]
"""Lines, or what a step makes of them, and how much they count."""
_WHOLE, _PART = 1 << 20, 1 << 17


def _summed(shares: Sequence[_Share]) -> Tensor:
    """Their sum, by parts that the processor's cache holds where it is large."""
    (step, lines, factor), *rest = shares
    made = lines * factor if step is None else step.forward(lines)
    count = len(made) if made.numel() <= _WHOLE else -(-_PART // made.shape[1])
    for start in range(0, len(made), count) if rest else ():
        part = slice(start, start + count)
        into = made[part]
        for step, lines, factor in rest:
            into.add_(lines[part] if step is None else step.forward(lines, part), alpha=factor)
    return made


def backward(
    parameters: Sequence[Tensor], coefficients: Tensor, gradient: Tensor, table: Tensor,
    weights: Tensor | None, into: Sequence[int], wanted: bool,
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """The gradients of the parameters, empty unless `wanted`, and of the coefficients."""
    kind = sum_type(parameters[0].dtype)
    walk = steps(parameters, table, weights, into)
    factors = coefficients.tolist()
    summed: dict[int, Tensor] = {-1: _lines_in(kind, gradient)}
    products = [0.0] * len(into)
    for g in reversed(_order(parameters)):
        own, total = _lines_in(kind, parameters[g]), walk[g].backward(summed[into[g]])
        summed[g] = total
        products[g] = float(torch.dot(own.view(-1), total.view(-1)))
    found = [parameter.new_empty(0) for parameter in parameters]
    for g, own in enumerate(parameters) if wanted else ():
        total = summed[g]
        scaled = total * factors[g] if walk[g].trivial else total.mul_(factors[g])
        found[g] = _lines_in(own.dtype, scaled).view(own.shape)
    return found, coefficients.new_tensor(products)
