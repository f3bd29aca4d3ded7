"""What a change of width costs a model that is training, and the training steps after it.

ResNet-18 at its published widths with AdamW, one thread, processor time. A change is compared with
the copies that it cannot do without: the tensors that move (weights, gradients, both moments).
Steps are compared with those of a module lowered from the same rewritten network.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

import netir
from bench.measure import Cell, Options, Table, Task, interleaved, options, ratio, report
from netir import Graph, Live, Moves
from netir.passes import Prune, Widen
from netir.rewrite import Pass
from tests.zoo.classics import FULL

LIMIT = 20.0
CHANGES: dict[str, Callable[[], Pass]] = {
    "widen one space by 5 %": lambda: Widen("layer2.0.conv1", factor=1.05),
    "prune 5 % of one space": lambda: Prune("layer2.0.conv1", amount=0.05),
    "widen every space by 25 %": lambda: Widen(factor=1.25),
    "prune 20 % of every space": lambda: Prune(amount=0.2),
}


class Training:
    """A model, its optimizer and one batch, after a few steps."""

    def __init__(self, model: nn.Module, size: int) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        self.batch = torch.randn(4, 3, size, size), torch.randint(1000, (4,))
        for _ in range(2):
            self.step()

    def step(self) -> None:
        """One step."""
        x, y = self.batch
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()


def copies(moves: Moves, training: Training) -> Callable[[], list[Tensor]]:
    """Moving the weight, gradient and two moments of all that moved, and no more."""
    trained = dict(training.model.named_parameters())
    pairs = []
    for name, move in moves.params.items():
        if name in trained:
            state = training.optimizer.state[trained[name]]
            parts = (trained[name], trained[name].grad, state["exp_avg"], state["exp_avg_sq"])
            pairs += [(move, part.detach().clone()) for part in parts if part is not None]
        else:
            pairs.append((move, training.model.get_buffer(name).clone()))
    return lambda: [move.apply(tensor) for move, tensor in pairs]


def spent(work: Callable[[], object]) -> float:
    """Milliseconds of processor time; what is made is dropped after the clock stops."""
    gc.collect()
    start = time.thread_time()
    made = work()
    found = 1e3 * (time.thread_time() - start)
    del made
    return found


def changed(name: str, repeat: int, size: int) -> list[Cell]:
    """One row, of fresh models; the first change, which lowers the model, is not counted."""
    whole, chosen, copied = [], [], []
    for _ in range(repeat):
        training = Training(FULL["resnet18"](), size)
        live = Live(training.model, training.optimizer, torch.randn(2, 3, size, size))
        live.apply(Widen("layer1.0.conv1", factor=1.1))
        training.step()
        once, again = live.graph.replace(), live.graph.replace()  # nothing is known of them yet
        copied.append(spent(copies(CHANGES[name]().apply(once).moves, training)))
        chosen.append(spent(partial(_chosen, name, again)))
        whole.append(spent(partial(live.apply, CHANGES[name]())))
    change = median(whole) - median(chosen)
    met = change <= LIMIT + median(copied)
    return [name, median(whole), median(chosen), change, median(copied), "met" if met else "missed"]


def _chosen(name: str, graph: Graph) -> list[object]:
    return list(CHANGES[name]().match(graph))


def steps(repeat: int, size: int) -> list[Cell]:
    """Training steps of the model that was rewritten in place, over those of a fresh module."""
    training = Training(FULL["resnet18"](), size)
    live = Live(training.model, training.optimizer)
    training.step()
    result = live.apply(Prune(amount=0.3))
    fresh = Training(netir.to_torch(result.graph).train(), size)
    tasks = {
        "live": Task(lambda _: training.step()),
        "fresh": Task(lambda _: fresh.step()),
    }
    times = interleaved(tasks, repeat, 60.0)
    return ["after a prune of 30 %", *(1e3 * median(times[n]) for n in tasks),
            ratio(times, "live", "fresh")]  # fmt: skip


def run(given: Options) -> list[Table]:
    repeat, size = (3, 32) if given.quick else (9, 96)
    rows = [changed(name, repeat, size) for name in CHANGES]
    columns = ("change", "ms", "choosing alone", "the change", "copies alone",
               f"at most {LIMIT:g} ms and the copies")  # fmt: skip
    return [
        Table("A change of width, ResNet-18", columns, rows, (
            "Medians. `choosing alone`: finding the spaces and what each is to become, for which a "
            "prune scores every weight; `the change` is the rest. `copies alone`: moving the "
            "weights, their gradients and both moments of AdamW by the same moves.",
        )),
        Table("Training steps after it", ("", "live ms", "fresh ms", "live over fresh"),
              [steps(3 * repeat, size)]),
    ]  # fmt: skip


def main() -> None:
    given = options(__doc__ or "")
    report("live", "Live rewriting", run(given), given)


if __name__ == "__main__":
    main()
