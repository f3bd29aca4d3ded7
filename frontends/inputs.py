"""The inputs and outputs of a call: which axes are open, and the structures that netir keeps."""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim as ExportDim
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.utils import _pytree as pytree

from netir.errors import NetirError, nearest
from netir.ir import Record, Ref, Tree

Axes = Mapping[int, str]
Dynamic = Mapping[str, Axes]
"""For an input's name: the axes whose size is open, and what to call it."""

BATCH: Axes = {0: "batch"}


@dataclass(frozen=True)
class Call:
    """The example inputs of a model, and the axes to open in each of their leaves."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    named: Mapping[str, Any]
    leaves: tuple[Any, ...]
    wanted: tuple[Axes, ...]
    asked: Dynamic

    @classmethod
    def of(
        cls, model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None, dynamic: Dynamic | None
    ) -> Call:
        """The call `model(*args, **kwargs)`; the batch is open where `dynamic` is silent."""
        given = tuple(args) if isinstance(args, (tuple, list)) else (args,)
        keywords = dict(kwargs or {})
        named = named_arguments(model, given, keywords)
        for name in dynamic or {}:
            if name not in named:
                raise NetirError(
                    f"dynamic names no input of the model: '{name}'", fix=nearest(name, named)
                )
        for name, axes in (dynamic or {}).items():
            _check_axes(name, axes, named[name])
        leaves, spec = pytree.tree_flatten((given, keywords))
        numbered = pytree.tree_unflatten(range(len(leaves)), spec)
        owners = {
            number: name
            for name, part in named_arguments(model, *numbered).items()
            for number in pytree.tree_leaves(part)
        }
        wanted = tuple(
            {**BATCH, **(dynamic or {}).get(owners[number], {})}
            if isinstance(leaf, Tensor) and leaf.dim()
            else {}
            for number, leaf in enumerate(leaves)
        )
        return cls(given, keywords, named, tuple(leaves), wanted, dynamic or {})

    def doubled(self) -> Call | None:
        """The call with every batch of one made two, or None if there is no such batch."""

        def single(leaf: Any, axes: Axes) -> bool:
            return isinstance(leaf, Tensor) and 0 in axes and leaf.shape[0] == 1

        pairs = list(zip(self.leaves, self.wanted, strict=True))
        if not any(single(leaf, axes) for leaf, axes in pairs):
            return None
        leaves = [torch.cat([x, x]) if single(x, axes) else x for x, axes in pairs]
        spec = pytree.tree_structure((self.args, self.kwargs))
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return Call(args, kwargs, self.named, tuple(leaves), self.wanted, self.asked)

    def copied(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Copies of the arguments, with one example where the batch is open."""
        leaves = [
            (x[:1] if 0 in axes else x).detach().clone() if isinstance(x, Tensor) else x
            for x, axes in zip(self.leaves, self.wanted, strict=True)
        ]
        spec = pytree.tree_structure((self.args, self.kwargs))
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return args, kwargs

    def shapes(self, model: nn.Module) -> dict[str, Any]:
        """The `dynamic_shapes` that torch.export takes."""
        axes = iter(self.wanted)
        marked = tuple(_shapes(part, axes) for part in self.args)
        keywords = {name: _shapes(part, axes) for name, part in self.kwargs.items()}
        return named_arguments(model, marked, keywords)

    def arguments(self, model: nn.Module, names: list[str | None]) -> dict[str, Tree]:
        """The structure of every argument, with the names of the inputs as its leaves."""
        pairs = zip(self.leaves, names, strict=True)
        marked = [leaf if name is None else Ref(name) for leaf, name in pairs]
        spec = pytree.tree_structure((self.args, self.kwargs))
        args, kwargs = pytree.tree_unflatten(marked, spec)
        return {name: tree_of(v) for name, v in named_arguments(model, args, kwargs).items()}


