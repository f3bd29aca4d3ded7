"""Mistakes with graphs: tracing, passes, running, editing, lowering, rewriting while training.

`MISTAKES` has them by the message that each ends in, written as docs/errors.md lists it. A mistake
is a function without arguments, and is made in an empty folder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import netir
from netir import Calibration, Graph, Moves, passes
from netir.basis import linear, select
from netir.builtin import BUILTINS
from netir.ir import Param, Ref
from netir.ops.pointwise import Relu
from netir.passes.growth.triggers import Every, Plateau, Weights
from netir.passes.methods import AutoRgn, Grower, North
from netir.passes.schedule import schedule
from tests.liar import Liar

Mistake = Callable[[], object]
X = torch.ones(2, 3)


class Calls(nn.Module):
    """A model that is one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Noisy(nn.Module):
    """A model that does more in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(x) if self.training else x


class Counting(nn.Module):
    """A model that writes to a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2


def net() -> nn.Sequential:
    """One free width of 4 between an input of 3 and an output of 2."""
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def written(name: str, content: bytes) -> Path:
    path = Path(name)
    path.write_bytes(content)
    return path


@cache
def graph() -> Graph:
    return netir.trace(net(), X)


@cache
def pictures() -> Graph:
    return netir.trace(*BUILTINS["residual"]())


def calls(function: Callable[..., Any], **options: Any) -> Graph:
    return netir.trace(Calls(function), torch.ones(2, 5), **options)


def diagonal(x: Tensor) -> Tensor:
    y = x * 1
    y.diagonal().add_(1)
    return y


TRACING: Mapping[str, Mistake] = {
    "cannot trace a …": lambda: netir.trace(torch.relu, X),  # type: ignore[arg-type]
    "there is no frontend '…'": lambda: netir.trace(net(), X, frontend="torch_fxx"),  # type: ignore[arg-type]
    "… cannot be called with these inputs: …": lambda: netir.trace(net(), ()),
    "torch.export cannot export …: …": lambda: netir.trace(net(), torch.ones(2, 5)),
    "torch.fx cannot trace …: …": lambda: calls(
        lambda x: x if x.sum() > 0 else -x, frontend="torch_fx"
    ),
    "cannot trace '…'": lambda: calls(
        lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))
    ),
    "cannot trace a write in place around '…', which is a view made by …":
        lambda: calls(diagonal),
    "cannot trace an input or output of type …": lambda: calls(lambda x: deque([x])),
    "cannot trace a dict with the key …": lambda: calls(lambda x: {3: x}),
    "dynamic names no input of the model: '…'": lambda: calls(torch.relu, dynamic={"y": {0: "n"}}),
    "axis … of '…', wanted open as '…', is always …: something in the model depends on this number":
        lambda: calls(lambda x: x.view(-1, 5) if x.shape[1] == 5 else x, dynamic={"x": {1: "n"}}),
    "dynamic of '…' is …": lambda: calls(torch.relu, dynamic={"x": {0: "a b"}}),
    "dynamic: '…' has no axis …": lambda: calls(torch.relu, dynamic={"x": {7: "n"}}),
    "the model has a size that depends on the values of its inputs":
        lambda: calls(lambda x: x.nonzero()),
    "the model returns a size, which depends on the inputs": lambda: calls(lambda x: x.shape[0]),
    "… computes something else in train mode (…); the graph is the network of eval mode":
        lambda: netir.trace(Noisy().eval(), X),
    "the model writes to its … in place; …": lambda: netir.trace(Counting(), X),
}


def piped(*steps: Any) -> Graph:
    return netir.Pipeline(steps)(graph())


