"""One contract over all ops: what an op writes as ONNX, ONNX Runtime computes as torch does.

Every example of tests/examples.py becomes a graph of one node, is written as ONNX, and runs in
ONNX Runtime with other values and another size `n` than those of the example.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplemented_
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from torch import Tensor

from netir.dims import evaluate
from netir.evaluate import bound
from netir.ir import Graph, Node, Param, Ref, TensorType
from netir.lower.onnx import onnx_model
from netir.ops import OPS, Op
from netir.ops.base import NoLowering
from tests.examples import EXAMPLES
from tests.operands import Example, N, Operand, at, flags, places, x

NOT_IN_ONNX: Mapping[str, str] = {
    "opaque": "torch alone knows what it does",
    "i0": "ONNX has no Bessel functions",
    "i0e": "ONNX has no Bessel functions",
    "lgamma": "ONNX has no gamma function",
    "digamma": "ONNX has no gamma function",
    "erfinv": "ONNX has no inverse of erf",
}
"""The ops that ONNX cannot express, and why."""


def written(example: Example) -> bool:
    """Whether ONNX can express it; it has no LSTM with a projection."""
    projected = example.op.name == "lstm" and example.operands[-1].shape == (2, 3)  # type: ignore[union-attr]
    return example.op.name not in NOT_IN_ONNX and not projected


def in_float(value: Any) -> Any:
    """An example's float64 as float32, also in the attributes of its op."""
    match value:
        case torch.dtype():
            return torch.float32 if value == torch.float64 else value
        case Operand():
            return replace(value, dtype=in_float(value.dtype))
        case Op():
            given = getattr(value, "dtype", None)
            return replace(value, dtype=in_float(given)) if given is not None else value
        case Example():
            operands = tuple(in_float(o) for o in value.operands)
            return replace(value, op=in_float(value.op), operands=operands)
    return value


def alone(example: Example, drawn: list[Tensor | None]) -> Graph:
    """The op by itself as a graph: values are inputs, parameters are parameters."""
    inputs: dict[str, TensorType] = {}
    params: dict[str, Param] = {}
    operands: list[str | None] = []
    for i, (given, tensor) in enumerate(zip(example.operands, drawn, strict=True)):
        if given is None or tensor is None:
            operands.append(None)
        elif given.param:
            params[f"p{i}"] = Param(tensor)
            operands.append(f"@p{i}")
        else:
            inputs[f"x{i}"] = given.type
            operands.append(f"x{i}")
    if not any(N in kind.shape for kind in inputs.values()):  # something has to tell the sizes
        inputs["sizes"] = replace(EXAMPLES[0].operands[0], dtype=torch.float32).type  # type: ignore[type-var, union-attr]
    found = example.op.infer(*example.types()) or inputs["x0"]  # an opaque one has any type
    types = found if isinstance(found, tuple) else (found,)
    node = Node("y", example.op, tuple(operands), types)
    output = tuple(Ref(name) for name in node.results)
    return Graph("alone", inputs, {"y": node}, params, output, {n: Ref(n) for n in inputs})


def drawn_for(example: Example, n: int) -> list[Tensor | None]:
    """Operands of the example with `n` of this size."""
    found: list[Tensor | None] = []
    for operand in example.operands:
        if operand is None:
            found.append(None)
        else:
            shape = tuple(evaluate(d, {"n": n}) for d in operand.shape)
            found.append(replace(operand, shape=shape).draw())
    return found


def session(graph: Graph, *, optimised: bool) -> onnxruntime.InferenceSession:
    proto = onnx_ir.to_proto(onnx_model(graph))
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def expected(example: Example, operands: list[Tensor | None], n: int) -> list[Tensor]:
    found = bound(example.op, {"n": n}).to_torch(*operands)
    return [found] if isinstance(found, Tensor) else list(found)


def agrees(example: Example, tolerance: float) -> None:
    drawn = drawn_for(example, 3)
    graph = alone(example, drawn)
    runs = [session(graph, optimised=flag) for flag in (False, True)]
    for n in (3, 5):
        operands = drawn_for(example, n)
        operands = [
            d if e is not None and e.param else o
            for e, d, o in zip(example.operands, drawn, operands, strict=True)
        ]
        given = {f"x{i}": operands[i].numpy() for i in range(len(operands)) if f"x{i}" in graph.inputs}  # type: ignore[union-attr]  # noqa: E501
        if "sizes" in graph.inputs:
            given["sizes"] = np.zeros((n, 4, 5), dtype=np.float32)
        for run in runs:
            found = run.run(None, given)
            for a, b in zip(found, expected(example, operands, n), strict=True):
                assert a.dtype == b.numpy().dtype
                assert a.shape == tuple(b.shape)
                same(torch.from_numpy(np.asarray(a)), b, tolerance)


def same(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    if wanted.dtype.is_floating_point:
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    else:
        assert torch.equal(found, wanted)


WRITTEN = [
    pytest.param(e, id=f"{i}-{e.op.name}") for i, e in enumerate(EXAMPLES) if written(e)
]


@pytest.mark.parametrize("example", WRITTEN)
def test_onnx_runtime_agrees(example: Example) -> None:
    agrees(in_float(example), 1e-5)


@pytest.mark.parametrize("example", WRITTEN[::4])
def test_onnx_runtime_agrees_in_float64(example: Example) -> None:
    """Where it has code for it; attributes stay float32 in ONNX, and images are resized in it."""
    missing = "NOT_IMPLEMENTED"
    try:
        agrees(example, 1e-5)
    except (NotImplemented_, RuntimeException) as error:
        missing = str(error)
    assert "NOT_IMPLEMENTED" in missing or "does not support double" in missing


@pytest.mark.parametrize("example", [e for e in EXAMPLES if not written(e)])
def test_what_onnx_cannot_express_says_so(example: Example) -> None:
    with pytest.raises(NoLowering, match="ONNX has no"):
        onnx_model(alone(example, example.draw()))


@pytest.mark.parametrize(
    ("example", "why"),
    [
        (at(0, "index_put", x(N, 6), x(), flags(N), places(1, below=6)), "mask and another index"),
        (at(0, "interpolate", places(N, 2, 4, 4, below=9), mode="bilinear", size=(2, 2)),
         "bilinear interpolation of whole numbers"),
        (at(0, "pixel_unshuffle", x(2, N, 4, 4), factor=2), "known number of channels"),
        (at(0, "channel_shuffle", x(2, 2 * N, 4), groups=2), "known number of channels"),
    ],
)  # fmt: skip
def test_forms_that_onnx_cannot_express_say_so(example: Example, why: str) -> None:
    with pytest.raises(NoLowering, match=why):
        onnx_model(alone(example, example.draw()))


def test_what_nobody_reads_is_not_written() -> None:
    example = in_float(at(1, "max_at", x(N, 5), dim=1))
    graph = alone(example, example.draw())
    model = onnx_model(graph.replace(output=Ref("y.0")))
    assert [node.op_type for node in model.graph] == ["ReduceMax"]


def test_nothing_is_reshaped() -> None:
    """A size of 0 means 0, where ONNX could take it for the size before."""
    agrees(in_float(at(0, "reshape", x(N, 0, 4), shape=(0, 4))), 0)


def test_every_exception_is_an_op() -> None:
    assert set(NOT_IN_ONNX) <= set(OPS)
