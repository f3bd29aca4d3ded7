"""What surrounds a network: kinds of inputs and outputs, dtypes, modes, ops that nobody lists."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from tests.zoo.sample import catalogue, floats, recipe, whole


@dataclass
class Pair:
    """A user's own container, registered with pytree."""

    left: Tensor
    right: Tensor


class Scored(NamedTuple):
    """A named tuple of outputs."""

    logits: Tensor
    best: Tensor


pytree.register_dataclass(Pair)


class NestedInputs(nn.Module):
    """Dicts of tuples and lists in, a dict with a nested list out."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(5, 10), nn.Linear(6, 10), nn.Linear(10, 4)

    def forward(self, batch: dict, extra: list) -> dict:
        a, (b, c) = batch["a"], batch["rest"]
        x = torch.relu(self.one(a) + self.two(b)) * c
        return {"logits": self.head(x), "parts": [x.mean(-1), (extra[0] + x.sum(-1),)]}


class DataclassInputs(nn.Module):
    """A pytree-registered dataclass in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 10), nn.Linear(6, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, pair: Pair) -> Pair:
        x, y = torch.relu(self.left(pair.left)), torch.relu(self.right(pair.right))
        return Pair(self.head(x + y), self.head(x * y))


class Keywords(nn.Module):
    """Keyword inputs in another order than the signature's, and a default that is used."""

    # No **kwargs that receive tensors: torch.export (2.13) refuses any dynamic_shapes for them.

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(5, 10), nn.Linear(6, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor, *, y: Tensor, scale: float = 0.5, gain: Tensor) -> Tensor:
        return self.head(torch.relu(self.one(x) + scale * self.two(y)) * gain)


class SeveralOutputs(nn.Module):
    """Several outputs: an intermediate value, one value twice, a view of another, a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(5, 10), nn.Linear(10, 14), nn.Linear(14, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Scored]:
        x = torch.relu(self.one(x))
        y = self.head(torch.relu(self.two(x)))
        return y, y, x[:, :3], Scored(y.softmax(-1), y.argmax(-1))


class OutputIsInput(nn.Module):
    """One output is an input, one a parameter, one a constant, one a Python number, one None."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(5, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor, unused: Tensor) -> tuple:
        y = self.head(torch.relu(self.one(x)))
        return x, y, self.head.bias, torch.arange(3), 7, None


class NoneInput(nn.Module):
    """Optional inputs: None in one place, a Python number and a string in others."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(5, 10), nn.Linear(10, 4)

    def forward(
        self, x: Tensor, mask: Tensor | None, power: int = 1, kind: str = "relu"
    ) -> dict[str, Tensor | None]:
        x = self.one(x) ** power
        x = torch.relu(x) if kind == "relu" else x
        return {"logits": self.head(x if mask is None else x * mask), "mask": mask}


class BatchArithmetic(nn.Module):
    """Sizes that depend on the batch: x.size(0) in views, in arithmetic, in arange, in a sum."""

    # Not len(x): it would make torch.export specialise the batch.

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6 * 16, 5)
        self.pair = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        b = x.size(0)
        x = self.head(F.relu(self.conv(x)).view(b, -1))
        pairs = torch.cat([x.unsqueeze(1).expand(b, b, 5), x.expand(b, b, 5)], -1)
        y = self.pair(pairs.reshape(b * b, 10)).view(b, b, 4).sum(1) / (b + 1)
        return y * torch.arange(b, dtype=x.dtype)[:, None] + b


class Precision(nn.Module):
    """A whole model in another dtype; softmax and norm go through float32 and back."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.one, self.norm, self.head = nn.Linear(5, 10), nn.LayerNorm(10), nn.Linear(10, 4)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.relu(self.one(x)))
        return self.head(x * x.float().softmax(-1).type_as(x))


class MixedPrecision(nn.Module):
    """float32, bfloat16 and float64 layers in one model, with casts between."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 10), nn.Linear(10, 14).bfloat16()
        self.head = nn.Linear(14, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x)).to(self.two.weight.dtype)
        return self.head(torch.relu(self.two(x)).to(self.head.weight.dtype))


class Dropouts(nn.Module):
    """Every dropout: nn and functional, with the training flag, by channel, alpha, feature."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 10, 3, padding=1)
        self.drops = nn.ModuleList([nn.Dropout(0.2), nn.Dropout2d(0.2), nn.Dropout(0.2, True),
                                    nn.AlphaDropout(0.1), nn.FeatureAlphaDropout(0.1)])
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        for drop in self.drops:
            x = drop(x)
        x = F.dropout(F.relu(self.conv2(x)), 0.3, training=self.training)
        return self.head(F.dropout1d(x.flatten(2), 0.1, self.training).mean(-1))


class StochasticDepth(nn.Module):
    """Branches that are dropped per example, in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 10), nn.Linear(10, 4)
        self.blocks = nn.ModuleList(nn.Linear(10, 10) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            y = torch.relu(block(x))
            if self.training:
                y = y * (torch.rand(y.shape[0], 1) < 0.8).to(y.dtype) / 0.8
            x = x + y
        return self.head(x)


class AuxiliaryHead(nn.Module):
    """A second head, which exists in train mode only: eval mode never reads its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 10), nn.Linear(10, 14)
        self.auxiliary, self.head = nn.Linear(10, 4), nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = torch.relu(self.one(x))
        y = self.head(torch.relu(self.two(x)))
        return (y, self.auxiliary(x)) if self.training else y


