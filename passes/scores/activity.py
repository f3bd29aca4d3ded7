"""How active every index of a space is, measured where it is read, on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from netir.calibration import Calibration
from netir.ir import Graph
from netir.layouts import atoms, size_of
from netir.spaces import Space

DORMANT = 0.025
"""An index is dormant on an input if its activity is at most this share of the mean's."""

Positions = Callable[[Space, str, int], Tensor]


class Activity(NamedTuple):
    """What is known of every index of a space."""

    dormant: Tensor
    """The share of inputs on which it is dormant; an input is a row of a value's first axis."""
    zero: Tensor
    """The share of its activations that are zero."""
    size: Tensor
    """The mean of its absolute activations."""


def measured(
    graph: Graph, spaces: Sequence[Space], calibration: Calibration, positions: Positions
) -> dict[Space, Activity]:
    """The activity of spaces, all from one run of each batch.

    Where several values with a space are read, as behind a residual sum, each counts the same.
    """
    every = ((space, reading_places(graph, space)) for space in spaces)
    reads = {space: places for space, places in every if places}
    totals: dict[tuple[Space, str, int], Tensor] = {}
    names = {name for places in reads.values() for name, _ in places}
    for values in calibration.values(graph, names):
        for space, places in reads.items():
            for name, axis in places:
                rows = _rows(space, values[name], axis, positions(space, name, axis))
                key = (space, name, axis)
                totals[key] = totals.get(key, torch.zeros(())) + _counts(rows)
    found: dict[Space, Activity] = {}
    for space, places in reads.items():
        counts = [totals[space, name, axis] for name, axis in places]
        shares = torch.stack([c[:3] / c[3:] for c in counts]).mean(0)
        found[space] = Activity(*shares)
    return found


def reading_places(graph: Graph, space: Space) -> list[tuple[str, int]]:
    """The values, and their axes, in which something reads a space: sums before everything else."""
    for kinds in (("contract", "pair", "sum"), ("mix", "norm", "softmax")):
        slots = [
            (graph.nodes[use.node].operands[slot], axis)
            for use in space.uses if use.kind in kinds
            for slot, axis in use.slots
        ]  # fmt: skip
        telling = [(o, a) for o, a in slots if o is not None and _telling(graph, space, o, a)]
        if telling:
            return list(dict.fromkeys(telling))
    return [(o, a) for o, a in space.values if _telling(graph, space, o, a)][-1:]


def _telling(graph: Graph, space: Space, operand: str, axis: int) -> bool:
    """Whether an operand is a value of numbers whose axis has the space, and a known size."""
    if operand[0] == "@" or not graph.type_of(operand).dtype.is_floating_point:
        return False
    layout = graph.analysis.shape(operand)[axis]
    return isinstance(size_of(layout), int) and space.atom in set(atoms(layout))


def _rows(space: Space, value: Tensor, axis: int, places: Tensor) -> Tensor:
    """Absolute activations as indices x inputs x the rest."""
    rows = value.detach().abs().to(torch.float64).movedim(axis, 0)
    rows = rows[places.flatten().to(rows.device)].reshape(space.size, -1, *rows.shape[1:])
    return rows[:, None] if rows.dim() == 2 else rows.movedim(1, 2).flatten(2)


def _counts(rows: Tensor) -> Tensor:
    """Dormant inputs, zeros and sums by index, then how many there were of each."""
    activity = rows.mean(2)
    dormant = activity <= DORMANT * activity.mean(0)
    inputs, entries = rows.shape[1], rows.shape[1] * rows.shape[2]
    sums = [dormant.sum(1), (rows == 0).sum((1, 2)), rows.sum((1, 2))]
    most = [torch.full_like(sums[0], n) for n in (inputs, entries, entries)]
    return torch.stack([s.double() for s in (*sums, *most)]).cpu()


__all__ = ["Activity", "measured", "reading_places"]
