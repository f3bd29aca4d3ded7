"""Networks whose filters are made together: the same values, and kept only while they are right."""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import netir
from netir.kernels import together
from netir.kernels.bank import FilterBank
from netir.kernels.group_calls import planned_conv
from netir.kernels.layers import FieldBatchNorm2d, GroupConv2d, GroupPool, MixedGroupConv2d
from netir.kernels.together import with_bank, without_bank
from netir.passes import Collapse, Mix, Prune, Relax, Widen
from netir.rewrite import Pass
from tests.equivariant import gap

X = torch.randn(2, 3, 9, 9, dtype=torch.float64)


def net() -> nn.Sequential:
    made = nn.Sequential(
        GroupConv2d(3, 2, 3, "D4", lifting=True, padding=1), FieldBatchNorm2d(2), nn.ReLU(),
        MixedGroupConv2d(2, 3, 3, ("D4", "C4", "C1"), padding=1, weight_norm=True), nn.ReLU(),
        GroupConv2d(3, 2, 3, "D2", "D4", bias=False), GroupPool("D4"),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        made[3].logits.normal_()
    return made


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("prepare", [lambda model: model, with_bank], ids=["alone", "bank"])
def test_a_network_on_a_device(device: str, prepare: Callable[[nn.Module], nn.Module]) -> None:
    plain = net()
    model, x = prepare(copy.deepcopy(plain)).to(device), X.to(device)
    with torch.backends.cudnn.flags(deterministic=True):
        assert gap(model.eval()(x).cpu(), plain.eval()(X)) <= 1e-10
        model.train()
        found = [[*gradients(model, x), *curvature(model, x)] for _ in range(2)]
        with torch.autocast(device, torch.bfloat16):
            assert prepare(net().float().to(device))(x.float()).isfinite().all()
    plain.train()
    for a, b, want in zip(*found, [*gradients(plain), *curvature(plain, X)], strict=True):
        assert torch.equal(a, b)
        assert gap(a.cpu(), want) <= 1e-10


def curvature(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The gradient of the square of a gradient."""
    leaves = list(model.parameters())
    first = torch.autograd.grad(model(x).square().sum(), leaves, create_graph=True)
    return list(torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), leaves))


@pytest.mark.parametrize("device", DEVICES)
def test_a_network_that_never_ran_on_its_device_is_compiled_whole(device: str) -> None:
    model = net().eval()
    want = model(X)
    model.to(device)
    for layer in model:
        if isinstance(layer, MixedGroupConv2d):
            layer._tables = layer.plan.tables("meta" if device == "cpu" else "cpu")
    made = torch.compile(model, fullgraph=True, backend="aot_eager")(X.to(device))
    torch._dynamo.reset()
    assert gap(made.cpu(), want) <= 1e-10


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")  # what torch's compiler says of itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler needs g++")
@pytest.mark.parametrize("groups", ["D4", "D4 C1"])
def test_a_network_compiled_to_machine_code_has_the_same_gradients(groups: str) -> None:
    model = nn.Sequential(
        MixedGroupConv2d(2, 2, 3, groups, "D4", padding=1), nn.ReLU(), GroupPool(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3),
    )  # fmt: skip
    x, slope, compiled = torch.randn(2, 16, 9, 9), torch.randn(2, 3), torch.compile(model)
    leaves = list(model.parameters())
    found, want = (torch.autograd.grad((net(x) * slope).sum(), leaves) for net in (compiled, model))
    torch._dynamo.reset()
    for name, a, b in zip(dict(model.named_parameters()), found, want, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), name


@pytest.mark.gpu
def test_a_network_is_captured_in_a_graph() -> None:
    model = nn.Sequential(net()[:6], GroupPool("D4", "D1_45")).to("cuda").eval()
    x = X.to("cuda")
    with torch.no_grad():
        want = model(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = model(x)
        graph.replay()
    assert torch.equal(made, want)


class Calls:
    """Counts the launches of banks, and how many filters each made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        launch = FilterBank.__call__

        def counted(bank: FilterBank, *given: object) -> list[Tensor]:
            self.sizes.append(len(bank.plans))
            return launch(bank, *given)  # type: ignore[arg-type]

        monkeypatch.setattr(FilterBank, "__call__", counted)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def gradients(model: nn.Module, x: Tensor = X) -> list[Tensor]:
    return list(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))


def test_values_and_gradients_are_those_of_the_layers_alone(calls: Calls) -> None:
    plain = net()
    model = with_bank(with_bank(copy.deepcopy(plain)))
    for ours, theirs in zip(gradients(model), gradients(plain), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(model.eval()(X), plain.eval()(X))
    assert calls.sizes == [3, 3]
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(without_bank(model)(X), plain(X))
    assert calls.sizes == [3, 3]
    assert not model._forward_hooks_always_called


def test_layers_use_the_banks_filters_and_forget_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = with_bank(net()), []

    def conv(*given: object) -> Tensor:
        seen.append(given[-1] is not None)
        if len(seen) == 5:
            raise RuntimeError("stop")
        return planned_conv(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("netir.kernels.layers.planned_conv", conv)
    model(X)
    with pytest.raises(RuntimeError, match="stop"):
        model(X)
    assert seen == [True] * 5
    assert all(layer.made is None for layer in model if isinstance(layer, MixedGroupConv2d))
    model[0](X)
    assert seen[5:] == [False]


def double(model: nn.Module) -> None:
    with torch.no_grad():
        model[0].bias.mul_(2)  # type: ignore[index]


def load(model: nn.Module) -> None:
    model.load_state_dict(net().state_dict())


def train(model: nn.Module) -> None:
    model.train()(X).square().sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.eval()


def replace(model: nn.Module) -> None:
    model[3].logits = nn.Parameter(torch.randn(3).double())  # type: ignore[index]


@pytest.mark.parametrize("change", [double, load, train, replace])
def test_filters_are_kept_until_a_parameter_changes(
    change: Callable[[nn.Module], None], calls: Calls
) -> None:
    model = with_bank(net()).eval()
    with torch.no_grad():
        before = [model(X) for _ in range(3)]
    assert len(calls.sizes) == 1
    assert torch.equal(before[0], before[2])
    change(model)
    del calls.sizes[:]
    with torch.no_grad():
        after = model(X)
        assert torch.equal(model(X), after)
    assert len(calls.sizes) == 1
    assert gap(after, before[0]) > 1e-6
    assert torch.equal(without_bank(model)(X), after)


def test_filters_kept_in_inference_mode_are_of_no_use_outside() -> None:
    model = with_bank(net().eval()).requires_grad_(False)
    with torch.inference_mode():
        model(X)
    x = X.clone().requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        low = with_bank(net().float())(X.float())
    assert low.dtype == torch.bfloat16


def test_copies_have_banks_of_their_own(calls: Calls) -> None:
    model = with_bank(net()).eval()
    with torch.no_grad():
        want = model(X)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(X), want)
            other[0].weight.mul_(2)
            assert gap(other(X), want) > 1e-6
            assert torch.equal(model(X), want)
    assert calls.sizes == [3] * 5


def test_a_bank_inside_a_bank_leaves_its_work_to_it(calls: Calls) -> None:
    inner = with_bank(net())
    model = with_bank(nn.Sequential(inner, nn.ReLU())).eval()
    want = without_bank(copy.deepcopy(inner))(X).relu()
    assert torch.equal(model(X), want)
    assert calls.sizes == [3]


def test_layers_of_several_types_have_a_launch_each(calls: Calls) -> None:
    model = nn.ModuleList([GroupConv2d(3, 2, 3, lifting=True), GroupConv2d(3, 2, 3, lifting=True)])
    model[1].double()
    bank = together._Bank()
    bank.before(model, ())
    assert calls.sizes == [1, 1]
    assert [m.made[0].dtype for m in model] == [torch.float32, torch.float64]
    bank.after(model, (), None)


def test_lowered_networks_can_have_banks(calls: Calls) -> None:
    graph = netir.trace(net().eval(), (X,))
    model = with_bank(netir.to_torch(graph))
    want = netir.run(graph, X)
    assert torch.equal(model(X), want)
    assert calls.sizes == [3]
    assert torch.equal(copy.deepcopy(model)(X), want)
    assert calls.sizes == [3, 3]
    assert str(netir.trace(model, (X,))) == str(graph)
    assert gap(torch.compile(model, backend="eager")(X), want) <= 1e-12
    assert calls.sizes == [3, 3]
    torch._dynamo.reset()


@pytest.mark.parametrize("lowered", [False, True])
@pytest.mark.parametrize(
    ("rewrite", "layers"),
    [(Relax("0", to="C1"), 3), (Widen("5:1", factor=2), 3), (Prune("5:1", amount=0.5), 3),
     (Mix("5", groups="C1"), 3), (Collapse("3"), 2)], ids=str,
)  # fmt: skip
def test_banks_go_on_when_a_network_is_rewritten(
    rewrite: Pass, layers: int, lowered: bool, calls: Calls
) -> None:
    model: nn.Module = net()
    if lowered:
        model = netir.to_torch(netir.trace(model.eval(), (X,)))
    live = netir.Live(with_bank(model), torch.optim.SGD(model.parameters(), 0.1), X)
    model.train()(X).sum().backward()
    del calls.sizes[:]
    live.apply(rewrite)
    made = model.eval()(X)
    assert calls.sizes == [layers]
    assert gap(made, netir.run(live.graph, X)) <= 1e-12
