"""Layouts: units by hand, and the law that an index map means what torch does with indices."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from netir.dims import Dim, symbol
from netir.ir import Graph, Node, Param, TensorType
from netir.layouts import (
    Atom,
    Concat,
    Layout,
    atoms,
    concat,
    cut,
    freeze,
    frozen,
    outline,
    regroup,
    resolve,
    show,
    size_of,
    split_layout,
    unify,
)
from netir.ops import Op
from netir.ops.arithmetic import Add
from netir.ops.join import Cat, Split
from netir.ops.shape import Permute, Reshape
from tests.indices import gathered, taken


def one(size: Dim, reason: str | None = None) -> Layout:
    return (Atom(size, reason),)


def test_an_outline_is_short() -> None:
    long = concat([(Atom(2), Atom(3)), *((Atom(n),) for n in range(1, 9))])
    assert outline((Atom(8, "frozen"), *long)) == "8·[6 | 1 | 2 | 3 | …]"
    assert outline(()) == "1"


def test_unify_joins_atoms_of_one_size() -> None:
    a, b = one(4), one(4)
    assert unify(a, b)
    assert resolve(a) == resolve(b)


def test_unify_keeps_the_reason_of_a_frozen_atom() -> None:
    a, b = one(4), one(4, "graph input")
    assert unify(a, b)
    assert frozen(a)
    assert [atom.reason for atom in atoms(a)] == ["graph input"]


def test_unify_refines_an_atom_into_a_product() -> None:
    whole, outer, inner = one(12), one(3), one(4)
    assert unify(whole, outer + inner)
    assert resolve(whole) == outer + inner


def test_unify_finds_common_factors() -> None:
    a = one(4) + one(6)
    b = one(8) + one(3)
    assert unify(a, b)
    assert show(a) == show(b) == "4·2·3"


def test_unify_fails_where_boundaries_cross() -> None:
    assert not unify(one(4) + one(6), one(6) + one(4))


def test_unify_binds_an_atom_to_a_concatenation() -> None:
    whole, left, right = one(5), one(2), one(3)
    assert unify(whole, concat([left, right]))
    assert show(whole) == "[2 | 3]"


def test_unify_lines_up_concatenations() -> None:
    a = concat([one(4), one(2)])
    b = concat([one(1 + 2), one(3)])
    assert unify(a, b)
    assert show(a) == "[[3 | 1] | 2]"
    assert show(b) == "[3 | [1 | 2]]"


def test_unify_of_a_frozen_atom_with_a_concatenation_freezes_its_parts() -> None:
    left, right = one(2), one(3)
    assert unify(one(5, "graph output"), concat([left, right]))
    assert frozen(left)
    assert frozen(right)


def test_an_empty_axis_is_not_bound_to_what_it_is_part_of() -> None:
    empty, other = one(0), one(5)
    assert not unify(empty, other + empty)
    assert resolve(empty) == empty


def test_cut_makes_a_concatenation() -> None:
    whole = one(6)
    pieces = cut(whole, 2)
    assert pieces is not None
    assert show(whole) == "[2 | 4]"
    assert [size_of(p) for p in pieces] == [2, 4]


def test_cut_of_a_product_is_at_whole_blocks() -> None:
    layout = one(3) + one(4)
    assert cut(layout, 6) is None
    pieces = cut(layout, 4)
    assert pieces is not None
    assert [size_of(p) for p in pieces] == [4, 8]


def test_equal_parts_become_a_product() -> None:
    """Three concatenated parts dealt out as three: the parts are one space."""
    parts = [one(4), one(4), one(4)]
    found, _ = regroup(concat(parts), (3, 4))
    assert found[1] is not None
    assert all(resolve(p) == resolve(found[1]) for p in parts)


def test_channel_shuffle_is_a_product_turned_round() -> None:
    channels = one(12)
    (groups, each), _ = regroup(channels, (3, 4))
    assert groups is not None
    assert each is not None
    (back,), _ = regroup(each + groups, (12,))
    assert back == each + groups
    assert resolve(channels) == groups + each


def test_unequal_parts_share_the_head_size() -> None:
    """Queries, keys and values in one axis, 12, 4 and 4 heads of 64."""
    query, key, value = one(12 * 64), one(4 * 64), one(4 * 64)
    (heads, size), _ = regroup(concat([query, key, value]), (20, 64))
    assert show(heads or ()) == "[12 | 4 | 4]"
    assert size is not None
    assert all(resolve(part)[-1:] == resolve(size) for part in (query, key, value))


def test_regroup_with_a_symbolic_batch() -> None:
    batch, channels = one(symbol("batch")), one(12)
    found, _ = regroup(batch + one(5) + channels, (symbol("batch") * 5, 3, 4))
    assert [show(f or ()) for f in found] == ["batch·5", "3", "4"]
    assert show(channels) == "3·4"


def test_regroup_merges_a_symbolic_batch_with_heads() -> None:
    batch = symbol("batch")
    heads, size = one(4), one(8)
    (merged, length, last), _ = regroup(one(batch) + heads + one(7) + size, (batch * 4, 7, 8))
    assert show(merged or ()) == "batch·4"
    assert resolve(last or ()) == resolve(size)
    back, _ = regroup((merged or ()) + (length or ()) + (last or ()), (batch, 4, 7, 8))
    assert resolve(back[1] or ()) == resolve(heads)


def test_what_cannot_be_expressed_is_told_and_nothing_else() -> None:
    first, second, third, fourth = one(2), one(4), one(6), one(5)
    found, rest = regroup(first + second + third + fourth, (2, 6, 4, 5))
    assert found[1] is found[2] is None
    assert [resolve(f or ()) for f in (found[0], found[3])] == [resolve(first), resolve(fourth)]
    assert rest == second + third


def test_an_axis_of_one_index_is_the_empty_product() -> None:
    (outer, middle, last), _ = regroup(one(4), (1, 4, 1))
    assert (outer, last) == ((), ())
    assert show(middle or ()) == "4"


def test_a_reshape_and_back_changes_no_space() -> None:
    a, b = one(6), one(10)
    merged, _ = regroup(a + b, (60,))
    back, _ = regroup(merged[0] or (), (6, 10))
    assert [resolve(x or ()) for x in back] == [resolve(a), resolve(b)]


def test_freezing_keeps_the_first_reason() -> None:
    layout = one(4)
    freeze(layout, "first")
    freeze(layout, "second")
    assert [a.reason for a in atoms(layout)] == ["first"]


def test_a_piece_of_a_frozen_atom_is_frozen() -> None:
    pieces = split_layout(one(12, "graph input"), 4)
    assert pieces is not None
    assert all(frozen(p) for p in pieces)


def test_a_long_chain_of_joins_needs_no_recursion() -> None:
    layouts = [one(4) for _ in range(20_000)]
    for a, b in pairwise(layouts):
        assert unify(a, b)
    assert len({resolve(layout) for layout in layouts}) == 1


@dataclass
class Program:
    """A graph of ops that move elements, built step by step next to its values."""

    params: dict[str, Tensor]
    values: dict[str, Tensor]
    nodes: dict[str, Node]

    def add(self, op: Op, *operands: str) -> None:
        found = op.to_torch(*(self.values[o] for o in operands))
        results = [found] if isinstance(found, Tensor) else list(found)
        types = tuple(TensorType(r.dtype, tuple(r.shape)) for r in results)
        node = Node(f"n{len(self.nodes)}", op, operands, types)
        self.nodes[node.name] = node
        self.values.update(zip(node.results, results, strict=True))

    def graph(self) -> Graph:
        params = {name: Param(data) for name, data in self.params.items()}
        return Graph("moves", {}, self.nodes, params, (), {})


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Two parameters whose elements are all different, and up to six ops on them."""
    params, start = {}, 0
    for name in ("a", "b"):
        shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3))
        params[name] = torch.arange(start, start + prod(shape)).reshape(shape)
        start += prod(shape)
    program = Program(params, {f"@{n}": t for n, t in params.items()}, {})
    for _ in range(draw(st.integers(1, 6))):
        _step(draw, program)
    return program


