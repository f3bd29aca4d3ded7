"""Fold: the same function with less to compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import ClassVar

from netir.basis import Contract
from netir.calibration import Calibration
from netir.edit import Edit
from netir.errors import NetirError, nearest
from netir.ir import Graph
from netir.moves import Moves
from netir.passes.folding.affine import norms, norms_before, scales
from netir.passes.folding.constants import constants
from netir.passes.folding.rules import Change, Rule
from netir.passes.folding.simple import common, dead, identities
from netir.rewrite import EditPass, Left, Result, Site, weakest
from netir.where import chosen_nodes

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "identities": identities,
        "common": common,
        "constants": constants,
        "dead": dead,
        "norm": norms,
        "norm-before": norms_before,
        "scale": scales,
    }
)
"""What can be folded, in the order in which it is."""


@dataclass(frozen=True)
class Fold(EditPass):
    """Make the network smaller without changing what it computes.

    `what` is "all" or some of these, separated by blanks:

    - `norm`: batch norm into the linear or convolution layer that makes what it reads,
      W' = γ W / √(v + ε), b' = γ (b - μ) / √(v + ε) + β (Jacob et al. 2018). In eval mode only.
    - `norm-before`: batch norm into the layers that read what it gives; a convolution that pads
      with zeros is refused, since no shift stands on its padding. In eval mode only.
    - `scale`: a product or sum with a number, or with one parameter for each channel, into the
      weight and bias of the layer before it or of the layers behind it.
    - `constants`: what only buffers, constants and numbers decide is computed once; with `freeze`
      also what is made from trained parameters, which are then no longer trained.
    - `identities`: what gives back what it reads, such as `x * 1` or two transposes.
    - `common`: what is computed once already.
    - `dead`: what nothing reads.

    Everything but the norms is exact in train mode too. Rules are applied until none finds more.
    """

    name: ClassVar[str] = "fold"
    preserves: ClassVar[Contract] = Contract.EXACT_EVAL
    what: str = "all"
    freeze: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.what.split() or [""]:
            if name != "all" and name not in RULES:
                raise NetirError(f"fold has no rule '{name}'", fix=nearest(name, ["all", *RULES]))

    def rules(self) -> dict[str, Rule]:
        """The rules that are asked for."""
        wanted = set(RULES) if "all" in self.what.split() else set(self.what.split())
        found = {name: rule for name, rule in RULES.items() if name in wanted}
        if "constants" in found:
            found["constants"] = partial(constants, freeze=self.freeze)
        return found

    def sites(self, graph: Graph, calibration: Calibration | None) -> Iterator[Site | Left]:
        """What the rules find at first; folding it may make room for more."""
        chosen = chosen_nodes(graph, self.where)
        seen: set[str] = set()
        for name, rule in self.rules().items():
            for site in _apart(rule(graph, chosen)):
                if site.name not in seen and (isinstance(site, Site) or self._tells(name)):
                    yield site
                seen |= {site.name} if isinstance(site, Site) else set()

    def rewrite(self, edit: Edit, site: Site) -> None:
        change: Change = site.found
        change.make(edit)

    def apply(self, graph: Graph, calibration: Calibration | None = None) -> Result:
        """Apply rule after rule until none of them finds anything more."""
        allowed, rules = chosen_nodes(graph, self.where), self.rules()
        current, moves = graph, Moves()
        changed: list[Site] = []
        left: dict[str, list[Left]] = {}
        waiting = list(rules)
        while waiting:
            name = waiting.pop(0)
            chosen = {n: node for n, node in current.nodes.items() if n in allowed}
            found = list(_apart(rules[name](current, chosen)))
            left[name] = [s for s in found if isinstance(s, Left) and self._tells(name)]
            sites = [site for site in found if isinstance(site, Site)]
            if sites:
                current, moves = self._round(current, moves, sites)
                changed += sites
                waiting += [other for other in rules if other not in waiting]
        if not changed:
            return self.unchanged(graph, self._found(graph, calibration)[1])
        skipped = {s.name: s.why for each in left.values() for s in each}
        contract = weakest(site.contract or self.preserves for site in changed)
        names = dict.fromkeys(site.name for site in changed)
        return self.finished(graph, current, moves, contract, names, skipped.items())

    def _round(self, graph: Graph, moves: Moves, sites: list[Site]) -> tuple[Graph, Moves]:
        """The graph with some sites folded and without what that made needless."""
        with graph.edit() as edit:
            for site in sites:
                self.rewrite(edit, site)
            edit.sweep()
        return edit.graph, moves.then(edit.moves)

    def _tells(self, rule: str) -> bool:
        """Whether to report what a rule leaves: most scales are not meant to be folded."""
        return rule != "scale" or not any(c in self.where for c in "*?")


def _apart(found: Iterator[Site | Left]) -> Iterator[Site | Left]:
    """The sites that do not touch what an earlier one touches, and all that is left as it is."""
    touched: set[str] = set()
    for site in found:
        if isinstance(site, Site):
            touches = site.found.touches
            if touched & touches:
                continue
            touched |= touches
        yield site
