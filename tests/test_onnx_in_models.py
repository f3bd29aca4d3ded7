"""Reading ONNX models that netir itself, torch and scikit-learn write."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import netir
from netir import NetirError, passes
from netir.evaluate import input_values, values_of
from netir.ir import Graph
from netir.lower.onnx import onnx_model
from netir.ops.base import NoLowering
from tests.examples import EXAMPLES
from tests.operands import Example
from tests.test_onnx_ops import NOT_IN_ONNX, alone, drawn_for, in_float
from tests.zoo.traced import NAMES, fresh, traced

FAST = ("residual", "depthwise", "transposed", "encoder_layers", "grouped_native",
        "bidirectional_lstm", "gru", "group_norm", "language_model", "tied_layers")  # fmt: skip
"""Constructs that are exported by torch in every run of the tests; all of them in a soak."""


NOT_OF_TORCH = {"activations_hard", "dynamic_conv", "opaque_cdist", "opaque_several",
                "opaque_solve", "opaque_special", "orthogonal", "output_is_input",
                "pools"}  # fmt: skip
"""Constructs that torch.onnx.export cannot write."""

REFUSED = {
    "bags": "cannot be read: Loop",
    "index_put": "NonZero reads input 0, which is not constant",
    "projected_lstm": "has a state of 10 numbers and weights for 6",  # torch drops the projection
}
"""Constructs of which the export is refused, and with what words."""


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def gap(want: Graph, have: Graph, inputs: dict[str, Tensor]) -> float:
    """The largest difference of two graphs' outputs in float64, relative to the largest entry."""
    given = dict(zip(have.inputs, inputs.values(), strict=True))
    first = values_of(want, inputs, dtype=torch.float64)
    second = values_of(have, given, dtype=torch.float64)
    found = 0.0
    for a, b in zip(want.outputs, have.outputs, strict=True):
        left = first[a] if a[0] != "@" else want.params[a[1:]].data
        right = second[b] if b[0] != "@" else have.params[b[1:]].data
        assert left.shape == right.shape
        if left.numel():
            error = (left.double() - right.double()).abs().max()
            found = max(found, float(error / (left.double().abs().max() + 1e-30)))
    return found


# What netir writes


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.op.name)
def test_every_op_that_netir_writes_is_read(example: Example) -> None:
    example = in_float(example)
    drawn = drawn_for(example, 4)
    graph = alone(example, drawn)
    if example.op.name in NOT_IN_ONNX:
        return
    try:
        model = onnx_model(graph)
    except NoLowering:
        return
    if "NonZero" in [n.op_type for n in model.graph]:
        with pytest.raises(NetirError, match="NonZero reads input 0, which is not constant"):
            netir.from_onnx(model)
        return
    again = netir.from_onnx(model)
    operands = graph.nodes["y"].operands
    values = {"sizes": torch.zeros(4, 4, 5), **dict(zip(operands, drawn, strict=True))}
    given = [values[name] for name in graph.inputs]
    want, have = netir.run(graph, *given), netir.run(again, *given)
    for a, b in zip(tensors(want), tensors(have), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5, equal_nan=True)


SMALL = tuple(n for n in NAMES[: NAMES.index("resnet")] if n != "unet")


@pytest.mark.parametrize("name", [*SMALL[::6], "resnet", "vit", "bert", "gpt2"])
def test_networks_that_netir_writes_are_read(name: str) -> None:
    round_trip(name)


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_all_networks_that_netir_writes_are_read(name: str) -> None:
    round_trip(name)


def round_trip(name: str) -> None:
    sample, graph = traced(name)
    try:
        model = onnx_model(graph)
    except NoLowering:
        return
    again = netir.from_onnx(model)
    inputs = input_values(graph, sample.args, sample.kwargs)
    assert gap(graph, again, inputs) < 1e-5
    for key, param in graph.params.items():
        found = again.params.get(key)
        if found is not None and param.data.dim() != 2 and found.data.shape == param.data.shape:
            assert param.kind != "param" or torch.equal(found.data, param.data)
    assert str(again) == str(netir.from_onnx(model))


# What torch writes


def exported(name: str, path: Path) -> tuple[Any, Path]:
    pytest.importorskip("onnxscript")
    if name == "bidirectional_lstm" and torch.__version__ < "2.13":
        pytest.skip("this torch cannot export the states of an LSTM")
    sample = fresh(name)
    with quiet(), open(os.devnull, "w") as nothing:
        with redirect_stdout(nothing):
            program = torch.onnx.export(
                sample.model, sample.args, kwargs=sample.kwargs, dynamo=True, verbose=False,
                dynamic_shapes=sample.dynamic_shapes(),
            )  # fmt: skip
        assert program is not None
        program.save(path)
    return sample, path


