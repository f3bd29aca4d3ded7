"""Builds the nodes of a graph out of what operators ask for, and computes what is constant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from netir.dims import Dim, Sym
from netir.frontends.onnx import names
from netir.frontends.onnx.value import Value, checked_type, constant, objects
from netir.ir import Node, Param, TensorType
from netir.ops import Op
from netir.ops.create import Arange
from netir.ops.index import IndexSelect
from netir.ops.join import Cat, Split
from netir.ops.linear import Einsum
from netir.ops.move import Flip
from netir.ops.pointwise import Cast
from netir.ops.shape import Permute, Reshape, Squeeze, Unsqueeze
from netir.ops.slices import Select, Slice

_MOVES = (Cast, Cat, Flip, IndexSelect, Permute, Reshape, Select, Slice, Split, Squeeze, Unsqueeze)
"""What may be computed ahead on a trained parameter: it stays one, with its numbers elsewhere."""
_WHOLE = (Cast, Permute, Reshape, Squeeze, Unsqueeze)
"""Of these, what keeps all numbers, so that the result can have the parameter's name."""
_MOST = 2**27
_WORK = 2**30


class Builder:
    """The graph so far."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.params: dict[str, Param] = {}
        self.names: set[str] = set()
        self.kept: set[str] = set()
        """Parameters that are called what the file calls them."""
        self._room = _MOST
        self._last: Counter[str] = Counter()

    def fresh(self, wanted: str) -> str:
        """A name that nothing has."""
        found = wanted
        while found in self.names:
            self._last[wanted] += 1
            found = f"{wanted}_{self._last[wanted] + 1}"
        self.names.add(found)
        return found

    def emit(
        self, op: Op, operands: Sequence[Value | None], name: str, scope: str
    ) -> tuple[Value, ...]:
        """The results of an op: of a new node, or computed here if all is constant."""
        found = op.infer(*(None if o is None else o.type for o in operands))
        assert found is not None
        types = (found,) if isinstance(found, TensorType) else tuple(found)
        for kind in types:
            checked_type(kind)
        folded = self._folded(op, operands, types)
        if folded is not None:
            return folded
        given = tuple(None if o is None else self.operand(o, name) for o in operands)
        node = Node(self.fresh(name), op, given, types, scope)
        self.names.update(node.results)
        self.nodes[node.name] = node
        pairs = zip(node.results, types, strict=True)
        return tuple(Value(kind, operand=result, name=result) for result, kind in pairs)

    def operand(self, value: Value, near: str = "") -> str:
        """The operand that a value is; what is constant becomes a parameter."""
        if value.operand is None:
            if value.data is not None:
                value.operand = self._param(value, near)
            else:
                value.operand = self._sized(value, near or "size")
        return value.operand

    def _param(self, value: Value, near: str) -> str:
        wanted = names.parameter(value.name) if value.name else f"{near or 'constant'}_constant"
        name = self.fresh(wanted)
        if name == value.name:
            self.kept.add(name)
        assert value.data is not None
        trained = value.trained and bool(torch.isfinite(value.data).all())
        self.params[name] = Param(value.data, "param" if trained else "const", trained)
        return f"@{name}"

    def _sized(self, value: Value, name: str) -> str:
        """Open sizes as a tensor that is made when the network runs."""
        assert value.sizes is not None
        parts = [self._number(size, name) for size in value.sizes.reshape(-1)]
        found = parts[0] if len(parts) == 1 else self.emit(Cat(0), parts, name, "")[0]
        if value.rank != 1:
            (found,) = self.emit(Reshape(value.shape), [found], name, "")
        if value.dtype != torch.int64:
            (found,) = self.emit(Cast(value.dtype), [found], name, "")
        return self.operand(found)

    def _number(self, size: Dim, name: str) -> Value:
        if isinstance(size, int):
            return constant(torch.tensor([size]))
        return self.emit(Arange(size, size + 1, 1, 1, torch.int64), [], name, "")[0]

    def _folded(
        self, op: Op, operands: Sequence[Value | None], types: tuple[TensorType, ...]
    ) -> tuple[Value, ...] | None:
        """The results where they depend on no input; parameters are at most moved."""
        given = [o for o in operands if o is not None]
        if any(o.data is None for o in given) or isinstance(op, Einsum) or (
            not all(map(_closed, types)) or _open(op)
        ):
            return None
        trained = [o for o in given if o.trained]
        if trained and (not isinstance(op, _MOVES) or any(o.shared for o in trained)):
            return None
        count = sum(_bytes(kind) for kind in types)
        work = op.macs(types[0], *(None if o is None else o.type for o in operands))
        if not isinstance(work, int) or work > _WORK:
            return None
        if count > max(self._room, sum(_bytes(o.type) for o in trained)):
            return None
        if not trained:
            self._room -= count
        made = _computed(op, [None if o is None else o.data for o in operands])
        name = given[0].name if len(given) == 1 and isinstance(op, _WHOLE) else ""
        return tuple(constant(data, name, bool(trained)) for data in made)


def _computed(op: Op, operands: Sequence[Tensor | None]) -> list[Tensor]:
    with torch.no_grad():
        found = op.to_torch(*operands)
    many = [found] if isinstance(found, Tensor) else list(found)
    return [t.clone(memory_format=torch.contiguous_format) for t in many]


def _closed(kind: TensorType) -> bool:
    return all(isinstance(d, int) for d in kind.shape)


def _bytes(kind: TensorType) -> int:
    count = kind.dtype.itemsize
    for size in kind.shape:
        assert isinstance(size, int)
        count *= size
    return count


def _open(op: Op) -> bool:
    """Whether attributes of an op hold sizes that are not known yet."""
    for name in op.__dataclass_fields__:
        value = getattr(op, name)
        items = value if isinstance(value, tuple) else (value,)
        if any(isinstance(item, Sym) for item in items):
            return True
    return False


def sizes_of(value: Value) -> tuple[Dim, ...] | None:
    """The sizes that a vector holds, where they are known."""
    known = value.known()
    if known is None or known.ndim > 1:
        return None
    return tuple(objects(known.reshape(-1)))

