"""Convolutions of one, two and three dimensions, and their transposes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F

from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect, per_axis, product

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape

_CONV = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


@dataclass(frozen=True)
class Conv(Op):
    """Slide `weight` over `x`; each of `groups` output blocks reads its own input block."""

    name = "conv"
    overwritable = True
    aten = (
        "conv1d.default", "conv2d.default", "conv3d.default",
        "conv1d.padding", "conv2d.padding", "conv3d.padding",
    )  # fmt: skip
    letters = {"g": "groups"}
    rank: int = 2
    stride: tuple[int, ...] = (1,)
    padding: tuple[int, ...] | str = (0,)
    dilation: tuple[int, ...] = (1,)
    groups: int = 1

    @property
    def axes(self) -> str:
        if self.groups == 1:
            return "n i _*, o i _*, o -> n o _*"
        return "n (g i) _*, (g o) i _*, (g o) -> n (g o) _*"

    def layouts(self, site: Any) -> Any:
        return site.apply(self.axes, self.letters if self.groups > 1 else {})

    def linear(self) -> bool:
        return self.groups == 1

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        expect(len(x.shape) == self.rank + 2, f"input has {len(x.shape)} dimensions")
        n, channels, *size = x.shape
        made, read, *kernel = weight.shape
        expect(
            channels == read * self.groups,
            f"input has {channels} channels, weight reads {read} in each of {self.groups} groups",
        )
        expect(made % self.groups == 0, f"{self.groups} groups do not divide {made} channels")
        expect(bias is None or bias.shape == (made,), "bias and weight differ in channels")
        return x.with_shape((n, made, *self._sizes(size, kernel)))

    def _sizes(self, size: list[Dim], kernel: list[Dim]) -> list[Dim]:
        if self.padding == "same":
            return size
        padding = (0,) if isinstance(self.padding, str) else self.padding
        stride, pad, dilation = (
            per_axis(v, self.rank) for v in (self.stride, padding, self.dilation)
        )
        return [
            (s + 2 * p - d * (k - 1) - 1) // step + 1
            for s, k, step, p, d in zip(size, kernel, stride, pad, dilation, strict=True)
        ]

    def macs(self, out: TensorType, x: TensorType, weight: TensorType, *_: TensorType) -> Dim:
        return product(out.shape) * product(weight.shape[1:])

    def to_torch(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        function = _CONV[self.rank + 2]
        return function(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def to_onnx(self, g: Tape, x: OnnxValue, *params: OnnxValue | None) -> Any:
        kernel = params[0].shape[2:]  # type: ignore[union-attr]
        attributes = {
            "kernel_shape": kernel,
            "strides": per_axis(self.stride, self.rank),
            "dilations": per_axis(self.dilation, self.rank),
            "pads": self._pads(kernel),
            "group": self.groups,
        }
        return g.op("Conv", [x, *params], attributes)

    def _pads(self, kernel: tuple[Any, ...]) -> tuple[int, ...]:
        """What is added before each axis, then what is added after each."""
        if self.padding == "same":
            dilation = per_axis(self.dilation, self.rank)
            total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            return (*(t // 2 for t in total), *(t - t // 2 for t in total))
        return per_axis((0,) if isinstance(self.padding, str) else self.padding, self.rank) * 2

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        if not isinstance(call.options.get("groups", 1), int):
            return None
        return cls(rank=int(call.target[4]), **call.options)


@dataclass(frozen=True)
class ConvTranspose(Op):
    """The transpose of `conv`: every input position adds a copy of `weight` to the output."""

    name = "conv_transpose"
    overwritable = True
    aten = ("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
    letters = {"g": "groups"}
    rank: int = 2
    stride: tuple[int, ...] = (1,)
    padding: tuple[int, ...] = (0,)
    output_padding: tuple[int, ...] = (0,)
    groups: int = 1
    dilation: tuple[int, ...] = (1,)

    @property
    def axes(self) -> str:
        if self.groups == 1:
            return "n i _*, i o _*, o -> n o _*"
        return "n (g i) _*, (g i) o _*, (g o) -> n (g o) _*"

    def layouts(self, site: Any) -> Any:
        return site.apply(self.axes, self.letters if self.groups > 1 else {})

    def linear(self) -> bool:
        return self.groups == 1

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        n, channels, *size = x.shape
        read, made, *kernel = weight.shape
        expect(channels == read, f"input has {channels} channels, weight reads {read}")
        rows = zip(
            size,
            kernel,
            *(
                per_axis(v, self.rank)
                for v in (self.stride, self.padding, self.output_padding, self.dilation)
            ),
            strict=True,
        )
        out = [(s - 1) * step - 2 * p + d * (k - 1) + extra + 1 for s, k, step, p, extra, d in rows]
        return x.with_shape((n, made * self.groups, *out))

    def macs(self, out: TensorType, x: TensorType, weight: TensorType, *_: TensorType) -> Dim:
        return product(x.shape) * product(weight.shape[1:])

    def to_torch(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return _TRANSPOSED[self.rank + 2](
            x, weight, bias, self.stride, self.padding, self.output_padding, self.groups,
            self.dilation,
        )  # fmt: skip

    def to_onnx(self, g: Tape, x: OnnxValue, *params: OnnxValue | None) -> Any:
        attributes = {
            "kernel_shape": params[0].shape[2:],  # type: ignore[union-attr]
            "strides": per_axis(self.stride, self.rank),
            "dilations": per_axis(self.dilation, self.rank),
            "pads": per_axis(self.padding, self.rank) * 2,
            "output_padding": per_axis(self.output_padding, self.rank),
            "group": self.groups,
        }
        return g.op("ConvTranspose", [x, *params], attributes)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        if not isinstance(call.options.get("groups", 1), int):
            return None
        return cls(rank=int(call.target[14]), **call.options)

