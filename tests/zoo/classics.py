"""Classic vision networks: exact published sizes for benchmarks, small versions for tests.

Every builder takes `width`, which divides all channel counts (1 is the published network, on
224-pixel images), and `classes`. Parameter counts and state-dict keys equal torchvision's; the
U-Net, which torchvision lacks, is the paper's with padding and batch norm.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from tests.zoo.classics_branched import GoogLeNet, ShuffleNetV2, UNet, VisionTransformer
from tests.zoo.classics_residual import DenseNet, MobileNetV2, resnet, vgg11_bn
from tests.zoo.sample import Dynamic, Sample, catalogue, floats, recipe

densenet121, mobilenet_v2, shufflenet_v2 = DenseNet, MobileNetV2, ShuffleNetV2
googlenet, unet, vit_b_16 = GoogLeNet, UNet, VisionTransformer

FULL: dict[str, Callable[..., nn.Module]] = {
    "resnet18": partial(resnet, 18),
    "resnet50": partial(resnet, 50),
    "vgg11_bn": vgg11_bn,
    "densenet121": densenet121,
    "mobilenet_v2": mobilenet_v2,
    "shufflenet_v2": shufflenet_v2,
    "googlenet": googlenet,
    "unet": unet,
    "vit_b_16": vit_b_16,
}


def _small(name: str, width: int, **options: int) -> Callable[[], nn.Module]:
    return partial(FULL[name], width=width, classes=5, **options)


IMAGE = floats(2, 3, 32, 32)
ANY_SIZE: Dynamic = {"x": {2: "h", 3: "w"}}

CLASSICS: dict[str, Callable[[], Sample]] = catalogue(
    resnet18=recipe(_small("resnet18", 8), IMAGE, dynamic=ANY_SIZE),
    resnet50=recipe(_small("resnet50", 8), IMAGE),
    vgg11_bn=recipe(_small("vgg11_bn", 16), IMAGE),
    densenet121=recipe(_small("densenet121", 8), IMAGE),
    mobilenet_v2=recipe(_small("mobilenet_v2", 4), IMAGE),
    shufflenet_v2=recipe(_small("shufflenet_v2", 4), IMAGE),
    googlenet=recipe(_small("googlenet", 8), IMAGE),
    unet=recipe(_small("unet", 16), IMAGE),
    vit_b_16=recipe(_small("vit_b_16", 16, image=32, patch=8, depth=3), IMAGE),
)
