"""Small ONNX models written by hand."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[Any]],
    outputs: list[str],
    stored: dict[str, Any] | None = None,
    opset: int = 18,
    **options: Any,
) -> onnx.ModelProto:
    """A model of float inputs, stored tensors and nodes."""
    kinds = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
    made = [helper.make_empty_tensor_value_info(n) for n in outputs]
    kept = [numpy_helper.from_array(_single(v), n) for n, v in (stored or {}).items()]
    graph = helper.make_graph(nodes, "net", kinds, made, kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **options)


def _single(value: Any) -> np.ndarray:
    found = np.asarray(value)
    return found.astype(np.float32) if found.dtype.kind == "f" else found


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; `_` stands for an input that is left out."""
    return helper.make_node(
        kind, [i if i != "_" else "" for i in inputs.split()], outputs.split(), **attributes
    )
