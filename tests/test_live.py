"""Live rewriting: a model changes between two steps, and all that trains it follows."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

import netir
from netir import Live, NetirError, NetirWarning, change_basis, extend
from netir.basis import Contract
from netir.ir import Graph
from netir.passes import Bake, Deepen, Prune, Widen
from netir.rewrite import Pass, Result
from tests.pass_examples import EXAMPLES
from tests.zoo.traced import fresh

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}


class Net(nn.Module):
    """Convolutions with batch norm, a residual block, a flatten and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.block = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1))
        self.head = nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.block(x)).flatten(1))


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(4, 3, 4, 4, generator=generator, dtype=torch.float64),
        torch.randint(5, (4,), generator=generator),
    )


def made(kind: str = "adam") -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Net().double()
    return model, OPTIMIZERS[kind](model.parameters())


def step(model: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, seed: int) -> Tensor:
    x, y = batch(seed)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def eval_output(model: nn.Module) -> Tensor:
    modes = {m: m.training for m in model.modules()}
    model.eval()
    with torch.no_grad():
        found: Tensor = model(batch()[0])
    for module, mode in modes.items():
        module.training = mode
    return found


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All that a failed rewrite must leave alone, tensors by value."""
    return copy.deepcopy(
        {
            "state": model.state_dict(),
            "gradients": {n: p.grad for n, p in model.named_parameters()},
            "names": [n for n, _ in model.named_modules()],
            "attributes": [str(m) for m in model.modules()],
            "own forward": "forward" in model.__dict__,
            "optimizer": optimizer.state_dict(),
            "group": [id(p) for p in optimizer.param_groups[0]["params"]],
        }
    )


def assert_equal(one: Any, two: Any) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_equal(a, b)
    else:
        assert one == two


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_model_goes_on_training(kind: str) -> None:
    """Objects stay, the function stays, moments are the moved ones, and training goes on."""
    model, optimizer = made(kind)
    live = Live(model, optimizer)
    loss = step(model, optimizer, 0)  # kept: a loss at hand keeps autograd's nodes alive
    parameters, conv = dict(model.named_parameters()), model.stem[0]
    want = eval_output(model)
    states = {n: dict(optimizer.state[p]) for n, p in parameters.items()}
    gradients = {n: p.grad for n, p in parameters.items()}
    result = live.apply(Widen("stem.0 block.0", factor=1.5))
    assert set(result.report.changed) == {"stem.0", "block.0"}
    torch.testing.assert_close(eval_output(model), want, rtol=1e-12, atol=1e-12)
    assert {n: id(p) for n, p in model.named_parameters()} == {
        n: id(p) for n, p in parameters.items()
    }
    assert model.stem[0] is conv
    assert (conv.out_channels, model.block[0].in_channels, model.stem[1].num_features) == (9, 9, 9)
    for name, move in result.moves.params.items():
        if name not in parameters:
            continue
        parameter = parameters[name]
        assert gradients[name] is not None
        assert torch.equal(parameter.grad, move.apply(gradients[name]))
        for key, value in optimizer.state[parameter].items():
            old = states[name][key]
            if value.dim() and old.shape != ():
                squared = key in ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
                assert torch.equal(value, move.apply(old, 2 if squared else 1)), key
            else:
                assert torch.equal(value, old)
    losses = [float(step(model, optimizer, 0).detach()) for _ in range(30)]
    assert losses[-1] < float(loss.detach())
    assert type(model) is Net


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_next_step_of_kept_entries_is_the_one_without(kind: str) -> None:
    """New units with zero fan-out: what was there takes the very step that it would have taken."""

    class Grow(Pass):
        name = "grow"
        preserves = Contract.EXACT

        def apply(self, graph: Graph, calibration: Any = None) -> Result:
            changes = {"stem.0": extend(6, 3), "block.0": extend(8, 2)}
            done = change_basis(graph, changes)
            return self.finished(graph, done.graph, done.moves, Contract.EXACT, ("stem.0",), ())

    plain, plain_optimizer = made(kind)
    model, optimizer = made(kind)
    live = Live(model, optimizer)
    for number in range(2):
        step(plain, plain_optimizer, number)
        step(model, optimizer, number)
    result = live.apply(Grow())
    with torch.no_grad():  # the new units start at something
        model.stem[0].weight[6:].normal_()
        model.block[0].weight[8:].normal_()
    step(plain, plain_optimizer, 7)
    step(model, optimizer, 7)
    moves = result.moves.params
    for name, old in plain.named_parameters():
        new = model.get_parameter(name)
        move = moves.get(name)
        kept = torch.ones_like(new, dtype=torch.bool) if move is None else ~_new(move, new)
        assert torch.allclose(new[kept], old.flatten(), rtol=0, atol=1e-12), name


def _new(move: netir.moves.Move, tensor: Tensor) -> Tensor:
    found = move.fresh(tensor.shape)
    return torch.zeros_like(tensor, dtype=torch.bool) if found is None else found


def test_averages_schedulers_scalers_and_groups_follow() -> None:
    model, _ = made()
    decayed = [p for n, p in model.named_parameters() if n.endswith("weight")]
    rest = [p for n, p in model.named_parameters() if not n.endswith("weight")]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    average = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    live = Live(model, optimizer, batch()[0], averages=[average])
    for number in range(3):
        x, y = batch(number)
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        average.update_parameters(model)
        if number == 1:
            want = eval_output(average.module)
            assert not torch.allclose(want, eval_output(model), atol=1e-6)
            live.apply(Widen("*", factor=2))
            torch.testing.assert_close(eval_output(average.module), want, rtol=1e-12, atol=1e-12)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1 * 0.5**3] * 2
    assert [len(g["params"]) for g in optimizer.param_groups] == [len(decayed), len(rest)]
    assert average.module.stem[0].weight.shape == model.stem[0].weight.shape == (12, 3, 3, 3)
    assert int(average.n_averaged) == 3


def test_hooks_stay_and_what_cannot_stay_is_said() -> None:
    model, optimizer = made()
    live = Live(model, optimizer, batch()[0])
    called: list[str] = []
    model.register_forward_hook(lambda *_: called.append("model"))
    model.stem[0].register_forward_hook(lambda *_: called.append("stem.0"))
    model.stem[0].weight.register_post_accumulate_grad_hook(lambda p: called.append(str(p.shape)))
    live.apply(Widen("stem.0", factor=2))
    called.clear()  # tracing ran the model once
    step(model, optimizer, 0)
    assert called == ["stem.0", "model", str(torch.Size([12, 3, 3, 3]))]
    other, optimizer = made()
    other.block.register_forward_hook(lambda *_: None)
    with pytest.warns(NetirWarning, match="hooks of 'block'"):
        Live(other, optimizer, batch()[0]).apply(Widen("stem.0"))


def test_the_forward_stays_where_no_size_in_it_changes() -> None:
    """Also behind a flatten, which is written without the size of what it makes."""
    layers = nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)
    model = nn.Sequential(*layers)
    live = Live(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.randn(2, 3, 8, 8))
    live.apply(Widen("0", factor=2))
    forward = model.__dict__["forward"]
    live.apply(Prune("0", amount=0.5))
    assert model.__dict__["forward"] is forward
    assert model[3].weight.shape == (4, 24)


def test_a_compiled_model_compiles_once_more() -> None:
    model, optimizer = made()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    live = Live(compiled, optimizer, batch()[0])
    step(compiled, optimizer, 0)
    step(compiled, optimizer, 1)
    assert counter.frame_count == 1
    for rewrite in (Widen("*", factor=2), Prune("block.0", amount=0.5)):
        before = counter.frame_count
        live.apply(rewrite)
        step(compiled, optimizer, 2)
        step(compiled, optimizer, 3)
        assert counter.frame_count <= before + 1
        torch.testing.assert_close(compiled(batch()[0]), model(batch()[0]))
    assert counter.frame_count > 1
    assert model.stem[0].weight.shape[0] == 12


@pytest.mark.parametrize(
    "name", ["residual", "resnet", "mobilenet_v2", "vit", "bert", "gpt2", "llama", "swin", "t5",
             "lstm", "tied_embedding", "weight_norm", "channel_shuffle", "called_twice"],
)  # fmt: skip
def test_networks_are_what_the_pass_made(name: str) -> None:
    """In place is the same as lowering the rewritten graph: outputs, keys, twice in a row."""
    sample = fresh(name)
    optimizer = torch.optim.SGD(sample.model.parameters(), lr=0.0, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        live = Live(sample.model, optimizer, dynamic=sample.dynamic)
        sample.run()
        for rewrite in (Widen("*", factor=2), Prune("*", amount=0.3), Prune("*", amount=0.2)):
            result = live.apply(rewrite)
            lowered = netir.to_torch(result.graph)
            have, want = sample.run(), lowered(*sample.args, **sample.kwargs)
            assert_equal(_tensors(have), _tensors(want))
            assert set(sample.model.state_dict()) == set(lowered.state_dict())
            loss = sum(t.square().mean() for t in _tensors(have) if t.is_floating_point())
            loss.backward()
            optimizer.step()


def _tensors(output: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


EVERY = [example for several in EXAMPLES.values() for example in several]


@pytest.mark.parametrize("rewrite", EVERY, ids=str)
@pytest.mark.parametrize("name", ["residual", "vit", "masked_weight"])
def test_every_pass_can_be_applied_live(name: str, rewrite: Pass) -> None:
    """The model is what the pass made, and the optimizer trains its parameters and no other."""
    sample = fresh(name)
    optimizer = torch.optim.AdamW(sample.model.parameters(), lr=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        live = Live(sample.model, optimizer, sample.args)
        for _ in range(2):
            loss = sum(t.square().mean() for t in _tensors(sample.run()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            result = live.apply(rewrite)
            lowered = netir.to_torch(result.graph)
            assert_equal(_tensors(sample.run()), _tensors(lowered(*sample.args)))
            given = [id(p) for group in optimizer.param_groups for p in group["params"]]
            assert sorted(given) == sorted(id(p) for p in sample.model.parameters())
            there = {id(p) for p in sample.model.parameters()}
            assert {id(p) for p in optimizer.state} <= there
    for parameter, state in optimizer.state.items():
        assert state["exp_avg"].shape == parameter.shape


def test_a_lowered_module_needs_no_example_and_is_read_back() -> None:
    model, _ = made()
    lowered = netir.to_torch(netir.trace(model, batch()[0]))
    optimizer = OPTIMIZERS["adam"](lowered.parameters())
    live = Live(lowered, optimizer)
    live.apply(Prune("stem.0", amount=0.5))
    step(lowered, optimizer, 0)
    again = netir.trace(lowered)
    assert again.params["stem.0.weight"].data.shape == (3, 3, 3, 3)
    assert [s.text for s in again.history] == ["prune(where='stem.0', amount=0.5)"]
    assert torch.equal(eval_output(copy.deepcopy(lowered)), eval_output(lowered))


def failing(**overrides: Any) -> Pass:
    class Failing(Pass):
        name = "failing"
        preserves = Contract.EXACT

        def apply(self, graph: Graph, calibration: Any = None) -> Result:
            raise RuntimeError("no")

    return Failing(**overrides)


def test_a_pass_that_fails_changes_nothing() -> None:
    model, optimizer = made()
    live = Live(model, optimizer, batch()[0])
    step(model, optimizer, 0)
    before = snapshot(model, optimizer)
    with pytest.raises(RuntimeError, match="no"):
        live.apply(failing())
    with pytest.raises(NetirError, match="names no space"):
        live.apply(Widen("nothing"))
    assert_equal(snapshot(model, optimizer), before)


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_an_interrupted_exchange_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """Wherever the exchange is cut off, all is as it was, and the next attempt succeeds."""
    model, optimizer = made()
    live = Live(model, optimizer, batch()[0])
    if not first:
        live.apply(Widen("block.0", factor=2))
    step(model, optimizer, 0)
    before, want = snapshot(model, optimizer), eval_output(model)
    real, calls = netir.lower.graft.set_data, 0

    def cut(old: Tensor, new: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        real(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(netir.lower.graft, "set_data", cut)
        with pytest.raises(KeyboardInterrupt):
            live.apply(Widen("stem.0", factor=2))
    assert calls > 4
    assert_equal(snapshot(model, optimizer), before)
    assert torch.equal(eval_output(model), want)
    live.apply(Widen("stem.0", factor=2))
    torch.testing.assert_close(eval_output(model), want, rtol=1e-12, atol=1e-12)
    step(model, optimizer, 1)


def names_in(optimizer: torch.optim.Optimizer, model: nn.Module) -> set[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    given = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert len(given) == len(set(given))
    return set(given)


def three_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def test_a_new_parameter_joins_one_of_several_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the parameter most like it; an error takes it out of there again."""
    model = three_layers()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    rest = torch.optim.AdamW([*model[2].parameters(), *model[4].parameters()])
    live = Live(model, [first, rest], torch.randn(2, 4))
    before = names_in(first, model), names_in(rest, model)
    with monkeypatch.context() as patch:
        patch.setattr(netir.replicas.Replicas, "rebuild", interrupt)
        with pytest.raises(KeyboardInterrupt):
            live.apply(Deepen(kind="layer"))
    assert (names_in(first, model), names_in(rest, model)) == before
    live.apply(Deepen(kind="layer"))
    after = names_in(first, model), names_in(rest, model)
    assert after[0] >= before[0]
    assert after[1] >= before[1]
    assert not after[0] & after[1]
    assert after[0] | after[1] == dict(model.named_parameters()).keys() > before[0] | before[1]


