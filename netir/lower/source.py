"""Python source for parts of a lowered module: expressions, calls, constructors, long lines.

Every name that is written is checked to be an identifier, every other text is quoted: a graph may
come from a file that nobody looked at.
"""

from __future__ import annotations

import inspect
import keyword
import math
import operator
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from netir.errors import NetirError

WIDTH = 100

_INFIX: Mapping[Any, str] = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/",
    operator.floordiv: "//", operator.mod: "%", operator.pow: "**", operator.matmul: "@",
    operator.and_: "&", operator.or_: "|", operator.xor: "^", operator.eq: "==",
    operator.ne: "!=", operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">=",
    operator.lshift: "<<", operator.rshift: ">>",
}  # fmt: skip
_PREFIX: Mapping[Any, str] = {operator.neg: "-", operator.invert: "~", operator.pos: "+"}
_HOMES = (("F", F), ("torch", torch), ("torch.linalg", torch.linalg),
          ("torch.special", torch.special), ("torch.fft", torch.fft))  # fmt: skip


class Code(str):
    """Text that is source already, such as the name of a variable."""


def literal(value: Any) -> str:
    """A value as source."""
    match value:
        case Code():
            return str(value)
        case float() if not math.isfinite(value):
            return f'float("{value}")'
        case None | bool() | int() | float() | complex():
            return repr(value)
        case str():
            return quoted(value)
        case torch.dtype() | torch.layout() | torch.memory_format():
            return repr(value)
        case torch.device():
            return f"torch.device({quoted(str(value))})"
        case slice():
            return f"slice({', '.join(map(literal, (value.start, value.stop, value.step)))})"
        case tuple():
            inner = ", ".join(map(literal, value))
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        case list():
            return f"[{', '.join(map(literal, value))}]"
        case dict():
            return f"{{{', '.join(f'{literal(k)}: {literal(v)}' for k, v in value.items())}}}"
    raise NetirError(
        f"cannot write a {type(value).__name__} as Python source", fix="lower with to_torch instead"
    )


def quoted(text: str) -> str:
    """A string literal in double quotes where that needs no escapes."""
    plain = text.isprintable() and text.isascii() and not set(text) & set("\"\\")
    return f'"{text}"' if plain else ascii(text)


def identifier(name: str) -> bool:
    """Whether a text can stand as a name."""
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name)


def attribute(owner: str, name: str) -> str:
    """An attribute of an expression."""
    return f"{owner}.{name}" if identifier(name) else f"getattr({owner}, {quoted(name)})"


