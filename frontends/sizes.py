"""Symbolic sizes of torch, read into netir's, under names that people can read."""

from __future__ import annotations

from typing import Any

import torch

from netir.dims import Dim, maximum, minimum, symbol
from netir.errors import NetirError


class SizeReader:
    """Turns torch's symbolic integers into dims; `names` maps torch's symbols to ours."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def name(self, value: Any, wanted: str) -> None:
        """Call a symbol `wanted`, unless it has a name already."""
        if not isinstance(value, torch.SymInt):
            return
        expression = value.node.expr
        if expression.is_Symbol and expression.name not in self.names:
            taken = set(self.names.values())
            number, name = 2, wanted
            while name in taken:
                name, number = f"{wanted}{number}", number + 1
            self.names[expression.name] = name

    def read(self, value: Any, default: Any) -> Any:
        """The dim of an int or a symbolic int; `default` for anything else."""
        if isinstance(value, int):
            return value
        if isinstance(value, torch.SymInt):
            return self._read(value.node.expr)
        return default

    def _read(self, e: Any) -> Dim:
        kind = type(e).__name__
        if e.is_Integer:
            return int(e)
        if e.is_Symbol:
            return symbol(self.names.setdefault(e.name, e.name))
        args = [self._read(a) for a in e.args]
        if kind == "Add":
            return sum(args[1:], args[0])
        if kind == "Mul":
            total = args[0]
            for a in args[1:]:
                total = total * a
            return total
        if kind == "Pow" and isinstance(args[1], int) and args[1] >= 0:
            total = 1
            for _ in range(args[1]):
                total = args[0] * total
            return total
        if kind in ("FloorDiv", "CleanDiv"):
            return args[0] // args[1]
        if kind in ("Mod", "PythonMod"):
            return args[0] % args[1]
        if kind == "Max":
            return maximum(*args)
        if kind == "Min":
            return minimum(*args)
        raise NetirError(
            f"cannot read the size {e}", fix="trace with fewer symbolic dimensions"
        )
