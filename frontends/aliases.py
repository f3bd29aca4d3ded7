"""Writes in place, made pure: which torch values share memory, and what each of them is by now.

A write gives its root a new value; views of the root that are read later are taken from it
anew, and a write through a view is put back into what it views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from netir.errors import NetirError
from netir.ir import TensorType
from netir.ops.base import Op
from netir.ops.pointwise import Identity
from netir.ops.shape import Permute, Reshape, Select, SelectScatter, Slice, SliceScatter
from netir.ops.shape import Squeeze, Unsqueeze


@dataclass
class _Cell:
    """A torch value: the operand that it is at a version of its root, and what it views."""

    operand: str
    parent: _Cell | None = None
    made_by: str = ""
    version: int = 0
    seen: int = 0
    results: tuple[str, ...] = field(default=())

    @property
    def root(self) -> _Cell:
        cell = self
        while cell.parent is not None:
            cell = cell.parent
        return cell


class Memory:
    """The current operand of every torch value."""

    def __init__(
        self, view: Callable[[str, str], str], scatter: Callable[[str, str, str], str]
    ) -> None:
        self._view = view
        self._scatter = scatter
        self._cells: dict[Any, _Cell] = {}

    def make(self, node: fx.Node, *operands: str) -> None:
        """A fresh value, or several that will be picked from."""
        self._cells[node] = _Cell(operands[0], results=operands)

    def make_list(self, node: fx.Node, operands: list[str]) -> None:
        """The values that a region gives."""
        self.make(node, *operands)

    def view(self, node: fx.Node, of: fx.Node, operand: str) -> None:
        """A value that shares the memory of another."""
        parent = self._cells[of]
        root = parent.root
        self._cells[node] = _Cell(operand, parent, operand, seen=root.version, results=(operand,))

    def views(self, node: fx.Node, of: fx.Node, operands: tuple[str, ...]) -> None:
        """Several values that share the memory of another; writing through one is refused."""
        self.make(node, *operands)

    def pick(self, node: fx.Node, source: Any, index: Any) -> None:
        """One of several results."""
        self._cells[node] = _Cell(self._cells[source].results[index])

    def same(self, node: fx.Node, other: fx.Node) -> None:
        """Another name for a value."""
        self._cells[node] = self._cells[other]

    def read(self, node: fx.Node) -> str:
        """The operand that a value is after all writes so far."""
        return self._current(self._cells[node])

    def _current(self, cell: _Cell) -> str:
        root = cell.root
        if cell is root or cell.seen == root.version:
            return cell.operand
        assert cell.parent is not None
        cell.operand = self._view(cell.made_by, self._current(cell.parent))
        cell.seen = root.version
        return cell.operand

    def write(self, node: fx.Node, operand: str) -> None:
        """Let a value be `operand` from now on, and so all that share its memory."""
        cell = self._cells[node]
        root = cell.root
        new = operand
        current = cell
        while current.parent is not None:
            before = self._current(current.parent)
            new = self._scatter(current.made_by, before, new)
            current = current.parent
        root.operand, root.version = new, root.version + 1
        cell.seen = root.version
        if cell is not root:
            cell.operand = operand


def is_view(target: torch._ops.OpOverload) -> bool:
    """Whether the results share memory with the first argument."""
    returns = target._schema.returns
    return any(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def written(node: fx.Node, target: torch._ops.OpOverload) -> fx.Node | None:
    """The argument that the call writes to, if it does."""
    if not target._schema.is_mutable:
        return None
    for argument, value in zip(target._schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return value if isinstance(value, fx.Node) else None
    return None


def put_back(view: Op, kind: TensorType, operand: str, new: str) -> tuple[Op, list[str | None]]:
    """The op that gives `operand`, of type `kind`, with what `view` shows of it made `new`."""
    match view:
        case Slice(dim, start, end, step):
            return SliceScatter(dim, start, end, step), [operand, new]
        case Select(dim, index):
            return SelectScatter(dim, index), [operand, new]
        case Permute(dims):
            return Permute(tuple(dims.index(i) for i in range(len(dims)))), [new]
        case Reshape() | Squeeze() | Unsqueeze():
            return Reshape(kind.shape), [new]
        case Identity():
            return Identity(), [new]
    raise NetirError(
        f"cannot trace a write in place through '{view.name}'",
        fix="write the model without it, for example with torch.where or torch.cat",
    )
