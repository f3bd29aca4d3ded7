"""Mistakes with ONNX files, by the message that each ends in, as mistakes.py has them."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import torch
from onnx import TensorProto

import netir
from netir import NetirWarning
from netir.ops.pointwise import Relu
from tests.mistakes import Mistake, calls, graph, written
from tests.onnx_by_hand import model_of, node


def wrong_operator() -> object:
    with patch.object(Relu, "onnx", "Abs"):
        return netir.to_onnx(graph(), "net.onnx", torch.randn(2, 3))


def through_torch(model: Callable[[torch.Tensor], object]) -> object:
    """What comes of an operator that netir has no lowering for; that torch is asked is no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        return netir.to_onnx(calls(model), "net.onnx")


def search(x: torch.Tensor) -> torch.Tensor:
    return torch.searchsorted(torch.arange(5.0), x)


def without(package: str, make: Mistake) -> object:
    """What happens where a package is not installed."""
    found = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == package else found(name, *rest)  # noqa: E731
    with patch.dict("sys.modules", {package: None}), patch("importlib.util.find_spec", hidden):
        return make()


WRITING: Mapping[str, Mistake] = {
    "the ONNX file is not kept: …": wrong_operator,
    "the graph goes through torch.onnx.export, because of …":
        lambda: netir.to_onnx(calls(search), "net.onnx"),
    "ONNX operators take no complex numbers, and the … '…' has some":
        lambda: netir.to_onnx(calls(torch.fft.fft), "net.onnx"),
    "torch.onnx.export cannot export the graph: …":
        lambda: through_torch(lambda x: torch.cdist(x, x)),
    "torch.onnx.export needs onnxscript, which is not installed":
        lambda: without("onnxscript", lambda: through_torch(search)),
    "the graph does not run on given inputs: …": lambda: netir.to_onnx(
        calls(lambda x: torch.arange(5.0)[x.long()[0]]), "net.onnx", torch.full((2, 5), 9.0)
    ),
    "ONNX Runtime is not installed":
        lambda: without("onnxruntime", lambda: netir.to_onnx(graph(), "net.onnx")),
    "this ONNX Runtime has no provider '…'":
        lambda: netir.to_onnx(graph(), "net.onnx", provider="Abacus"),
}  # fmt: skip


def single(operator: str, inputs: str = "x", **attributes: Any) -> onnx.ModelProto:
    return model_of([node(operator, inputs, "y", **attributes)], {"x": [2, 2], "z": [2]}, ["y"])


def stored_outside(location: str) -> Path:
    """A model whose weight lies in another file."""
    model = model_of([node("Add", "x w", "y")], {"x": [4]}, ["y"], {"w": np.ones(4)})
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    return written("net.onnx", model.SerializeToString())


def linked_data() -> object:
    written("data", np.ones(4, np.float32).tobytes())
    Path("link").symlink_to("data")
    return netir.from_onnx(stored_outside("link"))


def list_of_dicts() -> object:
    zipped = onnx.helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml",
                                   classlabels_int64s=[0, 1])  # fmt: skip
    return netir.from_onnx(model_of([zipped], {"x": [2, 2]}, ["y"]))


def of_texts() -> object:
    model = single("Identity")
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    return netir.from_onnx(model)


READING: Mapping[str, Mistake] = {
    "this is no ONNX file, or only a part of one": lambda: netir.from_onnx(b"no protobuf"),
    "this file holds no ONNX graph": lambda: netir.from_onnx(b""),
    "cannot read a … as an ONNX model": lambda: netir.from_onnx(7),  # type: ignore[arg-type]
    "the model has opset …; … to … can be read": lambda: netir.from_onnx(
        model_of([node("Relu", "x", "y")], {"x": [2]}, ["y"], opset=6)
    ),
    "the model has operators that cannot be read: …": lambda: netir.from_onnx(single("Det")),
    "… has an attribute '…' that cannot be read":
        lambda: netir.from_onnx(single("Relu", slope=0.5)),
    "… reads input …, which is not constant": lambda: netir.from_onnx(single("NonZero")),
    "… gives a list of dicts": list_of_dicts,
    "elements of type string cannot be read": of_texts,
    "nothing gives the value '…'": lambda: netir.from_onnx(single("Relu", "nowhere")),
    "external data '…' leaves the model's folder":
        lambda: netir.from_onnx(stored_outside("../secret")),
    "external data '…' is a link": linked_data,
    "cannot read external data '…': …": lambda: netir.from_onnx(stored_outside("none")),
    "the model keeps tensors in another file":
        lambda: netir.from_onnx(stored_outside("data").read_bytes()),
    "the model has no input '…'":
        lambda: netir.from_onnx(single("Relu"), dynamic={"w": {0: "n"}}),
    "the model has no value '…'": lambda: netir.from_onnx(single("Relu"), outputs=["w"]),
    "the model has no outputs": lambda: netir.from_onnx(model_of([], {"x": [2]}, [])),
}  # fmt: skip

MISTAKES: Mapping[str, Mistake] = {**WRITING, **READING}
