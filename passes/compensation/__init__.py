"""Compensation: what is removed from a network is made up for where it was read.

A consumer that lost channels can take the constants among them into its bias, or their mean over
data, or can be fitted anew to what it gave before. `compensated` changes the basis and does that;
which channels go is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from netir.basis import Contract
from netir.calibration import Calibration, needed
from netir.change import Rewritten, change_basis
from netir.errors import NetirError, nearest
from netir.ir import Graph
from netir.moves import AxisMove, kept_indices
from netir.passes.compensation.constants import constants
from netir.passes.compensation.consumers import Consumer, owned, summing
from netir.passes.compensation.leastsquares import correction
from netir.passes.compensation.pairs import Pair
from netir.width import Planned

Compensation = Literal["none", "constant", "mean", "least-squares"]
COMPENSATIONS: tuple[str, ...] = get_args(Compensation)
"""What can be done at a consumer that lost channels, from nothing to a new fit."""


def compensated(
    graph: Graph, planned: Planned, calibration: Calibration | None, how: str
) -> tuple[Rewritten, Contract]:
    """Remove channels and make up for them at every consumer that can take it.

    - `none`: what they contributed is gone.
    - `constant`: a channel i that gives the same number k_i for every input is replaced exactly
      (up to zero padding, which it does not reach): k_i times the sum of its weights goes into the
      bias of the consumer. The graph tells which ones do; no data is needed.
    - `mean`: the bias of the consumer is shifted so that every channel of its result has the mean
      over the data that it had before. Consumers are taken in the order in which they run, so that
      what came before is made up for too.
    - `least-squares`: the weights of the consumer are fitted so that on the data its result is as
      close as possible to what it was, and then its bias as for `mean` (ThiNet: Luo et al. 2017;
      channel pruning: He et al. 2017). What it reads comes from the network as rewritten so far.

    A consumer whose weight or bias others read too is left with `none`, as is one whose weight is
    an activation. All batches are on their way at once: a few hundred samples are enough. Tells
    besides what contract this adds.
    """
    if how not in COMPENSATIONS:
        raise NetirError(f"there is no compensation '{how}'", fix=nearest(how, COMPENSATIONS))
    done = change_basis(graph, dict(planned))
    if how == "none":
        return done, Contract.EXACT
    if any(b.index is None or b.replicates or b.extends for _, b in planned):
        raise NetirError("compensation is for what was removed, not for other changes of width")
    patch = _Patch(graph, done)
    losers = {c.node.name: c for c in _losers(graph, done)}
    with torch.no_grad():
        if how == "constant":
            _fold_constants(graph, patch, losers)
        else:
            data = needed(calibration, f"compensation by '{how}'")
            _reconstruct(patch, losers, data, fit=how == "least-squares")
    return patch.done()


class _Patch:
    """The rewritten network, while biases and weights of consumers are changed once more."""

    def __init__(self, graph: Graph, done: Rewritten) -> None:
        self.before, self.graph, self.moves = graph, done.graph, done.moves
        self.params, self.nodes = dict(done.graph.params), dict(done.graph.nodes)
        self.folded: dict[str, Tensor] = {}
        self.added: list[str] = []
        self.refitted = False

    def result_move(self, consumer: Consumer) -> AxisMove | None:
        """How the channels of its result moved; None if all stayed."""
        move = self.moves.values.get(consumer.node.results[0])
        return None if move is None else move.axes[consumer.axis]

    def shift(self, consumer: Consumer, by: Tensor) -> None:
        """Add one number to each channel that is left of the result.

        The bias takes it. Where there is none but a batch norm follows, the running mean does,
        which a bias would only be undone by; else a bias is added.
        """
        if not bool(by.isfinite().all()) or not bool(by.any()):
            return
        mean = None if consumer.bias else self._running_mean(consumer)
        name, sign = consumer.bias or mean, -1 if mean else 1
        param = self.params[name or consumer.weight]
        old = param.data if name else param.data.new_zeros(by.shape)
        new = (old.double() + sign * by.to(old.device)).to(old.dtype)
        if not bool(new.isfinite().all()):
            return
        self.params[name or self._new_bias(consumer)] = replace(param, data=new)
        done = sign * (new.double() - old.double())
        self.folded[consumer.node.name] = self._in_place(consumer, done)

    def _running_mean(self, consumer: Consumer) -> str | None:
        """The running mean of a batch norm that alone reads the result."""
        result = consumer.node.results[0]
        readers = self.before.users.get(result, ())
        if len(readers) != 1 or result in self.before.outputs:
            return None
        norm, position = readers[0]
        operand = (*norm.operands, *[None] * 3)[3] if norm.op.name == "batch_norm" else None
        if position or operand is None or operand[0] != "@":
            return None
        return operand[1:] if owned(self.before, operand[1:]) else None

    def _new_bias(self, consumer: Consumer) -> str:
        """The name of a bias for a consumer that has none, which it reads from now on."""
        owner, _, leaf = consumer.weight.rpartition(".")
        wanted = f"{owner}.bias".lstrip(".") if leaf == "weight" else f"{consumer.weight}_bias"
        name, number = wanted, 2
        while name in self.params or name in self.graph.aliases:
            name, number = f"{wanted}_{number}", number + 1
        self.added.append(name)
        node = self.nodes[consumer.node.name]
        self.nodes[node.name] = replace(node, operands=(*node.operands[:2], f"@{name}"))
        return name

    def _in_place(self, consumer: Consumer, shift: Tensor) -> Tensor:
        """The shift along the channels that the result had before anything was removed."""
        kind = consumer.node.types[0]
        move, total = self.result_move(consumer), kind.shape[consumer.axis]
        assert isinstance(total, int)
        kept = kept_indices(move, total)
        if kept is not None:
            shift = shift.new_zeros(total).index_copy(0, kept.to(shift.device), shift)
        return consumer.along(shift, kind.rank)

    def refit(self, consumer: Consumer, by: Tensor) -> None:
        """Add to the weight."""
        param = self.params[consumer.weight]
        new = (param.data.double() + by).to(param.data.dtype)
        if bool(new.isfinite().all()):
            self.params[consumer.weight] = replace(param, data=new)
            self.refitted = True

    def done(self) -> tuple[Rewritten, Contract]:
        """What came of it, and the contract: a shift of a bias can be proved, a fit cannot."""
        folded = {} if self.refitted else self.folded
        contract = Contract.MASKED if folded else Contract.EXACT
        moves = replace(self.moves, added=(*self.moves.added, *self.added), folded=folded)
        graph = self.graph.replace(params=self.params, nodes=self.nodes)
        return Rewritten(graph, moves), Contract.CHANGED if self.refitted else contract


def _losers(graph: Graph, done: Rewritten) -> Iterator[Consumer]:
    """The consumers that lost some of what they sum over, and can be changed by themselves."""
    for node in graph.nodes.values():
        consumer = summing(graph, node)
        if consumer is None:
            continue
        shapes = (g.params[consumer.weight].data.shape for g in (graph, done.graph))
        before, after = (shape[consumer.weight_axis] for shape in shapes)
        own = (p for p in (consumer.weight, consumer.bias) if p is not None)
        if after < before and all(owned(graph, p) for p in own):
            yield consumer


def _fold_constants(graph: Graph, patch: _Patch, losers: Mapping[str, Consumer]) -> None:
    """Put what the graph shows to be constant into the biases."""
    found = constants(graph)
    for consumer in losers.values():
        op = cast(Any, consumer.node.op)
        if consumer.x not in found or (op.name == "conv_transpose" and set(op.stride) != {1}):
            continue  # where a transpose takes strides, its results see different taps
        matrix = consumer.matrix(graph.params[consumer.weight].data)
        groups, inputs, _, _ = matrix.shape
        channels = found[consumer.x].channels(consumer.axis, groups * inputs)
        kept = kept_indices(patch.moves.values[consumer.x].axes[consumer.axis], groups * inputs)
        assert kept is not None
        gone = torch.ones_like(channels.known).index_fill(0, kept, value=False)
        value = channels.value.where(gone & channels.known, 0).to(matrix.device)
        sums = matrix.sum(2, dtype=torch.float64)
        shift = torch.einsum("gi,gio->go", value.view(groups, inputs), sums).flatten()
        move = patch.result_move(consumer)
        patch.shift(consumer, shift if move is None else move.apply(shift, 0))


def _reconstruct(
    patch: _Patch, losers: Mapping[str, Consumer], calibration: Calibration, *, fit: bool
) -> None:
    """Walk through both networks side by side and mend each consumer when its turn comes."""
    graph, left = patch.before, len(losers)
    pairs = [
        Pair(graph, patch.nodes, patch.params, inputs) for inputs in calibration.inputs(graph)
    ]
    for node in graph.nodes.values() if losers else ():
        for pair in pairs:
            pair.run_before(node)
        consumer = losers.get(node.name)
        if consumer is not None:
            _mend(patch, consumer, pairs, fit=fit)
            left -= 1
            if not left:
                return
        for pair in pairs:
            pair.run_after(node)


def _mend(patch: _Patch, consumer: Consumer, pairs: Sequence[Pair], *, fit: bool) -> None:
    """Fit the weight, if so wanted, then shift the bias by what is missing on average."""
    if fit:
        weight = patch.params[consumer.weight].data
        data = ((pair.after[consumer.x], _shortfall(patch, consumer, pair)) for pair in pairs)
        there = replace(consumer, node=patch.nodes[consumer.node.name])  # it may have fewer groups
        by = correction(there, weight, data, len(pairs))
        if by is not None:
            patch.refit(consumer, by)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for pair in pairs:
        rows = consumer.rows(_shortfall(patch, consumer, pair)).double()
        total, count = total.to(rows.device) + rows.sum(0), count + len(rows)
    if count:
        patch.shift(consumer, total / count)


def _shortfall(patch: _Patch, consumer: Consumer, pair: Pair) -> Tensor:
    """By how much the result is off as the network after is now, in the channels that are left."""
    name = consumer.node.results[0]
    wanted, move = pair.before[name], patch.moves.values.get(name)
    return (wanted if move is None else move.apply(wanted)) - pair.given_after(consumer.node)[name]


__all__ = ["COMPENSATIONS", "Compensation", "compensated"]
