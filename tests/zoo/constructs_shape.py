"""Constructs that move axes about: views, slices, writes through views, repeats, sorts."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.sample import catalogue, floats, recipe


class PermuteFlatten(nn.Module):
    """Channels last, then flatten: the linear's columns are height x width x channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3, padding=1)
        self.hidden, self.head = nn.Linear(10 * 16, 14), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).permute(0, 2, 3, 1)
        return self.head(F.relu(self.hidden(x.flatten(1))))


class ChannelFlip(nn.Module):
    """A flip of the channel axis: the sum pairs unit i with unit n-1-i."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 10, 3), nn.Conv2d(3, 10, 3)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x).flip(1)) + self.two(x).flip(-1)
        return self.head(x.mean((2, 3)))


class ChannelRoll(nn.Module):
    """A roll of the channel axis, added to the value that it came from: one cycle of units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(x + 0.5 * torch.roll(x, 3, dims=-1))


class CatTwice(nn.Module):
    """cat([x, x]): one space occurs twice in one axis (CReLU: with opposite sign)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(12, 10, 1)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = self.two(torch.cat([x, x], 1))
        return self.head(F.relu(torch.cat([x, -x], 1)).mean((2, 3)))


class NestedCat(nn.Module):
    """cat of cats, with one part shared by both levels and one part the graph input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(5, 6), nn.Linear(5, 7), nn.Linear(18, 8)
        self.head = nn.Linear(8 + 18 + 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.one(x).tanh(), self.two(x).tanh()
        inner = torch.cat([one, torch.cat([two, x], -1)], -1)
        return self.head(torch.cat([self.three(inner).relu(), inner, one], -1))


class LiteralSplit(nn.Module):
    """split with literal sizes; one piece is used twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 20)
        self.one, self.two = nn.Linear(4, 6), nn.Linear(7, 6)
        self.head = nn.Linear(6 + 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b, _ = torch.split(torch.relu(self.stem(x)), [4, 7, 9], dim=-1)
        return self.head(torch.cat([self.one(a) * self.two(b), a], -1))


class ChannelSlices(nn.Module):
    """Slices on channels: contiguous, overlapping, with a step, negative bounds, one index."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 20)
        self.parts = nn.ModuleList(nn.Linear(read, 6) for read in (8, 10, 10, 7))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        pieces = (x[:, :8], x[:, 4:14], x[:, ::2], x[:, -7:])
        y = sum(part(piece) for part, piece in zip(self.parts, pieces, strict=True))
        return self.head(y * x[:, 3:4] + x[:, -1].unsqueeze(1)) + x.narrow(1, 2, 3)


class UnevenChunks(nn.Module):
    """chunk and tensor_split of 14 in 4: chunks of 4, 4, 4, 2 and of 4, 4, 3, 3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 14)
        self.one = nn.ModuleList(nn.Linear(read, 6) for read in (4, 4, 4, 2))
        self.two = nn.ModuleList(nn.Linear(read, 6) for read in (4, 4, 3, 3))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = sum(part(p) for part, p in zip(self.one, x.chunk(4, -1), strict=True))
        z = sum(part(p) for part, p in zip(self.two, x.tensor_split(4, -1), strict=True))
        return self.head(y * z)


class WriteSlice(nn.Module):
    """In-place writes through views: y[:, :4] = ..., y[:, 6:] += ..., y[:, 5].zero_()."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.patch = nn.Linear(5, 10), nn.Linear(5, 4)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y[:, :4] = self.patch(x)
        y[:, 6:] += 1.5
        y[:, 5].zero_()
        return self.head(torch.relu(y))


class WriteWindow(nn.Module):
    """A fresh canvas is filled region by region through spatial and channel slices."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(10, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        canvas = torch.zeros(b, 10, h + 2, w + 2, dtype=x.dtype)
        canvas[:, :6, 1:-1, 1:-1] = self.one(x)
        canvas[:, 6:, 2:, 2:].copy_(self.two(x))
        return self.head(canvas)


class IndexPut(nn.Module):
    """index_put on tokens and on channels, with list and boolean indices."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 10), nn.Linear(10, 3)
        self.mark = nn.Parameter(torch.randn(10))
        self.register_buffer("where", torch.tensor([0, 3, 7]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y[:, [1, 4]] = self.mark
        y = torch.relu(y).index_put((torch.tensor([0]),), y[1:2])
        y[..., self.where] = 0.5
        y[y > 2] = 2.0
        return self.head(y)


class InPlace(nn.Module):
    """In-place ops on fresh values: relu_, add_, mul_, clamp_, sub_, and a += on a local name."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(5, 10), nn.Linear(10, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x), inplace=True)
        kept = x.clone()
        y = self.two(x)
        y += x
        y.mul_(0.7).clamp_(max=1.5).sub_(kept)
        y.relu_()
        kept.add_(y, alpha=0.3)
        return self.head(x + kept)


class StackUnbind(nn.Module):
    """stack makes an axis, unbind and select take it apart; the linear reads the stacked axis."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(5, 10) for _ in range(3))
        self.mix, self.head = nn.Linear(3, 4), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([part(x) for part in self.parts], dim=-1)
        a, b, c, d = self.mix(torch.relu(stacked)).unbind(-1)
        return self.head(a * b + c) + self.head(d) * stacked.select(-1, 1)[:, :6]


class Repeats(nn.Module):
    """expand, repeat, tile and repeat_interleave on channels: replications of one space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.repeat, self.tile = nn.Linear(12, 7), nn.Linear(18, 7)
        self.interleave, self.grid = nn.Linear(12, 7), nn.Linear(24, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        grid = x.unsqueeze(-1).expand(-1, -1, 4).reshape(x.shape[0], 24)
        y = self.repeat(x.repeat(1, 2)) * self.tile(x.tile((3,)))
        return self.head(y + self.interleave(x.repeat_interleave(2, dim=1)) + self.grid(grid))


class Reorder(nn.Module):
    """index_select, gather and advanced indexing with constant permutations of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(5, 10), nn.Linear(10, 6), nn.Linear(6, 4)
        self.register_buffer("order", torch.randperm(10))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x)).index_select(1, self.order)
        x = torch.relu(self.body(x))[:, [5, 3, 1, 0, 2, 4]]
        return self.head(x.gather(1, x.argsort(1)))


class SortTopk(nn.Module):
    """sort over channels mixes; topk over tokens carries channels; cumsum over both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(5, 10), nn.Linear(10, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).topk(3, dim=1).values
        x = self.body(torch.sort(x, dim=-1, descending=True).values).cumsum(-1)
        return self.head(x.cumsum(1).logcumsumexp(1))


class EinsumParameter(nn.Module):
    """einsum with parameters in unlike orders, one of them a diagonal, one an outer product."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(6, 5, 4) / 3)
        self.scale = nn.Parameter(torch.ones(4))
        self.down = nn.Parameter(torch.randn(4, 7, 6) / 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bnc,hcd->bhnd", x, self.up)
        x = torch.einsum("...d,d->...d", torch.relu(x), self.scale)
        return torch.einsum("bhnd,doh->bno", x, self.down)


class MatmulParameter(nn.Module):
    """Raw parameters in matmul, @ from the left, addmm, and F.linear with a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bias = nn.Parameter(torch.randn(5, 10) / 2), nn.Parameter(torch.zeros(10))
        self.tokens = nn.Parameter(torch.randn(6, 7) / 2)
        self.two = nn.Parameter(torch.randn(10, 14) / 3)
        self.three = nn.Parameter(torch.randn(14, 4) / 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.tokens @ (torch.matmul(x, self.one) + self.bias))
        x = F.linear(x, self.two.t()).relu().amax(1)
        return torch.addmm(self.bias[:4], x, self.three)


class SpaceToDepth(nn.Module):
    """Patches by reshape and permute (MAE patchify): a linear reads p x q x channel, then back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.embed = nn.Conv2d(3, 6, 1), nn.Linear(24, 10)
        self.back = nn.Linear(10, 4 * 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x.reshape(x.shape[0], 6, 3, 2, 3, 2)
        x = torch.einsum("nchpwq->nhwpqc", x).reshape(x.shape[0], 9, 24)
        x = self.back(torch.relu(self.embed(x))).reshape(x.shape[0], 3, 3, 2, 2, 5)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(x.shape[0], 5, 6, 6)


class Unfold(nn.Module):
    """F.unfold and fold: columns are channel x kernel, as in a hand-made convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 4, 1), nn.Linear(36, 10)
        self.back = nn.Linear(10, 5 * 9)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = F.unfold(F.relu(self.stem(x)), 3, padding=1).transpose(1, 2)
        x = self.back(torch.relu(self.mix(x))).transpose(1, 2)
        return F.fold(x, (int(size[0]), int(size[1])), 3, padding=1)


class BlurPool(nn.Module):
    """Channels moved into the batch axis, so that one fixed kernel filters them all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 1)
        taps = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("taps", (taps[:, None] * taps / 16)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        b, c, h, w = x.shape
        x = F.conv2d(x.reshape(b * c, 1, h, w), self.taps, padding=1, stride=2)
        x = x.view(b, c, *x.shape[-2:])
        return self.head(F.conv2d(x, self.taps.repeat(c, 1, 1, 1), groups=c, padding=1))


class AxisTour(nn.Module):
    """movedim, swapaxes, squeeze, unsqueeze, unflatten, view_as, ravel-like views, .mT, .T."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Linear(5, 12), nn.Linear(4, 7)
        self.head = nn.Linear(21, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x)).unsqueeze(2).movedim(-1, 1).squeeze(-1)
        x = x.swapaxes(1, 2).unflatten(-1, (3, -1))
        x = self.body(x).mT.mT.contiguous()
        x = x.view(-1, 7, 3, 7)
        x = x.view(x.shape[0], 7, 21).transpose(1, 2).view_as(x.view(x.shape[0], 21, 7))
        return self.head(x.transpose(1, 2))


class BilinearPooling(nn.Module):
    """An outer product of a space with itself, flattened: the linear reads channel x channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x)).flatten(2)
        x = torch.bmm(x, x.transpose(1, 2)) / x.shape[-1]
        return self.head(F.normalize(x.flatten(1)))


class ResRegroup(nn.Module):
    """Res2Net: split in four, each piece fed by the one before, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 1)
        self.convs = nn.ModuleList(nn.Conv2d(5, 5, 3, padding=1) for _ in range(3))
        self.head = nn.Conv2d(20, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = torch.split(F.relu(self.stem(x)), 5, 1)
        parts = [first]
        for conv, piece in zip(self.convs, rest, strict=True):
            parts.append(F.relu(conv(piece + parts[-1])))
        return self.head(torch.cat(parts, 1))


ROW, TOKENS, IMAGE = floats(2, 5), floats(2, 7, 5), floats(2, 3, 6, 6)

SHAPE = catalogue(
    permute_flatten=recipe(PermuteFlatten, floats(2, 3, 4, 4)),
    channel_flip=recipe(ChannelFlip, IMAGE),
    channel_roll=recipe(ChannelRoll, ROW),
    cat_twice=recipe(CatTwice, IMAGE),
    nested_cat=recipe(NestedCat, ROW),
    literal_split=recipe(LiteralSplit, ROW),
    channel_slices=recipe(ChannelSlices, ROW),
    uneven_chunks=recipe(UnevenChunks, ROW),
    write_slice=recipe(WriteSlice, ROW),
    write_window=recipe(WriteWindow, IMAGE),
    index_put=recipe(IndexPut, TOKENS),
    in_place=recipe(InPlace, ROW),
    stack_unbind=recipe(StackUnbind, ROW),
    repeats=recipe(Repeats, ROW),
    reorder=recipe(Reorder, ROW),
    sort_topk=recipe(SortTopk, TOKENS),
    einsum_parameter=recipe(EinsumParameter, TOKENS),
    matmul_parameter=recipe(MatmulParameter, TOKENS),
    space_to_depth=recipe(SpaceToDepth, IMAGE),
    unfold=recipe(Unfold, IMAGE),
    blur_pool=recipe(BlurPool, IMAGE),
    axis_tour=recipe(AxisTour, TOKENS),
    bilinear_pooling=recipe(BilinearPooling, IMAGE),
    res_regroup=recipe(ResRegroup, IMAGE),
)
