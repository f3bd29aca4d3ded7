"""Blocks of known networks in miniature: mobile blocks, restoration gates, pyramids, mixers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.constructs_conv import conv_bn
from tests.zoo.sample import catalogue, floats, recipe


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channels dealt out in turn over the groups, as in ShuffleNet."""
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class ChannelShuffle(nn.Module):
    """view, transpose, reshape between two grouped convs: the space is a permuted product."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.conv1 = conv_bn(6, 12, 1, groups=3)
        self.conv2 = conv_bn(12, 18, groups=3)
        self.head = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(shuffled(self.conv1(self.stem(x)), 3))
        return self.head(x.mean((2, 3)))


class NativeShuffle(nn.Module):
    """The same shuffle as one op (nn.ChannelShuffle)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.shuffle = nn.ChannelShuffle(3)
        self.conv = conv_bn(12, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.shuffle(self.stem(x))).mean((2, 3)))


class ShuffleNet(nn.Module):
    """ShuffleNetV2 units: chunk, transform one half, concatenate, shuffle: halves become one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.units = nn.ModuleList(
            nn.Sequential(conv_bn(6, 6, 1), conv_bn(6, 6, groups=6)[:2], conv_bn(6, 6, 1))
            for _ in range(2)
        )
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for unit in self.units:
            kept, changed = x.chunk(2, dim=1)
            x = shuffled(torch.cat((kept, unit(changed)), dim=1), 2)
        return self.head(x.mean((2, 3)))


class MobileNet(nn.Module):
    """MobileNetV2: linear waist (no relu before the sum), relu6, depthwise in the wide part."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.expand = nn.ModuleList(nn.Conv2d(6, wide, 1) for wide in (10, 14))
        self.depth = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1, groups=w) for w in (10, 14))
        self.norm = nn.ModuleList(nn.BatchNorm2d(wide) for wide in (10, 14))
        self.waist = nn.ModuleList(nn.Conv2d(wide, 6, 1) for wide in (10, 14))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        blocks = zip(self.expand, self.depth, self.norm, self.waist, strict=True)
        for expand, depth, norm, waist in blocks:
            x = x + waist(F.relu6(norm(depth(F.relu6(expand(x))))))
        return self.head(x.mean((2, 3)))


class EfficientNet(nn.Module):
    """MBConv: depthwise, squeeze-excite and silu inside an inverted residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.expand = nn.Sequential(nn.Conv2d(6, 14, 1), nn.BatchNorm2d(14), nn.SiLU())
        self.depth = nn.Conv2d(14, 14, 5, padding=2, groups=14)
        self.reduce, self.excite = nn.Conv2d(14, 3, 1), nn.Conv2d(3, 14, 1)
        self.project = nn.Sequential(nn.Conv2d(14, 6, 1), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.silu(self.depth(self.expand(x)))
        y = y * self.excite(F.silu(self.reduce(y.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head((x + self.project(y)).mean((2, 3)))


class ConvNeXt(nn.Module):
    """Depthwise 7x7, permute to channels-last for layer norm and MLP, LayerScale, permute back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 2, 2)
        self.depth = nn.Conv2d(10, 10, 7, padding=3, groups=10)
        self.norm = nn.LayerNorm(10, eps=1e-6)
        self.up, self.down = nn.Linear(10, 14), nn.Linear(14, 10)
        self.scale = nn.Parameter(torch.ones(10))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(x.mean([-2, -1]))


class SimpleGate(nn.Module):
    """NAFNet: the two halves of one conv's channels are multiplied; scaled residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.up = nn.Conv2d(6, 20, 1)
        self.depth = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.attention = nn.Conv2d(10, 10, 1)
        self.down = nn.Conv2d(10, 6, 1)
        self.beta = nn.Parameter(torch.zeros(1, 6, 1, 1))
        self.head = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        one, two = self.depth(self.up(x)).chunk(2, dim=1)
        gated = one * two
        gated = gated * self.attention(F.adaptive_avg_pool2d(gated, 1))
        return self.head(x + self.down(gated) * self.beta) + image


class GatedFeedForward(nn.Module):
    """Restormer GDFN: split after a depthwise conv, gelu on one half only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.up = nn.Conv2d(6, 28, 1, bias=False)
        self.depth = nn.Conv2d(28, 28, 3, padding=1, groups=28, bias=False)
        self.down = nn.Conv2d(14, 6, 1, bias=False)
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        one, two = self.depth(self.up(x)).split(14, dim=1)
        return self.head(x + self.down(F.gelu(one) * two))


class FeaturePyramid(nn.Module):
    """FPN: lateral 1x1 convs make all scales one space; three outputs, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList(
            conv_bn(read, made, stride=2) for read, made in ((3, 4), (4, 6), (6, 10))
        )
        self.lateral = nn.ModuleList(nn.Conv2d(read, 8, 1) for read in (4, 6, 10))
        self.smooth = nn.ModuleList(nn.Conv2d(8, 5, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage in self.body:
            x = stage(x)
            found.append(x)
        merged = [lateral(level) for lateral, level in zip(self.lateral, found, strict=True)]
        for level in (1, 0):
            size = merged[level].shape[-2:]
            merged[level] = merged[level] + F.interpolate(merged[level + 1], size=size)
        return [smooth(level) for smooth, level in zip(self.smooth, merged, strict=True)]


class Aspp(nn.Module):
    """Atrous branches and an image-level branch, broadcast back by interpolation from 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.branches = nn.ModuleList(conv_bn(6, 4, dilation=rate) for rate in (1, 2, 3))
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 5, 1), nn.ReLU())
        self.project = conv_bn(17, 10, 1)
        self.head = nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        parts = [branch(x) for branch in self.branches]
        parts.append(F.interpolate(self.pooled(x), size=x.shape[-2:], mode="bilinear"))
        return self.head(self.project(torch.cat(parts, 1)))


