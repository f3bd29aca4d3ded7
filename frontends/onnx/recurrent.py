"""ONNX recurrent layers: their gates in torch's order, their results with torch's axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from netir.frontends.onnx.call import Call
from netir.frontends.onnx.value import Value
from netir.ops import Op, create, recurrent
from netir.ops.join import Cat, Split
from netir.ops.move import Flip
from netir.ops.shape import Permute, Reshape, Unsqueeze
from netir.ops.slices import Select

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where torch's gates stand in ONNX's weights: i o f c there is i f c o here, z r h is r z h."""
_PLAIN = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def layer(call: Call) -> Any:
    """An LSTM, GRU or plain recurrent layer over a whole sequence, in one or both directions."""
    kind, direction = call.operator, call.text("direction", "forward")
    cls = _class(call, kind, direction)
    x = call.permuted(call[0], (1, 0, 2)) if call.integer("layout") else call[0]
    reverse = direction == "reverse"
    x = call.emit(Flip((0,)), x) if reverse else x
    count = 2 if direction == "bidirectional" else 1
    hidden = call[2].shape[2]
    if call[2].shape[1] != hidden * len(_GATES[kind]):
        call.refuse("has states that are projected", "export the model without a projection")
    states = [_state(call, i, x, count, hidden) for i in ((5, 6) if kind == "LSTM" else (5,))]
    weights: list[Value] = []
    for number in range(count):
        weights += _weights(call, kind, number)
    op = cls(has_biases=call.given(3), bidirectional=count == 2)
    y, *last = call.results(op, x, *states, *weights)
    y = call.emit(Flip((0,)), y) if reverse else y
    if count == 1:
        y = call.emit(Unsqueeze(1), y)
    else:
        y = call.emit(Reshape((*y.shape[:2], 2, hidden)), y)
        y = call.emit(Permute((0, 2, 1, 3)), y)
    if call.integer("layout"):
        y = call.permuted(y, (2, 0, 1, 3))
        last = [call.permuted(state, (1, 0, 2)) for state in last]
    return y, *last


def _class(call: Call, kind: str, direction: str) -> Callable[..., Op]:
    """The op, unless the layer does what torch's does not."""
    plain = _PLAIN[kind] * (2 if direction == "bidirectional" else 1)
    given = call.attribute("activations")
    names = plain if given is None else tuple(str(v) for v in given)
    relu = kind == "RNN" and set(names) == {"Relu"}
    if tuple(n.lower() for n in names) != tuple(n.lower() for n in plain) and not relu:
        call.refuse(f"has the activations {names}", f"torch has {plain}")
    if call.number("clip", 0.0) or call.integer("input_forget"):
        call.refuse("clips, or ties its input and forget gates", "torch has neither")
    if kind == "GRU" and not call.integer("linear_before_reset"):
        call.refuse(
            "resets before its product (linear_before_reset=0)",
            "train it with reset after the product, as torch does (Keras: reset_after=True)",
        )
    if call.given(4):
        _whole_sequences(call)
    if call.given(7):
        call.refuse("has peepholes", "torch has none")
    return {"LSTM": recurrent.Lstm, "GRU": recurrent.Gru,
            "RNN": recurrent.RnnRelu if relu else recurrent.RnnTanh}[kind]  # fmt: skip


def _whole_sequences(call: Call) -> None:
    lengths = call[4].data
    steps = call[0].shape[1 if call.integer("layout") else 0]
    if lengths is None or set(lengths.reshape(-1).tolist()) != {steps}:
        call.refuse("has sequences of several lengths", "give sequences of one length")


def _state(call: Call, index: int, x: Value, count: int, hidden: Any) -> Value:
    """The first state: zeros where none is told."""
    found = call.maybe(index)
    if found is None:
        return call.emit(create.Full((count, x.shape[1], hidden), 0.0, x.dtype))
    if found.shape[-1] != hidden:
        call.refuse(f"has a state of {found.shape[-1]} numbers and weights for {hidden}",
                    "export the model without a projection")  # fmt: skip
    return call.permuted(found, (1, 0, 2)) if call.integer("layout") else found


def _weights(call: Call, kind: str, number: int) -> list[Value]:
    """The parameters of one direction as torch's layers have them."""
    found = [_ordered(call, kind, call.emit(Select(0, number), call[i])) for i in (1, 2)]
    if call.given(3):
        both = call.emit(Select(0, number), call[3])
        half = both.shape[0] // 2
        found += [
            _ordered(call, kind, part) for part in call.results(Split((half, half), 0), both)
        ]
    return found


def _ordered(call: Call, kind: str, rows: Value) -> Value:
    """Rows with the gates in torch's order."""
    order = _GATES[kind]
    if len(order) == 1:
        return rows
    gates = call.results(Split((rows.shape[0] // len(order),) * len(order), 0), rows)
    return call.emit(Cat(0), *(gates[i] for i in order))
