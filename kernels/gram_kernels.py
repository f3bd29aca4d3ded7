"""The Triton kernel that sums Gram matrices; importing Triton alone, it compiles in any version.

A program makes one upper tile of the matrix from one span of rows, read where they are by any
strides. Products of up to `FLUSH` rows are summed by themselves, then added in float64: in float64
(`WIDE`) by tensor cores that take 32-bit numbers widened in registers, else in float32 by those
that take 16-bit numbers. Nothing is added atomically: every program has a place of its own, and
the spans are added afterwards in their order. `UP` widens 16-bit numbers before anything is done
with them, for the interpreter, which does not compute in bfloat16.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def gram(
    x, tiles, out, count, rows, columns, by_sample, by_row, by_column, span,
    TILE: tl.constexpr, ROWS: tl.constexpr, FLUSH: tl.constexpr, WIDE: tl.constexpr,
    UP: tl.constexpr,
):  # fmt: skip
    """A tile of XᵀX over a span of all `count` rows, of which a sample has `rows`.

    Grid (tiles, spans); a tile is two numbers of `tiles`.
    """
    tile, part = tl.program_id(0), tl.program_id(1)
    left = tl.load(tiles + 2 * tile) * TILE + tl.arange(0, TILE)
    right = tl.load(tiles + 2 * tile + 1) * TILE + tl.arange(0, TILE)
    left_at = x + left.to(tl.int64)[:, None] * by_column
    right_at = x + right.to(tl.int64)[None, :] * by_column
    first = part.to(tl.int64) * span
    last = tl.minimum(first + span, count)
    total = tl.zeros([TILE, TILE], dtype=tl.float64)
    for start in range(first, last, FLUSH):
        sums = tl.zeros([TILE, TILE], dtype=tl.float64 if WIDE else tl.float32)
        for begin in range(start, tl.minimum(start + FLUSH, last), ROWS):
            row = begin + tl.arange(0, ROWS)
            there = (row // rows) * by_sample + (row % rows) * by_row
            inside = row < last
            a = tl.load(left_at + there[None, :], inside[None, :] & (left < columns)[:, None], 0.0)
            b = tl.load(right_at + there[:, None], inside[:, None] & (right < columns)[None, :],
                        0.0)  # fmt: skip
            if UP:
                a, b = a.to(tl.float32), b.to(tl.float32)
            if WIDE:
                a, b = a.to(tl.float64), b.to(tl.float64)
            sums = tl.dot(a, b, acc=sums, input_precision="ieee", out_dtype=sums.dtype)
        total += sums.to(tl.float64)
    place = (part.to(tl.int64) * tl.num_programs(0) + tile) * TILE * TILE
    within = tl.arange(0, TILE)[:, None] * TILE + tl.arange(0, TILE)[None, :]
    tl.store(out + place + within, total)
