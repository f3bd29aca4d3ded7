"""Tasks: every form of data, the same batches for the same seed, and every refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import netir
from netir.builtin import BUILTINS
from netir.errors import NetirError
from netir.losses import LOSSES, METRICS, Metric, loss_of, metric_of
from netir.passes import Prune
from netir.score import evaluate
from netir.task import Data, Task
from netir.tasks import Digits, Images

X, Y = torch.arange(40.0).view(10, 4), torch.arange(10) % 3


def own(**options: Any) -> Task:
    return Task.of((X, Y), (X[:4], Y[:4]), batch_size=4, **options)


def seen(task: Task, epoch: int = 0) -> list[Tensor]:
    return [x for x, _ in task.train_batches(epoch)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


# The batches


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    first = seen(Digits(shift=1, flip=True))
    torch.rand(7)
    assert same(first, seen(Digits(shift=1, flip=True)))
    assert not same(first, seen(Digits(shift=1, flip=True), epoch=1))
    assert not same(first, seen(Digits(shift=1, flip=True, seed=1)))


def test_an_epoch_holds_every_example_once() -> None:
    batches = list(own().train_batches())
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    assert sorted(torch.cat([x for x, _ in batches])[:, 0].tolist()) == X[:, 0].tolist()
    assert all(torch.equal(y, (x[:, 0].long() // 4) % 3) for x, y in batches)


def test_no_example_trains_alone() -> None:
    task = Task.of((X[:9], Y[:9]), (X, Y), batch_size=4)
    assert [len(x) for x in seen(task)] == [4, 5]
    assert task.steps() == 2
    assert [task.steps(size) for size in (1, 2, 3, 9, 99)] == [9, 4, 3, 1, 1]


def test_test_batches_keep_their_order() -> None:
    (batch,) = own().test_batches()
    assert torch.equal(batch[0], X[:4])


def test_nobody_elses_chance_is_touched() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    for task in (Digits(shift=1), Task.of(loader, loader)):
        seen(task)
        task.calibration(8)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # type: ignore[index]


def test_a_loader_shuffles_by_the_seed() -> None:
    task = Task.of(DataLoader(TensorDataset(X, Y), 3, shuffle=True), [(X, Y)], seed=3)
    first = seen(task)
    torch.rand(5)
    assert same(first, seen(task))
    assert not same(first, seen(task, epoch=1))
    assert task.steps() == 4


class Squares(Dataset[tuple[Tensor, int]]):
    """Single examples, one of them with noise."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index] + torch.rand(1), index % 2


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Any:
        return iter([(X, Y), (X, Y)])


def test_data_sets_of_single_examples() -> None:
    task = Task.of(Squares(), Squares(), batch_size=4)
    first = list(task.train_batches())
    assert [len(x) for x, _ in first] == [4, 4, 2]
    assert same([x for x, _ in first], seen(task))
    assert task.steps() == 3
    assert task.classes is None


def test_streams_and_lists() -> None:
    assert len(seen(Task.of(Stream(), [(X, Y)]))) == 2
    assert Task.of(Stream(), [(X, Y)]).steps() is None
    assert Task.of([(X, Y)] * 3, [(X, Y)]).steps() == 3


def test_tensor_data_sets_are_arrays() -> None:
    one, two = TensorDataset(X, Y), TensorDataset(X, X, Y)
    assert Task.of(one, one).classes == 3
    assert Task.of(two, two).inputs.keys() == {"x0", "x1"}


def test_numpy_several_inputs_and_named_ones() -> None:
    pair = (X.double().numpy(), X.int().numpy())
    task = Task.of((pair, Y.numpy()), (pair, Y.numpy()), batch_size=4)
    inputs, target = next(task.train_batches())
    assert [t.dtype for t in inputs] == [torch.float32, torch.int32]
    assert target.dtype == torch.int64
    named = {"left": X, "right": X[:, :1]}
    task = Task.of((named, Y), (named, Y))
    assert {n: str(t) for n, t in task.inputs.items()} == {
        "left": "f32[batch, 4]", "right": "f32[batch, 1]",
    }  # fmt: skip
    assert {n: tuple(t.shape) for n, t in task.example().items()} == {  # type: ignore[union-attr]
        "left": (2, 4), "right": (2, 1),
    }  # fmt: skip


def test_batches_of_numpy_arrays() -> None:
    x, y = next(Task.of([(X.numpy(), Y.numpy())], [(X, Y)]).train_batches())
    assert torch.equal(x, X)
    assert torch.equal(y, Y)


def test_the_example_traces_a_network() -> None:
    task = Digits()
    graph = netir.trace(BUILTINS["digits_mlp"]()[0], task.example())
    assert [str(t) for t in task.inputs.values()] == [str(t) for t in graph.inputs.values()]


def test_calibration_is_what_passes_take() -> None:
    task = Digits(shift=3, batch_size=50)
    seen_ = task.calibration(120, seed=1)
    assert [len(x) for x in seen_.batches] == [50, 50, 20]
    again, other = task.calibration(120, seed=1), task.calibration(120, seed=2)
    assert same(list(seen_.batches), list(again.batches))
    assert not same(list(seen_.batches), list(other.batches))
    pictures = torch.cat([x for x, _ in Digits(batch_size=2000).train_batches()])
    known = {p.numpy().tobytes() for p in pictures}
    assert all(p.numpy().tobytes() in known for x in seen_.batches for p in x), "not moved"


