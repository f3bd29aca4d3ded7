"""Which of torch's operators a module calls."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class _Called(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operators(module: nn.Module, args: tuple[Any, ...]) -> Counter[str]:
    """How often a forward pass without gradients calls each operator."""
    with torch.no_grad(), _Called() as called:
        module(*args)
    return called.found
