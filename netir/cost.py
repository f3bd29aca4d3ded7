"""What a network costs: parameters, multiply-accumulates and bytes of activations.

MACs are counted as papers count them: products of matrices and convolutions only. Bytes are those
of every result that a node gives, views included; not what a run keeps at one time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from netir.dims import Dim, evaluate, symbols
from netir.errors import NetirError
from netir.ir import Graph, Node, TensorType, expect_graph


@dataclass(frozen=True)
class NodeCost:
    """What one node costs; parameters that several nodes read are counted for each of them."""

    parameters: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class Cost:
    """What a graph costs, for one batch of the given sizes.

    `parameters` are the trained numbers that some node reads, tied ones counted once; `stored`
    are all numbers that the graph holds, with buffers and constants.
    """

    parameters: int
    stored: int
    parameter_bytes: int
    macs: int
    activation_bytes: int
    nodes: Mapping[str, NodeCost]
    sizes: Mapping[str, int]


def cost(graph: Graph, sizes: Mapping[str, int] | None = None) -> Cost:
    """Count what a graph costs. The size `batch` is 1 unless `sizes` says otherwise.

    Every other symbolic size that the network has must be given.
    """
    expect_graph(graph)
    env = _sizes(graph, sizes or {})
    nodes = {node.name: _node_cost(graph, node, env) for node in graph.nodes.values()}
    read = {*graph.users, *graph.outputs}
    used = {name for name in graph.params if f"@{name}" in read}
    return Cost(
        parameters=_trained(graph, used),
        stored=sum(param.data.numel() for param in graph.params.values()),
        parameter_bytes=sum(_bytes(param.type, {}) for param in graph.params.values()),
        macs=sum(node.macs for node in nodes.values()),
        activation_bytes=sum(node.activation_bytes for node in nodes.values()),
        nodes=nodes,
        sizes=env,
    )


def _node_cost(graph: Graph, node: Node, env: Mapping[str, int]) -> NodeCost:
    operands = [None if o is None else graph.type_of(o) for o in node.operands]
    return NodeCost(
        parameters=_trained(graph, dict.fromkeys(node.params)),
        macs=_number(node.op.macs(node.types[0], *operands), env),
        activation_bytes=sum(_bytes(kind, env) for kind in node.types),
    )


def _trained(graph: Graph, names: Iterable[str]) -> int:
    params = (graph.params[name] for name in names)
    return sum(p.data.numel() for p in params if p.kind == "param" and p.trainable)


def _bytes(kind: TensorType, env: Mapping[str, int]) -> int:
    return prod(_number(size, env) for size in kind.shape) * kind.dtype.itemsize


def _number(size: Dim, env: Mapping[str, int]) -> int:
    return size if isinstance(size, int) else int(evaluate(size, env))


def _sizes(graph: Graph, given: Mapping[str, int]) -> dict[str, int]:
    known = set(graph.symbols)
    for node in graph.nodes.values():
        for kind in node.types:
            for size in kind.shape:
                if not isinstance(size, int):
                    known |= symbols(size)
    extra = sorted(set(given) - known)
    if extra:
        raise NetirError(
            f"the network has no size '{extra[0]}'", fix=f"its sizes: {', '.join(sorted(known))}"
        )
    missing = sorted(known - {"batch"} - set(given))
    if missing:
        raise NetirError(
            f"the cost depends on the size '{missing[0]}'",
            fix="give " + ", ".join(f"{name}=…" for name in missing),
        )
    return {name: given.get(name, 1) for name in sorted(known)}