def call(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """A call of a torch function or operator, with operators between their operands."""
    if target in _INFIX and len(args) == 2:
        left, right = (_operand(a) for a in args)
        return f"{left} {_INFIX[target]} {right}"
    if target in _PREFIX and len(args) == 1:
        return f"{_PREFIX[target]}{_operand(args[0])}"
    if target is operator.getitem:
        return f"{_operand(args[0])}[{_index(args[1])}]"
    if target is getattr and len(args) == 2:
        return attribute(literal(args[0]), args[1])
    return invoked(function_name(target), args, _unlike_defaults(target, kwargs))


def invoked(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """A call with positional and keyword arguments."""
    if not all(map(identifier, kwargs)):
        raise NetirError("cannot write a call with such keywords", fix="lower with to_torch")
    given = [*map(literal, args), *(f"{k}={literal(v)}" for k, v in kwargs.items())]
    return f"{name}({', '.join(given)})"


def _operand(value: Any) -> str:
    text = literal(value)
    simple = isinstance(value, Code) or not text.startswith("-")
    return text if simple else f"({text})"


def _index(value: Any) -> str:
    if isinstance(value, tuple) and value:
        return ", ".join(map(_subscript, value)) + ("," if len(value) == 1 else "")
    return _subscript(value)


def _subscript(value: Any) -> str:
    if not isinstance(value, slice):
        return "..." if value is ... else literal(value)
    start, stop, step = ("" if v is None else literal(v) for v in
                         (value.start, value.stop, value.step))  # fmt: skip
    return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"


def function_name(target: Any) -> str:
    """How a torch function is called in source."""
    if isinstance(target, torch._ops.OpOverload):
        parts = ("torch.ops", target.namespace, target._opname, target._overloadname)
        if all(map(identifier, parts[1:])):
            return ".".join(parts)
    name = getattr(target, "__name__", "")
    for home, module in _HOMES:
        if identifier(name) and getattr(module, name, None) is target:
            return f"{home}.{name}"
    found = _other_names().get(id(target))
    if found is None:
        raise NetirError(
            f"cannot write a call of {name or target} as Python source", fix=_instead(target)
        )
    return found


def _instead(target: Any) -> str:
    """What to do about something that only netir has."""
    if getattr(target, "__module__", "").startswith("netir.kernels."):
        return "make it a plain layer first, with the pass collapse"
    return "lower with to_torch instead"


@lru_cache(maxsize=1)
def _other_names() -> Mapping[int, str]:
    """Functions that torch knows under another name than their own."""
    found: dict[int, str] = {}
    for home, module in _HOMES:
        for name in dir(module):
            if not name.startswith("_") and callable(getattr(module, name)):
                found.setdefault(id(getattr(module, name)), f"{home}.{name}")
    found.setdefault(id(torch._weight_norm), "torch._weight_norm")
    return found


def _unlike_defaults(target: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        known = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return dict(kwargs)
    return {
        name: value
        for name, value in kwargs.items()
        if name not in known
        or isinstance(value, Code)
        or type(value) is not type(known[name].default)
        or value != known[name].default
    }


def constructor(module: nn.Module) -> str:
    """The call that makes a module like this one: attributes have the arguments' names."""
    kind = type(module)
    if getattr(nn, kind.__name__, None) is not kind:
        raise NetirError(
            f"cannot write a {kind.__name__} as Python source", fix=_instead(kind)
        )
    args: list[Any] = []
    named: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name in ("self", "device") or name[0] == "_" or not (
            name == "dtype" or hasattr(module, name)
        ):
            continue
        value = _setting(module, name)
        if parameter.default is inspect.Parameter.empty:
            args.append(value)
        elif value != parameter.default:
            named[name] = value
    return invoked(f"nn.{kind.__name__}", tuple(args), named)


def _setting(module: nn.Module, name: str) -> Any:
    if name == "dtype":
        tensor = next((p for p in module.parameters()), torch.empty(0))
        return None if tensor.dtype == torch.float32 else tensor.dtype
    value = getattr(module, name)
    if name == "bias":
        return value is not None
    if isinstance(value, tuple) and name != "normalized_shape" and len(set(value)) == 1:
        return value[0]
    if name == "normalized_shape" and len(value) == 1:
        return value[0]
    return value


_PIECE = re.compile(
    r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[\[({]|[\])}]|,\ |[^"'\[\](){},]+|,)"""
)


def wrapped(line: str) -> str:
    """A line of code, broken inside its brackets where it is too long."""
    if len(line) <= WIDTH:
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    rows, current, depth = [], "", 0
    chunk = ""
    for piece in _PIECE.findall(line.strip()):
        depth += (piece in "[({") - (piece in "])}") if len(piece) == 1 else 0
        chunk += piece
        opened = len(piece) == 1 and piece in "[({" and depth == 1
        if (piece == ", " and depth) or opened:
            if current and len(current) + len(chunk.rstrip()) > WIDTH - len(indent):
                rows.append(current.rstrip())
                current = ""
            current, chunk = current + chunk, ""
    if len(current) + len(chunk) > WIDTH - len(indent) and current:
        rows.append(current.rstrip())
        current = ""
    rows.append(current + chunk)
    return ("\n" + indent).join([indent[4:] + rows[0], *rows[1:]])
