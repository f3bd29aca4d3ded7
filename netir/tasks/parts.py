"""Pictures in files of many: a folder of train*.npz and test*.npz, or CIFAR's binary version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from netir.errors import NetirError
from netir.tasks.files import LIMIT, named_arrays, reading, too_much

_PAIRS = (("x", "y"), ("images", "labels"))
_CIFAR = {"data_batch_*.bin": ("test_batch.bin", 1), "train.bin": ("test.bin", 2)}
"""The files to train on, the file to test on, and how many bytes of labels a picture has."""
_PICTURE = 3 * 32 * 32


def parts_in(path: Path) -> list[Tensor] | None:
    """Pictures and labels to train on, and to test on, if a folder holds such parts."""
    if not path.is_dir():
        return None
    for pattern, (test, labels) in _CIFAR.items():
        train = sorted(path.glob(pattern))
        if train and (path / test).is_file():
            return [*_cifar(train, labels), *_cifar([path / test], labels)]
    files = {part: sorted(path.glob(f"{part}*.npz")) for part in ("train", "test")}
    if not any(files.values()):
        return None
    for part, found in files.items():
        if not found:
            raise NetirError(
                f"there is no file {part}*.npz", str(path), "give parts to train and to test on"
            )
    return [*_npz(files["train"]), *_npz(files["test"])]


def _npz(files: list[Path]) -> tuple[Tensor, Tensor]:
    """All parts as one, which must fit each other."""
    found: list[tuple[Tensor, Tensor]] = []
    for file in files:
        arrays = named_arrays(file, {name for pair in _PAIRS for name in pair})
        pair = next((p for p in _PAIRS if p[0] in arrays and p[1] in arrays), None)
        if pair is None:
            raise NetirError("there are no arrays 'x' and 'y'", str(file), "name them x and y")
        x, y = arrays[pair[0]], arrays[pair[1]]
        if found and (x.shape[1:], x.dtype) != (found[0][0].shape[1:], found[0][0].dtype):
            raise NetirError(
                "the pictures are of another form than those of the first part", str(file),
                "store all parts with one shape and one type",
            )  # fmt: skip
        found.append((x, y))
    return torch.cat([x for x, _ in found]), torch.cat([y.flatten() for _, y in found])


def _cifar(files: list[Path], labels: int) -> tuple[Tensor, Tensor]:
    """Pictures and labels, the last byte of them, of CIFAR's records."""
    found = []
    for file in files:
        if file.stat().st_size > LIMIT:
            raise too_much(str(file))
        with reading(file):
            data = np.fromfile(file, np.uint8)
            found.append(torch.from_numpy(data.reshape(-1, labels + _PICTURE)))
    records = torch.cat(found)
    pictures = records[:, labels:].reshape(-1, 3, 32, 32)
    return pictures.contiguous(), records[:, labels - 1].contiguous()


__all__ = ["parts_in"]
