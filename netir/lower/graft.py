"""Putting a rewritten network into a module that is already there and in use.

The module object, its submodules of unchanged kind, their hooks and its Parameter objects stay;
what changes are their tensors and attributes, and the forward where the structure did. A `Graft`
is made and checked first; putting it in only assigns, and is undone if anything interrupts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from netir.errors import NetirError
from netir.ir import Graph, Node
from netir.lower.modules import FORMS, Owners, Place
from netir.lower.torch import Lowered, to_torch
from netir.ops.base import Op

_TABLES = ("_parameters", "_buffers", "_modules")
_KEPT = frozenset(vars(nn.Module())) - {"_non_persistent_buffers_set"}
"""What every module has of its own: tables, hooks, mode."""
_HOOKS = ("_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")
"""Where torch keeps what makes a tensor of a module from other tensors of it."""


@dataclass(frozen=True, eq=False)
class Graft:
    """What a module is to become: the new tensor at each path, and modules with new attributes.

    `lowered` is there where the forward changes; `gone` are the paths that nothing reads any more.
    """

    tensors: Mapping[str, Tensor]
    modules: Mapping[str, nn.Module]
    paths: Mapping[str, str]
    lowered: Lowered | None = None
    gone: tuple[str, ...] = ()
    constants: frozenset[str] = frozenset()
    """Paths of what is in no state dict."""


def grafted(before: Graph, after: Graph, paths: Mapping[str, str], whole: bool = False) -> Graft:
    """What turns a module of `before`, with its parameters at `paths`, into one of `after`.

    Where the forward need not change it is left, unless `whole` asks for a new one.
    """
    resized = None if whole else _resized(before, after)
    if resized is not None:
        return Graft(_tensors_at(after, paths), resized, paths)
    lowered = to_torch(after, copy=False)
    found = lowered.netir_origin.paths
    tensors = _tensors_at(after, found)
    modules = {
        path: part for path, part in lowered.named_modules() if path and type(part) is not nn.Module
    }
    old = _tensors_at(before, paths)
    gone = tuple(path for path in old if path not in tensors)
    constants = frozenset(found[n] for n, p in after.params.items() if p.kind == "const")
    parameters = dict(lowered.named_parameters(remove_duplicate=False))
    return Graft({**tensors, **parameters}, modules, found, lowered, gone, constants)


def _resized(before: Graph, after: Graph) -> dict[str, nn.Module] | None:
    """Modules for the attributes that have new sizes; None if the forward mentions any of them."""
    if before.nodes.keys() != after.nodes.keys() or before.outputs != after.outputs:
        return None
    if _roles(before) != _roles(after) or before.aliases != after.aliases:
        return None
    pairs = zip(before.nodes.values(), after.nodes.values(), strict=True)
    changed: list[tuple[Node, bool]] = []
    for old, new in pairs:  # before any module is made, which takes most of the time
        if new is old:
            continue
        told = _called(before, old) != _called(after, new)
        if new.operands != old.operands or (told and new.op.name not in FORMS):
            return None
        changed.append((new, told))
    owners = Owners(after)
    found: dict[str, nn.Module] = {}
    for node, told in changed:
        place = _place(owners, node) if node.op.name in FORMS else None
        if place is not None:
            found[place.path] = place.module
        elif told:
            return None
    return found


def _called(graph: Graph, node: Node) -> Op:
    """The op as the forward calls it, without sizes that it need not mention."""
    return node.op.left_open(*(None if o is None else graph.type_of(o) for o in node.operands))


def _roles(graph: Graph) -> dict[str, tuple[str, bool]]:
    return {name: (param.kind, param.trainable) for name, param in graph.params.items()}


def _place(owners: Owners, node: Node) -> Place | None:
    for path in dict.fromkeys((node.scope, *(n.rpartition(".")[0] for n in node.params))):
        found = owners.place(node, path)
        if found is not None:
            return found
    return None


def _tensors_at(graph: Graph, paths: Mapping[str, str]) -> dict[str, Tensor]:
    found = {path: graph.params[name].data for name, path in paths.items()}
    return found | {alias: graph.params[name].data for alias, name in graph.aliases.items()}


def tensor_at(root: nn.Module, path: str) -> Tensor | None:
    """The parameter or buffer at a path; None if there is none."""
    owner, _, leaf = path.rpartition(".")
    parent = _module_at(root, owner)
    if parent is None:
        return None
    found = parent._parameters.get(leaf)
    return parent._buffers.get(leaf) if found is None else found


def _module_at(root: nn.Module, path: str) -> nn.Module | None:
    current: nn.Module | None = root
    for part in path.split(".") if path else ():
        current = current and current._modules.get(part)
    return current


def check_names(root: nn.Module, graft: Graft) -> None:
    """Refuse a graft whose names the module's class has taken for something else."""
    for path in (*graft.tensors, *graft.modules):
        current: nn.Module | None = root
        for part in path.split("."):
            assert current is not None
            there = any(part in current.__dict__[table] for table in _TABLES)
            if not there:
                _check_free(current, part, path, graft)
                break
            current = current._modules.get(part)
            if current is None:
                break


