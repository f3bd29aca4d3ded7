"""ONNX models as files, written whole or not at all; many tensors go to a file of their own."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import onnx
import onnx_ir

from netir.errors import NetirError
from netir.files import expect_replaceable, reason, to_disk

LIMIT = 1_900_000_000
"""The bytes of tensors that a file of less than 2 GB has room for."""


@contextmanager
def drafted(model: onnx_ir.Model, target: Path, external: bool | None) -> Iterator[Path]:
    """The model in a draft of the file, which takes its place when the block succeeds.

    Tensors go to a file of their own if `external` says so, or if they are too many: it is called
    as the model with a mark of its content, so that an old model never reads new tensors.
    """
    target = _resolved(target)
    data = data_name(model, target) if _apart(model, external) else None
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name[:100]}.", dir=target.parent) as at:
            draft = Path(at) / target.name
            save(model, draft, data)
            yield draft
            for name in filter(None, (data, target.name)):
                _move(draft.with_name(name), target.with_name(name))
            with suppress(OSError):  # the file is in place: what follows cannot undo it
                to_disk(target.parent)
        with suppress(OSError):
            _remove_old(target, data)
    except OSError as error:
        raise NetirError(
            f"cannot write the file: {reason(error)}", str(target),
            "the file that was there before, if any, is unchanged",
        ) from error  # fmt: skip


def _resolved(target: Path) -> Path:
    try:
        expect_replaceable(target)
        target = target.resolve()
        folder = target.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise NetirError(f"cannot write the file: {reason(error)}", str(target)) from error
    if folder:
        raise NetirError("this is a folder, not a file", str(target), "name the file in it")
    return target


def save(model: onnx_ir.Model, path: Path, data: str | None = None) -> None:
    """Write a model; its tensors go from where they are into the file, which copies nothing.

    In protocol buffers a message is a sequence of fields in any order: the tensors come last.
    """
    values = list(model.graph.initializers.values())
    stored = {v.name: v.const_value for v in values if v.const_value is not None}
    tensors: list[Any] = list(stored.values())
    if data is not None or any(t.dtype == onnx_ir.DataType.STRING for t in tensors):
        onnx_ir.save(model, path, external_data=data)
        return
    model.graph.initializers.clear()
    try:
        proto = onnx_ir.to_proto(model)
    finally:
        for value in values:
            model.graph.register_initializer(value)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    heads = [_head(name, tensor) for name, tensor in stored.items()]
    size = len(graph) + sum(len(h) + t.nbytes for h, t in zip(heads, tensors, strict=True))
    with path.open("wb") as file:
        file.write(proto.SerializeToString() + _field(7, size) + graph)
        for head, tensor in zip(heads, tensors, strict=True):
            file.write(head)
            tensor.tofile(file)


def _head(name: str | None, tensor: Any) -> bytes:
    """All of a tensor in a graph but its bytes: `initializer`, with `raw_data` at its end."""
    proto = onnx.TensorProto(
        name=name, data_type=int(tensor.dtype), dims=[int(d) for d in tensor.shape]
    )
    about: bytes = proto.SerializeToString() + _field(9, tensor.nbytes)
    return _field(5, len(about) + tensor.nbytes) + about


def _field(number: int, size: int) -> bytes:
    """The start of a field that holds `size` bytes."""
    found = [number << 3 | 2]
    while size > 127:
        found.append(size & 127 | 128)
        size >>= 7
    return bytes([*found, size])


def size_of_tensors(model: onnx_ir.Model) -> int:
    """The bytes of all tensors of a model."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)


def data_name(model: onnx_ir.Model, target: Path) -> str:
    """The name of the file with a model's tensors: the model's own, and a mark of what is in it."""
    digest = hashlib.sha256()
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            digest.update(value.const_value.tobytes())
    return f"{target.name}.{digest.hexdigest()[:8]}.data"


def _apart(model: onnx_ir.Model, external: bool | None) -> bool:
    return size_of_tensors(model) > LIMIT if external is None else external


def _move(draft: Path, target: Path) -> None:
    if target.exists():
        os.chmod(draft, target.stat().st_mode & 0o777)
    to_disk(draft)
    os.replace(draft, target)


def _remove_old(target: Path, data: str | None) -> None:
    """Remove tensors that an earlier model of this name has left."""
    ours = re.compile(re.escape(target.name) + r"\.[0-9a-f]{8}\.data")
    for found in target.parent.iterdir():
        if ours.fullmatch(found.name) and found.name != data and not found.is_symlink():
            with suppress(OSError):
                found.unlink()


__all__ = ["LIMIT", "data_name", "drafted", "save", "size_of_tensors"]