def _check_axes(name: str, axes: Any, part: Any) -> None:
    """Refuse axes that an input has not, and names that no size can have."""
    sound = isinstance(axes, Mapping) and all(
        isinstance(axis, int) and isinstance(wish, str) and wish.isidentifier()
        for axis, wish in axes.items()
    )
    if not sound:
        raise NetirError(
            f"dynamic of '{name}' is {axes!r}", fix=f"name axes, as in {{'{name}': {{0: 'batch'}}}}"
        )
    ranks = [leaf.dim() for leaf in pytree.tree_leaves(part) if isinstance(leaf, Tensor)]
    for axis in axes:
        if any(not 0 <= axis < rank for rank in ranks):
            raise NetirError(
                f"dynamic: '{name}' has no axis {axis}", fix=f"use 0 to {min(ranks) - 1}"
            )


def named_arguments(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments by the names of `forward`; those collected by `*rest` become rest_0, rest_1 …"""
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise NetirError(
            f"{type(model).__name__} cannot be called with these inputs: {error}",
            fix="pass args and kwargs as for model(*args, **kwargs)",
        ) from None
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        match bound.signature.parameters[name].kind:
            case inspect.Parameter.VAR_KEYWORD:
                found |= value
            case inspect.Parameter.VAR_POSITIONAL:
                found |= {f"{name}_{number}": part for number, part in enumerate(value)}
            case _:
                found[name] = value
    return found


@contextmanager
def plain_signature(model: nn.Module, call: Call) -> Iterator[None]:
    """Give `forward` a name for everything that it collects: torch.export opens no axis else."""
    forward = model.forward
    if call.named.keys() <= inspect.signature(forward).parameters.keys():
        yield
        return

    def plain(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = [inspect.Parameter(name, kind) for name in call.named]
    plain.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
    own = model.__dict__.get("forward")
    model.forward = plain
    try:
        yield
    finally:
        del model.forward
        if own is not None:
            model.forward = own


def _shapes(value: Any, axes: Iterator[Axes]) -> Any:
    """The open axes of a structure: lists stand for containers that torch does not build in."""
    if pytree.tree_structure(value).is_leaf():
        wanted = next(axes)
        return dict.fromkeys(wanted, ExportDim.AUTO) if isinstance(value, Tensor) else None
    if isinstance(value, Mapping) and type(value) in pytree.BUILTIN_TYPES:
        return {key: _shapes(part, axes) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_shapes(part, axes) for part in value)
    named: Any = namedtuple if pytree.is_namedtuple_instance(value) else type(value)
    node = pytree.SUPPORTED_NODES[named]
    parts = [_shapes(part, axes) for part in node.flatten_fn(value)[0]]
    return type(value)(*parts) if pytree.is_namedtuple_instance(value) else parts


def tree_of(value: Any) -> Tree:
    """A structure as netir keeps it."""
    if isinstance(value, Ref) or value is None:
        return value
    if isinstance(value, int | float | str) and type(value) in (int, float, str, bool):
        return value
    if type(value) is tuple:
        return tuple(map(tree_of, value))
    if type(value) in (list, immutable_list):
        return [tree_of(part) for part in value]
    if type(value) in (dict, immutable_dict):
        _only_strings(value)
        return {key: tree_of(part) for key, part in value.items()}
    kind = type(value)
    label = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, Mapping):
        _only_strings(value)
        return Record(label, {key: tree_of(part) for key, part in value.items()}, kind)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        pairs = zip(value._fields, value, strict=True)
        return Record(label, {name: tree_of(part) for name, part in pairs}, kind)
    if is_dataclass(value):
        parts = {f.name: tree_of(getattr(value, f.name)) for f in fields(value)}
        return Record(label, parts, kind)
    raise NetirError(
        f"cannot trace an input or output of type {label}",
        fix="use tensors, numbers, strings, None, tuples, lists, dicts, dataclasses",
    )


def _only_strings(value: Mapping[Any, Any]) -> None:
    for key in value:
        if not isinstance(key, str):
            raise NetirError(
                f"cannot trace a dict with the key {key!r}", fix="use strings as keys"
            )