@pytest.mark.parametrize("options", [{"score": "taylor"}, {"compensate": "least-squares"}])
def test_passes_that_look_at_data(options: dict[str, Any]) -> None:
    task = Digits()
    model, args = BUILTINS["digits_cnn"]()
    graph = netir.trace(model, args)
    pruned = Prune("layer1.*", amount=0.5, **options)(graph, task.calibration(64))
    assert netir.cost(pruned).parameters < netir.cost(graph).parameters


# Losses and metrics

CHANCE = torch.Generator().manual_seed(0)
LOGITS, NUMBERS = torch.randn(6, 4, generator=CHANCE), torch.randn(6, generator=CHANCE)


@pytest.mark.parametrize(
    ("name", "output", "target", "expected"),
    [
        ("cross-entropy", LOGITS, torch.arange(6) % 4, nn.CrossEntropyLoss()),
        ("binary-cross-entropy", NUMBERS, NUMBERS > 0.5, nn.BCEWithLogitsLoss()),
        ("mse", NUMBERS, NUMBERS + 1, nn.MSELoss()),
        ("mae", NUMBERS, NUMBERS + 1, nn.L1Loss()),
        ("huber", NUMBERS, NUMBERS + 1, nn.SmoothL1Loss()),
    ],
)
def test_losses(
    name: str, output: Tensor, target: Tensor, expected: Callable[[Tensor, Tensor], Tensor]
) -> None:
    wanted = expected(output, target if target.dtype == torch.int64 else target.float())
    assert torch.equal(LOSSES[name](output, target), wanted)
    assert torch.equal(LOSSES[name]((output,), target), wanted)
    assert torch.equal(LOSSES[name]({"logits": output}, target), wanted)


def test_every_loss_is_tested() -> None:
    assert set(LOSSES) == {"cross-entropy", "binary-cross-entropy", "mse", "mae", "huber"}
    assert set(METRICS) == {"accuracy", "top5", "mse", "mae"}


def test_classes_may_be_last() -> None:
    logits, target = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    wanted = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
    torch.testing.assert_close(LOSSES["cross-entropy"](logits, target), wanted)
    right = (logits.argmax(-1) == target).float().mean()
    assert METRICS["accuracy"](logits, target) == pytest.approx(float(right))


def test_targets_that_are_no_class_are_left_out() -> None:
    logits, target = torch.randn(3, 4, 5), torch.randint(5, (3, 4))
    target[:, 2:] = -100
    kept, wanted = logits[:, :2].flatten(0, 1), target[:, :2].flatten()
    torch.testing.assert_close(LOSSES["cross-entropy"](logits, target),
                               nn.functional.cross_entropy(kept, wanted))  # fmt: skip
    right = (kept.argmax(1) == wanted).float().mean()
    assert METRICS["accuracy"](logits, target) == pytest.approx(float(right))
    assert Task.of((logits, target), (logits, target)).classes == int(target.max()) + 1


def test_accuracy_of_one_logit() -> None:
    target = torch.tensor([1, 0, 1, 1])
    assert METRICS["accuracy"](torch.tensor([1.0, -1.0, -1.0, 2.0]), target) == 0.75
    assert METRICS["accuracy"](torch.tensor([[1.0], [-1.0], [-1.0], [2.0]]), target) == 0.75


def test_top5_and_errors() -> None:
    logits = torch.arange(8.0).repeat(2, 1)
    assert METRICS["top5"](logits, torch.tensor([3, 2])) == 0.5
    assert METRICS["mse"](NUMBERS[:, None], NUMBERS + 2) == pytest.approx(4)
    assert METRICS["mae"](NUMBERS, NUMBERS + 2) == pytest.approx(2)


def test_the_metric_suits_the_loss() -> None:
    assert metric_of("", loss_of("cross-entropy")).name == "accuracy"
    assert metric_of("", loss_of("mse")).name == "loss"
    assert METRICS["mae"].better(1, 2)
    assert METRICS["accuracy"].better(2, 1)


def test_own_loss_and_metric() -> None:
    def shortfall(output: Tensor, target: Tensor) -> Tensor:
        return (target - output.sum(1)).relu().mean()

    most = Metric("most", lambda output, target: output.max(), higher=True)
    task = own(loss=shortfall, metric=most)
    score = evaluate(lambda x: x, task)
    assert (score.name, score.metric, score.loss, score.examples) == ("most", 15.0, 0.0, 4)
    assert task.trained_for.name == "shortfall"


def test_a_score_counts_every_example_once() -> None:
    test = [(X[:7], Y[:7]), (X[7:], Y[7:])]
    score = evaluate(lambda x: nn.functional.one_hot(x[:, 0].long() % 5 % 3, 3).float(),
                     Task.of((X, Y), test))  # fmt: skip
    assert score.metric == pytest.approx(float((X[:, 0].long() % 5 % 3 == Y).float().mean()))
    assert str(score).startswith("accuracy 0.")
    assert not score.better(score)
    with pytest.raises(NetirError, match="'accuracy' cannot be compared with 'loss'"):
        score.better(evaluate(lambda x: x, own(metric="loss")))


