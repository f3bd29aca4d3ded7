"""Inits: the weights that new units of a hidden layer start with.

An init takes a `Wanted` and gives `Fans`. Those here keep the function: what reads a new unit
starts at zero. Sizes follow the layer: every new row gets the mean norm of the rows that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod

import torch
from torch import Tensor

from netir.dims import Sym
from netir.evaluate import values_of
from netir.ir import Ref
from netir.kernels.rank import bordered
from netir.passes.compensation.consumers import Consumer
from netir.passes.growth.alone import chain, rows_of
from netir.passes.growth.hidden import Hidden
from netir.passes.growth.plant import Fans, Sown, planted
from netir.passes.growth.seen import Seen, between, columns_of, open_inputs
from netir.passes.growth.silence import silenced
from netir.passes.scores.members import positions

EPSILON = 0.01
"""Singular values of activations, over the root of the number of samples, below this are none."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """So many new units of a layer, and what an init may look at."""

    layer: Hidden
    count: int
    seen: Seen
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    candidates: int = 0
    """How many more units to try than are kept; 0 for 1000, or 100 of a convolution."""
    epsilon: float = EPSILON
    scale: float = 1.0
    """The size of weights that read a new unit, where they are not zero, next to the others."""

    @property
    def tried(self) -> int:
        spatial = any(m.spatial for m in self.layer.makers)
        return self.count + (self.candidates or (100 if spatial else 1000))


Init = Callable[[Wanted], Fans | str]


def random(wanted: Wanted) -> Fans | str:
    """Rows drawn uniformly, read by nothing yet."""
    return _drawn(wanted, wanted.count)


def weight(wanted: Wanted) -> Fans | str:
    """Rows at right angles to those that are there and to each other.

    Where a layer has as many units as it reads inputs there is no such row; then they are drawn.
    """
    fans = _drawn(wanted, wanted.count)
    if isinstance(fans, str):
        return fans
    rows, why = dict(fans.rows), ""
    for maker in wanted.layer.makers:
        old = wanted.layer.rows(maker).flatten(0, 1).flatten(1)
        new = rows[maker.weight]
        flat = new.flatten(0, 1).flatten(1)
        if not bool(flat.any()):
            continue
        if old.shape[0] + flat.shape[0] > old.shape[1]:
            why = f"{maker.weight} has no room at right angles to its {old.shape[0]} rows"
            continue
        rows[maker.weight] = sized(_orthogonal(old, flat).view_as(new), wanted.layer, maker)
    return Fans(fans.count, rows, keeps=fans.keeps, why=why)


def _orthogonal(old: Tensor, new: Tensor) -> Tensor:
    """The new rows without what they share with the old ones, and with each other."""
    _, values, directions = torch.linalg.svd(old, full_matrices=False)
    rank = int((values > values.max() * max(old.shape) * torch.finfo(old.dtype).eps).sum())
    taken = directions[:rank]
    rest = new - (new @ taken.mT) @ taken
    rest -= (rest @ taken.mT) @ taken
    found: Tensor = torch.linalg.qr(rest.mT).Q.mT
    return found


def pre(wanted: Wanted) -> Fans | str:
    """Rows whose results are at right angles to those of all units there, the best of many.

    On the inputs that are seen, before the activation and without biases.
    """
    makers = wanted.layer.makers
    if not wanted.layer.value:
        return instead(wanted, _UNSEEN)
    if len(makers) != 1 or makers[0].groups > 1:
        return instead(wanted, "pre needs one layer without groups that makes the space")
    (maker,) = makers
    drawn = _drawn(wanted, wanted.tried)
    if isinstance(drawn, str):
        return drawn
    if not bool(drawn.rows[maker.weight].any()):
        return instead(wanted, "its new units have to be made of zeros to go unnoticed")
    x = wanted.seen.windows(maker)[:, 0]
    old = wanted.layer.rows(maker).flatten(0, 1).flatten(1).to(x.device)
    z = x @ old.mT
    if z.shape[0] <= z.shape[1]:
        return instead(wanted, f"{z.shape[0]} samples leave no room beside {z.shape[1]} units")
    shape = drawn.rows[maker.weight].shape
    noise = torch.randn(
        prod(shape[:2]), len(x), generator=wanted.generator, dtype=x.dtype
    ).to(x.device)
    found = _preimages(x, old, z, noise)
    rows = {**drawn.rows, maker.weight: sized(found.reshape(shape), wanted.layer, maker)}
    return _best(wanted, Fans(wanted.tried, rows, keeps=drawn.keeps))


def _preimages(x: Tensor, old: Tensor, z: Tensor, noise: Tensor) -> Tensor:
    """Rows that give what is left of noise at right angles to all results there.

    That is the noise without its part along the results, carried back by the pseudoinverse of the
    inputs. Where these are independent enough the equations of their smaller side do, and what
    rounding left along the results is taken away; else the inputs are decomposed.
    """
    u, s, v = torch.linalg.svd(z, full_matrices=False)
    there = s > s.max() * max(z.shape) * torch.finfo(s.dtype).eps
    basis = u[:, there]
    for _ in range(2):
        noise = noise - (noise @ basis) @ basis.mT
    found = _quick(x, noise)
    if found is not None:
        back = (v[there].mT / s[there]).mT @ old
        for _ in range(2):
            found -= ((found @ x.mT) @ basis) @ back
        made = found @ x.mT
        if bool(((made @ basis).norm(dim=1) <= _RIGHT * made.norm(dim=1)).all()):
            return found
    solved: Tensor = torch.linalg.lstsq(x, noise.mT, driver="gelsd").solution.mT
    return solved


_RIGHT = 1e-12
"""The cosine up to which an angle is a right one."""


def _quick(x: Tensor, noise: Tensor) -> Tensor | None:
    """Noise carried back by the pseudoinverse of a matrix, where that is well conditioned."""
    wide = x.shape[0] < x.shape[1]
    side = x @ x.mT if wide else x.mT @ x
    factor, failed = torch.linalg.cholesky_ex(side)
    if int(failed):
        return None
    solved = torch.cholesky_solve(noise.mT if wide else x.mT @ noise.mT, factor)
    return (x.mT @ solved if wide else solved).mT


def select(wanted: Wanted) -> Fans | str:
    """The best of many drawn rows: those that alone raise the rank of the activations the most."""
    if not wanted.layer.value:
        return instead(wanted, _UNSEEN)
    drawn = _drawn(wanted, wanted.tried)
    return drawn if isinstance(drawn, str) else _best(wanted, drawn)


_UNSEEN = "nothing reads it that could be told apart by what it shows"


def _best(wanted: Wanted, many: Fans) -> Fans:
    """Of many units the wanted number, each scored beside the ones there: count, then sizes."""
    old, new = _activations(wanted, many)
    gram, cross = old.mT @ old / len(old), old.mT @ new / len(old)
    counts, sums = bordered(gram, cross, new.square().mean(0), wanted.epsilon)
    order = torch.argsort(sums, descending=True, stable=True)
    order = order[torch.argsort(counts[order], descending=True, stable=True)][: wanted.count].cpu()
    rows = {name: part[order.to(part.device)] for name, part in many.rows.items()}
    return Fans(wanted.count, rows, keeps=many.keeps)


def _activations(wanted: Wanted, many: Fans) -> tuple[Tensor, Tensor]:
    """The activations of the units there and of new ones, a column for each."""
    found = chain(wanted.layer)
    if found is None or set(many.rows) != {found.maker.weight}:
        return _together(wanted, many)
    layer, names = wanted.layer, (found.maker.x, wanted.layer.value)
    batches, training = wanted.seen.having(names)
    if training and found.drops:
        batches, training = wanted.seen.values, False
    weight = many.rows[found.maker.weight][:, 0]
    places = layer.entries(layer.value, layer.axis)
    old, new = [], []
    for batch in _enough(wanted, many, batches, names):
        x, value = (batch[name].detach() for name in names)
        with torch.no_grad():
            shown = found.shown(x, weight.to(x), training)
        old.append(columns_of(value, layer.axis, places))
        new.append(rows_of(shown, found.maker))
    return torch.cat(old), torch.cat(new)


def _together(wanted: Wanted, many: Fans) -> tuple[Tensor, Tensor]:
    """The same of any layer: all its units are worked out anew with the new ones among them."""
    layer, graph = wanted.layer, wanted.seen.graph
    sown = Sown.of(layer, many)
    grown = planted(graph, [(layer.space, sown)]).graph
    names, outside = between(graph, layer)
    outside = list(dict.fromkeys([*outside, *open_inputs(graph)]))
    part = grown.replace(
        nodes={name: grown.nodes[name] for name in names},
        inputs={name: grown.type_of(name) for name in outside},
        output=Ref(layer.value),
    )
    layout = graph.analysis.shape(layer.value)[layer.axis]
    places = positions(layout, layer.space.atom, sown.sizes.size)
    few = _enough(wanted, many, wanted.seen.values, outside)
    with torch.no_grad():
        found = [values_of(part, batch) for batch in few]
    every = torch.cat([columns_of(batch[layer.value], layer.axis, places) for batch in found])
    return every[:, : layer.width], every[:, layer.width :]


def _enough(
    wanted: Wanted, many: Fans, batches: Sequence[Mapping[str, Tensor]], names: Iterable[str]
) -> list[dict[str, Tensor]]:
    """These values of so many samples as it takes to tell candidates apart.

    Of all samples where they are not what each value's first axis counts.
    """
    layer = wanted.layer
    enough = max(_ROWS, 4 * (layer.width + many.count))
    rows = sum(batch[layer.value].numel() for batch in batches) / layer.width
    kinds = [layer.graph.type_of(name) for name in names]
    first = {kind.shape[0] if kind.rank else 1 for kind in kinds}
    samples = len(first) == 1 and isinstance(first.pop(), Sym)
    share = enough / rows if samples else 1.0
    return [_few({name: batch[name] for name in names}, share) for batch in batches]


_ROWS = 1024
"""Rows of activations by which candidates are told apart; of images every position is one."""


def _few(values: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """A share of the samples, and two at least; all have one entry for each on their first axis."""
    if share >= 1:
        return values
    return {name: value[: max(2, ceil(share * len(value)))] for name, value in values.items()}


def net2wider(wanted: Wanted) -> Fans | str:
    """Copies of units in turn; what reads a unit is shared out among its copies."""
    layer = wanted.layer
    strange = next((u for u in layer.space.uses if u.kind not in ("contract", "pair", "mix")), None)
    if strange is not None:
        return f"{strange.node} takes in every index ({strange.kind}), copies too"
    if layer.space.uniform and wanted.count % layer.width:
        return f"a normalisation needs equally many copies: grow by a multiple of {layer.width}"
    return Fans(wanted.count, source=torch.arange(wanted.count) % layer.width)


def _drawn(wanted: Wanted, count: int) -> Fans | str:
    """Units with drawn rows that nothing reads, or why they would be noticed."""
    silent = silenced(wanted.layer)
    if isinstance(silent, str):
        return silent
    rows = carried(wanted, count)
    for maker in wanted.layer.makers:
        rows[maker.weight] = drawn_rows(wanted, maker, count)
    rows = {n: torch.zeros_like(r) if n in silent else r for n, r in rows.items()}
    return Fans(count, rows)


def drawn_rows(wanted: Wanted, maker: Consumer, count: int) -> Tensor:
    """Uniform rows of the mean norm of those of a layer."""
    old = wanted.layer.rows(maker)
    new = torch.rand(count, *old.shape[1:], generator=wanted.generator, dtype=torch.float64)
    return sized((2 * new - 1).to(old.device), wanted.layer, maker)


def carried(wanted: Wanted, count: int) -> dict[str, Tensor]:
    """New entries of parameters that neither make nor read a space but have it.

    A kernel is drawn, a factor is the mean of those there; a bias is 0 and a norm neutral, which
    needs no entry here.
    """
    layer, found = wanted.layer, {}
    graph = layer.graph
    for member in layer.carriers:
        param = graph.params[member.param]
        if param.kind != "param":
            continue
        rows = param.data.detach().to(torch.float64).movedim(member.axis, 0)
        rows = rows[layer.entries(f"@{member.param}", member.axis).to(rows.device)]
        users = [node.op.name for node, _ in graph.users.get(f"@{member.param}", ())]
        if prod(rows.shape[2:]) > 1:
            new = torch.rand(count, *rows.shape[1:], generator=wanted.generator).to(rows) * 2 - 1
            found[member.param] = like(new, rows)
        elif "mul" in users:
            found[member.param] = rows.mean(0, keepdim=True).expand(count, *rows.shape[1:])
    return found


def sized(new: Tensor, layer: Hidden, maker: Consumer) -> Tensor:
    return like(new, layer.rows(maker))


def like(new: Tensor, old: Tensor) -> Tensor:
    """New rows, or columns, with the mean norm of the old ones; both units x entries x the rest."""
    norms = new.flatten(2).norm(dim=2).clamp(min=torch.finfo(new.dtype).tiny)
    wanted = old.flatten(2).norm(dim=2).mean()
    if not bool(wanted):
        wanted = wanted.new_tensor(1.0)
    factor: Tensor = wanted / norms
    return new * factor.view(*norms.shape, *[1] * (new.dim() - 2))


def instead(wanted: Wanted, why: str) -> Fans | str:
    """Drawn rows where an init cannot do what it is for, and why."""
    found = random(wanted)
    return found if isinstance(found, str) else Fans(found.count, found.rows, keeps=found.keeps,
                                                     why=why)  # fmt: skip


__all__ = ["EPSILON", "Init", "Wanted", "carried", "drawn_rows", "instead", "like",
           "net2wider", "pre", "random", "select", "weight"]  # fmt: skip
