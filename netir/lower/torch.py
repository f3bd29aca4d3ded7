"""A graph as a PyTorch module.

The forward is written by running each op's `to_torch` on stand-ins (writer.py), so that an op's
meaning has one source. Modules stand at their original paths (modules.py), other parameters on
plain containers, all under the names of the state dict.
"""

from __future__ import annotations

import copy as copying
import keyword
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from netir.errors import NetirError
from netir.ir import Graph, Param, expect_graph
from netir.lower.modules import Owners, places
from netir.lower.origin import Origin
from netir.lower.writer import Writer


class Lowered(fx.GraphModule):
    """A module that netir made out of a graph; `netir_origin` remembers which."""

    netir_origin: Origin

    def __deepcopy__(self, memo: dict[int, Any]) -> Lowered:
        result = _blank(type(self).__name__)
        memo[id(self)] = result
        kept = {k: v for k, v in self.__dict__.items() if k not in _GENERATED}
        result.__dict__.update(copying.deepcopy(kept, memo))
        result.graph = copying.deepcopy(self.graph, memo)
        return result

    def __copy__(self) -> Lowered:
        result = _blank(type(self).__name__)
        result.__dict__.update({k: v for k, v in self.__dict__.items() if k not in _GENERATED})
        for part in ("_parameters", "_buffers", "_modules"):
            result.__dict__[part] = dict(self.__dict__[part])
        result.graph = copying.copy(self.graph)
        return result


_GENERATED = frozenset({"_graph", "_code", "_lineno_map", "_prologue_start"})


def to_torch(graph: Graph, *, copy: bool = True) -> Lowered:
    """The graph as an ordinary module, in eval mode, with the original state-dict keys.

    Its parameters are copies. With `copy=False` they share memory with the graph, so that
    training the module changes the graph.
    """
    expect_graph(graph)
    owners = Owners(graph)
    placed = places(graph, owners)
    writer = Writer(graph, placed, owners)
    module = _blank(class_name(graph.name))
    modules = {place.path: place.module for place in placed.values()}
    paths = _fill(module, graph, modules, copy)
    for path, modal in writer.modules.items():
        _attach(module, path, modal)
    module.graph = writer.write(paths)
    module.eval()
    module.netir_origin = Origin.of(graph, module, paths)
    return module


def class_name(name: str) -> str:
    """A valid class name that looks like `name`."""
    found = re.sub(r"\W", "_", name, flags=re.ASCII) or "Network"
    return f"_{found}" if found[0].isdigit() or keyword.iskeyword(found) else found


def _blank(name: str) -> Lowered:
    return Lowered(nn.Module(), fx.Graph(), name)


def _fill(
    root: nn.Module, graph: Graph, modules: Mapping[str, nn.Module], copy: bool
) -> dict[str, str]:
    """Put all tensors where their names say; gives the path of each parameter of the graph."""
    made: dict[str, Tensor] = {}
    paths: dict[str, str] = {}
    state = [(n, n) for n, p in graph.params.items() if p.kind != "const"]
    for path, name in (*state, *graph.aliases.items()):
        if name not in made:
            made[name] = _tensor(graph.params[name], copy)
        _register(root, path, made[name], modules, persistent=graph.params[name].kind != "const")
        paths.setdefault(name, path)
    for name, param in graph.params.items():
        if param.kind == "const":
            paths[name] = _register_constant(root, name, _tensor(param, copy))
    return paths


def _tensor(param: Param, copy: bool) -> Tensor:
    data = param.data.detach()
    data = data.clone() if copy else data
    return nn.Parameter(data, param.trainable) if param.kind == "param" else data


def _register(
    root: nn.Module, path: str, tensor: Tensor, modules: Mapping[str, nn.Module], persistent: bool
) -> None:
    owner, _, leaf = path.rpartition(".")
    parent = _reach(root, owner, modules)
    if leaf in parent._parameters:
        parent._parameters[leaf] = tensor  # type: ignore[assignment]
    elif leaf in parent._buffers:
        parent._buffers[leaf] = tensor
    elif isinstance(tensor, nn.Parameter):
        parent.register_parameter(checked(leaf, parent), tensor)
    else:
        parent.register_buffer(checked(leaf, parent), tensor, persistent=persistent)


def _register_constant(root: nn.Module, name: str, tensor: Tensor) -> str:
    """Constants give way: one whose name is taken, or would be no attribute, gets another."""
    *owners, leaf = name.split(".")
    parent: nn.Module | None = root
    for part in owners:
        parent = _container(parent, part)
    if parent is None or not leaf.isidentifier() or hasattr(parent, leaf):
        parent, owners, leaf = root, [], re.sub(r"\W", "_", name, flags=re.ASCII)
        while hasattr(root, leaf) or not leaf.isidentifier():
            leaf = f"_{leaf}"
    parent.register_buffer(leaf, tensor, persistent=False)
    return ".".join((*owners, leaf))


def _container(parent: nn.Module | None, name: str) -> nn.Module | None:
    """The plain container of this name, made where nothing has the name; None if it cannot be."""
    if parent is None or (type(parent) is not nn.Module and not isinstance(parent, Lowered)):
        return None
    if name not in parent._modules:
        if hasattr(parent, name) or not name.isidentifier():
            return None
        parent.add_module(name, nn.Module())
    return parent._modules[name]


def _reach(root: nn.Module, path: str, modules: Mapping[str, nn.Module]) -> nn.Module:
    """The module at a path; what is missing on the way is made."""
    current, walked = root, ""
    for part in path.split(".") if path else ():
        walked = f"{walked}.{part}" if walked else part
        found = current._modules.get(part)
        if found is None:
            found = modules.get(walked) or nn.Module()
            current.add_module(checked(part, current), found)
        current = found
    return current


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, leaf = path.rpartition(".")
    _reach(root, owner, {}).add_module(leaf, module)


def checked(name: str, owner: nn.Module) -> str:
    """A name that can be an attribute of a module, or an error."""
    if not name or not name.isprintable() or set(name) & set("\"'\\{}") or hasattr(owner, name):
        raise NetirError(
            f"'{name}' cannot be the name of a parameter or module here",
            fix="rename it in the model: torch.fx modules have an attribute of this name, "
            "or it has characters that cannot be written",
        )
    return name

