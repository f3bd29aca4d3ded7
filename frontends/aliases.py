"""Writes in place, made pure: which torch values share memory, and what each of them is by now.

A write gives the root of that memory a new value; views of it that are read later are taken from
it anew, and a write through a view is put back into what it views. Where torch decides when it
runs whether a value is a view, reading it after a write to the other is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from netir.errors import NetirError
from netir.ir import TensorType
from netir.ops.base import Op
from netir.ops.join import Split, Unbind
from netir.ops.pointwise import Cast, Contiguous, Detach, Identity
from netir.ops.shape import Permute, Reshape, Squeeze, Unsqueeze
from netir.ops.slices import Select, SelectScatter, Slice, SliceScatter


@dataclass(eq=False)
class _Cell:
    """A torch value: its operand, as of a version of the root of its memory.

    A view also knows its parent and the op that takes it from there.
    """

    operand: str
    kind: TensorType
    parent: _Cell | None = None
    view: Op | None = None
    seen: int = 0
    version: int = 0
    linked: list[_Cell] = field(default_factory=list)
    label: str = ""
    doubt: str = ""

    @property
    def root(self) -> _Cell:
        cell = self
        while cell.parent is not None:
            cell = cell.parent
        return cell


Apply = Callable[[Op, Sequence[str], TensorType], str]


class Memory:
    """The current operand of every torch value; `apply` adds a node and gives its result."""

    def __init__(self, apply: Apply) -> None:
        self.written: dict[str, None] = {}
        """The inputs and parameters that were written, by their operands."""
        self._apply = apply
        self._cells: dict[fx.Node, list[_Cell]] = {}

    def make(
        self, node: fx.Node, operands: Sequence[str], kinds: Sequence[TensorType], label: str = ""
    ) -> None:
        """Fresh values; `label` marks one that the caller owns."""
        self._cells[node] = [
            _Cell(o, k, label=label) for o, k in zip(operands, kinds, strict=True)
        ]

    def link(self, node: fx.Node, others: Sequence[fx.Node]) -> None:
        """Say that values share memory perhaps."""
        for cell in self._cells[node]:
            for other in others:
                for root in {id(c.root): c.root for c in self._cells[other]}.values():
                    cell.root.linked.append(root)
                    root.linked.append(cell.root)

    def view(
        self, node: fx.Node, of: fx.Node, op: Op, operands: Sequence[str],
        kinds: Sequence[TensorType],
    ) -> None:  # fmt: skip
        """Values that share the memory of another."""
        (parent,) = self._cells[of]
        seen = parent.root.version
        self._cells[node] = [
            _Cell(operand, kind, parent, _part(op, number, len(kinds)), seen)
            for number, (operand, kind) in enumerate(zip(operands, kinds, strict=True))
        ]

    def pick(self, node: fx.Node, source: fx.Node, index: int) -> None:
        """One of several results."""
        self._cells[node] = [self._cells[source][index]]

    def same(self, node: fx.Node, *others: fx.Node) -> None:
        """Another name for a value, or for several."""
        self._cells[node] = [cell for other in others for cell in self._cells[other]]

    def read(self, node: fx.Node) -> str:
        """The operand that a value is after all writes so far."""
        return self._current(self._cells[node][0])

    def _current(self, cell: _Cell) -> str:
        stale, root = [], cell.root
        if root.doubt:
            raise NetirError(root.doubt, fix="add .clone() before the write in place")
        while cell.parent is not None and cell.seen != root.version:
            stale.append(cell)
            cell = cell.parent
        operand = cell.operand
        for cell in reversed(stale):
            if cell.view is None:
                raise _no_view(cell)
            operand = cell.operand = self._apply(cell.view, [operand], cell.kind)
            cell.seen = root.version
        return operand

    def write(self, node: fx.Node, operand: str, where: str) -> None:
        """Let a value be `operand` from now on, and so all that share its memory."""
        (cell,) = self._cells[node]
        root, new, current = cell.root, operand, cell
        while current.parent is not None:
            before = self._current(current.parent)
            new = self._put_back(current, before, new)
            current = current.parent
        if root.label:
            self.written[root.label] = None
        root.operand, root.version = new, root.version + 1
        cell.operand, cell.seen = (new if cell is root else operand), root.version
        for other in root.linked:
            if other is not root:
                other.doubt = (
                    f"cannot trace the write in place at {where}: whether '{other.operand}', "
                    "which is read later, is changed by it depends on how it lies in memory"
                )

    def _put_back(self, cell: _Cell, before: str, new: str) -> str:
        """`before` with the part that a view shows of it replaced by `new`."""
        assert cell.parent is not None
        kind = cell.parent.kind
        match cell.view:
            case Slice(dim, start, end, step):
                return self._apply(SliceScatter(dim, start, end, step), [before, new], kind)
            case Select(dim, index):
                return self._apply(SelectScatter(dim, index), [before, new], kind)
            case Permute(dims):
                order = tuple(dims.index(i) for i in range(len(dims)))
                return self._apply(Permute(order), [new], kind)
            case Reshape() | Squeeze() | Unsqueeze():
                return self._apply(Reshape(kind.shape), [new], kind)
            case Identity() | Contiguous() | Detach() | Cast():
                return new
        raise _no_view(cell)


def _part(op: Op, number: int, count: int) -> Op | None:
    """The view that one of `count` results is."""
    match op:
        case Split(sizes, dim):
            start: Any = sum(sizes[:number])
            return Slice(dim, start, start + sizes[number])
        case Unbind(dim):
            return Select(dim, number)
    return op if count == 1 else None


def _no_view(cell: _Cell) -> NetirError:
    name = cell.view.name if cell.view else "one of several views"
    return NetirError(
        f"cannot trace a write in place around '{cell.operand}', which is a view made by {name}",
        fix="write the model without it, for example with torch.where or torch.cat",
    )


_PASSING = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})


def viewed(node: fx.Node, target: torch._ops.OpOverload) -> tuple[fx.Node | None, list[fx.Node]]:
    """What the result of a call is a view of, and what it shares memory with perhaps."""
    storages = _storages(node)
    annotated = any(
        r.alias_info is not None and not r.alias_info.is_write for r in target._schema.returns
    )
    first = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
    if annotated and first is not None and storages & _storages(first):
        return first, []
    perhaps = [a for a in node.all_input_nodes if storages & _storages(a)]
    unchanged = annotated and first is not None and _dtype(first) == _dtype(node)
    if first is not None and (unchanged or target._opname in _PASSING) and first not in perhaps:
        perhaps.append(first)
    return None, perhaps


def written(node: fx.Node, target: torch._ops.OpOverload) -> fx.Node | None:
    """The argument that the call writes to, if it does."""
    if not target._schema.is_mutable:
        return None
    found = []
    for number, argument in enumerate(target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = node.args[number] if number < len(node.args) else node.kwargs.get(argument.name)
            found.append(given)
    if len(found) == 1 and isinstance(found[0], fx.Node):
        return found[0]
    raise NetirError(
        f"cannot trace {target}, which writes to several tensors", fix="write the model without it"
    )


def _storages(node: fx.Node) -> set[int]:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return {v.untyped_storage()._cdata for v in values if isinstance(v, Tensor)}


def _dtype(node: fx.Node) -> Any:
    return getattr(node.meta.get("val"), "dtype", None)
