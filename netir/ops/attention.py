"""Attention as one op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect, product


@dataclass(frozen=True)
class Attention(Op):
    """`softmax(scale * q @ k.T + mask) @ v`, the scale written out.

    torch's default scale depends on the head size; here it is an attribute, so that the function
    stays the same when the head size changes.
    """

    name = "attention"
    aten = ("scaled_dot_product_attention.default",)
    scale: float = 1.0
    is_causal: bool = False
    enable_gqa: bool = False
    dropout_p: float = 0.0

    def layouts(self, site: Any) -> Any:
        if self.enable_gqa:
            return self._grouped(site)
        rank = len(site.shape(0))
        lead = " ".join("abcdef"[: rank - 2])
        mask = f", {self._mask(site, lead)}" if len(site.node.operands) > 3 else ""
        (out,) = site.apply(f"{lead} l! d, {lead} s! d, {lead} s! e{mask} -> {lead} l e")
        for layout in (site.shape(0)[-2], site.shape(1)[-2]):
            site.freeze(layout, "positions of attention")
        return [out]

    def _mask(self, site: Any, lead: str) -> str:
        """The axis rule of the mask, each of whose axes may be 1 or absent."""
        names = [*lead.split(), "l", "s"]
        shape = site.shape(3)
        return " ".join(
            name if layout else "_" for name, layout in
            zip(names[len(names) - len(shape) :], shape, strict=True)
        )  # fmt: skip

    def _grouped(self, site: Any) -> Any:
        """Query heads are key heads times the queries that share one."""
        query, key = site.node.operands[0], site.node.operands[1]
        heads = site.types[query].shape[-3]
        groups = site.types[key].shape[-3]
        site.types  # noqa: B018
        (out,) = site.apply("b (g r) l! d, b g s! d, b g s! e -> b (g r) l e"
                            if len(site.node.operands) < 4 else
                            "b (g r) l! d, b g s! d, b g s! e, ... -> b (g r) l e")
        assert heads % groups == 0
        for layout in (site.shape(0)[-2], site.shape(1)[-2]):
            site.freeze(layout, "positions of attention")
        return [out]

    def infer(
        self, q: TensorType, k: TensorType, v: TensorType, mask: TensorType | None = None
    ) -> TensorType:
        expect(q.shape[-1] == k.shape[-1], f"queries {q} and keys {k} differ in head size")
        expect(k.shape[-2] == v.shape[-2], f"keys {k} and values {v} differ in length")
        return q.with_shape((*q.shape[:-1], v.shape[-1]))

    def macs(self, out: TensorType, q: TensorType, k: TensorType, v: TensorType, *_: Any) -> Dim:
        return product(q.shape) * k.shape[-2] + product(out.shape) * v.shape[-2]

    def to_torch(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=self.is_causal, scale=self.scale,
            enable_gqa=self.enable_gqa,
        )  # fmt: skip

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        head = call.types[0].shape[-1]
        if not isinstance(head, int):
            return None
        scale = call.options.pop("scale", None)
        call.options.pop("dropout_p", None)
        return cls(scale=head**-0.5 if scale is None else scale, **call.options)
