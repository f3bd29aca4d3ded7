"""Networks whose group convolutions all get their filters in one launch, before the first runs.

`with_bank(model)` is all that there is to do. It pays on a GPU, for deep layers on small maps; on a
processor it makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from netir.kernels.bank import FilterBank, Remembered
from netir.kernels.expand import filter_dtype, transformed
from netir.kernels.group_calls import Dense, coefficients_of, group_bias, recording
from netir.kernels.layers import MixedGroupConv2d

M = TypeVar("M", bound=nn.Module)
Kind = tuple[torch.dtype, torch.device]
Parts = tuple[list[Tensor], list[Tensor], Tensor | None, Tensor | None]
"""A layer's weights, biases, logits and norms."""


def with_bank(model: M) -> M:
    """Let a network make the filters of all its group convolutions at once; gives the network.

    Each call of it makes them anew, or in eval mode without gradients takes those of the last
    call, until a parameter changes. Its state dict stays as it is, copies of it do the same, and
    layers may be changed, added and taken away. One thread at a time may run it. Layers that are
    called by themselves, and what is compiled, traced or exported, make their own filters as
    before. Not for activation checkpointing, which runs parts of a network again when its filters
    are gone.
    """
    if not list(_banks(model)):
        bank = _Bank()
        model.register_forward_pre_hook(bank.before)
        model.register_forward_hook(bank.after, always_call=True)
    return model


def without_bank(model: M) -> M:
    """Let every layer of a network make its own filter again; gives the network."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key in [key for key, hook in hooks.items() if _owner(hook)]:
            del hooks[key]
            model._forward_hooks_always_called.pop(key, None)
    return model


class _Bank:
    """Makes filters when a network is called, hands them to its layers, and takes them back."""

    def __init__(self) -> None:
        self._kept: dict[Kind, Remembered[list[Dense]]] = {}
        self._given: list[MixedGroupConv2d] = []

    def before(self, model: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling() or recording() or transformed():
            return
        self._take_back()
        kinds: dict[Kind, list[tuple[MixedGroupConv2d, Parts]]] = {}
        for layer in model.modules():
            if isinstance(layer, MixedGroupConv2d) and layer.made is None:
                parts = layer.parts()
                for first in parts[0][:1]:  # a layer that a rewrite replaced has no weights left
                    kinds.setdefault((first.dtype, first.device), []).append((layer, parts))
        kept = self._kept = {kind: self._kept.get(kind, Remembered()) for kind in kinds}
        for kind, layers in kinds.items():
            sources = [t for _, p in layers for t in (*p[0], *p[1], *p[2:]) if t is not None]
            key = tuple(layer.plan for layer, _ in layers), filter_dtype(sources[0])
            found = kept[kind](sources, lambda: _made(layers), key)  # noqa: B023
            for (layer, _), made in zip(layers, found, strict=True):
                layer.made = made
        self._given = [layer for layers in kinds.values() for layer, _ in layers]

    def after(self, model: nn.Module, inputs: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            self._take_back()

    def _take_back(self) -> None:
        for layer in self._given:
            layer.made = None
        self._given = []

    before.exact = after.exact = True  # type: ignore[attr-defined]  # the function stays the same

    def __deepcopy__(self, memo: Any) -> _Bank:
        return _Bank()

    def __reduce__(self) -> Any:
        return _Bank, ()


def _made(layers: list[tuple[MixedGroupConv2d, Parts]]) -> list[Dense]:
    """The filters of some layers, in one launch, and their biases."""
    plans, parts = [layer.plan for layer, _ in layers], [own for _, own in layers]
    weights = [own[0] for own in parts]
    mixes = [coefficients_of(own, logits, norms) for own, _, logits, norms in parts]
    given = [own[0].new_ones(len(own)) if mix is None else mix
             for own, mix in zip(weights, mixes, strict=True)]  # fmt: skip
    tables = [layer.placed(own[0][0].device) for layer, own in layers]
    filters = FilterBank(plans)(weights, given, tables)
    biases = [group_bias(own, logits, plan, its) for plan, its, (_, own, logits, _)
              in zip(plans, tables, parts, strict=True)]  # fmt: skip
    return list(zip(filters, biases, strict=True))


def _owner(hook: Any) -> _Bank | None:
    """The bank whose hook this is, if it is one's."""
    owner = getattr(hook, "__self__", None)
    return owner if isinstance(owner, _Bank) else None


def _banks(model: nn.Module) -> Iterator[_Bank]:
    yield from filter(None, map(_owner, model._forward_pre_hooks.values()))


__all__ = ["with_bank", "without_bank"]
