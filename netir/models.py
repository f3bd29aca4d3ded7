"""Networks by name: built-in ones, files, and what a factory gives, read into graphs.

A name is data: `builtin:NAME`, a .netir file or an .onnx file. Python factories are imported by the
command line only, which hands what they give to `traced`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from netir import registry
from netir.dims import Sym
from netir.errors import NetirError
from netir.frontends import trace
from netir.ir import Graph, TensorType
from netir.samples import random_tensor
from netir.store import load
from netir.text.lexer import Tokens
from netir.text.values import read_type

BUILTIN = "builtin:"


def read_model(
    model: str,
    inputs: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
    allow_ops: Collection[str] = (),
) -> Graph:
    """The graph that a name stands for."""
    if model.startswith(BUILTIN):
        factory = registry.called("model", model.removeprefix(BUILTIN))
        return traced(factory(), model, inputs, sizes)
    if inputs:
        raise NetirError("--input is for Python models only", where=model, fix="leave it out")
    match Path(model).suffix:
        case ".onnx":
            from netir.frontends.onnx import from_onnx

            return from_onnx(model)
        case _:
            return load(model, allow_ops=allow_ops)


def traced(
    made: Any, where: str, inputs: Sequence[str] = (), sizes: Mapping[str, int] | None = None
) -> Graph:
    """The graph of what a factory gives: a module, or a module and its example inputs."""
    module, args, kwargs = _parts(made, where)
    if args is None:
        types = dict(map(_input, inputs))
        if not types:
            raise NetirError(
                "the factory gives no example inputs", where,
                "return (module, args), or add --input 'x=f32[batch, 3, 32, 32]'",
            )  # fmt: skip
        known = {"batch": 2, **(sizes or {})}
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


__all__ = ["BUILTIN", "read_model", "traced"]
