"""What a text may say about an op: attributes of the right types, as many operands as it takes,
and no torch operator that could do more than compute. A text is data; reading one runs nothing.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Union, get_args, get_origin

import torch

from netir.dims import Sym
from netir.errors import NetirError
from netir.ir import TensorType
from netir.ops import Op
from netir.ops.opaque import Opaque, Slot, operator_called

UNIONS = (Union, types.UnionType)

_PLAIN_STRINGS = frozenset(
    {
        "activation", "approximate", "driver", "equation", "indexing", "interpolation", "mode",
        "norm", "ord", "p", "pad_mode", "padding", "padding_mode", "padding_side", "reduce",
        "rounding_mode", "side", "UPLO",
    }
)  # fmt: skip
"""Arguments of torch operators that are strings and choose among a few ways to compute."""

_MAKERS = frozenset(
    {"arange", "empty", "eye", "full", "linspace", "normal", "ones", "rand", "randint", "randn",
     "randperm", "zeros"}
)  # fmt: skip
"""Torch operators that make a tensor out of numbers."""

_NOT_OPERANDS = ("self", "device", "training")


@cache
def attributes(cls: type[Any]) -> Mapping[str, Any]:
    """The fields of a dataclass, such as the attributes of an op, and what each may be."""
    hints = typing.get_type_hints(cls, localns={"Sym": Sym})
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value is of an attribute's type: a size is a whole number."""
    origin = get_origin(wanted)
    if wanted is Any:
        return True
    if origin in UNIONS:
        return any(fits(value, choice) for choice in get_args(wanted))
    if origin is typing.Literal:
        return value in get_args(wanted)
    if origin is tuple:
        return isinstance(value, tuple) and _fits_tuple(value, get_args(wanted))
    if wanted in (None, type(None)):
        return value is None
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, (int, Sym)) and not isinstance(value, bool)
    return isinstance(wanted, type) and isinstance(value, wanted)


def _fits_tuple(value: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    if len(wanted) == 2 and wanted[1] is Ellipsis:
        return all(fits(item, wanted[0]) for item in value)
    return len(value) == len(wanted) and all(map(fits, value, wanted))


def describe(wanted: Any) -> str:
    """An attribute's type in words."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in UNIONS:
        return " or ".join(dict.fromkeys(map(describe, args)))
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"a tuple of ({describe(args[0])})"
        return f"({', '.join(map(describe, args))})"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a string",
             Sym: "a size", torch.dtype: "an element type", type(None): "None"}  # fmt: skip
    return words.get(wanted, str(wanted))


@cache
def arity(cls: type[Op]) -> tuple[int, int | None, tuple[bool, ...]]:
    """The least and the largest number of operands (None: any), and which may be left out."""
    least = 0
    most: int | None = 0
    optional: list[bool] = []
    for parameter in inspect.signature(cls.to_torch).parameters.values():
        if parameter.name in _NOT_OPERANDS:
            continue
        absent = parameter.default is not parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = None
        elif most is not None:
            most += 1
            least += not absent
        optional.append(absent or "None" in str(parameter.annotation))
    return least, most, tuple(optional)


def check_operands(op: Op, operands: tuple[str | None, ...]) -> None:
    """Refuse a node with too many or too few operands, or without one that its op needs."""
    least, most, optional = arity(type(op))  # type: ignore[arg-type]
    count = len(operands)
    if count < least or (most is not None and count > most):
        wanted = f"{least} or more" if most is None else f"{least} to {most}"
        wanted = str(least) if least == most else wanted
        ending, verb = "" if wanted == "1" else "s", "is" if count == 1 else "are"
        raise NetirError(f"{op.name} takes {wanted} operand{ending}, {count} {verb} given")
    for position, operand in enumerate(operands):
        if operand is None and not optional[min(position, len(optional) - 1)]:
            raise NetirError(f"{op.name} needs operand {position}, which is left out")


def check_axes(op: Op, types: Iterable[TensorType]) -> None:
    """Refuse an axis that no operand and no result has."""
    rank = max((kind.rank for kind in types), default=0)
    most = max(rank, 1)
    for name in ("dim", "dims"):
        given = getattr(op, name, ())
        for axis in given if isinstance(given, tuple) else (given,):
            if axis is not None and not (isinstance(axis, int) and -most <= axis < most):
                raise NetirError(f"{op.name} names axis {axis} of tensors of {rank} dimensions")


def check_opaque(op: Opaque, count: int, allow_ops: Collection[str]) -> None:
    """Refuse a call that could do more than compute tensors from tensors.

    `allow_ops` names further operators, `namespace.operator.overload` or a whole namespace.
    """
    parts = op.target.split(".")
    plain = (p in _DUNDERS or (p.isidentifier() and p[:2] != "__") for p in parts)
    if len(parts) != 3 or not all(plain):
        raise NetirError(
            f"'{op.target[:60]}' names no torch operator", fix="write namespace.operator.overload"
        )
    if parts[0] != "aten" and op.target not in allow_ops and parts[0] not in allow_ops:
        raise NetirError(
            f"the operator '{op.target[:60]}' is not torch's own",
            fix=f"if you trust it, import its package and pass allow_ops=['{op.target[:60]}']",
        )
    found = operator_called(op.target)
    if not isinstance(found, torch._ops.OpOverload):
        raise NetirError(f"'{op.target[:60]}' is no torch operator")
    _check_schema(op.target, found._schema)
    slots = sorted(slot.operand for slot in _slots((op.arguments, op.keywords)))
    if slots != list(range(count)):
        raise NetirError(
            f"the arguments of '{op.target}' do not use each of its {count} operands once",
            fix="write $0 where the first operand stands, $1 for the second",
        )


_DUNDERS = frozenset({"__and__", "__or__", "__xor__", "__lshift__", "__rshift__"})


def _check_schema(target: str, schema: Any) -> None:
    kinds = [(a.name, str(a.type)) for a in schema.arguments]
    results = [str(r.type) for r in schema.returns]
    why = ""
    if schema.is_mutable:
        why = "writes to its arguments"
    elif not results or not all("Tensor" in r for r in results):
        why = "does not give tensors"
    elif any("str" in kind and name not in _PLAIN_STRINGS for name, kind in kinds):
        why = "takes a string that could name a file"
    elif not any("Tensor" in kind for _, kind in kinds) and target.split(".")[1] not in _MAKERS:
        why = "takes no tensor"
    if why:
        raise NetirError(f"the operator '{target}' {why}", fix="a graph holds pure functions only")


def _slots(value: Any) -> Iterator[Slot]:
    if isinstance(value, Slot):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _slots(item)
