"""Scores that look at the weights of an index by themselves, and chance."""

from __future__ import annotations

import torch
from torch import Tensor

from netir.ir import Graph
from netir.passes.scores.evidence import Evidence
from netir.passes.scores.members import per_row
from netir.spaces import Member, Space


def random(space: Space, evidence: Evidence) -> Tensor:
    """Chance, for comparison."""
    return torch.rand(space.size, generator=evidence.generator)


def l1(space: Space, evidence: Evidence) -> Tensor:
    """The sum of the absolute weights of an index (Li et al. 2017)."""
    return _powers(space, evidence, 1)


def l2(space: Space, evidence: Evidence) -> Tensor:
    """The Euclidean norm of the weights of an index."""
    return _powers(space, evidence, 2).sqrt_()


def lamp(space: Space, evidence: Evidence) -> Tensor:
    """The squared norm as a share of those at least as large (Lee et al. 2021).

    The largest index of every space has 1, so that scores of different spaces compare: use it
    with `scope="global"` and `normalise="none"`.
    """
    squares = _powers(space, evidence, 2)
    order = squares.argsort(stable=True)
    rest = squares[order].flip(0).cumsum(0).flip(0)
    return torch.empty_like(squares).index_copy(0, order, squares[order] / rest.clamp(min=1e-300))


def bn(space: Space, evidence: Evidence) -> Tensor | str:
    """The absolute scales that normalisations give an index (Liu et al. 2017)."""
    graph = evidence.graph
    scales = [member for member in space.members if _scales(graph, member)]
    if not scales:
        return "no normalisation scales it; another score can tell"

    def sizes(member: Member) -> Tensor:
        return per_row(graph.params[member.param].data.detach().double().abs(), member.axis)

    return evidence.gathered(space, scales, sizes)


def _scales(graph: Graph, member: Member) -> bool:
    """Whether a parameter scales the first operand of a node, which it leaves alone if it is 1."""
    reads = graph.users.get(f"@{member.param}", ())
    return graph.params[member.param].kind == "param" and any(
        position > 0 and node.op.fills.get(position) == 1.0 for node, position in reads
    )


def _powers(space: Space, evidence: Evidence, power: int) -> Tensor:
    """By index, the sum of powers of all its weights."""
    params = evidence.graph.params
    return evidence.sums(space, lambda m: _rows(params[m.param].data.detach(), m.axis, power))


def _rows(data: Tensor, axis: int, power: int) -> Tensor:
    others = [d for d in range(data.dim()) if d != axis]
    wide = data if data.dtype in (torch.float32, torch.float64) else data.float()
    if not others:
        return (wide.abs() if power == 1 else wide.square()).double()
    norm: Tensor = torch.linalg.vector_norm(wide, power, others)
    return (norm if power == 1 else norm.square()).double()


__all__ = ["bn", "l1", "l2", "lamp", "random"]
