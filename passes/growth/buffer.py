"""The newest samples of a stream of batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from netir.calibration import Batch, Calibration
from netir.errors import NetirError


class Buffer:
    """Batches with their targets, oldest first; tensors are kept without their history."""

    def __init__(self) -> None:
        self._batches: deque[tuple[Any, Any, int]] = deque()

    def __len__(self) -> int:
        return sum(count for _, _, count in self._batches)

    @property
    def newest(self) -> int:
        """How many samples the last batch has."""
        return self._batches[-1][2] if self._batches else 0

    def add(self, batch: Batch, target: Any) -> None:
        """Keep a batch."""
        first = next((leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)), None)
        if first is None or not first.dim():
            raise NetirError("a batch has no tensor with an axis of samples")
        kept = pytree.tree_map_only(Tensor, Tensor.detach, (batch, target))
        self._batches.append((*kept, len(first)))

    def trim(self, most: int) -> None:
        """Forget the oldest samples, down to `most`; of one batch its last samples stay."""
        while len(self._batches) > 1 and len(self) - self._batches[0][2] >= most:
            self._batches.popleft()
        gone = len(self) - most
        if gone > 0:
            batch, target, count = self._batches.popleft()
            self._batches.appendleft((*_last((batch, target), count, gone), count - gone))

    def calibration(self, loss: Callable[[Any, Any], Tensor] | None) -> Calibration | None:
        """What is kept as a calibration; None if nothing is."""
        if not self._batches:
            return None
        batches, targets = [b for b, _, _ in self._batches], [t for _, t, _ in self._batches]
        known = loss is not None and all(t is not None for t in targets)
        return Calibration(batches, targets if known else None, loss if known else None)


def _last(tree: Any, count: int, gone: int) -> Any:
    """Every tensor with an entry for each of `count` samples without the first `gone`."""
    return pytree.tree_map_only(
        Tensor, lambda t: t[gone:] if t.dim() and len(t) == count else t, tree
    )


__all__ = ["Buffer"]
