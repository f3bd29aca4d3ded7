"""ResNet, VGG, DenseNet and MobileNetV2: torchvision's architecture and keys, our words."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv3x3(read: int, made: int, stride: int = 1) -> nn.Conv2d:
    """The 3x3 convolution of residual networks."""
    return nn.Conv2d(read, made, 3, stride, 1, bias=False)


class BasicBlock(nn.Module):
    """ResNet-18's block: two 3x3 convolutions."""

    expansion = 1

    def __init__(self, read: int, made: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(read, made, stride), nn.BatchNorm2d(made)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv3x3(made, made), nn.BatchNorm2d(made)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += shortcut
        return self.relu(x)


class Bottleneck(nn.Module):
    """ResNet-50's block: 1x1, 3x3 (with the stride), 1x1 to four times the width."""

    expansion = 4

    def __init__(self, read: int, made: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        wide = made * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(read, made, 1, bias=False), nn.BatchNorm2d(made)
        self.conv2, self.bn2 = conv3x3(made, made, stride), nn.BatchNorm2d(made)
        self.conv3, self.bn3 = nn.Conv2d(made, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += shortcut
        return self.relu(x)


class ResNet(nn.Module):
    """ResNet (He et al. 2015), the 224-pixel form."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        width: int = 1,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        base = 64 // width
        self.conv1 = nn.Conv2d(3, base, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(base), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        read = base
        for stage, depth in enumerate(layers):
            made, stride = base * 2**stage, 1 if stage == 0 else 2
            blocks: list[nn.Module] = []
            for at in range(depth):
                step, wide = stride if at == 0 else 1, made * block.expansion
                project = None
                if step != 1 or read != wide:
                    conv = nn.Conv2d(read, wide, 1, step, bias=False)
                    project = nn.Sequential(conv, nn.BatchNorm2d(wide))
                blocks.append(block(read, made, step, project))
                read = wide
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(read, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet(depth: int, width: int = 1, classes: int = 1000) -> nn.Module:
    """ResNet-18, -34, -50, -101 or -152."""
    layers = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
              152: (3, 8, 36, 3)}[depth]
    return ResNet(BasicBlock if depth < 50 else Bottleneck, layers, width, classes)


class VGG(nn.Module):
    """VGG (Simonyan & Zisserman 2014) with batch norm."""

    def __init__(
        self, plan: Sequence[int | str], width: int = 1, classes: int = 1000, hidden: int = 4096
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        read = 3
        for item in plan:
            if isinstance(item, str):
                layers.append(nn.MaxPool2d(2, 2))
                continue
            made = item // width
            layers += [nn.Conv2d(read, made, 3, padding=1), nn.BatchNorm2d(made),
                       nn.ReLU(inplace=True)]
            read = made
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        hidden //= width
        self.classifier = nn.Sequential(
            nn.Linear(read * 49, hidden), nn.ReLU(True), nn.Dropout(),
            nn.Linear(hidden, hidden), nn.ReLU(True), nn.Dropout(), nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


def vgg11_bn(width: int = 1, classes: int = 1000) -> nn.Module:
    """VGG-11 with batch norm."""
    plan = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
    return VGG(plan, width, classes)


class DenseLayer(nn.Module):
    """norm, relu, 1x1, norm, relu, 3x3 on everything that the block has made so far."""

    def __init__(self, read: int, growth: int, neck: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(read), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(read, neck * growth, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(neck * growth), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(neck * growth, growth, 3, padding=1, bias=False)

    def forward(self, parts: list[Tensor]) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(torch.cat(parts, 1))))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    """Layers named denselayer1 and on, each reading all earlier outputs."""

    def __init__(self, layers: int, read: int, growth: int, neck: int) -> None:
        super().__init__()
        for at in range(layers):
            self[f"denselayer{at + 1}"] = DenseLayer(read + at * growth, growth, neck)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for layer in self.values():
            parts.append(layer(parts))
        return torch.cat(parts, 1)


class DenseNet(nn.Module):
    """DenseNet (Huang et al. 2016)."""

    def __init__(
        self,
        layers: Sequence[int] = (6, 12, 24, 16),
        growth: int = 32,
        neck: int = 4,
        width: int = 1,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        growth //= width
        read = 2 * growth
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, read, 7, 2, 3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(read))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        for at, depth in enumerate(layers, 1):
            self.features.add_module(f"denseblock{at}", DenseBlock(depth, read, growth, neck))
            read += depth * growth
            if at < len(layers):
                transition = nn.Sequential()
                transition.add_module("norm", nn.BatchNorm2d(read))
                transition.add_module("relu", nn.ReLU(inplace=True))
                transition.add_module("conv", nn.Conv2d(read, read // 2, 1, bias=False))
                transition.add_module("pool", nn.AvgPool2d(2, 2))
                self.features.add_module(f"transition{at}", transition)
                read //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(read))
        self.classifier = nn.Linear(read, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.features(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))




def conv_bn_relu6(
    read: int, made: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """MobileNet's conv, norm, relu6."""
    conv = nn.Conv2d(read, made, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(made), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project without activation."""

    def __init__(self, read: int, made: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = read * expand
        layers: list[nn.Module] = [] if expand == 1 else [conv_bn_relu6(read, wide, 1)]
        layers += [conv_bn_relu6(wide, wide, 3, stride, wide),
                   nn.Conv2d(wide, made, 1, bias=False), nn.BatchNorm2d(made)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and read == made

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al. 2018). `width` must divide 8."""

    def __init__(self, width: int = 1, classes: int = 1000) -> None:
        super().__init__()
        read, last = 32 // width, 1280 // width
        features: list[nn.Module] = [conv_bn_relu6(3, read, 3, 2)]
        plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                (6, 160, 3, 2), (6, 320, 1, 1))
        for expand, made, depth, stride in plan:
            for at in range(depth):
                step = stride if at == 0 else 1
                features.append(InvertedResidual(read, made // width, step, expand))
                read = made // width
        features.append(conv_bn_relu6(read, last, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


