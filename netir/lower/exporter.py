"""The other way to ONNX, for graphs with operators that netir cannot write: torch.onnx.export."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir
import torch
from torch import Tensor

from netir.dims import Sym
from netir.errors import NetirError, blaming, first_line
from netir.ir import Graph, Record, Ref, Tree, map_tree
from netir.lower.onnx import named_outputs
from netir.lower.torch import to_torch


def exported(graph: Graph, inputs: Mapping[str, Tensor]) -> onnx_ir.Model:
    """The model that `torch.onnx.export` makes of the graph's module, traced with these inputs."""
    if importlib.util.find_spec("onnxscript") is None:
        raise NetirError(
            "torch.onnx.export needs onnxscript, which is not installed",
            fix="pip install onnxscript",
        )
    arguments = {n: map_tree(t, lambda leaf: inputs[leaf.name]) for n, t in graph.arguments.items()}
    shapes = {name: _open_axes(tree, graph) for name, tree in graph.arguments.items()}
    module = to_torch(graph)
    with blaming(_unexported), _quiet(), torch.no_grad():  # exporters of all versions differ
        program = torch.onnx.export(
            module, tuple(arguments.values()), dynamo=True, verbose=False,
            dynamic_shapes=tuple(shapes.values()), input_names=list(graph.inputs),
            output_names=[name for name, _ in named_outputs(graph.output)],
        )  # fmt: skip
    assert program is not None
    model: onnx_ir.Model = program.model
    return model


def _open_axes(tree: Tree, graph: Graph) -> Any:
    """The names of symbolic sizes, in the structure of an argument."""
    match tree:
        case Ref(name):
            shape = graph.inputs[name].shape
            return {axis: str(size) for axis, size in enumerate(shape) if isinstance(size, Sym)}
        case Record(fields=parts):
            return [_open_axes(part, graph) for part in parts.values()]
        case dict():
            return {key: _open_axes(part, graph) for key, part in tree.items()}
        case tuple():
            return tuple(_open_axes(part, graph) for part in tree)
        case list():
            return [_open_axes(part, graph) for part in tree]
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress that the exporter prints, and its warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _unexported(error: BaseException) -> NetirError:
    """What went wrong in the first place."""
    while error.__cause__ is not None:
        error = error.__cause__
    return NetirError(
        f"torch.onnx.export cannot export the graph: {first_line(error)}",
        fix="the operators that netir cannot write have to go; netir spaces names them",
    )


__all__ = ["exported"]
