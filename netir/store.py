"""`.netir` files: a graph with its tensors, in one safetensors file.

The text form, the format's version and a checksum are the file's metadata; each tensor is stored
once, by its parameter's name. A file is data: reading one runs nothing in it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from netir.errors import NetirError, blaming
from netir.files import reason, replacing
from netir.ir import DTYPE_NAMES, Graph, expect_graph
from netir.text import parse_graph, print_graph

FORMAT = "1"
_STORABLE = frozenset(DTYPE_NAMES) - {torch.complex128}
_AGAIN = "save the graph again, or take another copy of the file"
_OTHERS = {".onnx": "netir export or netir.to_onnx", ".py": "netir lower or netir.to_python"}
"""What writes files of other kinds."""


def expect_savable(target: Path) -> None:
    """Refuse the name of a file of another kind."""
    if target.suffix in _OTHERS:
        raise NetirError(
            f"'{target.name}' is no name for a saved graph",
            fix=f"name a .netir file, or use {_OTHERS[target.suffix]}",
        )


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph and its tensors to a file.

    The file appears whole or not at all: a failure leaves what was there before.
    """
    expect_graph(graph)
    target = Path(path)
    expect_savable(target)
    tensors = dict(_storable(graph))
    text = print_graph(graph)
    metadata = {"netir": FORMAT, "graph": text, "sha256": _checksum(text, tensors)}
    with replacing(target) as draft:
        safetensors.torch.save_file(tensors, draft, metadata)
        _put_in_order(draft)


def _put_in_order(file: Path) -> None:
    """Give the metadata one order: safetensors writes them in another one in each process."""
    with file.open("r+b") as content:
        size = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        if len(text) == size:
            content.seek(8)
            content.write(text)


def load(path: str | os.PathLike[str], *, allow_ops: Collection[str] = ()) -> Graph:
    """Read a graph that `save` wrote; it does not depend on the file afterwards.

    Opaque nodes may call pure operators of torch itself, and those of `allow_ops`:
    `namespace.operator.overload` or a namespace.
    """
    source = Path(path)
    try:
        metadata, tensors = _read(source)
        return parse_graph(_text(metadata, tensors), tensors, allow_ops=allow_ops)
    except NetirError as error:
        where = f"{source}, {error.where}" if error.where else str(source)
        raise NetirError(error.what, where, error.fix) from error.__cause__


def _storable(graph: Graph) -> Iterator[tuple[str, Tensor]]:
    """Each tensor by itself: on the CPU, contiguous, sharing memory with no other."""
    seen: set[int] = set()
    for name, param in graph.params.items():
        data = param.data.detach()
        if name == "__metadata__":
            raise NetirError("no parameter can be stored as '__metadata__'", fix="rename it")
        if data.is_meta or data.layout is not torch.strided or data.is_quantized:
            kind = "meta" if data.is_meta else "quantized or sparse"
            raise NetirError(f"parameter '{name}' is a {kind} tensor", fix="store plain tensors")
        if data.dtype not in _STORABLE:
            raise NetirError(
                f"safetensors cannot store {DTYPE_NAMES.get(data.dtype, data.dtype)}",
                f"parameter '{name}'",
                "convert it to another element type",
            )
        data = data.resolve_conj().resolve_neg().cpu().contiguous()
        whole = data.untyped_storage().nbytes() == data.nbytes
        address = data.untyped_storage().data_ptr()
        if address in seen or not whole:
            data = data.clone()
            address = data.untyped_storage().data_ptr()
        seen.add(address)
        yield name, data


def _text(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """The graph of a file that is whole, as text."""
    version, text = metadata.get("netir"), metadata.get("graph", "")
    if version is None:
        raise NetirError(
            "this safetensors file holds no graph", fix="load one that netir.save wrote"
        )
    if version != FORMAT:
        raise NetirError(
            f"the file has format {version[:20]!r}, this netir reads {FORMAT!r}",
            fix="use the version of netir that wrote it",
        )
    if metadata.get("sha256") != _checksum(text, tensors):
        raise NetirError("the file is damaged: its checksum is wrong", fix=_AGAIN)
    return text


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Of the text and of every tensor with its name and type."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"\n{name}\n{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _read(source: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file; the tensors are copies of their own."""
    if source.is_dir():
        raise NetirError("this is a folder, not a file", fix="name the .netir file in it")
    with blaming(_unread), safe_open(source, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return dict(file.metadata() or {}), tensors


def _unread(error: Exception) -> NetirError:
    match error:
        case FileNotFoundError():
            return NetirError("there is no such file", fix="check the path")
        case OSError():
            return NetirError(f"cannot read the file: {reason(error)}")
    return NetirError(f"this is no whole .netir file ({error})", fix=_AGAIN)
