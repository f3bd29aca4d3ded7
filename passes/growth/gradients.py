"""Inits that look at gradients: what a new unit could do for the loss decides its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from netir.basis import Contract
from netir.calibration import arguments
from netir.evaluate import run
from netir.ir import Graph
from netir.kernels.svd import leading
from netir.passes.growth.alone import chain
from netir.passes.growth.bridge import Bridge, bridge, plain
from netir.passes.growth.inits import Init, Wanted, carried, drawn_rows, instead, like
from netir.passes.growth.plant import Fans, Sown, planted
from netir.passes.growth.seen import Seen
from netir.passes.growth.sides import slope_shown
from netir.passes.growth.silence import silenced


def gradmax(wanted: Wanted) -> Fans | str:
    """Units that nothing feeds yet, read so that their gradient is largest (Evci et al. 2022).

    The columns are the left singular vectors of the gradient across the layer; the squares of its
    singular values are what the squared gradient norm gains. A ReLU on the way becomes a clamp at
    0, the same function, because torch's ReLU has no gradient at 0.
    """
    found = bridge(wanted.layer, wanted.seen)
    if isinstance(found, str):
        return instead(wanted, found)
    u, s = leading(found.matrix, min(wanted.count, *found.matrix.shape))
    count = int((s > 0).sum())
    if not count:
        return instead(wanted, "the loss has no gradient across it")
    rows = {**carried(wanted, count)}
    rows |= found.rows(torch.zeros(count, found.matrix.shape[1], dtype=torch.float64))
    columns = _read(wanted, found, u[:, :count].mT)
    return Fans(count, rows, columns, open=found.bent)


def tiny(wanted: Wanted) -> Fans | str:
    """The units whose first step lowers the loss the most (TINY: Verbockhaven et al. 2024).

    With N the negative gradient across the layer and S the covariance of what is read, they are
    the singular vectors of S^-1/2 N. How large they are is tried out on the data, by halves.
    """
    found = bridge(wanted.layer, wanted.seen)
    if isinstance(found, str):
        return instead(wanted, found)
    whiten = _whitening(wanted, found)
    u, s, v = torch.linalg.svd(whiten @ -found.matrix.mT, full_matrices=False)
    if not bool(s[0] > 0):
        return instead(wanted, "the loss has no gradient across it")
    count = min(wanted.count, int((s > _TELLING * s[0]).sum()))
    root = s[:count].sqrt()
    rows = {**carried(wanted, count), **found.rows((whiten @ u[:, :count] * root).mT)}
    columns = v[:count] * root[:, None]
    scale = _best_scale(wanted, found, rows, columns)
    return Fans(count, rows, found.columns(columns * scale), keeps=Contract.CHANGED)


_TELLING = 1e-3
_SINGULAR = 1e-6


def _whitening(wanted: Wanted, found: Bridge) -> Tensor:
    """S^-1/2 of what the makers read, without directions that hardly occur."""
    blocks = []
    for maker in wanted.layer.makers:
        x = wanted.seen.windows(maker)[:, 0]
        values, vectors = torch.linalg.eigh(x.mT @ x / len(x))
        there = values > _SINGULAR * values.max()
        inverse = torch.where(there, values.clamp(min=1e-300).rsqrt(), torch.zeros_like(values))
        blocks.append(vectors * inverse @ vectors.mT)
    whiten: Tensor = torch.block_diag(*blocks)
    return whiten.to(found.matrix)


def _best_scale(
    wanted: Wanted, found: Bridge, rows: dict[str, Tensor], columns: Tensor
) -> float:
    def loss(scale: float) -> float:
        fans = Fans(len(columns), rows, found.columns(columns * scale), keeps=Contract.CHANGED)
        sown = Sown.of(wanted.layer, fans)
        return mean_loss(planted(wanted.seen.graph, [(wanted.layer.space, sown)]).graph,
                         wanted.seen)  # fmt: skip

    tried = [0.0, *(2.0**-n for n in range(12))]
    return min(tried, key=loss) * wanted.scale


def mean_loss(graph: Graph, seen: Seen) -> float:
    """The mean loss over the calibration's batches."""
    calibration = seen.data("a loss")
    assert calibration.loss is not None
    targets = calibration.targets or [None] * len(calibration.batches)
    with torch.no_grad():
        losses = [
            float(calibration.loss(run(graph, *args, **kwargs), target))
            for (args, kwargs), target in zip(
                map(arguments, calibration.batches), targets, strict=True
            )
        ]
    return sum(losses) / len(losses)


