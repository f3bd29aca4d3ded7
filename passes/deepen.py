"""Deepen: more layers, the same function; and whole cells with a pool, which start warm."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple, get_args

from netir.basis import Contract
from netir.calibration import Calibration
from netir.edit import Edit
from netir.errors import NetirError, nearest
from netir.ir import Graph, Node, TensorType
from netir.ops.arithmetic import Add
from netir.ops.base import Op
from netir.ops.pointwise import Relu
from netir.ops.pool import AvgPool, MaxPool
from netir.passes.layers.activations import IDEMPOTENT, activates
from netir.passes.layers.insert import (
    Place,
    Places,
    Statistics,
    identity,
    kaiming,
    measured,
    put,
    put_layer,
    put_norm,
    unit,
)
from netir.passes.layers.pooling import Resize, adapt, resized
from netir.passes.layers.runs import apart
from netir.rewrite import EditPass, Left, Site
from netir.where import chosen_nodes

Kind = Literal["layer", "residual", "cell"]
Pool = Literal["avg", "max", "random"]
_PATHS: Mapping[str, str] = MappingProxyType(
    {"layer": "deep", "residual": "branch", "cell": "cell"}
)
"""The kinds, and what the modules of each are called."""
_ONLY: Mapping[str, str] = MappingProxyType(
    {"ratio": "residual", "pool": "cell", "exact": "cell"}
)
"""Options that belong to one kind."""
_CONTRACTS: Mapping[tuple[str, bool], Contract] = MappingProxyType(
    {
        ("layer", False): Contract.EXACT,
        ("layer", True): Contract.EXACT_EVAL,
        ("residual", False): Contract.EXACT,
        ("residual", True): Contract.EXACT,
    }
)
"""What each kind keeps, without and with a norm; a cell keeps nothing."""


class Plan(NamedTuple):
    """What goes to a place."""

    place: Place
    number: int
    statistics: Statistics | None = None
    pool: Op | None = None
    resize: Resize | None = None


@dataclass(frozen=True)
class Deepen(EditPass):
    """Insert layers after activations (Net2DeeperNet: Chen, Goodfellow, Shlens 2016).

    `kind="layer"`: a dense layer or convolution that is the identity, with `norm` a batch norm
    that is the identity, and the same activation again. Exact where φ(φ(x)) = φ(x), as with ReLU;
    other activations are left. `kind="residual"`: x + W2 φ(W1 x) with W2 = 0 and W1 drawn anew
    (He et al. 2015), `ratio` times as wide: exact everywhere. `kind="cell"`: convolution, pool of
    2, batch norm, activation (ECToNAS: Schiessler et al. 2024). It changes the function; the first
    dense layer behind it follows by the mean, or for a max pool the largest, of each block of
    weights, or with `exact` by their sum, which is right where blocks are constant.

    Layers go after the activations that `where` selects, or if it names other places, there; of
    these after every `every`-th, and after the first `count` if that is not 0. Convolutions have
    `kernel` taps and `groups` groups, 0 for one for each channel. A norm is the identity in eval
    mode; on calibration data it takes their statistics, and is so on that batch in train mode too.
    `seed` matters to what is drawn: W1, and a `pool` that is "random".
    """

    name: ClassVar[str] = "deepen"
    preserves: ClassVar[Contract] = Contract.CHANGED
    kind: Kind = "layer"
    norm: bool = False
    bias: bool = True
    kernel: int = 3
    groups: int = 1
    ratio: float = 1.0
    pool: Pool = "avg"
    exact: bool = False
    every: int = 1
    count: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in _PATHS:
            raise NetirError(
                f"deepen has no kind '{self.kind}'", fix=nearest(self.kind, _PATHS)
            )
        if self.pool not in get_args(Pool):
            raise NetirError(f"deepen has no pool '{self.pool}'", fix="use avg, max or random")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise NetirError(
                f"a kernel of {self.kernel} has no centre", fix="use an odd kernel: 1, 3, 5"
            )
        if not 0 < self.ratio < float("inf"):
            raise NetirError(f"deepen cannot use ratio {self.ratio}", fix="use a positive number")
        for option, least in (("groups", 0), ("every", 1), ("count", 0)):
            if getattr(self, option) < least:
                raise NetirError(
                    f"deepen cannot use {option}={getattr(self, option)}",
                    fix=f"use {least} or more",
                )
        for option, kind in _ONLY.items():
            if getattr(self, option) != getattr(Deepen, option) and self.kind != kind:
                raise NetirError(
                    f"{option} means nothing to kind='{self.kind}'", fix=f"use kind='{kind}'"
                )

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        places = Places(graph, _PATHS[self.kind])
        found: list[Plan] = []
        for node in self._candidates(graph):
            plan = self._plan(graph, places.after(node), len(found))
            if isinstance(plan, Plan):
                found.append(plan)
            else:
                yield Left(node.name, plan)
        chosen = found[:: self.every][: self.count or None]
        if self.kind == "cell":
            chosen, left = apart(chosen, _touched)
            yield from left
        plans = [plan._replace(place=places.named(plan.place)) for plan in chosen]
        statistics = self._statistics(graph, plans, calibration)
        contract = _CONTRACTS.get((self.kind, self.norm), Contract.CHANGED)
        for plan in plans:
            name, found_here = plan.place.node.name, statistics.get(plan.place.value)
            if found_here and not all(bool(t.isfinite().all()) for t in found_here):
                yield Left(name, "its values on the calibration data are not finite")
            else:
                yield Site(name, plan._replace(statistics=found_here), contract)

    def _candidates(self, graph: Graph) -> list[Node]:
        """The activations that `where` selects; if it names other places, those."""
        chosen = list(chosen_nodes(graph, self.where).values())
        active = [node for node in chosen if activates(node)]
        return active if active or self.where == "*" else chosen

    def _refused(self, place: Place) -> str:
        """Why this kind of layer cannot go to a place; empty if it can."""
        op = place.node.op.name
        if self.kind == "layer" and op not in IDEMPOTENT:
            does = "applied twice is not itself" if activates(place.node) else "is no activation"
            return f"{op} {does}, so only kind='residual' is exact here"
        if self.norm and place.axis != 1:
            return "a batch norm reads channels on axis 1 only"
        if self.kind == "cell" and not place.spatial:
            return "a pool needs a map, channels first"
        if self.groups != 1 and not place.spatial:
            return "a dense layer has no groups"
        if self.groups and place.channels % self.groups:
            return f"{self.groups} groups do not divide {place.channels} channels"
        return ""

    def _plan(self, graph: Graph, place: Place | str, number: int) -> Plan | str:
        """What goes to a place, or why nothing can."""
        why = place if isinstance(place, str) else self._refused(place)
        if why or isinstance(place, str):
            return why
        if self.kind != "cell":
            return Plan(place, number)
        pool = self._pool(place, number)
        kind = pool.infer(place.type)
        assert isinstance(kind, TensorType)
        small = any(isinstance(size, int) and size < 2 for size in place.type.shape[2:])
        resize = "a side of its map is 1" if small else resized(graph, place.value, kind)
        return resize if isinstance(resize, str) else Plan(place, number, None, pool, resize)

    def _pool(self, place: Place, number: int) -> Op:
        """A pool that halves every side, rounding up."""
        which: str = self.pool
        if which == "random":
            which = random.Random(f"{self.seed} {number}").choice(("avg", "max"))
        form = AvgPool if which == "avg" else MaxPool
        sides = (2,) * place.spatial
        return form(rank=place.spatial, kernel_size=sides, stride=sides, ceil_mode=True)

    def _statistics(
        self, graph: Graph, plans: list[Plan], calibration: Calibration | None
    ) -> Mapping[str, Statistics]:
        """Of each value behind which a norm has to be the identity, if there is data."""
        normed = self.kind == "cell" or (self.kind == "layer" and self.norm)
        if calibration is None or not normed:
            return {}
        places = {plan.place.value: plan.place for plan in plans}
        pools = {plan.place.value: plan.pool for plan in plans if plan.pool is not None}
        return measured(graph, calibration, places, pools)

    def rewrite(self, edit: Edit, site: Site) -> None:
        plan: Plan = site.found
        if self.kind == "residual":
            self._put_branch(edit, plan)
        elif self.kind == "layer":
            self._put_layer(edit, plan)
        else:
            self._put_cell(edit, plan)

    def _put_layer(self, edit: Edit, plan: Plan) -> None:
        place = plan.place
        value = first = self._put_identity(edit, place, "layer")
        if self.norm:
            value = put_norm(edit, place, value, plan.statistics or unit(place.channels))
        value = put(edit, place, "again", place.node.op, [value])
        edit.replace(place.value, value, but=[first])

    def _put_identity(self, edit: Edit, place: Place, part: str) -> str:
        groups = self.groups or place.channels
        weight = place.weight(place.channels, place.channels // groups, self.kernel)
        weight = identity(weight, groups)
        return put_layer(edit, place, part, place.value, weight, groups, self.bias)

    def _put_branch(self, edit: Edit, plan: Plan) -> None:
        place = plan.place
        groups = self.groups or place.channels
        width = max(1, round(self.ratio * place.channels / groups)) * groups
        first = kaiming(
            place.weight(width, place.channels // groups, self.kernel), self.seed + plan.number
        )
        value = enter = put_layer(edit, place, "first", place.value, first, groups, self.bias)
        if self.norm:
            value = put_norm(edit, place, value, unit(width))
        bend = place.node.op if _plain(place.node) else Relu()
        value = put(edit, place, "act", bend, [value], f"{place.path}.act")
        second = place.weight(place.channels, width // groups, self.kernel)
        value = put_layer(edit, place, "second", value, second, groups, self.bias)
        value = put(edit, place, "sum", Add(), [place.value, value])
        edit.replace(place.value, value, but=[enter, value])

    def _put_cell(self, edit: Edit, plan: Plan) -> None:
        place, pool, resize = plan.place, plan.pool, plan.resize
        assert pool is not None
        assert resize is not None
        readers = edit.before.users.get(place.value, ())
        value = self._put_identity(edit, place, "conv")
        value = put(edit, place, "pool", pool, [value], f"{place.path}.pool")
        value = put_norm(edit, place, value, plan.statistics or unit(place.channels))
        bend = place.node.op if _plain(place.node) else Relu()
        value = put(edit, place, "act", bend, [value], f"{place.path}.act")
        for node in dict.fromkeys(node for node, _ in readers):
            operands = [value if o == place.value else o for o in node.operands]
            edit.set_operands(node.name, operands)
        adapt(edit, resize, "sum" if self.exact else "mean" if isinstance(pool, AvgPool) else "max")


def _plain(node: Node) -> bool:
    """Whether a node is an activation without parameters."""
    return activates(node) and len(node.operands) == 1


def _touched(plan: Plan) -> tuple[str, set[str]]:
    """The name of a cell, and the nodes whose maps it changes."""
    assert plan.resize is not None
    name = plan.place.node.name
    return name, {name, *plan.resize.touched}


__all__ = ["Deepen"]
