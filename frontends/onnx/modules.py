"""Which parameters make up a layer, and their names: a layer's own stand at one path.

Exporters keep a model's names, or write their own (`onnx::Conv_512`, `val_12`). Where a layer
reads parameters that nothing else reads, they are called `<path>.weight` and so on, so that the
lowered network has real `nn.Conv2d` and `nn.Linear` modules.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace

import torch

from netir.frontends.onnx import names
from netir.ir import Graph, Node, Param, renamed
from netir.lower.modules import FORMS
from netir.ops.norm import BatchNorm
from netir.ops.recurrent import _Recurrent

_PROPER = re.compile(r"\.(running_mean|running_var|\w*(weight|bias)\w*)$")
_BUFFERS = frozenset({"running_mean", "running_var"})


def with_modules(graph: Graph, kept: Container[str] = ()) -> Graph:
    """The same graph, each parameter under its name in the state dict.

    `kept` are the parameters that have the names of the file; those with the name of a module's
    parameter stay so.
    """
    naming = _Naming(graph, kept)
    for node in graph.nodes.values():
        naming.place(node)
    found = naming.settled()

    def named(operand: str) -> str:
        return f"@{found[operand[1:]]}" if operand[0] == "@" else operand

    params = {found[name]: p for name, p in naming.params.items()}
    for path in naming.counted:
        params[f"{path}.num_batches_tracked"] = Param(torch.tensor(0), "buffer", False)
    nodes = {
        name: replace(node, operands=tuple(o and named(o) for o in node.operands))
        for name, node in graph.nodes.items()
    }
    return graph.replace(nodes=nodes, params=params, output=renamed(graph.output, named))


class _Naming:
    """Names while they are given."""

    def __init__(self, graph: Graph, kept: Container[str]) -> None:
        self._kept = kept
        self.params = dict(graph.params)
        self.counted: list[str] = []
        self._given: dict[str, str] = {}
        self._paths: set[str] = set()
        self._owned = Counter(name.rpartition(".")[0] for name in graph.params)
        self._readers: dict[str, set[tuple[str | None, ...]]] = {}
        for node in graph.nodes.values():
            for name in node.params:
                self._readers.setdefault(name, set()).add((node.op.name, *_own(node)))

    def place(self, node: Node) -> None:
        """Name what a layer alone reads."""
        leaves = dict(_leaves(node))
        for leaf, name in leaves.items():
            self._kind(name, leaf)
        alone = all(len(self._readers[name]) == 1 for name in leaves.values())
        if not leaves or not alone or any(name in self._given for name in leaves.values()):
            return
        path = self._path(node, leaves)
        for leaf, name in leaves.items():
            self._given[name] = name if self._proper(name) else f"{path}.{leaf}"
        self._paths.add(path)
        if isinstance(node.op, BatchNorm) and "running_mean" in leaves:
            self.counted.append(path)

    def _proper(self, name: str) -> bool:
        """Whether the file has the name, and a module of torch could have it."""
        return name in self._kept and _PROPER.search(name) is not None

    def _kind(self, name: str, leaf: str) -> None:
        """A layer's weights are trained; running statistics are not."""
        param = self.params[name]
        if not param.data.is_floating_point():
            return
        steady = leaf in _BUFFERS
        self.params[name] = Param(param.data, "buffer" if steady else "param", not steady)

    def _path(self, node: Node, leaves: Mapping[str, str]) -> str:
        """The path that the parameters' names tell, or the node's, or one by its op."""
        told = [
            name.rpartition(".")[0]
            for leaf, name in leaves.items()
            if self._proper(name) and name.endswith(f".{leaf}")
        ]
        wanted = (told[0] if told else "") or node.scope or node.op.name
        own = Counter(name.rpartition(".")[0] for name in leaves.values())
        found, number = wanted, 1
        while found in self._paths or self._owned[found] > own[found]:
            number += 1
            found = f"{wanted}_{number}"
        return found

    def settled(self) -> dict[str, str]:
        """A name for every parameter, none of them the path of another."""
        found: dict[str, str] = {}
        taken = set(self._given.values())
        taken |= {path for name in (*taken, *self.params) for path in _above(name)}
        for name in self.params:
            found[name] = self._given.get(name) or names.free(name, taken)
            taken.add(found[name])
        return found


def _own(node: Node) -> tuple[str | None, ...]:
    return tuple(o if o and o[0] == "@" else None for o in node.operands)


def _above(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _leaves(node: Node) -> Iterator[tuple[str, str]]:
    """What a module of this kind calls each parameter that the node reads."""
    form = FORMS.get(node.op.name)
    if form is not None:
        yield from form.named(node).items()
    elif isinstance(node.op, _Recurrent):
        slots = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if node.op.has_biases else 2]
        first = 1 + node.op.states
        for number in range(node.op.directions):
            side = "_reverse" if number else ""
            for i, slot in enumerate(slots):
                operand = node.operands[first + number * len(slots) + i]
                if operand is not None and operand[0] == "@":
                    yield f"{slot}_l0{side}", operand[1:]
