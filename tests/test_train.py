"""Training: the same weights for the same seed, interrupted or not, and every refusal."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import netir
from netir.builtin import BUILTINS
from netir.errors import NetirError
from netir.optimizers import (
    OPTIMIZERS,
    load_optimizer_state,
    make_optimizer,
    moved_optimizer_state,
    optimizer_state,
)
from netir.passes import Deepen, Factorize, Fold, Prune, Widen
from netir.task import Task
from netir.tasks import Digits
from netir.train import Epoch, TrainOptions, evaluate, train

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0)
TASK = Task.of((X, Y), (X, Y), batch_size=8)


def network() -> nn.Module:
    """A network that draws while it trains, and counts."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.2), nn.Linear(10, 3)
        ).eval()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


# The same for the same seed


def test_same_bytes_twice_and_nobody_elses_chance_is_touched() -> None:
    options = TrainOptions(epochs=2, lr=0.1)
    first = train(network(), TASK, options)
    torch.rand(9)
    state = torch.get_rng_state()
    second = train(network(), TASK, options)
    assert torch.equal(state, torch.get_rng_state())
    assert same(tensors(first.module), tensors(second.module))
    assert [(e.loss, e.score) for e in first.epochs] == [(e.loss, e.score) for e in second.epochs]
    other = train(network(), TASK, TrainOptions(epochs=2, lr=0.1, seed=1))
    assert not same(tensors(first.module), tensors(other.module))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_interrupted_training_ends_the_same(name: str, tmp_path: Path) -> None:
    """Module and optimizer go through files after the second of four epochs."""
    options = TrainOptions(epochs=4, optimizer=name, schedule="cosine", clip=1.0, warmup=0.1)
    module = network()
    optimizer = make_optimizer(module, name)

    def save(epoch: Epoch) -> None:
        if epoch.number == 2:
            save_file(tensors(module), tmp_path / "weights")
            save_file(optimizer_state(optimizer, module), tmp_path / "state")

    whole = train(module, TASK, options, optimizer=optimizer, on_epoch=save)
    again = network()
    again.load_state_dict(load_file(tmp_path / "weights"))
    second = make_optimizer(again, name)
    load_optimizer_state(second, again, load_file(tmp_path / "state"))
    rest = train(again, TASK, options, optimizer=second, first=2)
    assert same(tensors(whole.module), tensors(rest.module))
    assert same(whole.state, rest.state)
    assert [e.number for e in rest.epochs] == [3, 4]
    assert whole.epochs[2].score == rest.epochs[0].score


def test_steps_end_in_the_middle_of_an_epoch() -> None:
    done = train(network(), TASK, TrainOptions(steps=8, batch_size=8))
    assert [(e.number, e.steps) for e in done.epochs] == [(1, 6), (2, 2)]
    rest = train(network(), TASK, TrainOptions(steps=8), first=1)
    assert [(e.number, e.steps) for e in rest.epochs] == [(2, 2)]


def test_training_does_what_a_plain_loop_does() -> None:
    module, plain = network(), network().train()
    module[3].p = plain[3].p = 0.0  # type: ignore[index]
    options = TrainOptions(epochs=1, lr=0.1, momentum=0.5, weight_decay=0.01, label_smoothing=0.1)
    done = train(module, TASK, options)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01)
    for x, y in TASK.train_batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(x), y, label_smoothing=0.1).backward()
        optimizer.step()
    assert same(tensors(module), tensors(plain))
    plain.eval()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(plain(X), Y)
        right = (plain(X).argmax(1) == Y).float().mean()
    assert done.score is not None
    assert done.score.loss == pytest.approx(float(loss))
    assert done.score.metric == pytest.approx(float(right))


def test_module_and_optimizer_come_back_as_they_were() -> None:
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    epochs = train(
        module, TASK, TrainOptions(epochs=2, schedule="linear"), optimizer=optimizer
    ).epochs
    assert optimizer.param_groups[0]["lr"] == 0.02
    assert epochs[-1].lr == pytest.approx(0.02 / 12)
    assert not module.training
    module.train()
    module[1].eval()  # type: ignore[index]
    score = evaluate(module, TASK)
    assert (module.training, module[1].training) == (True, False)  # type: ignore[index]
    graph = netir.trace(module.eval(), X)
    assert evaluate(graph, TASK) == score


def test_settings_replace_those_of_a_given_optimizer() -> None:
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    train(module, TASK, TrainOptions(lr=0.5, momentum=0.9, evaluate=False), optimizer=optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 1, 1, 1]),
        ({"schedule": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"schedule": "cosine"}, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ({"warmup": 0.5}, [1 / 3, 2 / 3, 1, 1]),
        ({"schedule": "linear", "warmup": 0.5}, [1 / 3, 2 / 3, 1, 0.5]),
        ({"schedule": "one-cycle"}, [0.04, 1, 0.75, 0.25]),
    ],
)
def test_schedules(options: dict[str, Any], expected: list[float]) -> None:
    found = [TrainOptions(**options).rate(step, 4) for step in range(4)]
    assert found == pytest.approx(expected)


