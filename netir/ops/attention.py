"""Attention as one op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

from netir.layouts import Layout
from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect, product


@dataclass(frozen=True)
class Attention(Op):
    """`softmax(scale * q @ k.T + mask) @ v`, the scale written out.

    torch's default scale depends on the head size; here it is an attribute, so that the function
    stays the same when the head size changes. `dropout_p` is for train mode.
    """

    name = "attention"
    modal = True
    bends = frozenset({0, 1, 3})
    aten = ("scaled_dot_product_attention.default",)
    scale: float = 1.0
    is_causal: bool = False
    enable_gqa: bool = False
    dropout_p: float = 0.0

    def layouts(self, site: Any) -> Any:
        lead = list("abcfgh"[: len(site.shape(0)) - 2])
        if self.enable_gqa:  # heads of queries: those of keys times the queries that share one
            lead[-1] = "(g r)"
        batch = " ".join(lead)
        keys = batch.replace("(g r)", "g")
        rule = f"{batch} l! d, {keys} s! d, {keys} s! e"
        if len(site.node.operands) > 3:
            rule += f", {self._mask(site.shape(3), [*lead, 'l', 's'])}"
        found = site.apply(f"{rule} -> {batch} l e")
        for layout in (site.shape(0)[-2], site.shape(1)[-2]):
            site.freeze(layout, "positions of attention")
        return found

    def linear(self) -> bool:
        return True

    def _mask(self, shape: tuple[Layout, ...], names: list[str]) -> str:
        """The axis rule of the mask, each of whose axes may be 1 or absent."""
        pairs = zip(names[len(names) - len(shape) :], shape, strict=True)
        return " ".join(name if layout else "_" for name, layout in pairs)

    def infer(
        self, q: TensorType, k: TensorType, v: TensorType, mask: TensorType | None = None
    ) -> TensorType:
        expect(q.shape[-1] == k.shape[-1], f"queries {q} and keys {k} differ in head size")
        expect(k.shape[-2] == v.shape[-2], f"keys {k} and values {v} differ in length")
        return q.with_shape((*q.shape[:-1], v.shape[-1]))

    def macs(self, out: TensorType, q: TensorType, k: TensorType, v: TensorType, *_: Any) -> Dim:
        return product(q.shape) * k.shape[-2] + product(out.shape) * v.shape[-2]

    def to_torch(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, training: bool = False
    ) -> Tensor:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=self.is_causal, scale=self.scale,
            enable_gqa=self.enable_gqa, dropout_p=training * self.dropout_p,
        )  # fmt: skip

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        head = call.types[0].shape[-1]
        if not isinstance(head, int):
            return None
        scale = call.options.pop("scale", None)
        if call.options.pop("dropout_p", 0.0):
            return None
        return cls(scale=head**-0.5 if scale is None else scale, **call.options)
