"""What a network is for: data to train and to test on, a loss, and a metric.

A task is a frozen dataclass whose fields are its options. The tasks that come with netir are in
`netir.tasks`; `Task.of` makes one of anybody's own arrays or loaders. Data is read when it is first
needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from netir.calibration import Calibration
from netir.checked import Data, checked
from netir.data import Arrays, Loader, Pair, map_inputs, source_of, tensors_in
from netir.dims import symbol
from netir.errors import NetirError
from netir.ir import TensorType
from netir.losses import Compare, Loss, Metric, loss_of, metric_of
from netir.seeds import seed_of

_TEST_BATCH = 256


@dataclass(frozen=True)
class Task(ABC):
    """What a network is for. Third parties subclass it: options as fields, and `read`.

    `loss` and `metric` are names of netir.losses; without a metric, the one that suits the loss.
    The same seed gives the same batches in the same order, whatever ran before.
    """

    name: ClassVar[str] = ""
    batch_size: int = field(default=64, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    loss: str | Compare = field(default="cross-entropy", kw_only=True)
    metric: str | Metric = field(default="", kw_only=True)

    @abstractmethod
    def read(self) -> Data:
        """The data, from wherever it is."""

    @staticmethod
    def of(
        train: Any,
        test: Any,
        loss: str | Compare = "cross-entropy",
        metric: str | Metric = "",
        *,
        batch_size: int = 64,
        seed: int = 0,
        name: str = "own",
    ) -> Task:
        """A task of your own data.

        `train` and `test` are each a pair (inputs, targets) of arrays or tensors, a torch data
        set, or any iterable of (inputs, targets) batches, such as a DataLoader.
        """
        data = Data(source_of(train, "train"), source_of(test, "test"))
        return _Own(
            given=data, name=name, batch_size=batch_size, seed=seed,
            loss=loss, metric=metric,
        )  # fmt: skip

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise NetirError(f"batch_size={self.batch_size}", self.name, "give at least 1")
        _ = self.judged_by

    @cached_property
    def trained_for(self) -> Loss:
        """The loss."""
        return loss_of(self.loss)

    @cached_property
    def judged_by(self) -> Metric:
        """The metric."""
        return metric_of(self.metric, self.trained_for)

    @cached_property
    def data(self) -> Data:
        """The data, read once and checked."""
        return checked(self.read(), self.trained_for, self.name)

    @property
    def classes(self) -> int | None:
        """How many classes there are; None where the targets are no classes."""
        return self.data.classes

    def train_batches(
        self, epoch: int = 0, batch_size: int | None = None, seed: int = 0
    ) -> Iterator[Pair]:
        """One epoch of (inputs, targets), in an order drawn from both seeds and the epoch."""
        size = self._size(batch_size)
        return self.data.train.batches(size, seed_of(self.seed, "train", seed, epoch))

    def test_batches(self) -> Iterator[Pair]:
        """All that there is to test on, as (inputs, targets), in a fixed order."""
        return self.data.test.batches(_TEST_BATCH)

    def steps(self, batch_size: int | None = None) -> int | None:
        """How many batches an epoch has; None where only reading them would tell."""
        source, size = self.data.train, self._size(batch_size)
        if isinstance(source, Loader):
            return source.count
        whole, rest = divmod(len(source), size)
        return max(1, whole + (rest > 1))

    def _size(self, wanted: int | None) -> int:
        if wanted is None:
            return self.batch_size
        if wanted < 1:
            raise NetirError(f"batch_size={wanted}", self.name, "give at least 1")
        if isinstance(self.data.train, Loader):
            raise NetirError(
                f"batch_size={wanted}, and the loader makes its own batches", self.name,
                "set it in the loader",
            )  # fmt: skip
        return wanted

    def example(self, count: int = 2) -> tuple[Any, ...] | Mapping[str, Any]:
        """Inputs to trace a network with: a tuple of arguments, or a mapping of named ones."""
        pair = next(self.test_batches(), None)
        if pair is None:
            raise NetirError("there is nothing to test on", self.name, "give at least one batch")
        inputs, _ = _cut(pair, count)
        return (inputs,) if isinstance(inputs, Tensor) else inputs

    @property
    def inputs(self) -> dict[str, TensorType]:
        """What a network for this task takes: names and types, the size of the batch open."""
        example = self.example()
        named = example if isinstance(example, Mapping) else _named(tensors_in(example))
        batch = symbol("batch")
        return {n: TensorType(t.dtype, (batch, *t.shape[1:])) for n, t in named.items()}

    def calibration(self, count: int = 256, seed: int = 0) -> Calibration:
        """`count` examples to train on, for passes that look at data, with targets and the loss."""
        pairs = list(self._some(count, seed_of(self.seed, "calibration", seed)))
        return Calibration([x for x, _ in pairs], [y for _, y in pairs], self.trained_for)

    def _some(self, count: int, seed: int) -> Iterator[Pair]:
        source = self.data.train
        source = source.plain if isinstance(source, Arrays) else source
        for pair in source.batches(self.batch_size, seed):
            yield _cut(pair, count)
            count -= len(tensors_in(pair[0])[0])
            if count <= 0:
                return


@dataclass(frozen=True)
class _Own(Task):
    """A task of data that the caller has."""

    given: Data = field(repr=False, kw_only=True)
    name: str = field(default="own", kw_only=True)  # type: ignore[misc]

    def read(self) -> Data:
        return self.given


def _cut(pair: Pair, count: int) -> Pair:
    def cut(leaf: Any) -> Any:
        return leaf[:count] if isinstance(leaf, Tensor) else leaf

    return map_inputs(cut, pair[0]), map_inputs(cut, pair[1])


def _named(tensors: list[Tensor]) -> dict[str, Tensor]:
    names = ["x"] if len(tensors) == 1 else [f"x{i}" for i in range(len(tensors))]
    return dict(zip(names, tensors, strict=True))


__all__ = ["Data", "Task"]
