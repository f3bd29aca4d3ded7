"""Normalisation, reparametrised weights, reductions over channels, pointwise ops and pools."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.zoo.sample import catalogue, floats, recipe


class Between(nn.Module):
    """Puts a module between two convolutions, so that both sides of its space can change."""

    def __init__(self, middle: nn.Module, wide: int = 10, dimensions: int = 2) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.stem, self.middle, self.head = conv(3, wide, 3, padding=1), middle, conv(wide, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.silu(self.middle(self.stem(x))))


class OwnRmsNorm(nn.Module):
    """RMS norm from pow, mean, rsqrt, with the upcast that Llama does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 10), nn.Linear(10, 4)
        self.weight = nn.Parameter(torch.ones(10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.head(torch.tanh(self.weight * wide.to(x.dtype)))


class ChannelLayerNorm(nn.Module):
    """Layer norm over channels of an image by hand: mean, var, weight[:, None, None]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(10)), nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = x.var(1, keepdim=True, unbiased=False)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class GlobalResponseNorm(nn.Module):
    """ConvNeXtV2's GRN: norm over space divided by its mean over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 10, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, 10, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, ord=2, dim=(2, 3), keepdim=True)
        return self.gamma * (x * (size / (size.mean(1, keepdim=True) + 1e-6))) + self.beta + x


class FunctionalBatchNorm(nn.Module):
    """F.batch_norm on buffers and parameters that no BatchNorm module owns."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(10)), nn.Parameter(torch.zeros(10))
        self.register_buffer("running_mean", torch.zeros(10))
        self.register_buffer("running_var", torch.ones(10))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.scale, self.shift,
                            self.training, 0.2, 1e-4)


class FrozenBatchNorm(nn.Module):
    """Detection backbones' frozen norm: four buffers, folded to scale and shift in the graph."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("weight", torch.rand(10) + 0.5), ("bias", torch.randn(10)),
                            ("running_mean", torch.zeros(10)), ("running_var", torch.ones(10))):
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.reshape(1, -1, 1, 1) * (self.running_var.view(1, -1, 1, 1)
                                                    + 1e-5).rsqrt()
        return x * scale + (self.bias.reshape(1, -1, 1, 1)
                            - self.running_mean.reshape(1, -1, 1, 1) * scale)


class StandardisedConv(nn.Conv2d):
    """Weight standardisation: the weight is centred and scaled in the graph, per output unit."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        spread = self.weight.std((1, 2, 3), keepdim=True) + 1e-5
        return F.conv2d(x, (self.weight - mean) / spread, self.bias, padding=self.padding)


class BatchStandardisedConv(nn.Conv2d):
    """BiT: the weight is standardised by batch norm, one channel for each output unit."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=self.padding)


class BatchNorms(nn.Module):
    """Batch norm without affine, without statistics, without bias; on rows, in 1-d, eps 1e-3."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(5, 6), nn.Linear(6, 10), nn.Linear(10, 14)
        self.plain = nn.BatchNorm1d(6, affine=False)
        self.live = nn.BatchNorm1d(10, track_running_stats=False, eps=1e-3)
        self.slow = nn.BatchNorm1d(14, momentum=None)
        self.head = nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.plain(self.one(x)))
        x = torch.relu(self.live(self.two(x)))
        return self.head(torch.relu(self.slow(self.three(x))))


class LayerNormOverImage(nn.Module):
    """LayerNorm over (channel, height, width): its parameters have three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((10, 6, 6))
        self.last = nn.LayerNorm(6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(x))


class Reductions(nn.Module):
    """mean, sum, amax, amin, var, std, norm, prod, logsumexp over channels, then one linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x)) + 1.5
        parts = [x.mean(-1), x.sum(-1) / 10, x.amax(-1), x.amin(-1), x.var(-1), x.std(-1),
                 x.norm(dim=-1), x.prod(-1).log(), x.logsumexp(-1), x.max(-1).values]
        return self.head(torch.stack(parts, -1))


class Statistics(nn.Module):
    """The same reductions over tokens: channels are carried, and pooled twice (mean and std)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 10), nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        mean, spread = x.mean(1), x.std(1, unbiased=True)
        variance, _ = torch.var_mean(x, dim=1)
        return self.head(torch.cat([mean, spread, variance, torch.linalg.norm(x, dim=1)], -1))


