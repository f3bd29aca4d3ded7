"""Losses and metrics by name: what a network is trained for, and what it is judged by.

Both compare what a network returns with a batch's targets and give the mean over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from netir.errors import NetirError, nearest

Compare = Callable[[Any, Any], Any]
"""What a network returned and the batch's targets, to one number: the mean over the batch."""


IGNORED = -100
"""A class number that neither cross-entropy nor accuracy looks at, as in torch."""


@dataclass(frozen=True)
class Loss:
    """What a network is trained for; `targets` says what it is compared with."""

    name: str
    function: Compare
    targets: Literal["classes", "numbers", "any"] = "any"

    def __call__(self, output: Any, target: Any) -> Tensor:
        found: Tensor = self.function(output, target)
        return found

    def smoothed(self, share: float) -> Loss:
        """The same loss with `share` of each label spread over all classes."""
        if not share:
            return self
        if self.function is not _cross_entropy:
            raise NetirError(
                f"the loss '{self.name}' has no labels to smooth",
                fix="leave label_smoothing out, or use the loss 'cross-entropy'",
            )

        def function(output: Any, target: Any) -> Tensor:
            return _cross_entropy(output, target, share)

        return replace(self, function=function)


@dataclass(frozen=True)
class Metric:
    """What a network is judged by, and whether a higher number is better."""

    name: str
    function: Compare
    higher: bool

    def __call__(self, output: Any, target: Any) -> float:
        return float(self.function(output, target))

    def better(self, one: float, other: float) -> bool:
        """Whether one number is better than another."""
        return one > other if self.higher else one < other


def prediction(output: Any) -> Tensor:
    """The tensor that is compared with the targets, of whatever a network returns."""
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    output = getattr(output, "logits", output)
    if isinstance(output, tuple | list) and len(output) == 1:
        output = output[0]
    if not isinstance(output, Tensor):
        raise NetirError(
            f"the network returns a {type(output).__name__}, which no named loss can compare",
            fix="let it return one tensor, or give the task a loss of your own",
        )
    return output


def _classes_second(output: Any, target: Any) -> Tensor:
    """Logits with the classes on axis 1, as torch wants them; language models have them last."""
    logits = prediction(output)
    if not isinstance(target, Tensor) or target.is_floating_point():
        kind = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise NetirError(
            f"the targets are {kind}, and not class numbers".replace("torch.", ""),
            fix="convert them to a tensor of whole numbers, or choose another loss",
        )
    second = logits.shape[:1] + logits.shape[2:]
    if logits.dim() < 2 or target.shape not in (second, logits.shape[:-1]):
        raise _unlike(logits, target)
    return logits if target.shape == second else logits.movedim(-1, 1)


def _alike(output: Any, target: Any) -> tuple[Tensor, Tensor]:
    """A prediction and targets of one shape; a last axis of size one is no difference."""
    found = prediction(output)
    if not isinstance(target, Tensor):
        raise NetirError(
            f"the targets are a {type(target).__name__}, not a tensor",
            fix="convert them, or give the task a loss of your own",
        )
    if found.dim() == target.dim() + 1 and found.shape[-1] == 1:
        found = found.squeeze(-1)
    if found.shape != target.shape:
        raise _unlike(found, target)
    return found, target.to(found.dtype)


def _unlike(found: Tensor, target: Tensor) -> NetirError:
    return NetirError(
        f"the network returns {tuple(found.shape)} and the targets are {tuple(target.shape)}",
        fix="check that the network's last layer suits the task, and the task's loss the targets",
    )


def _cross_entropy(output: Any, target: Tensor, smoothing: float = 0.0) -> Tensor:
    logits = _classes_second(output, target)
    known = target[target != IGNORED]
    least, most = map(int, known.aminmax()) if known.numel() else (0, 0)
    if least < 0:
        raise NetirError(
            f"there is a class {least}", fix=f"number classes from 0; {IGNORED} stands for none"
        )
    if most >= logits.shape[1]:
        raise NetirError(
            f"the network tells {logits.shape[1]} classes apart, and there is a class {most}",
            fix="give its last layer one output for each class",
        )
    return F.cross_entropy(logits.float(), target.long(), ignore_index=IGNORED,
                           label_smoothing=smoothing)  # fmt: skip


def _binary(output: Any, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(*_alike(output, target))


def _mse(output: Any, target: Tensor) -> Tensor:
    return F.mse_loss(*_alike(output, target))


def _mae(output: Any, target: Tensor) -> Tensor:
    return F.l1_loss(*_alike(output, target))


def _huber(output: Any, target: Tensor) -> Tensor:
    return F.smooth_l1_loss(*_alike(output, target))


def _accuracy(output: Any, target: Tensor) -> Tensor:
    found = prediction(output)
    if found.dim() == target.dim() + 1 and found.shape[-1] > 1:
        return _share(_classes_second(found, target).argmax(1) == target, target)
    found, target = _alike(found, target)
    return ((found > 0) == (target > 0.5)).float().mean()


def _top5(output: Any, target: Tensor) -> Tensor:
    logits = _classes_second(output, target)
    best = logits.topk(min(5, logits.shape[1]), 1).indices
    return _share((best == target.unsqueeze(1)).any(1), target)


def _share(right: Tensor, target: Tensor) -> Tensor:
    return right[target != IGNORED].float().mean()


LOSSES: Mapping[str, Loss] = MappingProxyType({
    "cross-entropy": Loss("cross-entropy", _cross_entropy, "classes"),
    "binary-cross-entropy": Loss("binary-cross-entropy", _binary, "numbers"),
    "mse": Loss("mse", _mse, "numbers"),
    "mae": Loss("mae", _mae, "numbers"),
    "huber": Loss("huber", _huber, "numbers"),
})  # fmt: skip
"""Every loss by its name."""

METRICS: Mapping[str, Metric] = MappingProxyType({
    "accuracy": Metric("accuracy", _accuracy, True),
    "top5": Metric("top5", _top5, True),
    "mse": Metric("mse", _mse, False),
    "mae": Metric("mae", _mae, False),
})  # fmt: skip
"""Every metric by its name; 'loss' is one too: the task's own loss, the lower the better."""


def loss_of(wanted: str | Compare) -> Loss:
    """A loss by its name, or a function as one."""
    if callable(wanted):
        return wanted if isinstance(wanted, Loss) else Loss(_name(wanted), wanted)
    if wanted not in LOSSES:
        raise NetirError(f"there is no loss '{wanted}'", fix=nearest(wanted, LOSSES))
    return LOSSES[wanted]


def metric_of(wanted: str | Metric, loss: Loss) -> Metric:
    """A metric by its name; an empty name is what suits the loss."""
    if isinstance(wanted, Metric):
        return wanted
    if not wanted:
        wanted = "accuracy" if loss.name.endswith("cross-entropy") else "loss"
    if wanted == "loss":
        return Metric("loss", loss, False)
    if not isinstance(wanted, str):
        raise NetirError(
            f"a {type(wanted).__name__} is no metric", fix="give Metric(name, function, higher)"
        )
    if wanted not in METRICS:
        raise NetirError(
            f"there is no metric '{wanted}'", fix=nearest(wanted, [*METRICS, "loss"])
        )
    return METRICS[wanted]


def _name(function: Compare) -> str:
    return getattr(function, "__name__", type(function).__name__)


__all__ = ["IGNORED", "LOSSES", "METRICS", "Compare", "Loss", "Metric", "loss_of", "metric_of",
           "prediction"]  # fmt: skip
