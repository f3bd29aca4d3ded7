"""Two layers with nothing between them as one, also where both kernels have several taps.

With x the input, y = W2 * (W1 * x) reads x at u·d2·s1 + v·d1 for taps u of the second and v of the
first, strides s and dilations d, and at multiples of s1·s2: a convolution again, if the second pads
nothing. (What it pads with zeros are results of the first that do not exist.)
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import gcd

import torch
from torch import Tensor

from netir.ops.base import per_axis
from netir.ops.conv import Conv
from netir.passes.merge import Layer, merged, merged_bias


def joined(first: Layer, second: Layer) -> Layer | str:
    """One layer that does what two do one after the other, in float64; or why there is none."""
    found = merged(first, second)
    return composed(first, second) if isinstance(found, str) else found


def composed(first: Layer, second: Layer) -> Layer | str:
    """The convolution that two convolutions are, the second of which pads nothing."""
    one, two = first.op, second.op
    if not isinstance(one, Conv) or not isinstance(two, Conv) or one.rank != two.rank:
        return "they are not two convolutions of one rank"
    if one.groups * two.groups != 1:
        return "a convolution in groups is not composed: the result would have none"
    if two.padding != "valid" and (isinstance(two.padding, str) or any(two.padding)):
        return "the second pads what it reads with zeros, which the first would not give"
    if one.padding == "same":
        return "the first pads by what its kernel needs"
    strides = [per_axis(op.stride, op.rank) for op in (one, two)]
    steps = [
        [d * s for d, s in zip(per_axis(two.dilation, two.rank), strides[0], strict=True)],
        list(per_axis(one.dilation, one.rank)),
    ]
    weight, dilation = _taps(second.weight.double(), first.weight.double(), *steps)
    op = replace(
        one, stride=tuple(a * b for a, b in zip(*strides, strict=True)), dilation=dilation
    )
    bias = None if second.bias is None else second.bias.double()
    if first.bias is not None:
        added = merged_bias(first.bias, second.weight)
        bias = added if bias is None else added + bias
    return Layer(op, weight, bias)


def _taps(
    second: Tensor, first: Tensor, outer: list[int], inner: list[int]
) -> tuple[Tensor, tuple[int, ...]]:
    """The kernel that reads at every u·outer + v·inner, and its dilation."""
    sizes = list(zip(second.shape[2:], first.shape[2:], outer, inner, strict=True))
    dilation = tuple(gcd(a * (m > 1), b * (k > 1)) or 1 for m, k, a, b in sizes)
    apart = [
        (a // d if m > 1 else 1, b // d if k > 1 else 1)
        for (m, k, a, b), d in zip(sizes, dilation, strict=True)
    ]
    kernel = [
        (m - 1) * a + (k - 1) * b + 1 for (m, k, _, _), (a, b) in zip(sizes, apart, strict=True)
    ]
    found = second.new_zeros(second.shape[0], first.shape[1], *kernel)
    for number, tap in enumerate(product(*map(range, second.shape[2:]))):
        part = torch.einsum("om,mi...->oi...", second.flatten(2)[:, :, number], first)
        window = tuple(
            slice(u * a, u * a + (k - 1) * b + 1, b)
            for u, k, (a, b) in zip(tap, first.shape[2:], apart, strict=True)
        )
        found[(slice(None), slice(None), *window)] += part
    return found, dilation


__all__ = ["composed", "joined"]
