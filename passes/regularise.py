"""Regularisers for training: they push whole channels towards zero, which can then be pruned.

Not a pass: no graph changes. The graph tells which weights go together; the tensors are those of
the module that is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from netir.errors import NetirError, nearest
from netir.ir import Graph
from netir.passes.scores.members import per_row, positions
from netir.spaces import Member, Space
from netir.where import chosen_spaces

Kind = Literal["group_lasso", "bn", "growing"]
KINDS: tuple[str, ...] = get_args(Kind)
"""What can be asked of a group of weights."""


@dataclass(frozen=True, eq=False)
class _Part:
    """A parameter's share of a space: for every entry of an axis the index it belongs to, or -1."""

    param: str
    axis: int
    index: Tensor

    def along(self, vector: Tensor, like: Tensor) -> Tensor:
        """A number for each index of the space, laid along the axis of a tensor; 0 elsewhere."""
        spread = torch.cat([vector, vector.new_zeros(1)])[self.index.to(vector.device)]
        return spread.view(-1, *[1] * (like.dim() - self.axis - 1))


@dataclass(frozen=True, eq=False)
class _Group:
    """A space: its parts, and how many numbers each index has in all of them together."""

    name: str
    parts: tuple[_Part, ...]
    sizes: Tensor


class Regulariser:
    """A penalty on the channels of a network, each with all the weights that make it.

    - `group_lasso`: the sum over channels of sqrt(n) |w|, where w are the n weights, biases and
      scales that make a channel, in all layers that make it together (Wen et al. 2016; over
      coupled layers: Fang et al. 2023). Channels that are not needed go to zero as a whole.
    - `bn`: the same over the scales of normalisations alone (Liu et al. 2017).
    - `growing`: the sum of c |w|^2 with a strength c of each channel's own, zero at first. Every
      call of `grow` raises it, most for the smallest channel of a space (Wang et al. 2021).

    With `readers` the weights that sum over a channel belong to it as well. Use it where nothing
    else fixes the scale: behind a ReLU, what makes a channel can shrink while what reads it grows,
    with the same function and a smaller penalty; of both together only the balance is free. In
    front of a batch norm a weight can shrink by itself without any effect; since scale and shift of
    the norm belong to the channel too, its group gets to zero only if the channel does.

    `where` selects spaces as for a pass; names are those in the state dict of the module that was
    traced or lowered. Once the network has been rewritten, make a new one of the new graph.
    """

    def __init__(
        self, graph: Graph, where: str = "*", kind: Kind = "group_lasso", readers: bool = False
    ) -> None:
        if kind not in KINDS:
            raise NetirError(f"there is no regulariser '{kind}'", fix=nearest(kind, KINDS))
        self.kind, self.readers = kind, readers
        free = [s for s in chosen_spaces(graph, where) if not s.frozen and s.producers]
        self._groups = [g for g in (self._group(graph, space) for space in free) if g.parts]
        if not self._groups:
            raise NetirError(
                f"there is nothing to regularise by '{kind}'", where=where,
                fix="netir spaces lists the free spaces; 'group_lasso' needs no normalisation",
            )  # fmt: skip
        names = dict.fromkeys(part.param for group in self._groups for part in group.parts)
        self._names = {n: [n, *(a for a, own in graph.aliases.items() if own == n)] for n in names}
        self._shapes = {name: graph.params[name].data.shape for name in names}
        self._strengths = {g.name: torch.zeros_like(g.sizes) for g in self._groups}

    def penalty(self, module: nn.Module) -> Tensor:
        """The penalty, to be added to the loss times some strength."""
        tensors = self._tensors(module)
        terms = []
        for group in self._groups:
            squares = _squares(group, tensors)
            if self.kind == "growing":
                terms.append((self._strengths[group.name].to(squares) * squares).sum())
            else:
                lengths = squares.where(squares > 0, 1).sqrt() * (squares > 0)
                terms.append((group.sizes.to(squares).sqrt() * lengths).sum())
        return torch.stack([term.to(terms[0]) for term in terms]).sum()

    @torch.no_grad()
    def add_gradients(self, module: nn.Module, strength: float) -> None:
        """Add the gradient of `strength` times the penalty: call it between backward and step."""
        tensors = self._tensors(module)
        for group in self._groups:
            squares = _squares(group, tensors)
            if self.kind == "growing":
                factor = 2 * self._strengths[group.name].to(squares)
            else:
                factor = (group.sizes.to(squares) / squares).sqrt().where(squares > 0, 0)
            for part in group.parts:
                tensor = tensors[part.param]
                if not tensor.requires_grad:
                    continue
                added = strength * part.along(factor.to(tensor.device), tensor) * tensor
                if tensor.grad is None:
                    tensor.grad = torch.zeros_like(tensor)
                tensor.grad.add_(added.to(tensor.dtype))

    @torch.no_grad()
    def grow(self, module: nn.Module, by: float) -> None:
        """Raise the strengths of `growing`: by `by` for the smallest channel of each space.

        The largest keeps its strength, the others lie between by the lengths of their weights.
        """
        if self.kind != "growing":
            raise NetirError(f"the strengths of '{self.kind}' do not grow", fix="kind='growing'")
        for name, lengths in self.lengths(module).items():
            span = lengths.max() - lengths.min()
            share = (lengths.max() - lengths) / span if span > 0 else torch.zeros_like(lengths)
            self._strengths[name] += by * share

    @torch.no_grad()
    def lengths(self, module: nn.Module) -> dict[str, Tensor]:
        """By space, the length of the weights of each of its channels."""
        tensors = self._tensors(module)
        return {g.name: _squares(g, tensors).sqrt().double().cpu() for g in self._groups}

    def _group(self, graph: Graph, space: Space) -> _Group:
        members = space.members if self.readers else space.producers
        parts = tuple(_part(graph, space, m) for m in members if self._counts(graph, m))
        sizes = torch.zeros(space.size, dtype=torch.float64)
        for part in parts:
            data, inside = graph.params[part.param].data, part.index[part.index >= 0]
            each = data.numel() // data.shape[part.axis]
            sizes += each * torch.bincount(inside, minlength=space.size)
        return _Group(space.name, parts, sizes)

    def _counts(self, graph: Graph, member: Member) -> bool:
        """Whether a parameter is trained and of the kind that is asked for."""
        param = graph.params[member.param]
        if param.kind != "param" or not param.trainable or not param.data.is_floating_point():
            return False
        reads = graph.users.get(f"@{member.param}", ())
        return self.kind != "bn" or any(
            position == 1 and node.op.fills.get(1) == 1.0 for node, position in reads
        )

    def _tensors(self, module: nn.Module) -> Mapping[str, Tensor]:
        """The module's parameters by the names in the graph."""
        there = dict(_unwrapped(module).named_parameters(remove_duplicate=False))
        found = {}
        for name, shape in self._shapes.items():
            known = next((n for n in self._names[name] if n in there), None)
            if known is None or there[known].shape != shape:
                have = "none" if known is None else f"one of shape {tuple(there[known].shape)}"
                raise NetirError(
                    f"the module has {have} where the graph has a parameter of {tuple(shape)}",
                    where=name,
                    fix="pass the module that was traced or lowered; after a rewrite make a new "
                    "Regulariser of the new graph",
                )
            found[name] = there[known]
        return found


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module itself, where `torch.compile` or data parallelism has put another around it."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(module.module)
    inner = getattr(module, "_orig_mod", None)
    return _unwrapped(inner) if isinstance(inner, nn.Module) else module


def _part(graph: Graph, space: Space, member: Member) -> _Part:
    data = graph.params[member.param].data
    index = torch.arange(space.size)
    if not member.whole:
        places = positions(graph.analysis.shape(f"@{member.param}")[member.axis], space.atom)
        owner = torch.full((data.shape[member.axis],), -1)
        index = owner.index_copy(0, places.flatten(), index.repeat_interleave(places.shape[1]))
    return _Part(member.param, member.axis, index)


def _squares(group: _Group, tensors: Mapping[str, Tensor]) -> Tensor:
    """The squared length of the weights of each index."""
    own = [tensors[part.param] for part in group.parts]
    wide = torch.float64 if any(t.dtype == torch.float64 for t in own) else torch.float32
    total = torch.zeros(len(group.sizes) + 1, dtype=wide, device=own[0].device)
    for part, tensor in zip(group.parts, own, strict=True):
        rows = per_row(tensor.to(wide).square(), part.axis).to(total.device)
        total = total.index_add(0, (part.index % len(total)).to(total.device), rows)
    return total[:-1]


__all__ = ["KINDS", "Kind", "Regulariser"]