def _check_free(module: nn.Module, name: str, path: str, graft: Graft) -> None:
    """A tensor that torch computes is let go, unless what it is made of is still in use."""
    if is_parametrized(module, name):  # asking for the tensor would take a step of spectral_norm
        sources = f"{path.removesuffix(name)}parametrizations.{name}."
        free = not any(other.startswith(sources) for other in graft.tensors)
    else:
        free = getattr(module, name, None) is None or isinstance(module.__dict__.get(name), Tensor)
    if not free:
        raise NetirError(
            f"'{name}' is an attribute of {type(module).__name__} already",
            where=path, fix="rename it in the model",
        )  # fmt: skip


def put(root: nn.Module, graft: Graft) -> None:
    """Make a module what the graft says."""
    for path in graft.tensors:
        _unparametrize(root, path)
    for path, module in sorted(graft.modules.items()):
        _put_module(root, path, module)
    done: dict[int, Tensor] = {}
    for path, tensor in graft.tensors.items():
        _put_tensor(root, path, tensor, graft, done)
    for path in graft.gone:
        _remove(root, path, graft.modules)
    for module in root.modules():
        _unhook(module)
    if isinstance(root, Lowered) and graft.lowered is not None:
        root.graph = graft.lowered.graph
    elif graft.lowered is not None:
        root.__dict__["forward"] = MethodType(type(graft.lowered).forward, root)


def _unparametrize(root: nn.Module, path: str) -> None:
    """Take off the parametrization that made a tensor, where there is to be the tensor itself."""
    owner, _, leaf = path.rpartition(".")
    module = _module_at(root, owner)
    if module is None or not is_parametrized(module, leaf):
        return
    kind = type(module)  # copies of the module have the same class, so it stays as it is
    others = module._modules["parametrizations"]
    assert isinstance(others, nn.ModuleDict)
    del others[leaf]
    if others:
        attributes = {name: value for name, value in vars(kind).items() if name != leaf}
        module.__class__ = type(kind.__name__, kind.__bases__, attributes)
    else:
        del module._modules["parametrizations"]
        module.__class__ = kind.__bases__[0]


def _unhook(module: nn.Module) -> None:
    """Take off the hooks of torch that make a tensor that is there now, or from what is gone."""
    there = module._parameters.keys() | module._buffers.keys()
    for hook in tuple(module._forward_pre_hooks.values()):
        made, sources = _made_by(hook)
        if made in there or not all(hasattr(module, name) for name in sources):
            for table in (module.__dict__[name] for name in _HOOKS):
                for key, other in tuple(table.items()):
                    if other is hook or getattr(other, "fn", None) is hook:
                        del table[key]


def _made_by(hook: Any) -> tuple[str, tuple[str, ...]]:
    """The name of the tensor that a hook of torch.nn.utils makes, and of those it makes it from."""
    if isinstance(hook, WeightNorm):
        return hook.name, (f"{hook.name}_g", f"{hook.name}_v")
    if isinstance(hook, SpectralNorm):
        return hook.name, (f"{hook.name}_orig", f"{hook.name}_u", f"{hook.name}_v")
    if isinstance(hook, BasePruningMethod):
        return hook._tensor_name, (f"{hook._tensor_name}_orig", f"{hook._tensor_name}_mask")
    return "", ()


def _put_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """New attributes for a module of the same class; another class takes its place, hooks stay."""
    owner, _, leaf = path.rpartition(".")
    parent = _container(root, owner)
    old = parent._modules.get(leaf)
    if old is None:
        parent.__dict__.pop(leaf, None)
        parent._modules[leaf] = module.train(root.training)
        return
    if type(old) is not type(module):
        hooks = {k: v for k, v in old.__dict__.items() if k in _KEPT and k not in _TABLES}
        module.__dict__.update(hooks)
        for table in ("_parameters", "_buffers"):  # optimizers know the tensors that are there
            known = {n: t for n, t in old.__dict__[table].items() if t is not None}
            own = module.__dict__[table]
            own.update({name: known[name] for name in own.keys() & known})
        parent._modules[leaf] = module
        return
    old.__dict__.update({k: v for k, v in module.__dict__.items() if k not in _KEPT})