@pytest.mark.parametrize("name", FAST)
def test_exports_of_torch_are_read_and_rewritten(name: str, tmp_path: Path) -> None:
    read_and_rewritten(name, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted({*SMALL} - {*FAST} - NOT_OF_TORCH - {*REFUSED}))
def test_all_exports_of_torch_are_read_and_rewritten(name: str, tmp_path: Path) -> None:
    read_and_rewritten(name, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", REFUSED)
def test_exports_of_torch_are_refused_in_words(name: str, tmp_path: Path) -> None:
    _, path = exported(name, tmp_path / "net.onnx")
    with pytest.raises(NetirError, match=re.escape(REFUSED[name])):
        netir.from_onnx(path)


def read_and_rewritten(name: str, folder: Path) -> None:
    sample, path = exported(name, folder / "net.onnx")
    graph = netir.from_onnx(path)
    given = tensors((sample.args, sample.kwargs))[: len(graph.inputs)]
    with torch.no_grad():
        wanted = tensors(sample.run())
    for found in (netir.run(graph, *given), netir.to_torch(graph)(*given)):
        for want, have in zip(wanted, tensors(found), strict=True):
            torch.testing.assert_close(have.detach(), want, rtol=1e-3, atol=1e-4)
    for change in (passes.Widen("*", factor=1.5), passes.Prune("*", amount=0.3)):
        with quiet():
            result = change(graph)
        netir.verify(graph, result, tuple(given))


# What scikit-learn writes


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return x[:300].astype(np.float32), y[:300]


def estimators() -> dict[str, Any]:
    x, y = digits()
    options = {"max_iter": 5, "random_state": 0}
    with quiet():
        return {
            "classifier": MLPClassifier((16, 8), **options).fit(x, y),
            "binary": MLPClassifier((8,), activation="tanh", **options).fit(x, y > 4),
            "regressor": MLPRegressor(hidden_layer_sizes=(8,), **options).fit(x, y),
            "scaled": make_pipeline(StandardScaler(), MLPClassifier((8,), **options)).fit(x, y),
            "ranged": make_pipeline(MinMaxScaler(), MLPRegressor(
                hidden_layer_sizes=(8,), **options)).fit(x, y),
            "linear": LogisticRegression(max_iter=5).fit(x, y),
            "linear_binary": LogisticRegression(max_iter=5).fit(x, y > 4),
        }  # fmt: skip


def converted(estimator: Any, **options: Any) -> onnx.ModelProto:
    skl2onnx = pytest.importorskip("skl2onnx")
    classifies = hasattr(estimator, "predict_proba")
    with quiet():
        given: onnx.ModelProto = skl2onnx.to_onnx(
            estimator, digits()[0][:1], options={id(estimator): options} if classifies else None
        )
    return given


@pytest.mark.parametrize("name", estimators())
def test_networks_of_scikit_learn_are_read(name: str) -> None:
    estimator, x = estimators()[name], digits()[0]
    graph = netir.from_onnx(converted(estimator, zipmap=False))
    found = netir.run(graph, torch.from_numpy(x))
    if not isinstance(found, dict):
        np.testing.assert_allclose(found[:, 0], estimator.predict(x), rtol=1e-4, atol=1e-4)
        return
    np.testing.assert_array_equal(found["label"], estimator.predict(x))
    chances = found["probabilities"].detach()
    np.testing.assert_allclose(chances, estimator.predict_proba(x), atol=1e-5)


def test_a_network_of_scikit_learn_is_a_stack_of_linear_modules() -> None:
    graph = netir.from_onnx(converted(estimators()["classifier"], zipmap=False))
    module = netir.to_torch(graph)
    assert [type(m) for m in module.children()] == [nn.Linear] * 3
    assert [n for n, _ in module.named_parameters()][:2] == ["linear.weight", "linear.bias"]
    thin = passes.Prune("*", amount=0.5)(graph)
    netir.verify(graph, thin, (torch.rand(4, 64),))
    assert thin.params["linear.weight"].data.shape == (8, 64)


def test_dicts_and_texts_of_scikit_learn_are_refused() -> None:
    x, y = digits()
    with quiet():
        model = MLPClassifier((4,), max_iter=2).fit(x, y)
        texts = MLPClassifier((4,), max_iter=2).fit(x, y.astype(str))
    with pytest.raises(NetirError, match="ZipMap gives a list of dicts") as error:
        netir.from_onnx(converted(model))
    inner = error.value.fix.split("'")[3]
    graph = netir.from_onnx(converted(model), outputs=[inner])
    assert netir.run(graph, torch.rand(2, 64)).shape == (2, 10)
    labelled = converted(texts, zipmap=False)
    with pytest.raises(NetirError, match="elements of type string cannot be read") as error:
        netir.from_onnx(labelled)
    assert "class labels as integers" in error.value.fix
    found = netir.run(netir.from_onnx(labelled, outputs=["probabilities"]), torch.rand(2, 64))
    assert found.shape == (2, 10)
