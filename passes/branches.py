"""PruneBranches: residual blocks become what they added to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import hypot, isfinite, prod, sqrt
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor

from netir.basis import Contract
from netir.calibration import Calibration, needed
from netir.edit import Edit
from netir.errors import NetirError, nearest
from netir.ir import Graph, Node
from netir.passes.compensation.constants import Constant, constants
from netir.passes.compensation.consumers import summing
from netir.rewrite import EditPass, Left, Site
from netir.where import chosen_nodes

BranchScore = Literal["l2", "random", "residual"]
SCORES: tuple[str, ...] = get_args(BranchScore)
_NORMS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm")


@dataclass(frozen=True)
class Branch:
    """A sum `x + f(x)`: the node that adds, and what it adds. `inside` are the nodes of f."""

    node: Node
    x: str
    f: str
    inside: frozenset[str]


@dataclass(frozen=True)
class PruneBranches(EditPass):
    """Remove residual branches: `x + f(x)` becomes `x`, and what only f needed goes.

    Of the branches that `where` selects by the node or the module that adds, the share `amount`
    goes, or as many as `count` says, those of lowest score first:

    - `l2`: the root mean square of the last weights of f, taken over its results: the rows of a
      linear layer or convolution, the scale of a norm, times a scale behind them.
    - `residual`: the mean over data of |f(x)| / |x| (Veit, Wilber, Belongie 2016 show that blocks
      where it is small can go).
    - `random`, by `seed`.

    A branch that gives zero for every input, as one whose last norm has scale and shift zero, is
    removed exactly. A branch that holds others is removed only if `where` names it.
    """

    name: ClassVar[str] = "prune-branches"
    preserves: ClassVar[Contract] = Contract.CHANGED
    amount: float = 0.25
    count: int | None = None
    score: BranchScore = "l2"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.amount <= 1:
            raise NetirError(
                f"prune-branches cannot remove {self.amount} of the branches",
                fix="use an amount above 0, up to 1",
            )
        if self.count is not None and self.count < 1:
            raise NetirError(f"prune-branches cannot remove {self.count} branches", fix="use 1 up")
        if self.score not in SCORES:
            raise NetirError(f"there is no score '{self.score}'", fix=nearest(self.score, SCORES))

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        every, named = branches(graph), not any(c in self.where for c in "*?")
        found: list[Branch] = []
        for name, node in chosen_nodes(graph, self.where).items():
            branch = every.get(name)
            if branch is None:
                if _adds(node):
                    yield Left(name, "neither of what it adds leads to the other")
            elif not named and not branch.inside.isdisjoint(every):
                yield Left(name, "other branches are inside; name it to remove it whole")
            else:
                found.append(branch)
        if not found:
            yield Left(self.where, "no residual branch ends there")
            return
        yield from self._lowest(graph, found, calibration)

    def _lowest(
        self, graph: Graph, found: list[Branch], calibration: Calibration | None
    ) -> Iterator[Site | Left]:
        """The branches that go, in the order in which they run, and why the others stay."""
        scores = self._scores(graph, found, calibration)
        usable = [b for b in found if isfinite(scores[b.node.name])]
        wanted = round(self.amount * len(found)) if self.count is None else self.count
        if wanted > len(found):
            raise NetirError(
                f"prune-branches cannot remove {wanted} branches", where=self.where,
                fix=f"there are {len(found)}",
            )  # fmt: skip
        ranked = sorted(usable, key=lambda branch: scores[branch.node.name])
        going = {branch.node.name for branch in ranked[:wanted]}
        known, stands = constants(graph) if going else {}, dict[str, str]()
        for branch in found:
            name = branch.node.name
            if name in going:
                stands[name] = stands.get(branch.x, branch.x)
                contract = Contract.EXACT if _zero(known.get(branch.f)) else Contract.CHANGED
                yield Site(name, stands[name], contract)
            elif branch in usable:
                fewer = f"{self.amount} of {len(found)} branches is less than one"
                yield Left(name, "branches of lower score go first" if wanted else fewer)
            else:
                yield Left(name, "its score is not finite")

    def _scores(
        self, graph: Graph, found: list[Branch], calibration: Calibration | None
    ) -> Mapping[str, float]:
        names = [branch.node.name for branch in found]
        if self.score == "random":
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.rand(len(names), generator=generator)
            return dict(zip(names, drawn.tolist(), strict=True))
        if self.score == "l2":
            return {branch.node.name: _strength(graph, branch.f, {}) for branch in found}
        return _shares(graph, found, needed(calibration, "the score 'residual'"))

    def rewrite(self, edit: Edit, site: Site) -> None:
        edit.replace(site.name, site.found)
        edit.sweep()


def branches(graph: Graph) -> dict[str, Branch]:
    """Every sum `x + f(x)` of a graph, by the node that adds."""
    place = {name: i for i, node in enumerate(graph.nodes.values()) for name in node.results}
    found: dict[str, Branch] = {}
    for name, node in graph.nodes.items():
        if not _adds(node):
            continue
        kinds = {graph.types[v] for v in node.values} | {node.types[0]}
        first, second = node.values
        for x, f in ((first, second), (second, first)):
            if len(kinds) > 1 or (x == second and node.op.alpha != 1):  # type: ignore[attr-defined]
                continue
            inside = _between(graph, x, f, place)
            if inside:
                found[name] = Branch(node, x, f, inside)
    return found


def _adds(node: Node) -> bool:
    return node.op.name == "add" and len(node.values) == len(node.operands) == 2


def _between(graph: Graph, x: str, f: str, place: Mapping[str, int]) -> frozenset[str]:
    """The nodes behind x that f is made of; none if x is not among what it is made of."""
    start, reached = place.get(x, -1), False
    pending, seen = [f], set[str]()
    while pending:
        value = pending.pop()
        reached = reached or value == x
        node = graph.producers.get(value)
        if node is None or place[value] <= start or node.name in seen:
            continue
        seen.add(node.name)
        pending.extend(node.values)
    return frozenset(seen) if reached else frozenset()


def _zero(constant: Constant | None) -> bool:
    return constant is not None and bool((constant.known & (constant.value == 0)).all())


def _strength(graph: Graph, value: str, known: dict[str, float]) -> float:
    """The root mean square, over results, of the last weights that make a value."""
    factor, last = 1.0, value
    while last not in known:
        node = graph.producers.get(last)
        if node is None or not node.values:
            known[last] = 1.0
        elif _adds(node):
            known[last] = hypot(*(_strength(graph, v, known) for v in node.values))
        elif (found := _own_strength(graph, node)) is not None:
            known[last] = found
        else:
            factor, last = factor * _scale(graph, node), node.values[0]
    return factor * known[last]


def _own_strength(graph: Graph, node: Node) -> float | None:
    """The same of the weights of one node: a row of a product, or the scale of a norm."""
    consumer = summing(graph, node)
    if consumer is not None:
        weight = graph.params[consumer.weight].data
        groups, _, _, outputs = consumer.matrix(weight).shape
        return float(weight.double().norm()) / sqrt(groups * outputs)
    if node.op.name not in _NORMS:
        return None
    scale = (*node.operands, None)[1]
    return 1.0 if scale is None or scale[0] != "@" else _rms(graph.params[scale[1:]].data)


def _scale(graph: Graph, node: Node) -> float:
    """By how much a node that multiplies with a parameter or a number changes sizes."""
    if node.op.name != "mul":
        return 1.0
    other = cast(Any, node.op).other
    number = abs(float(other)) if isinstance(other, int | float) else 1.0
    return number * prod(_rms(graph.params[p].data) for p in node.params)


def _rms(data: Tensor) -> float:
    return float(data.double().norm()) / sqrt(max(1, data.numel()))


def _shares(
    graph: Graph, found: list[Branch], calibration: Calibration
) -> Mapping[str, float]:
    """For each branch the mean over samples of |f(x)| / |x|."""
    shares: dict[str, list[Tensor]] = {b.node.name: [] for b in found}
    for values in calibration.values(graph, {v for b in found for v in (b.x, b.f)}):
        for branch in found:
            x, f = (values[v].double() for v in (branch.x, branch.f))
            norms = [t.reshape(len(t), -1).norm(dim=1) for t in (f, x)]
            shares[branch.node.name].append(norms[0] / norms[1])
    return {name: float(torch.cat(every).mean()) for name, every in shares.items()}


__all__ = ["SCORES", "Branch", "PruneBranches", "branches"]
