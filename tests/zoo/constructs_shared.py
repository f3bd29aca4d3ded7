"""Weights in unusual places: shared, tied, transposed, computed, indexed, frozen, in buffers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from tests.zoo.sample import catalogue, floats, recipe, whole


class TiedEmbedding(nn.Module):
    """Embedding and head are one parameter: its vocabulary axis is frozen, its width is not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 10)
        self.body = nn.Linear(10, 10)
        self.head = nn.Linear(10, 17, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(x + torch.tanh(self.body(x)))


class CalledTwice(nn.Module):
    """One module called twice in a row: its input and output spaces are one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.norm = nn.Linear(5, 10), nn.Linear(10, 10), nn.LayerNorm(10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            x = self.norm(torch.relu(self.body(x)))
        return self.head(x)


class Siamese(nn.Module):
    """One encoder on two inputs, joined by an absolute difference and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 10), nn.BatchNorm1d(10), nn.ReLU(),
                                     nn.Linear(10, 6))
        self.head = nn.Linear(12, 1)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        one, two = self.encoder(one), self.encoder(two)
        return self.head(torch.cat([(one - two).abs(), one * two], -1))


class SharedParameter(nn.Module):
    """Two modules of unlike kinds hold one parameter: a linear and a 1x1 conv through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 10), nn.Linear(5, 10)
        self.two.weight = self.one.weight
        self.bias = self.one.bias
        self.three, self.head = nn.Linear(10, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x)) - self.two(x) * self.bias
        y = F.conv1d(x.unsqueeze(-1), self.three.weight.unsqueeze(-1), self.three.bias)
        return self.head(self.three(x) * y.squeeze(-1))


class TransposedTie(nn.Module):
    """An autoencoder whose decoder is the encoder transposed; the bias of one is the input's."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(7, 10), nn.Linear(10, 6)
        self.bias_two, self.bias_one = nn.Parameter(torch.zeros(10)), nn.Parameter(torch.zeros(7))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.two(torch.relu(self.one(x))))
        x = torch.relu(F.linear(x, self.two.weight.t(), self.bias_two))
        return F.linear(x, self.one.weight.t(), self.bias_one)


class TiedLayers(nn.Module):
    """ALBERT: one layer object under two names of a list, and an alias of a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 10)
        block = nn.Sequential(nn.Linear(10, 14), nn.GELU(), nn.Linear(14, 10))
        self.layers = nn.ModuleList([block, block, nn.Linear(10, 10)])
        self.alias = self.layers[2]
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(self.alias(x))


class Buffers(nn.Module):
    """Buffers in the path: registered, not persistent, positional, whole-number, 0-d, unused."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 10), nn.Linear(10, 4)
        self.register_buffer("scale", torch.rand(10) + 0.5)
        self.register_buffer("shift", torch.randn(10), persistent=False)
        self.register_buffer("position", torch.randn(1, 16, 10))
        self.register_buffer("gain", torch.tensor(1.3))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("unused", torch.rand(10))
        self.register_buffer("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) * self.scale + self.shift + self.position[:, : x.shape[1]]
        return self.head(torch.relu(x) * self.gain / self.count)


class Unused(nn.Module):
    """Parameters that no output depends on: one never read, one read for nothing, an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dead, self.idle = nn.Linear(5, 10), nn.Linear(10, 6), nn.Linear(10, 7)
        self.empty = nn.Parameter(torch.empty(0, 10))
        self.register_parameter("absent", None)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        self.dead(x).sum()
        return self.head(x)


class RootParameters(nn.Module):
    """Parameters at the root, in a ParameterList and a ParameterDict, 0-d and of one element."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(10, 5)), nn.Parameter(torch.zeros(10))
        self.gain, self.gate = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.zeros(1))
        self.scales = nn.ParameterList([torch.ones(10), torch.ones(1, 10)])
        self.out = nn.ParameterDict({"w": torch.randn(4, 10), "b": torch.zeros(4)})

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.linear(x, self.weight, self.bias)) * self.gain
        x = x * self.scales[0] + x * self.scales[1] * self.gate
        return F.linear(x, self.out["w"], self.out["b"])


