"""A graph in float64, so that contracts can be held to 1e-10 whatever a model is stored in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from netir.ir import Graph, Node, Param, TensorType

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def doubled(graph: Graph) -> Graph:
    """The same graph with every floating tensor and cast in float64, types inferred anew."""
    params = {name: _param(param) for name, param in graph.params.items()}
    types = {name: _type(kind) for name, kind in graph.inputs.items()}
    inputs = dict(types)
    types |= {f"@{name}": param.type for name, param in params.items()}
    nodes = {}
    for name, node in graph.nodes.items():
        nodes[name] = _node(node, types)
        types |= zip(nodes[name].results, nodes[name].types, strict=True)
    return graph.replace(inputs=inputs, nodes=nodes, params=params)


def doubled_tensors(tree: Any) -> Any:
    """Inputs with every floating tensor in float64."""
    return pytree.tree_map(lambda leaf: leaf.double() if _is_float(leaf) else leaf, tree)


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dtype in _FLOATS


def _type(kind: TensorType) -> TensorType:
    return TensorType(torch.float64, kind.shape) if kind.dtype in _FLOATS else kind


def _param(param: Param) -> Param:
    return replace(param, data=param.data.double()) if _is_float(param.data) else param


def _node(node: Node, types: Mapping[str, TensorType]) -> Node:
    wide = {
        f.name: torch.float64 for f in fields(node.op) if getattr(node.op, f.name) in _FLOATS
    }
    op = replace(node.op, **wide) if wide else node.op
    found = op.infer(*(None if o is None else types[o] for o in node.operands))
    if found is None:
        made = tuple(map(_type, node.types))
    else:
        made = (found,) if isinstance(found, TensorType) else tuple(found)
    return replace(node, op=op, types=made)
