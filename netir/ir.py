"""The graph: data and queries. Nothing here changes a graph (edit.py) or knows a concrete op."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Union

import torch
from torch import Tensor

from netir.dims import Dim, symbols
from netir.errors import NetirError, nearest

if TYPE_CHECKING:
    import networkx

    from netir.edit import Edit
    from netir.moves import Moves
    from netir.ops.base import Op
    from netir.spaces import Analysis, Space

Kind = Literal["param", "buffer", "const"]


@dataclass(frozen=True)
class TensorType:
    """What is known of a tensor before it exists: element type and shape."""

    dtype: torch.dtype
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def __str__(self) -> str:
        return f"{DTYPE_NAMES[self.dtype]}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, eq=False)
class Param:
    """A tensor that belongs to the graph: a trained parameter, a buffer, or a constant.

    A `const` is in no state dict: a tensor that the model's code made, or a buffer that is not
    persistent.
    """

    data: Tensor
    kind: Kind = "param"
    trainable: bool = True

    @cached_property
    def type(self) -> TensorType:
        return TensorType(self.data.dtype, tuple(self.data.shape))


@dataclass(frozen=True)
class Node:
    """One operation: an op, what it reads, and what it gives.

    An operand is the name of a value, `@` and the name of a parameter, or None where an optional
    operand is left out. The value of a node with one result bears the node's name, the values of
    a node with several are `name.0`, `name.1` and so on. `scope` is the path of the module that
    the node came from. `in_place` tells that the model wrote the result over the first operand,
    which changes no value; a lowered module may do so too (lower/overwrite.py).
    """

    name: str
    op: Op
    operands: tuple[str | None, ...]
    types: tuple[TensorType, ...]
    scope: str = ""
    in_place: bool = False

    @cached_property
    def results(self) -> tuple[str, ...]:
        if len(self.types) == 1:
            return (self.name,)
        return tuple(f"{self.name}.{i}" for i in range(len(self.types)))

    @property
    def values(self) -> tuple[str, ...]:
        """The names of the values that it reads."""
        return tuple(o for o in self.operands if o is not None and o[0] != "@")

    @property
    def params(self) -> tuple[str, ...]:
        """The names of the parameters that it reads."""
        return tuple(o[1:] for o in self.operands if o is not None and o[0] == "@")


@dataclass(frozen=True)
class Ref:
    """A leaf of an input or output structure: the operand that stands there."""

    name: str


@dataclass(frozen=True)
class Record:
    """A dataclass-like part of an input or output structure.

    `make` rebuilds it where the class is at hand; a graph read from a file has none, and gives a
    dict instead.
    """

    type_name: str
    fields: Mapping[str, Tree]
    make: Callable[..., Any] | None = field(default=None, compare=False)


Tree = Union[  # noqa: UP007 - names itself
    Ref, Record, tuple["Tree", ...], list["Tree"], dict[str, "Tree"], int, float, str, None
]


def leaves(tree: Tree) -> Iterator[Ref]:
    """The leaves of a structure, in order."""
    match tree:
        case Ref():
            yield tree
        case Record(fields=parts):
            for part in parts.values():
                yield from leaves(part)
        case dict():
            for part in tree.values():
                yield from leaves(part)
        case tuple() | list():
            for part in tree:
                yield from leaves(part)


def expect_graph(thing: Any) -> None:
    """Refuse what is no graph, as a module that has not been traced."""
    if not isinstance(thing, Graph):
        raise NetirError(
            f"this takes a graph, not {type(thing).__name__}",
            fix="netir.trace(model, args) makes one of a module, netir.load(path) of a file",
        )


def map_tree(tree: Tree, function: Callable[[Ref], Any]) -> Any:
    """The same structure with every leaf replaced; records are made where their class is known."""
    match tree:
        case Ref():
            return function(tree)
        case Record(fields=parts, make=make):
            fields = {name: map_tree(part, function) for name, part in parts.items()}
            return make(**fields) if make else fields
        case dict():
            return {name: map_tree(part, function) for name, part in tree.items()}
        case tuple():
            return tuple(map_tree(part, function) for part in tree)
        case list():
            return [map_tree(part, function) for part in tree]
    return tree


def renamed(tree: Tree, name: Callable[[str], str]) -> Tree:
    """The same structure with every leaf naming another operand; records keep how they are made."""
    match tree:
        case Ref():
            return Ref(name(tree.name))
        case Record(type_name, parts, make):
            return Record(type_name, {k: renamed(p, name) for k, p in parts.items()}, make)
        case dict():
            return {k: renamed(p, name) for k, p in tree.items()}
        case tuple():
            return tuple(renamed(p, name) for p in tree)
        case list():
            return [renamed(p, name) for p in tree]
    return tree


@dataclass(frozen=True)
class Step:
    """One pass that a graph has been through: its text and the contract that it kept."""

    text: str
    contract: str
    moves: Moves | None = field(default=None, compare=False, repr=False)
    """Where tensors went; known as long as the graph has not been written to a file."""


@dataclass(frozen=True, eq=False)
class Graph:
    """A network as a value: no method changes it, and graphs share what they have in common.

    `arguments` gives the structure of each argument of the call, `output` that of what it
    returns; `aliases` are further names of tied parameters.
    """

    name: str
    inputs: Mapping[str, TensorType]
    nodes: Mapping[str, Node]
    params: Mapping[str, Param]
    output: Tree
    arguments: Mapping[str, Tree]
    aliases: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Step, ...] = ()

    @cached_property
    def types(self) -> Mapping[str, TensorType]:
        """The type of every value."""
        found = dict(self.inputs)
        for node in self.nodes.values():
            found.update(zip(node.results, node.types, strict=True))
        return MappingProxyType(found)

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that makes each value; inputs have none."""
        return MappingProxyType({r: node for node in self.nodes.values() for r in node.results})

    @cached_property
    def users(self) -> Mapping[str, tuple[tuple[Node, int], ...]]:
        """For every operand that is read: the nodes that read it, and where."""
        found: dict[str, list[tuple[Node, int]]] = {}
        for node in self.nodes.values():
            for position, operand in enumerate(node.operands):
                if operand is not None:
                    found.setdefault(operand, []).append((node, position))
        return MappingProxyType({name: tuple(uses) for name, uses in found.items()})

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The operands that the graph returns, in order."""
        return tuple(leaf.name for leaf in leaves(self.output))

    @cached_property
    def symbols(self) -> frozenset[str]:
        """The names of the sizes that are open until the network runs."""
        return frozenset().union(*(symbols(d) for t in self.inputs.values() for d in t.shape))

    @cached_property
    def analysis(self) -> Analysis:
        """The layout of every axis; made once for each graph."""
        from netir.spaces import analyse

        return analyse(self)

    def spaces(self) -> list[Space]:
        """Every channel space: a set of axes that must change together."""
        return list(self.analysis.spaces)

    def type_of(self, operand: str) -> TensorType:
        """The type of a value or of an `@parameter`."""
        return self.params[operand[1:]].type if operand[0] == "@" else self.types[operand]

    def node(self, name: str) -> Node:
        """The node called `name`."""
        try:
            return self.nodes[name]
        except KeyError:
            raise NetirError(f"there is no node '{name}'", fix=nearest(name, self.nodes)) from None

    def param(self, name: str) -> Param:
        """The parameter called `name`, also by an alias."""
        try:
            return self.params[self.aliases.get(name, name)]
        except KeyError:
            known = [*self.params, *self.aliases]
            raise NetirError(f"there is no parameter '{name}'", fix=nearest(name, known)) from None

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers under the names of the model's state dict."""
        state = {n: p.data for n, p in self.params.items() if p.kind != "const"}
        state |= {alias: self.params[name].data for alias, name in self.aliases.items()}
        return state

    def to_networkx(self) -> networkx.MultiDiGraph:
        """Inputs, parameters, nodes and outputs as a networkx graph, for its algorithms."""
        import networkx

        result = networkx.MultiDiGraph(name=self.name)
        result.add_nodes_from((name, {"type": t}) for name, t in self.inputs.items())
        result.add_nodes_from((f"@{name}", {"type": p.type}) for name, p in self.params.items())
        for node in self.nodes.values():
            result.add_node(node.name, op=node.op.name, scope=node.scope, types=node.types)
            for position, operand in enumerate(node.operands):
                if operand is not None:
                    maker = self.producers.get(operand)
                    source = maker.name if maker else operand
                    result.add_edge(source, node.name, operand=position, value=operand)
        return result

    def edit(self) -> Edit:
        """Change a copy: `with graph.edit() as edit: ...`, then `edit.graph`."""
        from netir.edit import Edit

        return Edit(self)

    def replace(self, **changes: Any) -> Graph:
        """The same graph with some parts exchanged; unchecked, for edit.py and frontends."""
        return replace(self, **changes)

    def __str__(self) -> str:
        from netir.text import print_graph

        return print_graph(self)

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self.nodes)} nodes, {len(self.params)} parameters>"


DTYPE_NAMES: Mapping[torch.dtype, str] = MappingProxyType(
    {
        torch.float64: "f64",
        torch.float32: "f32",
        torch.float16: "f16",
        torch.bfloat16: "bf16",
        torch.float8_e4m3fn: "f8e4m3",
        torch.float8_e5m2: "f8e5m2",
        torch.complex64: "c64",
        torch.complex128: "c128",
        torch.int64: "i64",
        torch.int32: "i32",
        torch.int16: "i16",
        torch.int8: "i8",
        torch.uint8: "u8",
        torch.uint16: "u16",
        torch.uint32: "u32",
        torch.uint64: "u64",
        torch.bool: "bool",
    }
)
DTYPES: Mapping[str, torch.dtype] = MappingProxyType({n: d for d, n in DTYPE_NAMES.items()})
