"""The ops: every operation that netir knows, one file for each family, all listed here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from netir.ops import (
    activation,
    arithmetic,
    attention,
    conv,
    create,
    group,
    index,
    join,
    linear,
    measure,
    move,
    norm,
    opaque,
    order,
    patches,
    pointwise,
    pool,
    recurrent,
    reduce,
    resize,
    scatter,
    shape,
    slices,
    ternary,
)
from netir.ops.base import Op

_CLASSES: tuple[type[Op], ...] = (
    activation.AlphaDropout, activation.Celu, activation.Clamp, activation.Dropout,
    activation.Elu, activation.FeatureAlphaDropout, activation.FeatureDropout, activation.Gelu,
    activation.Glu, activation.Hardshrink, activation.Hardtanh, activation.LeakyRelu,
    activation.Prelu, activation.Rrelu, activation.Softplus, activation.Softshrink,
    activation.Threshold,
    arithmetic.Add, arithmetic.And, arithmetic.Atan2, arithmetic.Copysign, arithmetic.Div,
    arithmetic.Eq, arithmetic.Fmod, arithmetic.Ge, arithmetic.Gt, arithmetic.Heaviside,
    arithmetic.Hypot, arithmetic.Le, arithmetic.Logaddexp, arithmetic.LogicalAnd,
    arithmetic.LogicalOr, arithmetic.LogicalXor, arithmetic.Lt, arithmetic.Maximum,
    arithmetic.Minimum, arithmetic.Mul, arithmetic.Ne, arithmetic.Or, arithmetic.Pow,
    arithmetic.Remainder, arithmetic.Rpow, arithmetic.Rsub, arithmetic.Sub, arithmetic.Xor,
    attention.Attention,
    conv.Conv, conv.ConvTranspose,
    create.Arange, create.Full,
    group.FieldNorm, group.GroupConv, group.GroupPool,
    index.Gather, index.Index, index.IndexSelect, index.OneHot,
    join.Cat, join.Expand, join.Meshgrid, join.Repeat, join.RepeatInterleave, join.Split,
    join.Stack, join.Unbind,
    linear.AddMM, linear.Bilinear, linear.Einsum, linear.Embedding, linear.Linear, linear.MatMul,
    linear.Outer,
    measure.CosineSimilarity, measure.Var, measure.VarMean, measure.VectorNorm,
    move.Diagonal, move.Diff, move.Flip, move.Pad, move.Roll, move.Rot90, move.Triangle,
    norm.BatchNorm, norm.GroupNorm, norm.InstanceNorm, norm.LayerNorm, norm.RmsNorm,
    norm.WeightNorm,
    opaque.Opaque,
    order.Argmax, order.Argmin, order.Argsort, order.Cumprod, order.Cumsum, order.KthValue,
    order.Logcumsumexp, order.MaxAt, order.MedianAt, order.MinAt, order.Sort, order.TopK,
    patches.ChannelShuffle, patches.Col2Im, patches.Im2Col, patches.PixelShuffle,
    patches.PixelUnshuffle, patches.Unfold,
    pointwise.Abs, pointwise.Acos, pointwise.Acosh, pointwise.Asin, pointwise.Asinh, pointwise.Atan,
    pointwise.Atanh, pointwise.BitwiseNot, pointwise.Cast, pointwise.Ceil, pointwise.Contiguous,
    pointwise.Cos, pointwise.Cosh, pointwise.Detach, pointwise.Digamma, pointwise.Entr,
    pointwise.Erf, pointwise.Erfc, pointwise.Erfinv, pointwise.Exp, pointwise.Exp2, pointwise.Expm1,
    pointwise.Floor, pointwise.Frac, pointwise.Hardsigmoid, pointwise.Hardswish, pointwise.I0,
    pointwise.I0e, pointwise.Identity, pointwise.IsFinite, pointwise.IsInf, pointwise.IsNan,
    pointwise.Lgamma, pointwise.Log, pointwise.Log10, pointwise.Log1p, pointwise.Log2,
    pointwise.LogSigmoid, pointwise.LogicalNot, pointwise.Mish, pointwise.NanToNum, pointwise.Neg,
    pointwise.Reciprocal, pointwise.Relu, pointwise.Relu6, pointwise.Round, pointwise.Rsqrt,
    pointwise.Selu, pointwise.Sgn, pointwise.Sigmoid, pointwise.Sign, pointwise.Silu, pointwise.Sin,
    pointwise.Sinc, pointwise.Sinh, pointwise.Sqrt, pointwise.Square, pointwise.Tan, pointwise.Tanh,
    pointwise.Trunc,
    pool.AdaptiveAvgPool, pool.AdaptiveMaxPool, pool.AvgPool, pool.MaxPool, pool.MaxPoolAt,
    recurrent.Gru, recurrent.GruCell, recurrent.Lstm, recurrent.LstmCell, recurrent.RnnRelu,
    recurrent.RnnReluCell, recurrent.RnnTanh, recurrent.RnnTanhCell,
    reduce.AMinMax, reduce.All, reduce.Amax, reduce.Amin, reduce.Any_, reduce.Logsumexp,
    reduce.Mean, reduce.Prod, reduce.Softmax, reduce.Sum,
    resize.AffineGrid, resize.GridSample, resize.Interpolate,
    scatter.IndexPut, scatter.MaskedScatter, scatter.Scatter,
    shape.Permute, shape.Reshape, shape.Squeeze, shape.Unsqueeze,
    slices.Select, slices.SelectScatter, slices.Slice, slices.SliceScatter,
    ternary.Addcdiv, ternary.Addcmul, ternary.Lerp, ternary.MaskedFill, ternary.Where,
)  # fmt: skip

OPS: Mapping[str, type[Op]] = MappingProxyType({c.name: c for c in _CLASSES})
"""Every op by its name in the text form."""

_TARGETS: Mapping[str, type[Op]] = {target: c for c in _CLASSES for target in c.aten}

ATEN: Mapping[str, type[Op]] = MappingProxyType(
    {target.replace(".", "_.", 1): c for target, c in _TARGETS.items()} | dict(_TARGETS)
)
"""The op that stands for each torch operator and for its form that writes in place."""

OWN: Mapping[str, type[Op]] = MappingProxyType({c.custom: c for c in _CLASSES if c.custom})
"""The op that stands for each of netir's own operators."""

__all__ = ["ATEN", "OPS", "OWN", "Op"]
