"""Moves: for every parameter of a rewritten graph, where its entries come from.

Weights, gradients, optimizer moments and averages of weights all follow a rewrite by its moves.
A move works axis by axis; an axis is gathered by index and scaled, or mapped by a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from netir.errors import NetirError


@dataclass(frozen=True, eq=False)
class Gather:
    """Entry i of the new axis is entry `index[i]` of the old one, or new where that is -1.

    Where something sums over the axis, entry i is also multiplied by `share[i]`.
    """

    index: Tensor
    share: Tensor | None = None

    @property
    def size(self) -> int:
        return len(self.index)

    @cached_property
    def new(self) -> Tensor | None:
        """Which entries come from nowhere; None if none does."""
        found = self.index < 0
        return found if bool(found.any()) else None

    def apply(self, tensor: Tensor, axis: int, power: int = 1) -> Tensor:
        """Move a tensor along one axis; new entries are zero."""
        new = self.new
        index = self.index if new is None else self.index.clamp(min=0)
        found = tensor.index_select(axis, index.to(tensor.device))
        scale = self.share if new is None else _zeroed(self.share, new)
        if scale is None:
            return found
        shape = [1] * tensor.dim()
        shape[axis] = -1
        factor = scale if power == 1 else scale**power
        if not tensor.dtype.is_floating_point:
            factor = (factor != 0).to(tensor.dtype)
        if tensor.dtype in (torch.float16, torch.bfloat16):  # round the product, not the factor
            factor = factor.to(tensor.device, torch.float32)
            return (found.to(torch.float32) * factor.view(shape)).to(tensor.dtype)
        return found.mul_(factor.to(tensor.device, tensor.dtype).view(shape))


def _zeroed(share: Tensor | None, new: Tensor) -> Tensor:
    ones = torch.ones(len(new), dtype=torch.float64) if share is None else share
    return ones.masked_fill(new, 0.0)


@dataclass(frozen=True, eq=False)
class Matrix:
    """The new axis is a matrix times the old one, block by block of `outer` and `inner`."""

    matrix: Tensor
    outer: int = 1
    inner: int = 1

    @property
    def size(self) -> int:
        return self.outer * self.matrix.shape[0] * self.inner

    def apply(self, tensor: Tensor, axis: int, power: int = 1) -> Tensor:
        """Move a tensor along one axis."""
        matrix = (self.matrix**power).to(tensor.device)
        blocks = tensor.to(matrix.dtype).unflatten(axis, (self.outer, -1, self.inner))
        moved: Tensor = torch.tensordot(matrix, blocks, dims=([1], [axis + 1]))
        moved = moved.movedim(0, axis + 1)
        return moved.flatten(axis, axis + 2).to(tensor.dtype)


@dataclass(frozen=True, eq=False)
class Parts:
    """An axis of parts laid end to end, each with its own move (None: it stays)."""

    sizes: tuple[int, ...]
    moves: tuple[AxisMove | None, ...]

    @property
    def size(self) -> int:
        return sum(s if m is None else m.size for s, m in zip(self.sizes, self.moves, strict=True))

    def apply(self, tensor: Tensor, axis: int, power: int = 1) -> Tensor:
        """Move a tensor along one axis."""
        pieces = tensor.split(list(self.sizes), axis)
        pairs = zip(pieces, self.moves, strict=True)
        return torch.cat([p if m is None else m.apply(p, axis, power) for p, m in pairs], axis)


@dataclass(frozen=True, eq=False)
class Chain:
    """Several moves of one axis, one after the other."""

    steps: tuple[AxisMove, ...]

    @property
    def size(self) -> int:
        return self.steps[-1].size

    def apply(self, tensor: Tensor, axis: int, power: int = 1) -> Tensor:
        """Move a tensor along one axis."""
        for step in self.steps:
            tensor = step.apply(tensor, axis, power)
        return tensor


@dataclass(frozen=True, eq=False)
class Within:
    """An axis of an open size: `move` acts on the middle one of outer, `size` and inner.

    At most one of outer and inner is -1, which stands for what the axis has left.
    """

    move: AxisMove
    outer: int
    old: int
    inner: int

    @property
    def size(self) -> int:
        raise NetirError("the size of an open axis is known only when the network runs")

    def apply(self, tensor: Tensor, axis: int, power: int = 1) -> Tensor:
        """Move a tensor along one axis."""
        blocks = tensor.unflatten(axis, (self.outer, self.old, self.inner))
        return self.move.apply(blocks, axis + 1, power).flatten(axis, axis + 2)


@dataclass(frozen=True, eq=False)
class Whole:
    """All axes at once, by a linear function of the tensor and of the power of its factors.

    It stands at the first axis of a move; moves of other axes come after it.
    """

    function: Callable[[Tensor, int], Tensor]

    @property
    def size(self) -> int:
        raise NetirError("a move of all axes at once tells no size of one of them")

    def apply(self, tensor: Tensor, axis: int, power: int = 1) -> Tensor:
        """Move a tensor along all axes."""
        return self.function(tensor, power)


AxisMove = Gather | Matrix | Parts | Chain | Within | Whole


def kept_indices(move: AxisMove | None, total: int) -> Tensor | None:
    """Which of `total` old indices each new one is, -1 if it has none; None if all stay."""
    if move is None:
        return None
    if isinstance(move, Gather):
        return move.index
    if isinstance(move, Chain | Within):
        return move.apply(torch.arange(1, total + 1), 0) - 1
    raise NetirError("a linear basis keeps no indices", fix="verify it with the contract 'changed'")


@dataclass(frozen=True, eq=False)
class Move:
    """How one parameter moved: for each axis its move, or None where nothing changed."""

    axes: tuple[AxisMove | None, ...]

    def apply(self, tensor: Tensor, power: int = 1) -> Tensor:
        """Move a tensor of the parameter's shape; scales are raised to `power`."""
        found = tensor
        for axis, move in enumerate(self.axes):
            if move is not None:
                found = move.apply(found, axis, power)
        return found


    def fresh(self, shape: torch.Size) -> Tensor | None:
        """Which entries of the moved tensor come from nowhere; None if none does."""
        found: Tensor | None = None
        for axis, step in enumerate(self.axes):
            if isinstance(step, Gather) and step.new is not None:
                new = step.new.view([-1 if i == axis else 1 for i in range(len(shape))])
                found = new.expand(shape) if found is None else found | new
        return found


