"""A pass that breaks its contract, to see whether that is noticed."""

from dataclasses import dataclass, replace
from typing import ClassVar

from netir.basis import Contract
from netir.calibration import Calibration
from netir.ir import Graph
from netir.moves import Moves
from netir.rewrite import Pass, Result


@dataclass(frozen=True)
class Liar(Pass):
    """Says that it changes nothing, and doubles a weight."""

    name: ClassVar[str] = "liar"
    preserves: ClassVar[Contract] = Contract.EXACT

    def apply(self, graph: Graph, calibration: Calibration | None = None) -> Result:
        weight = graph.params["head.weight"]
        params = {**graph.params, "head.weight": replace(weight, data=2 * weight.data)}
        after = graph.replace(params=params)
        return self.finished(graph, after, Moves(), Contract.EXACT, ["head"], ())
