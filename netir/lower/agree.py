"""Whether another runtime computes what a graph means: on random and on edge inputs.

What the graph means is what PyTorch computes with its stored element types; how far off another
runtime may be is ten times what separates that from float64. It knows no runtime.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from netir.dims import symbols
from netir.errors import NetirError
from netir.evaluate import device_of, input_values, symbol_values, value_of, values_of
from netir.ir import Graph, TensorType
from netir.samples import random_tensor

TIMES = 10
"""How many times PyTorch's own rounding an error may be."""

_FLOORS = {torch.float64: 1e-7, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""What is allowed at least, relative to the largest entry, by the coarsest type there is."""

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """Inputs with a name, and what the graph gives for them, with the error that is allowed."""

    name: str
    inputs: Inputs
    outputs: Sequence[Tensor]
    scales: Sequence[float]
    allowed: Sequence[float]


@dataclass(frozen=True)
class Agreement:
    """The largest error on all cases, compared with what was allowed there."""

    error: float = 0.0
    allowed: float = 0.0
    where: str = ""

    @property
    def excess(self) -> float:
        if self.allowed in (0, math.inf):
            return math.inf if self.error > self.allowed else 0.0
        return self.error / self.allowed

    def __bool__(self) -> bool:
        return self.error <= self.allowed


def agreement(
    graph: Graph, cases: Sequence[Case], run: Callable[[Inputs], Sequence[Tensor]]
) -> Agreement:
    """How far a runtime is off where it is worst.

    Where it is off by too much, the graph is asked how much it changes by itself, if its numbers
    change as little as rounding changes them: ties may fall either way.
    """
    worst = Agreement(0.0, min((a for c in cases for a in c.allowed), default=0.0))
    for case in cases:
        found = run(case.inputs)
        here = _compared(case, found)
        if not here:
            here = _compared(_nudged(graph, case), found)
        worst = max(worst, here, key=lambda each: each.excess)
    return worst


def _compared(case: Case, found: Sequence[Tensor]) -> Agreement:
    rows = zip(found, case.outputs, case.scales, case.allowed, strict=True)
    each = [
        Agreement(
            _error(got, wanted) / scale,
            allowed if got.shape == wanted.shape else 0.0,
            f"{case.name}, output {number}",
        )
        for number, (got, wanted, scale, allowed) in enumerate(rows)
    ]
    return max(each, key=lambda output: output.excess, default=Agreement())


@torch.no_grad()
def _nudged(graph: Graph, case: Case) -> Case:
    """The case with what it allows where rounding of parameters and inputs matters much."""
    generator = torch.Generator().manual_seed(0)

    def nudge(tensor: Tensor, least: float) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        eps = torch.finfo(tensor.dtype).eps
        part = torch.rand(tensor.shape, generator=generator).to(tensor.device) * eps
        moved = tensor.double() * (1 - part) + least * part  # towards zero: it stays in range
        return torch.where(tensor.isfinite(), moved, tensor.double()).to(tensor.dtype)

    params = {n: replace(p, data=nudge(p.data, 0.0)) for n, p in graph.params.items()}
    inputs = {name: nudge(tensor, 1.0) for name, tensor in case.inputs.items()}
    near = graph.replace(params=params)
    moved = _outputs(near, values_of(near, inputs))
    rows = zip(moved, case.outputs, case.scales, case.allowed, strict=True)
    return replace(case, allowed=[
        max(allowed, TIMES * _error(a, b) / scale) for a, b, scale, allowed in rows
    ])  # fmt: skip


def cases(
    graph: Graph,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> list[Case]:
    """Random inputs, zeros, large ones, a batch of one, another batch, and what was given.

    Whole numbers stay in the range of those that were given, and are 0 or 1 without any.
    """
    given = input_values(graph, args, kwargs or {}) if args or kwargs else {}
    known = _sizes(graph, given, sizes or {})
    found: list[Case] = []
    for name, inputs in _inputs(graph, given, known):
        try:
            found.append(measured(graph, name, inputs, found[:1]))
        except (RuntimeError, IndexError, ValueError, NetirError) as error:
            if not found:
                raise NetirError(
                    f"the graph does not run on {name} inputs: {_line(error)}",
                    fix="pass example arguments that it accepts",
                ) from error
    return found


def _sizes(graph: Graph, given: Inputs, sizes: Mapping[str, int]) -> dict[str, int]:
    """A number for every symbolic size."""
    wanted = sorted({s for t in graph.inputs.values() for d in t.shape for s in symbols(d)})
    known = {name: 2 for name in wanted if _is_batch(name)}
    known |= {**sizes, **(symbol_values(graph, given) if given else {})}
    missing = [name for name in wanted if name not in known]
    if missing:
        raise NetirError(
            f"the size '{missing[0]}' has no number",
            fix=f"pass example arguments, or sizes={{'{missing[0]}': …}}",
        )
    return {name: known[name] for name in wanted}


def _inputs(
    graph: Graph, given: Inputs, sizes: Mapping[str, int]
) -> Iterator[tuple[str, Inputs]]:
    generator, device = torch.Generator().manual_seed(0), device_of(graph, given)

    def drawn(**changed: int) -> Inputs:
        known = {**sizes, **changed}
        return {
            name: _like(given.get(name), kind, known, generator).to(device)
            for name, kind in graph.inputs.items()
        }

    if given:
        yield "given", given
    random = drawn()
    yield "random", random
    if not any(node.op.ties for node in graph.nodes.values()):
        yield "zero", {n: torch.zeros_like(t) if _open(t) else t for n, t in random.items()}
    yield "large", {n: t * 100 if t.is_floating_point() else t for n, t in random.items()}
    batches = {name: size for name, size in sizes.items() if _is_batch(name)}
    if batches:
        yield "a batch of one", drawn(**dict.fromkeys(batches, 1))
        yield "another batch", drawn(**{name: size + 3 for name, size in batches.items()})


def _is_batch(name: str) -> bool:
    """Whether tracing called a size so; of several inputs the second is `batch2`, and so on."""
    return re.fullmatch(r"batch\d*", name) is not None


def _open(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or not tensor.numel() or bool(tensor.min() <= 0)


def _like(
    example: Tensor | None, kind: TensorType, sizes: Mapping[str, int], generator: torch.Generator
) -> Tensor:
    drawn = random_tensor(kind, sizes, generator)
    whole = not (kind.dtype.is_floating_point or kind.dtype == torch.bool)
    if example is None or not whole or not example.numel():
        return drawn
    low, high = int(example.min()), int(example.max())
    return torch.randint(low, high + 1, drawn.shape, generator=generator).to(kind.dtype)


@torch.no_grad()
def measured(graph: Graph, name: str, inputs: Inputs, usual: Sequence[Case] = ()) -> Case:
    """What the graph gives for inputs; `usual` is a case with outputs of the usual size."""
    stored = _outputs(graph, values_of(graph, inputs))
    exact = _outputs(graph, values_of(graph, inputs, dtype=torch.float64))
    floor = _FLOORS[_coarsest(graph)]
    scales, allowed = [], []
    for i, (a, b) in enumerate(zip(stored, exact, strict=True)):
        least_scale = 1e-3 * max((case.scales[i] for case in usual), default=0.0)
        scale = max(_largest(b), least_scale, 1e-6) if a.is_floating_point() else 1.0
        least = floor if a.is_floating_point() else 0.0
        scales.append(scale)
        allowed.append(max(least, TIMES * _error(a, b) / scale))
    return Case(name, inputs, stored, scales, allowed)


def _outputs(graph: Graph, values: Mapping[str, Tensor]) -> list[Tensor]:
    return [value_of(graph, values, name) for name in graph.outputs]


def _coarsest(graph: Graph) -> torch.dtype:
    """The least precise type of floats that the graph has anywhere."""
    kinds = {t.dtype for t in (*graph.types.values(), *(p.type for p in graph.params.values()))}
    return next((d for d in reversed(_FLOORS) if d in kinds), torch.float32)


def _error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference; of whole numbers and flags, the share that differs."""
    found, wanted = found.cpu(), wanted.cpu()
    if found.shape != wanted.shape:
        return float("inf")
    if not wanted.numel():
        return 0.0
    if not wanted.is_floating_point():
        return (found != wanted).double().mean().item()
    a, b = found.double(), wanted.double()
    equal = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(equal, 0.0, (a - b).abs())
    return apart.nan_to_num(float("inf"), float("inf")).max().item()


def _largest(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()].double()
    return finite.abs().max().item() if finite.numel() else 0.0


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


__all__ = ["Agreement", "Case", "agreement", "cases", "measured"]
