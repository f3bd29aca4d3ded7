"""Matrices of low rank: which rank to keep, how a layer is cut, and how far it is then off.

`Amount` chooses a rank, a `Split` is one way to write a weight as a product of smaller ones, and
`gain` bounds by how much a layer can magnify what it reads. What is cut is said by the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil, gcd, prod, sqrt
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from netir.errors import NetirError
from netir.kernels.svd import singular
from netir.ops.base import per_axis
from netir.ops.conv import Conv
from netir.passes.merge import Layer

Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Amount:
    """How much of a matrix to keep: one of these is given.

    A rank, a share of the full rank, a share of the squared singular values, or what keeps the
    relative spectral error |A - A'| / |A| within a bound.
    """

    rank: int | None = None
    ratio: float | None = None
    energy: float | None = None
    error: float | None = None

    def checked(self, name: str) -> Amount:
        """The amount, 0.9 of the squares if none is given; raises unless it makes sense."""
        given = {k: v for k, v in vars(self).items() if v is not None}
        if not given:
            return Amount(energy=0.9)
        if len(given) > 1:
            raise NetirError(
                f"{name} is given {' and '.join(given)}", fix="give one of them and leave the rest"
            )
        ((option, value),) = given.items()
        good, fix = {
            "rank": (isinstance(value, int) and value >= 1, "use a whole number from 1"),
            "ratio": (0 < value <= 1, "use a share above 0 and up to 1"),
            "energy": (0 < value <= 1, "use a share above 0 and up to 1"),
            "error": (0 < value < 1, "use a relative error above 0 and below 1"),
        }[option]
        if not good:
            raise NetirError(f"{name} cannot use {option} {value}", fix=fix)
        return self

    def of(self, values: Tensor, parts: int = 1) -> int:
        """The rank to keep, at least 1, of a matrix with these singular values, largest first.

        Of a batch of matrices the last axis counts, and all get the same rank; a matrix that is
        one of several `parts` to be cut gets its part of the energy that may go.
        """
        full = values.shape[-1]
        if self.rank is not None:
            return min(self.rank, full)
        if self.ratio is not None:
            return max(1, round(self.ratio * full))
        if self.energy is not None:
            squares = values.square().reshape(-1, full).sum(0)
            dropped = squares.flip(0).cumsum(0).flip(0)
            allowed = (1 - self.energy) / parts * dropped[0]
            return max(1, int((dropped > allowed).sum()))
        assert self.error is not None
        largest = values.reshape(-1, full).amax(0)
        return max(1, int((largest > self.error * largest[0]).sum()))


def spectral_norm(matrix: Tensor) -> float:
    """The largest singular value of a float64 matrix, or of the largest of a batch; never less.

    The Gram matrix and its eigenvalue are off by at most their sizes times the rounding of their
    trace, which is added.
    """
    if not matrix.numel():
        return 0.0
    tall = matrix if matrix.shape[-2] >= matrix.shape[-1] else matrix.mT
    gram = tall.mT @ tall
    top = float(torch.linalg.eigvalsh(gram).amax().clamp(min=0))
    trace = float(gram.diagonal(dim1=-2, dim2=-1).sum(-1).amax())
    return sqrt(top + 4 * sum(tall.shape[-2:]) * _EPS * trace)


_EPS = torch.finfo(torch.float64).eps


def gain(layer: Layer) -> float:
    """A bound on ‖layer(x) without its bias‖ / ‖x‖ over every x, both Frobenius norms.

    A linear layer multiplies by its weight: the spectral norm. A convolution multiplies the
    windows of x, laid out as columns of a matrix, by its weight with all but the first axis made
    one, and ‖windows‖² is at most ‖x‖² times how often a position of x is in a window. Tap t of
    output p reads position stride·p + dilation·t - padding, so the taps that can read one position
    are stride / gcd(stride, dilation) apart: at most ceil(kernel·gcd / stride) along each axis.
    What lies outside x is zero and adds nothing. Groups are windows of their own.
    """
    return sqrt(reach(layer)) * spectral_norm(blocks(layer.weight.double(), layer.groups))


def reach(layer: Layer) -> int:
    """In how many windows of a convolution one position of its input can be."""
    op = layer.op
    if not isinstance(op, Conv):
        return 1
    kernel = layer.weight.shape[2:]
    steps = zip(kernel, per_axis(op.stride, op.rank), per_axis(op.dilation, op.rank), strict=True)
    return prod(ceil(k * gcd(s, d) / s) for k, s, d in steps)


@dataclass(frozen=True, eq=False)
class Split:
    """One way to write a layer as several: the singular values of every matrix that is cut.

    `layers` gives the layers for a rank of each, in float64, and `numbers` how many weights they
    have together.
    """

    kind: str
    values: tuple[Tensor, ...]
    layers: Callable[[Ranks], list[Layer]]
    numbers: Callable[[Ranks], int]

    def ranks(self, amount: Amount) -> Ranks:
        """The rank of every matrix."""
        return tuple(amount.of(v, len(self.values)) for v in self.values)

    @property
    def full(self) -> int:
        return max(v.shape[-1] for v in self.values)

    def largest(self, below: int) -> int:
        """The largest rank with fewer weights than `below`; 0 if there is none."""
        ranks = range(self.full, 0, -1)
        fits = (r for r in ranks if self.numbers(self.ranks(Amount(rank=r))) < below)
        return next(fits, 0)


def channel(layer: Layer) -> Split:
    """W = E R: first to r channels, then to all of them, position by position.

    The best of all pairs of this form (Eckart and Young 1936); groups each have their own.
    """
    groups, weight = layer.groups, layer.weight.double()
    made, *shape = weight.shape
    u, s, v = singular(blocks(weight, groups))
    point = Conv(rank=layer.op.rank, groups=groups) if isinstance(layer.op, Conv) else layer.op

    def layers(ranks: Ranks) -> list[Layer]:
        wide, low = _balanced(u, s, v, ranks[0])
        expand = wide.reshape(made, ranks[0], *[1] * (len(shape) - 1))
        return [Layer(layer.op, low.reshape(-1, *shape)), Layer(point, expand)]

    return Split("channel", (s,), layers, lambda r: r[0] * (groups * prod(shape) + made))


def spatial(layer: Layer) -> Split | str:
    """W = E R: first k x 1 and then 1 x k (Jaderberg, Vedaldi, Zisserman 2014)."""
    op, weight = layer.op, layer.weight.double()
    if not isinstance(op, Conv) or op.rank != 2 or 1 in weight.shape[2:]:
        return "only a convolution of two dimensions, more than 1 wide in both, has spatial pairs"
    made, read, height, width = weight.shape
    groups = op.groups
    blocks = weight.unflatten(0, (groups, -1)).permute(0, 1, 4, 2, 3)  # g o w i h
    u, s, v = singular(blocks.flatten(3).flatten(1, 2))
    down, across = (_only(op, axis) for axis in (0, 1))

    def layers(ranks: Ranks) -> list[Layer]:
        wide, low = _balanced(u, s, v, ranks[0])
        expand = wide.reshape(made, width, ranks[0]).movedim(1, 2).unsqueeze(2)
        return [Layer(down, low.reshape(-1, read, height, 1)), Layer(across, expand)]

    cost = groups * read * height + made * width
    return Split("spatial", (s,), layers, lambda r: r[0] * cost)


def tucker(layer: Layer) -> Split | str:
    """W = core, with its input and output channels each in a basis of fewer (Kim et al. 2016).

    The bases are the singular vectors of the two unfoldings (HOSVD), then each is chosen anew for
    the other (HOOI), which only lowers the error: it is at most the sum of what both cut off.
    """
    op, weight = layer.op, layer.weight.double()
    if not isinstance(op, Conv) or op.groups > 1 or prod(weight.shape[2:]) == 1:
        return "only a convolution without groups, more than 1 wide, has a Tucker decomposition"
    made, read, *kernel = weight.shape
    grams = (_gram(weight, axis) for axis in (0, 1))
    squares = (torch.linalg.eigvalsh(gram).flip(0).clamp(min=0) for gram in grams)
    limits = prod(weight.shape) // made, prod(weight.shape) // read
    values = tuple(s.sqrt()[:n] for s, n in zip(squares, limits, strict=True))
    point, ones = Conv(rank=op.rank), [1] * op.rank

    def layers(ranks: Ranks) -> list[Layer]:
        out, into = _bases(weight, *ranks)
        core = torch.tensordot(out.mT, torch.tensordot(weight, into, ([1], [0])), ([1], [0]))
        return [
            Layer(point, into.mT.reshape(-1, read, *ones)),
            Layer(op, core.movedim(-1, 1)),
            Layer(point, out.reshape(made, -1, *ones)),
        ]

    def numbers(r: Ranks) -> int:
        return made * r[0] + prod(kernel) * r[0] * r[1] + read * r[1]

    return Split("tucker", values, layers, numbers)


def _bases(weight: Tensor, made: int, read: int, sweeps: int = 3) -> tuple[Tensor, Tensor]:
    """Orthonormal bases of so many output and input channels."""
    into = _basis(weight, 1, read)
    for _ in range(sweeps):
        out = _basis(torch.tensordot(weight, into, ([1], [0])), 0, made)
        into = _basis(torch.tensordot(weight, out, ([0], [0])), 0, read)
    return out, into


def _basis(weight: Tensor, axis: int, count: int) -> Tensor:
    """The first left singular vectors of a weight unfolded along an axis."""
    vectors: Tensor = torch.linalg.eigh(_gram(weight, axis)).eigenvectors
    return vectors.flip(1)[:, :count]


def _gram(weight: Tensor, axis: int) -> Tensor:
    rows = weight.movedim(axis, 0).flatten(1)
    gram: Tensor = rows @ rows.mT
    return gram


def _balanced(u: Tensor, s: Tensor, v: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Two factors of the best matrix of a rank that share its singular values equally."""
    root = s[:, :rank].sqrt()
    return u[..., :rank] * root[:, None], root[..., None] * v[:, :rank]