def _container(root: nn.Module, path: str) -> nn.Module:
    current = root
    for part in path.split(".") if path else ():
        found = current._modules.get(part)
        if found is None:
            found = current._modules[part] = nn.Module().train(root.training)
        current = found
    return current


def _put_tensor(
    root: nn.Module, path: str, tensor: Tensor, graft: Graft, done: dict[int, Tensor]
) -> None:
    owner, _, leaf = path.rpartition(".")
    parent = _container(root, owner)
    found = parent._parameters.get(leaf)
    old = parent._buffers.get(leaf) if found is None else found
    known = done.get(id(tensor))
    trained = isinstance(tensor, nn.Parameter)  # told only by a graft with a new forward
    another = graft.lowered is not None and isinstance(old, nn.Parameter) != trained
    if old is None or old.is_meta or another:  # meta: in a module that has just been put here
        old = tensor if known is None else known
        _register(parent, leaf, old, path in graft.constants)
    elif known is None:
        set_data(old, tensor.data)
        if trained:
            old.requires_grad_(tensor.requires_grad)
    done[id(tensor)] = old


def _register(parent: nn.Module, leaf: str, tensor: Tensor, temporary: bool) -> None:
    for table in ("_parameters", "_buffers"):
        parent.__dict__[table].pop(leaf, None)
    parent.__dict__.pop(leaf, None)
    if isinstance(tensor, nn.Parameter):
        parent._parameters[leaf] = tensor
        return
    parent._buffers[leaf] = tensor
    if temporary:
        parent._non_persistent_buffers_set = {*parent._non_persistent_buffers_set, leaf}


def set_data(old: Tensor, new: Tensor) -> None:
    """Give a tensor other contents of another shape; what autograd knows of it is forgotten.

    A loss that is still at hand keeps the node that accumulates gradients alive, with the old
    shape. A change of type makes torch let go of it.
    """
    if old.shape == new.shape and old.dtype == new.dtype:
        if old.data_ptr() != new.data_ptr() or old.stride() != new.stride():
            old.data = new
        return
    old.grad = None
    other = torch.float32 if old.dtype != torch.float32 else torch.float64
    old.data = torch.empty(0, dtype=other, device=old.device)
    old.data = new


def _remove(root: nn.Module, path: str, modules: Mapping[str, nn.Module]) -> None:
    """Remove a tensor, and the module that it leaves empty."""
    owner, _, leaf = path.rpartition(".")
    parent = _module_at(root, owner)
    if parent is None:
        return
    parent._parameters.pop(leaf, None)
    parent._buffers.pop(leaf, None)
    while owner and not any(parent.__dict__[table] for table in _TABLES) and owner not in modules:
        path = owner
        owner, _, leaf = path.rpartition(".")
        parent = _module_at(root, owner)
        assert parent is not None
        del parent._modules[leaf]


class Undo:
    """A memory of modules and of their tensors; leaving its block by an error restores them."""

    def __init__(self, roots: Iterable[nn.Module]) -> None:
        modules = {id(m): m for root in roots for m in root.modules()}
        self._modules = [(m, type(m), _copied(m)) for m in modules.values()]
        tables = [m.__dict__[name] for m in modules.values() for name in _HOOKS]
        self._hooks = [(table, dict(table)) for table in tables if table]
        tensors = {id(t): t for m in modules.values() for t in _own(m)}
        self._tensors = [(t, t.data, t.grad, t.requires_grad) for t in tensors.values()]

    def restore(self) -> None:
        """Everything as it was."""
        for table, hooks in self._hooks:
            table.clear()
            table.update(hooks)
        for module, kind, memory in self._modules:
            if type(module) is not kind:
                module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(memory)
            if isinstance(module, fx.GraphModule):
                module.recompile()
        for tensor, data, grad, trained in self._tensors:
            set_data(tensor, data)
            tensor.grad = grad
            tensor.requires_grad_(trained)


def _copied(module: nn.Module) -> dict[str, Any]:
    return module.__dict__ | {table: dict(module.__dict__[table]) for table in _TABLES}


def _own(module: nn.Module) -> Iterator[Tensor]:
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is not None:
            yield tensor


__all__ = ["Graft", "Lowered", "Undo", "check_names", "grafted", "put", "set_data", "tensor_at"]
