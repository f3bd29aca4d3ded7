"""What a score looks at: the weights of a space, and data that is read once for all spaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from netir.calibration import Calibration, needed
from netir.ir import Graph
from netir.layouts import resolve
from netir.passes.scores.activity import Activity, measured
from netir.passes.scores.members import columns, makers, per_row, positions
from netir.spaces import Member, Space


class Evidence:
    """A graph, the spaces to be scored, and what data tells about them.

    Gradients and activations are worked out for all spaces together when the first score asks.
    With `readers`, the columns that read a space count beside the rows that make it.
    """

    def __init__(
        self,
        graph: Graph,
        spaces: Sequence[Space],
        calibration: Calibration | None = None,
        *,
        readers: bool = False,
        seed: int = 0,
    ) -> None:
        self.graph = graph
        self.spaces = tuple(spaces)
        self.calibration = calibration
        self.readers = readers
        self.seed = seed
        self._positions: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def generator(self) -> torch.Generator:
        """For scores that draw numbers."""
        return torch.Generator().manual_seed(self.seed)

    def members(self, space: Space) -> list[Member]:
        """The axes of weights that count for a space."""
        made = makers(self.graph, space)
        return [*made, *columns(self.graph, space)] if self.readers else made

    def weights(self, space: Space) -> list[Tensor]:
        """For each of these a float64 matrix on the CPU: a row of weights for every index."""
        found = []
        for member in self.members(space):
            data = self.graph.params[member.param].data.detach().movedim(member.axis, 0)
            if not member.whole:
                places = self.positions(space, f"@{member.param}", member.axis)
                data = data[places.flatten().to(data.device)]
            found.append(data.to("cpu", torch.float64).reshape(space.size, -1))
        return found

    def sums(self, space: Space, rows: Callable[[Member], Tensor | None]) -> Tensor:
        """By index, the sum over all weights that count of what `rows` says of every row."""
        return self.gathered(space, self.members(space), rows)

    def gathered(
        self, space: Space, members: Sequence[Member], rows: Callable[[Member], Tensor | None]
    ) -> Tensor:
        """The same for members of one's own choice; `rows` gives a number for each entry."""
        total = torch.zeros(space.size, dtype=torch.float64)
        for member in members:
            found = rows(member)
            if found is None:
                continue
            if not member.whole:
                places = self.positions(space, f"@{member.param}", member.axis)
                found = found[places.to(found.device)].sum(1)
            total = total.to(found.device) + found
        return total.cpu()

    def positions(self, space: Space, operand: str, axis: int) -> Tensor:
        """The entries of an operand's axis that belong to each index of a space."""
        layout = resolve(self.graph.analysis.shape(operand)[axis])
        key = (id(space.atom), *map(id, layout))
        found = self._positions.get(key)
        if found is None:
            found = self._positions[key] = positions(layout, space.atom)
        return found

    def salience(self, space: Space, by: str) -> Tensor:
        """One row for each batch: by index, the sum of weight times gradient.

        That is the derivative of the loss by a common factor on all weights of an index.
        """
        needed(self.calibration, by)
        return self._saliences[space]

    def activity(self, space: Space, by: str) -> Activity | None:
        """How active every index is where it is read; None if no value can tell."""
        needed(self.calibration, by)
        return self._activities.get(space)

    @cached_property
    def _saliences(self) -> Mapping[Space, Tensor]:
        assert self.calibration is not None
        found: dict[Space, list[Tensor]] = {space: [] for space in self.spaces}
        for gradients in self.calibration.gradients(self.graph):
            for space, rows in found.items():
                rows.append(self.sums(space, lambda m, g=gradients: self._product(m, g)))  # type: ignore[misc]
        return {space: torch.stack(rows) for space, rows in found.items()}

    def _product(self, member: Member, gradients: Mapping[str, Tensor]) -> Tensor | None:
        gradient = gradients.get(member.param)
        if gradient is None:
            return None
        product = self.graph.params[member.param].data.detach().double() * gradient
        return per_row(product, member.axis)

    @cached_property
    def _activities(self) -> Mapping[Space, Activity]:
        assert self.calibration is not None
        return measured(self.graph, self.spaces, self.calibration, self.positions)


__all__ = ["Evidence"]
