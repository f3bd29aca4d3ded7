"""Moves of tensors, and optimizers that follow them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import netir
from netir import change_basis, extend, replicate, select
from netir.errors import NetirError
from netir.moves import (
    Chain,
    Gather,
    Matrix,
    Move,
    Moves,
    Parts,
    Within,
    kept_indices,
    move_optimizer,
)

X = torch.arange(12.0).view(3, 4)


def gather(*index: int, share: list[float] | None = None) -> Gather:
    return Gather(torch.tensor(index), None if share is None else torch.tensor(share).double())


# One axis


def test_gather_reorders_drops_and_copies() -> None:
    assert torch.equal(gather(2, 0, 0).apply(X, 0), X[[2, 0, 0]])
    assert torch.equal(gather(3, 1).apply(X, 1), X[:, [3, 1]])
    assert gather(2, 0, 0).size == 3
    assert gather(2, 0, 0).new is None


def test_gather_scales_by_shares_and_their_powers() -> None:
    move = gather(0, 1, 0, share=[0.25, 1, 0.75])
    want = torch.stack([0.25 * X[0], X[1], 0.75 * X[0]])
    assert torch.equal(move.apply(X, 0), want)
    squares = torch.stack([0.0625 * X[0], X[1], 0.5625 * X[0]])
    assert torch.equal(move.apply(X, 0, power=2), squares)


def test_new_entries_are_zero() -> None:
    move = gather(0, -1, 2, share=[1, 1, 0.5])
    assert torch.equal(move.apply(X + 1, 0), torch.stack([X[0] + 1, 0 * X[0], 0.5 * (X[2] + 1)]))
    assert move.new is not None
    assert move.new.tolist() == [False, True, False]
    assert torch.equal(gather(-1, 0).apply(X + 1, 1)[:, 0], torch.zeros(3))


def test_the_tensor_that_moves_is_left_alone() -> None:
    x = X.clone()
    for move in (gather(0, 1, 2, share=[0.5] * 3), gather(-1, 0), Matrix(torch.eye(3).double())):
        move.apply(x, 0)
    assert torch.equal(x, X)


def test_whole_numbers_are_moved_and_not_scaled() -> None:
    count = torch.tensor([5, 7, 9])
    assert gather(2, 2, -1, share=[0.5, 0.5, 1]).apply(count, 0).tolist() == [9, 9, 0]
    flags = torch.tensor([True, False, True])
    assert gather(0, -1, 1).apply(flags, 0).tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    x = torch.linspace(-3, 3, 50).to(dtype)
    index = torch.arange(50)
    move = Gather(index, torch.full((50,), 1 / 3, dtype=torch.float64))
    assert move.apply(x, 0).dtype == dtype
    assert torch.equal(move.apply(x, 0), (x.float() / 3).to(dtype))


def test_matrix_maps_blocks() -> None:
    matrix = torch.randn(5, 2, dtype=torch.float64)
    x = torch.randn(3, 3 * 2 * 4)
    move = Matrix(matrix, outer=3, inner=4)
    want = torch.einsum("mn,xone->xome", matrix, x.double().view(3, 3, 2, 4)).reshape(3, -1)
    assert torch.allclose(move.apply(x, 1), want.float())
    assert move.size == 60
    squares = Matrix(matrix**2, outer=3, inner=4)
    assert torch.equal(move.apply(x, 1, power=2), squares.apply(x, 1))
    assert move.apply(x.bfloat16(), 1).dtype == torch.bfloat16


def test_parts_move_by_themselves() -> None:
    move = Parts((1, 3), (None, gather(2, 0)))
    assert torch.equal(move.apply(X, 1), X[:, [0, 3, 1]])
    assert move.size == 3


def test_chain_is_one_after_the_other() -> None:
    move = Chain((gather(3, 2, 1, 0), gather(0, 1), gather(1, -1)))
    assert torch.equal(move.apply(X, 1), torch.stack([X[:, 2], torch.zeros(3)], 1))
    assert move.size == 2
    halves = Chain((gather(0, share=[0.5]), gather(0, share=[0.5])))
    assert torch.equal(halves.apply(X, 1, power=2), X[:, :1] / 16)


@pytest.mark.parametrize("count", [1, 3])
def test_within_acts_where_the_rest_is_open(count: int) -> None:
    x = torch.randn(2, count * 4 * 3)
    blocks = x.view(2, count, 4, 3)
    move = Within(gather(3, 0), -1, 4, 3)
    assert torch.equal(move.apply(x, 1), blocks[:, :, [3, 0]].flatten(1))
    inside = Within(gather(3, 0), 1, 4, -1)
    assert torch.equal(inside.apply(x, 1), x.view(2, 4, -1)[:, [3, 0]].flatten(1))
    with pytest.raises(NetirError, match="known only when the network runs"):
        _ = move.size


def test_kept_indices() -> None:
    assert kept_indices(None, 4) is None
    for move, want in (
        (gather(2, -1), [2, -1]),
        (Chain((gather(0, 1, 2, -1), gather(3, 2))), [-1, 2]),
        (Within(gather(1), -1, 2, 1), [1, 3]),
    ):
        found = kept_indices(move, 4)
        assert found is not None
        assert found.tolist() == want
    with pytest.raises(NetirError, match="linear basis"):
        kept_indices(Matrix(torch.eye(4).double()), 4)


# All parameters


def test_moves_of_a_parameter_take_every_axis() -> None:
    move = Move((gather(2, 0), None))
    assert torch.equal(move.apply(X), X[[2, 0]])
    assert torch.equal(Move((gather(1), gather(0, 3))).apply(X), X[[1]][:, [0, 3]])


def test_one_rewrite_then_another() -> None:
    first = Moves({"a": Move((gather(1, 2), None)), "b": Move((gather(0),))}, {}, ("s",), ("r",))
    second = Moves(
        {"a": Move((gather(1), gather(3, 0))), "c": Move((None,)), "s": Move((gather(0),))},
        {}, ("t",), ("b", "s"),
    )  # fmt: skip
    both = first.then(second)
    assert torch.equal(both.params["a"].apply(X), X[[2]][:, [3, 0]])
    assert set(both.params) == {"a", "c", "s"}
    assert both.added == ("t",)
    assert both.removed == ("r", "b")


def test_then_is_the_rewrites_one_by_one() -> None:
    model = Perceptron()
    graph = netir.trace(model, torch.randn(2, 4))
    one = change_basis(graph, {"one": replicate([0, 1, 2, 3, 4, 5, 0, 1])})
    two = change_basis(one.graph, {"one": select([7, 0, 3])})
    both = one.moves.then(two.moves)
    for name, param in two.graph.params.items():
        move = both.params.get(name)
        old = graph.params[name].data
        assert torch.equal(param.data, old if move is None else move.apply(old)), name


# Optimizers

WIDTH = 6


class Perceptron(nn.Module):
    """Three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(torch.tanh(self.two(torch.tanh(self.one(x)))))  # type: ignore[no-any-return]


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adam_amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, weight_decay=0.1),
    "adam_foreach": lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    "adam_fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adamw_amsgrad": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
    "rmsprop_centered": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.1),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.1),
}