# Refusals: each is told, none ends in a traceback


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Digits(batch_size=0), "batch_size=0"),
        (lambda: Digits(shift=-1), "shift=-1"),
        (lambda: Digits(test_share=1.0), "test_share=1.0"),
        (lambda: Digits(loss="crossentropy"), "did you mean 'cross-entropy'"),
        (lambda: Digits(metric="acuracy"), "did you mean 'accuracy'"),
        (lambda: Images("x", size=0), "size=0"),
        (lambda: Images("x", limit=1), "limit=1"),
        (lambda: Digits().steps(0), "batch_size=0"),
        (lambda: Task.of([(X, Y)], [(X, Y)]).steps(3), "the loader makes its own batches"),
        (lambda: Task.of(iter([(X, Y)]), [(X, Y)]), "can be read only once"),
        (lambda: Task.of(X, X), "a Tensor holds no examples"),
        (lambda: Task.of(7, X), "a int holds no examples"),
        (lambda: Task.of((X, Y, Y), (X, Y)), "3 arrays are given"),
        (lambda: Task.of((X, Y[:3]), (X, Y)), "hold 3 and 10 examples"),
        (lambda: Task.of((X[:0], Y[:0]), (X, Y)), "there are no examples"),
        (lambda: Task.of((X, "labels"), (X, Y)), "a str is no array"),
        (lambda: Task.of((np.array(["a"]), Y[:1]), (X, Y)), "arrays of <U1 cannot be trained on"),
        (lambda: Task.of((X[:, :0], Y), (X[:, :0], Y)).data, r"the inputs are empty: \(10, 0\)"),
        (lambda: Task.of((X / 0, Y), (X, Y)).data, "the inputs of example 0 hold NaN or infinity"),
        (lambda: Task.of((X, X[:, 0]), (X, X), loss="mse").data, "the targets to train on and"),
        (lambda: Task.of((X, X[:, 1].log()), (X, X[:, 0].log()), loss="mse").data,
         "the targets of example 0"),
        (lambda: Task.of((X, Y), (X[:, :3], Y)).data, "the inputs to train on and to test on"),
        (lambda: Task.of((X, Y / 2), (X, Y)).data, "the targets are float32, and cross-entropy"),
        (lambda: Task.of((X, Y - 1), (X, Y)).data, "the classes go from -1 to 2"),
        (lambda: Task.of((X, Y * 0 - 100), (X, Y)).data, "no example has a class"),
        (lambda: Task.of((X, Y), (X, Y + 1)).data, "class 3 is in the test data"),
        (lambda: Task.of((X, Y * 0), (X, Y * 0)).data, "there is only one class"),
        (lambda: seen(Task.of([(X, Y, Y)], [(X, Y)])), "a batch is a tuple of 3"),
        (lambda: seen(Task.of([{"x": X}], [(X, Y)])), "a batch is a dict, not"),
        (lambda: evaluate(nn.Linear(5, 3), own()), "the network cannot be called with a batch"),
        (lambda: evaluate(lambda x: x[:, :2], own()), "tells 2 classes apart, and"),
        (lambda: evaluate(lambda x: x[0], own()), r"the network returns \(4,\) and"),
        (lambda: evaluate(lambda x: [x, x], own()), "returns a list, which no named loss"),
        (lambda: evaluate(lambda x: x, Task.of((X, Y), [])), "there is nothing to test on"),
        (lambda: evaluate(lambda x: x, Task.of((X, Y), [(X, [1])])), "the targets are tuple"),
        (lambda: evaluate(nn.Linear(4, 3), own(), "gpu"), "there is no device 'gpu'"),
        (lambda: evaluate(nn.Linear(4, 3), own(), "cuda:99"), "there is no device 'cuda:99' here"),
        (lambda: LOSSES["mse"](X, [1.0]), "the targets are a list, not a tensor"),
        (lambda: LOSSES["mse"].smoothed(0.1), "has no labels to smooth"),
    ],
)  # fmt: skip
def test_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(NetirError, match=message):
        make()


def test_a_task_of_somebody_else() -> None:
    class Noise(Task):
        name = "noise"

        def read(self) -> Data:
            return Task.of((X, Y), (X, Y)).data

    assert Noise(batch_size=5).classes == 3


def test_classes_below_zero_and_strange_metrics_are_refused() -> None:
    batch = (torch.randn(4, 3), torch.tensor([0, -1, 2, 1]))
    task = Task.of([batch], [batch], loss="cross-entropy")
    with pytest.raises(NetirError, match="there is a class -1"):
        task.trained_for(torch.randn(4, 3), batch[1])
    with pytest.raises(NetirError, match="is no metric"):
        Task.of([batch], [batch], metric=lambda a, b: 0.0)
    with pytest.raises(NetirError, match="nothing to test on"):
        Task.of([batch], []).example()
