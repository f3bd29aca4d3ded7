"""Torch-Pruning, called as its documentation does, and what its own groups promise of the result.

`prune` helps it as far as a careful user would without writing code for one model: layers that
make the output are left alone, attention layers are told their heads, and head sizes that modules
remember are set anew afterwards. `judged` zeroes in the original what its groups say it removed
(masks.py), and compares.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bench.masks import CONVS, Masks
from netir import Graph
from netir.layouts import atoms
from tests.zoo.sample import Sample

QUERIES = {"query", "key", "value", "q", "k", "v", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin",
           "v_lin"}  # fmt: skip
HEADS = ("num_attention_heads", "num_heads", "n_heads")
HEAD_SIZES = ("head_dim", "attention_head_size")
ALL_HEADS = ("all_head_size",)


def example(given: Sample) -> dict[str, Any]:
    """The inputs by name, which it passes on as they are."""
    bound = inspect.signature(given.model.forward).bind(*given.args, **given.kwargs)
    return dict(bound.arguments)


def outputs(out: Any) -> list[Tensor]:
    """The tensors of an output that depend on parameters."""
    return [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor) and t.grad_fn is not None]


def build(model: nn.Module, given: Sample) -> torch_pruning.DependencyGraph:
    """Its analysis: one forward pass and a walk over the autograd graph."""
    return torch_pruning.DependencyGraph().build_dependency(
        model, example(given), output_transform=outputs
    )


def groups(model: nn.Module, given: Sample, ignored: list[str]) -> list[object]:
    """Its analysis, and all groups that follow from it: what netir calls all spaces."""
    layers = [model.get_submodule(name) for name in ignored]
    return list(build(model, given).get_all_groups(ignored_layers=layers))


def pruner(model: nn.Module, given: Sample, ignored: list[str]) -> torch_pruning.BasePruner:
    """Its pruner, which builds the dependency graph and every group."""
    return torch_pruning.BasePruner(
        model,
        example(given),
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.3,
        ignored_layers=[model.get_submodule(name) for name in ignored],
        num_heads=heads(model),
        in_channel_groups={},
        out_channel_groups={},
        output_transform=outputs,
    )


def prune(model: nn.Module, given: Sample, ignored: list[str]) -> nn.Module:
    """Build, and prune 30 % of every group."""
    made = pruner(model, given, ignored)
    made.step()
    return refitted(model, made)


def output_layers(graph: Graph, model: nn.Module) -> list[str]:
    """The modules that make what the network returns, also where their weight is tied."""
    made = {atom for name in graph.outputs for layout in graph.analysis.resolved(name)
            for atom in atoms(layout)}  # fmt: skip
    rows = {name: graph.analysis.resolved(f"@{name}")[:1] for name in graph.params}
    params = {name for name, row in rows.items() if any(made & set(atoms(r)) for r in row)}
    names = [*params, *(alias for alias, name in graph.aliases.items() if name in params)]
    owners = dict.fromkeys(name.rpartition(".")[0] for name in names)
    return [o for o in owners if isinstance(model.get_submodule(o), (nn.Linear, CONVS))]


def heads(model: nn.Module) -> dict[nn.Module, int]:
    """The number of heads of every linear layer that makes queries, keys or values."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            found[module] = module.num_heads
            continue
        size = next((getattr(module, a) for a in HEAD_SIZES if hasattr(module, a)), None)
        count = next((getattr(module, a) for a in HEADS if hasattr(module, a)), None)
        for name, child in module.named_children():
            if name in QUERIES and isinstance(child, nn.Linear):
                number = child.out_features // size if isinstance(size, int) else count
                if isinstance(number, int):
                    found[child] = number
    return found


def refitted(model: nn.Module, made: torch_pruning.BasePruner) -> nn.Module:
    """Set the head sizes that attention modules remember to what is left."""
    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.Linear) and child in made.num_heads:
                size = child.out_features // made.num_heads[child]
                for names, value in ((HEAD_SIZES, size), (ALL_HEADS, child.out_features)):
                    for name in names:
                        if isinstance(getattr(module, name, None), int):
                            setattr(module, name, value)
                break
    return model


def judged(given: Sample, ignored: list[str]) -> tuple[str, float]:
    """Its verdict and the share of parameters that it removed."""
    pruned = copy.deepcopy(given.model)
    made = pruner(pruned, given, ignored)
    masks = Masks(made.DG)
    for group in made.step(interactive=True):
        masks.follow(group)
        group.prune()
    refitted(pruned, made)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (given.model, pruned))
    with torch.no_grad():
        have = _run(pruned, given)
        want = _run(masks.applied(given.model), given)
    share = 1 - after / before
    if not masks.left:
        return "changes nothing", share
    if [t.shape for t in have] != [t.shape for t in want]:
        return "wrong output shape", share
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(have, want, strict=True))
    tied = "" if _ties(pruned) == _ties(given.model) else ", weights no longer tied"
    return ("equal" if error < 1e-6 else f"differs by {error:.1g}") + tied, share


def _ties(model: nn.Module) -> int:
    """How many parameters are there under a second name."""
    return len(list(model.named_parameters(remove_duplicate=False))) - len(list(model.parameters()))


def _run(model: nn.Module, given: Sample) -> list[Tensor]:
    """The outputs in float64."""
    def wide(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    args, kwargs = pytree.tree_map(wide, (given.args, given.kwargs))
    out = copy.deepcopy(model).double().eval()(*args, **kwargs)
    return [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor) and t.is_floating_point()]
