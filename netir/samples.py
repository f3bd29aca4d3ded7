"""Random inputs for a graph: for proofs and timings where nobody gave data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from netir.dims import evaluate, symbols
from netir.errors import NetirError
from netir.ir import Graph, TensorType, map_tree


def random_arguments(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Any]:
    """Arguments for a graph: normal floats, and integers that are 0 or 1."""
    known = {"batch": 2, **sizes}
    generator = torch.Generator().manual_seed(seed)
    return {
        name: map_tree(tree, lambda leaf: random_tensor(graph.inputs[leaf.name], known, generator))
        for name, tree in graph.arguments.items()
    }


def random_tensor(
    kind: TensorType, sizes: Mapping[str, int], generator: torch.Generator | None = None
) -> Tensor:
    """A random tensor of a type."""
    missing = sorted({s for d in kind.shape for s in symbols(d)} - set(sizes))
    if missing:
        raise NetirError(
            f"the size '{missing[0]}' has no number",
            fix=f"add {' '.join(f'--size {name}=…' for name in missing)}",
        )
    shape = [int(evaluate(d, sizes)) for d in kind.shape]
    if kind.dtype.is_floating_point or kind.dtype.is_complex:
        return torch.randn(shape, generator=generator).to(kind.dtype)
    return torch.randint(0, 2, shape, generator=generator).to(kind.dtype)


__all__ = ["random_arguments", "random_tensor"]
