"""Picture files as one tensor of bytes. Needs Pillow, which netir does without otherwise."""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from netir.errors import NetirError
from netir.tasks import files
from netir.tasks.archive import File

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_PIXELS = 64 << 20
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError,
            KeyError, TypeError, OverflowError, RuntimeError, MemoryError)  # fmt: skip


def decoded(
    parts: list[File], size: int | None, grey: bool, shape: torch.Size | None = None
) -> Tensor:
    """All pictures as count × colours × height × width, all of one shape."""
    found: Tensor | None = None
    for number, file in enumerate(parts):
        picture = _decoded(file, size, grey)
        if shape is None:
            shape = picture.shape
        if picture.shape != shape:
            raise NetirError(
                f"the picture is {_size(picture.shape)}, and those before it are {_size(shape)}",
                file.name, "give size=… to make them all of one size",
            )  # fmt: skip
        if found is None:
            if len(parts) * prod(shape) > files.LIMIT:
                raise files.too_much(file.name)
            found = torch.empty((len(parts), *shape), dtype=torch.uint8)
        found[number] = picture
    assert found is not None
    return found


def _decoded(file: File, size: int | None, grey: bool) -> Tensor:
    pillow = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # palettes, and sizes that are looked at below
            with pillow.open(BytesIO(file.read()), formats=("PNG", "JPEG")) as image:
                if prod(image.size) > _MOST_PIXELS:
                    raise NetirError(
                        f"the picture has {prod(image.size):,} pixels", file.name,
                        f"give at most {_MOST_PIXELS:,}",
                    )  # fmt: skip
                return _tensor(image.convert("L" if grey else "RGB"), size)
    except (*_DAMAGED, pillow.DecompressionBombError) as error:
        raise NetirError(
            f"this is no whole PNG or JPEG picture: {error}", file.name,
            "take another copy of it, or leave it out",
        ) from None  # fmt: skip


def _tensor(image: Image, size: int | None) -> Tensor:
    if size is not None and image.size != (size, size):
        image = image.resize((size, size))
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise NetirError(
            "PNG and JPEG pictures need Pillow, which is not installed", "task images",
            "pip install pillow",
        ) from None  # fmt: skip
    return Image


def _size(shape: torch.Size) -> str:
    return f"{shape[2]}×{shape[1]}"


__all__ = ["decoded"]
