"""The ops: every operation that netir knows, one file for each family, all listed here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from netir.ops import (
    activation,
    attention,
    conv,
    create,
    index,
    join,
    linear,
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
    shape,
    ternary,
)
from netir.ops.base import Op

_CLASSES: tuple[type[Op], ...] = (
    activation.AlphaDropout, activation.Celu, activation.Clamp, activation.Dropout,
    activation.Elu, activation.FeatureAlphaDropout, activation.FeatureDropout, activation.Gelu,
    activation.Glu, activation.Hardshrink, activation.Hardtanh, activation.LeakyRelu,
    activation.Prelu, activation.Rrelu, activation.Softplus, activation.Softshrink,
    activation.Threshold,
    attention.Attention,
    conv.Conv, conv.ConvTranspose,
    create.Arange, create.Full,
    index.AffineGrid, index.Gather, index.GridSample, index.Index, index.IndexPut,
    index.IndexSelect, index.MaskedScatter, index.OneHot, index.Scatter,
    join.Cat, join.Expand, join.Meshgrid, join.Repeat, join.RepeatInterleave, join.Split,
    join.Stack, join.Unbind,
    linear.AddMM, linear.Bilinear, linear.Einsum, linear.Embedding, linear.Linear, linear.MatMul,
    linear.Outer,
    move.Diagonal, move.Diff, move.Flip, move.Pad, move.Roll, move.Rot90, move.Triangle,
    norm.BatchNorm, norm.GroupNorm, norm.InstanceNorm, norm.LayerNorm, norm.RmsNorm,
    norm.WeightNorm,
    opaque.Opaque,
    order.Argmax, order.Argmin, order.Argsort, order.Cumprod, order.Cumsum, order.KthValue,
    order.Logcumsumexp, order.MaxAt, order.MedianAt, order.MinAt, order.Sort, order.TopK,
    patches.ChannelShuffle, patches.Col2Im, patches.Im2Col, patches.PixelShuffle,
    patches.PixelUnshuffle, patches.Unfold,
    pointwise.Abs, pointwise.Acos, pointwise.Acosh, pointwise.Add, pointwise.And, pointwise.Asin,
    pointwise.Asinh, pointwise.Atan, pointwise.Atan2, pointwise.Atanh, pointwise.BitwiseNot,
    pointwise.Cast, pointwise.Ceil, pointwise.Contiguous, pointwise.Copysign, pointwise.Cos,
    pointwise.Cosh, pointwise.Detach, pointwise.Digamma, pointwise.Div, pointwise.Entr,
    pointwise.Eq, pointwise.Erf, pointwise.Erfc, pointwise.Erfinv, pointwise.Exp, pointwise.Exp2,
    pointwise.Expm1, pointwise.Floor, pointwise.Fmod, pointwise.Frac, pointwise.Ge, pointwise.Gt,
    pointwise.Hardsigmoid, pointwise.Hardswish, pointwise.Heaviside, pointwise.Hypot,
    pointwise.I0, pointwise.I0e, pointwise.Identity, pointwise.IsFinite, pointwise.IsInf,
    pointwise.IsNan, pointwise.Le, pointwise.Lgamma, pointwise.Log, pointwise.Log10,
    pointwise.Log1p, pointwise.Log2, pointwise.LogSigmoid, pointwise.Logaddexp,
    pointwise.LogicalAnd, pointwise.LogicalNot, pointwise.LogicalOr, pointwise.LogicalXor,
    pointwise.Lt, pointwise.Maximum, pointwise.Minimum, pointwise.Mish, pointwise.Mul,
    pointwise.NanToNum, pointwise.Ne, pointwise.Neg, pointwise.Or, pointwise.Pow,
    pointwise.Reciprocal, pointwise.Relu, pointwise.Relu6, pointwise.Remainder, pointwise.Round,
    pointwise.Rpow, pointwise.Rsqrt, pointwise.Rsub, pointwise.Selu, pointwise.Sgn,
    pointwise.Sigmoid, pointwise.Sign, pointwise.Silu, pointwise.Sin, pointwise.Sinc,
    pointwise.Sinh, pointwise.Sqrt, pointwise.Square, pointwise.Sub, pointwise.Tan,
    pointwise.Tanh, pointwise.Trunc, pointwise.Xor,
    pool.AdaptiveAvgPool, pool.AdaptiveMaxPool, pool.AvgPool, pool.MaxPool, pool.MaxPoolAt,
    recurrent.Gru, recurrent.GruCell, recurrent.Lstm, recurrent.LstmCell, recurrent.RnnRelu,
    recurrent.RnnReluCell, recurrent.RnnTanh, recurrent.RnnTanhCell,
    reduce.AMinMax, reduce.All, reduce.Amax, reduce.Amin, reduce.Any_, reduce.CosineSimilarity,
    reduce.Logsumexp, reduce.Mean, reduce.Prod, reduce.Softmax, reduce.Sum, reduce.Var,
    reduce.VarMean, reduce.VectorNorm,
    resize.Interpolate,
    shape.Permute, shape.Reshape, shape.Select, shape.SelectScatter, shape.Slice,
    shape.SliceScatter, shape.Squeeze, shape.Unsqueeze,
    ternary.Addcdiv, ternary.Addcmul, ternary.Lerp, ternary.MaskedFill, ternary.Where,
)  # fmt: skip

OPS: Mapping[str, type[Op]] = MappingProxyType({c.name: c for c in _CLASSES})
"""Every op by its name in the text form."""

_TARGETS: Mapping[str, type[Op]] = {target: c for c in _CLASSES for target in c.aten}

ATEN: Mapping[str, type[Op]] = MappingProxyType(
    {target.replace(".", "_.", 1): c for target, c in _TARGETS.items()} | dict(_TARGETS)
)
"""The op that stands for each torch operator and for its form that writes in place."""

__all__ = ["ATEN", "OPS", "Op"]
