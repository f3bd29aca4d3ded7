"""Further forms of the ops that move, pick, write, order and summarise: one for each special case.

What every op has once is in examples.py. Here are negative and missing axes, open sizes, single
numbers, booleans and whole numbers, and the less common attributes.
"""

from collections.abc import Iterator

import torch

from netir.dims import Dim
from tests.operands import Example, N, Operand, at, flags, places, x


def whole(*shape: Dim, dtype: torch.dtype = torch.int32) -> Operand:
    """Whole numbers of a small type."""
    return Operand(shape, 0, 6, dtype)


def held(*shape: Dim) -> Operand:
    """A mask that holds everywhere."""
    return Operand(shape, 1, 2, torch.bool)


def behind(*shape: Dim, below: int) -> Operand:
    """Whole numbers that name indices, also from the back."""
    return Operand(shape, -below, below, torch.int64)


def _shapes() -> Iterator[Example]:
    yield at(0, "reshape", x(), shape=(1, 1))
    yield at(0, "reshape", x(1, 1), shape=())
    yield at(0, "reshape", x(N, 4), shape=(4, N))
    yield at(4, "reshape", x(N, 4, N), shape=(N * 2, 2, N))
    yield at(0, "permute", x(), dims=())
    yield at(2, "squeeze", x(N, 4), dims=())
    yield at(0, "unsqueeze", x(), dim=0)
    yield at(2, "expand", x(N, 4), shape=(N, 4))
    yield at(3, "expand", x(N, 1), shape=(2, N, N))
    yield at(2, "expand", x(), shape=(N, 2))
    yield at(1, "repeat", x(4, 1), repeats=(1, 1))
    yield at(2, "repeat", flags(4), repeats=(2, 3))
    yield at(2, "repeat_interleave", x(N, 4), repeats=3, dim=0)
    yield at(2, "repeat_interleave", x(4, 2), repeats=N, dim=0)
    yield at(1, "meshgrid", x(), x(4), indexing="xy")
    yield at(3, "cat", x(N, 4), places(N, 2, below=3), dim=1)
    yield at(0, "stack", x(), x(), dim=0)
    yield at(2, "split", x(N, 6), sizes=(6,), dim=1)
    yield at(3, "split", x(N * 2, 6), sizes=(N, N), dim=0)
    yield at(1, "slice", x(N, 8), dim=0, start=1)
    yield at(1, "slice", x(N, 8), dim=0, start=1, end=N - 1)
    yield at(1, "select", x(N, 4), dim=0, index=N - 1)
    yield at(1, "unbind", x(2, N), dim=0)
    yield at(1, "unbind", x(N, 1), dim=1)
    yield at(1, "meshgrid", x(4))
    yield at(1, "slice_scatter", x(N, 6), x(N, 3), dim=1, start=0, end=5, step=2)
    yield at(1, "slice_scatter", x(N, 6), x(N, 6), dim=1)
    yield at(1, "slice_scatter", x(N, 6), x(N - 1, 6), dim=0, start=1)
    yield at(1, "select_scatter", x(N, 6), x(N), dim=1, index=-1)
    yield at(1, "select_scatter", x(N, 6), x(6), dim=0, index=0)


