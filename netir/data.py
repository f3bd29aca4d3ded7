"""Where batches come from: arrays in memory, a data set of single examples, or anybody's loader.

A batch is what the network is called with, and the targets. Which examples meet in a batch depends
on a seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from netir.calibration import arguments
from netir.errors import NetirError
from netir.seeds import apart, seed_of

Pair = tuple[Any, Any]
"""What the network is called with (a tensor, a tuple or a mapping of them), and the targets."""
Change = Callable[[Any, torch.Generator | None], Any]
"""Something done to the inputs of a batch; it may draw from the generator of a training epoch."""

_EXAMPLES = "pass (inputs, targets) as two arrays, or an iterable of (inputs, targets) batches"


@dataclass(frozen=True, eq=False)
class Arrays:
    """Examples in memory: inputs and targets, the example counted by their first axis."""

    inputs: Any
    targets: Tensor
    change: Change = lambda inputs, generator: inputs

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def plain(self) -> Arrays:
        """The same examples, changed as those to test on are: nothing is left to chance."""
        return replace(self, change=lambda inputs, generator: self.change(inputs, None))

    def batches(self, size: int, seed: int | None = None) -> Iterator[Pair]:
        """All examples once, in an order drawn from `seed`; in their own order without one."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        for chosen in _chunks(len(self), size, generator):
            inputs = map_inputs(itemgetter(chosen), self.inputs)
            yield self.change(inputs, generator), self.targets[chosen]


@dataclass(frozen=True, eq=False)
class Examples:
    """A torch data set that gives one (input, target) at a time."""

    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, size: int, seed: int | None = None) -> Iterator[Pair]:
        """All examples once, in an order drawn from `seed`; in their own order without one."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)

        def made() -> Iterator[Any]:
            for chosen in _chunks(len(self), size, generator):
                yield default_collate([self.source[i] for i in chosen.tolist()])

        for batch in apart(made(), seed_of(seed or 0, "examples")):
            yield _pair(batch)


@dataclass(frozen=True, eq=False)
class Loader:
    """Anything that can be iterated again and again and gives (inputs, targets) batches.

    It makes its own batches. What it draws from the global generators comes from the seed.
    """

    source: Iterable[Any]

    def batches(self, size: int, seed: int | None = None) -> Iterator[Pair]:
        """What the loader gives."""
        for batch in apart(self.source, seed_of(seed or 0, "loader")):
            yield _pair(batch)

    @property
    def count(self) -> int | None:
        """How many batches there are, if the loader can tell."""
        try:
            return len(self.source)  # type: ignore[arg-type]
        except TypeError:
            return None


Source = Arrays | Examples | Loader


def source_of(given: Any, where: str) -> Source:
    """Whatever holds examples as a source of batches."""
    if isinstance(given, Arrays | Examples | Loader):
        return given
    if isinstance(given, TensorDataset):
        given = (given.tensors[:-1], given.tensors[-1])
        given = (given[0][0] if len(given[0]) == 1 else given[0], given[1])
    if isinstance(given, tuple):
        return _arrays(given, where)
    if isinstance(given, Dataset) and not isinstance(given, IterableDataset):
        return Examples(given)
    if isinstance(given, Iterator):
        raise NetirError(
            "these batches can be read only once", where, "pass a list of them, or a DataLoader"
        )
    if not isinstance(given, Iterable) or isinstance(given, str | Mapping | Tensor | np.ndarray):
        raise NetirError(f"a {type(given).__name__} holds no examples", where, _EXAMPLES)
    return Loader(given)


def _arrays(given: tuple[Any, ...], where: str) -> Arrays:
    if len(given) != 2:
        raise NetirError(f"{len(given)} arrays are given, not inputs and targets", where, _EXAMPLES)
    inputs = map_inputs(lambda array: tensor_of(array, where), given[0])
    targets = tensor_of(given[1], where)
    counts = {len(t) if t.dim() else 0 for t in (*tensors_in(inputs), targets)}
    if len(counts) > 1:
        raise NetirError(
            f"the arrays hold {' and '.join(map(str, sorted(counts)))} examples", where,
            "give one target for each input",
        )  # fmt: skip
    if counts == {0}:
        raise NetirError("there are no examples", where, "give at least one")
    return Arrays(inputs, targets)


def tensor_of(array: Any, where: str) -> Tensor:
    """An array as a tensor that a network can be called with; float64 becomes float32."""
    if isinstance(array, np.ndarray):
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise NetirError(
                f"arrays of {array.dtype} cannot be trained on", where,
                "convert to numbers of a plain type",
            )  # fmt: skip
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if array.dtype in (np.uint16, np.uint32, np.uint64):
            array = array.astype(np.int64)
        array = torch.from_numpy(np.ascontiguousarray(array))
    if not isinstance(array, Tensor):
        raise NetirError(f"a {type(array).__name__} is no array", where, _EXAMPLES)
    found: Tensor = array.detach()
    return found.float() if found.dtype == torch.float64 else found


def map_inputs(function: Callable[[Any], Any], inputs: Any) -> Any:
    """Inputs with every tensor in them replaced."""
    if isinstance(inputs, Mapping):
        return {name: map_inputs(function, value) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(map_inputs(function, value) for value in inputs)
    return function(inputs)


def tensors_in(inputs: Any) -> list[Tensor]:
    """The tensors in what a network is called with, in order."""
    found: list[Any] = []
    map_inputs(found.append, inputs)
    return [leaf for leaf in found if isinstance(leaf, Tensor)]


def call(function: Callable[..., Any], inputs: Any) -> Any:
    """Call a network with the inputs of a batch."""
    args, kwargs = arguments(inputs)
    return function(*args, **kwargs)


def _chunks(count: int, size: int, generator: torch.Generator | None) -> list[Tensor]:
    """Numbers of examples, `size` at a time; training shuffles, and leaves no one on its own."""
    if not count:
        return []
    if generator is None:
        return list(torch.arange(count).split(size))
    found = list(torch.randperm(count, generator=generator).split(size))
    if size > 1 and len(found) > 1 and len(found[-1]) == 1:  # batch norm cannot learn from one
        found[-2:] = [torch.cat(found[-2:])]
    return found


def _pair(batch: Any) -> Pair:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return map_inputs(_plain, batch[0]), map_inputs(_plain, batch[1])
    kind = type(batch).__name__
    size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
    raise NetirError(
        f"a batch is a {kind}{size}, not (inputs, targets)",
        fix="let the loader give pairs; several inputs go into a tuple or a mapping",
    )


def _plain(value: Any) -> Any:
    return tensor_of(value, "a batch") if isinstance(value, np.ndarray) else value


__all__ = ["Arrays", "Change", "Examples", "Loader", "Pair", "Source", "call", "map_inputs",
           "source_of", "tensor_of", "tensors_in"]  # fmt: skip
