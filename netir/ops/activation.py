"""Activations with attributes, gates, and dropout; the plain ones are in pointwise.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from netir.dims import divide
from netir.layouts import cut
from netir.ops.base import AtenCall, Op, Tensor, TensorType, expect
from netir.ops.pointwise import Number, Pointwise

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


@dataclass(frozen=True)
class Gelu(Pointwise):
    """The Gaussian error linear unit, exact or by tanh."""

    name = "gelu"
    aten = ("gelu.default",)
    approximate: str = "none"

    def to_torch(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        return g.op("Gelu", [x], {"approximate": self.approximate})


@dataclass(frozen=True)
class LeakyRelu(Pointwise):
    """ReLU with a slope for negative values."""

    name = "leaky_relu"
    aten = ("leaky_relu.default",)
    negative_slope: Number = 0.01

    def to_torch(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        return g.op("LeakyRelu", [x], {"alpha": float(self.negative_slope)})


@dataclass(frozen=True)
class Elu(Pointwise):
    """The exponential linear unit, with scales for output and input."""

    name = "elu"
    aten = ("elu.default",)
    alpha: Number = 1.0
    scale: Number = 1
    input_scale: Number = 1

    def to_torch(self, x: Tensor) -> Tensor:
        if self.scale == 1 and self.input_scale == 1:
            return F.elu(x, self.alpha)
        return torch.ops.aten.elu.default(x, self.alpha, self.scale, self.input_scale)  # type: ignore[no-any-return]

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        if self.scale == 1 and self.input_scale == 1:
            return g.op("Elu", [x], {"alpha": float(self.alpha)})
        bent = g.binary("Sub", g.op("Exp", [g.binary("Mul", x, self.input_scale)]), 1)
        below = g.binary("Mul", bent, self.alpha)
        return g.binary("Mul", g.where(g.binary("Greater", x, 0), x, below), self.scale)


@dataclass(frozen=True)
class Celu(Pointwise):
    """The continuously differentiable exponential linear unit."""

    name = "celu"
    aten = ("celu.default",)
    alpha: Number = 1.0

    def to_torch(self, x: Tensor) -> Tensor:
        return F.celu(x, self.alpha)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        return g.op("Celu", [x], {"alpha": float(self.alpha)})


@dataclass(frozen=True)
class Hardtanh(Pointwise):
    """Clip to a range; ReLU6 is this from 0 to 6."""

    name = "hardtanh"
    aten = ("hardtanh.default",)
    min_val: Number = -1
    max_val: Number = 1

    def to_torch(self, x: Tensor) -> Tensor:
        return F.hardtanh(x, self.min_val, self.max_val)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        return g.op("Clip", [x, g.number(self.min_val, x), g.number(self.max_val, x)])


@dataclass(frozen=True)
class Softplus(Pointwise):
    """A smooth ReLU."""

    name = "softplus"
    aten = ("softplus.default",)
    beta: Number = 1
    threshold: Number = 20

    def to_torch(self, x: Tensor) -> Tensor:
        return F.softplus(x, self.beta, self.threshold)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        scaled = x if self.beta == 1 else g.binary("Mul", x, self.beta)
        found = g.op("Softplus", [scaled])
        found = found if self.beta == 1 else g.binary("Div", found, self.beta)
        return g.where(g.binary("Greater", scaled, self.threshold), x, found)


@dataclass(frozen=True)
class Hardshrink(Pointwise):
    """`x` where it is further than `lambd` from zero, else 0."""

    name = "hardshrink"
    aten = ("hardshrink.default",)
    lambd: Number = 0.5

    def to_torch(self, x: Tensor) -> Tensor:
        return F.hardshrink(x, self.lambd)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        return g.op("Shrink", [x], {"lambd": float(self.lambd), "bias": 0.0})


@dataclass(frozen=True)
class Softshrink(Pointwise):
    """`x` moved by `lambd` towards zero, and no further."""

    name = "softshrink"
    aten = ("softshrink.default",)
    lambd: Number = 0.5

    def to_torch(self, x: Tensor) -> Tensor:
        return F.softshrink(x, self.lambd)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        return g.op("Shrink", [x], {"lambd": float(self.lambd), "bias": float(self.lambd)})


@dataclass(frozen=True)
class Threshold(Pointwise):
    """`x` where it is above `threshold`, else `value`."""

    name = "threshold"
    aten = ("threshold.default",)
    threshold: Number = 0
    value: Number = 0

    def to_torch(self, x: Tensor) -> Tensor:
        return F.threshold(x, self.threshold, self.value)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        above = g.binary("Greater", x, self.threshold)
        return g.where(above, x, g.number(self.value, x))


@dataclass(frozen=True)
class Rrelu(Pointwise):
    """ReLU with a slope for negative values, drawn from a range in train mode."""

    name = "rrelu"
    aten = ("rrelu.default",)
    lower: Number = 0.125
    upper: Number = 1 / 3

    def to_torch(self, x: Tensor) -> Tensor:
        return F.rrelu(x, self.lower, self.upper)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        return g.op("LeakyRelu", [x], {"alpha": (self.lower + self.upper) / 2})

    def to_module(self) -> nn.Module | None:
        return nn.RReLU(self.lower, self.upper)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return None if call.options.pop("training", False) else super().from_aten(call)


@dataclass(frozen=True)
class Clamp(Pointwise):
    """Clip to a range of which one end may be open."""

    name = "clamp"
    aten = ("clamp.default", "clamp_min.default", "clamp_max.default", "clip.default")
    min: Number | None = None
    max: Number | None = None

    def to_torch(self, x: Tensor) -> Tensor:
        return torch.clamp(x, min=self.min, max=self.max)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        bounds = [None if b is None else g.number(b, x) for b in (self.min, self.max)]
        return g.op("Clip", [x, *bounds])


@dataclass(frozen=True)
class Prelu(Op):
    """ReLU with a learned slope for negative values, one or one for each channel."""

    name = "prelu"
    aten = ("prelu.default",)
    fills = {1: 0.25}

    def layouts(self, site: Any) -> Any:
        shared = not site.shape(1)[0]
        return site.apply("..., _ -> ..." if shared else "n c ..., c -> n c ...")

    def infer(self, x: TensorType, weight: TensorType) -> TensorType:
        return x

    def to_torch(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.prelu(x, weight)

    def to_onnx(self, g: Tape, x: OnnxValue, weight: OnnxValue) -> Any:
        shape = (*weight.shape, *(1,) * (x.rank - 2)) if x.rank > 1 else weight.shape
        return g.op("PRelu", [x, g.reshape(weight, shape)])


@dataclass(frozen=True)
class Glu(Op):
    """The first half of the axis `dim` times the sigmoid of the second half."""

    name = "glu"
    aten = ("glu.default",)
    dim: int = -1

    def layouts(self, site: Any) -> Any:
        shape = site.shape(0)
        layout = shape[self.dim]
        half = site.node.types[0].shape[self.dim]
        halves = cut(layout, half) if isinstance(half, int) else None
        if halves is None:
            site.freeze(layout, "cannot be cut into halves")
            halves = site.extent(half), site.extent(half)
        site.unify(*halves)
        return [(*shape[: self.dim], halves[0], *shape[self.dim + 1 :])]

    def infer(self, x: TensorType) -> TensorType:
        half = divide(x.shape[self.dim], 2)
        expect(half is not None, f"axis {self.dim} of {x} has no halves")
        return x.with_shape((*x.shape[: self.dim], half, *x.shape[self.dim + 1 :]))  # type: ignore[arg-type]

    def to_torch(self, x: Tensor) -> Tensor:
        return F.glu(x, self.dim)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        half = g.types[0].shape[self.dim]
        values, gates = g.split(x, self.dim, (half, half))
        return g.op("Mul", [values, g.op("Sigmoid", [gates])])

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(call.axis(default=-1))


@dataclass(frozen=True)
class Dropout(Pointwise):
    """Zero elements at random in train mode; nothing in eval mode."""

    name = "dropout"
    aten = ("dropout.default",)
    p: float = 0.5

    def linear(self) -> bool:
        return True

    def to_torch(self, x: Tensor) -> Tensor:
        return x

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        return x

    def to_module(self) -> nn.Module | None:
        return nn.Dropout(self.p)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return None if call.options.pop("train", False) else cls(**call.options)


@dataclass(frozen=True)
class FeatureDropout(Dropout):
    """Zero whole channels at random in train mode; nothing in eval mode.

    `rank` is how many dimensions the operand has; of two, every element is a channel.
    """

    name = "feature_dropout"
    aten = ("feature_dropout.default",)
    rank: int = 4

    def to_module(self) -> nn.Module | None:
        kinds = {2: nn.Dropout, 3: nn.Dropout1d, 4: nn.Dropout2d, 5: nn.Dropout3d}
        return kinds[self.rank](self.p)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        rank = call.types[0].rank
        train = call.options.pop("train", False)
        return None if train or not 2 <= rank <= 5 else cls(rank=rank, **call.options)


@dataclass(frozen=True)
class AlphaDropout(Dropout):
    """Dropout that keeps mean and variance, in train mode; nothing in eval mode."""

    name = "alpha_dropout"
    aten = ("alpha_dropout.default",)

    def to_module(self) -> nn.Module | None:
        return nn.AlphaDropout(self.p)


@dataclass(frozen=True)
class FeatureAlphaDropout(Dropout):
    """Alpha dropout of whole channels, in train mode; nothing in eval mode."""

    name = "feature_alpha_dropout"
    aten = ("feature_alpha_dropout.default",)

    def to_module(self) -> nn.Module | None:
        return nn.FeatureAlphaDropout(self.p)
