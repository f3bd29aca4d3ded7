"""A task of pictures in files: a folder or a zip with a folder for each class, or .npz parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from netir.checked import Data
from netir.errors import NetirError
from netir.tasks.archive import File, files_in
from netir.tasks.decoded import decoded
from netir.tasks.files import existing, four_arrays
from netir.tasks.parts import parts_in
from netir.tasks.pictures import Pictures
from netir.tasks.split import sound_share, split

_TRAIN = ("train", "training")
_TEST = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class Images(Pictures):
    """PNG and JPEG pictures in a folder or a zip file: `train/<class>/…` and `test/<class>/…`, or
    `<class>/…` alone, of which `test_share` are chosen by the seed to test on. Also an .npz file
    like MNIST's, a folder of train*.npz and test*.npz, and the binary form of CIFAR.

    `size` makes all pictures that wide and high, `grey` takes their colours away, `limit` takes
    only so many of each class.
    """

    name: ClassVar[str] = "images"
    path: str
    size: int | None = field(default=None, kw_only=True)
    grey: bool = field(default=False, kw_only=True)
    limit: int | None = field(default=None, kw_only=True)
    test_share: float = field(default=0.2, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        sound_share(self.test_share, self.name)
        for option, least in (("size", 1), ("limit", 2)):
            value = getattr(self, option)
            if value is not None and value < least:
                raise NetirError(f"{option}={value}", self.name, f"give at least {least}")

    def read(self) -> Data:
        """All pictures, in memory as they are: one byte for each number."""
        path = existing(self.path, self.name)
        if path.suffix == ".npz":
            return self._of_arrays(four_arrays(path), path)
        parts = parts_in(path)
        return self._of_arrays(parts, path) if parts else self._of_files(path)

    def _of_arrays(self, tensors: list[Tensor], path: Path) -> Data:
        if self.size or self.grey:
            raise NetirError(
                "size and grey are for PNG and JPEG files", str(path), "leave them out"
            )
        if self.limit:
            kept = [_first_of_each(labels, self.limit) for labels in tensors[1::2]]
            tensors = [t[kept[number // 2]] for number, t in enumerate(tensors)]
        return self.prepared(tensors, str(path))

    def _of_files(self, path: Path) -> Data:
        with files_in(path) as files:
            parts = _parts(files, str(path))
            classes = sorted({file.folder for file in parts["train"]})
            test = [file for file in parts.get("test", ()) if file.folder not in classes]
            if test:
                raise NetirError(
                    f"class '{test[0].folder}' is in the test data, and there is no example of it "
                    "to train on", str(path),
                )  # fmt: skip
            tensors = []
            shape = None
            for part in parts.values():
                labels = torch.tensor([classes.index(file.folder) for file in part])
                kept = _first_of_each(labels, self.limit) if self.limit else range(len(part))
                pictures = decoded([part[i] for i in kept], self.size, self.grey, shape)
                shape = pictures.shape[1:]
                tensors += [pictures, labels[kept]]
        if len(tensors) == 2:
            chosen = split(tensors[1], self.test_share, self.seed, self.name)
            tensors = [tensor[part] for part in chosen for tensor in tensors]
        return self.prepared(tensors, str(path), len(classes))


def _parts(files: list[File], where: str) -> Mapping[str, list[File]]:
    """The files to train on and to test on; without such folders, all of them to train on."""
    found: dict[str, list[File]] = {}
    for file in files:
        found.setdefault(file.part.lower(), []).append(file)
    train = next((found[name] for name in _TRAIN if name in found), None)
    test = next((found[name] for name in _TEST if name in found), None)
    if train and test:
        return {"train": train, "test": test}
    if train or test:
        missing = "test" if train else "train"
        raise NetirError(
            f"there is no folder '{missing}'", where,
            "put the pictures into train/<class>/ and test/<class>/, or into <class>/ alone",
        )  # fmt: skip
    return {"train": files}


def _first_of_each(labels: Tensor, limit: int) -> Tensor:
    labels = labels.flatten(1)[:, 0] if labels.dim() > 1 else labels
    kept = [(labels == c).nonzero().flatten()[:limit] for c in labels.unique()]
    return torch.cat(kept).sort().values


__all__ = ["Images"]
