"""Running a graph node by node: the reference for what a graph means. Slow and plain on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from netir.dims import Sym, evaluate
from netir.errors import NetirError, blaming, first_line
from netir.ir import Graph, Node, Tree, expect_graph, leaves, map_tree
from netir.ops.base import Op


def run(graph: Graph, *args: Any, **kwargs: Any) -> Any:
    """Call the graph as the model would be called, in eval mode."""
    expect_graph(graph)
    values = values_of(graph, input_values(graph, args, kwargs))
    return map_tree(graph.output, lambda leaf: value_of(graph, values, leaf.name))


def values_of(
    graph: Graph,
    inputs: Mapping[str, Tensor],
    *,
    keep: Callable[[str], bool] | None = None,
    dtype: torch.dtype | None = None,
    read: Callable[[Node, list[Any]], list[Any]] | None = None,
) -> dict[str, Tensor]:
    """Every value that is an output or that `keep` asks for, floats as `dtype` if one is given.

    `read` gives what a node reads in place of its operands.
    """
    env = symbol_values(graph, inputs)
    device = device_of(graph, inputs)
    values = {name: _cast(tensor, dtype) for name, tensor in inputs.items()}
    params: dict[str, Tensor] = {}
    last = last_reads(graph)
    kept = set(graph.outputs)
    for node in graph.nodes.values():
        operands = [
            None if o is None else _operand(graph, values, params, o, dtype) for o in node.operands
        ]
        if read is not None:
            operands = read(node, operands)
        values.update(results_of(node, operands, env, dtype, device))
        for name in last.get(node.name, ()):
            if name not in kept and not (keep and keep(name)):
                values.pop(name, None)
    return values


def results_of(
    node: Node,
    operands: list[Any],
    env: Mapping[str, int],
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """The results of one node; `device` is for those that make tensors out of numbers."""
    op = bound(node.op, env)
    if dtype is not None and getattr(op, "dtype", None) in _FLOATS:
        op = replace(op, dtype=dtype)  # type: ignore[call-arg]
    with blaming(lambda error: _failed(node, operands, error)):
        found = op.to_torch(*operands, **({"device": device} if op.placed else {}))
    found = (found,) if isinstance(found, Tensor) else tuple(found)
    # What makes floats of whole numbers makes them in torch's default type.
    return {r: _cast(each, dtype) for r, each in zip(node.results, found, strict=True)}


def _failed(node: Node, operands: list[Any], error: Exception) -> NetirError:
    """What torch refuses to compute, at which node and with which tensors."""
    shapes = ", ".join(str(tuple(o.shape)) if isinstance(o, Tensor) else "_" for o in operands)
    return NetirError(
        f"'{node.name}' cannot be computed: {first_line(error)}",
        f"{node.op.name} of shapes {shapes}",
        "pass inputs that the network accepts",
    )


_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def bound(op: Op, env: Mapping[str, Any]) -> Op:
    """The op with symbolic sizes in its attributes replaced by what they are now."""
    changes = {}
    for name in op.__dataclass_fields__:
        value = getattr(op, name)
        if isinstance(value, Sym):
            changes[name] = evaluate(value, env)
        elif isinstance(value, tuple) and any(isinstance(v, (Sym, tuple)) for v in value):
            changes[name] = _bound_tuple(value, env)
    return replace(op, **changes) if changes else op


def _bound_tuple(value: tuple[Any, ...], env: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        evaluate(v, env) if isinstance(v, Sym) else
        _bound_tuple(v, env) if isinstance(v, tuple) else v
        for v in value
    )  # fmt: skip


def device_of(graph: Graph, inputs: Mapping[str, Tensor]) -> torch.device | None:
    """Where the graph runs: where its inputs are, or its parameters if it has none."""
    tensors = (*inputs.values(), *(p.data for p in graph.params.values()))
    return tensors[0].device if tensors else None


def symbol_values(graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes that these inputs give to the graph's symbols."""
    env: dict[str, int] = {}
    for name, kind in graph.inputs.items():
        shape = inputs[name].shape
        if len(shape) != kind.rank:
            raise NetirError(
                f"input '{name}' has {len(shape)} dimensions, the graph reads {kind.rank}",
                fix=f"pass a tensor {kind}",
            )
        for size, dim in zip(shape, kind.shape, strict=True):
            if isinstance(dim, Sym) and len(dim.terms) == 1 and str(dim) not in env:
                env[str(dim)] = size
        for size, dim in zip(shape, kind.shape, strict=True):
            if isinstance(dim, int) and size != dim:
                raise NetirError(
                    f"input '{name}' has shape {tuple(shape)}, the graph reads {kind}",
                    fix="trace the model with this size, or with the axis dynamic",
                )
    return env


def input_values(
    graph: Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The tensors of a call, by the names of the graph's inputs."""
    names = list(graph.arguments)
    if len(args) > len(names):
        raise NetirError(
            f"{len(args)} arguments for a graph that takes {len(names)}", fix=", ".join(names)
        )
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    missing = [n for n in names if n not in given and any(leaves(graph.arguments[n]))]
    if missing:
        raise NetirError(f"argument '{missing[0]}' is missing", fix=f"pass {', '.join(names)}")
    found: dict[str, Tensor] = {}
    for name in names:
        _collect(graph.arguments[name], given.get(name), name, found)
    return found


def _collect(tree: Tree, value: Any, where: str, found: dict[str, Tensor]) -> None:
    from netir.ir import Record, Ref

    match tree:
        case Ref(name):
            if not isinstance(value, Tensor):
                raise NetirError(
                    f"argument '{where}' is a {type(value).__name__}, not a tensor",
                    fix="pass tensors where the traced call had tensors",
                )
            found[name] = value
        case Record(fields=parts):
            for key, part in parts.items():
                inner = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
                _collect(part, inner, f"{where}.{key}", found)
        case dict():
            for key, part in tree.items():
                inner = value.get(key) if isinstance(value, Mapping) else None
                _collect(part, inner, f"{where}[{key!r}]", found)
        case tuple() | list():
            values = list(value) if isinstance(value, (tuple, list)) else []
            for number, part in enumerate(tree):
                inner = values[number] if number < len(values) else None
                _collect(part, inner, f"{where}[{number}]", found)


def _operand(
    graph: Graph,
    values: dict[str, Tensor],
    params: dict[str, Tensor],
    operand: str,
    dtype: torch.dtype | None,
) -> Tensor:
    if operand[0] != "@":
        return values[operand]
    if operand not in params:
        params[operand] = _cast(graph.params[operand[1:]].data, dtype)
    return params[operand]


def value_of(graph: Graph, values: Mapping[str, Tensor], operand: str) -> Tensor:
    """What an operand stands for: a value, or a parameter of the graph."""
    return graph.params[operand[1:]].data if operand[0] == "@" else values[operand]


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None or tensor.dtype not in _FLOATS else tensor.to(dtype)


def behind(graph: Graph, values: Iterable[str]) -> dict[str, Node]:
    """The nodes that some values depend on, in order."""
    wanted = set(values)
    found = []
    for node in reversed(list(graph.nodes.values())):
        if not wanted.isdisjoint(node.results):
            wanted.update(node.values)
            found.append(node)
    return {node.name: node for node in reversed(found)}


def last_reads(graph: Graph) -> dict[str, list[str]]:
    """By node: the values of which nothing is read after it has run."""
    last: dict[str, str] = {}
    for node in graph.nodes.values():
        for name in (*node.results, *node.values):
            last[name] = node.name
    found: dict[str, list[str]] = {}
    for name, node_name in last.items():
        found.setdefault(node_name, []).append(name)
    return found