class ChannelSoftmax(nn.Module):
    """softmax, log_softmax and softmin over channels, used as gates."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(5, 10), nn.Linear(10, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * F.softmax(x, dim=-1) + F.softmin(x, dim=-1)
        return F.log_softmax(self.head(F.log_softmax(self.body(x), -1) / 3), dim=-1)


class Pointwise(nn.Module):
    """A chain of linear layers, a function after each, over a space of its own."""

    def __init__(self, *functions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.functions = functions
        widths = [5 + i for i in range(len(functions) + 1)]
        self.layers = nn.ModuleList(
            nn.Linear(read, made) for read, made in pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], 4)

    def forward(self, x: Tensor) -> Tensor:
        for function, layer in zip(self.functions, self.layers, strict=True):
            x = layer(x)
            x = function(x) + 0.1 * x
        return self.head(x)


class PRelus(nn.Module):
    """PReLU per channel (its weight is in the space) and with one shared weight (it is not)."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.conv, self.shared = nn.PReLU(10), nn.Conv2d(10, 10, 1), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.conv(self.each(x)))


class Pools(nn.Module):
    """Max, average, LP and adaptive pools of all kinds, then flatten: they carry channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 10, 1)
        self.lp = nn.LPPool2d(2, 2, ceil_mode=True)
        self.average = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False, ceil_mode=True)
        self.head = nn.Linear(10 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, stride=1, padding=1)
        x = self.average(x) + F.max_pool2d(x, 2, ceil_mode=True) + self.lp(x)
        x = F.adaptive_max_pool2d(self.body(x), (3, 2))
        return self.head(torch.flatten(x * F.adaptive_avg_pool2d(x, (3, 1)), 1))


class Upsamples(nn.Module):
    """Nearest, bilinear and bicubic, by scale and by size, with and without aligned corners."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = F.interpolate(x, size=(5, 4), mode="bilinear", align_corners=True)
        x = F.interpolate(x, scale_factor=1.5, mode="bicubic", align_corners=False)
        return F.interpolate(x, size=(6, 6), mode="bilinear", antialias=True)


class Pads(nn.Module):
    """Constant, reflect, replicate and circular pads, one negative, one of a constant not 0."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 2, 0, 1), value=0.3)
        x = F.pad(x, (1, 1, 2, 2), mode="reflect")
        x = F.pad(x, (0, 1, 1, 0), mode="replicate")
        return F.pad(F.pad(x, (1, 1, 1, 1), mode="circular"), (-1, -2, 0, -1))


class Guards(nn.Module):
    """where, clamp with tensors, comparisons, nan_to_num, maximum, masked_fill on activations."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(5, 10), nn.Linear(5, 10), nn.Linear(10, 4)
        self.limit = nn.Parameter(torch.ones(10))

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.one(x), self.two(x)
        y = torch.where((one > 0) & (two <= self.limit), one, 0.1 * two)
        y = torch.maximum(y, -self.limit).clamp(-2, 3).masked_fill(two.abs() < 0.05, 0.2)
        return self.head(torch.minimum(y.nan_to_num(), self.limit / 2) + torch.lerp(one, two, 0.3))


def _normed_weights() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(10, 10, 3, padding=1)), nn.ReLU(),
        parametrizations.weight_norm(nn.Conv2d(10, 10, 1), dim=1),
    )


IMAGE, TOKENS = floats(2, 3, 6, 6), floats(2, 7, 5)