class FactoredWeight(nn.Module):
    """LoRA: a weight is computed as W + B A before it is used; W itself is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.base, self.head = nn.Linear(5, 10), nn.Linear(10, 14), nn.Linear(14, 4)
        self.base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(2, 10) / 3)
        self.b = nn.Parameter(torch.zeros(14, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = F.linear(x, self.base.weight + 0.5 * (self.b @ self.a), self.base.bias)
        return self.head(torch.relu(x))


class AdapterBranch(nn.Module):
    """LoRA on activations: x W + (x A) B, with a scaling attribute that is a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(5, 10), nn.Linear(5, 2), nn.Linear(2, 10)
        self.scaling, self.head = 0.7, nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.base(x) + self.up(self.down(x)) * self.scaling))


class MaskedWeight(nn.Module):
    """Unstructured pruning: weight times a 0/1 buffer; the mask has the weight's spaces."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(5, 10), nn.Conv1d(10, 14, 3), nn.Linear(14, 4)
        self.register_buffer("stem_mask", (torch.rand(10, 5) > 0.3).float())
        self.register_buffer("body_mask", (torch.rand(14, 10, 3) > 0.3).float())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.linear(x, self.stem.weight * self.stem_mask, self.stem.bias))
        x = F.conv1d(x.transpose(1, 2), self.body.weight * self.body_mask, self.body.bias)
        return self.head(torch.relu(x).mean(-1))


class Symmetric(nn.Module):
    """A user's parametrization: upper triangle mirrored, so both weight axes are one space."""

    class Mirror(nn.Module):
        """The upper triangle of a square matrix, mirrored."""

        def forward(self, weight: Tensor) -> Tensor:
            return weight.triu() + weight.triu(1).transpose(-1, -2)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(5, 10), nn.Linear(10, 10), nn.Linear(10, 4)
        parametrize.register_parametrization(self.body, "weight", self.Mirror())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(torch.relu(self.stem(x)))))