def test_clipped_gradients_make_small_steps() -> None:
    moved = []
    for clip in (None, 1e-3):
        module = network()
        before = tensors(module)
        train(module, TASK, TrainOptions(steps=1, lr=1.0, momentum=0.0, clip=clip))
        gone = [(p.detach() - before[n]).square().sum() for n, p in module.named_parameters()]
        moved.append(math.sqrt(float(sum(gone))))
    assert moved[0] > 0.01
    assert moved[1] == pytest.approx(1e-3, rel=1e-3)


def test_bfloat16_trains() -> None:
    done = train(network(), TASK, TrainOptions(epochs=3, lr=0.1, amp=True))
    plain = train(network(), TASK, TrainOptions(epochs=3, lr=0.1))
    assert done.epochs[-1].loss != plain.epochs[-1].loss
    assert done.epochs[-1].loss == pytest.approx(plain.epochs[-1].loss, rel=0.1)
    assert {p.dtype for p in done.module.parameters()} == {torch.float32}


def test_a_loader_without_a_length() -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(X[:8], Y[:8]), (X[8:], Y[8:])])

    task = Task.of(Stream(), [(X, Y)])
    assert [e.steps for e in train(network(), task, TrainOptions(epochs=2)).epochs] == [2, 2]
    steps = train(network(), task, TrainOptions(steps=3, schedule="cosine"))
    assert [e.steps for e in steps.epochs] == [2, 1]
    for options, first in ((TrainOptions(schedule="cosine"), 0), (TrainOptions(steps=3), 1)):
        with pytest.raises(NetirError, match="cannot tell how many batches it has"):
            train(network(), task, options, first=first)


# On real pictures


def test_the_digits_network_learns() -> None:
    model, _ = BUILTINS["digits_cnn"]()
    options = TrainOptions(epochs=5, optimizer="adamw", lr=0.005, schedule="one-cycle")
    done = train(model, Digits(), options)
    assert done.score is not None
    assert done.score.metric >= 0.98
    assert done.epochs[0].loss > done.epochs[-1].loss


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    module = network()
    module[3].p = 0.0  # type: ignore[index]
    other = copy.deepcopy(module)
    optimizer = make_optimizer(module, "adamw")
    options = {"epochs": 2, "lr": 0.01}
    for device in ("cuda", "auto", "cpu"):  # moments go there and back
        train(module, TASK, TrainOptions(device=device, **options), optimizer=optimizer)
        assert {p.device.type for p in module.parameters()} == {"cpu"}
        assert all(t.device.type == "cpu" for t in optimizer_state(optimizer, module).values())
    again = make_optimizer(other, "adamw")
    for _ in range(3):
        train(other, TASK, TrainOptions(device="cpu", **options), optimizer=again)
    for name, tensor in tensors(module).items():
        torch.testing.assert_close(tensor, other.state_dict()[name], atol=1e-2, rtol=1e-2)
    assert evaluate(module, TASK, "cuda").metric == evaluate(module, TASK).metric


# Between two trainings the network is rewritten


def moved_both_ways(rewrite: netir.passes.Pass | Any) -> tuple[dict[str, Tensor], nn.Module]:
    """A state moved as tensors; the same state moved in an optimizer; they must agree."""
    model, args = BUILTINS["residual"]()
    first = netir.to_torch(netir.trace(model, args))
    optimizer = make_optimizer(first, "adamw")
    done = train(first, Digits(), TrainOptions(steps=4, evaluate=False), optimizer=optimizer)
    before = netir.trace(first, args)
    result = rewrite.apply(before)
    after = netir.to_torch(result.graph)
    state = moved_optimizer_state(done.state, result.moves, before)
    fresh = make_optimizer(after, "adamw")
    load_optimizer_state(fresh, after, state)
    netir.move_optimizer(optimizer, result.moves, first, after)
    kept = set(dict(after.named_parameters()))
    moved = {k: v for k, v in _state_of(optimizer, after).items() if k.partition("/")[2] in kept}
    assert same(dict(sorted(state.items())), dict(sorted(moved.items())))
    return state, after


