"""Which axis of a value holds its channels, and which layer made them.

The shape alone cannot tell: (8, 16, 4) may be tokens of width 4 or 16 channels of 4 positions. The
answer is in the axis rule of the nearest layer before the value that made one of its axes: an axis
of that layer's weight which is neither summed over nor an extent.
"""

from __future__ import annotations

from collections import deque

from netir.ir import Graph, Node
from netir.layouts import Atom, Layout, atoms
from netir.site import EXTENT


class Channels:
    """The channel axes of a graph's values."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._fed = set(graph.inputs)
        for node in graph.nodes.values():
            if any(value in self._fed for value in node.values):
                self._fed.update(node.results)

    def find(self, value: str) -> tuple[int, Node] | None:
        """The channel axis of a value and the layer that made it, if both can be told."""
        wanted = [_atoms(layout) for layout in self._graph.analysis.shape(value)]
        queue, seen = deque([value]), {value}
        while queue and any(wanted):
            node = self._graph.producers.get(queue.popleft())
            if node is None:
                continue
            made = self._made(node)
            axes = [axis for axis, own in enumerate(wanted) if own & made]
            if len(axes) == 1:
                return axes[0], node
            before = [v for v in dict.fromkeys(node.values) if v in self._fed and v not in seen]
            queue.extend(before)
            seen.update(before)
        return None

    def _made(self, node: Node) -> set[Atom]:
        """The spaces that a node's weights bring into its result."""
        analysis = self._graph.analysis
        uses = [u for u in analysis.uses_at.get(node.name, ()) if u.kind in ("contract", "pair")]
        summed = {slot for use in uses for slot in use.slots}
        found: set[Atom] = set()
        for position, operand in enumerate(node.operands):
            if operand is None or operand in self._fed:
                continue
            shape = analysis.shape(operand)
            own = [s for axis, s in enumerate(shape) if (position, axis) not in summed]
            kept = [layout for layout in own if _atoms(layout)]
            if len(kept) < len(shape):
                found.update(*map(_atoms, kept))
        return found


def _atoms(layout: Layout) -> set[Atom]:
    return {atom for atom in atoms(layout) if atom.reason is not EXTENT}


__all__ = ["Channels"]
