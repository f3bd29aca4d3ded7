"""Factorize: a weight as a product of smaller ones, with a bound on the error that is certain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import inf, sqrt
from typing import ClassVar, Literal

from netir.basis import Contract
from netir.calibration import Calibration
from netir.edit import Edit
from netir.errors import NetirError, nearest
from netir.ir import Graph, Node
from netir.ops.conv import Conv
from netir.ops.linear import AddMM, Linear
from netir.passes.layers.lowrank import (
    SPLITS,
    Amount,
    Ranks,
    Split,
    Way,
    blocks,
    reach,
    rounding,
    spectral_norm,
)
from netir.passes.merge import (
    Layer,
    layer_of,
    merged_weight,
    names_one,
    product_of,
    weights_of,
)
from netir.rewrite import EditPass, Left, Site
from netir.where import chosen_nodes


@dataclass(frozen=True, eq=False)
class Factors:
    """Layers that stand for one, as they will be stored, and what they are certain to be within."""

    layers: list[Layer]
    off: float
    """At least the spectral norm of the difference of the weights."""


@dataclass(frozen=True)
class Factorize(EditPass):
    """Replace weights by low-rank pairs, with an error that stays below a certified bound.

    How much is kept is a `rank`, a `ratio` of the full rank, a share `energy` of the squared
    singular values, or what keeps the relative spectral error |W - W'| / |W| of the weight (as a
    matrix of a row for each output channel) within `error`; 0.9 of the energy if none is given.
    `kind` is for convolutions: `channel` (k x k to few channels, then 1 x 1), `spatial` (k x 1,
    then 1 x k), `tucker` (1 x 1, k x k, 1 x 1), or `auto`, which takes the smallest for an energy
    or an error, and `channel` for a rank or a ratio. A layer that would not become smaller is
    left, unless `only_if_smaller` is off. The bound of each layer is how far its result can be
    off, as a multiple of the norm of what it reads.
    """

    name: ClassVar[str] = "factorize"
    preserves: ClassVar[Contract] = Contract.BOUNDED
    rank: int | None = None
    ratio: float | None = None
    energy: float | None = None
    error: float | None = None
    kind: Literal["auto", Way] = "auto"
    only_if_smaller: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.amount
        if self.kind != "auto" and self.kind not in SPLITS:
            fix = nearest(self.kind, ["auto", *SPLITS])
            raise NetirError(f"factorize has no kind '{self.kind}'", fix=fix)

    @property
    def amount(self) -> Amount:
        """How much is kept of every weight."""
        return Amount(self.rank, self.ratio, self.energy, self.error).checked(self.name)

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        for node in chosen_nodes(graph, self.where).values():
            layer = (product_of if isinstance(node.op, AddMM) else layer_of)(graph, node)
            if isinstance(layer, str):
                if isinstance(node.op, Linear | Conv | AddMM) or names_one(self.where):
                    yield Left(node.name, layer)
                continue
            found = self._factors(layer)
            if isinstance(found, str):
                yield Left(node.name, found)
            else:
                yield Site(node.name, (layer, found))

    def _factors(self, layer: Layer) -> Factors | str:
        """The smallest factors of a layer, or why it has none."""
        below = layer.weight.numel() if self.only_if_smaller else inf
        best: tuple[Split, Ranks] | None = None
        reason = ""
        for split in self._splits(layer):
            found = split if isinstance(split, str) else self._ranks(layer, split, below)
            if isinstance(split, Split) and not isinstance(found, str):
                best, below = (split, found), split.numbers(found)
            else:
                reason = reason or str(found)
        if best is None:
            return reason
        factors = _stored(layer, *best)
        if not all(part.finite() for part in factors.layers):
            return f"its factors are too large for {layer.weight.dtype}"
        return factors

    def _splits(self, layer: Layer) -> Iterator[Split | str]:
        """The ways to split a layer that are to be tried, `channel` first."""
        comparable = self.amount.energy is not None or self.amount.error is not None
        if isinstance(layer.op, Linear) or (self.kind == "auto" and not comparable):
            kinds: list[Way] = ["channel"]
        else:
            kinds = list(SPLITS) if self.kind == "auto" else [self.kind]
        yield from (SPLITS[kind](layer) for kind in kinds)

    def _ranks(self, layer: Layer, split: Split, below: float) -> Ranks | str:
        """The ranks that are asked for, with fewer weights than `below`, or why there are none."""
        found = split.ranks(self.amount)
        numbers = split.numbers(found)
        if self.error is not None and (numbers < below or split.kind != "channel"):
            return self._within(layer, split, below)
        if numbers < below:
            return found
        size = layer.weight.numel()
        largest = split.largest(size)
        pays = f"the largest rank that pays is {largest}" if largest else "no rank pays"
        shown = " x ".join(map(str, found))
        return f"rank {shown} ({split.kind}) has {numbers} weights, the layer {size}: {pays}"

    def _within(self, layer: Layer, split: Split, below: float) -> Ranks | str:
        """The lowest ranks, all in proportion, that are certain to be within the error asked for.

        For one matrix its singular values tell where to look, all but what rounding adds.
        """
        assert self.error is not None
        limit = self.error * spectral_norm(blocks(layer.weight.double(), layer.groups))

        def ranks(level: int) -> Ranks:
            return split.ranks(Amount(ratio=level / split.full))

        def fits(level: int) -> bool:
            return _stored(layer, split, ranks(level)).off <= limit

        low = split.ranks(self.amount)[0] - 1 if split.kind == "channel" else 0
        if low and fits(low + 1):
            return ranks(low + 1)
        small = (n for n in range(split.full, low, -1) if split.numbers(ranks(n)) < below)
        high = next(small, 0)
        if not high or not fits(high):
            return f"no smaller rank ({split.kind}) is within {self.error} in {layer.weight.dtype}"
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return ranks(high)

    def rewrite(self, edit: Edit, site: Site) -> None:
        node = edit.before.node(site.name)
        layer, factors = site.found
        value, names = _operands(node)
        old = edit.before.params[names[0]]
        path = _free(edit, names[0].removesuffix(".weight"))
        *first, last = zip(_LEAVES[len(factors.layers)], factors.layers, strict=True)
        for leaf, part in first:
            weight = edit.add_param(f"{path}.{leaf}.weight", replace(old, data=part.weight))
            fresh = edit.fresh(f"{node.name}.{leaf}")
            value = edit.insert(
                fresh, part.op, (value, weight), before=node.name, scope=node.scope
            )
        leaf, part = last
        operands = [value, edit.add_param(f"{path}.{leaf}.weight", replace(old, data=part.weight))]
        if layer.bias is not None:
            bias = edit.before.params[names[1]]
            operands.append(edit.add_param(f"{path}.{leaf}.bias", bias))
        edit.set_op(node.name, part.op)
        edit.set_operands(node.name, operands)
        for name in names:
            edit.remove_param(name)
        edit.bound(node.name, sqrt(reach(layer)) * factors.off)


def _operands(node: Node) -> tuple[str | None, list[str]]:
    """What a layer reads, and the names of its weight and, if it has one, bias."""
    if isinstance(node.op, AddMM):
        bias, value, weight = node.operands
        return value, [str(weight)[1:], str(bias)[1:]]
    return node.operands[0], weights_of(node)


def _stored(layer: Layer, split: Split, ranks: Ranks) -> Factors:
    """The factors in the type of the weight, and how far their product is from it, rounding too."""
    made = [part.to(layer.weight.dtype) for part in split.layers(ranks)]
    weights = [part.weight.double() for part in made]
    product = reduce(partial(merged_weight, groups=layer.groups), weights)
    off = spectral_norm(blocks(layer.weight.double() - product, layer.groups))
    made[-1] = replace(made[-1], bias=layer.bias)
    return Factors(made, off + rounding(*weights))


def _free(edit: Edit, path: str) -> str:
    """The path, or one like it, below which no parameter stands where the factors go."""
    taken = (*edit.before.params, *edit.before.aliases)
    leaves = [f".{leaf}." for leaf in _LEAVES[3]]
    found, number = path, 2
    while any(name.startswith(f"{found}{leaf}") for name in taken for leaf in leaves):
        found, number = f"{path}_{number}", number + 1
    return found


_LEAVES = {2: ("reduce", "expand"), 3: ("reduce", "core", "expand")}

__all__ = ["Factorize"]
