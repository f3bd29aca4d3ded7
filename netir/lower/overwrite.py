"""Writes in place, kept where the model had them: they save the memory of a result, and time."""

from __future__ import annotations

import operator
from typing import Any

import torch.nn.functional as F
from torch import fx

from netir.ir import Graph, Node

_OPTIONAL = frozenset({F.relu, F.relu6, F.hardtanh, F.leaky_relu, F.elu, F.celu, F.selu, F.silu,
                       F.mish, F.hardswish, F.hardsigmoid})  # fmt: skip
"""The functions that write in place if they are told to."""


def overwrites(graph: Graph, node: Node) -> bool:
    """Whether nothing but this node needs its first operand, and its result fits there."""
    first = node.operands[0] if node.operands else None
    source = graph.nodes.get(first or "")
    return (
        source is not None
        and source.op.overwritable
        and source.types == node.types
        and len(graph.users[source.name]) == 1
        and source.name not in graph.outputs
    )


def write_over(made: Any, operand: fx.Proxy) -> None:
    """Have the call that was written write over the operand, if that is what it reads first."""
    if not isinstance(made, fx.Proxy) or made.node.args[:1] != (operand.node,):
        return  # as where an op gives its operand back
    call = made.node
    if call.target in _OPTIONAL:
        call.update_kwarg("inplace", True)
    elif call.target is operator.add:
        call.op, call.target = "call_method", "add_"
