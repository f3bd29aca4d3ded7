"""Widen a network, go on training it, prune it, and keep an ordinary module.

Run it with `python examples/widen_and_prune.py`; it takes a few seconds.
"""

import torch
from torch import nn

import netir
from netir import passes
from netir.builtin import BUILTINS


def train(model: nn.Module, steps: int) -> float:
    """Fit random images to random classes; gives the last loss."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 1, 8, 8, generator=generator)
    classes = torch.randint(10, (64,), generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(images), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return float(loss.detach())


def main() -> None:
    model, args = BUILTINS["residual"]()
    print(f"trained:  loss {train(model, 30):.3f}")

    graph = netir.trace(model, args)
    wider = passes.Widen("*", factor=1.5)(graph)
    netir.verify(graph, wider, args)
    module = netir.to_torch(wider)
    print(f"widened:  loss {train(module, 30):.3f}, {netir.cost(wider).parameters:,} parameters")

    graph = netir.trace(module, args)
    thin = passes.Prune("*", amount=0.3, score="l2")(graph)
    netir.verify(graph, thin, args)
    module = netir.to_torch(thin)
    print(f"pruned:   loss {train(module, 30):.3f}, {netir.cost(thin).parameters:,} parameters")


if __name__ == "__main__":
    main()