def loss(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return model(torch.randn(8, 4, generator=generator, dtype=torch.float64)).square().sum()  # type: ignore[no-any-return]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()


def change(model: nn.Module, **bases: Any) -> tuple[Any, Moves, list[Any]]:
    """The model in another basis: a module, the moves, and the pairs for the optimizer."""
    graph = netir.trace(model, torch.randn(2, 4, dtype=torch.float64))
    done = change_basis(graph, bases)
    after = netir.to_torch(done.graph).train()
    new = dict(after.named_parameters())
    return after, done.moves, [(p, n, new[n]) for n, p in model.named_parameters()]


def follow(
    optimizer: torch.optim.Optimizer, moves: Moves, named: list[tuple[Tensor, str, Tensor]]
) -> None:
    """Move an optimizer along old parameters, their names and what became of them."""
    old = {name: before for before, name, _ in named}
    move_optimizer(optimizer, moves, old, {name: after for _, name, after in named})


def held(optimizer: torch.optim.Optimizer) -> Any:
    """Everything in an optimizer, copied."""
    return copy.deepcopy((
        [{**g, "params": list(map(id, g["params"]))} for g in optimizer.param_groups],
        {id(p): dict(state) for p, state in optimizer.state.items()},
    ))  # fmt: skip


def same(left: Any, right: Any) -> bool:
    """Equality of nested containers with tensors."""
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(v, right[k]) for k, v in left.items())
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_been_added(name: str) -> None:
    model = Perceptron().double()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    plain, reference = copy.deepcopy((model, optimizer))
    wide, moves, named = change(model, one=extend(WIDTH, 2), two=extend(5, 3))
    steps = [s.get("step") for s in optimizer.state.values()]
    follow(optimizer, moves, named)
    assert [s.get("step") for s in optimizer.state.values()] == steps
    train(wide, optimizer)
    train(plain, reference)
    found = dict(wide.named_parameters())
    for key, parameter in plain.named_parameters():
        move = moves.params.get(key)
        old = torch.ones_like(parameter) if move is None else move.apply(torch.ones_like(parameter))
        want = parameter if move is None else move.apply(parameter)
        assert torch.allclose(found[key] * old, want, rtol=1e-10, atol=1e-12), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_after_a_permutation(name: str) -> None:
    model = Perceptron().double()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 2)
    plain, reference = copy.deepcopy((model, optimizer))
    order = torch.randperm(WIDTH)
    after, moves, named = change(model, one=select(order))
    follow(optimizer, moves, named)
    train(after, optimizer, 2)
    train(plain, reference, 2)
    assert torch.allclose(after.one.weight, plain.one.weight[order], rtol=1e-9)
    assert torch.allclose(after.two.weight, plain.two.weight[:, order], rtol=1e-9)


