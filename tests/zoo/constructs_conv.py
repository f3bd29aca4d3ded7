"""Convolutional constructs: kinds of convolution, and the ways in which their channels meet."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.sample import catalogue, floats, recipe


def conv_bn(read: int, made: int, kernel: int = 3, **options: int) -> nn.Sequential:
    """Convolution without bias (size kept), batch norm, relu."""
    reach = options.get("dilation", 1) * (kernel // 2)
    conv = nn.Conv2d(read, made, kernel, padding=reach, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(made), nn.ReLU())


class Chain(nn.Module):
    """Flatten between conv and linear: the linear's columns are channel x height x width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 10, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(10)
        self.hidden = nn.Linear(10 * 3 * 3, 14)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(F.relu(self.hidden(torch.flatten(x, 1))))


class Residual(nn.Module):
    """Two identity shortcuts in a row: stem and both block ends are one space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 10)
        self.inner = nn.ModuleList(conv_bn(10, made) for made in (6, 14))
        self.outer = nn.ModuleList(nn.Conv2d(made, 10, 3, padding=1) for made in (6, 14))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = F.relu(x + outer(inner(x)))
        return self.head(x.mean((2, 3)))


class ResidualProjection(nn.Module):
    """A strided 1x1 shortcut: the block's input and output spaces differ."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.conv1 = conv_bn(6, 10, stride=2)
        self.conv2 = nn.Conv2d(10, 14, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(14)
        self.shortcut = nn.Sequential(nn.Conv2d(6, 14, 1, 2, bias=False), nn.BatchNorm2d(14))
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.bn2(self.conv2(self.conv1(x)))
        y += self.shortcut(x)
        return self.head(F.adaptive_avg_pool2d(F.relu(y), 1).flatten(1))


class ResidualInput(nn.Module):
    """A shortcut from the graph input (and to its output): that space is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(6, 10), nn.Conv2d(10, 6, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Dense(nn.Module):
    """DenseNet: every layer reads the concatenation of all before; norm precedes conv."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        reads = (6, 10, 14)
        self.norms = nn.ModuleList(nn.BatchNorm2d(read) for read in reads)
        self.convs = nn.ModuleList(nn.Conv2d(read, 4, 3, padding=1) for read in reads)
        self.norm = nn.BatchNorm2d(18)
        self.head = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            parts.append(conv(F.relu(norm(torch.cat(parts, 1)))))
        x = F.relu(self.norm(torch.cat(parts, 1)))
        return self.head(x.mean((2, 3)))


class Inception(nn.Module):
    """Four branches of unlike widths, one of them a pool of the input, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.one = conv_bn(6, 4, 1)
        self.three = nn.Sequential(conv_bn(6, 3, 1), conv_bn(3, 5))
        self.five = nn.Sequential(conv_bn(6, 2, 1), conv_bn(2, 7, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(6, 9, 1))
        self.head = nn.Linear(25, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)
        return self.head(x.amax((2, 3)))


class Depthwise(nn.Module):
    """Depthwise convs carry a space, one with two outputs per channel (group-major order)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.depth = conv_bn(6, 6, groups=6)
        self.point = conv_bn(6, 10, 1)
        self.twice = conv_bn(10, 20, groups=10)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.point(self.depth(self.stem(x))))
        return self.head(x.mean((2, 3)))


class Grouped(nn.Module):
    """ResNeXt: two convs with different group counts on one path, one with unequal block sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.by3 = conv_bn(12, 18, groups=3)
        self.by2 = conv_bn(18, 10, groups=2)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.by2(self.by3(self.stem(x))).mean((2, 3)))


class SqueezeExcite(nn.Module):
    """A (batch, channel, 1, 1) gate scales the value it was made from."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 10)
        self.down = nn.Conv2d(10, 4, 1)
        self.up = nn.Conv2d(4, 10, 1)
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return self.head(x * gate.sigmoid())


class SqueezeExciteLinear(nn.Module):
    """The same gate through linear layers and view(b, c, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 10)
        self.gate = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 10), nn.Sigmoid())
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, _, _ = x.size()
        gate = self.gate(F.adaptive_avg_pool2d(x, 1).view(b, c)).view(b, c, 1, 1)
        return self.head(x * gate.expand_as(x))


class UNet(nn.Module):
    """Skips concatenate across scales; one step up is transposed conv, one is interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = conv_bn(3, 4), conv_bn(4, 6)
        self.middle = conv_bn(6, 10)
        self.up2 = nn.ConvTranspose2d(10, 7, 2, stride=2)
        self.merge2 = conv_bn(7 + 6, 5)
        self.merge1 = conv_bn(5 + 4, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.middle(F.max_pool2d(two, 2))
        x = self.merge2(torch.cat([self.up2(x), two], 1))
        x = F.interpolate(x, size=one.shape[2:], mode="bilinear", align_corners=False)
        return self.head(self.merge1(torch.cat([one, x], 1)))


class Conv1d(nn.Module):
    """One spatial axis, strided and dilated, ending in max over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(3, 6, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm1d(6)
        self.conv2 = nn.Conv1d(6, 10, 3, dilation=2)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm(self.conv1(x)), 0.2)
        return self.head(F.relu(self.conv2(x)).max(2).values)


class Conv3d(nn.Module):
    """Three spatial axes, flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm3d(6)
        self.conv2 = nn.Conv3d(6, 10, (1, 3, 3))
        self.head = nn.Linear(10 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.norm(self.conv1(x))), (1, 2, 2), (2, 2, 2))
        return self.head(F.relu(self.conv2(x)).amax((3, 4)).flatten(1))


