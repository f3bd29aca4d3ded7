"""The change of basis: exact widths, given entries, linear bases, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import netir
from netir.basis import Basis, Contract, extend, kept, linear, replicate, select
from netir.change import change_basis
from netir.errors import NetirError
from netir.ir import Graph
from netir.verify import check, verify

X = torch.randn(3, 4, dtype=torch.float64)


class Perceptron(nn.Module):
    """Two hidden spaces: one with a nonlinearity behind it, one without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 5)
        self.third = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(torch.tanh(self.first(x))))


class Scores(nn.Module):
    """Queries and keys: a space that two activations sum over."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 6), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.query(x) @ self.key(x).transpose(0, 1)


class Tied(nn.Module):
    """One matrix makes a space and sums over it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x @ self.weight.t()) @ self.weight


class Normed(nn.Module):
    """A layer norm between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)))


def graph_of(model: nn.Module, *args: Tensor) -> Graph:
    torch.manual_seed(1)
    for p in model.parameters():
        nn.init.normal_(p)
    return netir.trace(model.double(), args or (X,))


def space_of(graph: Graph, name: str) -> netir.spaces.Space:
    return next(s for s in graph.spaces() if s.name == name)


def error_between(a: Graph, b: Graph, x: Tensor = X) -> float:
    want, have = netir.run(a, x), netir.run(b, x)
    return float((want - have).abs().max() / want.abs().max())


@pytest.mark.parametrize("index", [[0, 1, 2, 3, 4, 5, 0], [5, 4, 3, 2, 1, 0, 5, 5, 5]])
def test_replication_is_exact_and_shares_out(index: list[int]) -> None:
    graph = graph_of(Perceptron())
    done = change_basis(graph, {"first": replicate(index)})
    assert done.graph.params["first.weight"].data.shape == (len(index), 4)
    assert error_between(graph, done.graph) < 1e-14


def test_any_convex_split_is_exact() -> None:
    graph = graph_of(Perceptron())
    share = torch.tensor([0.3, 1, 1, 1, 1, 1, 0.7])
    done = change_basis(graph, {"first": replicate([0, 1, 2, 3, 4, 5, 0], share)})
    assert error_between(graph, done.graph) < 1e-14


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    graph = graph_of(Perceptron())
    with pytest.raises(NetirError, match="do not sum to 1"):
        change_basis(graph, {"first": replicate([0, 1, 2, 3, 4, 5, 0], torch.full((7,), 0.9))})


def test_two_activations_that_meet_are_scaled_once() -> None:
    graph = graph_of(Scores())
    uneven = change_basis(graph, {"query": replicate([0, 1, 2, 3, 4, 5, 5])}).graph
    assert error_between(graph, uneven) < 1e-14
    assert len(uneven.nodes) == len(graph.nodes) + 1
    even = change_basis(graph, {"query": replicate(list(range(6)) * 2)}).graph
    assert error_between(graph, even) < 1e-14
    assert len(even.params) == len(graph.params), "an equal share is a number, not a parameter"


def test_a_tied_weight_is_not_scaled_but_what_it_meets() -> None:
    graph = graph_of(Tied())
    wide = change_basis(graph, {"weight": replicate([0, 1, 2, 3, 4, 5, 1, 1])}).graph
    assert wide.params["weight"].data.shape == (8, 4)
    assert torch.equal(wide.params["weight"].data[7], graph.params["weight"].data[1])
    assert error_between(graph, wide) < 1e-14


def test_extension_with_zero_columns_is_exact() -> None:
    graph = graph_of(Perceptron())
    rows = {"first.weight": torch.randn(9, 4), "first.bias": torch.randn(9)}
    done = change_basis(graph, {"first": extend(6, 3)}, new=rows)
    weight = done.graph.params["first.weight"].data
    assert torch.equal(weight[6:], rows["first.weight"][6:].double())
    assert torch.equal(weight[:6], graph.params["first.weight"].data)
    assert error_between(graph, done.graph) < 1e-14


def test_extension_writes_given_columns_too() -> None:
    graph = graph_of(Perceptron())
    columns = torch.randn(5, 8, dtype=torch.float64)
    done = change_basis(graph, {"first": extend(6, 2)}, new={"second.weight": columns})
    weight = done.graph.params["second.weight"].data
    assert torch.equal(weight[:, 6:], columns[:, 6:])
    assert torch.equal(weight[:, :6], graph.params["second.weight"].data)


def test_extension_of_two_spaces_meets_in_one_weight() -> None:
    graph = graph_of(Perceptron())
    done = change_basis(graph, {"first": extend(6, 2), "second": extend(5, 1)})
    assert done.graph.params["second.weight"].data.shape == (6, 8)
    assert error_between(graph, done.graph) < 1e-14


def test_new_batch_norm_entries_are_neutral() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    graph = graph_of(model, x)
    wide = change_basis(graph, {"0": extend(4, 2)}).graph
    assert wide.params["1.running_var"].data[4:].tolist() == [1.0, 1.0]
    assert wide.params["1.weight"].data[4:].tolist() == [1.0, 1.0]
    assert wide.params["1.bias"].data[4:].tolist() == [0.0, 0.0]
    assert error_between(graph, wide, x) < 1e-14


def test_a_linear_basis_is_exact_where_nothing_bends() -> None:
    graph = graph_of(Perceptron())
    into = torch.randn(7, 5, dtype=torch.float64)
    back = torch.linalg.pinv(into)
    done = change_basis(graph, {"second": linear(into, back)})
    assert done.graph.params["third.weight"].data.shape == (3, 7)
    assert error_between(graph, done.graph) < 1e-12


def test_a_linear_basis_is_refused_behind_a_nonlinearity() -> None:
    graph = graph_of(Perceptron())
    eye = torch.eye(6, dtype=torch.float64)
    with pytest.raises(NetirError, match="'first' cannot take a linear basis") as caught:
        change_basis(graph, {"first": linear(eye, eye)})
    assert "tanh" in caught.value.where


def test_a_linear_basis_goes_through_flattened_positions() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(36, 2))
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    graph = graph_of(model, x)
    basis, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    done = change_basis(graph, {"0": linear(basis, basis.t())})
    assert error_between(graph, done.graph, x) < 1e-12


def test_selecting_a_permutation_is_exact_and_undone_bit_for_bit() -> None:
    graph = graph_of(Perceptron())
    order = [3, 1, 5, 0, 4, 2]
    there = change_basis(graph, {"first": select(order)}).graph
    assert error_between(graph, there) < 1e-14
    back = change_basis(there, {"first": select([order.index(i) for i in range(6)])}).graph
    for name, param in graph.params.items():
        assert torch.equal(param.data, back.params[name].data), name


def test_what_is_not_touched_is_shared() -> None:
    graph = graph_of(Perceptron())
    done = change_basis(graph, {"first": replicate([0, 1, 2, 3, 4, 5, 0])})
    assert done.graph.params["third.weight"] is graph.params["third.weight"]
    assert graph.params["first.weight"].data.shape == (6, 4), "the old graph is as it was"
    check(done.graph)


@pytest.mark.parametrize(
    ("basis", "contract"),
    [
        (select([0, 1, 2, 3, 4, 5]), Contract.EXACT),
        (select([0, 2]), Contract.MASKED),
        (replicate(list(range(6)) * 2), Contract.EXACT),
        (replicate([0, 1, 2, 3, 4, 5, 0]), Contract.CHANGED),
        (extend(6, 2), Contract.CHANGED),
        (select([0, 0]), Contract.CHANGED),
    ],
)
def test_what_a_layer_norm_lets_a_change_keep(basis: Basis, contract: Contract) -> None:
    graph = graph_of(Normed())
    space = space_of(graph, "first")
    assert kept(space, basis)[0] is contract
    done = change_basis(graph, {space: basis}).graph
    check(done)
    exact = error_between(graph, done) < 1e-12
    assert exact == (contract is Contract.EXACT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frist": select([0])}, "no space 'frist'"),
        ({"third": select([0])}, "'third' cannot change"),
        ({"first": select([])}, "at least 1"),
        ({"first": select([6])}, "outside its 6"),
        ({"first": select([-2])}, "outside its 6"),
        ({"second": linear(torch.eye(4), torch.eye(4))}, "has shapes"),
        ({"first": 3}, "the basis of 'first' is 3"),
        ("first", "no changes of spaces: 'first'"),
    ],
)
def test_bad_changes_name_the_space_and_what_would_work(
    changes: dict[str, Basis], message: str
) -> None:
    graph = graph_of(Perceptron())
    before = {n: p.data.clone() for n, p in graph.params.items()}
    with pytest.raises(NetirError, match=message) as caught:
        change_basis(graph, changes)
    assert caught.value.fix or "at least" in message
    assert all(torch.equal(p.data, before[n]) for n, p in graph.params.items())


def test_shares_may_be_a_list() -> None:
    graph = graph_of(Perceptron())
    index, share = [*range(6), 2], [1.0, 1.0, 0.3, 1.0, 1.0, 1.0, 0.7]
    done = change_basis(graph, {"first": replicate(index, share)}).graph
    assert error_between(graph, done) < 1e-12


def test_new_entries_of_a_wrong_shape_are_refused() -> None:
    graph = graph_of(Perceptron())
    with pytest.raises(NetirError, match=r"new entries for 'first\.weight'"):
        change_basis(graph, {"first": extend(6, 1)}, new={"first.weight": torch.randn(1, 4)})


def test_new_entries_for_what_does_not_grow_are_refused() -> None:
    graph = graph_of(Perceptron())
    with pytest.raises(NetirError, match=r"'frist\.weight' gets no new entries") as caught:
        change_basis(graph, {"first": extend(6, 1)}, new={"frist.weight": torch.randn(7, 4)})
    assert caught.value.fix == "did you mean 'first.weight'?"


def test_a_scaling_takes_no_name_that_is_there() -> None:
    class Named(Scores):
        def __init__(self) -> None:
            super().__init__()
            self.matmul = nn.Module()
            self.matmul.share = nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.matmul.share

    graph = graph_of(Named())
    wide = change_basis(graph, {"query": replicate([0, 1, 2, 3, 4, 5, 5])}).graph
    assert wide.params["matmul.share"] is graph.params["matmul.share"]
    assert error_between(graph, wide) < 1e-14


class Levels(nn.Module):
    """Floats are rounded to whole numbers and divided again, which makes floats of torch's type."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.sigmoid(self.one(x)).mul(255).round().to(torch.uint8)
        return self.two(levels / 255)


def test_verify_computes_all_in_float64() -> None:
    x = torch.randn(3, 3)
    graph = netir.trace(Levels(), (x,))
    after = change_basis(graph, {"one": replicate([0, 1, 2, 3, 3])}).graph
    assert verify(graph, after, (x,), contract="exact").error <= 1e-15


def test_verify_names_the_first_node_that_differs() -> None:
    graph = graph_of(Perceptron())
    done = change_basis(graph, {"first": replicate([0, 1, 2, 3, 4, 5, 0])})
    with done.graph.edit() as edit:
        edit.set_param("second.weight", done.graph.params["second.weight"].data * 1.01)
    with pytest.raises(NetirError, match="does not keep its contract 'exact'") as caught:
        verify(graph, edit.graph, X, contract="exact", moves=done.moves)
    assert "linear_1" in caught.value.where
