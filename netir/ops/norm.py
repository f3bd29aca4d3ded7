"""Normalisations, by batch, layer, group, instance, root mean square, and of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from netir.ops.base import AtenCall, Op, Tensor, TensorType, expect, promote


@dataclass(frozen=True)
class BatchNorm(Op):
    """Normalise every channel: by running statistics in eval mode, by the batch's in train mode.

    Operands: x, weight, bias, running mean, running variance; all but x may be left out.
    """

    name = "batch_norm"
    modal = True
    aten = ("batch_norm.default",)
    fills = {1: 1.0, 4: 1.0}
    momentum: float | None = 0.1
    """The share of new statistics in train mode; None for the mean of all so far."""
    eps: float = 1e-5

    def layouts(self, site: Any) -> Any:
        operands = site.node.operands
        steady = len(operands) > 3 and operands[3] is not None
        batch, rest = ("n", "...") if steady else ("_", "_*")  # its own statistics mix them
        return site.apply(f"{batch} c {rest}, c, c, c, c -> {batch} c {rest}")

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

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        call.options.pop("cudnn_enabled", None)
        return cls(**call.options)


@dataclass(frozen=True)
class _LastAxes(Op):
    """Normalise over the last axes, each of which may be a channel axis."""

    fills = {1: 1.0}
    normalized_shape: tuple[int, ...] = ()
    eps: float | None = 1e-5

    @property
    def axes(self) -> str:
        last = "abcdefgh"[: len(self.normalized_shape)]
        mixed, plain = " ".join(f"{c}!" for c in last), " ".join(last)
        return f"... {mixed}, {plain}, {plain} -> ... {plain}"

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
    aten = ("layer_norm.default",)

    def to_torch(
        self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)  # type: ignore[arg-type]

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


@dataclass(frozen=True)
class GroupNorm(Op):
    """Normalise over the channels of each of `num_groups` groups and over all positions."""

    name = "group_norm"
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

