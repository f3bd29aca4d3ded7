"""How equivariant a network is: what turning its input does to every result, measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from netir.errors import NetirError
from netir.evaluate import device_of, input_values, results_of, symbol_values, value_of, values_of
from netir.ir import Graph, Node, expect_graph
from netir.kernels.groups import SQUARE, Element, Group, cosets
from netir.kernels.groups import group as named
from netir.ops.group import FieldNorm, GroupConv, GroupPool, plan_of


@dataclass(frozen=True)
class Layer:
    """How far a layer is from equivariance, relative to the norm of its result.

    `own` is what it does to inputs that are turned exactly, `total` what the network up to it
    does; both are the largest over the group. None where no action on the result is known,
    infinite where the results are not finite.
    """

    name: str
    op: str
    own: float | None
    total: float | None


@dataclass(frozen=True)
class Equivariance:
    """The errors of a network under a group, layer by layer; `error` is that of its outputs."""

    group: str
    error: float | None
    layers: tuple[Layer, ...]

    def __str__(self) -> str:
        rows = [f"under {self.group}: outputs are off by {_shown(self.error)}"]
        rows += [
            f"  {layer.name} ({layer.op}): own {_shown(layer.own)}, total {_shown(layer.total)}"
            for layer in self.layers
        ]
        return "\n".join(rows)


def equivariance(graph: Graph, group: str, *args: Any, **kwargs: Any) -> Equivariance:
    """Measure how far every layer, and the network, is from equivariance to a group, in float64.

    `args` are inputs of the network; those that are square maps are turned and mirrored. Maps in
    the network move pixel by pixel, fields of a group convolution element by element too, and
    what has no positions any more should stay the same. A layer is a node with parameters.
    """
    expect_graph(graph)
    inputs = input_values(graph, args, kwargs)
    return _Measurement(graph, _expected(group), inputs).done()


def _expected(name: str) -> Group:
    try:
        found = named(name)
    except (ValueError, TypeError) as error:
        raise NetirError(f"no group is called {name!r}",
                         fix=f"use one of {', '.join(SQUARE)}") from error  # fmt: skip
    if not found.exact:
        raise NetirError(f"{name} moves pixels between pixels, where nothing is exact",
                         fix=f"measure under one of {', '.join(SQUARE)}")  # fmt: skip
    return found


class _Measurement:
    """One network under one group, for one input."""

    def __init__(self, graph: Graph, group: Group, inputs: Mapping[str, Tensor]) -> None:
        self.graph, self.group = graph, group
        self.acting = _acting(graph)
        self.inputs = {n: t.double() if t.is_floating_point() else t for n, t in inputs.items()}
        self.env, self.device = symbol_values(graph, inputs), device_of(graph, inputs)
        turned = [n for n, t in inputs.items() if t.dim() == 4]
        if not turned:
            raise NetirError("no input is a batch of maps", fix="measure a network of images")
        for name in turned:
            rows, columns = inputs[name].shape[2:]
            if rows != columns:
                raise NetirError(f"input '{name}' is {rows} x {columns} pixels, which cannot turn",
                                 fix="measure with a square map")  # fmt: skip
            if not inputs[name].numel():
                raise NetirError(f"input '{name}' is empty: nothing can be measured with it",
                                 fix="measure with one sample at least")  # fmt: skip
            if not bool(inputs[name].isfinite().all()):
                raise NetirError(f"input '{name}' holds numbers that are not finite",
                                 fix="measure with finite numbers")  # fmt: skip

    def done(self) -> Equivariance:
        before = self._values(self.inputs)
        layers = [n for n in self.graph.nodes.values() if n.params]
        own: dict[str, float | None] = {n.name: 0.0 for n in layers}
        total: dict[str, float | None] = dict(own)
        outputs: dict[str, float | None] = {o: 0.0 for o in self.graph.outputs if o[0] != "@"}
        for element in self.group.elements:
            moved = {n: self._acted(element, n, t) for n, t in self.inputs.items()}
            after = self._values({n: t if t is not None else self.inputs[n]
                                  for n, t in moved.items()})  # fmt: skip
            for node in layers:
                result = node.results[0]
                want = self._acted(element, result, before[result])
                total[node.name] = _worse(total[node.name], want, after[result])
                own[node.name] = _worse(own[node.name], want, self._alone(element, node, before))
            for name in outputs:
                want = self._acted(element, name, before[name])
                outputs[name] = _worse(outputs[name], want, after[name])
        rows = tuple(Layer(n.name, n.op.name, own[n.name], total[n.name]) for n in layers)
        known = [error for error in outputs.values() if error is not None]
        error = max(known) if known and len(known) == len(outputs) else None
        return Equivariance(self.group.name, error, rows)

    def _values(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made = values_of(self.graph, inputs, dtype=torch.float64, keep=lambda _: True)
        return {**inputs, **made}

    def _alone(
        self, element: Element, node: Node, values: Mapping[str, Tensor]
    ) -> Tensor | None:
        """The result of a node whose operands are moved exactly."""
        given: list[Any] = []
        for operand in node.operands:
            if operand is None:
                given.append(None)
                continue
            if operand[0] == "@":
                found = value_of(self.graph, {}, operand)
                given.append(found.double() if found.is_floating_point() else found)
                continue
            moved = self._acted(element, operand, values[operand])
            if moved is None:
                return None
            given.append(moved)
        made = results_of(node, given, self.env, torch.float64, self.device)
        return made[node.results[0]]

    def _acted(self, element: Element, name: str, value: Tensor) -> Tensor | None:
        """A value after an element acted on it; None where its axes do not tell how."""
        kind = self.graph.types[name]
        if kind.rank >= 4:
            if value.shape[-1] != value.shape[-2]:
                return None
            turned = value.flip(-2) if element.flip else value
            value = torch.rot90(turned, int(4 * element.turn), (-2, -1))
        elif kind.rank == 3:
            return None
        shape = self.graph.analysis.resolved(name)
        if kind.rank == 2 and _has_positions(self.graph, name):
            return None
        if name not in self.acting or len(shape) < 2:
            return value
        ambient, over = self.acting[name]
        count = ambient.order // over.order
        if not self._leads(shape[1], count):
            return value
        order = _order(element, ambient, over) if self.group <= ambient else None
        if order is None:
            return None
        moved: Tensor = value.unflatten(1, (count, -1))[:, order].flatten(1, 2)
        return moved

    def _leads(self, layout: Any, count: int) -> bool:
        """Whether an axis runs over so many elements, or cosets, first."""
        extent = self.graph.analysis.extents[count]
        return bool(extent) and bool(layout) and layout[0] is extent[0]


def _acting(graph: Graph) -> dict[str, tuple[Group, Group]]:
    """The ambient group of every value around equivariant layers, and what was pooled over."""
    found = _behind(graph)
    for node in reversed(list(graph.nodes.values())):
        match node.op:
            case GroupConv() as op if not op.lifting:
                acting: tuple[Group, Group] | None = _fields(op)
            case GroupConv():
                acting = None  # it reads an image
            case FieldNorm(ambient=ambient) | GroupPool(ambient=ambient):
                acting = named(ambient), named("C1")
            case _:
                acting = next((found[r] for r in node.results if r in found), None)
        if acting is None:
            continue
        for operand in node.operands:
            if operand is not None and operand[0] != "@":
                found.setdefault(operand, acting)
    return found


def _fields(op: GroupConv) -> tuple[Group, Group]:
    return named(plan_of(op.groups, 1, op.lifting, op.ambient).ambient), named("C1")


def _behind(graph: Graph) -> dict[str, tuple[Group, Group]]:
    """The same of the values behind a group convolution."""
    found: dict[str, tuple[Group, Group]] = {}
    for node in graph.nodes.values():
        match node.op:
            case GroupConv() as op:
                acting: tuple[Group, Group] | None = _fields(op)
            case GroupPool(over=over, ambient=ambient):
                acting = named(ambient), named(over)
            case _:
                acting = next((found[o] for o in node.operands if o in found), None)
        if acting is not None:
            found |= dict.fromkeys(node.results, acting)
    return found


def _order(element: Element, ambient: Group, over: Group) -> list[int] | None:
    """Which coset comes to the place of each; None where cosets are torn apart."""
    places, coset = ambient.elements, cosets(over, ambient).coset
    found: dict[int, set[int]] = {}
    for b, row in zip(places, coset, strict=True):
        found.setdefault(row, set()).add(coset[places.index(element.inverse * b)])
    if any(len(rows) > 1 for rows in found.values()):
        return None
    return [found[row].pop() for row in range(len(found))]


def _has_positions(graph: Graph, name: str) -> bool:
    """Whether a flat value was laid out from a map: its entries are then pixels too."""
    node = graph.producers.get(name)
    seen = 0
    while node is not None and seen < len(graph.nodes):
        source = node.operands[0] if node.operands else None
        if source is None or source[0] == "@" or node.op.name in ("linear", "mean", "amax"):
            return False
        shape = graph.type_of(source).shape
        if node.op.name == "reshape" and len(shape) >= 4:
            return any(size != 1 for size in shape[2:])
        if len(shape) >= 4:
            return False
        node, seen = graph.producers.get(source), seen + 1
    return False


def _worse(known: float | None, want: Tensor | None, have: Tensor | None) -> float | None:
    """The larger of an error and the one of these, relative to the norm of what is wanted.

    It is infinite where numbers that are not finite hide how far these are apart.
    """
    if known is None or want is None or have is None or want.shape != have.shape:
        return None
    want, have = want.double(), have.double()
    gap = float(torch.linalg.vector_norm(have - want))
    size = float(torch.linalg.vector_norm(want))
    return max(known, gap / size if size else gap) if isfinite(gap + size) else inf


def _shown(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.1e}"


__all__ = ["Equivariance", "Layer", "equivariance"]