def _patches() -> Iterator[Example]:
    yield at(1, "pixel_shuffle", x(8, 3, 3), factor=2)
    yield at(3, "pixel_shuffle", whole(N, 2, 8, 3, 3), factor=2)
    yield at(1, "pixel_unshuffle", x(2, 4, N * 2), factor=2)
    yield at(5, "channel_shuffle", x(2, 6, 4, N), groups=3)
    yield at(1, "im2col", x(4, 5, 6), kernel_size=(2, 3), dilation=(2, 1), stride=(1, 2))
    yield at(2, "im2col", x(2, 4, N + 2, N + 1), kernel_size=(2, 2), padding=(1, 0))
    yield at(1, "col2im", x(12, 4), kernel_size=(2, 2), output_size=(5, 5), stride=(2, 2),
             dilation=(2, 2))  # fmt: skip
    yield at(2, "col2im", x(2, 12, N + 2), kernel_size=(1, 2), output_size=(1, N + 1),
             padding=(0, 1))  # fmt: skip
    yield at(1, "unfold", x(N + 2, 4), dim=0, size=2, step=2)
    yield at(2, "interpolate", x(N, 4, 5), rank=1, mode="linear", size=(9,), align_corners=True)
    yield at(2, "interpolate", x(N, 4, 5), rank=1, mode="linear", size=(1,), align_corners=False)
    yield at(2, "interpolate", x(2, 4, N, 5), size=(N * 2, 7))
    yield at(2, "interpolate", x(2, 4, N, 5), mode="bilinear", scale=(2.0, 0.5),
             align_corners=False)  # fmt: skip
    yield at(2, "interpolate", x(N, 4, 3, 4, 5), rank=3, mode="trilinear", size=(5, 4, 2),
             align_corners=False)  # fmt: skip
    yield at(2, "interpolate", x(N, 4, 6, 6), mode="bicubic", size=(3, 9), align_corners=False,
             antialias=True)  # fmt: skip
    yield at(2, "interpolate", x(N, 4, 5, 7), mode="nearest-exact", size=(8, 3))
    yield at(2, "grid_sample", x(N, 4, 5, 5), x(N, 3, 2, 2), mode=2, padding=2,
             align_corners=True)  # fmt: skip
    yield at(2, "grid_sample", x(N, 4, 5, 5), x(N, 3, 2, 2), mode=1, padding=2)
    yield at(2, "grid_sample", x(N, 4, 3, 4, 5), x(N, 2, 2, 2, 3), align_corners=True)
    yield at(1, "affine_grid", x(N, 3, 4), size=(N, 4, 3, 5, 5), align_corners=True)


def _moves() -> Iterator[Example]:
    yield at(2, "pad", x(N, 4, 5), pad=(-1, 2), mode="reflect")
    yield at(2, "pad", x(N, 4, 5), pad=(0, -2), mode="replicate")
    yield at(2, "pad", x(N, 4, 5), pad=(-1, 2), value=0.5)
    yield at(2, "pad", x(2, N, 5), pad=(0, 0, 0, 9 - N))
    yield at(1, "pad", flags(N, 4), pad=(1, 1), value=True)
    yield at(1, "pad", whole(N, 4, dtype=torch.int16), pad=(1, 1), value=3)
    yield at(2, "pad", x(N, 4, 4, 5), pad=(2, 1, 1, 3), mode="circular")
    yield at(1, "roll", x(N, 4, 5), shifts=(-1, 7), dims=(0, 2))
    yield at(2, "roll", x(N, 4, 5), shifts=(4,), dims=(1,))
    yield at(2, "flip", x(N, 4), dims=())
    yield at(0, "flip", x(N, 4), dims=(0, 1))
    yield at(0, "flip", x(), dims=(0,))
    for k in (0, 2, -1):
        yield at(2, "rot90", x(N, 4, 5, 6), k=k, dims=(3, 1))
    yield at(1, "diff", flags(N, 5), flags(N, 2), dim=1)
    yield at(1, "diff", x(N, 5), n=2, dim=0)
    yield at(1, "triangle", flags(N, 5, 4), upper=False, diagonal=1)
    yield at(0, "triangle", x(N, N + 1), diagonal=N - 2)
    yield at(1, "diagonal", x(5, 4, N), offset=-2, dims=(1, 0))
    yield at(0, "diagonal", flags(4, 5))


def _orders() -> Iterator[Example]:
    for name in ("cumsum", "cumprod", "logcumsumexp"):
        yield at(1, name, x(N, 4), dim=0)
        yield at(0, name, x(), dim=0)
    yield at(1, "cumsum", x(N, 4), dim=1, dtype=torch.float32)
    yield at(1, "cumprod", whole(N, 4), dim=1)
    yield at(1, "sort", flags(N, 5), dim=1, stable=True)
    yield at(1, "sort", places(N, 5, below=3), dim=0, stable=True)
    yield at(0, "sort", x(), dim=0)
    yield at(1, "argsort", x(N, 4), dim=0, descending=True)
    yield at(1, "topk", x(N, 5), k=N, dim=1, largest=False)
    yield at(1, "sort", whole(N, 5, dtype=torch.int16), dim=1, stable=True)
    for name in ("argmax", "argmin"):
        yield at(0, name, x())
        yield at(0, name, x(N, 4), keepdim=True)
        yield at(1, name, whole(N, 4, dtype=torch.int16), dim=0)
    yield at(1, "max_at", flags(N, 5), dim=1)
    yield at(1, "min_at", whole(N, 5, dtype=torch.int8), dim=0, keepdim=True)
    yield at(1, "median_at", x(N, 4), dim=0)
    yield at(1, "kthvalue", x(N, 4), k=3, dim=1)
    yield at(2, "full", shape=(2, 3), value=True, dtype=torch.bool)
    yield at(0, "full", value=7, dtype=torch.int64)
    yield at(0, "arange", start=2, end=2 + 3 * N, step=3, size=N)
    yield at(0, "arange", start=5, end=0, step=-2, size=3, dtype=torch.float32)
    yield at(0, "arange", start=0.0, end=N, step=0.5, size=2 * N, dtype=torch.float64)


