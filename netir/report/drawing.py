"""A graph as it is drawn: boxes, lines and spaces, without weights.

Big networks must fit on a page, so the plain form is made of rows, and every text in it is
written once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from netir.cost import Cost, cost
from netir.errors import NetirError
from netir.ir import Graph, Node
from netir.spaces import Space


class Box(NamedTuple):
    """A node, an input or an output. `reads` are its parameters with their types, `spaces` the
    indices of the spaces that it touches; parameters and MACs are None where not known."""

    name: str
    op: str
    scope: str = ""
    shape: str = ""
    reads: tuple[str, ...] = ()
    parameters: int | None = None
    macs: int | None = None
    spaces: tuple[int, ...] = ()


class DrawnSpace(NamedTuple):
    """A space: its name, its size, and why it is frozen, if it is."""

    name: str
    size: int
    reason: str = ""


@dataclass(frozen=True)
class Drawing:
    """A graph as it is drawn; lines are pairs of indices into `boxes`, in the graph's order."""

    boxes: tuple[Box, ...] = ()
    lines: tuple[tuple[int, int], ...] = ()
    spaces: tuple[DrawnSpace, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Rows of indices into one list of texts."""
        texts: dict[str, int] = {}

        def number(text: str) -> int:
            return texts.setdefault(text, len(texts))

        boxes = [
            [*map(number, box[:4]), [*map(number, box.reads)], box.parameters, box.macs,
             list(box.spaces)]
            for box in self.boxes
        ]  # fmt: skip
        spaces = [[number(s.name), s.size, number(s.reason)] for s in self.spaces]
        lines = [end for line in self.lines for end in line]
        return {"texts": list(texts), "boxes": boxes, "lines": lines, "spaces": spaces}

    @classmethod
    def from_json(cls, data: Any, where: str = "drawing") -> Drawing:
        """The drawing that `to_json` wrote."""
        try:
            texts = [_is(str, text) for text in data["texts"]]
            boxes = tuple(_box(texts, row) for row in data["boxes"])
            ends = [_index(end, len(boxes)) for end in data["lines"]]
            spaces = tuple(_space(texts, row) for row in data["spaces"])
            for box in boxes:
                for index in box.spaces:
                    _index(index, len(spaces))
            lines = tuple(zip(ends[::2], ends[1::2], strict=True))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise NetirError(
                f"the drawing is damaged: {str(error)[:80]}", where,
                "write drawings with `Drawing.to_json`",
            ) from error  # fmt: skip
        return cls(boxes, lines, spaces)


class Marks(NamedTuple):
    """The names of the boxes that differ between two drawings."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def drawing(graph: Graph, sizes: Mapping[str, int] | None = None) -> Drawing:
    """What is drawn of a graph; MACs are those of one example, further open sizes in `sizes`."""
    touched = _touched(graph)
    counted = _counted(graph, sizes)
    boxes = [
        Box(name, "input", shape=str(kind), spaces=touched.get(name, ()))
        for name, kind in graph.inputs.items()
    ]
    boxes += [_drawn(graph, node, counted, touched) for node in graph.nodes.values()]
    index = {box.name: i for i, box in enumerate(boxes)}
    lines = []
    for node in graph.nodes.values():
        makers = (_maker(graph, value) for value in node.values)
        lines += [(index[maker], index[node.name]) for maker in dict.fromkeys(makers)]
    outputs = [name for name in dict.fromkeys(graph.outputs) if name[0] != "@"]
    for number, value in enumerate(outputs):
        lines.append((index[_maker(graph, value)], len(boxes)))
        name = "output" if len(outputs) == 1 else f"output {number}"
        boxes.append(Box(name, "output", shape=str(graph.types[value])))
    spaces = tuple(DrawnSpace(s.name, s.size, s.reason) for s in graph.spaces())
    return Drawing(tuple(boxes), tuple(lines), spaces)


def compare(before: Drawing, after: Drawing) -> Marks:
    """Which boxes are new, gone, or differ in more than the spaces' numbers."""
    old, new = dict(_looks(before)), dict(_looks(after))
    return Marks(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=tuple(name for name in new if name in old and new[name] != old[name]),
    )


def _looks(drawn: Drawing) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for box in drawn.boxes:
        yield box.name, (box.op, box.shape, box.reads, box.parameters, box.macs)


def _drawn(
    graph: Graph, node: Node, counted: Cost | None, touched: Mapping[str, tuple[int, ...]]
) -> Box:
    part = counted.nodes[node.name] if counted else None
    return Box(
        name=node.name,
        op=node.op.name,
        scope=node.scope,
        shape=", ".join(map(str, node.types)),
        reads=tuple(f"{name}: {graph.params[name].type}" for name in dict.fromkeys(node.params)),
        parameters=part.parameters if part else None,
        macs=part.macs if part else None,
        spaces=touched.get(node.name, ()),
    )


def _touched(graph: Graph) -> dict[str, tuple[int, ...]]:
    """By node or input: the spaces that have part in it, those of its results first."""
    given: dict[str, dict[int, None]] = {}
    read: dict[str, dict[int, None]] = {}
    for number, space in enumerate(graph.spaces()):
        for value, _ in space.values:
            given.setdefault(_maker(graph, value), {})[number] = None
        for name in _readers(graph, space):
            read.setdefault(name, {})[number] = None
    return {name: tuple({**given.get(name, {}), **read.get(name, {})}) for name in given | read}


def _readers(graph: Graph, space: Space) -> Iterator[str]:
    """The nodes that sum over a space, or that read a parameter of it."""
    yield from (use.node for use in space.uses)
    for member in space.members:
        yield from (node.name for node, _ in graph.users.get(f"@{member.param}", ()))


def _maker(graph: Graph, value: str) -> str:
    maker = graph.producers.get(value)
    return maker.name if maker else value


def _counted(graph: Graph, sizes: Mapping[str, int] | None) -> Cost | None:
    try:
        return cost(graph, sizes)
    except NetirError:
        if sizes:
            raise
        return None  # the network has open sizes besides the batch, and nobody said how large


def _is(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is no {kind.__name__}")
    return value


def _index(value: Any, length: int) -> int:
    if _is(int, value) not in range(length):
        raise IndexError(f"there is no entry {value}")
    return int(value)


def _text(texts: list[str], index: Any) -> str:
    return texts[_index(index, len(texts))]


def _box(texts: list[str], row: Any) -> Box:
    name, op, scope, shape, reads, parameters, macs, spaces = row
    for number in (parameters, macs):
        if number is not None:
            _is(int, number)
    return Box(
        _text(texts, name), _text(texts, op), _text(texts, scope), _text(texts, shape),
        tuple(_text(texts, i) for i in reads), parameters, macs,
        tuple(_is(int, i) for i in spaces),
    )  # fmt: skip


def _space(texts: list[str], row: Any) -> DrawnSpace:
    name, size, reason = row
    return DrawnSpace(_text(texts, name), _is(int, size), _text(texts, reason))
