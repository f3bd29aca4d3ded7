"""A graph as a readable Python file that needs nothing but PyTorch, with its weights beside it.

The file is written from the lowered module (torch.py), so that it computes the same, call by call.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from netir.errors import NetirError
from netir.files import expect_replaceable, replacing
from netir.ir import Graph
from netir.lower.forward import Forward, Records, is_list, reach
from netir.lower.source import constructor, identifier, literal, quoted, wrapped
from netir.lower.torch import Lowered, class_name, to_torch

_FIRST = "# Written by netir."
_SMALL = 64
"""Constants with at most so many elements are written into the source."""


def to_python(graph: Graph, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write `path` (a .py file) and a .safetensors file of the same name.

    The file defines the network's class and `load()`, which gives it with its weights, in eval
    mode. Files that netir wrote are replaced; others only with `overwrite=True`.
    """
    target = Path(path)
    if target.suffix != ".py":
        raise NetirError(f"'{target}' is not the name of a Python file", fix="end it in .py")
    weights = target.with_suffix(".safetensors")
    for file_ in (target, weights):
        expect_replaceable(file_)
    if not overwrite:
        _expect_ours(target, weights)
    module = to_torch(graph, copy=False)
    text = source(graph, module, weights.name)
    compile(text, str(target), "exec", dont_inherit=True)
    tensors = {n: p.data for n, p in graph.params.items() if p.kind != "const"}
    tensors |= {f"constants/{i}": tensor for i, tensor in enumerate(_large(module).values())}
    plain = torch.contiguous_format
    own = {name: tensor.clone(memory_format=plain) for name, tensor in tensors.items()}
    with replacing(weights) as draft:
        save_file(own, draft)
    with replacing(target) as draft:
        draft.write_text(text, encoding="utf-8")


def _expect_ours(target: Path, weights: Path) -> None:
    ours = False
    if target.is_file():
        with target.open(encoding="utf-8", errors="replace") as file:
            ours = file.readline().startswith(_FIRST)
    for file_ in (target, weights):
        if file_.exists() and not ours:
            raise NetirError(
                f"'{file_}' exists, and netir did not write it",
                fix="choose another name, or pass overwrite=True",
            )


def source(graph: Graph, module: Lowered, weights: str) -> str:
    """The text of the file."""
    name = class_name(graph.name)
    records = Records(graph.output, taken={name, "Group", "F", "Any", "NamedTuple"})
    forward = Forward(module, records).lines()
    members = list(_members(module))
    lines = [
        f"{_FIRST} The weights are in {quoted(weights)}, beside this file.",
        *_imports(bool(records.names)),
        *(_GROUP.splitlines() if any("Group({" in line for line in members) else ()),
        *records.lines(),
        f"class {name}(nn.Module):",
        f'    """The network {name}; `load()` gives it with its weights."""',
        "",
        "    def __init__(self) -> None:",
        "        super().__init__()",
        *members,
        "",
        *forward,
        "",
        "",
        *_loader(name, weights, graph),
    ]
    return "\n".join(map(wrapped, lines)) + "\n"


def _imports(named: bool) -> list[str]:
    return [
        "",
        "from pathlib import Path",
        f"from typing import {'Any, NamedTuple' if named else 'Any'}",
        "",
        "import torch",
        "import torch.nn.functional as F",
        "from torch import Tensor, nn",
        "",
        "",
    ]


_GROUP = """class Group(nn.Module):
    \"\"\"Modules, parameters and buffers under one name.\"\"\"

    def __init__(self, members: dict[str, Any]) -> None:
        super().__init__()
        for name, member in members.items():
            if isinstance(member, nn.Module):
                self.add_module(name, member)
            elif isinstance(member, nn.Parameter):
                self.register_parameter(name, member)
            else:
                self.register_buffer(name, member)


"""


