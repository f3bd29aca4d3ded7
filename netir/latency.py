"""How long a network takes: measured after a warm-up, several networks in turn, with the spread.

Whatever else the machine does disturbs all networks of one measurement alike. Times of two
measurements are not comparable, and nor are those of different numbers of threads.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from netir.calibration import Batch, arguments
from netir.errors import NetirError
from netir.ir import Graph

_FEWEST = 5


@dataclass(frozen=True)
class Latency:
    """Seconds that one call takes: every one of them, and on what.

    `threads` is None where the network does not say how many it uses.
    """

    times: tuple[float, ...]
    device: str
    threads: int | None

    @property
    def seconds(self) -> float:
        """The median."""
        return median(self.times)

    @property
    def spread(self) -> tuple[float, float]:
        """What the middle half of all calls took: the first and the third quartile."""
        if len(self.times) < 2:
            return self.times[0], self.times[0]
        first, _, third = quantiles(self.times, n=4, method="inclusive")
        return first, third

    def __str__(self) -> str:
        low, high = self.spread
        on = self.device if self.threads is None else f"{self.device}, threads: {self.threads}"
        return (
            f"{1e3 * self.seconds:.3g} ms ({1e3 * low:.3g} to {1e3 * high:.3g}, "
            f"{len(self.times)} calls; {on})"
        )


def latency(network: Any, batch: Batch, **limits: Any) -> Latency:
    """How long one call of a network takes; see `latencies`."""
    return latencies({"network": network}, batch, **limits)["network"]


def latencies(
    networks: Mapping[str, Any],
    batch: Batch,
    *,
    calls: int = 200,
    seconds: float = 4.0,
    warmup: int = 3,
    threads: int | None = None,
) -> dict[str, Latency]:
    """How long one call of each network takes, on the same batch, run in turn.

    A network is a graph, a module, a session of ONNX Runtime, or any function. Each is called
    `calls` times after the warm-up, fewer if that takes longer than `seconds` in all, but five
    times at least. A graph or module runs where its parameters are, in eval mode and without
    gradients; `threads` of PyTorch on a CPU, as many as are set without it.
    """
    if calls < 1 or warmup < 0 or (threads is not None and threads < 1):
        raise NetirError(
            f"latency cannot be measured with calls={calls}, warmup={warmup}, threads={threads}",
            fix="give at least one call and one thread",
        )
    modules = [network for network in networks.values() if isinstance(network, nn.Module)]
    with _threads(threads), torch.inference_mode(), evaluating(*modules), _undisturbed():
        runs = {name: _Run.of(network, batch) for name, network in networks.items()}
        times = _in_turn(runs, calls, seconds, warmup)
    return {n: Latency(tuple(times[n]), run.device, run.threads) for n, run in runs.items()}


def _in_turn(
    runs: Mapping[str, _Run], calls: int, seconds: float, warmup: int
) -> dict[str, list[float]]:
    """Times of every run; each second turn goes backwards."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(warmup):
            run.timed()
    end = time.perf_counter() + seconds
    for turn in range(calls):
        if turn >= _FEWEST and time.perf_counter() > end:
            break
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            times[name].append(runs[name].timed())
    return times


@dataclass(frozen=True, eq=False)
class _Run:
    """One call of a network, ready to be timed."""

    run: Callable[[], Any]
    device: str
    threads: int | None
    wait: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, network: Any, batch: Batch) -> _Run:
        if isinstance(network, Graph):
            from netir.lower.torch import to_torch

            network = to_torch(network, copy=False)
        if isinstance(network, nn.Module):
            return cls.of_module(network, batch)
        if hasattr(network, "get_inputs") and hasattr(network, "run"):
            return cls.of_session(network, batch)
        if not callable(network):
            raise NetirError(
                f"a {type(network).__name__} cannot be timed",
                fix="pass a graph, a module, a session of ONNX Runtime, or a function",
            )
        args, kwargs = arguments(batch)
        return cls(lambda: network(*args, **kwargs), "cpu", torch.get_num_threads())

    @classmethod
    def of_module(cls, module: nn.Module, batch: Batch) -> _Run:
        """A module, with its inputs where it is."""
        tensors = [*module.parameters(), *module.buffers(), *_tensors(batch)]
        device = tensors[0].device if tensors else torch.device("cpu")
        args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.to(device), arguments(batch))

        def run() -> Any:
            return module(*args, **kwargs)

        if device.type != "cuda":
            return cls(run, "cpu", torch.get_num_threads())
        name = torch.cuda.get_device_name(device)
        return cls(run, name, None, lambda: torch.cuda.synchronize(device))

    @classmethod
    def of_session(cls, session: Any, batch: Batch) -> _Run:
        """A session of ONNX Runtime, with its inputs ready as arrays."""
        names = [item.name for item in session.get_inputs()]
        tensors = _tensors(batch)
        if len(tensors) != len(names):
            raise NetirError(
                f"{len(tensors)} tensors for a network that takes {len(names)}",
                fix=f"pass {', '.join(names)}",
            )
        feed = {n: t.detach().cpu().numpy() for n, t in zip(names, tensors, strict=True)}
        threads = session.get_session_options().intra_op_num_threads
        provider = session.get_providers()[0].removesuffix("ExecutionProvider").lower()
        return cls(lambda: session.run(None, feed), provider, threads or None)

    def timed(self) -> float:
        """Seconds of one call, until its results are there."""
        self.wait()
        start = time.perf_counter()
        found = self.run()
        self.wait()
        spent = time.perf_counter() - start
        del found
        return spent


def _tensors(batch: Batch) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Modules in eval mode; afterwards each part of them is in the mode in which it was."""
    training = [part for module in modules for part in module.modules() if part.training]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage is collected in the middle of a call."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


__all__ = ["Latency", "evaluating", "latencies", "latency"]
