"""The Triton kernels that expand filters; importing Triton alone, they compile in any version.

Filters are [elements, fields out, size, fields in] (`netir.kernels.plan`), and a program makes a
tile of `size` × `fields in`. Loads run along the fields in, which are contiguous: where their
number divides by four, every load of a parameter is one of 128 bits. A gradient is gathered too,
by the inverted tables, so nothing is added atomically and two runs give the same bits. Sums over
groups run in a fixed order, in `ACC`.

Each kernel comes twice: for one layer, whose tensors are arguments, and for a bank of layers, whose
addresses and sizes are read from tables. `UP` widens 16-bit numbers before anything is done with
them, for the interpreter, which does not compute in bfloat16.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def _widened(values, ACC: tl.constexpr, UP: tl.constexpr):
    """Loaded numbers in the type of the sums."""
    if UP:
        values = values.to(tl.float32)
    return values.to(ACC)


@triton.jit
def _read(
    source, row, fields, field, place, column, size, inner, mask,
    ACC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """A tile of one row of a filter, its places in another order."""
    line = source + (row.to(tl.int64) * fields + field) * size * inner
    values = tl.load(line + place[:, None] * inner + column[None, :], mask=mask, other=0.0)
    return _widened(values, ACC, UP)


@triton.jit
def _gather(
    source, row, fields, field, entry, factor, s, column, size, inner, mask,
    TAPS: tl.constexpr, ACC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """A tile of one row through half a row of a table, `entry`; its factors where it has taps."""
    if TAPS == 1:
        place = tl.load(entry + s, mask=s < size, other=0)
        return _read(source, row, fields, field, place, column, size, inner, mask, ACC, UP)
    else:
        total = tl.zeros(mask.shape, dtype=ACC)
        for tap in range(TAPS):
            place = tl.load(entry + tap * size + s, mask=s < size, other=0)
            share = tl.load(factor + tap * size + s, mask=s < size, other=0.0).to(ACC)
            part = _read(source, row, fields, field, place, column, size, inner, mask, ACC, UP)
            total += share[:, None] * part
        return total


@triton.jit
def expand(
    parameters, coefficients, table, weights, out, fields, inner, size,
    ELEMENTS: tl.constexpr, TAPS: tl.constexpr, SB: tl.constexpr, CB: tl.constexpr,
    ACC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """One tile of a row of the filter: the sum over the groups. Grid (rows, size, inner)."""
    row = tl.program_id(0)
    element, field = row // fields, row % fields
    s = tl.program_id(1) * SB + tl.arange(0, SB)
    column = tl.program_id(2) * CB + tl.arange(0, CB)
    mask = (s < size)[:, None] & (column < inner)[None, :]
    width = 2 * TAPS * size
    total = tl.zeros([SB, CB], dtype=ACC)
    for g in tl.static_range(len(parameters)):
        entry = table + (g * ELEMENTS + element) * (width + 2)
        factor = weights + (g * ELEMENTS + element) * width
        coset = tl.load(entry + width)
        part = _gather(parameters[g], coset, fields, field, entry, factor, s, column, size, inner,
                       mask, TAPS, ACC, UP)  # fmt: skip
        total += tl.load(coefficients + g).to(ACC) * part
    place = row.to(tl.int64) * size * inner + s[:, None] * inner + column[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def expand_backward(
    parameters, found, coefficients, gradient, table, weights, products, fields, inner, size,
    COSETS: tl.constexpr, ELEMENTS: tl.constexpr, TAPS: tl.constexpr, SB: tl.constexpr,
    CB: tl.constexpr, WANTED: tl.constexpr, ACC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """One tile of all rows of one group's gradient, for one field. Grid (fields, tiles, groups).

    `products` gets one part of the coefficient's gradient per program. `WANTED` says whether the
    parameters' gradient is stored.
    """
    field = tl.program_id(0)
    across = tl.cdiv(inner, CB)
    s = tl.program_id(1) // across * SB + tl.arange(0, SB)
    column = tl.program_id(1) % across * CB + tl.arange(0, CB)
    mask = (s < size)[:, None] & (column < inner)[None, :]
    program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    programs = tl.num_programs(0) * tl.num_programs(1)
    for g in tl.static_range(len(parameters)):
        if tl.program_id(2) == g:
            product = _collect(
                parameters[g], found[g], coefficients + g, gradient,
                table + g * ELEMENTS * (2 * TAPS * size + 2),
                weights + g * ELEMENTS * 2 * TAPS * size, fields, field, s, column, inner, size,
                mask, COSETS[g], ELEMENTS, TAPS, WANTED, ACC, UP,
            )  # fmt: skip
            tl.store(products + g * programs + program, product)


@triton.jit
def _collect(
    parameter, found, coefficient, gradient, table, weights, fields, field, s, column, inner, size,
    mask, cosets, elements, TAPS: tl.constexpr, WANTED: tl.constexpr,
    ACC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """One group: every parameter's sum over its readers, and what that times itself adds up to."""
    width = 2 * TAPS * size
    readers = elements // cosets
    factor = tl.load(coefficient).to(ACC)
    product = tl.zeros(mask.shape, dtype=ACC)
    for coset in range(cosets):
        total = tl.zeros(mask.shape, dtype=ACC)
        for reader in range(readers):
            element = tl.load(table + (coset * readers + reader) * (width + 2) + width + 1)
            entry = table + element * (width + 2) + TAPS * size
            total += _gather(gradient, element, fields, field, entry,
                             weights + element * width + TAPS * size, s, column, size, inner, mask,
                             TAPS, ACC, UP)  # fmt: skip
        row = (coset * fields + field).to(tl.int64) * size * inner
        place = row + s[:, None] * inner + column[None, :]
        own = tl.load(parameter + place, mask=mask, other=0.0)
        product += _widened(own, ACC, UP) * total
        if WANTED:
            tl.store(found + place, (factor * total).to(found.dtype.element_ty), mask=mask)
    return tl.sum(product)