def _only(op: Conv, axis: int) -> Conv:
    """What is left of a convolution if it moves along one axis only."""
    stride, dilation = [1, 1], [1, 1]
    stride[axis] = per_axis(op.stride, 2)[axis]
    dilation[axis] = per_axis(op.dilation, 2)[axis]
    padding: str | tuple[int, ...] = op.padding
    if not isinstance(padding, str):
        padding = tuple(p if a == axis else 0 for a, p in enumerate(per_axis(padding, 2)))
    return replace(op, stride=tuple(stride), dilation=tuple(dilation), padding=padding)


Way = Literal["channel", "spatial", "tucker"]
SPLITS: Mapping[Way, Callable[[Layer], Split | str]] = MappingProxyType(
    {"channel": channel, "spatial": spatial, "tucker": tucker}
)
"""The ways to split a convolution; a linear layer has only the first."""


def rounding(*weights: Tensor) -> float:
    """How far the product of weights, computed in float64, can be from what it should be."""
    sizes = prod(float(torch.linalg.vector_norm(w.double())) for w in weights)
    return sum(w.shape[0] + w.shape[1] for w in weights) * _EPS * sizes


def blocks(weight: Tensor, groups: int) -> Tensor:
    """A weight as one matrix for each group, of a row for each output channel."""
    matrices: Tensor = weight.unflatten(0, (groups, -1)).flatten(2)
    return matrices


__all__ = ["SPLITS", "Amount", "Ranks", "Split", "Way", "blocks", "gain", "reach", "rounding",
           "spectral_norm"]  # fmt: skip
