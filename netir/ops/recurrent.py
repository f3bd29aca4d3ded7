"""Recurrent layers over whole sequences, and their cells for one step.

The rows of a gate's weight are gates times hidden units, so the hidden axis is one space: it is
the same in every layer and direction, because the states of all of them share one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from netir.layouts import Layout
from netir.ops.base import AtenCall, Dim, NoLowering, Op, TensorType, expect, product
from netir.ops.linear import linear_in_onnx

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape

_FUNCTIONS: dict[str, Any] = {
    "gru": torch.gru, "rnn_tanh": torch.rnn_tanh, "rnn_relu": torch.rnn_relu,
    "gru_cell": torch.gru_cell, "rnn_tanh_cell": torch.rnn_tanh_cell,
    "rnn_relu_cell": torch.rnn_relu_cell,
}  # fmt: skip


@dataclass(frozen=True)
class _Recurrent(Op):
    """Layers that read a sequence step by step, in one direction or in both.

    Operands: x, the first states, then for each layer and direction: input weight, hidden weight,
    two biases if `has_biases`, and for projected LSTMs the projection. Results: the last layer's
    outputs (both directions end to end), then the last states.
    """

    modal = True
    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1
    order: ClassVar[tuple[int, ...]] = (0,)
    """The gates in the order of ONNX."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """Attributes of the operator in ONNX."""
    num_layers: int = 1
    has_biases: bool = True
    bidirectional: bool = False
    batch_first: bool = False
    dropout: float = 0.0

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _blocks(self, count: int) -> list[list[int]]:
        """The positions of the parameters of each layer and direction, of `count` operands."""
        first, blocks = 1 + self.states, self.num_layers * self.directions
        each, rest = divmod(count - first, blocks)
        plain = 4 if self.has_biases else 2
        expect(not rest and each in (plain, plain + 1), "not the weights of these layers")
        return [list(range(first + b * each, first + (b + 1) * each)) for b in range(blocks)]

    def layouts(self, site: Any) -> Any:
        x, states = site.shape(0), [site.shape(1 + i) for i in range(self.states)]
        time, batch = (1, 0) if self.batch_first else (0, 1)
        site.freeze(x[time], "the steps of a sequence")
        for state in states:
            site.freeze(state[0], "layers and directions")
            site.unify(state[1], x[batch])
        made, hidden = states[0][2], states[-1][2]
        blocks = self._blocks(len(site.node.operands))
        projected = len(blocks[0]) % 2 == 1
        if projected:  # torch tells it from a plain one by the sizes of the states
            site.freeze(made, "the size of a projection")
            site.freeze(hidden, "a projection must be smaller")
        else:
            site.unify(made, hidden)
        both = (*site.extent(self.directions), *made)
        gates = (*site.extent(self.gates), *hidden)
        for number, block in enumerate(blocks):
            below = x[2] if number < self.directions else both
            slots = [(0, 2)] if number < self.directions else []
            self._gate(site, block[0], gates, below, slots)
            self._gate(site, block[1], gates, made, [])
            for bias in block[2 : 4 if self.has_biases else 2]:
                site.unify(site.shape(bias)[0], gates)
            if projected:
                self._gate(site, block[-1], made, hidden, [])
        out = [x[0], x[1], both]
        return [tuple(out), *((s[0], s[1], s[2]) for s in states)]

    def _gate(self, site: Any, weight: int, rows: Layout, columns: Layout, slots: Any) -> None:
        """A weight that makes `rows` and sums over `columns`."""
        shape = site.shape(weight)
        site.unify(shape[0], rows)
        site.unify(shape[1], columns)
        if site.node.operands[weight][0] == "@":
            site.use("contract", columns, *slots, (weight, 1))
        else:  # several weights read x, and each is scaled for itself
            site.use("pair", columns, (weight, 1))

    def infer(self, x: TensorType, *rest: TensorType) -> tuple[TensorType, ...]:
        expect(x.rank == 3, f"input has {x.rank} dimensions, not 3")
        blocks = self._blocks(1 + len(rest))
        states, made = rest[: self.states], rest[0].shape[2]
        reads = rest[blocks[0][0] - 1].shape[1]
        expect(x.shape[2] == reads, f"input has {x.shape[2]} features, weight reads {reads}")
        out = x.with_shape((x.shape[0], x.shape[1], made * self.directions))
        return (out, *(x.with_shape(s.shape) for s in states))

    def macs(self, out: TensorType, x: TensorType, *rest: TensorType) -> Dim:
        weights: Dim = 0
        for kind in rest[self.states :]:
            weights = weights + (product(kind.shape) if kind.rank == 2 else 0)
        return x.shape[0] * x.shape[1] * weights

    def to_torch(self, *operands: Any, training: bool = False) -> Any:
        x, state, *params = operands
        return _FUNCTIONS[self.name](
            x, state, params, self.has_biases, self.num_layers, self.dropout, training,
            self.bidirectional, self.batch_first,
        )  # fmt: skip

    def to_onnx(self, g: Tape, x: OnnxValue, *rest: OnnxValue) -> Any:
        blocks = self._blocks(1 + len(rest))
        if len(blocks[0]) % 2:
            raise NoLowering(f"ONNX has no '{self.name}' with a projection")
        states = [g.split(s, 0, (self.directions,) * self.num_layers) for s in rest[: self.states]]
        x = g.transpose(x, (1, 0, 2)) if self.batch_first else x
        finals = []
        for layer in range(self.num_layers):
            mine = blocks[layer * self.directions : (layer + 1) * self.directions]
            params = [[rest[i - 1] for i in block] for block in mine]
            x, *last = self._layer(g, x, [s[layer] for s in states], params)
            finals.append(last)
        ends = [g.concat([last[i] for last in finals], 0) for i in range(self.states)]
        return (g.transpose(x, (1, 0, 2)) if self.batch_first else x, *ends)

    def _layer(
        self, g: Tape, x: OnnxValue, states: list[OnnxValue], params: list[list[OnnxValue]]
    ) -> list[OnnxValue]:
        """One layer in all its directions: its outputs end to end, and its last states."""
        weights = [
            g.concat([g.unsqueeze(self._ordered(g, block[i]), [0]) for block in params], 0)
            for i in range(len(params[0]))
        ]
        biases = g.concat(weights[2:], 1) if self.has_biases else None
        steps, batch, hidden = x.shape[0], x.shape[1], params[0][1].shape[1]
        attributes = {"hidden_size": hidden, **self.settings}
        if self.bidirectional:
            attributes["direction"] = "bidirectional"
        if "activations" in attributes:
            attributes["activations"] = attributes["activations"] * self.directions
        out, *last = g.op(
            self.onnx, [x, *weights[:2], biases, None, *states], attributes,
            outputs=1 + self.states, dtype=x.dtype,
        )  # fmt: skip
        flat = g.op("Reshape", [g.transpose(out, (0, 2, 1, 3)), (0, 0, -1)], shape=(
            steps, batch, self.directions * hidden
        ))  # fmt: skip
        return [flat, *last]

    def _ordered(self, g: Tape, weight: OnnxValue) -> OnnxValue:
        """The rows of a weight or bias with the gates in the order of ONNX."""
        if self.gates == 1:
            return weight
        parts = g.split(weight, 0, (weight.shape[0] // self.gates,) * self.gates)
        return g.concat([parts[i] for i in self.order], 0)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return None if call.options.pop("train", False) else cls(**call.options)


@dataclass(frozen=True)
class Lstm(_Recurrent):
    """Long short-term memory layers; operands and results as for `Gru`, with two states each.

    A projected LSTM has one more weight for each layer and direction, and smaller outputs.
    """

    name = "lstm"
    onnx = "LSTM"
    order = (0, 3, 1, 2)
    aten = ("lstm.input",)
    gates = 4
    states = 2

    def to_torch(self, *operands: Any, training: bool = False) -> Any:
        x, state, cell, *params = operands
        return torch.lstm(
            x, [state, cell], params, self.has_biases, self.num_layers, self.dropout,
            training, self.bidirectional, self.batch_first,
        )  # fmt: skip


@dataclass(frozen=True)
class Gru(_Recurrent):
    """Gated recurrent layers.

    Operands: x, the first states, then for each layer and direction the input weight, the hidden
    weight, and two biases if `has_biases`. Results: the last layer's outputs (both directions
    end to end), and the last states.
    """

    name = "gru"
    onnx = "GRU"
    order = (1, 0, 2)
    settings = {"linear_before_reset": 1}
    aten = ("gru.input",)
    gates = 3


@dataclass(frozen=True)
class RnnTanh(_Recurrent):
    """Plain recurrent layers with tanh; operands and results as for `Gru`."""

    name = "rnn_tanh"
    onnx = "RNN"
    settings = {"activations": ["Tanh"]}
    aten = ("rnn_tanh.input",)


@dataclass(frozen=True)
class RnnRelu(_Recurrent):
    """Plain recurrent layers with ReLU; operands and results as for `Gru`."""

    name = "rnn_relu"
    onnx = "RNN"
    settings = {"activations": ["Relu"]}
    aten = ("rnn_relu.input",)


@dataclass(frozen=True)
class _Cell(Op):
    """One step. Operands: x, the states, input weight, hidden weight, two biases or none."""

    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1

    def layouts(self, site: Any) -> Any:
        lead = "n " if len(site.shape(0)) == 2 else ""
        states, results = f", {lead}h" * self.states, ", ".join([f"{lead}h"] * self.states)
        rule = f"{lead}i{states}, (g h) i, (g h) h, (g h), (g h) -> {results}"
        weight = 2 + self.states
        made = site.apply(rule, fixed={"g": self.gates})
        kind = "contract" if site.node.operands[weight][0] == "@" else "pair"
        site.use(kind, site.shape(1)[-1], (weight, 1))
        return made

    def infer(self, x: TensorType, *rest: TensorType) -> Any:
        state, weight = rest[0], rest[self.states]
        expect(x.shape[-1] == weight.shape[1], f"input {x} does not fit weight {weight}")
        made = x.with_shape((*x.shape[:-1], state.shape[-1]))
        return (made,) * self.states if self.states > 1 else made

    def macs(self, out: TensorType, x: TensorType, *rest: TensorType) -> Dim:
        both = rest[self.states].shape[1] + rest[self.states + 1].shape[1]
        return product(out.shape) * self.gates * both

    def to_torch(self, *operands: Any) -> Any:
        return _FUNCTIONS[self.name](*operands)

    def to_onnx(self, g: Tape, x: OnnxValue, *rest: OnnxValue) -> Any:
        states, (read, kept, *biases) = rest[: self.states], rest[self.states :]
        first, second = biases or (None, None)
        new = linear_in_onnx(g, x, read, first)
        old = linear_in_onnx(g, states[0], kept, second)
        return self._step(g, new, old, *states)

    def _step(self, g: Tape, new: OnnxValue, old: OnnxValue, *states: OnnxValue) -> Any:
        """The next states from what the input and the first state give to the gates."""
        return g.op(self.onnx, [g.op("Add", [new, old])])

    def _gates(self, g: Tape, x: OnnxValue) -> list[OnnxValue]:
        size = x.shape[-1] // self.gates
        return g.split(x, -1, (size,) * self.gates)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls()


@dataclass(frozen=True)
class LstmCell(_Cell):
    """One step of an LSTM. Operands: x, two states, two weights, two biases or none."""

    name = "lstm_cell"
    aten = ("lstm_cell.default",)
    gates = 4
    states = 2

    def to_torch(self, *operands: Any) -> Any:
        x, state, cell, *params = operands
        return torch.lstm_cell(x, [state, cell], *params)

    def _step(self, g: Tape, new: OnnxValue, old: OnnxValue, *states: OnnxValue) -> Any:
        both = g.op("Add", [new, old], shape=new.shape)
        write, forget, value, read = self._gates(g, both)
        write, forget, read = (g.op("Sigmoid", [x]) for x in (write, forget, read))
        added = g.op("Mul", [write, g.op("Tanh", [value])])
        cell = g.op("Add", [g.op("Mul", [forget, states[1]]), added])
        return g.op("Mul", [read, g.op("Tanh", [cell])]), cell


@dataclass(frozen=True)
class GruCell(_Cell):
    """One step of a GRU. Operands: x, the state, two weights, two biases or none."""

    name = "gru_cell"
    aten = ("gru_cell.default",)
    gates = 3

    def _step(self, g: Tape, new: OnnxValue, old: OnnxValue, *states: OnnxValue) -> Any:
        pairs = zip(self._gates(g, new), self._gates(g, old), strict=True)
        (a, b), (c, d), (value, kept) = pairs
        reset, keep = (g.op("Sigmoid", [g.op("Add", pair)]) for pair in ([a, b], [c, d]))
        found = g.op("Tanh", [g.op("Add", [value, g.op("Mul", [reset, kept])])])
        way = g.op("Sub", [states[0], found])
        return g.op("Add", [found, g.op("Mul", [keep, way])])


@dataclass(frozen=True)
class RnnTanhCell(_Cell):
    """One step of a plain recurrent layer with tanh; operands as for `GruCell`."""

    name = "rnn_tanh_cell"
    onnx = "Tanh"
    aten = ("rnn_tanh_cell.default",)


@dataclass(frozen=True)
class RnnReluCell(_Cell):
    """One step of a plain recurrent layer with ReLU; operands as for `GruCell`."""

    name = "rnn_relu_cell"
    onnx = "Relu"
    aten = ("rnn_relu_cell.default",)
