"""Tensors made from numbers, of sizes that are known only when the network runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from netir.dims import Dim
from netir.ops.base import AtenCall, Op, Tensor, TensorType

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


@dataclass(frozen=True)
class Full(Op):
    """One number everywhere; 0 where the model leaves memory as it is."""

    name = "full"
    placed = True
    aten = ("full.default", "zeros.default", "ones.default", "new_zeros.default",
            "new_ones.default", "new_full.default", "zeros_like.default", "ones_like.default",
            "full_like.default", "scalar_tensor.default", "empty.memory_format",
            "new_empty.default", "empty_like.default")  # fmt: skip
    shape: tuple[Dim, ...] = ()
    value: int | float | bool = 0
    dtype: torch.dtype = torch.float32

    def layouts(self, site: Any) -> Any:
        shape = tuple(
            site.fresh(s) if isinstance(s, int) else site.extent(s) for s in self.shape
        )
        site.derive("shape", shape)
        return [shape]

    def linear(self) -> bool:
        return self.value == 0

    def infer(self, *operands: TensorType) -> TensorType:
        return TensorType(self.dtype, self.shape)

    def to_torch(self, device: Any = None, dtype: Any = None) -> Tensor:
        kind = self.dtype if dtype is None else dtype
        return torch.full(self.shape, self.value, dtype=kind, device=device)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape, *operands: OnnxValue) -> OnnxValue:
        return g.filled(self.shape, self.value, self.dtype)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        call.operands.clear()
        base = call.base.removeprefix("new_").removesuffix("_like")
        given = call.options.get("fill_value", call.options.get("s", 0))
        value = {"zeros": 0, "ones": 1}.get(base, given)
        return cls(call.results[0].shape, value, call.results[0].dtype)


@dataclass(frozen=True)
class Arange(Op):
    """Numbers from `start` on, `step` apart, up to `end`."""

    name = "arange"
    placed = True
    aten = ("arange.default", "arange.start", "arange.start_step")
    start: Dim | float = 0
    end: Dim | float = 0
    step: Dim | float = 1
    size: Dim = 0
    dtype: torch.dtype = torch.int64

    def layouts(self, site: Any) -> Any:
        return [site.extents()]

    def infer(self) -> TensorType:
        return TensorType(self.dtype, (self.size,))

    def to_torch(self, device: Any = None, dtype: Any = None) -> Tensor:
        kind = self.dtype if dtype is None else dtype
        return torch.arange(self.start, self.end, self.step, dtype=kind, device=device)  # type: ignore[arg-type]

    def to_onnx(self, g: Tape) -> OnnxValue:
        start, step = self.start, self.step
        if not isinstance(start, float) and not isinstance(step, float):
            return g.arange(start, self.size, step)
        count = g.cast(g.arange(0, self.size), self.dtype)
        return g.binary("Add", g.op("Mul", [count, g.number(step, count)]), g.number(start, count))

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        result, options = call.results[0], call.options
        start, step = options.get("start", 0), options.get("step", 1)
        return cls(start, options["end"], step, result.shape[0], result.dtype)