def _state_of(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    own = set(module.parameters())
    for parameter in [p for p in optimizer.state if p not in own]:
        del optimizer.state[parameter]
    return optimizer_state(optimizer, module)


@pytest.mark.parametrize(
    "rewrite", [Widen("*", factor=1.5), Prune("*", amount=0.5), Fold(), Factorize("*", rank=3)]
)
def test_moments_follow_a_rewrite(rewrite: Any) -> None:
    state, after = moved_both_ways(rewrite)
    shapes = {n: p.shape for n, p in after.named_parameters()}
    for key, tensor in state.items():
        what, _, name = key.partition("/")
        assert tensor.shape == (() if what == "step" else shapes[name])
    assert {float(t) for key, t in state.items() if key.startswith("step/")} == {4.0}


def test_new_parameters_start_afresh() -> None:
    model, args = BUILTINS["digits_mlp"]()
    graph = netir.trace(model, args)
    done = train(netir.to_torch(graph), Digits(), TrainOptions(steps=2, optimizer="adam"))
    result = Deepen("*").apply(graph)
    assert result.moves.added
    state = moved_optimizer_state(done.state, result.moves, graph)
    module = netir.to_torch(result.graph)
    optimizer = make_optimizer(module, "adam")
    load_optimizer_state(optimizer, module, state)
    fresh = {n for n, p in module.named_parameters() if p not in optimizer.state}
    assert fresh == {n for n in result.moves.added if n in dict(module.named_parameters())}
    train(module, Digits(), TrainOptions(steps=1, evaluate=False), optimizer=optimizer)


def test_a_live_network_is_rewritten_between_epochs() -> None:
    model, _ = BUILTINS["digits_mlp"]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    live = netir.Live(model, optimizer)
    scores: list[float] = []

    def grow(epoch: Epoch) -> None:
        assert epoch.score is not None
        scores.append(epoch.score.metric)
        if epoch.number == 1:
            live.apply(Widen("*", factor=1.25))
            assert evaluate(model, Digits()).metric == pytest.approx(epoch.score.metric)

    done = train(live, Digits(), TrainOptions(epochs=3), on_epoch=grow)
    assert model.layers[1].out_features == 160  # type: ignore[index,union-attr]
    assert scores[2] > scores[0]
    assert done.optimizer is optimizer
    assert optimizer.param_groups[0]["lr"] == 0.003


def test_tied_weights_keep_one_state() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
            self.two.weight = self.one.weight
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.two(self.one(x).relu()))
            return logits

    graph = netir.trace(Tied(), X)
    module = netir.to_torch(graph)
    done = train(module, TASK, TrainOptions(steps=2))
    renamed = {k.replace("one.weight", "two.weight"): v for k, v in done.state.items()}
    optimizer = make_optimizer(module)
    load_optimizer_state(optimizer, module, renamed)
    assert same(optimizer_state(optimizer, module), done.state)
    moved = moved_optimizer_state(renamed, netir.Moves(), graph)
    assert same(moved, done.state)


# Refusals


def bad(name: str, value: Any) -> Callable[[], Any]:
    return lambda: TrainOptions(**{name: value})