# A layer of a bank in its table of int64, and what one holds.
LAYER = tl.constexpr(9)
FIELDS = tl.constexpr(0)
INNER = tl.constexpr(1)  # fields in, divided by ALIGN
SIZE = tl.constexpr(2)
ORDER = tl.constexpr(3)  # of its ambient group
GROUPS = tl.constexpr(4)
FIRST = tl.constexpr(5)  # its first group: its place in `coefficients` and `offsets`
TABLE = tl.constexpr(6)  # where its table lies
WEIGHTS = tl.constexpr(7)
OUT = tl.constexpr(8)  # where its filter begins, divided by ALIGN


@triton.jit
def expand_bank(
    parameter, table, weights, offsets, layers, work, coefficients, out,
    TAPS: tl.constexpr, SB: tl.constexpr, CB: tl.constexpr, ALIGN: tl.constexpr,
    ACC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """One tile of a row of one layer's filter. Grid: `work` names a layer and a tile of it.

    `parameter`, `table` and `weights` are those of one layer. All others lie at some distance from
    them, in whole numbers of their types, which the tables hold: so the compiler knows that every
    address divides as theirs do.
    """
    layer = layers + tl.load(work + 2 * tl.program_id(0)) * LAYER
    tile = tl.load(work + 2 * tl.program_id(0) + 1)
    fields = tl.load(layer + FIELDS).to(tl.int32)
    inner = tl.load(layer + INNER).to(tl.int32) * ALIGN
    size = tl.load(layer + SIZE).to(tl.int32)
    elements = tl.load(layer + ORDER).to(tl.int32)
    first = tl.load(layer + FIRST)
    table += tl.load(layer + TABLE)
    weights += tl.load(layer + WEIGHTS)
    across = tl.cdiv(inner, CB)
    down = tl.cdiv(size, SB)
    row = tile // (across * down)
    element, field = row // fields, row % fields
    s = tile // across % down * SB + tl.arange(0, SB)
    column = tile % across * CB + tl.arange(0, CB)
    mask = (s < size)[:, None] & (column < inner)[None, :]
    width = 2 * TAPS * size
    total = tl.zeros([SB, CB], dtype=ACC)
    for g in range(tl.load(layer + GROUPS).to(tl.int32)):
        source = parameter + tl.load(offsets + first + g) * ALIGN
        entry = table + (g * elements + element) * (width + 2)
        factor = weights + (g * elements + element) * width
        coset = tl.load(entry + width)
        part = _gather(source, coset, fields, field, entry, factor, s, column, size, inner, mask,
                       TAPS, ACC, UP)  # fmt: skip
        total += tl.load(coefficients + first + g).to(ACC) * part
    line = out + tl.load(layer + OUT) * ALIGN + row.to(tl.int64) * size * inner
    place = s[:, None] * inner + column[None, :]
    tl.store(line + place, total.to(out.dtype.element_ty), mask=mask)


# A group of a bank in its table of int64: its layer, its cosets, and where its gradient begins,
# divided by ALIGN.
GROUP = tl.constexpr(3)


@triton.jit
def expand_bank_backward(
    parameter, table, weights, offsets, layers, groups, work, coefficients, gradient, found,
    products, TAPS: tl.constexpr, SB: tl.constexpr, CB: tl.constexpr, ALIGN: tl.constexpr,
    WANTED: tl.constexpr, ACC: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """One tile of all rows of one group's gradient, for one field. `work` names group and tile."""
    group = tl.load(work + 2 * tl.program_id(0))
    tile = tl.load(work + 2 * tl.program_id(0) + 1)
    layer = layers + tl.load(groups + group * GROUP) * LAYER
    cosets = tl.load(groups + group * GROUP + 1).to(tl.int32)
    fields = tl.load(layer + FIELDS).to(tl.int32)
    inner = tl.load(layer + INNER).to(tl.int32) * ALIGN
    size = tl.load(layer + SIZE).to(tl.int32)
    elements = tl.load(layer + ORDER).to(tl.int32)
    g = group - tl.load(layer + FIRST).to(tl.int32)
    table += tl.load(layer + TABLE)
    weights += tl.load(layer + WEIGHTS)
    across = tl.cdiv(inner, CB)
    down = tl.cdiv(size, SB)
    field = tile // (across * down)
    s = tile // across % down * SB + tl.arange(0, SB)
    column = tile % across * CB + tl.arange(0, CB)
    mask = (s < size)[:, None] & (column < inner)[None, :]
    product = _collect(
        parameter + tl.load(offsets + group) * ALIGN,
        found + tl.load(groups + group * GROUP + 2) * ALIGN, coefficients + group,
        gradient + tl.load(layer + OUT) * ALIGN, table + g * elements * (2 * TAPS * size + 2),
        weights + g * elements * 2 * TAPS * size, fields, field, s, column, inner, size, mask,
        cosets, elements, TAPS, WANTED, ACC, UP,
    )  # fmt: skip
    tl.store(products + tl.program_id(0), product)


@triton.jit
def sum_parts(parts, starts, out, BLOCK: tl.constexpr):
    """The sum of each run of `parts`, in a fixed order. Grid (runs,)."""
    run = tl.program_id(0)
    begin, end = tl.load(starts + run), tl.load(starts + run + 1)
    total = tl.zeros([BLOCK], dtype=parts.dtype.element_ty)
    for start in range(begin, end, BLOCK):
        place = start + tl.arange(0, BLOCK)
        total += tl.load(parts + place, mask=place < end, other=0.0)
    tl.store(out + run, tl.sum(total).to(out.dtype.element_ty))
