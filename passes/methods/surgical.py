"""Auto-RGN: every tensor its own learning rate, by its relative gradient (Lee et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from netir.errors import NetirError


class AutoRgn:
    """Sets the learning rate of every parameter by ‖gradient‖ / ‖parameter‖.

    The ratios are averaged over the last `batches` backward passes and divided by the largest, so
    that every rate is between 0 and the optimizer's own. The optimizer is changed in place: each
    parameter gets a group of its own, and keeps its state.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, batches: int = 3) -> None:
        if batches < 1:
            raise NetirError(f"Auto-RGN cannot average over {batches} batches", fix="use 1 or more")
        self.optimizer = optimizer
        self.batches = batches
        self._seen: list[dict[Tensor, float]] = []
        self._rates: dict[Tensor, float] = {}
        self._part()

    def _part(self) -> None:
        """A group of its own for every parameter; what a group says is copied to each."""
        groups = []
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                self._rates.setdefault(param, group["lr"])
                groups.append({**group, "params": [param]})
        self.optimizer.param_groups[:] = groups

    def observe(self) -> Mapping[Tensor, float] | None:
        """Look at the gradients after a backward pass; sets the rates once there are enough."""
        self._part_new()
        found = {p: _ratio(p) for p in self._params()}
        self._seen = [*self._seen, found][-self.batches :]
        return self.apply() if len(self._seen) == self.batches else None

    def _part_new(self) -> None:
        if any(len(group["params"]) != 1 for group in self.optimizer.param_groups):
            self._part()

    def _params(self) -> Iterable[Tensor]:
        return (group["params"][0] for group in self.optimizer.param_groups)

    def apply(self) -> Mapping[Tensor, float]:
        """Set every rate from what was seen; gives the ratios, of which the largest is 1."""
        means = {
            p: sum(seen.get(p, 0.0) for seen in self._seen) / len(self._seen)
            for p in self._params()
        }
        largest = max(means.values(), default=0.0)
        if not largest > 0:
            raise NetirError("no parameter has a gradient", fix="call observe after backward")
        ratios = {p: max(m / largest, torch.finfo(torch.float32).tiny) for p, m in means.items()}
        for group in self.optimizer.param_groups:
            param = group["params"][0]
            group["lr"] = self._rates[param] * ratios[param]
        return ratios


def _ratio(param: Tensor) -> float:
    if param.grad is None:
        return 0.0
    size = float(param.detach().norm())
    slope = float(param.grad.detach().norm())
    if not (size < float("inf") and slope < float("inf")):
        raise NetirError("a gradient or a parameter is not finite", fix="lower the learning rate")
    return slope / max(size, 1e-12)


__all__ = ["AutoRgn"]
