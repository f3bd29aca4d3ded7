"""A basis: new indices for a channel space, and what a change to it keeps of the function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from netir.errors import NetirError
from netir.ir import Node
from netir.layouts import Atom, Concat, Layout, atoms, resolve
from netir.ops.join import Cat
from netir.spaces import Analysis, Space


class Contract(Enum):
    """What a rewrite keeps of the function that the network computes."""

    EXACT = "exact"
    EXACT_EVAL = "exact-eval"
    MASKED = "masked"
    BOUNDED = "bounded"
    CHANGED = "changed"


@dataclass(frozen=True, eq=False)
class Basis:
    """New indices for a space: where each comes from, or a matrix for what makes it and back.

    Whoever chose the matrices says what they keep, and whether they go across what is not linear.
    """

    index: Tensor | None = None
    share: Tensor | None = None
    into: Tensor | None = None
    back: Tensor | None = None
    keeps: Contract | None = None
    """What it keeps, where whoever chose it knows; else that follows from the uses."""
    across: bool = False

    @property
    def size(self) -> int:
        found = self.index if self.index is not None else self.into
        assert found is not None
        return found.shape[0]

    @cached_property
    def replicates(self) -> bool:
        """Whether some old index is there more than once."""
        return self.index is not None and bool((self._counts > 1).any())

    @cached_property
    def extends(self) -> bool:
        """Whether some index comes from nowhere."""
        return self.index is not None and bool((self.index < 0).any())

    @cached_property
    def copies(self) -> int | None:
        """How often every old index is there; None if that differs from index to index."""
        counts = set(self._counts.tolist()) if self.index is not None else set()
        return int(counts.pop()) if len(counts) == 1 else None

    @cached_property
    def _counts(self) -> Tensor:
        assert self.index is not None
        return torch.bincount(self.index[self.index >= 0])


def select(index: Tensor | list[int]) -> Basis:
    """Keep the indices given, in the order given."""
    return Basis(torch.as_tensor(index, dtype=torch.int64))


def replicate(index: Tensor | list[int], share: Tensor | list[float] | None = None) -> Basis:
    """Copy indices; whatever sums over a copied one shares it out, equally unless `share` says.

    The shares of the copies of one index must sum to 1.
    """
    found = torch.as_tensor(index, dtype=torch.int64)
    if share is None:
        share = 1.0 / torch.bincount(found)[found].to(torch.float64)
    return Basis(found, torch.as_tensor(share, dtype=torch.float64))


def extend(size: int, count: int) -> Basis:
    """Keep all `size` indices and append `count` new ones."""
    return Basis(torch.cat([torch.arange(size), torch.full((count,), -1)]))


def linear(
    into: Tensor, back: Tensor, keeps: Contract = Contract.CHANGED, across: bool = False
) -> Basis:
    """Any other basis: `into` (m x n) for what makes a space, `back` (n x m) for what reads it.

    In general a matrix may not stand before what is not linear; `across` lets it.
    """
    into, back = into.to(torch.float64), back.to(torch.float64)
    return Basis(into=into, back=back, keeps=keeps, across=across)


NOTHING: Mapping[Atom, Basis] = MappingProxyType({})


def kept(
    space: Space, basis: Basis, others: Mapping[Atom, Basis] = NOTHING
) -> tuple[Contract, str]:
    """What a change of one space keeps, and why it is no more than that.

    `others` are changes of further spaces at the same time: something that mixes parts laid end to
    end keeps its function only if all of them grow alike.
    """
    kinds = {use.kind: use for use in space.uses}
    if basis.keeps is not None:
        return basis.keeps, "a linear basis in general keeps only what D·E keeps"
    assert basis.index is not None
    mixed = next((kinds[k] for k in ("norm", "softmax", "mix") if k in kinds), None)
    if basis.extends:
        strange = next((u for k, u in kinds.items() if k != "contract"), None)
        if strange is not None:
            return Contract.CHANGED, f"{strange.node} sees the new indices ({strange.kind})"
        return Contract.EXACT, ""
    covered = len(set(basis.index.tolist())) == space.size
    if not covered:
        return (Contract.CHANGED, "some indices go and others are copied") if (
            basis.replicates
        ) else (Contract.MASKED, "")
    if not basis.replicates or mixed is None:
        return Contract.EXACT, ""
    fix = "all indices have equally many copies" if mixed.kind == "mix" else "nothing is copied"
    if mixed.kind == "mix":
        bases = {**others, space.atom: basis}
        layouts = [u.layout for u in space.uses if u.kind == "mix"]
        if all(_copies(layout, bases) for layout in layouts):
            return Contract.EXACT, ""
    return Contract.CHANGED, f"{mixed.node} keeps its function only if {fix}"


def _copies(layout: Layout, bases: Mapping[Atom, Basis]) -> int | None:
    """How many copies every index of an axis gets; None if they get different numbers."""
    total = 1
    for term in resolve(layout):
        if isinstance(term, Concat):
            parts = {_copies(part, bases) for part in term.parts}
            found = parts.pop() if len(parts) == 1 else None
        else:
            basis = bases.get(term)
            found = 1 if basis is None else basis.copies
        if found is None:
            return None
        total *= found
    return total


def check_linear(analysis: Analysis, space: Space) -> None:
    """Refuse a basis that is more than a choice of indices where something else stands between."""
    strange = nonlinear(analysis, space)
    if strange:
        raise NetirError(
            f"'{space.name}' cannot take a linear basis",
            where=f"{sorted(strange)[0]} is not linear",
            fix="use select, replicate or extend",
        )


def nonlinear(analysis: Analysis, space: Space) -> list[str]:
    """The nodes across which no linear map of a space can be moved."""
    strange = [u.node for u in space.uses if u.kind not in ("contract", "pair", "sum")]
    producers = analysis.graph.producers
    makers = dict.fromkeys(producers[v] for v, _ in space.values if v in producers)
    strange += [node.name for node in makers if not _commutes(analysis, node, space.atom)]
    return list(dict.fromkeys(strange))


def _commutes(analysis: Analysis, node: Node, atom: Atom) -> bool:
    """Whether a linear map of a space can be moved across a node.

    What the node adds must be mapped too, so it must have the space: a bias along another axis has
    not, and neither has something that is repeated along this one. What it multiplies must not
    meet along the space, as the heads of two activations do.
    """
    if not node.op.linear():
        return False
    if isinstance(node.op, Cat):
        return True
    summed = {
        place for use in analysis.uses_at.get(node.name, ()) if use.kind in ("contract", "pair")
        for place in use.slots
    }  # fmt: skip
    there = {
        position: any(atom in atoms(layout) for layout in analysis.shape(operand))
        for position, operand in enumerate(node.operands)
        if operand is not None and analysis.graph.type_of(operand).dtype.is_floating_point
    }
    bent = {position for position in there if position in node.op.bends}
    if any(there[position] for position in bent):
        return False
    if summed and not bent and _meets(analysis, node, atom, summed):
        return False
    multiplied = bent | {position for position, _ in summed}
    return any(there.values()) and all(
        carried or position in multiplied for position, carried in there.items()
    )


def _meets(analysis: Analysis, node: Node, atom: Atom, summed: set[tuple[int, int]]) -> bool:
    """Whether two factors of a product share an axis of the result that has a space."""
    factors = sum(
        atom in atoms(layout)
        for position in {position for position, _ in summed}
        for axis, layout in enumerate(analysis.shape(node.operands[position] or ""))
        if (position, axis) not in summed
    )
    made = sum(atom in atoms(layout) for r in node.results for layout in analysis.shape(r))
    return factors != made


def check_basis(space: Space, basis: Basis) -> None:
    if basis.into is not None and basis.back is not None:
        want = (basis.into.shape[0], space.size)
        if basis.into.shape != want or basis.back.shape != want[::-1] or not want[0]:
            raise NetirError(
                f"the basis of '{space.name}' has shapes {tuple(basis.into.shape)} and "
                f"{tuple(basis.back.shape)}",
                fix=f"give m x {space.size} and {space.size} x m",
            )
        return
    index = basis.index
    if index is None or index.dim() != 1 or not len(index):
        raise NetirError(
            f"the new width of '{space.name}' must be at least 1", fix="name one index or more"
        )
    if int(index.max()) >= space.size or int(index.min()) < -1:
        raise NetirError(
            f"an index of '{space.name}' is outside its {space.size}",
            fix=f"use 0 to {space.size - 1}, or -1 for a new entry",
        )
    if basis.share is not None:
        if basis.share.shape != index.shape:
            raise NetirError(f"'{space.name}' needs one share for each of {len(index)} indices")
        old = index >= 0
        sums = torch.zeros(space.size, dtype=torch.float64)
        sums.index_add_(0, index[old], basis.share[old])
        there = torch.bincount(index[old], minlength=space.size) > 0
        if not torch.allclose(sums[there], torch.ones_like(sums[there]), atol=1e-9):
            raise NetirError(f"the shares of an index of '{space.name}' do not sum to 1")