PASSES: Mapping[str, Mistake] = {
    "'…' names no …": lambda: passes.Widen("layer9.*")(graph()),
    "space '…' cannot change": lambda: passes.Widen("2")(graph()),
    "… cannot change '…'": lambda: passes.Deepen("linear_1")(graph()),
    "… changes nothing. …": lambda: passes.Deepen("linear*")(graph()),
    "… changes nothing": lambda: passes.Deepen("linear*", require_change=True)(graph()),
    "this takes a graph, not …": lambda: passes.Widen()(net()),  # type: ignore[arg-type]
    "there is no space '…'": lambda: netir.change_basis(graph(), {"1": select([0])}),
    "the new width of '…' must be at least 1":
        lambda: netir.change_basis(graph(), {"0": select([])}),
    "an index of '…' is outside its …": lambda: netir.change_basis(graph(), {"0": select([9])}),
    "'…' has no index …": lambda: passes.Keep(keep=(("0", (0, 9)),))(graph()),
    "keep cannot use the indices of '…'": lambda: passes.Keep(keep=(("0", (1, 1)),)),
    "'…' cannot take a linear basis":
        lambda: netir.change_basis(graph(), {"0": linear(torch.ones(2, 4), torch.ones(4, 2))}),
    "… needs more memory than there is": lambda: piped(passes.Widen(factor=1e15)),
    "a pipeline is made of passes, not of …": lambda: piped("widen"),
    "there is no … '…'": lambda: passes.Prune(score="l3"),
    "widen cannot use factor …": lambda: passes.Widen(factor=0.5),
    "… has more than one width": lambda: passes.Widen(to=8, count=2),
    "grow cannot use …": lambda: passes.Grow(count=0),
    "prune cannot remove … of a space": lambda: passes.Prune(amount=1.0),
    "prune cannot keep … of the …": lambda: passes.Prune(macs=1.5),
    "prune has two targets: … and …": lambda: passes.Prune(amount=0.3, macs=0.5),
    "prune cannot reach …=…": lambda: passes.Prune(parameters=0.01, most=0.5)(graph()),
    "the score … gives … of shape …":
        lambda: passes.Prune(score=lambda space, evidence: torch.ones(7))(graph()),
    "'…' is no pattern of a mask": lambda: passes.Mask(pattern="4:2"),
    "deepen has no kind '…'": lambda: passes.Deepen(kind="dens"),  # type: ignore[arg-type]
    "shrink has no kind '…'": lambda: passes.Shrink(kind="dens"),  # type: ignore[arg-type]
    "… is given … and …": lambda: passes.Factorize(rank=2, energy=0.9),
    "… means nothing to kind='…'": lambda: passes.Shrink(kind="dense", exact=True),
    "a schedule cannot have … steps": lambda: schedule(passes.Prune(), 0),
    "… needs data": lambda: passes.Prune(score="taylor")(graph()),
    "the batches of a calibration are a …, not a list": lambda: Calibration(X),  # type: ignore[arg-type]
    "a calibration needs at least one batch": lambda: Calibration([]),
    "… targets for … batches": lambda: Calibration([X, X], [X]),
    "this needs gradients, and the calibration has no loss":
        lambda: passes.Prune(score="taylor")(graph(), Calibration([X])),
    "this needs gradients, and there is no loss":
        lambda: passes.Grow(init="gradmax")(graph(), Calibration([X])),
}


def false_bound() -> object:
    """A factor whose bound is made smaller than its error."""
    result = passes.Factorize("0", rank=1).apply(graph())
    bounds = {name: bound / 1e3 for name, bound in result.moves.bounds.items()}
    moves = Moves(result.moves.params, result.moves.values, bounds=bounds)
    return netir.verify(graph(), result.graph, X, contract="bounded", moves=moves)


def forgotten(contract: str) -> object:
    """A rewrite whose moves were lost on the way through a file."""
    netir.save(passes.Prune(amount=0.5)(graph()), "thin.netir")
    return netir.verify(graph(), netir.load("thin.netir"), X, contract=contract)


def fixed_number() -> object:
    class Powers(nn.Module):
        def forward(self, x: Tensor, power: int) -> Tensor:
            return x**power

    return netir.to_torch(netir.trace(Powers(), (X, 2)))(X, 3)


