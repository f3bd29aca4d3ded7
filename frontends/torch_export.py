"""The default frontend: any model that `torch.export` can export, as a graph.

The model is exported in eval mode before any decomposition, with a dynamic batch; aten.py reads
the operators. Names, tied weights and the module that each call came from survive.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim as ExportDim
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from netir.errors import NetirError
from netir.frontends.aten import Reader
from netir.frontends.sizes import SizeReader
from netir.frontends.tied import tied_state
from netir.ir import Graph, Param, Record, Ref, TensorType, Tree

Dynamic = Mapping[str, Mapping[int, str]]
"""For an input's name: the axes whose size is open, and what to call it."""

BATCH: Mapping[int, str] = {0: "batch"}


def trace(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Dynamic | None = None,
    name: str = "",
) -> Graph:
    """Read a model into a graph by running it once on example inputs.

    The first axis of every tensor input is a symbolic batch; `dynamic` opens further axes, as in
    `{"tokens": {0: "batch", 1: "length"}}`. The graph shares the model's tensors.
    """
    if not isinstance(model, nn.Module):
        raise NetirError(
            f"cannot trace a {type(model).__name__}", fix="pass a torch.nn.Module and its inputs"
        )
    arguments = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    keywords = dict(kwargs or {})
    with _eval_mode(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program, wanted = _exported(model, arguments, keywords, dynamic)
    return read_program(program, model, arguments, keywords, wanted, name)


def _exported(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Dynamic | None
) -> tuple[ExportedProgram, list[Mapping[int, str]]]:
    """Export with a batch of at least two where the example has one: torch would fix a one."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    wanted = _wanted(model, args, kwargs, leaves, dynamic)
    attempts = [leaves]
    if any(_single(leaf, axes) for leaf, axes in zip(leaves, wanted, strict=True)):
        pairs = zip(leaves, wanted, strict=True)
        attempts.insert(0, [_doubled(leaf, axes) for leaf, axes in pairs])
    failures: list[Exception] = []
    for values in attempts:
        given = pytree.tree_unflatten(values, spec)
        shapes = [_open_axes(v, axes) for v, axes in zip(values, wanted, strict=True)]
        try:
            return _export(model, given, pytree.tree_unflatten(shapes, spec)), wanted
        except NetirError as error:
            failures.append(error)
    raise failures[-1]


def _export(model: nn.Module, given: Any, shapes: Any) -> ExportedProgram:
    args, kwargs = given
    arranged = torch.export.export
    try:
        combined = _combined(model, *shapes)
        return arranged(model, args, kwargs, dynamic_shapes=combined, strict=False)
    except Exception as error:  # noqa: BLE001
        text = str(error).strip().splitlines()
        raise NetirError(
            f"torch.export cannot export {type(model).__name__}: {text[0] if text else error!r}",
            fix="make torch.export.export(model.eval(), args) work first",
        ) from error


def _combined(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of `forward`."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        parameter = bound.signature.parameters[name]
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= value
        else:
            found[name] = value
    return found


def _wanted(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    leaves: list[Any],
    dynamic: Dynamic | None,
) -> list[Mapping[int, str]]:
    """For every leaf of the inputs, the axes to open and their names."""
    try:
        combined = _combined(model, args, kwargs)
    except TypeError as error:
        raise NetirError(
            f"{type(model).__name__} cannot be called with these inputs: {error}",
            fix="pass args and kwargs as for model(*args, **kwargs)",
        ) from None
    unknown = set(dynamic or {}) - set(combined)
    if unknown:
        raise NetirError(
            f"dynamic names no input of the model: {', '.join(sorted(unknown))}",
            fix=f"the inputs are {', '.join(combined)}",
        )
    owners = [
        name for name, value in combined.items() for _ in pytree.tree_leaves(value)
    ]
    if len(owners) != len(leaves):
        owners = [""] * len(leaves)
    return [
        (dynamic or {}).get(owner, BATCH) if isinstance(leaf, Tensor) and leaf.dim() else {}
        for owner, leaf in zip(owners, leaves, strict=True)
    ]


def _single(leaf: Any, axes: Mapping[int, str]) -> bool:
    return isinstance(leaf, Tensor) and 0 in axes and leaf.shape[0] == 1


def _doubled(leaf: Any, axes: Mapping[int, str]) -> Any:
    return torch.cat([leaf, leaf]) if _single(leaf, axes) else leaf


def _open_axes(leaf: Any, axes: Mapping[int, str]) -> Any:
    if not isinstance(leaf, Tensor):
        return None
    return {axis: ExportDim.AUTO for axis in axes}


def read_program(
    program: ExportedProgram,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wanted: list[Mapping[int, str]],
    name: str = "",
) -> Graph:
    """Read an exported program, with the parameters of the model that it came from."""
    sizes = SizeReader()
    params, aliases = tied_state(model)
    reader = Reader(sizes, params)
    placeholders = {n.name: n for n in program.graph.find_nodes(op="placeholder")}
    leaf_names = _user_inputs(program)
    for leaf, axes in zip(leaf_names, wanted, strict=True):
        if leaf is not None:
            shape = placeholders[leaf].meta["val"].shape
            for axis, wish in axes.items():
                sizes.name(shape[axis], wish)
    inputs = _bind_inputs(program, reader, placeholders, aliases)
    reader.read(program.graph)
    output = _output(program, reader)
    return Graph(
        name=name or type(model).__name__,
        inputs=inputs,
        nodes=reader.nodes,
        params=reader.params,
        output=output,
        arguments=_arguments(model, args, kwargs, leaf_names),
        aliases=aliases,
    )


def _user_inputs(program: ExportedProgram) -> list[str | None]:
    """The placeholder of every leaf of the inputs; None for one that is no tensor."""
    found: list[str | None] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            found.append(None if isinstance(spec.arg, ConstantArgument) else spec.arg.name)
    return found


def _bind_inputs(
    program: ExportedProgram, reader: Reader, placeholders: dict[str, Any], aliases: dict[str, str]
) -> dict[str, TensorType]:
    inputs: dict[str, TensorType] = {}
    for spec in program.graph_signature.input_specs:
        match spec.kind:
            case InputKind.USER_INPUT:
                if not isinstance(spec.arg, ConstantArgument):
                    node = placeholders[spec.arg.name]
                    if not isinstance(node.meta["val"], Tensor):
                        continue
                    reader.bind(node, node.name)
                    inputs[node.name] = reader.type(node.meta["val"])
            case InputKind.PARAMETER | InputKind.BUFFER:
                node, target = placeholders[spec.arg.name], spec.target
                reader.bind(node, f"@{aliases.get(target, target)}")
            case InputKind.CONSTANT_TENSOR:
                node = placeholders[spec.arg.name]
                data = program.constants[spec.target]
                reader.constant(node, spec.target, data.detach())
            case _:
                raise NetirError(f"cannot trace an input of kind {spec.kind}")
    return inputs


def _output(program: ExportedProgram, reader: Reader) -> Tree:
    """The structure of what the model returns."""
    node = program.graph.output_node()
    given: list[Any] = []
    for spec, value in zip(
        program.graph_signature.output_specs, node.args[0], strict=True
    ):
        if spec.kind is not OutputKind.USER_OUTPUT:
            reader.notes.append(f"the model writes to '{spec.target}'; the graph does not")
        elif isinstance(value, torch.fx.Node) and isinstance(value.meta.get("val"), Tensor):
            given.append(Ref(reader.operand(value)))
        elif isinstance(value, torch.fx.Node):
            raise NetirError(
                "the model returns a size", fix="return tensors, numbers, strings or None"
            )
        else:
            given.append(value)
    return _tree(pytree.tree_unflatten(given, program.call_spec.out_spec))


def _tree(value: Any) -> Tree:
    """Containers as netir keeps them."""
    if isinstance(value, Ref) or value is None or type(value) in (int, float, str, bool):
        return value
    if type(value) is tuple:
        return tuple(map(_tree, value))
    if type(value) is list:
        return [_tree(v) for v in value]
    if type(value) is dict:
        return {str(k): _tree(v) for k, v in value.items()}
    kind = type(value)
    label = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, Mapping):
        return Record(label, {str(k): _tree(v) for k, v in value.items()}, kind)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        pairs = zip(value._fields, value, strict=True)
        return Record(label, {k: _tree(v) for k, v in pairs}, kind)
    if is_dataclass(value):
        return Record(label, {f.name: _tree(getattr(value, f.name)) for f in fields(value)}, kind)
    raise NetirError(f"cannot trace an input or output of type {label}")


def _arguments(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str | None]
) -> dict[str, Tree]:
    leaves, spec = pytree.tree_flatten((args, kwargs))
    marked = [leaf if n is None else Ref(n) for leaf, n in zip(leaves, names, strict=True)]
    combined = _combined(model, *pytree.tree_unflatten(marked, spec))
    found: dict[str, Tree] = {}
    for name, value in combined.items():
        parameter = inspect.signature(model.forward).parameters.get(name)
        if parameter is not None and parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            found |= {f"{name}_{i}": _tree(v) for i, v in enumerate(value)}
        else:
            found[name] = _tree(value)
    return found


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


__all__ = ["Param", "read_program", "trace"]
