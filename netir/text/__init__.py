"""The text form of a graph: `print_graph` and `parse_graph`, which gives the printed graph back.

Weights are not part of the text; `netir.store` keeps them beside it.
"""

from __future__ import annotations

from netir.text.parser import parse_graph
from netir.text.printer import print_graph

__all__ = ["parse_graph", "print_graph"]
