"""Attention as one op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from netir.layouts import Layout
from netir.ops.base import AtenCall, Dim, Op, Tensor, TensorType, expect, product

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


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

    def to_onnx(
        self, g: Tape, q: OnnxValue, k: OnnxValue, v: OnnxValue, mask: OnnxValue | None = None
    ) -> Any:
        if self.enable_gqa:
            k, v = (_for_each_query_head(g, x, q.shape[-3]) for x in (k, v))
        order = list(range(k.rank))
        order[-2:] = reversed(order[-2:])
        scaled = g.binary("Mul", q, self.scale)
        scores = g.op("MatMul", [scaled, g.transpose(k, order)])
        if self.is_causal:
            mask = _causal(g, q.shape[-2], k.shape[-2])
        if mask is None:
            return g.op("MatMul", [g.op("Softmax", [scores], {"axis": -1}), v])
        return _masked(g, scores, mask, v, blank=not self.is_causal)

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        head = call.types[0].shape[-1]
        if not isinstance(head, int):
            return None
        scale = call.options.pop("scale", None)
        if call.options.pop("dropout_p", 0.0):
            return None
        return cls(scale=head**-0.5 if scale is None else scale, **call.options)


def _for_each_query_head(g: Tape, x: OnnxValue, heads: Any) -> OnnxValue:
    """Keys or values with every head repeated for the queries that share it."""
    *lead, own, length, size = x.shape
    apart = g.unsqueeze(x, [x.rank - 2])
    wide = g.expand(apart, (*lead, own, heads // own, length, size))
    return g.reshape(wide, (*lead, heads, length, size))


def _causal(g: Tape, queries: Dim, keys: Dim) -> OnnxValue:
    """Whether a query may see a key: those at its own place and before."""
    def write() -> OnnxValue:
        place = g.unsqueeze(g.positions(queries), [1])
        return g.op("LessOrEqual", [g.positions(keys), place])  # type: ignore[no-any-return]

    return g.shared(("causal", queries, keys), write)


def _masked(
    g: Tape, scores: OnnxValue, mask: OnnxValue, v: OnnxValue, *, blank: bool
) -> OnnxValue:
    """Softmax and values with a mask; with `blank`, a query that sees nothing gives zeros."""
    if mask.dtype == torch.bool:
        none = g.number(float("-inf"), scores)
        added = g.where(mask, g.number(0, scores), none)
    else:
        added = g.cast(mask, scores.dtype)
    weights = g.op("Softmax", [g.op("Add", [scores, added])], {"axis": -1})
    found: OnnxValue = g.op("MatMul", [weights, v])
    if not blank:
        return found
    best = g.reduce("ReduceMax", added, [-1], keepdims=True)
    return g.where(g.binary("Equal", best, float("-inf")), g.number(0, found), found)
