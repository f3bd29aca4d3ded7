"""Element types and stored tensors of ONNX as torch's; external data stays inside its folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from netir.errors import NetirError, blaming
from netir.files import reason

DTYPES: Mapping[ir.DataType, torch.dtype] = MappingProxyType(
    {
        ir.DataType.FLOAT: torch.float32,
        ir.DataType.DOUBLE: torch.float64,
        ir.DataType.FLOAT16: torch.float16,
        ir.DataType.BFLOAT16: torch.bfloat16,
        ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
        ir.DataType.FLOAT8E5M2: torch.float8_e5m2,
        ir.DataType.COMPLEX64: torch.complex64,
        ir.DataType.COMPLEX128: torch.complex128,
        ir.DataType.INT64: torch.int64,
        ir.DataType.INT32: torch.int32,
        ir.DataType.INT16: torch.int16,
        ir.DataType.INT8: torch.int8,
        ir.DataType.UINT8: torch.uint8,
        ir.DataType.UINT16: torch.uint16,
        ir.DataType.UINT32: torch.uint32,
        ir.DataType.UINT64: torch.uint64,
        ir.DataType.BOOL: torch.bool,
    }
)
_NATIVE = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.uint8,
           torch.float8_e5m2: torch.uint8}  # fmt: skip
_COPY = "copy the model and its data into one folder and load it there"


def dtype_of(kind: Any, where: str) -> torch.dtype:
    """The element type; texts and packed types are refused."""
    try:
        return DTYPES[ir.DataType(kind)]
    except (KeyError, ValueError, TypeError):
        name = getattr(kind, "name", str(kind)).lower()
        raise NetirError(
            f"elements of type {name} cannot be read",
            where,
            "export the model with numbers: class labels as integers, weights not quantised"
            if name == "string" else "convert the model to floats of 16 bits or more",
        ) from None  # fmt: skip


def torch_tensor(tensor: ir.TensorProtocol, where: str, folder: Path | None) -> Tensor:
    """A stored tensor; its size is held against its shape before anything is allocated."""
    dtype = dtype_of(tensor.dtype, where)
    shape = _whole(tensor, where)
    count = 1
    for size in shape:
        count *= size
    if isinstance(tensor, ir.ExternalTensor):
        raw = _external(tensor, count * dtype.itemsize, where, folder)
        if not raw:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(raw, dtype=dtype).reshape(shape)
    with blaming(lambda error: NetirError(
        f"the stored numbers do not fill the shape {shape}: {error}", where,
        "the file is damaged: export the model again",
    )):  # fmt: skip
        array = tensor.numpy()
    if tuple(array.shape) != shape:
        raise NetirError(f"the stored shape is {array.shape}, not {shape}", where)
    if dtype in _NATIVE:
        array = array.view(np.int16 if dtype == torch.bfloat16 else np.uint8)
    owned = np.array(array, order="C", copy=True)
    found = torch.from_numpy(owned.reshape(-1)).reshape(shape)
    return found.view(dtype) if dtype in _NATIVE else found.to(dtype)


def _whole(tensor: ir.TensorProtocol, where: str) -> tuple[int, ...]:
    shape = tuple(int(s) if isinstance(s, (int, np.integer)) else -1 for s in tensor.shape)
    total = 1
    for size in shape:
        total *= size
        if size < 0 or total > 2**62:
            raise NetirError(f"the shape {shape} is not possible", where, "the file is damaged")
    return shape


def _external(
    tensor: ir.ExternalTensor, count: int, where: str, folder: Path | None
) -> bytearray:
    """The bytes of a tensor that lie in a file beside the model."""
    offset, length = tensor.offset or 0, tensor.length
    if offset < 0 or (length is not None and length != count):
        raise NetirError(
            f"its data has {length} bytes at {offset}, its shape needs {count}", where,
            "the file is damaged: export the model again",
        ) from None  # fmt: skip
    path = _inside(str(tensor.location), where, folder)
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise NetirError(f"external data '{path.name}' is a link", where, _COPY)
            if offset + count > found.st_size:
                raise NetirError(
                    f"external data '{path.name}' has {found.st_size} bytes, "
                    f"{offset + count} are needed", where, "take the whole file again",
                )  # fmt: skip
            file.seek(offset)
            content = bytearray(count)
            file.readinto(content)
            return content
    except OSError as error:
        raise NetirError(
            f"cannot read external data '{path.name}': {reason(error)}", where, _COPY
        ) from None


def _inside(location: str, where: str, folder: Path | None) -> Path:
    """The file that external data names: in the model's folder, and reached through no link."""
    if folder is None:
        raise NetirError(
            "the model keeps tensors in another file", where,
            "pass the path of the .onnx file instead of its content",
        )  # fmt: skip
    parts = PurePosixPath(location).parts
    foreign = PureWindowsPath(location)
    if (
        not parts or ".." in parts or location.startswith("/") or "\\" in location
        or foreign.drive or "\0" in location
    ):  # fmt: skip
        raise NetirError(
            f"external data '{location[:80]}' leaves the model's folder", where,
            "a model names files beside it; load only models that you trust to be whole",
        )  # fmt: skip
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise NetirError(f"external data '{location[:80]}' is a link", where, _COPY)
    return path