class RotatedKernels(nn.Module):
    """Group-equivariant lifting: one filter bank, turned by rot90 and stacked into outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = nn.Parameter(torch.randn(6, 3, 3, 3) / 5)
        self.bias, self.norm = nn.Parameter(torch.zeros(6)), nn.BatchNorm3d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        turned = [torch.rot90(self.bank, k, (2, 3)) for k in range(4)]
        weight = torch.stack(turned, dim=1).reshape(24, 3, 3, 3)
        x = F.conv2d(x, weight, self.bias.repeat_interleave(4))
        x = self.norm(x.view(x.shape[0], 6, 4, *x.shape[2:]))
        return self.head(torch.relu(x).amax(2).mean((2, 3)))


class HyperNetwork(nn.Module):
    """Weights per example, computed from an input: bmm with a reshaped linear output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.hidden = nn.Linear(5, 6), nn.Linear(4, 10)
        self.weight, self.bias = nn.Linear(10, 7 * 6), nn.Linear(10, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        context = torch.relu(self.hidden(context))
        weight = self.weight(context).view(-1, 7, 6)
        x = torch.bmm(torch.tanh(self.stem(x)), weight.transpose(1, 2))
        return self.head(torch.relu(x + self.bias(context).unsqueeze(1)))


class DynamicConv(nn.Module):
    """CondConv: kernels mixed per example, then one grouped conv with the batch in its groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.route = nn.Conv2d(3, 6, 1), nn.Linear(6, 3)
        self.experts = nn.Parameter(torch.randn(3, 10, 6, 3, 3) / 7)
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        b, c, h, w = x.shape
        gate = self.route(x.mean((2, 3))).sigmoid()
        weight = torch.einsum("be,eoikl->boikl", gate, self.experts).reshape(b * 10, c, 3, 3)
        x = F.conv2d(x.reshape(1, b * c, h, w), weight, padding=1, groups=b)
        return self.head(F.relu(x.view(b, 10, h, w)))


class TwoTower(nn.Module):
    """Two towers meet in dot products: one per pair, and one matrix over the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Sequential(nn.Embedding(17, 6), nn.Linear(6, 10))
        self.item = nn.Sequential(nn.Linear(5, 14), nn.ReLU(), nn.Linear(14, 10))
        self.temperature = nn.Parameter(torch.tensor(0.0))

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        user, item = F.normalize(self.user(user), dim=-1), F.normalize(self.item(item), dim=-1)
        return (user * item).sum(-1), self.temperature.exp() * user @ item.t()


class BilinearLayer(nn.Module):
    """nn.Bilinear: a weight with two contracted axes; cosine similarity of what it made."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 6), nn.Linear(4, 7)
        self.bilinear, self.head = nn.Bilinear(6, 7, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = torch.tanh(self.one(x)), torch.tanh(self.two(y))
        z = self.bilinear(x, y)
        return self.head(z), F.cosine_similarity(z, z.roll(1, 0), dim=-1)


class Bags(nn.Module):
    """EmbeddingBag in mean mode beside an embedding summed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.embed = nn.EmbeddingBag(17, 10, mode="mean"), nn.Embedding(17, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.relu(self.bag(tokens) + self.embed(tokens).sum(1)))


class Factorisation(nn.Module):
    """A factorisation machine: square of sum minus sum of squares over fields, per factor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(17, 10), nn.Embedding(17, 1)
        self.deep = nn.Sequential(nn.Linear(40, 6), nn.ReLU(), nn.Linear(6, 1))

    def forward(self, fields: Tensor) -> Tensor:
        x = self.embed(fields)
        pairs = (x.sum(1).square() - x.square().sum(1)).sum(-1, keepdim=True) / 2
        return self.linear(fields).sum(1) + pairs + self.deep(x.flatten(1))


class Codebook(nn.Module):
    """Vector quantisation: nearest code by distances, argmin, lookup, straight-through detach."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(5, 10), nn.Linear(10, 4)
        self.codes = nn.Embedding(13, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, table = self.encode(x), self.codes.weight
        far = x.pow(2).sum(-1, keepdim=True) - 2 * x @ table.t() + table.pow(2).sum(-1)
        chosen = far.argmin(-1)
        found = self.codes(chosen)
        return self.decode(x + (found - x).detach()), chosen


ROW, TOKENS, IDS = floats(2, 5), floats(2, 7, 5), whole(2, 7, below=17)

SHARED = catalogue(
    tied_embedding=recipe(TiedEmbedding, IDS),
    called_twice=recipe(CalledTwice, ROW),
    siamese=recipe(Siamese, ROW, ROW),
    shared_parameter=recipe(SharedParameter, ROW),
    transposed_tie=recipe(TransposedTie, floats(2, 7)),
    tied_layers=recipe(TiedLayers, ROW),
    buffers=recipe(Buffers, TOKENS),
    unused=recipe(Unused, ROW),
    root_parameters=recipe(RootParameters, ROW),
    factored_weight=recipe(FactoredWeight, ROW),
    adapter_branch=recipe(AdapterBranch, ROW),
    masked_weight=recipe(MaskedWeight, TOKENS),
    symmetric=recipe(Symmetric, ROW),
    rotated_kernels=recipe(RotatedKernels, floats(2, 3, 6, 6)),
    hyper_network=recipe(HyperNetwork, TOKENS, floats(2, 4)),
    dynamic_conv=recipe(DynamicConv, floats(2, 3, 6, 6)),
    two_tower=recipe(TwoTower, whole(2, below=17), ROW),
    bilinear_layer=recipe(BilinearLayer, ROW, floats(2, 4)),
    bags=recipe(Bags, IDS),
    factorisation=recipe(Factorisation, whole(2, 4, below=17)),
    codebook=recipe(Codebook, ROW),
)
