"""Calls of torch operators that no op declares: torch runs them as they are, nothing yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from netir.errors import NetirError
from netir.ops.base import Op


@dataclass(frozen=True)
class Opaque(Op):
    """A torch operator called as the model called it; every axis that it touches is frozen.

    `arguments` and `keywords` are as in the call, with `Slot(i)` where operand i stands.
    """

    name = "opaque"
    target: str = ""
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    def layouts(self, site: Any) -> Any:
        return self.wall(site, f"netir does not know the axes of {self.target}")

    def to_torch(self, *operands: Any) -> Any:
        keywords = {name: _filled(value, operands) for name, value in self.keywords}
        return operator_called(self.target)(*_filled(self.arguments, operands), **keywords)


@dataclass(frozen=True)
class Slot:
    """The place of an operand among the arguments of an opaque call."""

    operand: int


def _filled(value: Any, operands: tuple[Any, ...]) -> Any:
    match value:
        case Slot(operand):
            return operands[operand]
        case tuple():
            return tuple(_filled(v, operands) for v in value)
    return value


def operator_called(target: str) -> Any:
    """The torch operator of the name `namespace.operator.overload`."""
    namespace, _, rest = target.partition(".")
    name, _, overload = rest.partition(".")
    try:
        return getattr(getattr(getattr(torch.ops, namespace), name), overload)
    except AttributeError:
        raise NetirError(
            f"torch has no operator '{target}'",
            fix=f"import the package that registers '{namespace}' operators first",
        ) from None