def test_copies_share_out_first_moments_and_the_squares_of_the_shares() -> None:
    model = Perceptron().double()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer)
    before = {n: dict(optimizer.state[p]) for n, p in model.named_parameters()}
    after, moves, named = change(model, one=replicate([0, 1, 2, 3, 4, 5, 5, 5]))
    follow(optimizer, moves, named)
    index, share = torch.tensor([0, 1, 2, 3, 4, 5, 5, 5]), torch.tensor([1.0] * 5 + [1 / 3] * 3)
    rows, columns = optimizer.state[after.one.weight], optimizer.state[after.two.weight]
    for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
        assert torch.equal(rows[key], before["one.weight"][key][index])
        want = before["two.weight"][key][:, index] * share.double() ** power
        assert torch.allclose(columns[key], want, rtol=1e-6)
    assert columns["step"] is before["two.weight"]["step"]


def test_groups_keep_their_settings_and_order() -> None:
    model = Perceptron().double()
    optimizer = torch.optim.SGD(
        [{"params": list(model.two.parameters()), "lr": 0.5, "weight_decay": 0.25},
         {"params": [*model.one.parameters(), *model.three.parameters()]}],
        lr=0.1, momentum=0.9,
    )  # fmt: skip
    train(model, optimizer)
    after, moves, named = change(model, one=select([0, 2]))
    follow(optimizer, moves, named)
    first, second = optimizer.param_groups
    assert (first["lr"], first["weight_decay"], second["lr"]) == (0.5, 0.25, 0.1)
    assert list(map(id, first["params"])) == list(map(id, after.two.parameters()))
    want = [*after.one.parameters(), *after.three.parameters()]
    assert list(map(id, second["params"])) == list(map(id, want))
    assert set(optimizer.state) == set(after.parameters())


def test_an_optimizer_without_state_just_changes_its_parameters() -> None:
    model = Perceptron().double()
    optimizer = torch.optim.Adam(model.parameters())
    after, moves, named = change(model, one=select([1, 2]))
    follow(optimizer, moves, named)
    assert not optimizer.state
    weight = after.one.weight.detach().clone()
    train(after, optimizer)
    assert not torch.equal(after.one.weight, weight)


def test_a_scheduler_stays_attached() -> None:
    model = Perceptron().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    train(model, optimizer)
    scheduler.step()
    after, moves, named = change(model, one=extend(WIDTH, 1))
    follow(optimizer, moves, named)
    train(after, optimizer)
    scheduler.step()
    assert scheduler.get_last_lr() == [2.5e-4]
    assert optimizer.param_groups[0]["lr"] == 2.5e-4


