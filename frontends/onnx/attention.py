"""ONNX attention as one op."""

from __future__ import annotations

from typing import Any

from netir.frontends.onnx.call import Call
from netir.frontends.onnx.value import Value
from netir.ops import attention as attentions


def attention(call: Call) -> Any:
    """Scaled dot products of queries, keys and values, by heads or with heads to be split."""
    q, k, v = call[0], call[1], call[2]
    if call.given(4) or call.given(5) or call.given(6) or call.outputs() > 1:
        call.refuse("keeps past keys or gives its scores", "export the model without a cache")
    if call.number("softcap"):
        call.refuse("caps its scores", "torch has no attention with a cap")
    split = q.rank == 3
    if split:
        heads, groups = call.integer("q_num_heads"), call.integer("kv_num_heads")
        q, k, v = (_heads(call, x, n) for x, n in ((q, heads), (k, groups), (v, groups)))
    size, causal = q.shape[3], bool(call.integer("is_causal"))
    if not isinstance(size, int):
        call.refuse("has heads of open size", "fix the size when exporting")
    mask = call.maybe(3)
    if causal and mask is not None:
        call.refuse("is causal and has a mask", "put both into one mask")
    op = attentions.Attention(
        call.number("scale", size**-0.5), causal, q.shape[1] != k.shape[1]
    )
    found = call.emit(op, q, k, v, mask)
    if not split:
        return found
    n, h, length, width = found.shape
    return call.reshaped(call.permuted(found, (0, 2, 1, 3)), (n, length, h * width))


def _heads(call: Call, x: Value, count: int) -> Value:
    n, length, width = x.shape
    return call.permuted(call.reshaped(x, (n, length, count, width // count)), (0, 2, 1, 3))
