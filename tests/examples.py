"""Examples of every op, for tests; each has its plain form, and each of its branches one."""

from collections.abc import Iterator

import torch

from netir.ops.opaque import Slot
from tests.examples_forms import FORMS
from tests.operands import Example, N, at, flags, p, places, x


def _words(text: str) -> list[str]:
    return text.split()


_PLAIN = _words("""
    abs ceil contiguous cos cosh detach erf erfc exp exp2 expm1 floor frac hardsigmoid
    hardswish i0 i0e identity isfinite isinf isnan logsigmoid mish neg relu relu6 round selu sgn
    sigmoid sign silu sin sinc sinh square tan tanh trunc asinh atan celu dropout elu
    alpha_dropout feature_alpha_dropout feature_dropout gelu hardshrink hardtanh leaky_relu
    softplus softshrink threshold rrelu nan_to_num cast""")
_UNIT = _words("""
    acos asin atanh digamma entr erfinv lgamma log log10 log1p log2 logical_not reciprocal
    rsqrt sqrt""")
_TWO = _words("""
    add sub rsub mul div pow rpow remainder fmod minimum maximum atan2 hypot logaddexp
    copysign heaviside eq ne lt le gt ge logical_and logical_or logical_xor""")
_NUMBER = _words("add sub rsub mul div pow rpow remainder fmod copysign eq ne lt le gt ge")
_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _pointwise() -> Iterator[Example]:
    for name in _PLAIN:
        yield at(3, name, x(N, 4, 5))
    for name in _UNIT:
        yield at(3, name, x(N, 4, 5, low=0.1, high=0.9))
    yield at(2, "acosh", x(N, 4, low=1.1))
    for name in _TWO:
        yield at(3, name, x(N, 4, 5, low=0.5), x(4, 1, low=0.5))
    for name in _NUMBER:
        yield at(2, name, x(N, 4, low=0.5), other=1.5)
    yield at(2, "clamp", x(N, 4), min=-0.5)
    yield at(2, "clamp", x(N, 4), min=-0.5, max=1)
    for name in ("and", "or", "xor"):
        yield at(2, name, flags(N, 4), flags(4))
        yield at(2, name, places(N, 4, below=8), other=5)
    yield at(2, "bitwise_not", places(N, 4, below=8))
    yield at(2, "add", x(N, 4), x(N, 4), alpha=2)
    yield at(2, "sub", x(N, 4), x(N, 4), alpha=2)
    yield at(2, "div", x(N, 4), other=0.5, rounding_mode="floor")
    yield at(2, "add", places(N, 4, below=5), other=0.5)
    yield at(2, "add", x(N, 4), x())
    yield at(2, "mul", x(N, 4), other=N)
    yield at(2, "where", flags(N, 1), x(N, 4), x(4))
    yield at(2, "where", flags(N, 4), x(N, 4), y=0.0)
    yield at(2, "where", flags(N, 4), x(N, 4), x=1.0)
    yield at(3, "masked_fill", x(N, 4, 5), flags(N, 1, 5), value=-1.0)
    yield at(2, "masked_fill", x(N, 4), flags(4), x())
    yield at(2, "lerp", x(N, 4), x(4), weight=0.25)
    yield at(2, "lerp", x(N, 4), x(N, 4), p(4))
    yield at(2, "addcmul", x(N, 4), x(N, 4), p(4), value=2)
    yield at(2, "addcdiv", x(N, 4), x(N, 4), p(4), value=2)
    yield at(3, "prelu", x(N, 4, 5), p(4))
    yield at(3, "prelu", x(N, 4, 5), p(1))
    yield at(2, "gelu", x(N, 4), approximate="tanh")
    yield at(2, "elu", x(N, 4), alpha=0.5, scale=2.0, input_scale=0.5)
    yield at(3, "glu", x(N, 8, 5), dim=1)
    yield at(1, "cast", places(4, below=9), dtype=torch.float32)