RUNNING: Mapping[str, Mistake] = {
    "the rewrite does not keep its contract '…': the outputs differ by …, where … is allowed":
        lambda: netir.Pipeline([Liar()])(pictures()),
    "the rewrite does not keep its contract 'bounded': '…' is off by … times what its bound allows":
        false_bound,
    "what was removed is not known, so the contract 'masked' cannot be checked":
        lambda: forgotten("masked"),
    "the contract 'bounded' needs a bound": lambda: forgotten("bounded"),
    "there is no contract '…'": lambda: netir.verify(graph(), graph(), X, contract="exakt"),
    "the two graphs return different numbers of tensors":
        lambda: netir.verify(graph(), graph().replace(output=(Ref("relu"), Ref("linear_1"))), X),
    "there is nothing to compare: the … have no entries":
        lambda: netir.verify(graph(), graph(), torch.ones(0, 3)),
    "'…' cannot be computed: …": lambda: netir.run(
        netir.trace(nn.Embedding(5, 2), torch.tensor([[1, 2]])), torch.tensor([[9, 9]])
    ),
    "… arguments for a graph that takes …": lambda: netir.run(graph(), X, X),
    "argument '…' is missing": lambda: netir.run(graph()),
    "argument '…' is a …, not a tensor": lambda: netir.run(graph(), [1.0, 2.0, 3.0]),
    "argument '…' is …, but the network was traced with …": fixed_number,
    "input '…' has … dimensions, the graph reads …": lambda: netir.run(graph(), torch.ones(3)),
    "input '…' has shape …, the graph reads …": lambda: netir.run(graph(), torch.ones(2, 5)),
}


def edited(change: Callable[[Any], object]) -> Graph:
    with graph().edit() as edit:
        change(edit)
    return edit.graph


EDITING: Mapping[str, Mistake] = {
    "there is no node '…'": lambda: edited(lambda e: e.erase("rellu")),
    "there is no value '…'": lambda: edited(lambda e: e.insert("x", Relu(), ["rellu"])),
    "there is a value called '…' already":
        lambda: edited(lambda e: e.insert("relu", Relu(), ["linear"])),
    "'…' cannot stand for '…': … is not …": lambda: edited(lambda e: e.replace("relu", "input")),
    "'…' cannot be erased": lambda: edited(lambda e: e.erase("relu")),
    "'@…' cannot be removed": lambda: edited(lambda e: e.remove_param("0.weight")),
    "the edit is not finished": lambda: edited(lambda e: e.graph),
    "value '…' is read before it is made":
        lambda: edited(lambda e: e.set_operands("relu", ["linear_1"])),
}


def foreign_file() -> None:
    Path("net.py").write_text("mine = 1\n")
    netir.to_python(graph(), "net.py")


LOWERING: Mapping[str, Mistake] = {
    "'…' is not the name of a Python file": lambda: netir.to_python(graph(), "net.txt"),
    "'…' exists, and netir did not write it": foreign_file,
    "'…' cannot be the name of an argument":
        lambda: netir.to_torch(graph().replace(arguments={"class": Ref("input")})),
    "'…' cannot be the name of a parameter or module here": lambda: netir.to_torch(
        graph().replace(params={**graph().params, "graph.weight": Param(X)})
    ),
    "the cost depends on the size '…'": lambda: netir.cost(sized()),
    "the network has no size '…'": lambda: netir.cost(sized(), {"height": 3}),
    "the size '…' has no number": lambda: netir.to_onnx(sized(), "net.onnx"),
    "latency cannot be measured with …": lambda: netir.latency(net(), X, calls=0),
    "a … cannot be timed": lambda: netir.latency(7, X),  # type: ignore[arg-type]
    "… tensors for a network that takes …": lambda: netir.latency(session(), (X, X)),
    "no group is called '…'": lambda: netir.equivariance(graph(), "Z2", X),
    "… moves pixels between pixels, where nothing is exact":
        lambda: netir.equivariance(graph(), "C8", X),
    "lift cannot use …, which moves pixels between pixels": lambda: passes.Lift(to="C8"),
    "no input is a batch of maps": lambda: netir.equivariance(graph(), "C4", X),
    "input '…' is … pixels, which cannot turn":
        lambda: netir.equivariance(netir.trace(nn.ReLU(), torch.ones(2, 3, 9, 7)), "C4",
                                   torch.ones(2, 3, 9, 7)),
}  # fmt: skip


