"""MNIST and data in its form, from a file that you have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from netir.checked import Data
from netir.errors import NetirError
from netir.tasks.files import existing, four_arrays, idx_array
from netir.tasks.pictures import Pictures

_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")  # fmt: skip


@dataclass(frozen=True)
class Mnist(Pictures):
    """MNIST, or data in its form (Fashion-MNIST, KMNIST): `path` is an .npz file with x_train,
    y_train, x_test and y_test, or a folder with the four idx files, packed by gzip or not.
    """

    name: ClassVar[str] = "mnist"
    path: str

    def read(self) -> Data:
        """All pictures, as the file splits them."""
        path = existing(self.path, self.name)
        tensors = _idx_arrays(path) if path.is_dir() else four_arrays(path)
        return self.prepared(tensors, str(path))


def _idx_arrays(folder: Path) -> list[Tensor]:
    return [idx_array(_idx_file(folder, name)) for name in _IDX]


def _idx_file(folder: Path, name: str) -> Path:
    dotted = name.replace("-idx", ".idx")
    for candidate in (name, f"{name}.gz", dotted, f"{dotted}.gz"):
        if (folder / candidate).is_file():
            return folder / candidate
    raise NetirError(
        f"the folder has no file '{name}'", str(folder),
        "give the folder of the four idx files, or an .npz file",
    )  # fmt: skip


__all__ = ["Mnist"]
