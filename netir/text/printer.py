"""Graph to text. What the parser reads back is told in parser.py; both change together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from functools import cache

from netir.errors import NetirError
from netir.ir import Graph, Node, Param, Ref, TensorType
from netir.ops import Op
from netir.text.lexer import quote, show_name, show_word
from netir.text.values import show_operand, show_tree, show_type, show_value


def print_graph(graph: Graph) -> str:
    """The graph as text, without its tensors; `parse_graph` reads it back."""
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    yield f"graph {show_word(graph.name)}({_arguments(graph)}) {{"
    for step in graph.history:
        yield f"  step {quote(step.text)} keeps {show_word(step.contract)}"
    for name, param in graph.params.items():
        yield f"  {param.kind} @{show_name(name)}: {show_type(param.type)}{_mark(param)}"
    for alias, name in graph.aliases.items():
        yield f"  alias @{show_name(alias)} = @{show_name(name)}"
    shown: dict[TensorType, str] = {}
    for node in graph.nodes.values():
        yield _node(node, shown)
    yield f"  return {show_tree(graph.output, _leaf)}"
    yield "}"


def _leaf(ref: Ref) -> str:
    return show_operand(ref.name)


def _mark(param: Param) -> str:
    """Said only where it is unusual: parameters are trained, buffers and constants are not."""
    if param.trainable == (param.kind == "param"):
        return ""
    return " trainable" if param.trainable else " frozen"


def _node(node: Node, shown: dict[TensorType, str]) -> str:
    for kind in node.types:
        if kind not in shown:
            shown[kind] = show_type(kind)
    types = ", ".join(shown[kind] for kind in node.types)
    operands = ", ".join(map(show_operand, node.operands))
    place = f" at {quote(node.scope)}" if node.scope else ""
    attributes = show_attributes(node.op)
    over = " in_place" if node.in_place else ""
    head = f"  %{show_name(node.name)} = {node.op.name}({operands}){attributes}"
    return f"{head} : {types}{over}{place}"


def show_attributes(op: Op) -> str:
    """The attributes of an op that have not their default."""
    found = []
    for name, default in _defaults(type(op)):  # type: ignore[arg-type]
        text = show_value(getattr(op, name))
        if text != default:
            found.append(f"{name}={text}")
    return f" {{{', '.join(found)}}}" if found else ""


@cache
def _defaults(cls: type[Op]) -> tuple[tuple[str, str | None], ...]:
    """The attributes of an op, with their defaults as text: 1, 1.0 and True differ there."""
    return tuple(
        (f.name, None if f.default is MISSING else show_value(f.default))
        for f in fields(cls)
        if f.init
    )


def _arguments(graph: Graph) -> str:
    """The arguments of the call; each input has its type where it stands first."""
    seen: set[str] = set()

    def leaf(ref: Ref) -> str:
        if ref.name not in graph.inputs:
            raise NetirError(f"an argument of the graph is '{ref.name}', which is no input")
        if ref.name in seen:
            return show_operand(ref.name)
        seen.add(ref.name)
        return f"{show_operand(ref.name)}: {show_type(graph.inputs[ref.name])}"

    shown = []
    for name, tree in graph.arguments.items():
        plain = tree == Ref(name) and name not in seen
        text = show_tree(tree, leaf)
        shown.append(text if plain else f"{show_word(name)}={text}")
    lost = [name for name in graph.inputs if name not in seen]
    if lost:
        raise NetirError(f"input '{lost[0]}' belongs to no argument of the graph")
    return ", ".join(shown)