def sized() -> Graph:
    return calls(torch.relu, dynamic={"x": {1: "length"}})


def session() -> Any:
    import onnxruntime

    netir.to_onnx(graph(), "net.onnx")
    return onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])


def rewritten(
    model: nn.Module,
    make: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    between: Callable[[Any], object] = lambda model: None,
    **options: Any,
) -> object:
    """A model that trains for a step, and is rewritten twice."""
    optimizer = make(model.parameters(), lr=0.1)
    live = netir.Live(model, optimizer, X, **options)

    def loss() -> Tensor:
        optimizer.zero_grad()
        found: Tensor = model(X).square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    live.apply(passes.Widen("0", factor=2))
    between(model)
    return live.apply(passes.Widen("0", factor=2))


def hooked() -> object:
    class Inner(nn.Sequential):
        """A part of a model."""

    model = nn.Sequential(Inner(*net()), nn.Linear(2, 2))
    model[0].register_forward_hook(lambda *args: None)
    return netir.Live(model, (), X).apply(passes.Widen("0.0", factor=2))


def attribute_taken() -> object:
    class Factored(nn.Linear):
        def reduce(self) -> None:
            """Stands where a factor of the weight would be."""

    model = nn.Sequential(Factored(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return netir.Live(model, (), X).apply(passes.Factorize("0", rank=1))


def forget_weight(model: Any) -> None:
    model[0].weight.data = torch.zeros(5, 5)


LIVE: Mapping[str, Mistake] = {
    "the model has not been called yet, so its inputs are not known":
        lambda: netir.Live(net()).apply(passes.Widen()),
    "… trains no parameter of this model":
        lambda: netir.Live(net(), torch.optim.SGD(net().parameters())),
    "the model was changed by something else since its last rewrite":
        lambda: rewritten(net(), between=forget_weight),
    "an averaged copy is not a copy of the model as it is now":
        lambda: rewritten(net(), averages=[nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))]),
    "the hooks of '…' (…) are not called after this rewrite: …": hooked,
    "LBFGS keeps one state for all parameters together":
        lambda: rewritten(net(), torch.optim.LBFGS),
    "… keeps '…' of shape … for a parameter of shape …":
        lambda: rewritten(net(), torch.optim.Adafactor),
    "'…' is an attribute of … already": attribute_taken,
    "DataParallel copies the model at every call, so it cannot be rewritten in place":
        lambda: netir.Live(nn.DataParallel(net())),
    "a model whose parameters are sharded cannot be rewritten in place":
        lambda: netir.Live(type("FSDPModule", (nn.Module,), {})()),
}


def watched(grower: Grower, model: nn.Module) -> object:
    """What a grower says of a model after a batch of many examples."""
    batch = torch.ones(40, 3)
    return grower.step(netir.Live(model, (), batch), batch)


def of_nothing() -> nn.Module:
    """A model whose first weights are no numbers."""
    model = net()
    nn.init.constant_(model[0].weight, torch.nan)
    return model


GROWING: Mapping[str, Mistake] = {
    "a grower needs a trigger": Grower,
    "a grower cannot use …": lambda: Grower(Every(1), most=0),
    "a grower cannot observe '…'": lambda: North(observe="bach"),  # type: ignore[arg-type]
    "a trigger cannot use …": lambda: Every(0),
    "the trigger 'plateau' needs the loss": lambda: watched(Grower(Plateau()), net()),
    "no parameter has a gradient":
        lambda: AutoRgn(torch.optim.SGD(net().parameters()), batches=1).observe(),
    "the activations of '…' cannot be used: …": lambda: watched(North(), of_nothing()),
    "the weights of '…' cannot be used: …":
        lambda: watched(Grower(Weights()), of_nothing()),
}

MISTAKES = {**TRACING, **PASSES, **RUNNING, **EDITING, **LOWERING, **LIVE, **GROWING}
