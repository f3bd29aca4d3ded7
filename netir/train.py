"""Training a network on a task: what a spec's `train` step does, and a program can do as well.

The same seed gives the same weights, bit by bit, on a CPU, and whether or not a training was
interrupted between two epochs. Nothing is drawn from anybody else's random generators.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from netir.errors import NetirError
from netir.live import Live
from netir.losses import Loss
from netir.optimizers import kind_of, make_optimizer, optimizer_state
from netir.score import Score, called, evaluate, home_of, placed, sent, size_of
from netir.seeds import seed_of, seeded
from netir.task import Task
from netir.train_options import TrainOptions


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to; `steps` and `loss` are those of its training batches."""

    number: int
    steps: int
    loss: float
    seconds: float
    lr: float
    score: Score | None


@dataclass(frozen=True, eq=False)
class Training:
    """A training that is done: the trained module, its optimizer, and all epochs."""

    module: nn.Module
    optimizer: Optimizer
    epochs: tuple[Epoch, ...]

    @property
    def score(self) -> Score | None:
        """The last score."""
        return self.epochs[-1].score if self.epochs else None

    @property
    def state(self) -> dict[str, Tensor]:
        """What the optimizer remembers, by parameter name."""
        return optimizer_state(self.optimizer, self.module)


def train(
    model: nn.Module | Live,
    task: Task,
    options: TrainOptions | None = None,
    *,
    optimizer: Optimizer | None = None,
    first: int = 0,
    on_epoch: Callable[[Epoch], object] | None = None,
    on_step: Callable[[Any, Any, float], object] | None = None,
) -> Training:
    """Train a module in place.

    With an optimizer, or a Live, which has one, it goes on with that and its moments; settings in
    the options replace its own. `first` epochs are already done: with the module and the optimizer
    as they were after them, the rest is what it would have been. `on_epoch` is called after every
    epoch, `on_step` after every step with the inputs of its batch, their targets and the loss
    before it. Both may rewrite a Live: `on_step=partial(grower.step, live)` lets it grow.
    """
    options = options or TrainOptions()
    if first < 0:
        raise NetirError(f"first={first}", fix="give the number of epochs that are done")
    module, optimizer = _parts(model, options, optimizer)
    job = _Job(module, task, options, optimizer, first, on_step)
    found: list[Epoch] = []
    with _on_device(module, optimizer, options.device) as where:
        for number in count(first):
            if job.done(number):
                break
            epoch = job.epoch(number, where)
            found.append(epoch)
            if on_epoch is not None:
                on_epoch(epoch)
    return Training(module, optimizer, tuple(found))


def _parts(
    model: nn.Module | Live, options: TrainOptions, optimizer: Optimizer | None
) -> tuple[nn.Module, Optimizer]:
    """The module, and an optimizer with the settings that are asked for."""
    if isinstance(model, nn.Module):
        module = model
    elif isinstance(model, Live):
        if optimizer is not None or len(model.optimizers) != 1:
            raise NetirError(
                f"a Live with {len(model.optimizers)} optimizers is trained by its own one",
                fix="give the optimizer to Live, and one only",
            )
        module, optimizer = model.model, model.optimizers[0]
    else:
        raise NetirError(
            f"a {type(model).__name__} cannot be trained",
            fix="pass a module; netir.to_torch makes one of a graph",
        )
    if optimizer is None:
        name = options.optimizer or "sgd"
        return module, make_optimizer(module, name, **options.settings)
    _check_suits(optimizer, module, options)
    return module, optimizer