def _step(draw: st.DrawFn, program: Program) -> None:
    source = draw(st.sampled_from(list(program.values)))
    x = program.values[source]
    dim = draw(st.integers(0, x.dim() - 1))
    match draw(st.sampled_from(["reshape", "permute", "cat", "split", "add"])):
        case "reshape":
            program.add(Reshape(_other_shape(draw, x.numel())), source)
        case "permute":
            program.add(Permute(tuple(draw(st.permutations(range(x.dim()))))), source)
        case "split" if x.shape[dim] > 1:
            first = draw(st.integers(1, x.shape[dim] - 1))
            program.add(Split((first, x.shape[dim] - first), dim), source)
        case "cat":
            fits = [n for n, y in program.values.items() if _fit(x, y, dim)]
            program.add(Cat(dim), source, draw(st.sampled_from(fits)))
        case "add":
            same = [n for n, y in program.values.items() if y.shape == x.shape]
            program.add(Add(), source, draw(st.sampled_from(same)))


def _other_shape(draw: st.DrawFn, count: int) -> tuple[int, ...]:
    shape = []
    for _ in range(draw(st.integers(0, 3))):
        shape.append(draw(st.sampled_from(divisors(count))))
        count //= shape[-1]
    return (*shape, count)


def _fit(x: Tensor, y: Tensor, dim: int) -> bool:
    return x.dim() == y.dim() and all(
        a == b or axis == dim for axis, (a, b) in enumerate(zip(x.shape, y.shape, strict=True))
    )