def _products() -> Iterator[Example]:
    yield at(4, "linear", x(N, 5, 4), p(6, 4), p(6))
    yield at(2, "linear", x(4), p(6, 4))
    yield at(3, "matmul", x(N, 4), x(4, 5))
    yield at(5, "matmul", x(N, 2, 4, 5), x(2, 5, 6))
    yield at(2, "matmul", x(N, 4), x(4))
    yield at(2, "matmul", x(4), x(4, 5))
    yield at(1, "matmul", x(4), x(4))
    yield at(2, "outer", x(N), x(4))
    yield at(3, "addmm", p(6), x(N, 4), p(4, 6), beta=0.5, alpha=2)
    yield at(3, "addmm", x(N, 1), x(N, 4), p(4, 6))
    yield at(4, "addmm", x(N, 2, 6), x(N, 2, 4), x(N, 4, 6), batched=True)
    yield at(4, "addmm", x(1, 1, 6), x(N, 2, 4), x(N, 4, 6), batched=True)
    yield at(4, "einsum", x(N, 4, 5), x(N, 4, 6), equation="bci,bcj->bij")
    yield at(4, "einsum", x(N, 4, 5), p(6, 5), equation="...i,oi->...o")
    yield at(2, "einsum", x(N, 4), x(N, 4), equation="ij,ij->i")
    yield at(0, "einsum", x(4, 4), equation="ii->i")
    yield at(4, "bilinear", x(N, 4), x(N, 5), p(6, 4, 5), p(6))
    yield at(3, "embedding", p(7, 4), places(N, 5, below=7))
    yield at(3, "conv", x(N, 4, 5), p(6, 4, 3), p(6), rank=1, padding=(1,))
    yield at(3, "conv", x(N, 4, 5, 6), p(6, 4, 3, 2), p(6), stride=(2, 1), dilation=(1, 2))
    yield at(3, "conv", x(N, 4, 5, 6), p(6, 4, 3, 3), padding="same")
    yield at(4, "conv", x(N, 6, 5, 5), p(4, 3, 3, 3), p(4), groups=2)
    yield at(2, "conv", x(N, 6, 5, 5), p(6, 1, 3, 3), p(6), groups=6)
    yield at(3, "conv", x(N, 6, 5, 5), p(12, 1, 3, 3), groups=6)
    yield at(3, "conv", x(N, 2, 4, 4, 4), p(3, 2, 2, 2, 2), rank=3)
    yield at(3, "conv_transpose", x(N, 4, 5), p(4, 6, 3), p(6), rank=1, stride=(2,))
    yield at(3, "conv_transpose", x(N, 4, 5, 5), p(4, 6, 3, 3), stride=(2,), output_padding=(1,))
    yield at(4, "conv_transpose", x(N, 4, 5, 5), p(4, 3, 3, 3), p(6), groups=2)
    yield at(3, "group_conv", x(N, 8, 5, 5), p(1, 3, 3, 3, 4, 2), p(1, 3), groups=("C4",),
             padding=1, biased=True)  # fmt: skip
    yield at(3, "group_conv", x(N, 2, 6, 6), p(4, 3, 2, 2, 1, 2), groups=("D1",), ambient="D4",
             lifting=True, stride=2, padding=1)  # fmt: skip
    yield at(3, "group_conv", x(N, 8, 4, 4), p(1, 3, 3, 3, 4, 2), p(4, 3, 3, 3, 4, 2), p(1, 3),
             p(4, 3), p(2), groups=("C4", "C1"), biased=True)  # fmt: skip
    yield at(1, "group_conv", x(N, 8, 4, 4), p(1, 3, 3, 3, 4, 2), p(2, 3, 3, 3, 4, 2), p(2), p(2),
             groups=("C4", "C2"))  # fmt: skip
    yield at(4, "attention", x(N, 2, 5, 4), x(N, 2, 6, 4), x(N, 2, 6, 3), scale=0.5)
    yield at(4, "attention", x(N, 2, 5, 4), x(N, 2, 5, 4), x(N, 2, 5, 4), is_causal=True)
    yield at(4, "attention", x(N, 2, 5, 4), x(N, 2, 6, 4), x(N, 2, 6, 3), flags(5, 6))
    yield at(4, "attention", x(N, 2, 5, 4), x(N, 2, 6, 4), x(N, 2, 6, 3), x(N, 2, 1, 6))
    yield at(4, "attention", x(N, 2, 5, 4), x(N, 2, 6, 4), x(N, 2, 6, 3), x(2, 5, 6))
    yield at(3, "attention", x(N, 5, 4), x(N, 6, 4), x(N, 6, 3), flags(N, 5, 6))
    yield at(5, "attention", x(N, 4, 5, 4), x(N, 2, 6, 4), x(N, 2, 6, 3), enable_gqa=True)
    yield at(5, "attention", x(N, 4, 5, 4), x(N, 2, 6, 4), x(N, 2, 6, 3), x(N, 4, 5, 6),
             enable_gqa=True)  # fmt: skip


