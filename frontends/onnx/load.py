"""An ONNX file as onnx-ir's model: whole, with its functions inlined and its nodes in order."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from netir.errors import NetirError, blaming, first_line
from netir.files import reason

Source = str | os.PathLike[str] | bytes | ir.Model | onnx.ModelProto
"""What can be read."""

OLDEST, NEWEST = 7, 28
"""The opsets that can be read."""
_MOST_NODES = 1_000_000
_DEEPEST = 32

logging.getLogger("onnx_ir").addHandler(logging.NullHandler())  # it prints what we then refuse


_AGAIN = "export the model again, or take another copy of the file"


def place_of(source: Any) -> str:
    """Where a model comes from, for messages."""
    return str(Path(source)) if isinstance(source, (str, os.PathLike)) else "the ONNX model"


def load_model(source: Any) -> tuple[ir.Model, Path | None]:
    """The model, and the folder in which its data may lie."""
    folder: Path | None = None
    match source:
        case ir.Model():
            proto, folder = _copied(source), _folder_of(source)
        case bytes():
            proto = _parsed(source)
        case str() | os.PathLike():
            folder = Path(source).parent
            proto = _parsed(_content(Path(source)))
        case onnx.ModelProto():
            proto = _parsed(_serialized(source))
        case _:
            raise NetirError(
                f"cannot read a {type(source).__name__} as an ONNX model",
                fix="pass a path, bytes, an onnx.ModelProto or an onnx_ir.Model",
            )
    with _blaming("this is no whole ONNX model"):
        model = ir.serde.deserialize_model(proto)
    return _prepared(model), folder


def _blaming(what: str, fix: str = _AGAIN) -> AbstractContextManager[None]:
    return blaming(lambda error: NetirError(f"{what}: {first_line(error)}", fix=fix))


def _folder_of(model: ir.Model) -> Path | None:
    """The folder of tensors that a model in memory keeps in files."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            return Path(tensor.base_dir)
    return None


def _content(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise NetirError("this is a folder, not a file", fix="name the .onnx file in it")
        if path.stat().st_size >= 2**31:
            raise NetirError(
                "the file has 2 GB or more, which protobuf cannot hold",
                fix="keep the weights in another file: external data",
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise NetirError("there is no such file", fix="check the path") from None
    except (OSError, ValueError) as error:
        raise NetirError(f"cannot read the file: {reason(error)}") from None


def _copied(model: ir.Model) -> Any:
    with _blaming("the model cannot be copied", "save it with external data and pass the path"):
        return ir.serde.serialize_model(model)


def _serialized(proto: onnx.ModelProto) -> bytes:
    with _blaming("the model cannot be copied", "save it with external data and pass the path"):
        found: bytes = proto.SerializeToString()
    return found


def _parsed(content: bytes) -> Any:
    proto = onnx.ModelProto()
    with blaming(lambda _: NetirError("this is no ONNX file, or only a part of one", fix=_AGAIN)):
        proto.ParseFromString(content)
    if not proto.HasField("graph") or not proto.opset_import:
        raise NetirError("this file holds no ONNX graph", fix=_AGAIN)
    for output in proto.graph.output:
        if output.type.HasField("sequence_type") or output.type.HasField("map_type"):
            output.ClearField("type")  # onnx-ir cannot read a list of dicts, and nothing needs it
    return proto


def _prepared(model: ir.Model) -> ir.Model:
    """The model with its functions inlined and every graph in order."""
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    if version is not None and not OLDEST <= version <= NEWEST:
        raise NetirError(
            f"the model has opset {version}; {OLDEST} to {NEWEST} can be read",
            fix="convert it: onnx.version_converter.convert_version(model, 18)",
        )  # fmt: skip
    with _blaming("the model's graph is damaged"):
        _expect_bounded(model)
        if model.functions:
            model = InlinePass()(model).model
        model.graph.sort()
    return model


def _expect_bounded(model: ir.Model) -> None:
    """Refuse functions that call themselves, or that unfold into more nodes than networks have."""
    sizes: dict[Any, int] = {}
    open_calls: set[Any] = set()

    def size(nodes: Any, depth: int) -> int:
        total = 0
        if depth > _DEEPEST:
            raise NetirError(f"graphs are nested more than {_DEEPEST} deep", fix=_AGAIN)
        for node in nodes:
            total += 1
            for graph in _inner(node):
                total += size(graph, depth + 1)
            called = node.op_identifier()
            if called in model.functions:
                total += unfolded(called, depth)
            if total > _MOST_NODES:
                raise NetirError(
                    "the functions of the model unfold into too many nodes", fix=_AGAIN
                )
        return total

    def unfolded(called: Any, depth: int) -> int:
        if called in open_calls:
            raise NetirError(f"the function '{called[1]}' calls itself", fix=_AGAIN)
        if called not in sizes:
            open_calls.add(called)
            sizes[called] = size(model.functions[called], depth + 1)
            open_calls.discard(called)
        return sizes[called]

    size(model.graph, 0)


def _inner(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs in a node's attributes."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.value
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.value
