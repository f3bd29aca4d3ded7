"""How well a network does a task, and where it runs while that is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netir.data import call, map_inputs, tensors_in
from netir.errors import NetirError, first_line, out_of_memory
from netir.ir import Graph
from netir.latency import evaluating
from netir.task import Task


@dataclass(frozen=True)
class Score:
    """What a network reaches on all test examples: its metric, and the mean of the loss."""

    metric: float
    loss: float
    name: str
    higher: bool
    examples: int

    def better(self, other: Score) -> bool:
        """Whether the metric is better than the other's."""
        if self.name != other.name:
            raise NetirError(f"'{self.name}' cannot be compared with '{other.name}'")
        return self.metric > other.metric if self.higher else self.metric < other.metric

    def __str__(self) -> str:
        return f"{self.name} {self.metric:.4g}, loss {self.loss:.4g}"


def evaluate(
    model: nn.Module | Graph | Callable[..., Any], task: Task, device: str = ""
) -> Score:
    """Run a network on all test examples, in eval mode, and compare with the targets.

    A graph is lowered first; any function of a batch's inputs will do. It runs where its
    parameters are, or on `device`.
    """
    if isinstance(model, Graph):
        from netir.lower.torch import to_torch

        model = to_torch(model)
    module = model if isinstance(model, nn.Module) else None
    with torch.no_grad(), evaluating(*filter(None, (module,))), placed(module, device) as where:
        return _total(model, task, where)


def _total(model: Callable[..., Any], task: Task, where: torch.device) -> Score:
    loss, metric = task.trained_for, task.judged_by
    lost = reached = 0.0
    seen = 0
    for inputs, target in task.test_batches():
        inputs, target = sent((inputs, target), where)
        output = called(model, inputs)
        count = size_of(inputs)
        lost += count * float(loss(output, target))
        reached += count * metric(output, target)
        seen += count
    if not seen:
        raise NetirError("there is nothing to test on", task.name, "give at least one batch")
    return Score(reached / seen, lost / seen, metric.name, metric.higher, seen)


def called(model: Callable[..., Any], inputs: Any) -> Any:
    """What a network returns for the inputs of a batch; an error in words if it refuses them."""
    try:
        return call(model, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, MemoryError) as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(inputs))
        raise NetirError(
            f"the network cannot be called with a batch of the task: {first_line(error)}",
            f"inputs of shape {shapes}",
            "give a smaller batch_size" if out_of_memory(error) else
            "take a network that is made for this task's inputs",
        ) from error  # fmt: skip


def size_of(inputs: Any) -> int:
    """How many examples a batch holds."""
    found = tensors_in(inputs)
    return len(found[0]) if found and found[0].dim() else 1


def sent(batch: Any, where: torch.device) -> Any:
    """A batch with its tensors on a device."""
    return map_inputs(lambda leaf: leaf.to(where) if isinstance(leaf, Tensor) else leaf, batch)


def device_of(wanted: str) -> torch.device:
    """The device of a name; 'auto' is a GPU where there is one."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(wanted)
    except RuntimeError:
        raise NetirError(f"there is no device '{wanted}'", fix="auto, cpu or cuda") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise NetirError(
            f"there is no device '{wanted}' here: PyTorch sees {count} GPUs",
            fix="use 'auto' or 'cpu'",
        )
    return found


@contextmanager
def placed(module: nn.Module | None, wanted: str) -> Iterator[torch.device]:
    """A module moved to a device; afterwards it is where it was."""
    home = home_of(module)
    there = device_of(wanted) if wanted and module is not None else home
    try:
        if module is not None and there != home:
            module.to(there)
        yield there
    finally:
        if module is not None and there != home:
            module.to(home)


def home_of(module: nn.Module | None) -> torch.device:
    """Where a module's tensors are."""
    tensors = [] if module is None else [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


__all__ = ["Score", "called", "device_of", "evaluate", "home_of", "placed", "sent", "size_of"]