NORM = catalogue(
    group_norm=recipe(lambda: Between(nn.GroupNorm(5, 10)), IMAGE),
    group_norm_one=recipe(lambda: Between(nn.GroupNorm(1, 10)), IMAGE),
    instance_norm=recipe(lambda: Between(nn.InstanceNorm2d(10, affine=True)), IMAGE),
    instance_norm_tracked=recipe(
        lambda: Between(nn.InstanceNorm2d(10, track_running_stats=True)), IMAGE),
    local_response_norm=recipe(lambda: Between(nn.LocalResponseNorm(3, alpha=0.1)), IMAGE),
    layer_norm_image=recipe(lambda: Between(LayerNormOverImage()), IMAGE),
    channel_layer_norm=recipe(lambda: Between(ChannelLayerNorm()), IMAGE),
    global_response_norm=recipe(lambda: Between(GlobalResponseNorm()), IMAGE),
    functional_batch_norm=recipe(lambda: Between(FunctionalBatchNorm()), IMAGE),
    frozen_batch_norm=recipe(lambda: Between(FrozenBatchNorm()), IMAGE),
    batch_norm_3d=recipe(lambda: Between(nn.BatchNorm3d(10), dimensions=3), floats(2, 3, 4, 4, 4)),
    batch_norms=recipe(BatchNorms, floats(4, 5)),
    own_rms_norm=recipe(OwnRmsNorm, TOKENS),
    weight_norm=recipe(lambda: Between(_normed_weights()), IMAGE),
    spectral_norm=recipe(
        lambda: Between(parametrizations.spectral_norm(nn.Conv2d(10, 10, 3, padding=1))), IMAGE),
    orthogonal=recipe(lambda: nn.Sequential(
        nn.Linear(5, 10), parametrizations.orthogonal(nn.Linear(10, 10)), nn.SiLU(),
        nn.Linear(10, 4)), TOKENS),
    standardised_conv=recipe(lambda: Between(StandardisedConv(10, 10, 3, padding=1)), IMAGE),
    batch_standardised_conv=recipe(
        lambda: Between(BatchStandardisedConv(10, 10, 3, padding=1)), IMAGE
    ),
    reductions=recipe(Reductions, TOKENS),
    statistics=recipe(Statistics, TOKENS),
    channel_softmax=recipe(ChannelSoftmax, TOKENS),
    prelus=recipe(lambda: Between(PRelus()), IMAGE),
    pools=recipe(Pools, floats(2, 3, 7, 7)),
    upsamples=recipe(lambda: Between(Upsamples()), floats(2, 3, 4, 4)),
    pads=recipe(lambda: Between(Pads()), IMAGE),
    guards=recipe(Guards, TOKENS),
    activations_smooth=recipe(lambda: Pointwise(
        F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu, F.mish, F.softplus, F.elu,
        F.selu, F.celu, F.logsigmoid, F.softsign, F.tanhshrink), TOKENS),
    activations_hard=recipe(lambda: Pointwise(
        F.relu, F.relu6, F.leaky_relu, F.hardtanh, F.hardswish, F.hardsigmoid, F.hardshrink,
        F.softshrink, lambda x: F.threshold(x, 0.1, -0.2), F.rrelu), TOKENS),
    pointwise_analytic=recipe(lambda: Pointwise(
        torch.tanh, torch.exp, torch.sigmoid, torch.erf, torch.sin, torch.cos, torch.atan,
        lambda x: torch.log(x.abs() + 1), lambda x: torch.sqrt(x * x + 0.1), torch.square,
        lambda x: torch.rsqrt(x.abs() + 1), torch.expm1, lambda x: x.abs().log1p()), TOKENS),
    pointwise_arithmetic=recipe(lambda: Pointwise(
        torch.abs, torch.neg, lambda x: x**3, lambda x: 2**x, lambda x: 1 - x,
        lambda x: 1 / (x.abs() + 1), lambda x: x / 2.5, lambda x: torch.add(x, x, alpha=0.5),
        lambda x: torch.addcmul(x, x, x, value=0.1), lambda x: x.clamp(min=-1),
        lambda x: torch.rsub(x, 2, alpha=0.5), torch.reciprocal, torch.tanh), TOKENS),
    pointwise_rounding=recipe(lambda: Pointwise(
        torch.sign, torch.floor, torch.round, torch.ceil, torch.trunc, torch.frac,
        lambda x: torch.remainder(x, 0.7), lambda x: torch.fmod(x, 0.6),
        lambda x: (x > 0).to(x.dtype), torch.sgn, lambda x: x.div(0.8, rounding_mode="floor")),
        TOKENS),
)
