"""The ops: every operation that netir knows, one file for each family, all listed here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from netir.ops import (
    activation,
    attention,
    conv,
    create,
    join,
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
    pointwise.Abs, pointwise.Add, activation.AlphaDropout, pointwise.And, pointwise.Atan2,
    pointwise.BitwiseNot, pointwise.Cast, pointwise.Ceil, activation.Celu, activation.Clamp,
    pointwise.Cos, pointwise.Div, activation.Dropout, activation.Elu, pointwise.Eq, pointwise.Erf,
    pointwise.Exp, pointwise.Expm1, activation.FeatureDropout, pointwise.Floor, pointwise.Fmod,
    pointwise.Ge, activation.Gelu, pointwise.Gt, pointwise.Hardsigmoid, pointwise.Hardswish,
    activation.Hardtanh, pointwise.Contiguous, pointwise.Detach, pointwise.Identity, pointwise.IsNan, pointwise.Le, activation.LeakyRelu,
    pointwise.Log, pointwise.Log1p, pointwise.Log2, pointwise.LogSigmoid, pointwise.LogicalAnd,
    pointwise.LogicalNot, pointwise.LogicalOr, pointwise.Lt, pointwise.MaskedFill,
    pointwise.Maximum, pointwise.Minimum, pointwise.Mish, pointwise.Mul, pointwise.Ne,
    pointwise.Neg, pointwise.Or, pointwise.Pow, activation.Prelu, pointwise.Reciprocal,
    pointwise.Relu, pointwise.Relu6, pointwise.Remainder, pointwise.Round, pointwise.Rpow,
    pointwise.Rsqrt, pointwise.Rsub, pointwise.Selu, pointwise.Sigmoid, pointwise.Sign,
    pointwise.Silu, pointwise.Sin, activation.Softplus, pointwise.Sqrt, pointwise.Square,
    pointwise.Sub, pointwise.Tanh, pointwise.Where, pointwise.Xor,
    pool.AdaptiveAvgPool, pool.AdaptiveMaxPool, pool.AvgPool, pool.MaxPool,
    reduce.Amax, reduce.Amin, reduce.Logsumexp, reduce.Mean, reduce.Softmax, reduce.Sum,
    reduce.Var, reduce.VectorNorm,
    join.Cat, join.Expand, shape.Permute, shape.Reshape, shape.Select,
    shape.SelectScatter, shape.Slice, shape.SliceScatter, join.Split, shape.Squeeze, join.Stack, join.Unbind, shape.Unsqueeze,
)  # fmt: skip

OPS: Mapping[str, type[Op]] = MappingProxyType({c.name: c for c in _CLASSES})
"""Every op by its name in the text form."""

_TARGETS: Mapping[str, type[Op]] = {target: c for c in _CLASSES for target in c.aten}

ATEN: Mapping[str, type[Op]] = MappingProxyType(
    {target.replace(".", "_.", 1): c for target, c in _TARGETS.items()} | dict(_TARGETS)
)
"""The op that stands for each torch operator and for its form that writes in place."""

__all__ = ["ATEN", "OPS", "Op"]