def nest(wanted: Wanted) -> Fans | str:
    """Units that join inputs and results whose connection has a large gradient (NeST: Dai 2019).

    Of the gradient across the layer the largest 40 % of entries are taken. Each adds the root of
    its size to both ends, by chance positive or negative, with signs such that this connection goes
    down the gradient; a unit whose connections together go up is read with the other sign.
    """
    found = bridge(wanted.layer, wanted.seen)
    if isinstance(found, str):
        return instead(wanted, found)
    matrix = found.matrix
    size, root = matrix.abs(), matrix.abs().sqrt()
    root[size < _threshold(size.flatten())] = 0
    sign, root = matrix.sign().float(), root.float()
    made, read = [], []
    for _ in range(wanted.count):
        drawn = _signs(matrix.numel(), wanted.generator).to(root.device).view_as(root).mul_(root)
        made.append(drawn.sum(0))
        read.append(-torch.einsum("oi,oi->o", drawn, sign))
    ends, starts = torch.stack(read).to(matrix), torch.stack(made).to(matrix)
    up = ((ends @ matrix) * starts).sum(1) > 0
    ends = torch.where(up[:, None], -ends, ends)
    rows = found.rows(starts)
    rows = {m.weight: like(rows[m.weight], wanted.layer.rows(m)) for m in wanted.layer.makers}
    rows |= carried(wanted, wanted.count)
    columns = _read(wanted, found, ends)
    return Fans(wanted.count, rows, columns, keeps=Contract.CHANGED)


_SHARE = 0.4