def _recurrent() -> Iterator[Example]:
    for name, gates in _GATES.items():
        states = 2 if name == "lstm" else 1
        hidden, both = 3, 6
        first = [p(gates * hidden, 5), p(gates * hidden, hidden)]
        upper = [p(gates * hidden, both), p(gates * hidden, hidden)]
        biases = [p(gates * hidden)] * 2
        yield at(3, name, x(4, N, 5), *[x(1, N, hidden)] * states, *first, *biases)
        yield at(3, name, x(N, 4, 5), *[x(4, N, hidden)] * states, *first, *biases, *first, *biases,
                 *upper, *biases, *upper, *biases, num_layers=2, bidirectional=True,
                 batch_first=True)  # fmt: skip
        yield at(3, name, x(N, 4, 5), *[x(1, N, hidden)] * states, *first, has_biases=False,
                 batch_first=True)  # fmt: skip
        cell = f"{name}_cell"
        yield at(3, cell, x(N, 5), *[x(N, hidden)] * states, *first, *biases)
        yield at(3, cell, x(N, 5), *[x(N, hidden)] * states, *first)
    yield at(2, "lstm", x(4, N, 5), x(2, N, 2), x(2, N, 3), p(12, 5), p(12, 2), p(12), p(12),
             p(2, 3), p(12, 5), p(12, 2), p(12), p(12), p(2, 3), bidirectional=True)  # fmt: skip