class Contexts(nn.Module):
    """no_grad, enable_grad and autocast blocks, checkpointing, detach: higher-order ops."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(5, 10), nn.Linear(10, 14), nn.Linear(14, 4)
        self.momentum = nn.Linear(5, 14)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.momentum(x)
        with torch.autocast("cpu", enabled=False):
            y = torch.relu(self.one(x))
        y = checkpoint(self.two, y, use_reentrant=False)
        return self.head(torch.relu(y) + target) - y.detach().mean()


class Condition(nn.Module):
    """torch.cond: two branches with the same parameters, chosen by the data."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(5, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        def positive(y: Tensor) -> Tensor:
            return torch.relu(y)

        def negative(y: Tensor) -> Tensor:
            return torch.tanh(y) * 0.5

        y = self.one(x)
        return self.head(torch.cond(y.sum() > 0, positive, negative, (y,)))


class Constants(nn.Module):
    """Tensors made in forward from Python lists, scalars and numbers, some per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.stem, self.head = (0.4, 0.5, 0.6), nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, dtype=x.dtype).view(1, 3, 1, 1)
        x = F.relu(self.stem((x - mean) / 0.25)).mean((2, 3))
        weights = torch.tensor([0.1, 0.4, 0.2, 0.8, 0.3, 0.5], dtype=x.dtype)
        return self.head(x * weights) + torch.ones_like(x[:, :1]) * torch.pi


class OwnFunction(nn.Module):
    """A torch.autograd.Function with a backward of its own (a straight-through sign)."""

    class Sign(torch.autograd.Function):
        """The sign, with the gradient of the identity."""

        @staticmethod
        def forward(_ctx: object, x: Tensor) -> Tensor:
            return torch.sign(x)

        @staticmethod
        def backward(_ctx: object, gradient: Tensor) -> Tensor:
            return gradient

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(5, 10), nn.Linear(10, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(self.Sign.apply(self.one(x)))))


class Opaque(nn.Module):
    """An op that no table lists, between two linear layers on both of its sides."""

    def __init__(self, function: Callable[[Tensor], Tensor], made: int = 10) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 6), nn.Linear(6, 10)
        self.function = function
        self.three, self.head = nn.Linear(made, 14), nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.two(torch.relu(self.one(x))))
        return self.head(torch.relu(self.three(x)))


def _solve(x: Tensor) -> Tensor:
    gram = x.mT @ x + torch.eye(10, dtype=x.dtype)
    return torch.linalg.solve(gram, x.mT).mT


def _special(x: Tensor) -> Tensor:
    return torch.special.i0e(x) + torch.special.entr(x.sigmoid()) + torch.lgamma(x.abs() + 1)


def _several(x: Tensor) -> Tensor:
    values, indices = torch.kthvalue(x, 3, dim=1)
    low, high = torch.aminmax(x, dim=1)
    return torch.stack([values + low, high + indices], 1)


ROW, TOKENS = floats(2, 5), floats(2, 7, 5)

INTERFACE = catalogue(
    nested_inputs=recipe(
        NestedInputs, {"a": ROW, "rest": (floats(2, 6), floats(2, 1))}, [floats(2)]),
    dataclass_inputs=recipe(DataclassInputs, Pair(ROW, floats(2, 6))),  # type: ignore[arg-type]
    keywords=recipe(Keywords, ROW, gain=floats(2, 1), y=floats(2, 6)),
    several_outputs=recipe(SeveralOutputs, ROW),
    output_is_input=recipe(OutputIsInput, ROW, floats(2, 3)),
    none_input=recipe(NoneInput, ROW, None, 2, kind="relu"),
    one_example=recipe(SeveralOutputs, floats(1, 5)),
    batch_arithmetic=recipe(BatchArithmetic, floats(2, 3, 6, 6)),
    half=recipe(lambda: Precision(torch.float16), floats(2, 5, dtype=torch.float16)),
    bfloat16=recipe(lambda: Precision(torch.bfloat16), floats(2, 5, dtype=torch.bfloat16)),
    float64=recipe(lambda: Precision(torch.float64), floats(2, 5, dtype=torch.float64)),
    mixed_precision=recipe(MixedPrecision, ROW),
    dropouts=recipe(Dropouts, floats(2, 3, 6, 6)),
    stochastic_depth=recipe(StochasticDepth, ROW),
    auxiliary_head=recipe(AuxiliaryHead, ROW),
    contexts=recipe(Contexts, ROW),
    condition=recipe(Condition, ROW),
    constants=recipe(Constants, floats(2, 3, 6, 6)),
    own_function=recipe(OwnFunction, ROW),
    opaque_cdist=recipe(lambda: Opaque(lambda x: torch.cdist(x, x), made=7), TOKENS),
    opaque_solve=recipe(lambda: Opaque(_solve), TOKENS),
    opaque_special=recipe(lambda: Opaque(_special), TOKENS),
    opaque_several=recipe(lambda: Opaque(_several), TOKENS),
    opaque_search=recipe(
        lambda: Opaque(lambda x: torch.bucketize(x, torch.linspace(-1, 1, 5)).to(x.dtype)), ROW),
    whole_number_input=recipe(
        lambda: nn.Sequential(nn.Embedding(17, 10), nn.Flatten(), nn.Linear(70, 4)),
        whole(2, 7, below=17)),
)
