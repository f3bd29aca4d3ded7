"""Operators of `ai.onnx.ml` that scikit-learn's networks are exported with."""

from __future__ import annotations

from typing import Any

import torch

from netir.frontends.onnx.call import Call
from netir.frontends.onnx.value import Value, constant
from netir.ops import arithmetic, linear, order, pointwise, reduce
from netir.ops.index import IndexSelect
from netir.ops.join import Cat

_LABELS = (
    "train with whole numbers as labels, or read the scores only: outputs=['probabilities']"
)


def scaler(call: Call) -> Value:
    """`(x - offset) * scale`, as StandardScaler and MinMaxScaler do it."""
    x = call.cast(call[0], torch.float32)
    for name, cls in (("offset", arithmetic.Sub), ("scale", arithmetic.Mul)):
        numbers = call.numbers(name)
        if numbers is None or set(numbers) == {0.0 if name == "offset" else 1.0}:
            continue
        x = call.emit(cls(), x, call.constant(numbers, torch.float32))
    return x


def binarizer(call: Call) -> Value:
    """1 above a threshold, else 0."""
    above = call.emit(arithmetic.Gt(other=call.number("threshold", 0.0)), call[0])
    return call.cast(above, call[0].dtype)


def linear_regressor(call: Call) -> Value:
    """A linear layer."""
    _plain(call)
    return _scores(call, call.integer("targets", 1))


def linear_classifier(call: Call) -> Any:
    """A linear layer, its scores, and the label of the largest."""
    labels = call.integers("classlabels_ints")
    if labels is None:
        call.refuse("gives texts as labels", _LABELS)
    kind = call.text("post_transform", "NONE")
    call.integer("multi_class")  # says how it was trained, not what it computes
    intercepts = call.numbers("intercepts") or ()
    found = _scores(call, max(len(intercepts), 1 if len(labels) == 2 else len(labels)))
    if found.shape[1] == 1:
        if kind == "SOFTMAX" or kind not in ("NONE", "LOGISTIC"):
            call.refuse(f"turns one score into two by {kind}", "export with raw scores")
        other = call.emit(pointwise.Neg(), found)
        found = call.emit(Cat(1), other, found)
    match kind:
        case "LOGISTIC":
            found = call.emit(pointwise.Sigmoid(), found)
        case "SOFTMAX":
            found = call.emit(reduce.Softmax(1), found)
        case "NONE":
            pass
        case other_kind:
            call.refuse(f"ends in {other_kind}", "export with raw scores")
    best = call.emit(order.Argmax(1), found)
    return call.emit(IndexSelect(0), call.constant(labels, torch.int64), best), found


def _scores(call: Call, count: int) -> Value:
    numbers = call.numbers("coefficients") or ()
    weight = torch.tensor(numbers).reshape(count, -1)
    intercepts = call.numbers("intercepts")
    bias = None if not intercepts else constant(torch.tensor(intercepts), "", trained=True)
    x = call.cast(call[0], torch.float32)
    return call.emit(linear.Linear(), x, constant(weight, "", trained=True), bias)


def _plain(call: Call) -> None:
    kind = call.text("post_transform", "NONE")
    if kind != "NONE":
        call.refuse(f"ends in {kind}", "export with raw results")


def zip_map(call: Call) -> Any:
    """Scores as a list of dicts, which is no tensor."""
    call.refuse(
        "gives a list of dicts",
        "convert with options={'zipmap': False}, or read what it is made of: outputs=["
        f"'{call.node.inputs[0].name if call.node.inputs and call.node.inputs[0] else ''}']",
    )