class MlpMixer(nn.Module):
    """Linear layers over the transposed token axis: patches are contracted, tokens are a space."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 10, 2, 2)
        self.norm1, self.norm2 = nn.LayerNorm(10), nn.LayerNorm(10)
        self.tokens = nn.Sequential(nn.Linear(9, 7), nn.GELU(), nn.Linear(7, 9))
        self.channels = nn.Sequential(nn.Linear(10, 14), nn.GELU(), nn.Linear(14, 10))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class GatedMlp(nn.Module):
    """gMLP: half the channels gate the other half through a linear map over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 20)
        self.norm = nn.LayerNorm(10)
        self.spatial = nn.Conv1d(7, 7, 1)
        self.down = nn.Linear(10, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        kept, gate = F.gelu(self.up(x)).chunk(2, dim=-1)
        return self.head(x + self.down(kept * self.spatial(self.norm(gate))))


class SuperResolution(nn.Module):
    """pixel_shuffle: output channel c is made by input channels c*4 .. c*4+3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.up = nn.Conv2d(6, 40, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.head = nn.Conv2d(10, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.shuffle(self.up(F.relu(self.stem(x))))))


class PixelUnshuffle(nn.Module):
    """pixel_unshuffle: each channel becomes four, interleaved with space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.unshuffle = nn.PixelUnshuffle(2)
        self.body = nn.Conv2d(24, 10, 3, padding=1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.unshuffle(F.relu(self.stem(x)))
        return self.head(F.relu(self.body(x)).mean((2, 3)))


class Film(nn.Module):
    """A condition scales and shifts channels: halves of a linear layer meet a conv's space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.norm = nn.GroupNorm(5, 10, affine=False)
        self.condition = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 20))
        self.head = nn.Conv2d(10, 3, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        return self.head(F.silu(self.norm(self.stem(x)) * (1 + scale) + shift))


class DiffusionTime(nn.Module):
    """A sinusoidal time embedding computed in the graph, cat of sin and cos, added per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(8, 14), nn.SiLU(), nn.Linear(14, 10))
        self.head = nn.Conv2d(10, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        rate = torch.exp(-torch.arange(4, dtype=x.dtype) * 0.7)
        angle = t[:, None].to(x.dtype) * rate[None]
        time = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        return self.head(F.silu(self.stem(x) + time[:, :, None, None]))


class CoordConv(nn.Module):
    """Coordinates built by arange and meshgrid are concatenated as constant channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Conv2d(8, 10, 3, padding=1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        b, _, h, w = x.shape
        ys, xs = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        grid = torch.stack([ys, xs]).to(x.dtype).unsqueeze(0).expand(b, -1, -1, -1)
        return self.head(F.relu(self.body(torch.cat([x, grid], 1))).mean((2, 3)))


class SpatialTransformer(nn.Module):
    """affine_grid and grid_sample: sampling moves pixels, channels are carried."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.where = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6))
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        theta = self.where(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.size()), align_corners=False)
        return self.head(F.grid_sample(x, grid, align_corners=False))


class InterleavedGate(nn.Module):
    """Gates and values side by side, every second channel each, and one token set to a number."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(6, 2 * 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        both = self.both(x)
        x = both[..., ::2].sigmoid() * both[..., 1::2]
        x[:, 0] = 0.5
        return self.down(x)


class OpenTail(nn.Module):
    """The last half of an open number of tokens, and the first, by indices of open size."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x, half = torch.tanh(self.inner(x)), x.shape[1] // 2
        return self.head(x[:, -half:].sum(1) - x[:, half:-1].sum(1) + x[:, :half].sum(1))


BLOCKS = catalogue(
    channel_shuffle=recipe(ChannelShuffle, floats(2, 3, 6, 6)),
    native_shuffle=recipe(NativeShuffle, floats(2, 3, 6, 6)),
    shufflenet=recipe(ShuffleNet, floats(2, 3, 6, 6)),
    mobilenet=recipe(MobileNet, floats(2, 3, 8, 8)),
    efficientnet_block=recipe(EfficientNet, floats(2, 3, 8, 8)),
    convnext_block=recipe(ConvNeXt, floats(2, 3, 8, 8)),
    simple_gate=recipe(SimpleGate, floats(2, 3, 6, 6)),
    gated_feed_forward=recipe(GatedFeedForward, floats(2, 3, 6, 6)),
    feature_pyramid=recipe(FeaturePyramid, floats(2, 3, 16, 16)),
    aspp=recipe(Aspp, floats(2, 3, 8, 8)),
    mlp_mixer=recipe(MlpMixer, floats(2, 3, 6, 6)),
    gated_mlp=recipe(GatedMlp, floats(2, 7, 6)),
    pixel_shuffle=recipe(SuperResolution, floats(2, 3, 4, 4)),
    pixel_unshuffle=recipe(PixelUnshuffle, floats(2, 3, 6, 6)),
    film=recipe(Film, floats(2, 3, 6, 6), floats(2, 4)),
    diffusion_time=recipe(DiffusionTime, floats(2, 3, 6, 6), floats(2)),
    coord_conv=recipe(CoordConv, floats(2, 3, 6, 6)),
    spatial_transformer=recipe(SpatialTransformer, floats(2, 3, 6, 6)),
    interleaved_gate=recipe(InterleavedGate, floats(2, 7, 6)),
    open_tail=recipe(OpenTail, floats(2, 7, 6), dynamic={"x": {1: "n"}}),
)