def _indices() -> Iterator[Example]:
    yield at(3, "index", x(N, 6, 4), None, behind(5, below=6))
    yield at(3, "index", x(6, 6, N), behind(2, 1, below=6), whole(5))
    yield at(1, "index", x(N, 4), behind(below=2))
    yield at(1, "index_select", x(N, 6), places(below=6), dim=1)
    yield at(2, "index_select", flags(N, 6), whole(3), dim=1)
    yield at(0, "one_hot", places(below=5), num_classes=5)
    for reduce in ("sum", "prod", "mean", "amax", "amin"):
        yield at(1, "scatter", x(N, 6), places(N, 5, below=6), x(N, 7), dim=1, reduce=reduce)
        yield at(1, "scatter", x(6, N), places(5, N, below=6), x(5, N), dim=0, reduce=reduce,
                 include_self=False)  # fmt: skip
    yield at(1, "scatter", places(N, 6, below=9), places(N, 5, below=6), places(N, 5, below=9),
             dim=1, reduce="mean")  # fmt: skip
    yield at(1, "scatter", places(N, 6, below=9), places(N, 5, below=6), places(N, 5, below=9),
             dim=1, reduce="amax", include_self=False)  # fmt: skip
    yield at(1, "scatter", flags(N, 6), places(N, 1, below=6), dim=1, value=True)
    yield at(0, "index_put", x(N, 6, 4), x(N, 5, 4), None, behind(5, below=6), accumulate=True)
    yield at(1, "index_put", x(N, 6, 4), x(1, 4), behind(2, 1, below=2), places(1, below=6))
    yield at(0, "index_put", x(6, 5, 4), x(5), places(1, below=6), None, places(1, below=4))
    yield at(1, "index_put", x(N, 6, 4), x(4), flags(N, 6), accumulate=True)
    yield at(1, "index_put", x(N, 6, 4), x(1, 4), flags(N, 6))
    yield at(0, "index_put", x(2, N, 4), x(2, 1, 1), None, flags(N))
    yield at(0, "index_put", flags(N, 4), flags(), flags(N, 4))
    yield at(1, "index_put", x(N, 4), x(N, 4), held(N))
    yield at(0, "index_put", x(2, N, 4), x(2, N, 1), None, held(N), accumulate=True)
    yield at(0, "masked_scatter", x(N, 4), flags(4), x(N, 5))
    yield at(0, "masked_scatter", flags(4), flags(N, 4), flags(N, 4))


def _measures() -> Iterator[Example]:
    for name in ("mean", "amax", "amin", "logsumexp", "sum", "any", "all", "vector_norm"):
        yield at(0, name, x())
        yield at(2, name, x(N, 4), dims=(0, 1))
    for name in ("amax", "amin", "any", "all"):
        yield at(2, name, whole(N, 4, dtype=torch.int8), dims=(1,))
        yield at(2, name, flags(N, 4), dims=(0,), keepdim=True)
    yield at(1, "sum", whole(N, 4, dtype=torch.int8), dims=(1,), keepdim=True)
    yield at(2, "any", whole(N, 4, dtype=torch.uint8), dims=(1,))
    yield at(1, "prod", whole(N, 4), dims=(0,), keepdim=True)
    yield at(2, "var", x(N, 4), dims=(0, 1))
    yield at(2, "var_mean", x(N, 4), dims=(0,), keepdim=True, root=True)
    for order in (1, 0.5, float("inf")):
        yield at(2, "vector_norm", x(N, 4), dims=(1,), ord=order)
    for order in (0, float("-inf")):
        yield at(1, "vector_norm", x(N, 4), dims=(1,), ord=order)
    yield at(2, "cosine_similarity", x(N, 4), x(N, 4), dim=0)
    yield at(0, "softmax", x(), dim=0)
    yield at(2, "softmax", places(N, 4, below=3), dim=1, log=True, dtype=torch.float32)


FORMS: tuple[Example, ...] = (
    *_shapes(), *_patches(), *_moves(), *_orders(), *_indices(), *_measures(),
)  # fmt: skip
"""All of them."""
