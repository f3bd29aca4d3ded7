"""ShuffleNetV2, GoogLeNet, U-Net and ViT-B/16: torchvision's architecture and keys, our words."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are transformed; at stride 2 both halves read all."""

    def __init__(self, read: int, made: int, stride: int) -> None:
        super().__init__()
        half = made // 2
        self.stride = stride

        def depth(size: int) -> list[nn.Module]:
            conv = nn.Conv2d(size, size, 3, stride, 1, groups=size, bias=False)
            return [conv, nn.BatchNorm2d(size)]

        def point(taken: int) -> list[nn.Module]:
            conv = nn.Conv2d(taken, half, 1, bias=False)
            return [conv, nn.BatchNorm2d(half), nn.ReLU(inplace=True)]

        self.branch1 = nn.Sequential(*(depth(read) + point(read) if stride > 1 else []))
        taken = read if stride > 1 else half
        self.branch2 = nn.Sequential(*point(taken), *depth(half), *point(half))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            kept, changed = x.chunk(2, dim=1)
            x = torch.cat((kept, self.branch2(changed)), dim=1)
        else:
            x = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        b, c, h, w = x.size()
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 x1.0 (Ma et al. 2018). `width` must be 1, 2 or 4."""

    def __init__(self, width: int = 1, classes: int = 1000) -> None:
        super().__init__()
        first, *stages, last = (size // width for size in (24, 116, 232, 464, 1024))
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True)
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        read = first
        for number, (made, depth) in enumerate(zip(stages, (4, 8, 4), strict=True), 2):
            made -= made % 2
            units = [ShuffleUnit(read, made, 2)]
            units += [ShuffleUnit(made, made, 1) for _ in range(depth - 1)]
            self.add_module(f"stage{number}", nn.Sequential(*units))
            read = made
        self.conv5 = nn.Sequential(
            nn.Conv2d(read, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU(inplace=True)
        )
        self.fc = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return self.fc(x.mean([2, 3]))


class BasicConv2d(nn.Module):
    """Convolution, batch norm with eps 0.001, relu."""

    def __init__(self, read: int, made: int, kernel: int, stride: int = 1, pad: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(read, made, kernel, stride, pad, bias=False)
        self.bn = nn.BatchNorm2d(made, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class InceptionBlock(nn.Module):
    """1x1; 1x1 to 3x3; 1x1 to 3x3 (torchvision's 'five'); max pool to 1x1: concatenated."""

    def __init__(self, read: int, sizes: Sequence[int]) -> None:
        super().__init__()
        one, three_in, three, five_in, five, pool = sizes
        self.branch1 = BasicConv2d(read, one, 1)
        self.branch2 = nn.Sequential(
            BasicConv2d(read, three_in, 1), BasicConv2d(three_in, three, 3, pad=1))
        self.branch3 = nn.Sequential(
            BasicConv2d(read, five_in, 1), BasicConv2d(five_in, five, 3, pad=1))
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, 1, 1, ceil_mode=True), BasicConv2d(read, pool, 1))
        self.made = one + three + five + pool

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(x) for branch in branches], 1)


class GoogLeNet(nn.Module):
    """GoogLeNet (Szegedy et al. 2014) without auxiliary heads. `width` must divide 16."""

    PLAN = (
        ("3a", 64, 96, 128, 16, 32, 32), ("3b", 128, 128, 192, 32, 96, 64),
        ("4a", 192, 96, 208, 16, 48, 64), ("4b", 160, 112, 224, 24, 64, 64),
        ("4c", 128, 128, 256, 24, 64, 64), ("4d", 112, 144, 288, 32, 64, 64),
        ("4e", 256, 160, 320, 32, 128, 128), ("5a", 256, 160, 320, 32, 128, 128),
        ("5b", 384, 192, 384, 48, 128, 128),
    )

    def __init__(self, width: int = 1, classes: int = 1000) -> None:
        super().__init__()
        narrow, wide = 64 // width, 192 // width
        self.conv1 = BasicConv2d(3, narrow, 7, 2, 3)
        self.conv2 = BasicConv2d(narrow, narrow, 1)
        self.conv3 = BasicConv2d(narrow, wide, 3, pad=1)
        read = wide
        for name, *sizes in self.PLAN:
            block = InceptionBlock(read, [size // width for size in sizes])
            self.add_module(f"inception{name}", block)
            read = block.made
        self.dropout, self.fc = nn.Dropout(0.2), nn.Linear(read, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        for name, *_ in self.PLAN:
            if name in ("4a", "5a"):
                x = F.max_pool2d(x, 3 if name == "4a" else 2, 2, ceil_mode=True)
            x = getattr(self, f"inception{name}")(x)
        return self.fc(self.dropout(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1)))


def double_conv(read: int, made: int) -> nn.Sequential:
    """U-Net's two convolutions, padded and with batch norm."""
    layers: list[nn.Module] = []
    for taken in (read, made):
        layers += [nn.Conv2d(taken, made, 3, padding=1, bias=False), nn.BatchNorm2d(made),
                   nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015), padded, four levels down and up by transposed convs."""

    def __init__(self, width: int = 1, classes: int = 2) -> None:
        super().__init__()
        sizes = [64 * 2**level // width for level in range(5)]
        self.down = nn.ModuleList(
            double_conv(read, made) for read, made in zip([3, *sizes[:-1]], sizes, strict=True)
        )
        pairs = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(read, made, 2, 2) for read, made in pairs)
        self.merge = nn.ModuleList(double_conv(2 * made, made) for _, made in pairs)
        self.head = nn.Conv2d(sizes[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, stage in enumerate(self.down):
            x = stage(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


class MlpBlock(nn.Sequential):
    """Two linear layers with gelu, numbered 0 and 3 as in torchvision."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__(nn.Linear(size, hidden), nn.GELU(), nn.Dropout(0.0),
                         nn.Linear(hidden, size), nn.Dropout(0.0))


class EncoderBlock(nn.Module):
    """A pre-norm transformer block around nn.MultiheadAttention."""

    def __init__(self, size: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(size, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(size, heads, batch_first=True)
        self.dropout = nn.Dropout(0.0)
        self.ln_2 = nn.LayerNorm(size, eps=1e-6)
        self.mlp = MlpBlock(size, hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        y, _ = self.self_attention(y, y, y, need_weights=False)
        x = x + self.dropout(y)
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """Positions, blocks named encoder_layer_0 and on, a last norm."""

    def __init__(self, tokens: int, depth: int, size: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(0.02 * torch.randn(1, tokens, size))
        self.dropout, self.layers = nn.Dropout(0.0), nn.Sequential()
        for at in range(depth):
            self.layers.add_module(f"encoder_layer_{at}", EncoderBlock(size, heads, hidden))
        self.ln = nn.LayerNorm(size, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(self.layers(self.dropout(x + self.pos_embedding)))


class VisionTransformer(nn.Module):
    """ViT-B/16 (Dosovitskiy et al. 2020). `width` must divide 64 (the head size shrinks)."""

    def __init__(
        self, width: int = 1, classes: int = 1000, image: int = 224, patch: int = 16,
        depth: int = 12,
    ) -> None:
        super().__init__()
        size = 768 // width
        self.class_token = nn.Parameter(torch.zeros(1, 1, size))
        self.conv_proj = nn.Conv2d(3, size, patch, patch)
        self.encoder = Encoder((image // patch) ** 2 + 1, depth, size, 12, 3072 // width)
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(size, classes))

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        x = self.conv_proj(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_token.expand(b, -1, -1), x], dim=1)
        return self.heads(self.encoder(x)[:, 0])
