"""Moving a layer's parameters from one group to another: to fewer symmetries, or to more.

A group's parameters are rows of its dense filter, so the parameters for a subgroup are more rows of
the same filter: exact, bit for bit. The other way keeps the mean of all entries that the larger
group makes equal: the nearest filter that has its symmetries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from netir.kernels.groups import cosets, group
from netir.kernels.lattice import Step
from netir.kernels.plan import Plan


def relaxed(parameter: Tensor, of: str, to: str, ambient: str, lifting: bool = False) -> Tensor:
    """The parameters of a layer equivariant to `of`, as those of one equivariant to `to`."""
    step = _step(parameter, of, to, ambient, lifting)
    made = step.forward(parameter.reshape(-1, parameter.shape[-1]))
    return made.reshape(-1, *parameter.shape[1:])


def constrained(parameter: Tensor, of: str, to: str, ambient: str, lifting: bool = False) -> Tensor:
    """The parameters of the nearest layer that is equivariant to `to`, which contains `of`."""
    if not group(to).exact:
        raise ValueError(f"{to} moves pixels between pixels: no filter has its symmetry exactly")
    step = _step(parameter, to, of, ambient, lifting)
    readers = group(to).order // group(of).order
    made = step.backward(parameter.reshape(-1, parameter.shape[-1])) / readers
    return made.reshape(-1, *parameter.shape[1:])


def relaxed_bias(bias: Tensor, of: str, to: str, ambient: str) -> Tensor:
    """A bias [cosets, fields] for a subgroup."""
    whole, part = cosets(group(of), group(ambient)), cosets(group(to), group(ambient))
    return bias[torch.tensor([whole.coset[a] for a in part.representatives], device=bias.device)]


def constrained_bias(bias: Tensor, of: str, to: str, ambient: str) -> Tensor:
    """The mean bias over the cosets that become one."""
    whole, part = cosets(group(to), group(ambient)), cosets(group(of), group(ambient))
    owner = torch.tensor([whole.coset[a] for a in part.representatives], device=bias.device)
    made = bias.new_zeros(len(whole.representatives), *bias.shape[1:])
    return made.index_add(0, owner, bias) * (len(made) / len(bias))


def _step(parameter: Tensor, large: str, small: str, ambient: str, lifting: bool) -> Step:
    """The gather from the parameters of a group to those of an exact subgroup."""
    if not group(small) <= group(large):
        raise ValueError(f"{small} is no subgroup of {large}")
    if small != large and not group(small).exact:
        raise ValueError(f"{small} moves pixels between pixels: {large} has no such part")
    names = (large, small) if large != small else (large,)
    plan = Plan(names, parameter.shape[2], lifting, ambient)
    tables = plan.tables(parameter.device)
    cosets_ = [plan.elements // order for order in plan.orders]
    into = 1 if large != small else 0
    return Step((tables.table, tables.weights), 0, into, cosets_, parameter.shape[1], plan.size)
