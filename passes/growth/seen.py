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
from netir.errors import NetirError
from netir.evaluate import behind, input_values, values_of
from netir.ir import Graph, Node
from netir.kernels.gram import Gram, GramSum
from netir.kernels.rank import count_above, effective_rank
from netir.passes.compensation.consumers import Consumer, Windows
from netir.passes.growth.hidden import Hidden

Loss = Callable[[Any, Any], Tensor]


class Seen:
    """A graph, some of its hidden layers, and what calibration data shows of them."""

    def __init__(
        self,
        graph: Graph,
        layers: Sequence[Hidden],
        calibration: Calibration | None,
        seed: int = 0,
        caught: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.graph = graph
        self.layers = tuple(layers)
        self.calibration = calibration
        self.seed = seed
        self.caught = caught
        """Values that are known already, such as those of the last step; then no others are run."""

    def data(self, by: str) -> Calibration:
        """The calibration, or an error that says what needs it."""
        return needed(self.calibration, by)

    @cached_property
    def values(self) -> list[dict[str, Tensor]]:
        """For each batch what all the layers show and read."""
        names = {h.value for h in self.layers if h.value}
        names |= {m.x for h in self.layers for m in h.makers}
        names |= {name for h in self.layers for name in between(self.graph, h)[1]}
        return list(self.data("this").values(self.graph, names))

    def activations(self, layer: Hidden) -> Tensor:
        """One row for each sample and position, one column for each index, in float64."""
        if not layer.value:
            raise NetirError(f"no activations of '{layer.space.name}' are read")
        places = layer.entries(layer.value, layer.axis)
        batches = self.values if self.caught is None else [self.caught]
        return torch.cat([columns_of(batch[layer.value], layer.axis, places) for batch in batches])

    def shows(self, layer: Hidden) -> bool:
        """Whether the activations of a layer are there to be looked at."""
        return bool(layer.value) and (self.caught is None or layer.value in self.caught)

    def gram(self, layer: Hidden) -> Gram:
        """The mean product of every two columns of the activations, in float64."""
        places = layer.entries(layer.value, layer.axis)
        batches = self.values if self.caught is None else [self.caught]
        total = GramSum()
        for batch in batches:
            value, axis = batch[layer.value].detach(), layer.axis
            if places.shape[1] > 1 or not bool(
                (places[:, 0] == torch.arange(value.shape[axis])).all()
            ):
                value, axis = value.movedim(axis, 0)[places.to(value.device)].flatten(1), 0
            try:
                total.add(value, axis)
            except ValueError as error:
                raise NetirError(
                    f"the activations of '{layer.space.name}' cannot be used: {error}",
                    fix="lower the learning rate, or look at the data",
                ) from error
        return total.gram

    def rank(self, layer: Hidden, epsilon: float) -> tuple[int, int]:
        """How many singular values of the activations over the root of the rows are above ε.

        Also the number of rows. What the sums cannot tell for certain the values themselves do.
        """
        gram = self.gram(layer)
        found = count_above(gram, epsilon)
        if found is None:
            found = effective_rank(self.activations(layer), epsilon, "svd").count
        return found, gram.rows

    def windows(self, maker: Consumer, most: int = 4096) -> Tensor:
        """What a product reads at positions drawn by chance: rows x groups x inputs of a group."""
        kernel = tuple(self.graph.params[maker.weight].data.shape[2:])
        views = [Windows(maker, batch[maker.x].detach(), kernel) for batch in self.values]
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

    def gradients(
        self, values: Iterable[str], params: Iterable[str] = ()
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Of the mean loss: by each value, batch for batch, and by each parameter in all."""
        calibration = self.data("a gradient")
        if calibration.loss is None:
            raise NetirError(
                "this needs gradients, and there is no loss",
                fix="pass Calibration(batches, targets, loss), or a loss to the grower",
            )
        wanted, names = list(dict.fromkeys(values)), list(dict.fromkeys(params))
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


def _share(loss: Loss, target: Any, count: int, output: Any) -> Tensor:
    return loss(output, target) / count


def between(graph: Graph, layer: Hidden) -> tuple[dict[str, Node], list[str]]:
    """The nodes from what makes a layer to its activations, and the values they read from outside.

    A layer that nothing makes has everything before it.
    """
    made = {m.node.name for m in layer.makers}
    reached: set[str] = set()
    for node in graph.nodes.values():
        if node.name in made or any(v in reached for v in node.values):
            reached.update(node.results)
    nodes = {
        name: node for name, node in behind(graph, [layer.value]).items()
        if node.results[0] in reached or not made
    }  # fmt: skip
    inside = {result for node in nodes.values() for result in node.results}
    read = dict.fromkeys(v for node in nodes.values() for v in node.values)
    return nodes, [v for v in read if v not in inside]


def columns_of(value: Tensor, axis: int, places: Tensor) -> Tensor:
    """An activation with a column for each index; what else an index has are further rows."""
    flat = value.detach().to(torch.float64).movedim(axis, -1).flatten(0, -2)
    if places.shape[1] == 1:
        return flat[:, places[:, 0].to(flat.device)]
    return flat[:, places.to(flat.device)].movedim(1, -1).flatten(0, -2)


__all__ = ["Seen", "between", "columns_of"]
