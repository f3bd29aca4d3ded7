"""The node tests that come with onnx, as models for `from_onnx` and what they must give.

Inputs that are no floats hold shapes, axes and the like: they become constants of the model where
a graph must know them. EXCLUDED says which cases are not claimed, and why.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.backend.test import loader

import netir
from netir.frontends.onnx import from_onnx
from netir.frontends.onnx.table import OPERATORS, key


@cache
def cases() -> dict[str, Any]:
    """Every node test whose operators all stand in the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = loader.load_model_tests(kind="node")
    return {c.name: c for c in found if claimed(c.model)}


def claimed(model: onnx.ModelProto) -> bool:
    """Whether all operators of a model can be read; those of functions in it as well."""
    nodes = [*model.graph.node, *(n for f in model.functions for n in f.node)]
    local = {(f.domain, f.name) for f in model.functions}
    return all(
        key(n.domain, n.op_type) in OPERATORS or (n.domain, n.op_type) in local for n in nodes
    )


def models(case: Any) -> Iterator[tuple[onnx.ModelProto, list[Any]]]:
    """The model as it is, with its inputs but the first stored in it, and with all of them."""
    inputs = [_array(i) for i in case.data_sets[0][0]]
    yield case.model, inputs
    if all(isinstance(i, np.ndarray) for i in inputs):
        for kept in range(min(len(inputs), 2)):
            yield _stored(case.model, inputs, kept), inputs[:kept]


def _stored(model: onnx.ModelProto, inputs: list[Any], kept: int) -> onnx.ModelProto:
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for info, array in zip(model.graph.input[kept:], inputs[kept:], strict=False):
        found.graph.initializer.append(numpy_helper.from_array(array, info.name))
    del found.graph.input[kept:]
    return found


def _array(given: Any) -> Any:
    if isinstance(given, list):
        return given
    return np.asarray(
        numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else given
    )


def tensor(array: Any) -> torch.Tensor:
    """An array as a tensor, also one of brain floats."""
    array = np.array(_array(array))
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def outputs(graph: netir.Graph, inputs: list[Any]) -> list[torch.Tensor]:
    """What a graph gives for arrays."""
    given = [tensor(i) for i in inputs]
    found = netir.run(graph, *given)
    return list(found.values()) if isinstance(found, dict) else [found]


EXCLUDED = {
    r"^test_attention_.*(past|present|qk_matmul|softcap|ext_cache|padded_kv|nonpad|gqa_rank4_mask)"
    r"(?!.*expanded)": "a cache of keys, scores as a result, or scores that are capped",
    r"^test_attention_.*(mask\w*_causal|causal\w*mask)(?!.*expanded)": "causal and masked at once",
    r"^test_attention_(3d_)?(local|bidirectional)_window(?!.*(expanded|default))":
        "attention in a window",
    r"^test_cast(like)?_.*(FLOAT8|FLOAT4|INT4|INT2)": "torch does not compute with packed numbers",
    r"^test_(add|sub|div|max|min|mod|greater|less|top_k)(_equal)?_uint(16|32|64)|wise_not_3d$":
        "torch does not compute with these",
    r"^test_(average|lp)pool_.*dilations": "torch has no pool of means or norms with dilations",
    r"batchnorm_.*_training|^test_training_dropout": "training mode",
    r"string": "texts",
    r"^test_gru_(?!with_seq)": "torch's GRU resets after the product",
    r"^test_lstm_with_peepholes": "torch's LSTM has no peepholes",
    r"^test_identity_(sequence|opt)|^test_sequence_insert|^test_split_to_sequence": "no tensors",
    r"^test_not_\dd$": "opset 1",
    r"^test_reduce_(max|min)_empty_set": "torch has no extreme of nothing",
    r"^test_resize_.*(downsample_scales_\w+_align_corners|exclude_outside|cubic_asymmetric)":
        "a way of resampling that torch has not",
    r"^test_resize_.*(crop_and_resize|sizes_linear_pytorch_half|antialias|half_pixel_symmetric)":
        "a way of resampling that torch has not",
    r"^test_maxpool_with_argmax_2d_precomputed_strides$": "places by columns",
    r"^test_col2im_5d$": "torch puts windows together over two axes",
    r"^test_scatternd_(multiply|max|min)": "torch writes and adds only",
    r"^test_top_k_same_values": "torch does not say which of equal values comes first",
}  # fmt: skip
"""Node tests that are not claimed, by their names, and why."""


def excluded(name: str) -> str:
    """Why a case is not claimed, or ''."""
    return next((why for pattern, why in EXCLUDED.items() if re.search(pattern, name)), "")


def disagreement(name: str) -> str:
    """What is wrong with what a case gives, or '': one of its forms must be read, and none wrong.

    A form whose sizes are inputs cannot be read: that is no mistake if another form can.
    """
    case, refusals = cases()[name], []
    for model, inputs in models(case):
        try:
            graph = from_onnx(model)
        except netir.NetirError as error:
            refusals.append(error.what)
            continue
        try:
            found = outputs(graph, inputs)
        except netir.NetirError as error:
            return f"{name}: {error}"
        wanted = [tensor(w) for w in case.data_sets[0][1]]
        for want, have in zip(wanted, found, strict=True):
            try:
                _expect_close(want, have, case)
            except AssertionError as error:
                return f"{name}: {error}"
    return f"{name}: {refusals}" if len(refusals) == len(list(models(case))) else ""


def _expect_close(want: torch.Tensor, have: torch.Tensor, case: Any) -> None:
    assert (want.dtype, want.shape) == (have.dtype, have.shape)
    low = {torch.float16: 5e-3, torch.bfloat16: 5e-2}.get(want.dtype, 1e-3)
    rtol, atol = max(case.rtol, low), max(case.atol, 1e-5, low * 1e-2)
    np.testing.assert_allclose(have.double(), want.double(), rtol=rtol, atol=atol)
