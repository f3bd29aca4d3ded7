"""One contract over all ops: shapes agree with torch, axis rules are true, stand-ins go through.

An axis rule is proved on one op at a time. Its operands' axes get layouts; a choice of indices of
one free space tells which indices of every operand and result to take, and taking them before the
op must be the same as taking them after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from netir.dims import evaluate
from netir.evaluate import bound
from netir.ir import Graph, Node, Param, TensorType
from netir.layouts import Atom, Layout, atoms, size_of
from netir.ops import OPS, Op
from netir.ops.pointwise import Identity
from netir.site import Derived
from netir.spaces import Analysis
from tests.examples import EXAMPLES
from tests.indices import gathered, present, scaled, shares, taken
from tests.operands import SIZES, Example

each_example = pytest.mark.parametrize(
    "example", EXAMPLES, ids=[f"{i}-{e.op.name}" for i, e in enumerate(EXAMPLES)]
)


def called(op: Op, operands: Sequence[Tensor | None]) -> list[Tensor]:
    found = op.to_torch(*operands)
    return [found] if isinstance(found, Tensor) else list(found)


def typed(example: Example) -> tuple[TensorType, ...]:
    found = example.op.infer(*example.types())
    assert found is not None
    return (found,) if isinstance(found, TensorType) else found


def test_every_op_has_an_example() -> None:
    assert set(OPS) == {e.op.name for e in EXAMPLES}


def test_ops_are_documented_and_named_once() -> None:
    assert all(cls.__doc__ for cls in OPS.values())
    targets = [t for cls in OPS.values() for t in cls.aten]
    assert len(targets) == len(set(targets))


def test_every_declared_torch_operator_exists() -> None:
    for target in (t for cls in OPS.values() for t in cls.aten):
        base, _, overload = target.partition(".")
        assert overload in getattr(torch.ops.aten, base).overloads(), target


@each_example
def test_infer_agrees_with_torch(example: Example) -> None:
    if example.op.name == "opaque":
        assert example.op.infer(*example.types()) is None
        return
    made = called(bound(example.op, SIZES), example.draw())
    inferred = [
        (kind.dtype, tuple(evaluate(size, SIZES) for size in kind.shape)) for kind in typed(example)
    ]
    assert inferred == [(t.dtype, tuple(t.shape)) for t in made]


@each_example
def test_to_torch_takes_stand_ins(example: Example) -> None:
    """Lowering runs `to_torch` on proxies; what they record must compute the same."""
    if example.op.placed:
        return
    op, operands = bound(example.op, SIZES), example.draw()
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    proxies = [
        None if o is None else fx.Proxy(graph.placeholder(f"x{i}"), tracer)
        for i, o in enumerate(operands)
    ]
    found = op.to_torch(*proxies)
    count = len(called(op, operands))
    outputs = [found] if count == 1 and not op.several else [
        found[i] for i in range(count)
    ]
    graph.output(tuple(o.node for o in outputs))
    module = fx.GraphModule(nn.Module(), graph)
    given = module(*(o for o in operands if o is not None))
    for a, b in zip(given, called(op, operands), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


@dataclass(frozen=True)
class Alone:
    """An op by itself, with nothing known of its operands: its layouts and numbers."""

    op: Op
    operands: list[Tensor | None]
    results: list[Tensor]
    shapes: list[tuple[Layout, ...] | None]
    made: list[tuple[Layout, ...]]
    analysis: Analysis

    @classmethod
    def of(cls, example: Example, *, seen: bool) -> "Alone":
        """With `seen`, values come from a node before; otherwise all operands are parameters."""
        op, operands = bound(example.op, SIZES), example.draw()
        results = called(op, operands)
        params = {f"p{i}": Param(o) for i, o in enumerate(operands) if o is not None}
        nodes: dict[str, Node] = {}
        names: list[str | None] = []
        for i, (given, drawn) in enumerate(zip(example.operands, operands, strict=True)):
            if given is None or drawn is None:
                names.append(None)
            elif given.param or not seen:
                names.append(f"@p{i}")
            else:
                kind = TensorType(drawn.dtype, tuple(drawn.shape))
                nodes[f"v{i}"] = Node(f"v{i}", Identity(), (f"@p{i}",), (kind,))
                names.append(f"v{i}")
        types = tuple(TensorType(r.dtype, tuple(r.shape)) for r in results)
        node = nodes["it"] = Node("it", op, tuple(names), types)
        analysis = Graph("alone", {}, nodes, params, (), {}).analysis
        shapes = [None if name is None else analysis.resolved(name) for name in names]
        made = [analysis.resolved(result) for result in node.results]
        return cls(op, operands, results, shapes, made, analysis)

    def free(self) -> list[Atom]:
        """Every space that the op leaves free."""
        layouts = [layout for shape in (*self.shapes, *self.made) for layout in shape or ()]
        found = dict.fromkeys(a for layout in layouts for a in atoms(layout))
        return [a for a in found if a.reason is None]

    def kinds(self, atom: Atom) -> set[str]:
        return {u.kind for u in self.analysis.uses_of.get(atom, ()) if u.node == "it"}

    def changed(self, choice: Mapping[Atom, list[int]]) -> Op:
        """The op with the attributes that follow from a choice of indices."""
        derived = self.analysis.derived.get("it", {})
        return replace(self.op, **{k: self._attribute(k, d, choice) for k, d in derived.items()})

    def _attribute(self, name: str, derived: Derived, choice: Mapping[Atom, list[int]]) -> Any:
        def size(layout: Layout, old: Any) -> Any:
            return old if layout is None else len(taken(layout, choice))

        old = getattr(self.op, name)
        if isinstance(old, tuple):
            return tuple(size(d, o) for d, o in zip(derived, old, strict=True))  # type: ignore[arg-type]
        return size(derived, old)  # type: ignore[arg-type]

    def check(self, atom: Atom, kept: list[int]) -> None:
        """Take indices of one space: before the op and after it is the same.

        Whatever is summed over is zero where an index goes, and shared out where it is copied.
        """
        choice = {atom: kept}
        zeroed, shared = list(self.operands), [
            None if o is None else gathered(o, shape or (), choice)
            for o, shape in zip(self.operands, self.shapes, strict=True)
        ]
        for use in self.analysis.uses_of.get(atom, ()):
            if use.node == "it" and use.kind in ("contract", "pair", "sum", "norm"):
                for slot, axis in use.slots:
                    there = present(self.axis(slot, axis), choice)
                    zeroed[slot] = scaled(zeroed[slot], axis, there)
                slot, axis = use.slots[-1]
                if use.kind != "norm":
                    share = shares(self.axis(slot, axis), choice)
                    shared[slot] = scaled(shared[slot], axis, share)
        expected = called(self.op, zeroed)
        actual = called(self.changed(choice), shared)
        for shape, before, after in zip(self.made, expected, actual, strict=True):
            assert torch.allclose(gathered(before, shape, choice), after, equal_nan=True), (
                f"{self.op}: {atom} {kept}"
            )

    def axis(self, slot: int, axis: int) -> Layout:
        shape = self.shapes[slot]
        assert shape is not None
        return shape[axis]


seen_or_not = pytest.mark.parametrize("seen", [False, True], ids=["params", "values"])


@seen_or_not
@each_example
def test_axis_rule_leaves_free_what_it_may(example: Example, seen: bool) -> None:
    assert len(Alone.of(example, seen=seen).free()) == example.free


@seen_or_not
@each_example
def test_axis_rule_is_true(example: Example, seen: bool) -> None:
    alone = Alone.of(example, seen=seen)
    for atom in alone.free():
        size, kinds = evaluate(atom.size, {}), alone.kinds(atom)
        some, order = list(range(1, size)), torch.randperm(size).tolist()
        alone.check(atom, order)
        if not kinds & {"mix", "softmax"} and size > 1:
            alone.check(atom, some)
            alone.check(atom, [size - 1])
        if not kinds & {"norm", "softmax"}:
            alone.check(atom, [i for i in range(size) for _ in range(2)])
        if not kinds & {"mix", "norm", "softmax"} and _weighs(alone, atom):
            alone.check(atom, [0, 0, *range(size)])


def _weighs(alone: Alone, atom: Atom) -> bool:
    """Whether what is summed over can be weighed: not so for sums of truth values."""
    uses = [u for u in alone.analysis.uses_of.get(atom, ()) if u.node == "it"]
    slots = [alone.operands[u.slots[-1][0]] for u in uses]
    return all(o is not None and o.is_floating_point() for o in slots)


@each_example
def test_symbolic_sizes_have_layouts(example: Example) -> None:
    """With graph inputs of open size, everything is frozen and the rule still goes through."""
    if example.op.name == "opaque":
        return
    inputs = {f"x{i}": o.type for i, o in enumerate(example.operands) if o and not o.param}
    params = {f"x{i}": Param(o.draw()) for i, o in enumerate(example.operands) if o and o.param}
    names = tuple(
        None if o is None else f"@x{i}" if o.param else f"x{i}"
        for i, o in enumerate(example.operands)
    )
    node = Node("it", example.op, names, typed(example))
    graph = Graph("open", inputs, {"it": node}, params, (), {})
    for result, kind in zip(node.results, node.types, strict=True):
        sizes = [size_of(layout) for layout in graph.analysis.resolved(result)]
        assert sizes == list(kind.shape)
