"""The default frontend: any model that `torch.export` can export, as a graph.

The model is exported in eval mode before any decomposition, with a dynamic batch; aten.py reads
the operators. Names, tied weights and the module that each call came from survive.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from netir.errors import NetirError, NetirWarning, first_line
from netir.frontends.aten import Reader
from netir.frontends.inputs import Call, plain_signature, tree_of
from netir.frontends.modes import DROPPING
from netir.frontends.sizes import SizeReader
from netir.frontends.tied import tied_state
from netir.ir import Graph, Node, Ref, TensorType, Tree, leaves
from netir.kernels.group_calls import recorded
from netir.ops.norm import BatchNorm


def read_model(
    model: nn.Module, call: Call, name: str = "", state: nn.Module | None = None
) -> Graph:
    """The graph of a model, read from what torch.export makes of it.

    Parameters are those of `state`, where that is another module than the one to run.
    """
    with _eval_mode(model), plain_signature(model, call), _own_gradients() as functions:
        program = _exported(model, call)
    for function in functions:
        warnings.warn(
            f"{function} has a backward of its own; the graph has the derivative of its forward",
            NetirWarning,
            stacklevel=3,
        )
    return read_program(program, state or model, call, name)


def _exported(model: nn.Module, call: Call) -> ExportedProgram:
    """Export with a batch of at least two where the example has one: torch would fix a one."""
    doubled = call.doubled()
    if doubled is not None:
        try:
            return _export(model, doubled)
        except NetirError:
            pass
    return _export(model, call)


class _Apart(TorchFunctionMode):
    """Lets dropout read an alias, which in eval mode it returns.

    A tracer would take what is done with the input later for something done with the result.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__name__", "") in DROPPING:
            if args:
                args = (torch.ops.aten.alias.default(args[0]), *args[1:])
            else:
                given["input"] = torch.ops.aten.alias.default(given["input"])
        return func(*args, **given)


@contextmanager
def _states_of_lstm() -> Iterator[None]:
    """The last states of an LSTM in the shape of the first, which torch 2.11 gets wrong."""
    if torch.__version__ >= "2.13":
        yield
        return
    from torch._decomp import decompositions

    plain: Any = decompositions.one_layer_lstm

    def shaped(x: Tensor, hidden: Any, *rest: Any, **more: Any) -> Any:
        out, states = plain(x, hidden, *rest, **more)
        pairs = zip(states, hidden, strict=True)
        return out, tuple(state.reshape(first.shape) for state, first in pairs)

    with patch.object(decompositions, "one_layer_lstm", shaped):
        yield


_FIRST = "make torch.export.export(model.eval(), args) work first"
_REGISTER = "for a dataclass, call torch.export.register_dataclass on it before tracing"