@given(programs())
def test_sizes_are_conserved(program: Program) -> None:
    graph = program.graph()
    for name, value in program.values.items():
        layouts = graph.analysis.resolved(name)
        assert [size_of(layout) for layout in layouts] == list(value.shape)
        for layout in layouts:
            assert all(isinstance(t, Concat) or t.bound is None for t in layout)
            assert all(a.size != 1 for a in atoms(layout))


@given(programs(), st.data())
def test_index_maps_are_what_torch_does(program: Program, data: st.DataObject) -> None:
    """Indices of a space taken before a program of moves: as if they were taken after it."""
    graph = program.graph()
    for space in graph.spaces():
        if space.frozen:
            continue
        size = space.size
        kept = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size + 1))
        choice = {space.atom: kept}
        values = {
            f"@{name}": gathered(tensor, graph.analysis.shape(f"@{name}"), choice)
            for name, tensor in program.params.items()
        }
        for node in program.nodes.values():
            found = _changed(graph, node, choice).to_torch(*(values[o] for o in node.operands))  # type: ignore[index]
            results = [found] if isinstance(found, Tensor) else list(found)
            values.update(zip(node.results, results, strict=True))
        for name, value in program.values.items():
            want = gathered(value, graph.analysis.shape(name), choice)
            assert torch.equal(values[name], want), f"{name} of {graph.nodes}"


def _changed(graph: Graph, node: Node, choice: Mapping[Atom, list[int]]) -> Op:
    changes: dict[str, Any] = {}
    for name, layouts in graph.analysis.derived.get(node.name, {}).items():
        changes[name] = tuple(len(taken(layout, choice)) for layout in layouts)  # type: ignore[arg-type]
    return replace(node.op, **changes)


@pytest.mark.parametrize("layout", [(), one(4), one(2) + one(3), concat([one(2), one(3)])])
def test_show_tells_sizes(layout: Layout) -> None:
    assert show(layout) in {"1", "4", "2·3", "[2 | 3]"}
