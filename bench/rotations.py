"""The usual way to make the filter of a group convolution: rotate, reorder, stack, and add.

What `netir.kernels.expand` is measured against, written plainly, one group after the other. It has
parameters of its own shape, [fields out · cosets, fields in · cosets, group, row, column].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from netir.kernels.groups import Group, cosets, group
from netir.kernels.plan import Plan


class Rotations:
    """One group's way from its parameters to a dense filter, with its channel orders made once."""

    def __init__(self, name: str, plan: Plan, device: str = "cpu") -> None:
        self.group, self.ambient = group(name), group(plan.ambient)
        elements = list(self.group.elements)
        self.orders = [
            torch.tensor([elements.index(g.inverse * h) for h in elements], device=device)
            for g in elements
        ]
        self.places = _places(self.group, self.ambient).to(device)

    def parameters(self, ours: Tensor) -> Tensor:
        """Our parameters [coset, out, row, column, element in, in] in this shape."""
        split = ours[:, :, :, :, self.places.argsort()]
        cosets_, out, kernel, _, _, into = ours.shape
        split = split.view(cosets_, out, kernel, kernel, cosets_, self.group.order, into)
        moved = split.permute(1, 0, 6, 4, 5, 2, 3)
        return moved.reshape(out * cosets_, into * cosets_, self.group.order, kernel, kernel)

    def expand(self, parameter: Tensor) -> Tensor:
        """The dense filter [elements · fields out, elements · fields in, row, column]."""
        turned = []
        for element, order in zip(self.group.elements, self.orders, strict=True):
            moved = parameter.flip(-2) if element.flip else parameter
            moved = torch.rot90(moved, int(4 * element.turn), (-2, -1))
            turned.append(moved[:, :, order])
        stacked = torch.stack(turned, 1)  # [out · coset, element, in · coset, element in, …]
        out, _, into, *_, kernel = stacked.shape
        count = len(self.places) // self.group.order
        dense = stacked.view(out // count, -1, into // count, len(self.places), kernel, kernel)
        dense = dense[:, self.places][:, :, :, self.places]
        return dense.permute(1, 0, 3, 2, 4, 5).reshape(-1, dense.shape[2] * dense.shape[3],
                                                       kernel, kernel)  # fmt: skip


def _places(small: Group, ambient: Group) -> Tensor:
    """Where (coset, element of the group) is, for every element of the ambient group in order."""
    split = cosets(small, ambient)
    return torch.tensor([
        coset * small.order + small.elements.index(part)
        for coset, part in zip(split.coset, split.part, strict=True)
    ])  # fmt: skip


def mixed(ways: Sequence[Rotations], parameters: Sequence[Tensor], mix: Tensor) -> Tensor:
    """The filter of a mixed layer."""
    total = mix.new_zeros(())
    for way, parameter, share in zip(ways, parameters, mix.unbind(), strict=True):
        total = total + share * way.expand(parameter)
    return total
