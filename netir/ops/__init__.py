"""The ops: every operation that netir knows, one file for each family, all listed here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from netir.ops import (
    attention,
    conv,
    create,
    linear,
    norm,
    opaque,
    pointwise,
    pool,
    reduce,
    shape,
)
from netir.ops.base import Op

_CLASSES: tuple[type[Op], ...] = (
    attention.Attention,
    conv.Conv, conv.ConvTranspose,
    create.Arange, create.Full,
    linear.AddMM, linear.Bilinear, linear.Einsum, linear.Embedding, linear.Linear, linear.MatMul,
    norm.BatchNorm, norm.GroupNorm, norm.InstanceNorm, norm.LayerNorm, norm.RmsNorm,
    norm.WeightNorm,
    opaque.Opaque,
    pointwise.Abs, pointwise.Add, pointwise.AlphaDropout, pointwise.And, pointwise.Atan2,
    pointwise.BitwiseNot, pointwise.Cast, pointwise.Ceil, pointwise.Celu, pointwise.Clamp,
    pointwise.Cos, pointwise.Div, pointwise.Dropout, pointwise.Elu, pointwise.Eq, pointwise.Erf,
    pointwise.Exp, pointwise.Expm1, pointwise.FeatureDropout, pointwise.Floor, pointwise.Fmod,
    pointwise.Ge, pointwise.Gelu, pointwise.Gt, pointwise.Hardsigmoid, pointwise.Hardswish,
    pointwise.Hardtanh, pointwise.Identity, pointwise.IsNan, pointwise.Le, pointwise.LeakyRelu,
    pointwise.Log, pointwise.Log1p, pointwise.Log2, pointwise.LogSigmoid, pointwise.LogicalAnd,
    pointwise.LogicalNot, pointwise.LogicalOr, pointwise.Lt, pointwise.MaskedFill,
    pointwise.Maximum, pointwise.Minimum, pointwise.Mish, pointwise.Mul, pointwise.Ne,
    pointwise.Neg, pointwise.Or, pointwise.Pow, pointwise.Prelu, pointwise.Reciprocal,
    pointwise.Relu, pointwise.Relu6, pointwise.Remainder, pointwise.Round, pointwise.Rpow,
    pointwise.Rsqrt, pointwise.Rsub, pointwise.Selu, pointwise.Sigmoid, pointwise.Sign,
    pointwise.Silu, pointwise.Sin, pointwise.Softplus, pointwise.Sqrt, pointwise.Square,
    pointwise.Sub, pointwise.Tanh, pointwise.Where, pointwise.Xor,
    pool.AdaptiveAvgPool, pool.AdaptiveMaxPool, pool.AvgPool, pool.MaxPool,
    reduce.Amax, reduce.Amin, reduce.Logsumexp, reduce.Mean, reduce.Softmax, reduce.Sum,
    reduce.Var, reduce.VectorNorm,
    shape.Cat, shape.Expand, shape.Permute, shape.Reshape, shape.Select,
    shape.SelectScatter, shape.Slice, shape.SliceScatter, shape.Split, shape.Squeeze, shape.Stack, shape.Unbind, shape.Unsqueeze,
)  # fmt: skip

OPS: Mapping[str, type[Op]] = MappingProxyType({c.name: c for c in _CLASSES})
"""Every op by its name in the text form."""

ATEN: Mapping[str, type[Op]] = MappingProxyType({t: c for c in _CLASSES for t in c.aten})
"""The op that stands for each torch operator."""

__all__ = ["ATEN", "OPS", "Op"]