class Transposed(nn.Module):
    """Transposed convs: weight axes are swapped, and grouped ones hold (G i) x o."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.up1 = nn.ConvTranspose2d(6, 10, 4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.up2 = nn.ConvTranspose2d(10, 14, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.up3 = nn.ConvTranspose2d(14, 14, 3, padding=1, groups=14)
        self.head = nn.Conv2d(14, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.up1(F.relu(self.stem(x)))))
        return self.head(F.relu(self.up3(F.relu(self.up2(x)))))


class Transposed1d(nn.Module):
    """A one-dimensional decoder of transposed convs, ending in tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(2, 6, 4, 2, 1), nn.ELU(), nn.ConvTranspose1d(6, 10, 4, 2, 1),
            nn.ELU(), nn.Conv1d(10, 1, 3, padding=1), nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Kernels(nn.Module):
    """Kernel sizes 1 to 7, odd ones with 'same' padding; oblong kernels, dilation, circular."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 4, 5, 6, 7, 8, 9, 10)
        self.convs = nn.ModuleList(
            nn.Conv2d(read, made, kernel, padding="same" if kernel % 2 else kernel // 2)
            for kernel, (read, made) in enumerate(pairwise(widths), 1)
        )
        self.wide = nn.Conv2d(10, 11, (1, 5), padding=(0, 2))
        self.tall = nn.Conv2d(11, 12, (5, 1), padding=(2, 0))
        self.dilated = nn.Conv2d(12, 13, 3, padding=(2, 3), dilation=(2, 3))
        self.circular = nn.Conv2d(13, 14, 3, padding=1, padding_mode="circular")
        self.valid = nn.Conv2d(14, 5, 3, padding="valid")

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(x))
        for conv in (self.wide, self.tall, self.dilated, self.circular):
            x = F.relu(conv(x))
        return self.valid(x)


class OneChannel(nn.Module):
    """Axes of size 1: a one-channel waist, a spatial gate that broadcasts over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 6)
        self.waist = conv_bn(6, 1)
        self.body = conv_bn(1, 10)
        self.gate = nn.Conv2d(10, 1, 3, padding=1)
        self.head = nn.Conv2d(10, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.waist(self.stem(x)))
        return self.head(x * self.gate(x).sigmoid())


class DeepChain(nn.Module):
    """200 layers: the walk over the graph must not recurse, and must stay linear."""

    def __init__(self) -> None:
        super().__init__()
        widths = [4 + i % 3 for i in range(201)]
        self.stem = nn.Linear(3, widths[0])
        self.layers = nn.ModuleList(
            nn.Linear(read, made) for read, made in pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.7)
        return self.head(x)


class DeepResidual(nn.Module):
    """60 residual blocks: one space with 61 writers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.read = nn.ModuleList(nn.Linear(6, 4 + i % 3) for i in range(60))
        self.write = nn.ModuleList(nn.Linear(4 + i % 3, 6) for i in range(60))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for read, write in zip(self.read, self.write, strict=True):
            x = x + write(F.relu(read(x))) / 8
        return self.head(x)


class LowRankConv(nn.Module):
    """A conv followed by a conv with no nonlinearity between: a general basis fits there."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 10)
        self.down = nn.Conv2d(10, 4, 3, padding=1, bias=False)
        self.up = nn.Conv2d(4, 14, 1)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.up(self.down(self.stem(x)))).mean((-2, -1)))


class OptionAShortcut(nn.Module):
    """ResNet's parameter-free shortcut: stride by slicing, channels padded with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.body = nn.Sequential(conv_bn(6, 8, stride=2), nn.Conv2d(8, 12, 3, padding=1))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3))
        return self.head(F.relu(self.body(x) + shortcut).mean((2, 3)))


class Frozen(nn.Module):
    """Parameters with requires_grad=False (stem and a norm): the flag must survive."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6).requires_grad_(False)
        self.body = conv_bn(6, 10)
        self.body[1].requires_grad_(False)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


CONV = catalogue(
    chain=recipe(Chain, floats(2, 3, 6, 6)),
    residual=recipe(Residual, floats(2, 3, 6, 6)),
    residual_projection=recipe(ResidualProjection, floats(2, 3, 6, 6)),
    residual_input=recipe(ResidualInput, floats(2, 6, 6, 6)),
    dense=recipe(Dense, floats(2, 3, 6, 6)),
    inception=recipe(Inception, floats(2, 3, 6, 6)),
    depthwise=recipe(Depthwise, floats(2, 3, 6, 6)),
    grouped=recipe(Grouped, floats(2, 3, 6, 6)),
    squeeze_excite=recipe(SqueezeExcite, floats(2, 3, 6, 6)),
    squeeze_excite_linear=recipe(SqueezeExciteLinear, floats(2, 3, 6, 6)),
    unet=recipe(UNet, floats(2, 3, 8, 8), dynamic={"x": {2: "h", 3: "w"}}),
    conv1d=recipe(Conv1d, floats(2, 3, 12)),
    conv3d=recipe(Conv3d, floats(2, 2, 4, 6, 6)),
    transposed=recipe(Transposed, floats(2, 3, 8, 8)),
    transposed1d=recipe(Transposed1d, floats(2, 2, 8)),
    kernels=recipe(Kernels, floats(2, 3, 9, 9)),
    one_channel=recipe(OneChannel, floats(2, 1, 6, 6)),
    deep_chain=recipe(DeepChain, floats(2, 3)),
    deep_residual=recipe(DeepResidual, floats(2, 3)),
    low_rank_conv=recipe(LowRankConv, floats(2, 3, 6, 6)),
    option_a_shortcut=recipe(OptionAShortcut, floats(2, 3, 6, 6)),
    frozen=recipe(Frozen, floats(2, 3, 6, 6)),
)
