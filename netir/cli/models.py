"""What the command line calls a MODEL, found and traced."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from netir.errors import NetirError, nearest
from netir.ir import Graph
from netir.models import BUILTIN, read_model, traced

if TYPE_CHECKING:
    from netir.spec import Spec

_FORMS = "name a .netir or .onnx file, a factory pkg.module:function, or builtin:residual"


def find(
    model: str,
    inputs: list[str] | None = None,
    sizes: list[str] | None = None,
    allow_ops: list[str] | None = None,
) -> Graph:
    """The graph that MODEL names."""
    return find_all([model], inputs, sizes, allow_ops)[0]


def find_all(
    models: Sequence[str],
    inputs: list[str] | None = None,
    sizes: list[str] | None = None,
    allow_ops: list[str] | None = None,
) -> list[Graph]:
    """The graphs that several MODELs name; every size that is given is one of them."""
    graphs = [_found(model, inputs, sizes, allow_ops) for model in models]
    known = frozenset().union(*(graph.symbols for graph in graphs))
    written = set(re.findall(r"\w+", " ".join(inputs or ())))
    for name in numbers(sizes):
        if name not in known | written:  # a written size may turn out to be equal to another
            raise NetirError(
                f"the network has no size '{name}'",
                where=f"--size; the open sizes are: {', '.join(sorted(known)) or 'none'}",
                fix=nearest(name, known),
            )
    return graphs


def _found(
    model: str, inputs: list[str] | None, sizes: list[str] | None, allow_ops: list[str] | None
) -> Graph:
    known = numbers(sizes)
    if ":" in model and not model.startswith(BUILTIN) and not Path(model).exists():
        return traced(_made(model), model, inputs or (), known)
    named = model.startswith(BUILTIN) or Path(model).suffix in (".netir", ".onnx")
    if not named and not Path(model).exists():
        raise NetirError(f"'{model}' is no model", fix=_FORMS)
    return read_model(model, inputs or (), known, allow_ops or ())


def of_spec(
    spec: Spec,
    model: str = "",
    inputs: list[str] | None = None,
    sizes: list[str] | None = None,
    allow_ops: list[str] | None = None,
) -> Graph:
    """The graph that a spec names, or `model` in its place."""
    wanted = model or spec.model
    if not wanted:
        raise NetirError(
            "the spec names no model", fix="add 'model: net.netir' to it, or --model to the command"
        )
    known = [*(f"{name}={size}" for name, size in spec.sizes.items()), *(sizes or ())]
    return _found(wanted, inputs or list(spec.inputs), known, allow_ops)


def _made(model: str) -> Any:
    """What the factory gives, or a module itself; the current folder can be imported from."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        factory = _factory(model)
        return factory if isinstance(factory, nn.Module) else factory()
    finally:
        with suppress(ValueError):  # the factory may have taken it out
            sys.path.remove(here)


def _factory(model: str) -> Any:
    """A function without arguments, or a module itself."""
    module_name, _, attribute = model.partition(":")
    if not all(module_name.split(".")):
        raise NetirError(f"'{model}' names no Python module", fix="write package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise NetirError(
            f"there is no Python module '{error.name}'", where=model,
            fix="run netir in the folder that it lies in, or install it",
        ) from None  # fmt: skip
    factory = getattr(module, attribute, None)
    if isinstance(factory, nn.Module):
        return factory
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
    return factory


_LONGEST = 18
"""Digits of a size."""


def numbers(sizes: list[str] | None) -> dict[str, int]:
    """`batch=2` and the like."""
    found = {}
    for text in sizes or ():
        name, _, value = text.partition("=")
        if not name or not value.isdecimal() or len(value) > _LONGEST or int(value) < 1:
            raise NetirError(f"'{text}' gives no size", fix="write --size batch=2")
        found[name] = int(value)
    return found