def test_optimizers_that_take_turns_both_get_a_new_parameter() -> None:
    model = three_layers()
    turns = [torch.optim.SGD(model.parameters()), torch.optim.AdamW(model.parameters())]
    Live(model, turns, torch.randn(2, 4)).apply(Deepen(kind="layer"))
    for optimizer in turns:
        assert names_in(optimizer, model) == dict(model.named_parameters()).keys()


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


REPARAMETRIZED: dict[str, Callable[[nn.Module], object]] = {
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
    "weight_norm": old_weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


def reparametrized(name: str) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.Flatten()).double()
    REPARAMETRIZED[name](model[0])
    return model, torch.optim.AdamW(model.parameters())


def machinery(module: nn.Module) -> list[Any]:
    """All that torch hangs on a module to compute a tensor of it, in order."""
    tables = (module._forward_pre_hooks, module._state_dict_hooks)
    return [type(module), *([*table.items()] for table in tables)]


@pytest.mark.filterwarnings("ignore:.* in train mode:netir.NetirWarning")
@pytest.mark.parametrize("name", REPARAMETRIZED)
def test_a_baked_weight_is_computed_no_more(name: str) -> None:
    """What torch computed it with is taken off that layer, and not off copies of it."""
    model, optimizer = reparametrized(name)
    parametrized = hasattr(model[0], "parametrizations")  # others torch cannot copy
    twin, average = (
        copy.deepcopy(model) if parametrized else reparametrized(name)[0] for _ in range(2)
    )
    live = Live(model, optimizer, batch()[0], averages=[average])
    step(model, optimizer, 0)
    layer, want, other = model[0], eval_output(model), eval_output(twin)
    called: list[int] = []
    handle = layer.register_forward_pre_hook(lambda *_: called.append(1))
    live.apply(Bake())
    called.clear()  # tracing ran the model
    torch.testing.assert_close(eval_output(model), want, rtol=1e-12, atol=1e-12)
    assert torch.equal(eval_output(twin), other)
    assert machinery(average[0]) == [nn.Conv2d, [], []]
    assert torch.equal(average[0].weight, layer.weight)
    eval_output(average)
    assert called == [1]
    handle.remove()
    assert model[0] is layer
    assert machinery(layer) == [nn.Conv2d, [], []]
    assert set(model.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert names_in(optimizer, model) == set(model.state_dict())
    model.load_state_dict(model.state_dict())
    before = layer.weight.clone()
    step(model, optimizer, 1)
    assert not torch.equal(layer.weight, before)


@pytest.mark.filterwarnings("ignore:.* in train mode:netir.NetirWarning")
@pytest.mark.parametrize("name", REPARAMETRIZED)
def test_an_interrupted_bake_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = reparametrized(name)
    live = Live(model, optimizer, batch()[0])
    step(model, optimizer, 0)
    want, hung, names = eval_output(model), machinery(model[0]), names_in(optimizer, model)
    with monkeypatch.context() as patch:
        patch.setattr(netir.replicas.Replicas, "rebuild", interrupt)
        with pytest.raises(KeyboardInterrupt):
            live.apply(Bake())
    assert machinery(model[0]) == hung
    assert names_in(optimizer, model) == names
    assert torch.equal(eval_output(model), want)
    step(model, optimizer, 1)
    live.apply(Bake())
    assert names_in(optimizer, model) == {"0.weight", "0.bias", "2.weight", "2.bias"}


class Scaled(nn.Module):
    """A linear map with a tensor that its forward does not use, both parametrized."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.spare = (nn.Parameter(torch.ones(4, 4)) for _ in range(2))
        parametrizations.weight_norm(self, "weight")
        parametrizations.weight_norm(self, "spare")

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


def test_other_parametrizations_of_a_layer_stay() -> None:
    model, x = nn.Sequential(Scaled(), nn.Linear(4, 2)), torch.randn(2, 4)
    want, spare = model(x), model[0].spare
    Live(model, example=x).apply(Bake())
    torch.testing.assert_close(model(x), want)
    assert isinstance(model[0].weight, nn.Parameter)
    assert parametrize.is_parametrized(model[0], "spare")
    assert torch.equal(model[0].spare, spare)


def test_the_name_of_a_parametrized_tensor_is_taken_while_it_is_in_use() -> None:
    class Taking(Pass):
        name = "taking"
        preserves = Contract.EXACT

        def apply(self, graph: Graph, calibration: Any = None) -> Result:
            added = {"weight": graph.params["parametrizations.weight.original1"]}
            after = graph.replace(params={**graph.params, **added})
            return self.finished(graph, after, netir.Moves(), Contract.EXACT, ("weight",), ())

    model, x = Scaled(), torch.randn(2, 4)
    want = model(x)
    with pytest.raises(NetirError, match="'weight' is an attribute of ParametrizedScaled already"):
        Live(model, example=x).apply(Taking())
    assert torch.equal(model(x), want)


def test_an_optimizer_that_cannot_follow_is_refused_before_anything_changes() -> None:
    model, _ = made()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.1)
    live = Live(model, optimizer, batch()[0])
    step(model, optimizer, 0)
    before = snapshot(model, optimizer)
    with pytest.raises(NetirError, match="Adafactor keeps"):
        live.apply(Widen("stem.0", factor=2))
    assert_equal(snapshot(model, optimizer), before)


def test_what_a_pass_fixes_is_trained_no_more() -> None:
    """A parameter that becomes a constant leaves the parameters and the optimizer."""

    class Fixed(Pass):
        name = "fixed"
        preserves = Contract.EXACT

        def apply(self, graph: Graph, calibration: Any = None) -> Result:
            weight = replace(graph.params["head.weight"], kind="buffer", trainable=False)
            bias = replace(graph.params["head.bias"], trainable=False)
            fixed = {"head.weight": weight, "head.bias": bias}
            after = graph.replace(params={**graph.params, **fixed})
            return self.finished(graph, after, netir.Moves(), Contract.EXACT, ("head",), ())

    model, optimizer = made()
    live = Live(model, optimizer, batch()[0])
    step(model, optimizer, 0)
    want = eval_output(model)
    live.apply(Fixed())
    assert "head.weight" in dict(model.named_buffers())
    assert not model.head.bias.requires_grad
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert given == {id(p) for p in model.parameters()}
    assert torch.equal(eval_output(model), want)
    before = model.head.weight.clone()
    step(model, optimizer, 1)
    assert torch.equal(model.head.weight, before)


def test_an_average_of_another_model_is_refused() -> None:
    model, optimizer = made()
    other = copy.deepcopy(model)
    other.head = nn.Linear(96, 7).double()
    live = Live(model, optimizer, batch()[0], averages=[other])
    before = snapshot(model, optimizer)
    with pytest.raises(NetirError, match="not a copy of the model"):
        live.apply(Widen("stem.0"))
    assert_equal(snapshot(model, optimizer), before)


def test_errors_say_what_to_do() -> None:
    model, optimizer = made()
    with pytest.raises(NetirError, match="has not been called yet"):
        Live(model, optimizer).apply(Widen())
    with pytest.raises(NetirError, match="trains no parameter of this model"):
        Live(model, OPTIMIZERS["sgd"](nn.Linear(2, 2).parameters()))
    with pytest.raises(NetirError, match="DataParallel copies the model"):
        Live(nn.DataParallel(model), optimizer)
    sharded = type("FSDPModule", (nn.Module,), {})()
    with pytest.raises(NetirError, match="parameters are sharded"):
        Live(sharded, optimizer)
    live = Live(model, optimizer, batch()[0])
    live.apply(Widen("stem.0", factor=2))
    model.stem[0].weight.data = torch.zeros(3, 3, 3, 3, dtype=torch.float64)
    with pytest.raises(NetirError, match="changed by something else"):
        live.apply(Widen("stem.0", factor=2))
