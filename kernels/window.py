"""The newest rows of a stream, with a Gram matrix that is kept up instead of summed anew."""

from __future__ import annotations

import torch
from torch import Tensor

from netir.kernels.gram import UNIT, Gram, by_rows, products, size_of
from netir.kernels.rank import Count, count_above, effective_rank


class GramWindow:
    """Up to `most` of the newest rows of a stream, and their Gram matrix.

    Adding b rows takes the products of b new and b old rows, however many there are. The sums are
    float64 and what rounding can have done to them is kept track of: where that could decide a
    count, or is no longer small, the matrix is summed anew.
    """

    def __init__(self, most: int) -> None:
        if not most >= 1 or most % 1:
            raise ValueError(f"a window of {most} rows keeps nothing, or a part of one")
        self.most = int(most)
        self.rebuilt = 0
        """How often the matrix was summed anew."""
        self._rows: Tensor | None = None
        self._sum: Tensor | None = None
        self._first = 0
        self._count = 0
        self._lost = 0.0
        self._changed = False

    def __len__(self) -> int:
        return self._count

    @torch.inference_mode(False)  # what is kept is written to later, outside of it perhaps
    def add(self, value: Tensor, axis: int = -1) -> None:
        """Put in new rows; the oldest go as soon as there are more than the window keeps."""
        x = by_rows(value, axis)
        rows = x.reshape(-1, x.shape[2])[-self.most :]
        self._fitting(rows)
        total, lost = products(rows[None])
        if self._rows is None or self._sum is None:
            kept, whole = rows.new_empty(self.most, rows.shape[1]), torch.zeros_like(total)
        else:
            kept, whole = self._rows, self._sum
        gone = max(0, self._count + len(rows) - self.most)
        for place in self._places(self._first, gone):
            old, more = products(kept[place][None])
            total, lost = total.sub_(old), lost + more
        total = whole + total
        size_of(total)  # raises where it is too large, and nothing is taken then
        lost += 2 * UNIT * float(total.diagonal().abs().sum())
        rows = rows.clone() if _shared(rows, kept) else rows
        free = self._places(self._first + self._count, len(rows))
        for place, part in zip(free, rows.split([p.stop - p.start for p in free]), strict=True):
            kept[place] = part
        self._rows, self._sum, self._lost = kept, total, self._lost + lost
        self._first = (self._first + gone) % self.most
        self._count += len(rows) - gone
        self._changed = self._changed or gone > 0

    def _places(self, first: int, count: int) -> list[slice]:
        """Where so many rows are from one on: in two parts where they go on at the start."""
        first %= self.most
        end = first + count
        parts = [slice(first, min(end, self.most)), slice(0, max(0, end - self.most))]
        return [part for part in parts if part.stop > part.start]

    def _fitting(self, rows: Tensor) -> None:
        if self._rows is None:
            return
        for what in ("dtype", "device"):
            if getattr(rows, what) != getattr(self._rows, what):
                raise ValueError(f"rows of {what} {getattr(rows, what)} in a window of "
                                 f"{getattr(self._rows, what)}")  # fmt: skip
        if rows.shape[1] != self._rows.shape[1]:
            raise ValueError(f"rows of {rows.shape[1]} columns in a window of "
                             f"{self._rows.shape[1]}")  # fmt: skip

    @property
    def rows(self) -> Tensor:
        """The rows that are kept, in no order."""
        if self._rows is None:
            raise ValueError("no rows were added")
        return self._rows[: self._count]

    @property
    def gram(self) -> Gram:
        """HᵀH / n of the rows that are kept."""
        rows = self.rows
        assert self._sum is not None
        if self._lost > _DRIFT * float(self._sum.diagonal().abs().sum()):
            self._rebuild()
        return Gram(self._sum / len(rows), len(rows), self._lost / len(rows))

    def count(self, epsilon: float) -> Count:
        """How many singular values of the rows / √n are above `epsilon`."""
        found = count_above(self.gram, epsilon)
        if found is None and self._changed:
            self._rebuild()
            found = count_above(self.gram, epsilon)
        if found is not None:
            return Count(found, "float64")
        return effective_rank(self.rows, epsilon, "svd")

    @torch.inference_mode(False)
    def _rebuild(self) -> None:
        self._sum, self._lost = products(self.rows[None])
        self._changed = False
        self.rebuilt += 1


def _shared(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


_DRIFT = 1e-11
"""How much of its trace a matrix may be off before it is summed anew in any case."""

__all__ = ["GramWindow"]
