"""Pictures in a folder or in a zip file, listed by class. A zip is read in memory, never unpacked.

The names in a zip serve as labels alone: no file is made by them, so that they can do no harm.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from netir.errors import NetirError
from netir.tasks.files import reading

PICTURES = (".png", ".jpg", ".jpeg")
_MOST_BYTES = 64 << 20
"""No picture file may be larger."""
_PICKLES = (".pkl", ".pickle", ".pt", ".pth")
_FORMS = "give a folder or a .zip file with train/<class>/*.png and test/<class>/*.png"


@dataclass(frozen=True, eq=False)
class File:
    """One picture file: its class is the folder that it lies in, its part the folder above."""

    name: str
    folder: str
    part: str
    read: Callable[[], bytes]


@contextmanager
def files_in(path: Path) -> Iterator[list[File]]:
    """The picture files of a folder or a zip file, in the order of their names."""
    if path.is_dir():
        yield _sound(list(_of_folder(path)), path)
    elif path.suffix.lower() == ".zip":
        with reading(path), zipfile.ZipFile(path) as archive:
            yield _sound(list(_of_zip(archive, path)), path)
    else:
        _refuse([path.name], path)


def _of_folder(path: Path) -> Iterator[File]:
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(names):
            file = Path(folder, name)
            if _is_picture(name) and file.is_file():
                inside = file.relative_to(path)
                yield _file(inside.parts, str(file), file.stat().st_size, file.read_bytes)


def _of_zip(archive: zipfile.ZipFile, path: Path) -> Iterator[File]:
    for item in sorted(archive.infolist(), key=lambda item: item.filename):
        parts = PurePosixPath(item.filename).parts
        if not item.is_dir() and _is_picture(item.filename) and "__MACOSX" not in parts:
            read = _reader(archive, item)
            yield _file(parts, f"{path}, {item.filename}", item.file_size, read)


def _reader(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> Callable[[], bytes]:
    return lambda: archive.read(item)


def _file(parts: tuple[str, ...], name: str, size: int, read: Callable[[], bytes]) -> File:
    if size > _MOST_BYTES:
        raise NetirError(
            f"the picture file has {size >> 20} MiB", name, f"give at most {_MOST_BYTES >> 20} MiB"
        )
    folder, part = (("", "", *parts)[-2], ("", "", *parts)[-3])
    return File(name, folder, part, read)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES) and not PurePosixPath(name).name.startswith(".")


def _sound(files: list[File], path: Path) -> list[File]:
    if not files:
        if path.is_dir():
            _refuse(sorted(os.listdir(path)), path)
        raise NetirError("there are no PNG or JPEG pictures in it", str(path), _FORMS)
    loose = next((file for file in files if not file.folder), None)
    if loose is not None:
        raise NetirError("this picture lies in no class folder", loose.name, _FORMS)
    return files


def _refuse(names: list[str], path: Path) -> None:
    """An error that says what is wrong with these files."""
    for name in names:
        if name.startswith(("data_batch", "cifar-")) or name.endswith(_PICKLES):
            raise NetirError(
                f"'{name}' is a Python pickle, or holds some: reading one can run any code",
                str(path), "take CIFAR's binary version, or pictures in class folders",
            )  # fmt: skip
    raise NetirError("there are no PNG or JPEG pictures in it", str(path), _FORMS)


__all__ = ["PICTURES", "File", "files_in"]