def _check_suits(optimizer: Optimizer, module: nn.Module, options: TrainOptions) -> None:
    """Refuse an optimizer that cannot go on with this module and these options."""
    kind = type(optimizer).__name__
    if options.optimizer and type(optimizer) is not kind_of(options.optimizer).make:
        raise NetirError(
            f"the optimizer is {kind}, and '{options.optimizer}' is asked for",
            fix="leave the name out, or begin without an optimizer",
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise NetirError(f"{kind} needs several losses for a step", fix="take another optimizer")
    for key in options.settings:
        if key not in optimizer.defaults:
            raise NetirError(f"{kind} has no {key}", fix="leave it out")
    own = set(module.parameters())
    if not any(p in own for group in optimizer.param_groups for p in group["params"]):
        raise NetirError(
            f"{kind} trains no parameter of this module",
            fix="make it from module.parameters(), or leave it out",
        )


@contextmanager
def _on_device(module: nn.Module, optimizer: Optimizer, wanted: str) -> Iterator[torch.device]:
    """Module and optimizer on a device, and back; mode and learning rates come back as well."""
    home, modes = home_of(module), [(part, part.training) for part in module.modules()]
    rates = [(group, group["lr"]) for group in optimizer.param_groups]
    with placed(module, wanted) as where:
        try:
            _send(optimizer, where)
            yield where
        finally:
            _send(optimizer, home)
            module.train(modes[0][1])  # parts that a rewrite made
            for part, training in modes:
                part.training = training
            for group, rate in rates:
                group["lr"] = rate


_COUNTS = ("step", "mu_product")
"""What torch's optimizers keep on the CPU, wherever the parameter is."""


def _send(optimizer: Optimizer, where: torch.device) -> None:
    """What an optimizer remembers entry by entry goes where the parameters are."""
    for parameter, state in optimizer.state.items():
        for what, value in state.items():
            alike = isinstance(value, Tensor) and value.shape == parameter.shape
            if alike and what not in _COUNTS:
                state[what] = value.to(where)


class _Job:
    """A training that goes on epoch by epoch."""

    def __init__(
        self,
        module: nn.Module,
        task: Task,
        options: TrainOptions,
        optimizer: Optimizer,
        first: int,
        on_step: Callable[[Any, Any, float], object] | None,
    ) -> None:
        self.module, self.task, self.options, self.optimizer = module, task, options, optimizer
        self.on_step = on_step
        self.loss: Loss = task.trained_for.smoothed(options.label_smoothing)
        per_epoch = task.steps(options.batch_size)
        self.epochs = None if options.steps else options.epochs or 1
        self.total = options.steps
        if self.total is None and per_epoch is not None:
            assert self.epochs is not None
            self.total = self.epochs * per_epoch
        if per_epoch is None and (first or (self.total is None and options.changes)):
            raise NetirError(
                "the loader cannot tell how many batches it has", task.name,
                "give it a length, or train for `steps`" + " from the beginning" * bool(first),
            )  # fmt: skip
        self.step = first * (per_epoch or 0)
        for group in optimizer.param_groups:  # now that nothing is left to refuse
            group.update(options.settings)
        self.rates = [group["lr"] for group in optimizer.param_groups]

    def done(self, number: int) -> bool:
        """Whether nothing is left to do before epoch `number`, counted from 0."""
        if self.epochs is not None:
            return number >= self.epochs
        return self.step >= (self.total or 0)

    def epoch(self, number: int, where: torch.device) -> Epoch:
        """Train on all batches once, or until the last step."""
        start, first = time.perf_counter(), self.step
        lost, seen = 0.0, 0
        batches = self.task.train_batches(number, self.options.batch_size, self.options.seed)
        self.module.train()
        with seeded(seed_of(self.options.seed, "epoch", number)):
            for batch in batches:
                inputs, target = sent(batch, where)
                examples = size_of(inputs)
                lost += examples * self._step(inputs, target, number)
                seen += examples
                if self.options.steps is not None and self.step >= self.options.steps:
                    break
        if not seen:
            raise NetirError(
                "there is nothing to train on", self.task.name, "give at least one batch"
            )
        score = evaluate(self.module, self.task) if self.options.evaluate else None
        seconds = time.perf_counter() - start
        rate = self.optimizer.param_groups[0]["lr"]
        return Epoch(number + 1, self.step - first, lost / seen, seconds, rate, score)

    def _step(self, inputs: Any, target: Any, number: int) -> float:
        """One step of the optimizer; gives the loss before it."""
        factor = self.options.rate(self.step, self.total)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.module.zero_grad()
        self.optimizer.zero_grad()
        kind = home_of(self.module).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.options.amp):
            loss = self.loss(called(self.module, inputs), target)
        value = float(loss.detach())
        if not isfinite(value):
            raise NetirError(
                f"the loss is {value}", f"epoch {number + 1}, step {self.step + 1} of all",
                f"lower the learning rate ({self.rates[0]:g}), bound the gradients with clip=1, "
                "or look for such numbers in the data",
            )  # fmt: skip
        loss.backward()
        if self.options.clip is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.options.clip)
        self.optimizer.step()
        self.step += 1
        if self.on_step is not None:
            self.on_step(inputs, target, value)
        return value


__all__ = ["Epoch", "Score", "TrainOptions", "Training", "evaluate", "train"]