def test_closures_and_saved_states_work_afterwards() -> None:
    model = Perceptron().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train(model, optimizer)
    after, moves, named = change(model, one=select([0, 1, 2]))
    follow(optimizer, moves, named)
    start = loss(after).item()

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = loss(after)
        found.backward()
        return found

    assert optimizer.step(closure).item() == start  # type: ignore[arg-type]
    again = torch.optim.Adam(after.parameters())
    again.load_state_dict(optimizer.state_dict())
    assert same(again.state_dict(), optimizer.state_dict())


def test_a_parameter_of_no_group_changes_nothing() -> None:
    model = Perceptron().double()
    optimizer = torch.optim.SGD(model.three.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer)
    before = [id(p) for p in model.three.parameters()]
    _, moves, named = change(model, one=select([0, 1]))
    follow(optimizer, moves, [n for n in named if not n[1].startswith("three")])
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == before
    assert len(optimizer.state) == 2


class Shampoo(torch.optim.Optimizer):
    """Keeps one square matrix for every axis, in a list."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["factors"] = [torch.eye(size) for size in p.shape]


class Quantised(torch.optim.Optimizer):
    """Keeps its momentum in a flat tensor."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.dim() > 1:
                    self.state[p]["flat"] = p.grad.flatten()
                else:
                    self.state[p]["momentum"] = p.grad.clone()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (torch.optim.Adafactor, "Adafactor keeps 'row_var' of shape"),
        (Shampoo, r"Shampoo keeps 'factors' of shape \(\d, \d\), \(\d, \d\) for a parameter"),
        (Quantised, r"keeps 'flat' of shape \((24|30),\) for a parameter of shape"),
    ],
)
def test_foreign_state_is_refused_and_nothing_changes(
    make: Callable[[Any], torch.optim.Optimizer], what: str
) -> None:
    model = Perceptron().double()
    optimizer = make(model.parameters())
    train(model, optimizer)
    _, moves, named = change(model, one=select([0, 2]))
    for order in (named, named[::-1]):  # the bias, whose state could move, comes first or last
        before = held(optimizer)
        with pytest.raises(NetirError, match=what) as caught:
            follow(optimizer, moves, order)
        assert "SGD, Adam" in caught.value.fix
        assert caught.value.where in dict(model.named_parameters())
        assert same(held(optimizer), before)


def test_foreign_state_of_what_did_not_move_is_kept() -> None:
    model = Perceptron().double()
    optimizer = Shampoo(model.parameters())
    train(model, optimizer)
    state = optimizer.state[model.three.weight]["factors"]
    del optimizer.state[model.one.weight], optimizer.state[model.one.bias]
    del optimizer.state[model.two.weight]
    after, moves, named = change(model, one=select([0, 2]))
    follow(optimizer, moves, named)
    assert optimizer.state[after.three.weight]["factors"] is state


def test_lbfgs_has_one_state_for_everything() -> None:
    model = Perceptron().double()
    optimizer = torch.optim.LBFGS(model.parameters())
    after, moves, named = change(model, one=select([0, 2]))
    follow(optimizer, moves, named)

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = loss(after)
        found.backward()
        return found

    start = loss(after).item()
    optimizer.step(closure)  # type: ignore[arg-type]
    assert loss(after).item() < start
    before = held(optimizer)
    _, moves, named = change(after, one=select([1]))
    with pytest.raises(NetirError, match="LBFGS keeps one state"):
        follow(optimizer, moves, named)
    assert same(held(optimizer), before)


def test_a_move_of_all_axes_comes_after_what_was_gathered() -> None:
    """Widen, then lift: the chained moves give the parameters that lifting gave."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    graph = netir.trace(model, (torch.randn(2, 1, 8, 8),))
    wide = netir.passes.Widen("*", factor=2)(graph)
    lifted = netir.passes.Lift(to="C4")(wide)
    first, second = wide.history[-1].moves, lifted.history[-1].moves
    assert first is not None
    assert second is not None
    both = first.then(second)
    for name, move in both.params.items():
        if name in graph.params and name in lifted.params:
            got = move.apply(graph.params[name].data)
            assert torch.allclose(got, lifted.params[name].data, atol=1e-6), name
