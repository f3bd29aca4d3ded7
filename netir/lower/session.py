"""ONNX Runtime, opened the same way everywhere: without noise, and on a GPU if there is one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.utils.dlpack
from torch import Tensor

from netir.errors import NetirError


def open_session(
    model: str | os.PathLike[str] | bytes,
    *,
    optimise: bool = True,
    provider: str | None = None,
    threads: int | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` of a file, or of a model's bytes.

    It runs on the GPU where there is one that ONNX Runtime can use, else on the CPU with as many
    threads as PyTorch; `provider` is `CUDA` or `CPU` to ask for one. `provider_of` says which.
    """
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or torch.get_num_threads()
    levels = runtime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    )
    source = model if isinstance(model, bytes) else os.fspath(model)
    return runtime.InferenceSession(source, options, providers=_providers(runtime, provider))


def provider_of(session: Any) -> str:
    """What a session runs on: `CUDA`, `CPU` or another of ONNX Runtime's."""
    name: str = session.get_providers()[0]
    return name.removesuffix("ExecutionProvider")


def run_session(session: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """What a session gives for inputs by name."""
    runtime = onnx_runtime()
    feed = {item.name: _value(runtime, inputs[item.name]) for item in session.get_inputs()}
    names = [item.name for item in session.get_outputs()]
    return [_tensor(value) for value in session.run_with_ort_values(names, feed)]


def onnx_runtime() -> Any:
    """The package, or a clear word about its absence."""
    try:
        import onnxruntime
    except ImportError:
        raise NetirError(
            "ONNX Runtime is not installed", fix="pip install onnxruntime"
        ) from None
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def _providers(runtime: Any, wanted: str | None) -> list[Any]:
    known = [name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers()]
    if wanted is None:
        wanted = "CUDA" if "CUDA" in known and torch.cuda.is_available() else "CPU"
    elif wanted not in known:
        raise NetirError(
            f"this ONNX Runtime has no provider '{wanted}'", fix=f"choose {' or '.join(known)}"
        )
    if wanted != "CUDA":
        return [f"{wanted}ExecutionProvider"]
    # float32 means float32: without this, convolutions are computed with 10 bits
    return [("CUDAExecutionProvider", {"use_tf32": 0}), "CPUExecutionProvider"]


def _value(runtime: Any, tensor: Tensor) -> Any:
    given = tensor.detach().cpu().contiguous()
    if given.dtype != torch.bfloat16:
        return runtime.OrtValue.ortvalue_from_numpy(given.numpy())
    from onnx import TensorProto

    bits = given.view(torch.uint16).numpy()
    return runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)


def _tensor(value: Any) -> Tensor:
    if value.element_type() == 16:  # bfloat16, which NumPy does not have
        return torch.utils.dlpack.from_dlpack(value).clone().cpu()
    return torch.from_numpy(value.numpy())


__all__ = ["onnx_runtime", "open_session", "provider_of", "run_session"]
