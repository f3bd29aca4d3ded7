"""What keeps new units from being noticed: nothing reads them yet, or why something must.

A new unit is silent if every weight that reads it is zero. Where two activations meet in a sum, as
queries and keys do, one of the two must be zero itself. Where a norm, a softmax or a plain sum
takes in all units, a new one cannot be silent.
"""

from __future__ import annotations

import torch

from netir.ir import Graph, Node
from netir.layouts import Atom, atoms
from netir.ops.pointwise import Pointwise
from netir.passes.growth.hidden import Hidden


def silenced(layer: Hidden) -> frozenset[str] | str:
    """The parameters whose new rows must be zero, or what would notice new units anyway."""
    found: set[str] = set()
    for use in layer.space.uses:
        node = layer.graph.nodes[use.node]
        if use.kind == "contract":
            if not any(_summed(layer, node, *slot) for slot in use.slots):
                return f"the weight with which {use.node} reads it makes it too"
            continue
        if use.kind != "pair" or len(use.slots) < 2:
            return f"{use.node} takes in every index ({use.kind}), new ones too"
        one, *others = (_behind(layer.graph, node.operands[slot], layer.space.atom)
                        for slot, _ in use.slots)  # fmt: skip
        if one is None or None in others:
            return f"what {use.node} reads is not zero where its weights are"
        second = set().union(*(o for o in others if o is not None))
        if one & second or not second:
            return f"both sides of {use.node} come from the same weights"
        found |= second
    return frozenset(found)


def _summed(layer: Hidden, node: Node, slot: int, axis: int) -> bool:
    """Whether a slot is a weight whose new columns can be zero."""
    operand = node.operands[slot]
    return operand is not None and layer.graph.analysis.summed.get(
        (operand.removeprefix("@"), axis), frozenset()
    ) >= {layer.space.atom}


def _behind(graph: Graph, operand: str | None, atom: Atom) -> set[str] | None:
    """The parameters that give an operand the indices of a space.

    None if it may be more than zero where they are.
    """
    found: set[str] = set()
    seen: set[str] = set()
    pending = [operand]
    while pending:
        name = pending.pop()
        if name is None or name in seen or not _has(graph, name, atom):
            continue
        seen.add(name)
        if name[0] == "@":
            found.add(name[1:])
        elif name in graph.producers:
            node = graph.producers[name]
            if not node.op.linear() and not _zero_at_zero(node):
                return None
            pending.extend(node.operands)
    return found


def _zero_at_zero(node: Node) -> bool:
    op = node.op
    return isinstance(op, Pointwise) and len(node.operands) == 1 and (
        float(op.to_torch(torch.zeros(()))) == 0
    )


def _has(graph: Graph, operand: str, atom: Atom) -> bool:
    return any(atom in set(atoms(layout)) for layout in graph.analysis.shape(operand))


__all__ = ["silenced"]
