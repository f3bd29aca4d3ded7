"""Arrays out of files: .npz, .npy, .safetensors and the idx files of MNIST.

Files are data: nothing in them is run, and no pickle is opened. What a file says of its own size is
checked before memory is taken.
"""

from __future__ import annotations

import gzip
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from netir.data import tensor_of
from netir.errors import NetirError
from netir.files import reason

LIMIT = 8 << 30
"""How many bytes the data of a task may take in memory."""

_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, SafetensorError, ValueError,
    EOFError, KeyError, NotImplementedError, RuntimeError, OverflowError, SyntaxError,
    tokenize.TokenError,
)  # fmt: skip
_IDX_TYPES = {8: np.uint8, 9: np.int8, 11: np.int16, 12: np.int32, 13: np.float32, 14: np.float64}


@contextmanager
def reading(path: Path | str, what: str = "file") -> Iterator[None]:
    """Whatever goes wrong with a file, in words."""
    try:
        yield
    except NetirError:
        raise
    except FileNotFoundError:
        raise NetirError(f"there is no such {what}", str(path), "check the path") from None
    except MemoryError:
        raise NetirError(f"the {what} needs more memory than there is", str(path)) from None
    except _DAMAGED as error:
        raise NetirError(
            f"the {what} is damaged: {error}", str(path), "take another copy of it"
        ) from None
    except OSError as error:
        raise NetirError(f"the {what} cannot be read: {reason(error)}", str(path)) from None


def existing(path: str, task: str) -> Path:
    """A path that is there."""
    found = Path(path)
    if not path or not found.exists():
        raise NetirError(
            f"there is no file or folder '{path}'", task, "check the path of the task"
        )  # fmt: skip
    return found


def named_arrays(path: Path, wanted: Collection[str]) -> dict[str, Tensor]:
    """Those arrays of a file that are wanted and there; in a folder each is a .npy file."""
    with reading(path):
        if path.is_dir():
            files = {name: path / f"{name}.npy" for name in wanted}
            return {name: _npy_file(file) for name, file in files.items() if file.is_file()}
        if path.suffix == ".npz":
            return _npz(path, wanted)
        if path.suffix == ".safetensors":
            return _safetensors(path, wanted)
    raise NetirError(
        f"a '{path.suffix}' file holds no named arrays that netir reads", str(path),
        "give a .npz or .safetensors file, or a folder of .npy files",
    )  # fmt: skip


def _npz(path: Path, wanted: Collection[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    left = LIMIT
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            name = item.filename.removesuffix(".npy")
            if name in wanted and name != item.filename:
                left -= item.file_size
                with archive.open(item) as stream:
                    found[name] = _npy(stream, item.file_size, left, f"{path}, array '{name}'")
    return found


def _npy_file(path: Path) -> Tensor:
    size = path.stat().st_size
    with path.open("rb") as stream:
        return _npy(stream, size, LIMIT - size, str(path))


def _npy(stream: IO[bytes], size: int, left: int, where: str) -> Tensor:
    """One array of a stream that has `size` bytes."""
    if left < 0:
        raise too_much(where)
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, by_columns, kind = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, by_columns, kind = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"it has version {version}")
    if kind.kind not in "biuf":
        raise NetirError(
            f"the array is of {'Python objects' if kind.hasobject else kind}, not of numbers",
            where, "store plain numbers: a pickle could run code when it is read",
        )  # fmt: skip
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * kind.itemsize > size:
        raise ValueError(f"it says that it has shape {shape}, and is too short for that")
    numbers = np.frombuffer(_whole(stream, count * kind.itemsize), kind)
    return tensor_of(numbers.reshape(shape, order="F" if by_columns else "C"), where)


def _whole(stream: IO[bytes], count: int) -> bytearray:
    found = bytearray(stream.read(count))
    if len(found) < count:
        raise EOFError(f"it ends after {len(found)} of {count} bytes")
    return found


def _safetensors(path: Path, wanted: Collection[str]) -> dict[str, Tensor]:
    if path.stat().st_size > LIMIT:
        raise too_much(str(path))
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name in wanted]  # noqa: SIM118
        found = {name: file.get_tensor(name).clone() for name in names}
    return {name: tensor_of(tensor, str(path)) for name, tensor in found.items()}


def idx_array(path: Path) -> Tensor:
    """The array in an idx file, packed by gzip or not."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with reading(path), opened(path, "rb") as stream:
        zeros, code, rank = struct.unpack(">HBB", _whole(stream, 4))
        if zeros or code not in _IDX_TYPES:
            raise ValueError("it does not begin as an idx file does")
        shape = struct.unpack(f">{rank}I", _whole(stream, 4 * rank))
        kind = np.dtype(_IDX_TYPES[code]).newbyteorder(">")
        size = math.prod(shape) * kind.itemsize
        if size > LIMIT:
            raise too_much(str(path))
        data = _whole(stream, size)
        if stream.read(1):
            raise ValueError("it is longer than it says")
    return tensor_of(np.frombuffer(data, kind).reshape(shape), str(path))


def too_much(where: str) -> NetirError:
    """The error for data that memory is not meant for."""
    return NetirError(
        f"the data takes more than {LIMIT >> 30} GiB in memory" if LIMIT >> 30 else
        f"the data takes more than {LIMIT} bytes in memory", where,
        "take a part of it, or pass your own loader to netir.Task.of",
    )  # fmt: skip


NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
"""What the arrays of a task are called: inputs and targets to train on, and to test on."""


def four_arrays(path: Path, test_needed: bool = True) -> list[Tensor]:
    """Inputs and targets to train on, and to test on where the file has them."""
    found = named_arrays(path, {name for names in NAMES for name in names})
    names = NAMES[0] if not found or set(NAMES[0]) & set(found) else NAMES[1]
    needed = names if test_needed or set(names[2:]) & set(found) else names[:2]
    missing = [name for name in needed if name not in found]
    if missing:
        raise NetirError(
            f"there is no array '{missing[0]}'", str(path),
            f"name the arrays {', '.join(NAMES[0])}",
        )  # fmt: skip
    return [found[name] for name in needed]


def parts_of(tensors: list[Tensor], where: str) -> list[tuple[Tensor, Tensor]]:
    """Pairs of inputs and targets that hold as many examples each."""
    pairs = list(zip(tensors[::2], tensors[1::2], strict=True))
    for x, y in pairs:
        counts = [len(t) if t.dim() else 0 for t in (x, y)]
        if counts[0] != counts[1] or not counts[0]:
            raise NetirError(
                f"there are {counts[0]} inputs and {counts[1]} targets", where,
                "give one target for each input, and at least one of each",
            )  # fmt: skip
    return pairs


__all__ = ["LIMIT", "existing", "four_arrays", "idx_array", "named_arrays", "parts_of", "reading",
           "too_much"]  # fmt: skip
