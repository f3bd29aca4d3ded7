"""What a choice of indices of spaces means for tensors: the index maps that layouts stand for."""

from collections.abc import Mapping

import torch
from torch import Tensor

from netir.dims import evaluate
from netir.layouts import Atom, Concat, Layout, resolve, size_of


def taken(layout: Layout, choice: Mapping[Atom, list[int]]) -> list[int]:
    """The indices of an axis that remain, in order, when spaces are reduced to some of theirs."""
    found = [0]
    for term in resolve(layout):
        assert isinstance(term.size, int)
        if isinstance(term, Concat):
            inner, offset = [], 0
            for part in term.parts:
                inner += [offset + i for i in taken(part, choice)]
                offset += evaluate(size_of(part), {})
        else:
            inner = choice.get(term, list(range(term.size)))
        found = [outer * term.size + i for outer in found for i in inner]
    return found


def gathered(data: Tensor, shape: tuple[Layout, ...], choice: Mapping[Atom, list[int]]) -> Tensor:
    for axis, layout in enumerate(shape):
        data = data.index_select(axis, torch.tensor(taken(layout, choice), dtype=torch.int64))
    return data


def present(layout: Layout, choice: Mapping[Atom, list[int]]) -> Tensor:
    """1 for every index of an axis that remains, 0 for the others."""
    mask = torch.zeros(evaluate(size_of(layout), {}))
    mask[taken(layout, choice)] = 1
    return mask


def shares(layout: Layout, choice: Mapping[Atom, list[int]]) -> Tensor:
    """For every index that remains, one over the number of its copies."""
    left = torch.tensor(taken(layout, choice))
    return 1 / torch.bincount(left)[left].double()


def scaled(data: Tensor | None, axis: int, by: Tensor) -> Tensor:
    assert data is not None
    return (data * by.view(-1, *[1] * (data.dim() - axis - 1))).to(data.dtype)
