"""Connections: the trained weights of a network entry by entry, and the masks that lie over them.

A masked weight is a product `weight * mask` in the graph, with a mask of zeros and ones that is
not trained: what is masked gets no gradient and stays out of the network as long as it trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from netir.ir import Graph, Node
from netir.ops.group import GroupConv
from netir.rewrite import Left
from netir.where import chosen_nodes

_RECURRENT: Mapping[str, int] = MappingProxyType(
    {
        "gru": 2, "rnn_tanh": 2, "rnn_relu": 2, "lstm": 3,
        "gru_cell": 2, "rnn_tanh_cell": 2, "rnn_relu_cell": 2, "lstm_cell": 3,
    }
)  # fmt: skip
_FIRST: Mapping[str, int] = MappingProxyType(
    {
        "linear": 1, "conv": 1, "conv_transpose": 1, "bilinear": 2, "matmul": 0, "addmm": 1,
        "einsum": 0, **_RECURRENT,
    }
)  # fmt: skip
"""The first operand that can be a weight, by op; of these, matrices and higher are weights."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A trained weight, the nodes that multiply by it, and its product with a mask if it has one.

    `value` is what those nodes read: the parameter itself, or the product.
    """

    name: str
    value: str
    readers: tuple[Node, ...]
    mask: str = ""

    def kept(self, graph: Graph) -> Tensor:
        """Which connections are there."""
        if self.mask:
            return graph.params[self.mask].data != 0
        return torch.ones_like(graph.params[self.name].data, dtype=torch.bool)

    def axis(self, graph: Graph) -> tuple[int, int] | str:
        """The axis along which it sums over inputs, and the groups on it; or why there is none."""
        found = set()
        for node in self.readers:
            if node.op.name in _RECURRENT:
                found.add((1, 1))
                continue
            slots = [i for i, o in enumerate(node.operands) if o == self.value]
            groups = getattr(node.op, "groups", 1) if node.op.name == "conv_transpose" else 1
            for use in graph.analysis.uses_at.get(node.name, ()):
                if use.kind in ("contract", "pair"):
                    found |= {(axis, groups) for slot, axis in use.slots if slot in slots}
        return found.pop() if len(found) == 1 else "it does not sum over one axis of inputs"


def slots(node: Node) -> range:
    """The operands of a node that can be weights."""
    count = len(node.operands)
    if isinstance(node.op, GroupConv):
        return range(1, 1 + len(node.op.groups))
    return range(_FIRST.get(node.op.name, count), count)


def weights(graph: Graph, where: str) -> Iterator[Weight | Left]:
    """The weights that `where` names, by their node, module or name, each once."""
    seen: set[str] = set()
    for node in chosen_nodes(graph, where).values():
        values = [node.operands[slot] for slot in slots(node)]
        for value in [node.name] if _masking(graph, node) else values:
            name, mask = _parts(graph, value)
            if value is None or not name or name in seen:
                continue
            seen.add(name)
            why = _shared(graph, name, value)
            if why:
                yield Left(name, why)
            else:
                readers = tuple(user for user, _ in graph.users[value])
                yield Weight(name, value, readers, mask)


def _parts(graph: Graph, value: str | None) -> tuple[str, str]:
    """The trained parameter and the mask that a weight consists of; empty where there is none."""
    if value is None:
        return "", ""
    maker = graph.producers.get(value)
    if maker is not None:
        return _masking(graph, maker) or ("", "")
    param = graph.params.get(value[1:]) if value[0] == "@" else None
    trained = param is not None and param.kind == "param" and param.data.is_floating_point()
    return (value[1:], "") if param is not None and trained and param.data.dim() > 1 else ("", "")


def _masking(graph: Graph, node: Node) -> tuple[str, str] | None:
    """The weight and the mask that a node multiplies, if it does that."""
    if node.op.name != "mul" or len(node.params) != 2:
        return None
    weight, mask = node.params
    if graph.params[weight].kind != "param":
        weight, mask = mask, weight
    one, other = graph.params[weight], graph.params[mask]
    if one.kind != "param" or other.kind == "param" or one.data.shape != other.data.shape:
        return None
    binary = bool(((other.data == 0) | (other.data == 1)).all())
    return (weight, mask) if binary and one.data.dim() > 1 else None


def _shared(graph: Graph, name: str, value: str) -> str:
    """Why a weight cannot get a mask of its own; empty if it can."""
    operands = {f"@{name}", value}
    if operands & set(graph.outputs):
        return "the network returns it"
    for node, slot in graph.users.get(value, ()):
        if slot not in slots(node):
            return f"'{node.name}' reads it too, and not as a weight"
    if value != f"@{name}" and any(len(graph.users[f"@{p}"]) > 1 for p in _parts(graph, value)):
        return "it or its mask is read elsewhere too"
    if not bool(graph.params[name].data.isfinite().all()):
        return "it is not finite"
    return ""


__all__ = ["Weight", "slots", "weights"]
