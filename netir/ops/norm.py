"""Normalisations, by batch, layer, group, instance, root mean square, and of weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from netir.ops.base import AtenCall, Op, Tensor, TensorType, expect, promote

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


@dataclass(frozen=True)
class BatchNorm(Op):
    """Normalise every channel: by running statistics in eval mode, by the batch's in train mode.

    Operands: x, weight, bias, running mean, running variance; all but x may be left out.
    """

    name = "batch_norm"
    overwritable = True
    modal = True
    aten = ("batch_norm.default",)
    fills = {1: 1.0, 4: 1.0}
    momentum: float | None = 0.1
    """The share of new statistics in train mode; None for the mean of all so far."""
    eps: float = 1e-5

    def layouts(self, site: Any) -> Any:
        operands = site.node.operands
        steady = len(operands) > 3 and operands[3] is not None
        if steady:
            return site.apply("n c ..., c, c, c, c -> n c ...")
        places = "defgh"[: site.node.types[0].rank - 2]  # its own statistics mix them
        mixed = " ".join(f"{place}!" for place in places)
        return site.apply(f"n! c {mixed}, c, c, c, c -> n c {' '.join(places)}")

    def infer(self, x: TensorType, *vectors: TensorType | None) -> TensorType:
        for vector in vectors:
            expect(vector is None or vector.shape == (x.shape[1],), "statistics do not fit input")
        return x

    def to_torch(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        mean: Tensor | None = None,
        variance: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        training = True if mean is None else training
        momentum = 0.0 if self.momentum is None else self.momentum
        return F.batch_norm(x, mean, variance, weight, bias, training, momentum, self.eps)

    def to_onnx(self, g: Tape, x: OnnxValue, *vectors: OnnxValue | None) -> Any:
        weight, bias, mean, variance = [*vectors, None, None, None, None][:4]
        if mean is not None and variance is not None:
            return _with_statistics(g, x, (weight, bias, mean, variance), self.eps)
        axes = [i for i in range(x.rank) if i != 1]
        mean = g.reduce("ReduceMean", x, axes, keepdims=True)
        centred = g.op("Sub", [x, mean])
        squares = g.op("Mul", [centred, centred])
        variance = g.binary("Add", g.reduce("ReduceMean", squares, axes, keepdims=True), self.eps)
        found = g.op("Div", [centred, g.op("Sqrt", [variance])])
        return _scaled(g, found, weight, bias, x.rank - 2)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        call.options.pop("cudnn_enabled", None)
        running = len(call.operands) > 3 and call.operands[3:4] not in ([], [None])
        if call.options.pop("training", False) and running:
            return None
        return cls(**call.options)


@dataclass(frozen=True)
class InstanceNorm(Op):
    """Normalise every channel of every sample over its positions."""

    name = "instance_norm"
    overwritable = True
    aten = ("instance_norm.default",)
    fills = {1: 1.0, 4: 1.0}
    use_input_stats: bool = True
    momentum: float = 0.1
    eps: float = 1e-5

    @property
    def axes(self) -> str:
        return "n c _*, c, c, c, c -> n c _*"

    def infer(self, x: TensorType, *vectors: TensorType | None) -> TensorType:
        return x

    def to_torch(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        mean: Tensor | None = None,
        variance: Tensor | None = None,
    ) -> Tensor:
        return F.instance_norm(
            x, mean, variance, weight, bias, self.use_input_stats, self.momentum, self.eps
        )

    def to_onnx(self, g: Tape, x: OnnxValue, *vectors: OnnxValue | None) -> Any:
        weight, bias, mean, variance = [*vectors, None, None, None, None][:4]
        if not self.use_input_stats and mean is not None and variance is not None:
            return _with_statistics(g, x, (weight, bias, mean, variance), self.eps)
        weight = g.filled(x.shape[1:2], 1, x.dtype) if weight is None else weight
        bias = g.filled(x.shape[1:2], 0, x.dtype) if bias is None else bias
        return g.op("InstanceNormalization", [x, weight, bias], {"epsilon": self.eps})

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        call.options.pop("cudnn_enabled", None)
        return cls(**call.options)


@lru_cache
def _over_last(count: int) -> str:
    last = "abcdefgh"[:count]
    mixed, plain = " ".join(f"{c}!" for c in last), " ".join(last)
    return f"... {mixed}, {plain}, {plain} -> ... {plain}"


@dataclass(frozen=True)
class _LastAxes(Op):
    """Normalise over the last axes, each of which may be a channel axis."""

    fills = {1: 1.0}
    normalized_shape: tuple[int, ...] = ()
    eps: float | None = 1e-5

    @property
    def axes(self) -> str:
        return _over_last(len(self.normalized_shape))

    def layouts(self, site: Any) -> Any:
        (out,) = site.apply(self.axes)
        site.derive("normalized_shape", out[len(out) - len(self.normalized_shape) :])
        return [out]

    def infer(self, x: TensorType, *vectors: TensorType | None) -> TensorType:
        shape = x.shape[len(x.shape) - len(self.normalized_shape) :]
        expect(shape == self.normalized_shape, f"input {x} does not end in {self.normalized_shape}")
        for vector in vectors:
            expect(vector is None or vector.shape == shape, "scale or shift does not fit input")
        return x


@dataclass(frozen=True)
class LayerNorm(_LastAxes):
    """Subtract the mean and divide by the deviation over the last axes."""

    name = "layer_norm"
    overwritable = True
    aten = ("layer_norm.default",)

    def to_torch(
        self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)  # type: ignore[arg-type]

    def to_onnx(
        self, g: Tape, x: OnnxValue, weight: OnnxValue | None = None, bias: OnnxValue | None = None
    ) -> Any:
        weight = g.filled(self.normalized_shape, 1, x.dtype) if weight is None else weight
        attributes = {"axis": -len(self.normalized_shape), "epsilon": float(self.eps or 0)}
        return g.op("LayerNormalization", [x, weight, bias], attributes)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        call.options.pop("cudnn_enable", None)
        return cls(**call.options)


@dataclass(frozen=True)
class RmsNorm(_LastAxes):
    """Divide by the root of the mean square over the last axes."""

    name = "rms_norm"
    aten = ("rms_norm.default",)
    eps: float | None = None

    def to_torch(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)

    def to_onnx(self, g: Tape, x: OnnxValue, weight: OnnxValue | None = None) -> Any:
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        wide = g.cast(x, torch.float32) if x.dtype.itemsize < 4 else x  # as torch does
        axes = range(-len(self.normalized_shape), 0)
        mean = g.reduce("ReduceMean", g.op("Mul", [wide, wide]), axes, keepdims=True)
        found = g.op("Div", [wide, g.op("Sqrt", [g.binary("Add", mean, eps)])])
        if weight is None:
            return found
        return g.op("Mul", [found, g.cast(weight, found.dtype)])


@dataclass(frozen=True)
class GroupNorm(Op):
    """Normalise over the channels of each of `num_groups` groups and over all positions."""

    name = "group_norm"
    overwritable = True
    aten = ("group_norm.default",)
    fills = {1: 1.0}
    letters = {"g": "num_groups"}
    num_groups: int = 1
    eps: float = 1e-5

    @property
    def axes(self) -> str:
        return "n (g c!) _*, (g c), (g c) -> n (g c) _*"

    def infer(self, x: TensorType, *vectors: TensorType | None) -> TensorType:
        channels = x.shape[1]
        expect(
            channels % self.num_groups == 0,
            f"{self.num_groups} groups do not divide {channels} channels",
        )
        return x

    def to_torch(
        self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)

    def to_onnx(
        self, g: Tape, x: OnnxValue, weight: OnnxValue | None = None, bias: OnnxValue | None = None
    ) -> Any:
        groups, plain = self.num_groups, (self.num_groups,)
        blocks = g.op("Reshape", [x, (0, groups, -1)])
        ones, zeros = g.filled(plain, 1, x.dtype), g.filled(plain, 0, x.dtype)
        found = g.op("InstanceNormalization", [blocks, ones, zeros], {"epsilon": self.eps})
        return _scaled(g, g.reshape(found, x.shape), weight, bias, x.rank - 2)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        call.options.pop("cudnn_enabled", None)
        return cls(**call.options)


@dataclass(frozen=True)
class WeightNorm(Op):
    """`g * v / |v|`, the norm over every axis but `dim`; over all axes if it is -1."""

    name = "weight_norm"
    aten = ("_weight_norm.default",)
    fills = {0: 1.0}
    dim: int = 0

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        for axis, layout in enumerate(shape):
            if axis == self.dim:
                site.unify(layout, site.shape(1)[axis])
            else:
                site.use("norm", layout, (0, axis))
        return [shape]

    def infer(self, v: TensorType, g: TensorType) -> TensorType:
        return TensorType(promote(v, g), v.shape)

    def to_torch(self, v: Tensor, g: Tensor) -> Tensor:
        return torch._weight_norm(v, g, self.dim)

    def to_onnx(self, g: Tape, v: OnnxValue, size: OnnxValue) -> Any:
        axes = [] if self.dim == -1 else [i for i in range(v.rank) if i != self.dim]
        v, size = g.promoted(v, size)
        length = g.reduce("ReduceL2", v, axes, keepdims=True)
        return g.op("Mul", [v, g.op("Div", [size, length])])


def _with_statistics(
    g: Tape, x: OnnxValue, vectors: tuple[OnnxValue | None, ...], eps: float
) -> OnnxValue:
    """Normalise by given statistics; vectors: weight, bias, mean, variance."""
    weight, bias, mean, variance = vectors
    assert mean is not None
    weight = g.filled(mean.shape, 1, mean.dtype) if weight is None else weight
    bias = g.filled(mean.shape, 0, weight.dtype) if bias is None else bias
    given = [x, weight, bias, mean, variance]
    return g.op("BatchNormalization", given, {"epsilon": eps})  # type: ignore[no-any-return]


def _scaled(
    g: Tape, x: OnnxValue, weight: OnnxValue | None, bias: OnnxValue | None, rest: int
) -> OnnxValue:
    """Scale and shift every channel; `rest` axes follow that of the channels."""
    for kind, vector in (("Mul", weight), ("Add", bias)):
        if vector is not None:
            x = g.op(kind, [x, g.reshape(vector, (*vector.shape, *(1,) * rest))])
    return x