def _norms() -> Iterator[Example]:
    vectors = [p(4), p(4), p(4), p(4)]
    yield at(4, "batch_norm", x(N, 4, 5, 5), *vectors)
    yield at(2, "batch_norm", x(N, 4), None, None, p(4), p(4))
    yield at(3, "batch_norm", x(N, 4, 5), p(4), p(4))
    yield at(4, "field_norm", x(N, 8, 5, 5), p(2), p(2), p(2), p(2), ambient="C4")
    yield at(2, "instance_norm", x(N, 4, 5), p(4), p(4))
    yield at(2, "instance_norm", x(N, 4, 5), *vectors, use_input_stats=False)
    yield at(3, "layer_norm", x(N, 5, 4), p(4), p(4), normalized_shape=(4,))
    yield at(3, "layer_norm", x(N, 5, 4), normalized_shape=(5, 4))
    yield at(3, "rms_norm", x(N, 5, 4), p(4), normalized_shape=(4,), eps=1e-6)
    yield at(3, "group_norm", x(N, 6, 5), p(6), p(6), num_groups=2)
    yield at(3, "weight_norm", p(6, 4, 3), p(6, 1, 1))
    yield at(3, "weight_norm", p(6, 4, 3), p(1, 1, 3), dim=2)
    yield at(2, "weight_norm", p(6, 4), p(), dim=-1)
    yield at(3, "softmax", x(N, 4, 5), dim=1)
    yield at(3, "softmax", x(N, 4, 5), dim=2, log=True)
    for name in ("mean", "amax", "amin", "logsumexp", "sum", "var", "vector_norm", "var_mean",
                 "any", "all"):  # fmt: skip
        yield at(4, name, x(N, 4, 5, 5), dims=(1, 3))
        yield at(4, name, x(N, 4, 5, 5), dims=(1,), keepdim=True)
    yield at(1, "sum", flags(N, 4), dims=(1,))
    yield at(2, "var", x(N, 4), dims=(1,), correction=0, root=True)
    yield at(2, "var_mean", x(N, 4), dims=(1,), correction=0, root=True)
    yield at(2, "vector_norm", x(N, 4), dims=(1,), ord=3)
    yield at(1, "vector_norm", x(N, 4), dims=(1,), ord=-1)
    yield at(1, "prod", x(N, 4), dims=(1,))
    yield at(2, "aminmax", x(N, 4), dims=(1,), keepdim=True)
    yield at(3, "cosine_similarity", x(N, 4, 5), x(N, 4, 1))
    yield at(1, "cosine_similarity", x(N, 4), x(N, 1))
    for name in ("max_pool", "avg_pool", "max_pool_at"):
        yield at(2, name, x(N, 4, 6), rank=1, kernel_size=(2,))
        yield at(2, name, x(N, 4, 7, 7), kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
        yield at(2, name, x(N, 4, 7, 6), kernel_size=(2,), ceil_mode=True)
        yield at(1, name, x(4, 5, 5, 5), rank=3, kernel_size=(2, 2, 2))
    yield at(4, "group_pool", x(N, 8, 5, 5), over="C4", ambient="C4")
    yield at(4, "group_pool", x(N, 16, 5, 5), over="D1", ambient="D4", kind="max")
    yield at(2, "avg_pool", x(N, 4, 6, 6), kernel_size=(3, 3), padding=(1, 1),
             count_include_pad=False)  # fmt: skip
    for name in ("adaptive_avg_pool", "adaptive_max_pool"):
        yield at(2, name, x(N, 4, 7), output_size=(3,))
        yield at(2, name, x(N, 4, 7, 5), output_size=(3, 1))
        yield at(2, name, x(N, 4, 4, 4, 4), output_size=(2, 2, 2))


def _shapes() -> Iterator[Example]:
    yield at(3, "reshape", x(N, 6, 4), shape=(N, 24))
    yield at(4, "reshape", x(N, 24), shape=(N, 2, 3, 4))
    yield at(4, "reshape", x(N * 5, 4, 6), shape=(N, 5, 24))
    yield at(0, "reshape", x(4, 6), shape=(6, 4))
    yield at(3, "permute", x(N, 4, 5), dims=(0, 2, 1))
    yield at(2, "unsqueeze", x(N, 4), dim=1)
    yield at(2, "squeeze", x(N, 1, 4, 1), dims=(1, 3))
    yield at(3, "expand", x(4, 1), shape=(N, 4, 5))
    yield at(4, "repeat", x(4, 1, 2), repeats=(N, 2, 5, 1))
    yield at(2, "repeat_interleave", x(N, 4), repeats=2, dim=1)
    yield at(3, "meshgrid", x(N), x(4), x(5))
    yield at(2, "meshgrid", x(N), x(4), indexing="xy")
    yield at(4, "cat", x(N, 4, 5), x(N, 2, 5), dim=1)
    yield at(2, "cat", x(N, 4), x(0), dim=1)
    yield at(2, "stack", x(N, 4), x(N, 4), dim=1)
    yield at(3, "split", x(N, 6), sizes=(2, 4), dim=1)
    yield at(4, "split", x(N, 6, 5), sizes=(3, 3), dim=1)
    yield at(3, "slice", x(N, 8, 5), dim=1, start=0, end=8)
    yield at(4, "slice", x(N, 8), dim=1, start=2, end=5)
    yield at(1, "slice", x(N, 8), dim=1, start=1, end=7, step=2)
    yield at(2, "select", x(N, 4, 5), dim=1, index=-1)
    yield at(2, "unbind", x(N, 2, 5), dim=1)
    yield at(1, "slice_scatter", x(N, 6), x(N, 2), dim=1, start=2, end=4)
    yield at(1, "select_scatter", x(N, 6), x(N), dim=1, index=2)
    yield at(2, "pixel_shuffle", x(N, 8, 3, 3), factor=2)
    yield at(2, "pixel_unshuffle", x(N, 2, 4, 4), factor=2)
    yield at(5, "channel_shuffle", x(N, 6, 4, 4), groups=2)
    yield at(2, "im2col", x(N, 4, 5, 5), kernel_size=(3, 3), padding=(1, 1))
    yield at(2, "col2im", x(N, 12, 16), kernel_size=(2, 2), output_size=(5, 5))
    yield at(2, "unfold", x(N, 8, 4), dim=1, size=3, step=2)
    yield at(2, "interpolate", x(N, 4, 5), rank=1, size=(7,))
    yield at(2, "interpolate", x(N, 4, 5, 5), mode="bilinear", scale=(2.0, 1.5),
             align_corners=False)  # fmt: skip
    yield at(2, "interpolate", x(N, 4, 5, 5), mode="bicubic", size=(8, 3), align_corners=True)
    yield at(2, "interpolate", x(N, 4, 6, 6), mode="bilinear", size=(3, 3), align_corners=False,
             antialias=True)  # fmt: skip
    yield at(2, "interpolate", x(N, 2, 3, 3, 3), rank=3, mode="nearest-exact", scale=(2.0,) * 3)


def _moves() -> Iterator[Example]:
    yield at(2, "pad", x(N, 4, 5), pad=(1, 2))
    yield at(2, "pad", x(N, 4, 5, 5), pad=(1, 2, 0, 1), mode="reflect")
    yield at(1, "pad", x(N, 4), pad=(0, 0, 1, 1), value=1.5)
    yield at(2, "pad", x(N, 4, 5), pad=(1, -1), mode="circular")
    yield at(2, "roll", x(N, 4, 5), shifts=(1,), dims=(2,))
    yield at(0, "roll", x(N, 4), shifts=(1,))
    yield at(2, "flip", x(N, 4, 5), dims=(2,))
    yield at(2, "rot90", x(N, 4, 5, 6), dims=(2, 3))
    yield at(1, "diff", x(N, 5), x(N, 1), n=1, dim=1)
    yield at(2, "diff", x(N, 5, 4), None, x(N, 2, 4), n=2, dim=1)
    yield at(2, "triangle", x(N, 2, 5, 5))
    yield at(2, "triangle", x(N, 2, 5, 5), upper=False, diagonal=-1)
    yield at(2, "diagonal", x(N, 5, 4, 6), offset=1, dims=(1, 3))
    yield at(2, "cumsum", x(N, 5, 4), dim=1)
    yield at(1, "cumsum", flags(N, 5), dim=1)
    yield at(2, "cumprod", x(N, 5, 4), dim=1)
    yield at(2, "logcumsumexp", x(N, 5, 4), dim=1)
    yield at(2, "sort", x(N, 5, 4), dim=1, descending=True)
    yield at(2, "sort", x(N, 5, 4), dim=1, stable=True)
    yield at(2, "argsort", x(N, 5, 4), dim=1)
    yield at(2, "topk", x(N, 5, 4), k=2, dim=1)
    yield at(2, "argmax", x(N, 5, 4), dim=1)
    yield at(0, "argmax", x(N, 5, 4))
    yield at(2, "argmin", x(N, 5, 4), dim=1, keepdim=True)
    for name in ("max_at", "min_at", "median_at", "kthvalue"):
        yield at(2, name, x(N, 5, 4), dim=1)
        yield at(2, name, x(N, 5, 4), dim=1, keepdim=True)
    yield at(3, "full", shape=(N, 4, 2), value=1.5)
    yield at(0, "arange", start=0, end=N, size=N)
    yield at(0, "opaque", x(N, 4), x(N, 4), target="aten.cdist.default",
             arguments=(Slot(0), Slot(1)))  # fmt: skip


def _indices() -> Iterator[Example]:
    yield at(3, "index", x(6, N, 4), places(5, below=6))
    yield at(4, "index", x(N, 6, 4), None, places(2, 5, below=6))
    yield at(4, "index", x(6, N, 6, 4), places(2, 1, below=6), None, places(5, below=6))
    yield at(3, "index", x(N, 6, 5, 4), None, places(2, below=6), places(1, below=5))
    yield at(3, "index_select", x(N, 6, 4), places(5, below=6), dim=1)
    yield at(3, "gather", x(N, 6, 4), places(N, 5, 4, below=6), dim=1)
    yield at(2, "gather", x(N, 6, 4), places(N, 5, 2, below=6), dim=1)
    for attributes in ({}, {"reduce": "sum"}, {"reduce": "amax"}):
        yield at(2, "scatter", x(N, 6, 4), places(N, 6, 4, below=1), x(N, 6, 4), dim=1,
                 **attributes)  # fmt: skip
    yield at(1, "scatter", x(N, 6, 4), places(N, 5, 2, below=6), dim=1, value=2.5)
    yield at(2, "index_put", x(6, N, 4), x(5, N, 4), places(5, below=6), accumulate=True)
    yield at(2, "index_put", x(6, N, 4), x(1, 4), places(1, below=6))
    yield at(2, "index_put", x(N, 6, 4), x(), None, places(5, below=6))
    yield at(1, "index_put", x(N, 6, 4), x(4), flags(N, 6))
    yield at(0, "masked_scatter", x(N, 4), flags(N, 4), x(N, 4))
    yield at(2, "one_hot", places(N, 4, below=5), num_classes=5)
    yield at(2, "grid_sample", x(N, 4, 5, 5), x(N, 3, 2, 2))
    yield at(2, "grid_sample", x(N, 4, 3, 3, 3), x(N, 2, 2, 2, 3), mode=1, padding=1)
    yield at(1, "affine_grid", x(N, 2, 3), size=(N, 4, 5, 5))


EXAMPLES: tuple[Example, ...] = (
    *_pointwise(), *_products(), *_recurrent(), *_norms(), *_shapes(), *_moves(), *_indices(),
    *FORMS,
)  # fmt: skip
"""All of them; every op has at least one."""
