"""Rules of `Fold` that only reconnect: what does nothing, what is done twice, what nobody reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from netir.edit import Edit
from netir.ir import Graph, Node
from netir.ops.base import Op
from netir.ops.shape import Permute
from netir.passes.folding.rules import Nodes, exactly, steady, written
from netir.rewrite import Left, Site


def identities(graph: Graph, chosen: Nodes) -> Iterator[Site | Left]:
    """What gives back what it reads: `x * 1`, a reshape to the same shape, a transpose of one."""
    fixed = {n for n, p in graph.params.items() if p.kind != "param"} - written(graph)
    same: dict[str, str] = {}
    for node in chosen.values():
        stand = _stand(graph, node, fixed)
        if stand is not None:
            stand = same.get(stand, stand)
            if node.name in graph.outputs and stand not in graph.producers:
                continue  # what a network returns stays apart from what it was given
            same[node.name] = stand
            yield exactly(node.name, _instead, old=node.name, new=stand)
            continue
        joined = _joined(graph, node)
        if joined is not None:
            yield exactly(node.name, _joint, name=node.name, found=joined)


def _instead(edit: Edit, old: str, new: str) -> None:
    edit.replace(old, new)


def _joint(edit: Edit, name: str, found: tuple[Op, str]) -> None:
    op, operand = found
    edit.set_op(name, op)
    edit.set_operands(name, [operand])


def _stand(graph: Graph, node: Node, fixed: set[str]) -> str | None:
    """The operand that a node gives back unchanged, if there is one."""
    if len(node.types) != 1 or not node.operands or node.operands[0] is None:
        return None
    neutral = _NEUTRAL.get(node.op.name)
    if neutral is not None and len(node.operands) == 2:
        return _other(graph, node, fixed, neutral)
    first = node.operands[0]
    idle = _IDLE.get(node.op.name)
    same_type = graph.type_of(first) == node.types[0]
    if idle is not None and same_type and idle(node.op, len(node.operands)):
        strided = node.op.name == "contiguous" and _reads_memory(graph, node.name)
        return None if strided else first
    return _unturned(graph, node)


def _other(graph: Graph, node: Node, fixed: set[str], neutral: float) -> str | None:
    """The operand beside a constant that adds 0 or multiplies by 1 everywhere."""
    sides = ((0, 1), (1, 0)) if node.op.name in ("add", "mul") else ((0, 1),)
    for kept, gone in sides:
        left, right = node.operands[kept], node.operands[gone]
        if left is None or right is None or right[0] != "@" or right[1:] not in fixed:
            continue
        scaled = kept == 1 and getattr(node.op, "alpha", 1) != 1
        if scaled or graph.type_of(left) != node.types[0]:
            continue
        if bool((graph.params[right[1:]].data == neutral).all()):
            return left
    return None


def _unturned(graph: Graph, node: Node) -> str | None:
    """What was there before an axis was put in that this node takes out again."""
    inner = graph.producers.get(node.operands[0] or "")
    if node.op.name != "squeeze" or inner is None or inner.op.name != "unsqueeze":
        return None
    back = getattr(node.op, "dims", ()) == (getattr(inner.op, "dim", None),)
    return inner.operands[0] if back else None


def _joined(graph: Graph, node: Node) -> tuple[Op, str] | None:
    """Two permutations as one, or the latter of two reshapes for both."""
    inner = graph.producers.get(node.operands[0] or "") if node.operands else None
    if inner is None or inner.op.name != node.op.name or inner.operands[0] is None:
        return None
    if node.op.name == "reshape":
        return node.op, inner.operands[0]
    if isinstance(node.op, Permute) and isinstance(inner.op, Permute):
        return Permute(tuple(inner.op.dims[d] for d in node.op.dims)), inner.operands[0]
    return None


def _reads_memory(graph: Graph, value: str) -> bool:
    """Whether an operator that netir does not know may rely on how a value lies in memory."""
    return any(user.op.name == "opaque" for user, _ in graph.users.get(value, ()))


def _always(op: Any, count: int) -> bool:
    return True


def _number(wanted: float) -> Callable[[Any, int], bool]:
    """Arithmetic with a number that changes nothing."""

    def idle(op: Any, count: int) -> bool:
        rounds = getattr(op, "rounding_mode", None) is not None
        return isinstance(op.other, (int, float)) and op.other == wanted and not rounds

    return idle


def _undropped(op: Any, count: int) -> bool:
    return bool(op.p == 0)


_IDLE: Mapping[str, Callable[[Any, int], bool]] = MappingProxyType(
    {
        "identity": _always, "contiguous": _always, "reshape": _always, "expand": _always,
        "cast": _always, "squeeze": _always, "repeat": _always, "repeat_interleave": _always,
        "split": _always,
        "dropout": _undropped, "feature_dropout": _undropped, "alpha_dropout": _undropped,
        "feature_alpha_dropout": _undropped,
        "mul": _number(1), "div": _number(1), "pow": _number(1), "add": _number(0),
        "sub": _number(0),
        "pad": lambda op, count: all(isinstance(p, int) and p == 0 for p in op.pad),
        "slice": lambda op, count: op.start == 0 and op.step == 1,
        "permute": lambda op, count: op.dims == tuple(range(len(op.dims))),
        "flip": lambda op, count: not op.dims,
        "roll": lambda op, count: all(isinstance(s, int) and s == 0 for s in op.shifts),
        "cat": lambda op, count: count == 1,
        "clamp": lambda op, count: op.min is None and op.max is None,
    }
)  # fmt: skip
"""When an op whose result has the type of its first operand gives back that operand."""

_NEUTRAL: Mapping[str, float] = MappingProxyType({"mul": 1, "add": 0, "sub": 0})


def common(graph: Graph, chosen: Nodes) -> Iterator[Site | Left]:
    """What is computed once already: the same op on the same operands."""
    first: dict[Any, Node] = {}
    same: dict[str, str] = {}
    for node in graph.nodes.values():
        if not steady(node.op):
            continue
        operands = tuple(o and same.get(o, o) for o in node.operands)
        twin = first.setdefault((repr(node.op), operands, node.types), node)
        if twin is not node and node.name in chosen:
            pairs = dict(zip(node.results, twin.results, strict=True))
            same |= pairs
            yield exactly(node.name, _merge, pairs=pairs)


def _merge(edit: Edit, pairs: Mapping[str, str]) -> None:
    for old, new in pairs.items():
        edit.replace(old, new)


def dead(graph: Graph, chosen: Nodes) -> Iterator[Site | Left]:
    """Nodes that nothing returned depends on, and constants that nothing reads.

    A call of an operator that netir does not know may be there for an effect: it stays.
    """
    wanted = set(graph.outputs)
    idle = []
    for node in reversed(tuple(graph.nodes.values())):
        if node.op.name == "opaque" or any(result in wanted for result in node.results):
            wanted.update(node.values)
        elif node.name in chosen:
            idle.append(node.name)
    for name in reversed(idle):
        yield exactly(name, _nothing)
    for name, param in graph.params.items() if len(chosen) == len(graph.nodes) else ():
        if param.kind == "const" and not _read(graph, name):
            yield exactly(f"@{name}", _remove, name=name)


def _read(graph: Graph, param: str) -> bool:
    operand = f"@{param}"
    return operand in graph.users or operand in graph.outputs or param in graph.aliases.values()


def _nothing(edit: Edit) -> None:
    """What nothing reads goes by itself when the edit is swept."""


def _remove(edit: Edit, name: str) -> None:
    edit.remove_param(name)


__all__ = ["common", "dead", "identities"]
