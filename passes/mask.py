"""Mask: single connections off and on again, while the weights keep their shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor

from netir.basis import Contract
from netir.calibration import Calibration, needed
from netir.edit import Edit
from netir.errors import NetirError, nearest
from netir.ir import Graph, Param
from netir.moves import Move
from netir.ops.arithmetic import Mul
from netir.passes.connections import Weight, weights
from netir.rewrite import EditPass, Left, Site

Score = Callable[[Tensor, Tensor | None, torch.Generator], Tensor]


def _magnitude(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    return weight.abs().double()


def _taylor(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    assert gradient is not None
    return (weight.double() * gradient).abs()


def _random(weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    return torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)


ConnectionScore = Literal["magnitude", "taylor", "random"]
SCORES: Mapping[ConnectionScore, Score] = MappingProxyType(
    {"magnitude": _magnitude, "taylor": _taylor, "random": _random}
)
"""How much a connection matters: from the weight, the gradient of the loss by it, and chance."""


@dataclass(frozen=True)
class Mask(EditPass):
    """Take the connections of lowest score out, by a mask of zeros and ones on each weight.

    The share `amount` of all connections is out afterwards, of each weight (`scope="local"`) or of
    all weights together ("global"); what was out before stays out. With a `pattern` such as "2:4"
    it is all but 2 of every 4 neighbours along the inputs of each unit (Mishra et al. 2021); what
    is left over where 4 does not divide the inputs stays. The score is `magnitude`; `taylor`,
    |weight x gradient|, which needs a calibration with a loss; or `random`, from `seed`.

    The weights keep their values, which `Unmask` brings back and `Bake` sets to zero for good. The
    function stays the same only if all that goes is zero.
    """

    name: ClassVar[str] = "mask"
    preserves: ClassVar[Contract] = Contract.CHANGED
    amount: float = 0.5
    score: ConnectionScore = "magnitude"
    scope: Literal["local", "global"] = "local"
    pattern: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.amount < 1:
            raise NetirError(
                f"mask cannot take out {self.amount} of a weight", fix="use an amount from 0 to 1"
            )
        if self.score not in SCORES:
            raise NetirError(f"mask has no score '{self.score}'", fix=nearest(self.score, SCORES))
        if self.scope not in ("local", "global"):
            raise NetirError(f"mask has no scope '{self.scope}'", fix="local or global")
        if self.pattern:
            few, many = _pattern(self.pattern)
            if self.amount != Mask.amount or self.scope != "local":
                raise NetirError(
                    f"a pattern says that {many - few} of {many} go, of each weight",
                    where=str(self), fix="leave out amount and scope",
                )  # fmt: skip

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        scored: list[tuple[Weight, Tensor]] = []
        for found in self._scored(graph, calibration):
            if isinstance(found, Left):
                yield found
            else:
                scored.append(found)
        for (weight, _), kept in zip(scored, self._kept(graph, scored), strict=True):
            if isinstance(kept, str):
                yield Left(weight.name, kept)
                continue
            before = weight.kept(graph)
            gone = graph.params[weight.name].data[before & ~kept]
            if not len(gone):
                yield Left(weight.name, "none of its connections goes")
                continue
            contract = Contract.CHANGED if bool(gone.any()) else Contract.EXACT
            yield Site(weight.name, (weight, before & kept), contract)

    def rewrite(self, edit: Edit, site: Site) -> None:
        weight, kept = site.found
        _put(edit, weight, kept)

    def _scored(
        self, graph: Graph, calibration: Calibration | None
    ) -> Iterator[tuple[Weight, Tensor] | Left]:
        """Every weight with the scores of its connections; those that are out score lowest."""
        generator = torch.Generator().manual_seed(self.seed)
        slopes: Mapping[str, Tensor] | None = None
        for weight in list(weights(graph, self.where)):
            if isinstance(weight, Left):
                yield weight
                continue
            if self.score == "taylor" and slopes is None:
                slopes = _slopes(graph, needed(calibration, str(self)))
            slope = slopes.get(weight.name) if slopes is not None else None
            if slopes is not None and slope is None:
                yield Left(weight.name, "the loss does not depend on it")
                continue
            score = SCORES[self.score](graph.params[weight.name].data, slope, generator)
            yield weight, score.masked_fill(~weight.kept(graph), -1.0)

    def _kept(self, graph: Graph, scored: list[tuple[Weight, Tensor]]) -> list[Tensor | str]:
        """For each weight which of its connections stay, or why nothing can be taken out."""
        if self.pattern:
            few, many = _pattern(self.pattern)
            return [_blocks(graph, weight, score, few, many) for weight, score in scored]
        if self.scope == "local":
            return [_best(score, self.amount) for _, score in scored]
        if not scored:
            return []
        flat = _best(torch.cat([score.flatten() for _, score in scored]), self.amount)
        pieces = flat.split([score.numel() for _, score in scored])
        return [p.view_as(score) for p, (_, score) in zip(pieces, scored, strict=True)]


def _best(score: Tensor, amount: float) -> Tensor:
    """All but the share `amount` of lowest score."""
    order = score.flatten().argsort(stable=True)
    kept = torch.ones_like(order, dtype=torch.bool)
    kept[order[: round(amount * len(order))]] = False
    return kept.view_as(score)


def _blocks(graph: Graph, weight: Weight, score: Tensor, few: int, many: int) -> Tensor | str:
    """The `few` best of every `many` neighbours along the inputs; what is left over stays."""
    found = weight.axis(graph)
    if isinstance(found, str):
        return found
    axis, groups = found
    kept = torch.ones_like(score, dtype=torch.bool)
    rows = score.movedim(axis, -1).unflatten(-1, (groups, -1))
    whole = rows.shape[-1] // many * many
    order = rows[..., :whole].unflatten(-1, (-1, many)).argsort(dim=-1, stable=True)
    best = torch.ones_like(order, dtype=torch.bool).scatter(-1, order[..., : many - few], False)
    view = kept.movedim(axis, -1).unflatten(-1, (groups, -1))
    view[..., :whole] = best.flatten(-2)
    return kept


def _pattern(text: str) -> tuple[int, int]:
    """The two numbers of a pattern such as "2:4"."""
    few, colon, many = text.partition(":")
    if colon and few.isdigit() and many.isdigit() and 0 < int(few) < int(many):
        return int(few), int(many)
    raise NetirError(f"'{text}' is no pattern of a mask", fix="write '2:4' to keep 2 of every 4")


def _slopes(graph: Graph, calibration: Calibration) -> dict[str, Tensor]:
    """The gradient of the loss by every parameter, summed over the batches."""
    total: dict[str, Tensor] = {}
    for gradients in calibration.gradients(graph):
        for name, gradient in gradients.items():
            total[name] = total.get(name, 0) + gradient.double()
    return total


def _put(edit: Edit, weight: Weight, kept: Tensor) -> None:
    """Give a weight a mask, or its mask other entries."""
    data = edit.before.params[weight.name].data
    mask = kept.to(data.dtype)
    if weight.mask:
        edit.set_param(weight.mask, mask)
        return
    name = edit.fresh(f"{weight.name}_mask")
    operand = edit.add_param(name, Param(mask, "buffer", trainable=False))
    first = weight.readers[0]
    product = edit.fresh(f"{first.name}.masked")
    edit.insert(product, Mul(), [weight.value, operand], before=first.name, scope=first.scope)
    edit.replace(weight.value, product, but=[product])


@dataclass(frozen=True)
class Unmask(EditPass):
    """Take masks away: all connections are back, with the weights that they had.

    The function stays the same only if the weights under the masks are zero.
    """

    name: ClassVar[str] = "unmask"
    preserves: ClassVar[Contract] = Contract.CHANGED

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        for weight in weights(graph, self.where):
            if isinstance(weight, Left):
                yield weight
            elif weight.mask:
                hidden = graph.params[weight.name].data[~weight.kept(graph)]
                contract = Contract.CHANGED if bool(hidden.any()) else Contract.EXACT
                yield Site(weight.name, weight, contract)

    def rewrite(self, edit: Edit, site: Site) -> None:
        weight: Weight = site.found
        edit.replace(weight.value, f"@{weight.name}")

    def tidy(self, edit: Edit) -> None:
        edit.sweep()


@dataclass(frozen=True)
class Regrow(EditPass):
    """Bring back the share `amount` of the connections that each mask has taken out.

    Those come first by which the loss would fall fastest: they have the largest gradient of the
    loss with respect to the masked weight (synaptogenesis in NeST, Dai et al. 2019; RigL, Evci et
    al. 2020), for which a calibration with a loss is needed. With `score="random"` they are drawn
    from `seed` (Mocanu et al. 2018). They start at zero, so that the function stays the same.
    """

    name: ClassVar[str] = "regrow"
    preserves: ClassVar[Contract] = Contract.EXACT
    amount: float = 0.1
    score: Literal["gradient", "random"] = "gradient"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.amount <= 1:
            raise NetirError(
                f"regrow cannot bring back {self.amount} of what is masked",
                fix="use an amount above 0, and at most 1",
            )
        if self.score not in ("gradient", "random"):
            raise NetirError(f"regrow has no score '{self.score}'", fix="gradient or random")

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        found = list(weights(graph, self.where))
        masked = [w for w in found if isinstance(w, Weight) and w.mask]
        slopes: Mapping[str, Tensor] = {}
        if self.score == "gradient" and masked:
            slopes = _slopes(_baked(graph, masked), needed(calibration, str(self)))
        generator = torch.Generator().manual_seed(self.seed)
        yield from (weight for weight in found if isinstance(weight, Left))
        for weight in masked:
            data = graph.params[weight.name].data
            score = slopes.get(weight.name)
            if self.score == "random":
                score = _random(data, None, generator)
            if score is None:
                yield Left(weight.name, "the loss does not depend on it")
                continue
            grown = _grown(score.abs(), weight.kept(graph), self.amount)
            if bool(grown.any()):
                yield Site(weight.name, (weight, grown))
            else:
                yield Left(weight.name, f"{self.amount} of what its mask took out is less than one")

    def rewrite(self, edit: Edit, site: Site) -> None:
        weight, grown = site.found
        data = edit.before.params[weight.name].data
        edit.set_param(weight.name, data.masked_fill(grown, 0), Move((None,) * data.dim()))
        _put(edit, weight, weight.kept(edit.before) | grown)


def _grown(score: Tensor, kept: Tensor, amount: float) -> Tensor:
    """The share `amount` of what is not kept, by the highest score."""
    out = int((~kept).sum())
    order = score.masked_fill(kept, -1.0).flatten().argsort(descending=True, stable=True)
    grown = torch.zeros_like(order, dtype=torch.bool)
    grown[order[: round(amount * out)]] = True
    return grown.view_as(kept)


def _baked(graph: Graph, masked: list[Weight]) -> Graph:
    """The graph with the masks multiplied in: a gradient there is that of the masked weight."""
    with graph.edit() as edit:
        for weight in masked:
            data = graph.params[weight.name].data * weight.kept(graph)
            edit.set_param(weight.name, data)
            edit.replace(weight.value, f"@{weight.name}")
    return edit.graph


__all__ = ["Mask", "Regrow", "Unmask"]
