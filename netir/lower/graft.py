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

from netir.errors import NetirError
from netir.ir import Graph, Node
from netir.lower.modules import FORMS, Owners, Place
from netir.lower.torch import Lowered, to_torch
from netir.ops.base import Op

_TABLES = ("_parameters", "_buffers", "_modules")
_KEPT = frozenset(vars(nn.Module())) - {"_non_persistent_buffers_set"}
"""What every module has of its own: tables, hooks, mode."""


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
                if getattr(current, part, None) is not None and not isinstance(
                    current.__dict__.get(part), Tensor
                ):
                    raise NetirError(
                        f"'{part}' is an attribute of {type(current).__name__} already",
                        where=path, fix="rename it in the model",
                    )  # fmt: skip
                break
            current = current._modules.get(part)
            if current is None:
                break


def put(root: nn.Module, graft: Graft) -> None:
    """Make a module what the graft says."""
    for path, module in sorted(graft.modules.items()):
        _put_module(root, path, module)
    done: dict[int, Tensor] = {}
    for path, tensor in graft.tensors.items():
        _put_tensor(root, path, tensor, graft, done)
    for path in graft.gone:
        _remove(root, path, graft.modules)
    if isinstance(root, Lowered) and graft.lowered is not None:
        root.graph = graft.lowered.graph
    elif graft.lowered is not None:
        root.__dict__["forward"] = MethodType(type(graft.lowered).forward, root)


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
        self._modules = [(m, _copied(m)) for m in modules.values()]
        tensors = {id(t): t for m in modules.values() for t in _own(m)}
        self._tensors = [(t, t.data, t.grad, t.requires_grad) for t in tensors.values()]

    def restore(self) -> None:
        """Everything as it was."""
        for module, memory in self._modules:
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
