"""Two networks on the same data, side by side, node by node: one before and one after a rewrite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from netir.evaluate import device_of, last_reads, results_of, symbol_values
from netir.ir import Graph, Node, Param


class Pair:
    """One batch on its way through both networks, which have the same nodes.

    `nodes` and `params` are those of the network after, and are read anew at every step, so that
    what is still to come can be changed meanwhile. A value is kept until its last reader has run.
    Everything is computed in float32, or in float64 if either network or data is.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Mapping[str, Node],
        params: Mapping[str, Param],
        inputs: Mapping[str, Tensor],
    ) -> None:
        self._graph, self._nodes, self._params = graph, nodes, params
        self._env, self._device = symbol_values(graph, inputs), device_of(graph, inputs)
        self._last = last_reads(graph)
        tensors = (*inputs.values(), *(p.data for p in graph.params.values()))
        wide = any(t.dtype == torch.float64 for t in tensors)
        self._dtype = torch.float64 if wide else torch.float32
        self.before = {name: self._cast(tensor) for name, tensor in inputs.items()}
        self.after = dict(self.before)

    def run_before(self, node: Node) -> None:
        """Let a node run in the network before."""
        self.before.update(self._results(node, self.before, self._graph.params))

    def given_after(self, node: Node) -> dict[str, Tensor]:
        """What the node gives in the network after, as that is now."""
        return self._results(self._nodes[node.name], self.after, self._params)

    def run_after(self, node: Node) -> None:
        """Let it run there, unless all is the same as before; then forget what has served."""
        same = (
            self._nodes[node.name] is node
            and all(self._params[p] is self._graph.params[p] for p in node.params)
            and all(self.before[v] is self.after[v] for v in node.values)
        )
        if same:
            self.after.update({name: self.before[name] for name in node.results})
        else:
            self.after.update(self.given_after(node))
        for name in self._last.get(node.name, ()):
            del self.before[name], self.after[name]

    def _results(
        self, node: Node, values: Mapping[str, Tensor], params: Mapping[str, Param]
    ) -> dict[str, Tensor]:
        operands = [
            None if o is None else values[o] if o[0] != "@" else self._cast(params[o[1:]].data)
            for o in node.operands
        ]
        return results_of(node, operands, self._env, self._dtype, self._device)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor


__all__ = ["Pair"]