def _export(model: nn.Module, call: Call) -> ExportedProgram:
    with _quiet(), recorded(), _states_of_lstm(), _Apart():
        try:
            return torch.export.export(
                model, call.args, call.kwargs, dynamic_shapes=call.shapes(model), strict=False
            )
        except Exception as error:
            unknown = re.search("register a pytree|unhashable type: '[A-Z]", str(error))
            raise NetirError(
                f"torch.export cannot export {type(model).__name__}: {first_line(error)}",
                fix=_REGISTER if unknown else _FIRST,
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracebacks and graphs that torch writes where it fails, and its warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def read_program(program: ExportedProgram, model: nn.Module, call: Call, name: str = "") -> Graph:
    """Read an exported program, with the parameters of the model that it came from."""
    sizes = SizeReader()
    params, aliases = tied_state(model)
    reader = Reader(sizes, params)
    placeholders = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    names = _input_names(program)
    _name_sizes(sizes, placeholders, names, call)
    inputs = _bind_inputs(program, reader, placeholders, aliases)
    reader.read(program.graph)
    output = _output(program, reader)
    arguments = call.arguments(model, names)
    _warn_of_writes(reader)
    _warn_of_sizes(reader, call)
    return Graph(
        name=name or type(model).__name__,
        inputs={leaf.name: inputs[leaf.name] for leaf in leaves(arguments)},
        nodes=dict(_averaging(model, reader.nodes)),
        params=reader.params,
        output=output,
        arguments=arguments,
        aliases=aliases,
    )


def _averaging(model: nn.Module, nodes: Mapping[str, Node]) -> Iterator[tuple[str, Node]]:
    """The nodes, with batch norms that average all statistics told so: eval mode does not show."""
    kind = nn.modules.batchnorm._BatchNorm
    paths = {p for p, m in model.named_modules() if isinstance(m, kind) and m.momentum is None}
    for name, node in nodes.items():
        if node.scope in paths and isinstance(node.op, BatchNorm):
            yield name, replace(node, op=replace(node.op, momentum=None))
        else:
            yield name, node


def _input_names(program: ExportedProgram) -> list[str | None]:
    """The placeholder of every leaf of the inputs; None for one that is no tensor."""
    return [
        None if isinstance(spec.arg, ConstantArgument) else spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    ]


def _name_sizes(
    sizes: SizeReader, placeholders: Mapping[str, fx.Node], names: list[str | None], call: Call
) -> None:
    """Call the open axes as was wished; an axis that was asked for must be open."""
    asked = {wish for axes in call.asked.values() for wish in axes.values()}
    for name, axes in zip(names, call.wanted, strict=True):
        if name is None:
            continue
        for axis, wish in axes.items():
            size = placeholders[name].meta["val"].shape[axis]
            sizes.name(size, wish)
            if wish in asked and isinstance(sizes.read(size, None), int):
                raise NetirError(
                    f"axis {axis} of '{name}', wanted open as '{wish}', is always {size}: "
                    "something in the model depends on this number",
                    fix=f"leave '{wish}' out of dynamic, or write the model for any size",
                )


def _bind_inputs(
    program: ExportedProgram,
    reader: Reader,
    placeholders: Mapping[str, fx.Node],
    aliases: Mapping[str, str],
) -> dict[str, TensorType]:
    inputs: dict[str, TensorType] = {}
    for spec in program.graph_signature.input_specs:
        node = placeholders[spec.arg.name]
        target = str(spec.target)
        match spec.kind:
            case InputKind.USER_INPUT:
                if isinstance(node.meta.get("val"), Tensor):
                    inputs[node.name] = reader.bind(node, node.name)
            case InputKind.PARAMETER | InputKind.BUFFER if (
                aliases.get(target, target) in reader.params
            ):
                reader.bind(node, f"@{aliases.get(target, target)}")
            case InputKind.BUFFER | InputKind.CONSTANT_TENSOR:
                data = program.constants.get(target, program.state_dict.get(target))
                assert isinstance(data, Tensor)
                reader.constant(node, target, data.detach())
            case _:
                raise NetirError(
                    f"cannot trace an input of kind {spec.kind.name}",
                    fix="a network reads tensors and numbers, and returns tensors",
                )
    return inputs


def _output(program: ExportedProgram, reader: Reader) -> Tree:
    """The structure of what the model returns."""
    given: list[Any] = []
    for value in program.graph.output_node().args[0]:
        if not isinstance(value, fx.Node):
            given.append(value)
        elif isinstance(value.meta.get("val"), Tensor):
            given.append(Ref(reader.operand(value)))
        else:
            raise NetirError(
                "the model returns a size, which depends on the inputs",
                fix="return tensors, numbers, strings or None",
            )
    return tree_of(pytree.tree_unflatten(given, program.call_spec.out_spec))


def _warn_of_writes(reader: Reader) -> None:
    for operand in reader.written:
        what = f"buffer '{operand[1:]}'" if operand[0] == "@" else f"input '{operand}'"
        warnings.warn(
            f"the model writes to its {what} in place; the graph computes with what was written, "
            "but leaves the tensor itself as it is",
            NetirWarning,
            stacklevel=4,
        )


def _warn_of_sizes(reader: Reader, call: Call) -> None:
    """Tell of ops that fit only some of the sizes that were asked for."""
    asked = {wish for axes in call.asked.values() for wish in axes.values()}
    for base, why in reader.narrow.items():
        wrong = [wish for wish in sorted(asked) if re.search(rf"\b{re.escape(wish)}\b", why)]
        if wrong:
            warnings.warn(
                f"{base} does not fit every size: {why}. It is kept as torch has it; leave "
                f"{' and '.join(wrong)} out of dynamic, or write the model for any size",
                NetirWarning,
                stacklevel=4,
            )


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _own_gradients() -> Iterator[list[str]]:
    """Collects the names of autograd functions that are called; torch.export does not keep them."""
    found: dict[str, None] = {}
    original = torch.autograd.Function.__dict__["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not cls.__module__.startswith("torch."):
            found[cls.__qualname__] = None
        return original.__get__(None, cls)(*args, **kwargs)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment]
    names: list[str] = []
    try:
        yield names
    finally:
        torch.autograd.Function.apply = original  # type: ignore[method-assign]
        names.extend(found)
