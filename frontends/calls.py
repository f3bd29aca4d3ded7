"""One call of a torch operator, as an op is told of it, and as an opaque node where none is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from netir.errors import NetirError
from netir.frontends.sizes import SizeReader
from netir.ir import TensorType
from netir.ops.base import AtenCall, Op
from netir.ops.opaque import Opaque, Slot, operator_called


@dataclass(frozen=True)
class _Argument:
    """An argument in an operator's schema."""

    name: str
    default: Any
    tensor: bool


@cache
def _arguments(target: torch._ops.OpOverload) -> tuple[_Argument, ...]:
    return tuple(
        _Argument(a.name, a.default_value, "Tensor" in str(a.type))
        for a in target._schema.arguments
    )


@cache
def short(target: torch._ops.OpOverload) -> str:
    """Operator and overload, as `add.Tensor`."""
    return f"{target._opname}.{target._overloadname}"


class CallReader:
    """Takes calls apart; `operand` in each method says what a torch value is by now."""

    def __init__(self, sizes: SizeReader) -> None:
        self._sizes = sizes

    def type(self, value: Tensor) -> TensorType:
        """The type of a value of the exported program."""
        return TensorType(value.dtype, tuple(self._sizes.read(s, None) for s in value.shape))

    def results(self, node: fx.Node) -> tuple[TensorType, ...]:
        """The types of everything that a call gives."""
        value = node.meta["val"]
        values = value if isinstance(value, (list, tuple)) else [value]
        return tuple(self.type(v) for v in values if isinstance(v, Tensor))

    def describe(
        self, node: fx.Node, target: torch._ops.OpOverload, operand: Any, types: Any
    ) -> AtenCall | None:
        """The call with tensors and other arguments apart; None if some argument is neither."""
        operands: list[str | None] = []
        options: dict[str, Any] = {}
        arguments = _arguments(target)
        given: dict[str, Any] = {
            a.name: value for a, value in zip(arguments, node.args, strict=False)
        }
        given.update(node.kwargs)
        for argument in arguments:
            value = given.get(argument.name)
            if holds_tensor(value) or (value is None and argument.tensor):
                many = value if isinstance(value, (list, tuple)) else [value]
                operands.extend(None if v is None else operand(v) for v in many)
            elif value is not None:
                plain = self.plain(value)
                if plain is UNKNOWN:
                    return None
                if plain is not None and not _default(plain, argument.default):
                    options[argument.name] = plain
        while operands and operands[-1] is None:
            operands.pop()
        known = [types[o] for o in operands if o is not None]
        return AtenCall(short(target), operands, known, options, self.results(node))

    def plain(self, value: Any) -> Any:
        """An argument that is no tensor as plain data; sizes as dims, lists as tuples."""
        match value:
            case None | bool() | int() | float() | str() | torch.dtype():
                return value
            case fx.Node():
                return self._sizes.read(value.meta.get("val"), UNKNOWN)
            case torch.SymInt():
                return self._sizes.read(value, UNKNOWN)
            case list() | tuple():
                items = tuple(self.plain(v) for v in value)
                return UNKNOWN if any(i is UNKNOWN for i in items) else items
            case torch.device() | torch.layout() | torch.memory_format():
                return None
        return UNKNOWN

    def opaque(
        self, node: fx.Node, target: torch._ops.OpOverload, operand: Any
    ) -> tuple[Op, list[str | None]]:
        """The call as it is, without a write in place."""
        operands: list[str | None] = []

        def slot(value: Any) -> Any:
            if isinstance(value, fx.Node) and is_tensor(value):
                operands.append(operand(value))
                return Slot(len(operands) - 1)
            if isinstance(value, (list, tuple)):
                return tuple(slot(v) for v in value)
            found = self.plain(value)
            if found is UNKNOWN:
                raise NetirError(
                    f"cannot trace an argument of {target}: {value}",
                    where=scope(node) or node.name,
                    fix="replace the call by one with tensors, numbers and sizes as arguments",
                )
            return found

        arguments = tuple(slot(v) for v in node.args)
        keywords = tuple((k, slot(v)) for k, v in sorted(node.kwargs.items()))
        return Opaque(_functional(node, target), arguments, keywords), operands


UNKNOWN: Any = object()


def scope(node: fx.Node) -> str:
    """The path of the module that a call comes from."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path: str = next(reversed(stack.values()))[0]
    return path.split("@")[0]


def is_tensor(node: fx.Node) -> bool:
    """Whether a torch value is one tensor."""
    return isinstance(node.meta.get("val"), Tensor)


def gives_tensors(node: fx.Node) -> bool:
    """Whether a torch value is a tensor, or has one among several."""
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return any(isinstance(v, Tensor) for v in value)
    return isinstance(value, Tensor)


def holds_tensor(value: Any) -> bool:
    """Whether an argument is a tensor, or a list with one."""
    if isinstance(value, (list, tuple)):
        return any(holds_tensor(v) for v in value)
    return isinstance(value, fx.Node) and is_tensor(value)


def _default(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _functional(node: fx.Node, target: torch._ops.OpOverload) -> str:
    """The name of the operator that does the same without writing in place."""
    if not target._schema.is_mutable:
        return f"{target.namespace}.{short(target)}"
    name = f"{target.namespace}.{target._opname.rstrip('_')}.{target._overloadname}"
    try:
        operator_called(name)
    except NetirError as error:
        raise NetirError(
            f"cannot trace {target}: torch has no form of it that does not write in place",
            where=scope(node) or node.name,
            fix="write the model with operators that return a new tensor",
        ) from error
    return name
