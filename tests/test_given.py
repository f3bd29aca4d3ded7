"""What a program may hand over by mistake: options of a wrong type, a module for a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import netir
from netir import passes
from netir.errors import NetirError
from netir.ir import Graph
from netir.rewrite import Contract, EditPass

if TYPE_CHECKING:
    from netir.nowhere import Unknown  # type: ignore[import-not-found]


def module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return netir.trace(module(), (torch.randn(2, 3),))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("widen", {"factor": "2"}, "widen cannot use factor '2'\n  fix use a number or None"),
        ("prune", {"where": 5}, "prune cannot use where 5\n  fix use a string"),
        ("prune", {"seed": None}, "prune cannot use seed None\n  fix use a whole number"),
        ("prune", {"score": 3}, "prune cannot use score 3\n  fix use a string or a function"),
        ("prune", {"amount": True}, "prune cannot use amount True\n  fix use a number or None"),
        ("deepen", {"norm": 1}, "deepen cannot use norm 1\n  fix use True or False"),
        ("deepen", {"pool": 2}, "deepen cannot use pool 2\n  fix use 'avg' or 'max' or 'random'"),
        ("keep", {"keep": (("0", 3),)}, r"keep cannot use keep \(\('0', 3\),\)\n  fix use a tuple"),
        ("fold", {"require_change": "no"}, "fold cannot use require_change 'no'"),
    ],
)
def test_options_of_a_wrong_type(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetirError, match=message):
        passes.PASSES[name](**options)


def test_options_of_a_like_type() -> None:
    assert passes.Widen(factor=2).factor == 2
    assert passes.Keep(keep=[["0", [1, 2]]]).keep == [["0", [1, 2]]]  # type: ignore[arg-type]


def test_a_type_that_only_type_checkers_know() -> None:
    @dataclass(frozen=True)
    class Odd(EditPass):
        """Of another package."""

        name: ClassVar[str] = "odd"
        preserves: ClassVar[Contract] = Contract.EXACT
        odd: "Unknown | None" = None  # noqa: UP037

    assert Odd(odd=3).odd == 3


@pytest.mark.parametrize(
    "use",
    [
        passes.Prune(), passes.Fold(), passes.Factorize(), passes.Mask(), passes.Relax(),
        lambda net: list(passes.Deepen().match(net)), passes.Widen().apply, netir.cost,
        netir.to_torch, lambda net: netir.save(net, "net.netir"),
        lambda net: netir.to_python(net, "net.py"), lambda net: netir.to_onnx(net, "net.onnx"),
        lambda net: netir.run(net, torch.randn(2, 3)), netir.check,
        lambda net: netir.verify(net, net, torch.randn(2, 3)), lambda net: netir.compare(net, net),
    ],
)  # fmt: skip
def test_a_module_is_no_graph(
    use: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NetirError, match=r"takes a graph, not Sequential\n  fix netir.trace"):
        use(module())
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_is_no_calibration(graph: Graph) -> None:
    data: Any = torch.randn(4, 3)
    with pytest.raises(NetirError, match=r"needs a calibration, not Tensor\n  fix pass netir.Cal"):
        passes.Prune(score="activation")(graph, data)


def test_only_prune_has_schedules() -> None:
    other: Any = passes.Widen()
    with pytest.raises(NetirError, match=r"no schedule for widen\(\)\n  fix give a Prune"):
        passes.schedule(other, 2)


@pytest.mark.parametrize(
    "pass_",
    [
        lambda name: passes.Keep(keep=(("0", (0,)), (name, (0,)))),
        lambda name: passes.Grow(counts=(("0", 1), (name, 1))),
    ],
)
def test_every_space_that_is_named_must_be_there_and_free(
    pass_: Callable[[str], passes.Keep | passes.Grow], graph: Graph
) -> None:
    with pytest.raises(NetirError, match="'1' names no space\n  fix known: 0, 0:1, 2"):
        pass_("1")(graph)
    with pytest.raises(NetirError, match="space '2' cannot change\n  at  graph output"):
        pass_("2")(graph)


def test_reasons_that_something_can_be_done_about_come_first(graph: Graph) -> None:
    wanted = passes.Slim(rank=2, require_change=True)
    with pytest.raises(NetirError, match="at  0: relu bends it: through_activations"):
        wanted(graph)


def test_a_pass_that_changes_nothing_warns_where_it_was_asked(graph: Graph) -> None:
    nothing, live = passes.Slim(rank=2), netir.Live(module(), example=torch.randn(2, 3))
    for ask in (nothing, nothing.apply):
        with pytest.warns(netir.NetirWarning, match="changes nothing") as told:
            ask(graph)
        assert told[0].filename == __file__
    with pytest.warns(netir.NetirWarning, match="changes nothing") as told:
        live.apply(nothing)
    assert told[0].filename == __file__


@dataclass
class Answer:
    """What a model gives, unknown to torch."""

    value: Tensor


class Answering(nn.Module):
    """A model that gives a dataclass."""

    def forward(self, x: Tensor) -> Answer:
        return Answer(x + 1)


def test_a_dataclass_that_torch_does_not_know() -> None:
    with pytest.raises(NetirError, match=r"fix for a dataclass, call torch\.export\.reg"):
        netir.trace(Answering(), (torch.randn(2, 3),))
