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
from netir.errors import NetirError, first_line
from netir.evaluate import device_of, input_values, symbol_values, value_of, values_of
from netir.ir import Graph, Node, TensorType
from netir.samples import random_tensor

TIMES = 10
"""How many times PyTorch's own rounding an error may be."""

_FLOORS = {torch.float64: 1e-7, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""What is allowed at least, relative to the largest entry, by the coarsest type there is."""

_DRAWS = 8
"""How often equal values are told apart by chance, for places that may be any of theirs."""
_UNTIED = 8
"""How many units in the last place of the largest value tell equal ones apart."""

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """Inputs with a name, and what the graph gives for them, with the error that is allowed.

    `sure` marks the entries of every output that rounding decides: not those that overflow in the
    types that are stored, and are finite in float64. Of others nothing is said but their shape.
    """

    name: str
    inputs: Inputs
    outputs: Sequence[Tensor]
    scales: Sequence[float]
    allowed: Sequence[float]
    sure: Sequence[Tensor]

    @property
    def label(self) -> str:
        """Its name, and whether it says something of every entry; '' if of none."""
        if all(bool(each.all()) for each in self.sure):
            return self.name
        return f"{self.name} in part" if any(bool(each.any()) for each in self.sure) else ""


@dataclass(frozen=True)
class Agreement:
    """The largest error on all cases, compared with what was allowed there."""

    error: float = 0.0
    allowed: float = 0.0
    where: str = ""

    @property
    def excess(self) -> float:
        if not self.allowed:
            return math.inf if self.error else 0.0
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
            for seed in range(_DRAWS if any(n.op.ties for n in graph.nodes.values()) else 1):
                case = _nudged(graph, case, seed)
            here = _compared(case, found)
        worst = max(worst, here, key=lambda each: each.excess)
    return worst


def _compared(case: Case, found: Sequence[Tensor]) -> Agreement:
    rows = zip(found, case.outputs, case.scales, case.allowed, case.sure, strict=True)
    each = [
        Agreement(_error(got, wanted, sure) / scale, allowed, f"{case.name}, output {number}")
        for number, (got, wanted, scale, allowed, sure) in enumerate(rows)
    ]
    return max(each, key=lambda output: output.excess, default=Agreement())


@torch.no_grad()
def _nudged(graph: Graph, case: Case, seed: int) -> Case:
    """The case with what it allows where rounding of parameters and inputs matters much."""
    generator = torch.Generator().manual_seed(seed)

    def nudge(tensor: Tensor, least: float) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        eps = torch.finfo(tensor.dtype).eps
        part = torch.rand(tensor.shape, generator=generator).to(tensor.device) * eps
        moved = tensor.double() * (1 - part) + least * part  # towards zero: it stays in range
        return torch.where(tensor.isfinite(), moved, tensor.double()).to(tensor.dtype)

    def untie(node: Node, operands: list[Any]) -> list[Any]:
        if not (node.op.ties and operands[0].is_floating_point()):
            return operands
        first = operands[0]
        part = torch.rand(first.shape, generator=generator).to(first.device) - 0.5
        moved = first.double() + _UNTIED * torch.finfo(first.dtype).eps * _largest(first) * part
        return [moved.to(first.dtype), *operands[1:]]

    params = {n: replace(p, data=nudge(p.data, 0.0)) for n, p in graph.params.items()}
    inputs = {name: nudge(tensor, 1.0) for name, tensor in case.inputs.items()}
    near = graph.replace(params=params)
    moved = _outputs(near, values_of(near, inputs, read=untie))
    sure = [_sure(a, b) & known for a, b, known in zip(moved, case.outputs, case.sure, strict=True)]
    rows = zip(moved, case.outputs, case.scales, case.allowed, sure, strict=True)
    return replace(case, sure=sure, allowed=[
        max(allowed, TIMES * _error(a, b, known) / scale) for a, b, scale, allowed, known in rows
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
                    f"the graph does not run on {name} inputs: {first_line(error)}",
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
    sure = [_sure(a, b) for a, b in zip(stored, exact, strict=True)]
    scales, allowed = [], []
    for i, (a, b, known) in enumerate(zip(stored, exact, sure, strict=True)):
        least_scale = 1e-3 * max((case.scales[i] for case in usual), default=0.0)
        scale = max(_largest(b[known]), least_scale, 1e-6) if a.is_floating_point() else 1.0
        least = floor if a.is_floating_point() else 0.0
        scales.append(scale)
        allowed.append(max(least, TIMES * _error(a, b, known) / scale))
    return Case(name, inputs, stored, scales, allowed, sure)


def _outputs(graph: Graph, values: Mapping[str, Tensor]) -> list[Tensor]:
    return [value_of(graph, values, name) for name in graph.outputs]


def _coarsest(graph: Graph) -> torch.dtype:
    """The least precise type of floats that the graph has anywhere."""
    kinds = {t.dtype for t in (*graph.types.values(), *(p.type for p in graph.params.values()))}
    return next((d for d in reversed(_FLOORS) if d in kinds), torch.float32)


def _sure(found: Tensor, wanted: Tensor) -> Tensor:
    """The entries that are finite in both or the same infinity or NaN in both."""
    if found.shape != wanted.shape or not wanted.is_floating_point():
        return torch.ones_like(wanted, dtype=torch.bool)
    both = found.isfinite() & wanted.isfinite()
    return both | (found == wanted) | (found.isnan() & wanted.isnan())


def _error(found: Tensor, wanted: Tensor, sure: Tensor) -> float:
    """The largest difference of sure entries; of whole numbers and flags, the share that differs.

    A result of another shape is never right.
    """
    found, wanted, sure = found.cpu(), wanted.cpu(), sure.cpu()
    if found.shape != wanted.shape:
        return float("inf")
    if not sure.any():
        return 0.0
    if not wanted.is_floating_point():
        return (found != wanted).double().mean().item()
    a, b = found.double()[sure], wanted.double()[sure]
    equal = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(equal, 0.0, (a - b).abs())
    return apart.nan_to_num(float("inf"), float("inf")).max().item()


def _largest(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()].double()
    return finite.abs().max().item() if finite.numel() else 0.0


__all__ = ["Agreement", "Case", "agreement", "cases", "measured"]
