"""What Torch-Pruning removed, as its own groups say, zeroed in the original: its oracle."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional as F

CONVS = nn.modules.conv._ConvNd
ONE_SIDED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm1d,
             nn.InstanceNorm2d, nn.PReLU)  # fmt: skip


class Masks:
    """Which original channels of which layers are gone, by the groups that were pruned."""

    def __init__(self, graph: torch_pruning.DependencyGraph) -> None:
        self.graph = graph
        self.left: dict[tuple[str, str], Tensor] = {}
        self.dims: dict[str, int] = {}

    def follow(self, group: Any) -> None:
        """Note a group, whose indices count what is left at this time."""
        for dep, indices in group:
            module = dep.target.module
            owner = dep.handler.__self__
            names = self.graph._param_to_name if isinstance(module, nn.Parameter) \
                else self.graph._module2name  # fmt: skip
            name = names.get(module)
            if name is None or owner is None or not hasattr(owner, "get_out_channels"):
                continue
            if isinstance(module, nn.Parameter):
                self.dims[name] = dep.target.pruning_dim
                owner.pruning_dim = dep.target.pruning_dim
            read = self.graph.is_in_channel_pruning_fn(dep.handler) and \
                owner.prune_in_channels != owner.prune_out_channels  # fmt: skip
            size = owner.get_in_channels(module) if read else owner.get_out_channels(module)
            if size is None:
                continue
            key = (name, "in" if read else "out")
            left = self.left.get(key, torch.arange(size))
            keep = torch.ones(len(left), dtype=torch.bool)
            known = [int(i) for i in indices if int(i) < len(left)]  # it refuses others itself
            keep[torch.tensor(known, dtype=torch.int64)] = False
            self.left[key] = left[keep]

    @torch.no_grad()
    def applied(self, model: nn.Module) -> nn.Module:
        """A copy of the original with all of that zeroed; layer norms run over what is left."""
        model = _untied(copy.deepcopy(model))
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for (name, side), left in self.left.items():
            name = name.split(" ")[0]
            if name in parameters:
                _zero(parameters[name], self.dims[name], left)
                continue
            module = model.get_submodule(name)
            if _restrictable(module, left):
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, PartialNorm(module, left))
            else:
                _mask(module, side, left)
        return model


class PartialNorm(nn.Module):
    """Layer or group norm over some of the channels, zero elsewhere."""

    def __init__(self, norm: nn.LayerNorm | nn.GroupNorm, left: Tensor) -> None:
        super().__init__()
        self.norm, self.left = norm, left
        self.first = getattr(norm, "data_format", "") == "channels_first"  # ConvNeXt's own class

    def forward(self, x: Tensor) -> Tensor:
        norm, left = self.norm, self.left
        last = isinstance(norm, nn.LayerNorm) and not self.first
        dim = -1 if last else 1
        weight, bias = (None if t is None else t[left] for t in (norm.weight, norm.bias))
        some = x.index_select(dim, left)
        if isinstance(norm, nn.LayerNorm):
            some = F.layer_norm(some.movedim(dim, -1), (len(left),), weight, bias, norm.eps)
            some = some.movedim(-1, dim)
        else:
            some = F.group_norm(some, norm.num_groups, weight, bias, norm.eps)
        return torch.zeros_like(x).index_copy(dim, left, some)


def _untied(model: nn.Module) -> nn.Module:
    """Every module with tensors of its own: a tie that pruning broke is masked on each side."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach().clone())
    return model


def _restrictable(module: nn.Module, left: Tensor) -> bool:
    """Whether a norm over what is left has the groups that it had."""
    if isinstance(module, nn.GroupNorm):
        owner = left // (module.num_channels // module.num_groups)
        return len(set(torch.bincount(owner, minlength=module.num_groups).tolist())) == 1
    return isinstance(module, nn.LayerNorm)


def _mask(module: nn.Module, side: str, left: Tensor) -> None:
    match module:
        case nn.MultiheadAttention():
            size = module.embed_dim
            thrice = torch.cat([left + size * part for part in range(3)])
            _zero(module.in_proj_weight, 0, thrice)
            _zero(module.in_proj_bias, 0, thrice)
            _zero(module.in_proj_weight, 1, left)
            _mask(module.out_proj, "in", left)
            _mask(module.out_proj, "out", left)
        case nn.Linear() | CONVS() if side == "out":
            transposed = isinstance(module, CONVS) and module.transposed
            _zero(module.weight, int(transposed and module.groups == 1), left)
            _zero(module.bias, 0, left)
        case CONVS(groups=groups) if groups > 1:
            rows, columns = len(module.weight) // groups, module.weight.shape[1]
            for group in range(groups):
                own = left[left // columns == group] % columns
                _zero(module.weight[group * rows : (group + 1) * rows], 1, own)
        case nn.Linear() | CONVS():
            _zero(module.weight, int(not getattr(module, "transposed", False)), left)
        case nn.Embedding():
            _zero(module.weight, 1, left)
        case _ if isinstance(module, ONE_SIDED):
            _zero(getattr(module, "weight", None), 0, left)
            _zero(getattr(module, "bias", None), 0, left)


def _zero(tensor: Tensor | None, dim: int, left: Tensor) -> None:
    if tensor is not None:
        gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
        gone[left] = False
        tensor.index_fill_(dim, gone.nonzero().flatten(), 0.0)
