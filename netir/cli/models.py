"""What the command line calls a MODEL, found and traced; and inputs for it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netir.builtin import BUILTINS
from netir.dims import Sym, evaluate, symbols
from netir.errors import NetirError, nearest
from netir.ir import Graph, TensorType, map_tree
from netir.store import load
from netir.text.lexer import Tokens
from netir.text.values import read_type

_FORMS = "name a .netir file, a factory pkg.module:function, or builtin:residual"


def find(
    model: str,
    inputs: list[str] | None = None,
    sizes: list[str] | None = None,
    allow_ops: list[str] | None = None,
) -> Graph:
    """The graph that MODEL names."""
    if model.startswith("builtin:"):
        name = model.removeprefix("builtin:")
        if name not in BUILTINS:
            raise NetirError(f"there is no built-in network '{name}'", fix=nearest(name, BUILTINS))
        return _traced(BUILTINS[name](), model, inputs, sizes)
    if ":" in model and not Path(model).exists():
        return _traced(_made(model), model, inputs, sizes)
    if inputs:
        raise NetirError("--input is for Python models only", where=model, fix="leave it out")
    if Path(model).suffix != ".netir" and not Path(model).exists():
        raise NetirError(f"'{model}' is no model", fix=_FORMS)
    return load(model, allow_ops=allow_ops or ())


def _made(model: str) -> Any:
    """What the factory gives; the current folder can be imported from."""
    module_name, _, attribute = model.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise NetirError(
            f"there is no Python module '{error.name}'", where=model,
            fix="run netir in the folder that it lies in, or install it",
        ) from None  # fmt: skip
    finally:
        sys.path.remove(str(Path.cwd()))
    factory = getattr(module, attribute, None)
    if not callable(factory):
        known = [n for n, v in vars(module).items() if callable(v) and n[0] != "_"]
        raise NetirError(
            f"module '{module_name}' has no function '{attribute}'", fix=nearest(attribute, known)
        )
    try:
        signature(factory).bind()
    except (TypeError, ValueError):
        raise NetirError(
            f"'{attribute}' cannot be called without arguments", where=model,
            fix="name a function that takes none and returns a module and its inputs",
        ) from None  # fmt: skip
    return factory()


def _traced(
    made: Any, where: str, inputs: list[str] | None, sizes: list[str] | None
) -> Graph:
    from netir.frontends import trace

    module, args, kwargs = _parts(made, where)
    if args is None:
        types = dict(map(_input, inputs or ()))
        if not types:
            raise NetirError(
                "the factory gives no example inputs", where,
                "return (module, args), or add --input 'x=f32[batch, 3, 32, 32]'",
            )  # fmt: skip
        known = {"batch": 2, **numbers(sizes)}
        kwargs = {name: random_tensor(kind, known) for name, kind in types.items()}
        return trace(module, (), kwargs, dynamic=_dynamic(types))
    if inputs:
        raise NetirError("the factory gives example inputs already", where, "leave --input out")
    return trace(module, args, kwargs)


def _parts(made: Any, where: str) -> tuple[nn.Module, tuple[Any, ...] | None, dict[str, Any]]:
    match made:
        case nn.Module():
            return made, None, {}
        case (nn.Module() as module, tuple() | list() as args):
            return module, tuple(args), {}
        case (nn.Module() as module, Tensor() as only):
            return module, (only,), {}
        case (nn.Module() as module, tuple() | list() as args, dict() as kwargs):
            return module, tuple(args), kwargs
    raise NetirError(
        f"the factory gives a {type(made).__name__}", where,
        "return a module, (module, args), or (module, args, kwargs)",
    )  # fmt: skip


def _input(text: str) -> tuple[str, TensorType]:
    try:
        tokens = Tokens(text)
        name = tokens.name("word", "the input's name")
        tokens.need("=", "the input's name")
        kind = read_type(tokens)
        if tokens.kind != "end":
            tokens.expected("the end")
    except NetirError as error:
        raise NetirError(
            error.what, f"--input '{text}', {error.where}", "write x=f32[batch, 3, 32, 32]"
        ) from None
    return name, kind


def _dynamic(types: Mapping[str, TensorType]) -> dict[str, dict[int, str]]:
    """The axes that were written as symbols; without any, the first is the batch."""
    found = {
        name: {i: str(size) for i, size in enumerate(kind.shape) if isinstance(size, Sym)}
        for name, kind in types.items()
    }
    return {name: axes or {0: "batch"} for name, axes in found.items()}


def numbers(sizes: list[str] | None) -> dict[str, int]:
    """`batch=2` and the like."""
    found = {}
    for text in sizes or ():
        name, _, value = text.partition("=")
        if not name or not value.isdecimal():
            raise NetirError(f"'{text}' gives no size", fix="write --size batch=2")
        found[name] = int(value)
    return found


def random_arguments(graph: Graph, sizes: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Arguments for a graph: normal floats, and integers that are 0 or 1."""
    known = {"batch": 2, **sizes}
    generator = torch.Generator().manual_seed(seed)
    return {
        name: map_tree(tree, lambda leaf: random_tensor(graph.inputs[leaf.name], known, generator))
        for name, tree in graph.arguments.items()
    }


def random_tensor(
    kind: TensorType, sizes: Mapping[str, int], generator: torch.Generator | None = None
) -> Tensor:
    """A random tensor of a type."""
    missing = sorted({s for d in kind.shape for s in symbols(d)} - set(sizes))
    if missing:
        raise NetirError(
            f"the size '{missing[0]}' has no number",
            fix=f"add {' '.join(f'--size {name}=…' for name in missing)}",
        )
    shape = [int(evaluate(d, sizes)) for d in kind.shape]
    if kind.dtype.is_floating_point or kind.dtype.is_complex:
        return torch.randn(shape, generator=generator).to(kind.dtype)
    return torch.randint(0, 2, shape, generator=generator).to(kind.dtype)
