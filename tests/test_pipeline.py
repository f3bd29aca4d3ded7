"""Pipelines: passes in order, each proved when it has run, and moves as one."""

import re
from typing import Any

import pytest
import torch
from torch import nn

import netir
from netir import NetirError, NetirWarning
from netir.builtin import BUILTINS
from netir.calibration import Calibration
from netir.errors import ContractError
from netir.ir import Graph
from netir.passes import Fold, Prune, PruneBranches, Slim, Widen
from netir.pipeline import Pipeline
from netir.spec.pipelines import pipeline_of
from tests.doubled import doubled
from tests.liar import Liar


@pytest.fixture(scope="module")
def graph() -> Graph:
    model, args = BUILTINS["residual"]()
    return netir.trace(model, args)


def test_every_pass_is_applied_and_proved(graph: Graph) -> None:
    pipeline = Pipeline([Prune(amount=0.3, compensate="constant"), Fold(), Widen(factor=2)])
    done = pipeline.apply(graph)
    assert [s.verdict.contract.value for s in done.steps if s.verdict] == [
        "masked", "exact-eval", "exact",
    ]  # fmt: skip
    assert [s.text for s in done.graph.history] == [str(p) for p in pipeline.passes]
    assert done.steps[0].before is graph
    assert done.graph is done.steps[-1].graph
    by_hand = graph
    for rewrite in pipeline.passes:
        by_hand = rewrite(by_hand)
    assert str(pipeline(graph)) == str(by_hand) == str(done.graph)
    assert re.search(r"fold\(\): 4 sites.*\n +exact-eval: holds, error", str(done))


def test_the_contract_is_checked_unless_told_not_to(graph: Graph) -> None:
    pipeline = Pipeline([Fold(), Liar()])
    with pytest.raises(ContractError, match="does not keep its contract 'exact'"):
        pipeline.apply(graph)
    done = pipeline.apply(graph, verify=False)
    assert [s.verdict for s in done.steps] == [None, None]
    assert "not verified" in str(done)


def test_the_inputs_given_are_those_of_the_proof(graph: Graph) -> None:
    with pytest.raises(NetirError, match="input 'image' has 2 dimensions"):
        Pipeline([Fold()]).apply(graph, torch.zeros(2, 3))
    Pipeline([Fold()]).apply(graph, (torch.randn(3, 1, 8, 8),))
    Pipeline([Fold()]).apply(graph, kwargs={"image": torch.randn(3, 1, 8, 8)})


def test_a_proof_on_nothing_is_refused(graph: Graph) -> None:
    wider, nothing = Widen(factor=2)(graph), torch.zeros(0, 1, 8, 8)
    with pytest.raises(NetirError, match="nothing to compare: the inputs have no entries") as error:
        netir.verify(graph, wider, nothing)
    assert error.value.where == "'image' of shape (0, 1, 8, 8)"
    assert error.value.fix == "pass at least one example"
    shifted = netir.trace(Shifted(), (torch.randn(2, 3), torch.randn(3)))
    with pytest.raises(NetirError, match="nothing to compare: the outputs have no entries"):
        netir.verify(shifted, shifted, (torch.zeros(0, 3), torch.randn(3)))


class Shifted(nn.Module):
    def forward(self, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        return x + by


def test_data_reaches_every_pass(graph: Graph) -> None:
    images = torch.randn(8, 1, 8, 8)
    pipeline = Pipeline([Prune(amount=0.3, compensate="mean")])
    with pytest.raises(NetirError, match="needs data"):
        pipeline(graph)
    done = pipeline.apply(graph, calibration=Calibration([images]))
    assert done.steps[0].report.changed


def test_moves_are_composed(graph: Graph) -> None:
    """An optimizer that follows the whole pipeline at once is where step after step leads."""
    graph = doubled(graph)
    pipeline = Pipeline([Prune(amount=0.3, compensate="constant"), Widen(factor=2)])
    done = pipeline.apply(graph)
    weight = graph.params["layer1.conv2.weight"].data
    momentum = torch.randn_like(weight)
    want = momentum
    for step in done.steps:
        want = step.result.moves.params["layer1.conv2.weight"].apply(want)
    have = done.moves.params["layer1.conv2.weight"].apply(momentum)
    torch.testing.assert_close(have, want, rtol=1e-12, atol=0)
    assert have.shape == done.graph.params["layer1.conv2.weight"].data.shape


def test_a_pass_that_finds_nothing_changes_nothing() -> None:
    linear = netir.trace(nn.Linear(3, 2), torch.randn(2, 3))
    with pytest.warns(NetirWarning, match="changes nothing"):
        done = Pipeline([Slim(ratio=0.5)]).apply(linear)
    assert done.graph is linear
    assert done.steps[0].verdict == netir.verify(linear, linear, torch.randn(2, 3))


def test_the_empty_pipeline_is_the_identity(graph: Graph) -> None:
    done = Pipeline().apply(graph)
    assert done.graph is graph
    assert not done.moves.params
    assert str(Pipeline()) == ""


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("tried to allocate 9 bytes")])
def test_memory_that_runs_out_is_told_with_the_pass(
    graph: Graph, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(Widen, "apply", full)
    with pytest.raises(NetirError, match=r"widen\(factor=2\) needs more memory than there is"):
        Pipeline([Widen(factor=2)]).apply(graph)


def test_only_passes_make_a_pipeline() -> None:
    with pytest.raises(NetirError, match="made of passes, not of str"):
        Pipeline(["fold"])  # type: ignore[list-item]


def test_pipelines_are_values() -> None:
    assert Pipeline([Fold()]) == Pipeline((Fold(),))
    assert Pipeline([Fold()]) != Pipeline([Fold(what="norm")])
    text = str(Pipeline([Fold(), Widen("layer1.*", factor=1.5)]))
    assert text == "fold() | widen(where='layer1.*', factor=1.5)"


@pytest.mark.parametrize(
    "pipeline",
    [
        Pipeline(),
        Pipeline([Fold()]),
        Pipeline([Prune("a|b 'c'.*", amount=0.25), Fold(what="norm scale"), Widen(to=12)]),
        Pipeline([PruneBranches(count=1), Slim(through_activations=True, energy=0.5)]),
    ],
    ids=str,
)
def test_text_comes_back(pipeline: Pipeline) -> None:
    assert pipeline_of(str(pipeline)) == pipeline


def test_text_as_people_write_it() -> None:
    wanted = Pipeline([Fold(), PruneBranches(amount=0.5), Widen()])
    assert pipeline_of(' fold|prune-branches ( amount = 0.5 ) |\n widen() ') == wanted


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("fold |", "this is no pipeline"),
        ("fold prune", "this is no pipeline"),
        ("fold(", "this is no pipeline"),
        ("widen(2)", "the options of widen cannot be read"),
        ("widen(factor=__import__('os'))", "the options of widen cannot be read"),
        ("widen(**{})", "the options of widen cannot be read"),
        ("widen(factor=2, factor=3)", "the options of widen cannot be read"),
        ("wide", "there is no pass 'wide'"),
        ("widen(faktor=2)", "faktor"),
        ("widen(factor='x')", "factor"),
    ],
)
def test_text_that_is_no_pipeline(text: str, what: str) -> None:
    with pytest.raises(NetirError, match=re.escape(what)):
        pipeline_of(text)