def _loader(name: str, weights: str, graph: Graph) -> Iterator[str]:
    yield from (
        "def weights() -> dict[str, Tensor]:",
        '    """The tensors in the file of weights."""',
        "    from safetensors.torch import load_file",
        "",
        f"    return load_file(Path(__file__).with_name({quoted(weights)}))",
        "",
        "",
        f"def load() -> {name}:",
        '    """The network with its weights, in eval mode."""',
        f"    model = {name}()",
        '    state = {k: v for k, v in weights().items() if not k.startswith("constants/")}',
    )
    for alias, target in graph.aliases.items():
        if graph.params[target].kind != "const":
            yield f"    state[{quoted(alias)}] = state[{quoted(target)}]"
    yield "    model.load_state_dict(state, strict=True)"
    yield "    return model.eval()"


def _members(module: Lowered) -> Iterator[str]:
    """The statements that make all modules and tensors."""
    large = {path: f"constants/{number}" for number, path in enumerate(_large(module))}
    if large:
        yield "        constants = weights()"
    for name, tensor in _own(module):
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
        yield f"        self.register_{kind}({quoted(name)}, {_fresh(tensor)})"
    for name, child in module.named_children():
        plain = identifier(name)
        head = f"self.{name} = " if plain else f"self.add_module({quoted(name)}, "
        yield from _nested(head, child, "" if plain else ")", "        ")
    first: dict[int, str] = {}
    for path, tensor in _tensors(module):
        place = reach(module, path)
        if id(tensor) in first:
            yield f"        {place} = {first[id(tensor)]}"
        elif isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
            yield f"        {place}.requires_grad_(False)"
        first.setdefault(id(tensor), place)
    for path, tensor in _constants(module):
        owner, _, leaf = path.rpartition(".")
        value = f"constants[{quoted(large[path])}]" if path in large else _written(tensor)
        where = reach(module, owner)
        yield f"        {where}.register_buffer({quoted(leaf)}, {value}, persistent=False)"


def _nested(head: str, module: nn.Module, tail: str, indent: str) -> Iterator[str]:
    """The lines that make a module and all that is in it."""
    if type(module) is not nn.Module:
        yield f"{indent}{head}{constructor(module)}{tail}"
        return
    own, children = list(_own(module)), list(module.named_children())
    listed = is_list(module)
    if not own and not children:
        yield f"{indent}{head}{'nn.ModuleList([])' if listed else 'Group({})'}{tail}"
        return
    yield f"{indent}{head}{'nn.ModuleList([' if listed else 'Group({'}"
    for name, tensor in own:
        yield f"{indent}    {quoted(name)}: {_fresh(tensor)},"
    for name, child in children:
        yield from _nested("" if listed else f"{quoted(name)}: ", child, ",", f"{indent}    ")
    yield f"{indent}{'])' if listed else '})'}{tail}"


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers that stand directly in a container and are in the state dict."""
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and name not in module._non_persistent_buffers_set:
            yield name, tensor


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    constants = {path for path, _ in _constants(module)}
    for path, buffer in module.named_buffers(remove_duplicate=False):
        if path not in constants:
            yield path, buffer


def _constants(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that are in no state dict."""
    for path, part in module.named_modules(remove_duplicate=False):
        for name in sorted(part._non_persistent_buffers_set & part._buffers.keys()):
            tensor = part._buffers[name]
            if tensor is not None:
                yield (f"{path}.{name}" if path else name), tensor


def _large(module: nn.Module) -> dict[str, Tensor]:
    """The constants that stand in the file of weights, by their paths."""
    plain = (torch.float32, torch.int64, torch.bool)
    found = _constants(module)
    return {path: t for path, t in found if t.numel() > _SMALL or t.dtype not in plain}


def _fresh(tensor: Tensor) -> str:
    dtype = "" if tensor.dtype == torch.float32 else f", dtype={literal(tensor.dtype)}"
    made = f"torch.zeros({literal(tuple(tensor.shape))}{dtype})"
    if not isinstance(tensor, nn.Parameter):
        return made
    floating = tensor.is_floating_point() or tensor.is_complex()
    return f"nn.Parameter({made})" if floating else f"nn.Parameter({made}, requires_grad=False)"


def _written(tensor: Tensor) -> str:
    if tensor.numel() == 0:
        return f"torch.empty({literal(tuple(tensor.shape))}, dtype={literal(tensor.dtype)})"
    return f"torch.tensor({literal(tensor.tolist())}, dtype={literal(tensor.dtype)})"
