"""The state of a module: every tensor once, under its first name, and the other names it has."""

from __future__ import annotations

from torch import Tensor, nn

from netir.ir import Param


def tied_state(model: nn.Module) -> tuple[dict[str, Param], dict[str, str]]:
    """Parameters and buffers in the order of the state dict, and aliases of tied ones."""
    params: dict[str, Param] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    persistent = set(model.state_dict(keep_vars=True))
    for name, tensor, kind in _tensors(model, persistent):
        key = _identity(tensor)
        if key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        params[name] = Param(tensor.detach(), kind, tensor.requires_grad)  # type: ignore[arg-type]
    return params, aliases


def _tensors(model: nn.Module, persistent: set[str]) -> list[tuple[str, Tensor, str]]:
    found: dict[str, tuple[Tensor, str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found[name] = (parameter, "param")
    for name, buffer in model.named_buffers(remove_duplicate=False):
        found[name] = (buffer, "buffer" if name in persistent else "const")
    order = [n for n in model.state_dict(keep_vars=True) if n in found]
    order += [n for n in found if n not in persistent]
    return [(name, *found[name]) for name in order]


def _identity(tensor: Tensor) -> tuple[object, ...]:
    """Equal for tensors that are the same memory seen the same way."""
    if tensor.numel() == 0 or tensor.is_meta:
        return (id(tensor),)
    return (
        tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.dtype,
        tuple(tensor.shape), tensor.stride(),
    )  # fmt: skip