@dataclass(frozen=True, eq=False)
class Moves:
    """The moves of a rewrite: by parameter, and by value for those whose shape changed.

    Parameters that are not named stayed as they were; `added` and `removed` came and went.
    `folded` tells by node what was added along the channels of its result in place of what was
    removed from what it reads; `bounds` by node how far a result may be off, as a multiple of the
    norm of what the node reads, and `shifts` how far besides, whatever it reads: as the root mean
    square of its entries.
    """

    params: Mapping[str, Move] = field(default_factory=dict)
    values: Mapping[str, Move] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    folded: Mapping[str, Tensor] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    shifts: Mapping[str, float] = field(default_factory=dict)

    def then(self, after: Moves) -> Moves:
        """These moves and then others, as one; bounds of several steps do not add up to one."""
        gone = set(after.removed)
        if after.folded and (self.params or self.values):
            raise NetirError(
                "constants were folded into a network that had been rewritten before",
                fix="verify each step by itself",
            )
        return Moves(
            _chained(self.params, after.params, gone),
            _chained(self.values, after.values, set()),
            tuple(n for n in self.added if n not in gone) + after.added,
            self.removed + tuple(n for n in after.removed if n not in self.added),
            {**self.folded, **after.folded},
            {**self.bounds, **after.bounds},
            {**self.shifts, **after.shifts},
        )


def _chained(
    first: Mapping[str, Move], second: Mapping[str, Move], gone: set[str]
) -> dict[str, Move]:
    found = {name: move for name, move in first.items() if name not in gone}
    for name, move in second.items():
        before = found.get(name)
        if before is None:
            found[name] = move
            continue
        if len(before.axes) != len(move.axes) or any(isinstance(a, Whole) for a in move.axes):
            found[name] = _composed(before, move)
            continue
        pairs = zip(before.axes, move.axes, strict=True)
        found[name] = Move(tuple(b or a if None in (a, b) else Chain((a, b)) for a, b in pairs))  # type: ignore[arg-type]
    return found


def _composed(first: Move, second: Move) -> Move:
    """Two moves of a parameter whose number of axes changes in between."""
    whole = Whole(lambda tensor, power: second.apply(first.apply(tensor, power), power))
    return Move((whole, *[None] * (len(second.axes) - 1)))


_SQUARED = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta", "variance")
"""State tensors that hold squares of gradients."""


def move_optimizer(
    optimizer: torch.optim.Optimizer,
    moves: Moves,
    old: nn.Module | Mapping[str, Tensor],
    new: nn.Module | Mapping[str, Tensor],
) -> None:
    """Let an optimizer of the parameters `old` go on with the parameters `new` of a rewrite.

    First moments move as weights do, squares with squared scale, new entries are zero; step
    counts, param groups and the optimizer itself stay. Parameters that only one side has are left
    alone. Raises before anything changes if some state has neither its parameter's shape nor a
    single element.
    """
    if isinstance(optimizer, torch.optim.LBFGS) and optimizer.state:
        raise NetirError(
            "LBFGS keeps one state for all parameters together",
            fix="rewrite before its first step, or go on with a new optimizer",
        )
    plans = []
    after = _named(new)
    for name, before in _named(old).items():
        if name in after:
            state = optimizer.state.get(before, {})
            moved = moved_state(optimizer, state, moves.params.get(name), before, name)
            plans.append((before, after[name], moved))
    exchanged = {id(before): successor for before, successor, _ in plans}
    for group in optimizer.param_groups:
        group["params"][:] = [exchanged.get(id(p), p) for p in group["params"]]
    for before, successor, state in plans:
        optimizer.state.pop(before, None)
        if state:
            optimizer.state[successor] = state


def _named(tensors: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return dict(tensors.named_parameters()) if isinstance(tensors, nn.Module) else tensors


def moved_moment(key: str, value: Tensor, move: Move) -> Tensor:
    """What an optimizer keeps under `key` for every entry of a parameter, after a move."""
    return move.apply(value, 2 if key in _SQUARED else 1)


def moved_state(
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    move: Move | None,
    old: Tensor,
    name: str,
) -> dict[str, Any]:
    """An optimizer's state of one parameter after a move; an error if it cannot follow."""
    if move is None:
        return dict(state)
    found: dict[str, Any] = {}
    for key, value in state.items():
        tensors = [t for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]
        if isinstance(value, Tensor) and value.shape == old.shape:
            found[key] = moved_moment(key, value, move)
        elif all(t.numel() == 1 for t in tensors):
            found[key] = value
        else:
            shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
            raise NetirError(
                f"{type(optimizer).__name__} keeps '{key}' of shape {shapes} for a parameter of "
                f"shape {tuple(old.shape)}",
                where=name,
                fix="use an optimizer whose state has the parameter's shape: SGD, Adam, AdamW, "
                "RMSprop, Adagrad; or rewrite before the first step",
            )
    return found
