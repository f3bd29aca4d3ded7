"""netir: a graph-IR compiler whose programs are neural networks."""

from __future__ import annotations

from importlib.metadata import version

from netir.errors import NetirError, NetirWarning
from netir.ir import Graph

__version__ = version("netir")
__all__ = ["Graph", "NetirError", "NetirWarning"]
