"""Edits: each verb checks first, leaving the block verifies, and a failure changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import netir
from netir.errors import NetirError
from netir.ir import Graph, Param
from netir.ops.pointwise import Relu, Tanh
from netir.ops.shape import Reshape


@pytest.fixture
def graph() -> Graph:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    return netir.trace(model, (torch.randn(2, 4),))


def test_insert_and_replace(graph: Graph) -> None:
    with graph.edit() as edit:
        new = edit.insert("bend", Tanh(), ["relu"], before="linear_1")
        edit.replace("relu", new, but=["bend"])
    x = torch.randn(3, 4)
    first, second = (graph.params[f"{i}.weight"].data for i in (0, 2))
    want = torch.tanh(torch.relu(x @ first.t() + graph.params["0.bias"].data)) @ second.t()
    assert torch.allclose(netir.run(edit.graph, x), want + graph.params["2.bias"].data, atol=1e-6)
    assert list(edit.graph.nodes) == ["linear", "relu", "bend", "linear_1"]
    assert edit.log == ["insert bend = tanh", "replace relu by bend"]
    assert "bend" not in graph.nodes


def test_inserts_stand_in_order_before_what_they_name(graph: Graph) -> None:
    with graph.edit() as edit:
        edit.insert("c", Tanh(), ["linear"], before="relu")
        edit.insert("d", Tanh(), ["c"], before="relu")
        edit.insert("a", Tanh(), ["linear"], before="c")
        edit.insert("e", Tanh(), ["linear_1"])
        edit.replace("relu", "d")
        edit.erase("relu")
        edit.insert("b", Tanh(), ["a"], before="c")
        edit.set_operands("c", ["b"])
    assert list(edit.graph.nodes) == ["linear", "a", "b", "c", "d", "linear_1", "e"]


def test_many_inserts_take_time_in_proportion() -> None:
    """Not a timed test: thousands of inserts into one graph end at all."""
    graph = netir.trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), (torch.randn(2, 2),))
    with graph.edit() as edit:
        for number in range(20_000):
            edit.insert(f"n{number}", Tanh(), ["linear"], before="relu")
    assert list(edit.graph.nodes)[1:-1] == [f"n{number}" for number in range(20_000)]


def test_erase_refuses_what_is_read(graph: Graph) -> None:
    with pytest.raises(NetirError, match="'relu' cannot be erased") as caught, graph.edit() as edit:
        edit.erase("relu")
    assert "linear_1 reads relu" in caught.value.where


def test_erase_after_bypass(graph: Graph) -> None:
    with graph.edit() as edit:
        edit.replace("relu", "linear")
        edit.erase("relu")
    assert list(edit.graph.nodes) == ["linear", "linear_1"]


def test_the_output_is_read_too(graph: Graph) -> None:
    with pytest.raises(NetirError, match="the output reads"), graph.edit() as edit:
        edit.erase("linear_1")


def test_replace_refuses_unequal_types(graph: Graph) -> None:
    with pytest.raises(NetirError, match="cannot stand for"), graph.edit() as edit:
        edit.replace("relu", "input")


def test_insert_refuses_what_does_not_fit(graph: Graph) -> None:
    with pytest.raises(NetirError, match="has not the"), graph.edit() as edit:
        edit.insert("flat", Reshape((7,)), ["relu"])


def test_a_value_must_be_made_before_it_is_read(graph: Graph) -> None:
    with pytest.raises(NetirError, match="before it is made"), graph.edit() as edit:
        edit.set_operands("relu", ["linear_1"])


def test_parameters(graph: Graph) -> None:
    with graph.edit() as edit:
        edit.set_param("2.weight", torch.zeros(2, 6))
        edit.add_param("spare", Param(torch.zeros(3)))
        edit.remove_param("spare")
    assert not edit.graph.params["2.weight"].data.any()
    assert graph.params["2.weight"].data.any()


def test_a_parameter_that_is_read_stays(graph: Graph) -> None:
    with pytest.raises(NetirError, match="linear reads it"), graph.edit() as edit:
        edit.remove_param("0.weight")


def test_types_follow(graph: Graph) -> None:
    with graph.edit() as edit:
        edit.set_param("2.weight", torch.zeros(5, 6))
        edit.set_param("2.bias", torch.zeros(5))
    assert edit.graph.types["linear_1"].shape[-1] == 5


def test_leaving_verifies(graph: Graph) -> None:
    with pytest.raises(NetirError, match="input has 6 features") as caught, graph.edit() as edit:
        edit.set_param("2.weight", torch.zeros(2, 7))
    assert caught.value.where == "linear_1"
    assert graph.params["2.weight"].data.shape == (2, 6)


def test_an_exception_leaves_no_graph(graph: Graph) -> None:
    edit = graph.edit()
    with pytest.raises(NetirError, match="no node"), edit:  # noqa: PT012 - the block is the test
        edit.set_op("relu", Relu())
        edit.erase("rule")
    with pytest.raises(NetirError, match="not finished"):
        _ = edit.graph


class Branches(nn.Module):
    """A trunk and a branch of two nodes that can be cut off; one weight belongs to both."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 4)
        self.branch = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.branch[0].weight = self.trunk.weight
        self.spare = nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.trunk(x)
        return torch.relu(y + self.branch(y))


def test_sweep_erases_what_nothing_reads_any_more() -> None:
    model = Branches().eval()
    x = torch.randn(3, 4)
    graph = netir.trace(model, (x,))
    with graph.edit() as edit:
        edit.replace("add", "linear")
        edit.sweep()
    assert [n.op.name for n in edit.graph.nodes.values()] == ["linear", "relu"]
    assert set(edit.graph.params) == {"trunk.weight", "trunk.bias", "spare"}
    assert edit.graph.aliases == {"branch.0.weight": "trunk.weight"}
    assert set(edit.moves.removed) == {n for n in graph.params if n.startswith("branch.")}
    assert "branch.1.num_batches_tracked" in edit.moves.removed
    assert torch.equal(netir.run(edit.graph, x), torch.relu(model.trunk(x)))


def test_sweep_leaves_a_graph_in_which_all_is_read(graph: Graph) -> None:
    with graph.edit() as edit:
        edit.sweep()
    assert edit.log == []
    assert edit.graph.nodes == graph.nodes


@pytest.mark.parametrize("verb", ["erase", "set_op", "set_operands"])
def test_unknown_nodes_get_a_suggestion(graph: Graph, verb: str) -> None:
    arguments = {"erase": (), "set_op": (Relu(),), "set_operands": ([],)}[verb]
    with pytest.raises(NetirError, match="no node 'linaer'") as caught, graph.edit() as edit:
        getattr(edit, verb)("linaer", *arguments)
    assert caught.value.fix == "did you mean 'linear'?"
