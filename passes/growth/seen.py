"""What data tells about hidden layers: activations, what is read, gradients of a loss.

Everything is worked out once for all layers: one run of the network for values, one with gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from netir.calibration import Calibration, arguments, needed, slopes
from netir.dims import Sym
from netir.errors import NetirError
from netir.evaluate import behind, input_values, values_of
from netir.ir import Graph, Node
from netir.kernels.gram import Gram, GramSum
from netir.kernels.rank import all_above, count_above, effective_rank
from netir.passes.compensation.consumers import Consumer, Windows
from netir.passes.growth.hidden import Hidden
from netir.passes.growth.watch import Caught

Loss = Callable[[Any, Any], Tensor]
Parts = Sequence[tuple[Tensor, int]]
Pairs = Sequence[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]
Gradients = tuple[list[dict[str, Tensor]], dict[str, Tensor]]


class Seen:
    """A graph, some of its hidden layers, and what calibration data shows of them."""

    def __init__(
        self,
        graph: Graph,
        layers: Sequence[Hidden],
        calibration: Calibration | None,
        seed: int = 0,
        caught: Caught | None = None,
    ) -> None:
        self.graph = graph
        self.layers = tuple(layers)
        self.calibration = calibration
        self.seed = seed
        self.caught = caught
        """What is known of the last step already; a trigger then looks at nothing else."""

    def data(self, by: str) -> Calibration:
        """The calibration, or an error that says what needs it."""
        return needed(self.calibration, by)

    @cached_property
    def values(self) -> list[dict[str, Tensor]]:
        """For each batch what all the layers show and read."""
        names = {h.value for h in self.layers if h.value}
        names |= {m.x for h in self.layers for m in h.makers}
        names |= {name for h in self.layers for name in between(self.graph, h)[1]}
        names |= set(open_inputs(self.graph))
        return list(self.data("this").values(self.graph, names))

    def activations(self, layer: Hidden) -> Tensor:
        """One row for each sample and position, one column for each index, in float64."""
        if not layer.value:
            raise NetirError(f"no activations of '{layer.space.name}' are read")
        places = layer.entries(layer.value, layer.axis)
        every = [columns_of(batch[layer.value], layer.axis, places) for batch in self._read()]
        return torch.cat(every)

    def _read(self) -> Sequence[Mapping[str, Tensor]]:
        return self.values if self.caught is None else [self.caught.values]

    def having(self, names: Iterable[str]) -> tuple[Sequence[Mapping[str, Tensor]], bool]:
        """For each batch these values and others, and whether they are of a step in train mode.

        They are those of the last step if all are known, else those of a run.
        """
        if self.caught is not None and all(name in self.caught.values for name in names):
            return [self.caught.values], self.caught.training
        return self.values, False

    def shows(self, layer: Hidden) -> bool:
        """Whether the activations of a layer are there to be looked at."""
        return bool(layer.value) and (self.caught is None or layer.value in self.caught.values)

    def gram(self, layer: Hidden) -> Gram:
        """The mean product of every two columns of the activations, in float64."""
        return self._summed(layer, GramSum(), self._parts(layer)).gram

    def rows(self, layer: Hidden) -> int:
        """How many rows the activations of a layer have."""
        entries = layer.entries(layer.value, layer.axis).shape[1]
        every = [batch[layer.value] for batch in self._read()]
        return entries * sum(value.numel() // value.shape[layer.axis] for value in every)

    def rank(self, layer: Hidden, epsilon: float, full: bool = False) -> int:
        """How many singular values of the activations over the root of the rows are above ε.

        What the sums cannot tell for certain the values themselves do. With `full` it is tried
        first whether every index adds to the rank, if possible with an eighth of the rows: those
        left out can only add to it.
        """
        parts, total, rows = self._parts(layer), GramSum(), self.rows(layer)
        share = max(1 / 8, 2 * layer.width / rows)
        if full and share < 1 / 2:
            first = [part for value, axis in parts for part in _some(value, axis, 0, share)]
            parts = [part for value, axis in parts for part in _some(value, axis, share, 1)]
            if first and all_above(self._summed(layer, total, first).over(rows), epsilon):
                return layer.width
        gram = self._summed(layer, total, parts).gram
        if full and all_above(gram, epsilon):
            return layer.width
        found = count_above(gram, epsilon)
        if found is None:
            found = effective_rank(self.activations(layer), epsilon, "svd").count
        return found

    def _parts(self, layer: Hidden) -> list[tuple[Tensor, int]]:
        """The activations of a layer batch for batch, and the axis that has an entry an index."""
        places = layer.entries(layer.value, layer.axis)
        found = []
        for batch in self._read():
            value, axis = batch[layer.value].detach(), layer.axis
            if not layer.plain:
                value, axis = value.movedim(axis, 0)[places.to(value.device)].flatten(1), 0
            found.append((value, axis))
        return found

    def _summed(self, layer: Hidden, total: GramSum, parts: Parts) -> GramSum:
        try:
            for value, axis in parts:
                total.add(value, axis)
        except ValueError as error:
            raise NetirError(
                f"the activations of '{layer.space.name}' cannot be used: {error}",
                fix="lower the learning rate, or look at the data",
            ) from error
        return total

    def windows(self, maker: Consumer, most: int = 4096) -> Tensor:
        """What a product reads at positions drawn by chance: rows x groups x inputs of a group."""
        kernel = tuple(self.graph.params[maker.weight].data.shape[2:])
        batches, _ = self.having([maker.x])
        views = [Windows(maker, batch[maker.x].detach(), kernel) for batch in batches]
        generator = torch.Generator().manual_seed(self.seed)
        total = sum(map(len, views))
        drawn = torch.randperm(total, generator=generator)[:most].sort().values
        found, start = [], 0
        for view in views:
            own = drawn[(drawn >= start) & (drawn < start + len(view))] - start
            if len(own):
                found.append(view.at(own))
            start += len(view)
        return torch.cat(found)

    def slopes(self, layer: Hidden) -> tuple[Pairs, bool]:
        """For each batch what makers of a layer read, and the gradients by what its readers make.

        Also whether they are of a step in train mode.
        """
        if self.caught is not None and self._sloped(self.caught, layer):
            return [(self.caught.values, self.caught.slopes)], self.caught.training
        gradients, _ = self.gradients(r.node.results[0] for r in layer.readers)
        return list(zip(self.values, gradients, strict=True)), False

    def tells_slopes(self, layer: Hidden) -> bool:
        """Whether gradients are there to be looked at; else the first step is yet to come."""
        known = self.calibration is not None and self.calibration.loss is not None
        return known or self.caught is None or self._sloped(self.caught, layer)

    @staticmethod
    def _sloped(caught: Caught, layer: Hidden) -> bool:
        made = {r.node.results[0] for r in layer.readers}
        return caught.slopes.keys() >= made and caught.values.keys() >= {m.x for m in layer.makers}

    def squares(self, weight: str, axis: int) -> Tensor:
        """Along an axis of a weight the sums of the squares of its gradients, in float64."""
        found = None if self.caught is None else self.caught.squares.get((weight, axis))
        if found is None:
            _, by_param = self.gradients((), [weight])
            found = by_param[weight].movedim(axis, 0).flatten(1).square().sum(1)
        return found.double()

    def gradients(
        self, values: Iterable[str], params: Iterable[str] = ()
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Of the mean loss: by each value, batch for batch, and by each parameter in all."""
        wanted, names = list(dict.fromkeys(values)), list(dict.fromkeys(params))
        parts = [p for h in self.layers for p in (*h.makers, *h.readers)]
        own = {r.node.results[0] for h in self.layers for r in h.readers}
        if own.issuperset(wanted) and {p.weight for p in parts}.issuperset(names):
            return self._gradients
        return self._run(wanted, names)

    @cached_property
    def _gradients(self) -> Gradients:
        """The gradients that may be asked for, all from one run."""
        parts = [p for h in self.layers for p in (*h.makers, *h.readers)]
        results = dict.fromkeys(r.node.results[0] for h in self.layers for r in h.readers)
        return self._run(list(results), list(dict.fromkeys(p.weight for p in parts)))

    def _run(self, wanted: Sequence[str], names: Sequence[str]) -> Gradients:
        calibration = self.data("a gradient")
        if calibration.loss is None:
            raise NetirError(
                "this needs gradients, and there is no loss",
                fix="pass Calibration(batches, targets, loss), or a loss to the grower",
            )
        found: list[dict[str, Tensor]] = []
        total = {n: torch.zeros_like(self.graph.params[n].data) for n in names}
        count = len(calibration.batches)
        targets = calibration.targets or [None] * count
        for batch, target in zip(calibration.batches, targets, strict=True):
            inputs = input_values(self.graph, *arguments(batch))
            loss = partial(_share, calibration.loss, target, count)
            by_value, by_param = slopes(self.graph, inputs, loss, wanted, names)
            shown = self._shown(inputs, [n for n, slope in by_value.items() if slope is None])
            found.append({n: shown[n] if s is None else s for n, s in by_value.items()})
            total = {n: t if (s := by_param[n]) is None else t + s for n, t in total.items()}
        return found, total

    def _shown(self, inputs: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """Zeros of the shapes of some values: the gradient of a loss that they do not reach."""
        if not names:
            return {}
        with torch.no_grad():
            have = values_of(self.graph, inputs, keep=set(names).__contains__)
        return {name: torch.zeros_like(have[name]) for name in names}


def _some(value: Tensor, axis: int, start: float, end: float) -> Parts:
    """The rows of an activation from one share of all to another, if there are any."""
    along = 0 if axis % value.dim() else 1
    first, last = (int(share * value.shape[along]) for share in (start, end))
    return [(value.narrow(along, first, last - first), axis)] if last > first else []


def _share(loss: Loss, target: Any, count: int, output: Any) -> Tensor:
    return loss(output, target) / count


def between(graph: Graph, layer: Hidden) -> tuple[dict[str, Node], list[str]]:
    """The nodes from what makes a layer to its activations, and the values they read from outside.

    What parameters alone make that has the space is inside, so that all outside has other sizes
    than the layer's. A layer that nothing makes has everything before it.
    """
    made = {m.node.name for m in layer.makers}
    reached = {value for value, _ in graph.analysis.values_of.get(layer.space.atom, ())}
    for node in graph.nodes.values():
        if node.name in made or any(v in reached for v in (*node.values, *node.results)):
            reached.update(node.results)
    nodes = {
        name: node for name, node in behind(graph, [layer.value]).items()
        if node.results[0] in reached or not made
    }  # fmt: skip
    inside = {result for node in nodes.values() for result in node.results}
    read = dict.fromkeys(v for node in nodes.values() for v in node.values)
    return nodes, [v for v in read if v not in inside]


def open_inputs(graph: Graph) -> list[str]:
    """The inputs of a graph that tell its open sizes."""
    return [n for n, kind in graph.inputs.items() if any(isinstance(d, Sym) for d in kind.shape)]


def columns_of(value: Tensor, axis: int, places: Tensor) -> Tensor:
    """An activation with a column for each index; what else an index has are further rows."""
    flat = value.detach().to(torch.float64).movedim(axis, -1).flatten(0, -2)
    if places.shape[1] == 1:
        return flat[:, places[:, 0].to(flat.device)]
    return flat[:, places.to(flat.device)].movedim(1, -1).flatten(0, -2)


__all__ = ["Seen", "between", "columns_of", "open_inputs"]
