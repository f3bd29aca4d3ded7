"""Symbolic sizes of torch, read into netir's, under names that people can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch.utils._sympy.symbol import SymT, symbol_is_type

from netir.dims import Dim, maximum, minimum, product, symbol
from netir.errors import NetirError


def _power(base: Dim, exponent: Dim) -> Dim:
    if not isinstance(exponent, int) or exponent < 0:
        raise NetirError("a size has a power that is no number", fix="open fewer axes")
    return product([base] * exponent)


_FUNCTIONS: Mapping[str, Callable[..., Dim]] = {
    "Add": lambda *args: reduce(lambda a, b: a + b, args),
    "Mul": lambda *args: product(args),
    "Pow": _power,
    "FloorDiv": lambda a, b: a // b,
    "CleanDiv": lambda a, b: a // b,
    "Mod": lambda a, b: a % b,
    "PythonMod": lambda a, b: a % b,
    "Max": maximum,
    "Min": minimum,
}


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

    def _read(self, expression: Any) -> Dim:
        if expression.is_Integer:
            return int(expression)
        if expression.is_Symbol:
            if symbol_is_type(expression, SymT.UNBACKED_INT):
                raise NetirError(
                    "the model has a size that depends on the values of its inputs",
                    fix="write it without nonzero, masked_select, item or the like",
                )
            return symbol(self.names.setdefault(expression.name, expression.name))
        function = _FUNCTIONS.get(type(expression).__name__)
        if function is None:
            raise NetirError(f"cannot read the size {expression}", fix="open fewer axes")
        return function(*map(self._read, expression.args))
