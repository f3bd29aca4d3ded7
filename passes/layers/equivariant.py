"""What the passes over equivariant layers share: which nodes they are, and how weights move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from netir.errors import NetirError
from netir.ir import Graph, Node
from netir.kernels.groups import SQUARE, Group, group
from netir.moves import Move, Whole
from netir.ops.group import FieldNorm, GroupConv, GroupPool
from netir.passes.merge import names_one
from netir.rewrite import Left
from netir.where import chosen_nodes

EQUIVARIANT = (GroupConv, FieldNorm, GroupPool)


def expect_group(name: str, of: str) -> Group:
    """The group of that name, or what is wrong with it."""
    try:
        return group(name)
    except (ValueError, TypeError) as error:
        known = ", ".join(SQUARE)
        raise NetirError(f"{of} knows no group {name!r}", fix=f"use one of {known}") from error


def equivariant_nodes(graph: Graph, where: str) -> Iterator[Node | Left]:
    """The equivariant layers that `where` selects, and other nodes that it names outright."""
    for node in chosen_nodes(graph, where).values():
        if isinstance(node.op, EQUIVARIANT):
            shared = shared_params(graph, node)
            yield Left(node.name, shared) if shared else node
        elif names_one(where):
            yield Left(node.name, f"{node.op.name} is no equivariant layer")


def left_as_named(node: Node, where: str) -> Iterator[Left]:
    """That an equivariant layer has no group to change, if `where` names it outright."""
    if names_one(where):
        yield Left(node.name, f"{node.op.name} has no group of its own to change")


def shared_params(graph: Graph, node: Node) -> str:
    """Why the parameters of a node are not its own; empty if they are."""
    for operand in node.operands[1:]:
        if operand is None:
            continue
        if operand[0] != "@":
            return f"it reads {operand}, which is computed"
        if len(graph.users[operand]) > 1 or operand in graph.outputs:
            return f"its parameter {operand[1:]} is shared"
    return ""


def not_single(node: Node) -> str:
    """Why a group convolution is not one of a single group; empty if it is."""
    op = node.op
    if not isinstance(op, GroupConv):
        return ""
    mixed = len(op.groups) > 1 or any(o is not None for o in op.parts(node.operands)[2:])
    return "it is a mixture, whose groups stay: change the group before mixing" if mixed else ""


def torn(graph: Graph, node: Node, kernel: int, stride: int, padding: int) -> str:
    """Why windows do not lie symmetrically on the map that a node reads; empty if they do."""
    sizes = graph.type_of(node.operands[0] or "").shape[2:]
    rest = {s + 2 * padding - kernel for s in sizes if isinstance(s, int)}
    if stride > 1 and (len(rest) != 1 or any(r % stride for r in rest)):
        return f"a stride of {stride} does not read a map of {sizes} symmetrically"
    return ""


def ambient_of(op: GroupConv) -> str:
    """The name of the ambient group, also where the op leaves it to its groups."""
    from netir.ops.group import plan_of

    return plan_of(op.groups, 1, op.lifting, op.ambient).ambient


def whole(function: Callable[[Tensor, int], Tensor], axes: int) -> Move:
    """A move of all axes of a tensor at once, to one of so many axes."""
    return Move((Whole(function), *[None] * (axes - 1)))


def with_group(op: GroupConv, name: str) -> GroupConv:
    """The same layer with another group, inside the same ambient one."""
    return replace(op, groups=(name,), ambient=ambient_of(op))


__all__ = ["EQUIVARIANT", "ambient_of", "equivariant_nodes", "expect_group", "left_as_named",
           "not_single", "shared_params", "torn", "whole", "with_group"]  # fmt: skip