class Stateful(torch.optim.SGD):
    """An optimizer that remembers what no file can hold."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["names"] = ["a"]


def stepped(cls: Any = torch.optim.SGD, **options: Any) -> tuple[torch.optim.Optimizer, nn.Module]:
    module = network()
    optimizer = cls(module.parameters(), lr=0.1, **options)
    module(X).sum().backward()
    optimizer.step()
    return optimizer, module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainOptions(epochs=1, steps=1), "epochs and steps are both given"),
        (bad("epochs", 0), "epochs=0"),
        (bad("steps", -1), "steps=-1"),
        (bad("batch_size", 0), "batch_size=0"),
        (bad("lr", 0.0), "lr=0.0"),
        (bad("lr", math.nan), "lr=nan"),
        (bad("clip", math.inf), "clip=inf"),
        (bad("momentum", 1.0), "momentum=1.0"),
        (bad("weight_decay", -0.1), "weight_decay=-0.1"),
        (bad("warmup", 1.5), "warmup=1.5"),
        (bad("label_smoothing", 1), "label_smoothing=1"),
        (bad("optimizer", "adm"), "did you mean 'adam'"),
        (bad("schedule", "cosin"), "did you mean 'cosine'"),
        (bad("device", "gpu"), "there is no device 'gpu'"),
        (bad("device", "cuda:77"), "there is no device 'cuda:77' here"),
        (lambda: TrainOptions(schedule="one-cycle", warmup=0.1), "one-cycle has a rise of its own"),
        (lambda: train(network(), TASK, TrainOptions(optimizer="adam", momentum=0.5)),
         "the optimizer 'adam' has no momentum"),
        (lambda: train(network().requires_grad_(False), TASK), "has no parameter to train"),
        (lambda: train(netir.trace(network(), X), TASK), "a Graph cannot be trained"),  # type: ignore[arg-type]
        (lambda: train(network(), Task.of([], [(X, Y)])), "there is nothing to train on"),
        (lambda: train(nn.Linear(5, 3), TASK), "the network cannot be called with a batch"),
        (lambda: train(network(), TASK, TrainOptions(optimizer="adam"), optimizer=stepped()[0]),
         "the optimizer is SGD, and 'adam' is asked for"),
        (lambda: train(network(), TASK, TrainOptions(momentum=0.5),
                       optimizer=stepped(torch.optim.Adam)[0]), "Adam has no momentum"),
        (lambda: train(network(), TASK, optimizer=stepped()[0]), "SGD trains no parameter of this"),
        (lambda: (lambda m: train(m, TASK, optimizer=torch.optim.LBFGS(m.parameters())))(network()),
         "LBFGS needs several losses"),
        (lambda: train(network(), TASK, first=-1), "first=-1"),
        (lambda: TrainOptions(nesterov=True, momentum=0.0), "nesterov without momentum"),
        (lambda: train(netir.Live(network()), TASK), "a Live with 0 optimizers"),
        (lambda: optimizer_state(stepped(momentum=0.9)[0], network()), "not in this module"),
        (lambda: optimizer_state(*stepped(Stateful)), "remembers a list as 'names'"),
        (lambda: load_optimizer_state(*stepped(), {"exp_avg/0.weight": X}),
         "SGD remembers no 'exp_avg'"),
        (lambda: load_optimizer_state(*stepped(momentum=0.9), {"momentum_buffer/9.weight": X}),
         "the network has no parameter '9.weight'"),
        (lambda: load_optimizer_state(*stepped(momentum=0.9), {"momentum_buffer/0.weight": X}),
         r"the state has shape \(48, 6\), the parameter \(10, 6\)"),
        (lambda: load_optimizer_state(*stepped(torch.optim.Adam), {"step/0.bias": torch.ones(())}),
         "the state of '0.bias' lacks 'exp_avg'"),
        (lambda: load_optimizer_state(torch.optim.LBFGS(network().parameters()), network(), {}),
         "LBFGS cannot be given a state"),
        (lambda: moved_optimizer_state({"momentum_buffer/9.weight": X}, netir.Moves(),
                                       netir.trace(network(), X)), "is not of this network's '9"),
        (lambda: moved_optimizer_state({"momentum_buffer/0.weight": X}, netir.Moves(),
                                       netir.trace(network(), X)), "is not of this network's '0"),
    ],
)  # fmt: skip
def test_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(NetirError, match=message):
        make()


def test_a_loss_that_is_no_number_says_where() -> None:
    module = network()
    options = TrainOptions(epochs=5, lr=1e30)
    with pytest.raises(NetirError, match=r"the loss is (nan|inf)") as caught:
        train(module, TASK, options)
    assert caught.value.where.startswith("epoch 1, step ")
    assert "lower the learning rate (1e+30)" in caught.value.fix
    assert not module.training


def test_numbers_in_a_state_stay_numbers() -> None:
    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            for group in self.param_groups:
                for parameter in group["params"]:
                    state = self.state[parameter]
                    state["count"] = state.get("count", 0) + 1
                    state["share"] = state["count"] / 3
                    state["even"] = state["count"] % 2 == 0

    optimizer, module = stepped(Counting)
    state = {k: v for k, v in optimizer_state(optimizer, module).items() if "bias" in k}
    fresh = Counting(module.parameters(), lr=0.1)
    load_optimizer_state(fresh, module, state)
    for parameter, found in fresh.state.items():
        assert found == optimizer.state[parameter]
        assert [type(v) for v in found.values()] == [int, float, bool]


def test_a_refused_training_leaves_the_optimizer_and_modes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model[1].eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    task = Task.of(arrays := (torch.randn(8, 3), torch.randn(8, 1)), arrays, loss="mse")
    with pytest.raises(NetirError):
        train(model, task, TrainOptions(lr=9.0, label_smoothing=0.1), optimizer=optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.5
    train(model, task, TrainOptions(steps=1, device="cpu"), optimizer=optimizer)
    assert model.training
    assert not model[1].training, "a layer in eval mode is so again"


def test_gradients_of_what_is_not_trained_do_not_add_up() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.0)
    batch = (torch.randn(8, 3), torch.randn(8, 1))
    task = Task.of([batch], [batch], loss="mse")
    sizes = []
    train(model, task, TrainOptions(epochs=3, device="cpu", momentum=0.0), optimizer=optimizer,
          on_step=lambda *_: sizes.append(float(model[0].weight.grad.norm())))  # fmt: skip
    assert sizes == pytest.approx([sizes[0]] * 3)


def test_batches_of_one_are_as_many_as_there_are_steps() -> None:
    arrays = (torch.randn(5, 3), torch.randn(5, 1))
    task = Task.of(arrays, arrays, loss="mse", batch_size=1)
    assert len(list(task.train_batches(0))) == task.steps() == 5
