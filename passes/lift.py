"""Lift: an ordinary convolutional network becomes an equivariant one, the nearest there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from netir.basis import Contract
from netir.calibration import Calibration
from netir.dims import Dim
from netir.edit import Edit
from netir.errors import NetirError
from netir.ir import Graph, Node
from netir.kernels.compact import constrained, constrained_bias
from netir.kernels.groups import Group, group
from netir.ops.base import per_axis
from netir.ops.conv import Conv
from netir.ops.group import FieldNorm, GroupConv, GroupPool
from netir.ops.linear import Linear
from netir.ops.norm import BatchNorm
from netir.passes.layers.equivariant import expect_group, shared_params, torn, whole
from netir.rewrite import EditPass, Left, Site
from netir.where import chosen_nodes

IMAGE, FIELDS, FREE = "image", "fields", "free"
"""What a value is: moved pixel by pixel; fields of the group; nothing that has to move."""


@dataclass(frozen=True)
class Lift(EditPass):
    """Make a trained convolutional network equivariant to a group, changing it as little as may be.

    The channels of every convolution are taken as fields of `to` in their order, and its filter
    becomes the nearest one that is equivariant, by the mean over the group; batch norms share
    their numbers over each field, and a group pool before the first linear layer makes what it
    reads invariant. The network changes: train it further. It is lifted as a whole from its input
    to that linear layer, or left, with what stands in the way: a width that the group's order
    does not divide, a stride that reads maps from one side, positions that are flattened.
    """

    name: ClassVar[str] = "lift"
    preserves: ClassVar[Contract] = Contract.CHANGED
    to: str = "D4"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not expect_group(self.to, self.name).exact:
            raise NetirError(
                f"lift cannot use {self.to}, which moves pixels between pixels",
                fix="use D4 or one of its subgroups",
            )

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        chosen = chosen_nodes(graph, self.where)
        first = next((n for n in graph.nodes.values() if isinstance(n.op, Conv)), None)
        if first is None:
            return
        chain = _Chain(graph, group(self.to))
        for node in graph.nodes.values():
            why = chain.add(node, node.name in chosen)
            if why:
                yield Left(node.name, why)
                return
        returned = next((o for o in graph.outputs if chain.kinds.get(o) == FIELDS), None)
        if returned is not None:
            yield Left(returned, "it is returned, and no linear layer makes it invariant before")
        elif chain.lifted:
            yield Site(first.name, chain)

    def rewrite(self, edit: Edit, site: Site) -> None:
        chain: _Chain = site.found
        for node in chain.lifted:
            match node.op:
                case Conv():
                    self._conv(edit, node, node.op, chain.kinds[node.values[0]] == IMAGE)
                case BatchNorm():
                    self._norm(edit, node, node.op)
                case Linear():
                    self._linear(edit, node)

    def _conv(self, edit: Edit, node: Node, op: Conv, lifting: bool) -> None:
        to, elements = self.to, group(self.to).order
        weight, *biases = node.params
        inner = 1 if lifting else elements

        def filters(tensor: Tensor, power: int) -> Tensor:
            apart: Tensor = tensor.unflatten(1, (inner, -1)).unflatten(0, (elements, -1))
            compact = apart.permute(0, 1, 4, 5, 2, 3).contiguous()
            return constrained(compact, "C1", to, to, lifting) / float(elements ** (power - 1))

        def shifts(tensor: Tensor, power: int) -> Tensor:
            rows: Tensor = tensor.unflatten(0, (elements, -1))
            return constrained_bias(rows, "C1", to, to) / float(elements ** (power - 1))

        for name, function, axes in [(weight, filters, 6), *((b, shifts, 2) for b in biases)]:
            move = whole(function, axes)
            edit.set_param(name, move.apply(edit.before.params[name].data), move)
        stride, padding = (per_axis(v, 2)[0] for v in (op.stride, op.padding))  # type: ignore[arg-type]
        edit.set_op(node.name, GroupConv((to,), to, lifting, stride, int(padding), bool(biases)))

    def _norm(self, edit: Edit, node: Node, op: BatchNorm) -> None:
        elements = group(self.to).order
        weight, bias, mean, variance = node.params
        old = {name: edit.before.params[name].data for name in node.params}

        def shared(tensor: Tensor, power: int) -> Tensor:
            rows: Tensor = tensor.unflatten(0, (elements, -1))
            return rows.mean(0) / float(elements ** (power - 1))

        move = whole(shared, 1)
        for name in (weight, bias, mean):
            edit.set_param(name, move.apply(old[name]), move)
        apart = old[mean] - shared(old[mean], 1).repeat(elements)
        edit.set_param(variance, shared(old[variance] + apart.square(), 1), move)
        assert op.momentum is not None
        edit.set_op(node.name, FieldNorm(self.to, op.momentum, op.eps))
        counter = f"{weight.removesuffix('weight')}num_batches_tracked"
        if counter in edit.before.params and not edit.before.users.get(f"@{counter}"):
            edit.remove_param(counter)

    def _linear(self, edit: Edit, node: Node) -> None:
        elements, weight = group(self.to).order, node.params[0]
        pooled = edit.insert(
            edit.fresh(f"{node.name}.pool"), GroupPool(self.to, self.to), (node.operands[0],),
            before=node.name,
        )  # fmt: skip
        move = whole(lambda t, _: t.unflatten(1, (elements, -1)).sum(1), 2)
        edit.set_param(weight, move.apply(edit.before.params[weight].data), move)
        edit.set_operands(node.name, (pooled, *node.operands[1:]))


_POINTWISE = frozenset({"netir.ops.pointwise", "netir.ops.activation", "netir.ops.arithmetic"})
_NOT_POINTWISE = frozenset({"glu", "prelu"})
_POOLS = frozenset({"avg_pool", "max_pool"})


@dataclass
class _Chain:
    """A walk from the input on: what each value is, and the layers that are to be lifted."""

    graph: Graph
    to: Group
    kinds: dict[str, str] = field(default_factory=dict)
    lifted: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, kind in self.graph.inputs.items():
            self.kinds[name] = IMAGE if kind.rank == 4 else FREE

    def add(self, node: Node, chosen: bool) -> str:
        """Take a node in; gives why the network cannot be lifted because of it, if so."""
        read = {self.kinds[value] for value in node.values}
        kind = FREE if read <= {FREE} else ""
        why = ""
        if not kind and len(read) > 1:
            why = f"{node.op.name} reads {' and '.join(sorted(read))}"
        elif not kind:
            kind = read.pop()
            why = self._layer(node, kind, chosen)
            kind = self._gives(node, kind)
        for result in node.results:
            self.kinds[result] = kind
        return why

    def _layer(self, node: Node, kind: str, chosen: bool) -> str:
        op = node.op
        if isinstance(op, Conv | BatchNorm | Linear):
            if kind == IMAGE and not isinstance(op, Conv):
                return f"{op.name} reads the image itself"
            if not chosen:
                return "it is not among the layers to be lifted, which go together"
            why = shared_params(self.graph, node) or self._fits(node)
            if not why:
                self.lifted.append(node)
            return why
        return self._passes(node)

    def _fits(self, node: Node) -> str:
        op, order = node.op, self.to.order
        if isinstance(op, Conv):
            return self._conv(node, op)
        if isinstance(op, BatchNorm):
            if len(node.params) < 4 or op.momentum is None:
                return "it has no weights, no running statistics, or averages all"
        elif self.graph.type_of(node.operands[0] or "").rank != 2:
            return "a linear layer that reads maps"
        width = self.graph.type_of(node.operands[0] or "").shape[1]
        return "" if isinstance(width, int) and width % order == 0 else _undivided(width, order)

    def _conv(self, node: Node, op: Conv) -> str:
        weight = self.graph.type_of(node.operands[1] or "").shape
        made, read, *kernel = weight
        if op.rank != 2 or op.groups != 1 or len(set(kernel)) > 1:
            return "only a square convolution of maps in one group of channels can be lifted"
        if isinstance(op.padding, str):
            return f"its padding is '{op.padding}', and only one in pixels can be lifted"
        settings = [per_axis(v, 2) for v in (op.stride, op.padding, op.dilation)]
        if any(len(set(v)) > 1 for v in settings) or settings[2][0] != 1:
            return "its stride, padding or dilation differs from axis to axis, or it is dilated"
        order, lifting = self.to.order, self.kinds[node.values[0]] == IMAGE
        for width in (made,) if lifting else (made, read):
            if not isinstance(width, int) or width % order:
                return _undivided(width, order)
        return torn(self.graph, node, int(str(kernel[0])), settings[0][0], settings[1][0])

    def _passes(self, node: Node) -> str:
        """Why an operation without weights does not commute with the group; empty if it does."""
        op = node.op
        if node.params:
            return f"{op.name} has a parameter that is no layer's"
        if type(op).__module__ in _POINTWISE and op.name not in _NOT_POINTWISE:
            return ""
        if op.name in _POOLS:
            return self._pool(node)
        size = self.graph.type_of(node.operands[0] or "").shape
        whole_map = op.name == "adaptive_avg_pool" and set(op.output_size) == {1}  # type: ignore[attr-defined]
        flat = op.name == "reshape" and len(size) == 4 and set(size[2:]) == {1}
        averaged = op.name == "mean" and tuple(op.dims) == (2, 3)  # type: ignore[attr-defined]
        if whole_map or averaged or (flat and node.types[0].rank == 2):
            return ""
        return f"{op.name} does not commute with turns, as far as is known"

    def _pool(self, node: Node) -> str:
        op: Any = node.op
        dilation = getattr(op, "dilation", 1)
        given = (op.kernel_size, op.stride or op.kernel_size, op.padding, dilation)
        settings = [per_axis(v, 2) for v in given]
        if op.rank != 2 or any(len(set(v)) > 1 for v in settings) or op.ceil_mode:
            return "its windows are not square"
        kernel, stride, padding, apart = (v[0] for v in settings)
        return torn(self.graph, node, apart * (kernel - 1) + 1, stride, padding)

    def _gives(self, node: Node, kind: str) -> str:
        if isinstance(node.op, Conv):
            return FIELDS
        return FREE if isinstance(node.op, Linear) else kind


def _undivided(width: Dim, order: int) -> str:
    return f"its {width} channels are no fields of {order} elements"


__all__ = ["Lift"]