def _threshold(sizes: Tensor, most: int = 1_000_000) -> Tensor:
    """What the largest are not below; of very many, some evenly out of all tell."""
    few = sizes[:: -(-len(sizes) // most)]
    found: Tensor = few.kthvalue(int((1 - _SHARE) * (len(few) - 1)) + 1).values
    return found


def _signs(count: int, generator: torch.Generator) -> Tensor:
    """1 or -1 by chance, a random bit for each."""
    drawn = torch.randint(0, 256, (-(-count // 8),), generator=generator, dtype=torch.uint8)
    bits = drawn[:, None].bitwise_and(2 ** torch.arange(8, dtype=torch.uint8)) > 0
    return bits.flatten()[:count].float().mul_(2).sub_(1)


def firefly(wanted: Wanted) -> Fans | str:
    """Of copies that part a little and of drawn units, those with the largest gradient (Wu 2020).

    A copy has `1e-4` of the norm of its row added, which its original has taken away; both take
    half of what reads them. A drawn unit is read by weights of that size. Half of those tried are
    copies.
    """
    silent = silenced(wanted.layer)
    if isinstance(silent, str) or silent:
        return silent if isinstance(silent, str) else "it meets another activation in a sum"
    if not wanted.layer.makers:
        return instead(wanted, "no linear layer or convolution makes it")
    tried = _tried(wanted)
    size = _sizes(wanted, tried)
    size = _planted_sizes(wanted, tried) if size is None else size
    best = size.argsort(descending=True, stable=True)[: wanted.count].sort().values
    return _some(tried, best)


def _sizes(wanted: Wanted, tried: Fans) -> Tensor | None:
    """The gradients' sizes by the rows of units, from what goes on without them.

    They change the function so little that this is all that it takes. None if they cannot be worked
    out by themselves.
    """
    layer, source = wanted.layer, tried.source
    found = chain(layer)
    if found is None or source is None or plain(layer):
        return None
    pairs, training = wanted.seen.slopes(layer)
    if training and found.drops:
        return None
    maker, copies = found.maker, (source >= 0).nonzero().flatten()
    rows = tried.rows[maker.weight].clone()
    rows[copies] = layer.rows(maker)[source[copies]] + tried.apart[maker.weight][copies]
    total = torch.zeros_like(rows)
    for values, slopes in pairs:
        x = values[maker.x].detach()
        own = rows[:, 0].to(x).requires_grad_()
        with torch.enable_grad():
            shown = found.shown(x, own, training, source)
        back = torch.zeros_like(shown)
        for reader in layer.readers:
            columns, slope = tried.columns[reader.weight].clone(), slopes[reader.node.results[0]]
            columns[copies] = layer.columns(reader)[source[copies]] / 2
            back += slope_shown(reader, maker.axis, shown.shape, columns.to(slope), slope)
        total += torch.autograd.grad(shown, own, back)[0].unsqueeze(1).to(total)
    return total.flatten(1).square().sum(1).cpu()


def _planted_sizes(wanted: Wanted, tried: Fans) -> Tensor:
    """The same of any layer: the units are planted, and the network is run with them."""
    sown = Sown.of(wanted.layer, tried)
    grown = planted(wanted.seen.graph, [(wanted.layer.space, sown)]).graph
    names = [m.weight for m in wanted.layer.makers]
    _, slopes = Seen(grown, (), wanted.seen.calibration).gradients((), names)
    size = torch.zeros(tried.count, dtype=torch.float64)
    for maker in wanted.layer.makers:
        places = sown.places(maker)[wanted.layer.width :]
        by = slopes[maker.weight].double().movedim(1 - maker.weight_axis, 0)
        size += by[places.to(by.device)].flatten(1).square().sum(1).cpu()
    return size


_APART = 1e-4


def _tried(wanted: Wanted) -> Fans:
    """As many copies as there are units to grow, if there are so many, and as many drawn units."""
    layer, count = wanted.layer, wanted.count
    copies = torch.randperm(layer.width, generator=wanted.generator)[:count]
    both = len(copies) + count
    source = torch.cat([copies, torch.full((count,), -1)])
    rows = carried(wanted, both)
    apart, columns = {}, {}
    for maker in layer.makers:
        rows[maker.weight] = drawn_rows(wanted, maker, both)
        apart[maker.weight] = _APART * drawn_rows(wanted, maker, both)
    for reader in layer.readers:
        old = layer.columns(reader)
        noise = torch.randn(both, *old.shape[1:], generator=wanted.generator, dtype=old.dtype)
        columns[reader.weight] = _APART * like(noise.to(old.device), old)
    return Fans(both, rows, columns, source, apart, keeps=Contract.CHANGED)


def _some(fans: Fans, which: Tensor) -> Fans:
    def of(parts: object) -> dict[str, Tensor]:
        return {n: p[which.to(p.device)] for n, p in parts.items()}  # type: ignore[attr-defined]

    source = None if fans.source is None else fans.source[which]
    return Fans(len(which), of(fans.rows), of(fans.columns), source, of(fans.apart), fans.keeps)


def _read(wanted: Wanted, found: Bridge, vectors: Tensor) -> dict[str, Tensor]:
    """Columns of the mean norm of a layer's, all readers of a unit together, times the scale."""
    old = [wanted.layer.columns(r).flatten(1) for r in wanted.layer.readers]
    norm = torch.cat(old, 1).norm(dim=1).mean()
    sized = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-300)
    return found.columns(sized * (norm if bool(norm) else 1.0) * wanted.scale)


SLOPED: frozenset[Init] = frozenset({firefly, gradmax, nest, tiny})
"""The inits that take gradients."""

__all__ = ["SLOPED", "firefly", "gradmax", "mean_loss", "nest", "tiny"]
