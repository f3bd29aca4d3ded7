"""Equivariant layers and their ops: the symmetry holds, in modules, graphs and files.

The kernels' own tests prove filters of every size; test_equivariance_passes.py has the passes.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

import netir
from netir.errors import NetirError, NetirWarning
from netir.kernels.group_calls import group_conv
from netir.kernels.groups import SQUARE, group
from netir.kernels.layers import (
    EquivariantAvgPool2d,
    FieldBatchNorm2d,
    GroupConv2d,
    GroupPool,
    MixedGroupConv2d,
    cat_fields,
)
from netir.lower.export import DIRECT
from netir.lower.onnx import without_lowering
from netir.ops import OPS
from netir.passes import Bake, Collapse, Fold, Mask, Mix, Prune, Relax, Widen
from netir.rewrite import Pass
from netir.verify import verify
from tests.equivariant import MAP, gap, net, shaken, traced
from tests.group_layers import acted
from tests.pass_examples import EXAMPLES

# Modules.


@pytest.mark.parametrize("name", SQUARE)
@pytest.mark.parametrize(("kernel", "size"), [(1, 4), (3, 5), (3, 4), (2, 5)])
def test_a_layer_is_equivariant_to_exactly_its_group(name: str, kernel: int, size: int) -> None:
    layers = [
        GroupConv2d(2, 3, kernel, name, "D4", lifting=True, padding=1),
        GroupConv2d(3, 2, kernel, name, "D4", padding=1),
    ]
    model = nn.Sequential(*layers).double()
    x = torch.randn(1, 2, size, size, dtype=torch.float64)
    y = model(x)
    for element in group("D4").elements:
        error = gap(model(acted(element, x, "D4", lifted=False)), acted(element, y, "D4"))
        inside = element in group(name).elements
        assert error <= 1e-12 if inside else error > 1e-3


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["mean", "max"])
def test_a_network_is_invariant(training: bool, kind: str) -> None:
    model = net(kind=kind).train(training)
    want = model(MAP)
    for element in group("D4").elements:
        assert gap(model(acted(element, MAP, "D4", lifted=False)), want) <= 1e-12


def test_a_field_norm_is_a_batch_norm_of_fields() -> None:
    ours, theirs = FieldBatchNorm2d(3, "C4").double(), nn.BatchNorm2d(3).double()
    x = torch.randn(4, 12, 5, 5, dtype=torch.float64)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        want = theirs(given.reshape(16, 3, 5, 5)).reshape(x.shape)
        assert gap(ours(given), want) <= 1e-12
    assert gap(ours.running_var, theirs.running_var) <= 1e-12
    want = theirs.eval()(x.reshape(16, 3, 5, 5)).reshape(x.shape)
    assert gap(ours.eval()(x), want) <= 1e-12


def test_a_mixture_is_the_sum_of_its_layers() -> None:
    groups = ("D4", "D1_45", "C1")
    mixed = MixedGroupConv2d(2, 3, 3, groups, padding=1, weight_norm=True, dtype=torch.float64)
    with torch.no_grad():
        mixed.logits.normal_()  # type: ignore[union-attr]
        for weight in (mixed.weight, mixed.weight_C1, mixed.weight_D1_45):
            weight *= 3  # the norms stay what they were
    x, total = torch.randn(1, 16, 6, 6, dtype=torch.float64), torch.zeros(())
    coefficients = mixed.logits.softmax(0)  # type: ignore[union-attr]
    for factor, name, leaf in zip(coefficients, mixed.plan.groups, ("", "_D1_45", "_C1"),
                                  strict=True):  # fmt: skip
        alone = GroupConv2d(2, 3, 3, name, "D4", padding=1).double()
        weight = getattr(mixed, f"weight{leaf}")
        alone.weight.data = weight.data / 3
        alone.bias.data = getattr(mixed, f"bias{leaf}").data
        total = total + factor * alone(x)
    assert gap(mixed(x), total) <= 1e-12


def test_a_filter_is_remembered_in_eval_mode_until_a_weight_changes() -> None:
    layer = GroupConv2d(2, 2, 3, padding=1)
    x = torch.randn(1, 16, 5, 5)
    with torch.no_grad():
        first = layer(x)
        assert layer._kept._made is not None
        layer.weight.mul_(2)
        layer.bias.mul_(2)
        assert gap(layer(x), 2 * first) <= 1e-5
    other = pickle.loads(pickle.dumps(layer))
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_the_step_of_a_fused_optimizer_is_noticed(kind: Any) -> None:
    layer, x = GroupConv2d(3, 2, lifting=True), torch.randn(2, 3, 9, 9)
    optimizer = kind(layer.parameters(), lr=0.1, fused=True)
    layer(x).square().sum().backward()
    with torch.no_grad():
        before = layer(x)
        optimizer.step()
        assert not torch.equal(layer(x), before)
        assert torch.equal(layer(x), copy.deepcopy(layer)(x))


def test_parameters_that_were_read_can_be_swapped() -> None:
    layer, other = GroupConv2d(3, 2, lifting=True), GroupConv2d(3, 2, lifting=True)
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        want = other(x)
        layer(x)
        for mine, theirs in zip(layer.parameters(), other.parameters(), strict=True):
            torch.utils.swap_tensors(mine, theirs)
        assert torch.equal(layer(x), want)


def test_gradients_under_vmap() -> None:
    layer = GroupConv2d(2, 2, 3, "C4", padding=1).double()
    x = torch.randn(3, 8, 9, 9, dtype=torch.float64, requires_grad=True)
    leaves, y = [x, *layer.parameters()], layer(x)
    slopes = torch.randn_like(y.expand(4, *y.shape))
    many = torch.func.vmap(lambda s: torch.autograd.grad(y, leaves, s, retain_graph=True))(slopes)
    for i, slope in enumerate(slopes):
        one = torch.autograd.grad(y, leaves, slope, retain_graph=True)
        assert all(gap(a[i], b) <= 1e-12 for a, b in zip(many, one, strict=True))


def test_small_maps_are_convolved_in_contiguous_format() -> None:
    layer = GroupConv2d(16, 16, 3, padding=1)
    small, large = torch.randn(2, 128, 2, 2), torch.randn(2, 128, 16, 16)
    assert layer(small).is_contiguous()
    assert layer(large).is_contiguous(memory_format=torch.channels_last)


def test_torch_fx_sees_a_layer_as_one_call() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        GroupConv2d(3, 2, 3, lifting=True, stride=2), FieldBatchNorm2d(2), nn.ReLU(),
        MixedGroupConv2d(2, 2, 3, weight_norm=True), EquivariantAvgPool2d(2), GroupPool(),
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 13, 13)
    traced = torch.fx.symbolic_trace(model)
    called = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert called.count(group_conv) == 2
    assert torch.equal(traced(x), model(x))
    with pytest.raises(ValueError, match="not read symmetrically"):
        traced(torch.randn(2, 3, 12, 12))
    names = [name for name, _ in model.named_parameters()]
    found, want = (
        torch.autograd.grad(net(x).sum(), [net.get_parameter(name) for name in names])
        for net in (traced, model)
    )
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_layers_that_were_deferred_are_drawn_like_others() -> None:
    def made() -> nn.Module:
        first = GroupConv2d(3, 2, lifting=True, padding=1)
        mixed = MixedGroupConv2d(2, 2, 3, "D4 C1", padding=1, weight_norm=True)
        return nn.Sequential(first, FieldBatchNorm2d(2), mixed)

    with torch.device("meta"):
        deferred = made()
    deferred.to_empty(device="cpu")
    torch.manual_seed(3)
    for layer in deferred:
        layer.reset_parameters()  # type: ignore[operator]
    torch.manual_seed(3)
    want = made()
    for (name, a), b in zip(deferred.state_dict().items(), want.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(deferred(x), want(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EquivariantAvgPool2d(3, 2, 1)(torch.ones(1, 8, 8, 8)), "8 pixels is not read"),
        (lambda: EquivariantAvgPool2d(2)(torch.ones(1, 8, 9, 9)), "must be a multiple of 2"),
        (lambda: GroupConv2d(1, 1, 3, lifting=True, stride=2)(torch.ones(1, 1, 8, 8)), "symmetr"),
        (lambda: GroupConv2d(0, 1), "1 at least"),
        (lambda: GroupConv2d(1, 1, group="C9x"), "no group is called"),
        (lambda: GroupConv2d(1, 1, group="D4", ambient="C4"), "no subgroup"),
        (lambda: GroupConv2d(1, 1, group=("D4",)), r"no group is called \('D4',\)"),
        (lambda: MixedGroupConv2d(1, 1, groups=None), "names its groups"),
        (lambda: MixedGroupConv2d(1, 1, groups=(4,)), "no group is called 4"),
        (lambda: GroupPool("C4", "D4"), "no subgroup"),
        (lambda: GroupPool("C4", kind="median"), "not the median"),
        (lambda: GroupConv2d(1, 1, (3, 3)), r"kernel_size is one whole number.* not \(3, 3\)"),
        (lambda: GroupConv2d(1, 1, 2.0), "kernel_size is one whole number.* not 2.0"),
        (lambda: GroupConv2d(1, 1, padding="same"), "padding is one whole number.* not 'same'"),
        (lambda: GroupConv2d(1, 1, padding=(1, 1)), "padding is one whole number"),
        (lambda: GroupConv2d(1, 1, stride=1.5), "stride is one whole number.* not 1.5"),
        (lambda: MixedGroupConv2d(1, 1, (3, 3)), "kernel_size is one whole number"),
        (lambda: EquivariantAvgPool2d((2, 2)), "kernel_size is one whole number"),
        (lambda: EquivariantAvgPool2d(2, padding=(1, 1)), "padding is one whole number"),
        (lambda: EquivariantAvgPool2d(0), "1 at least"),
        (lambda: EquivariantAvgPool2d(2, -1), "1 at least"),
        (lambda: EquivariantAvgPool2d(3, 0), "1 at least"),
        (lambda: FieldBatchNorm2d(2, eps=float("nan")), "eps is positive"),
        (lambda: FieldBatchNorm2d(2, eps="a"), "eps is positive"),
        (lambda: GroupConv2d(1, 1, dtype=torch.complex64), "real numbers, not torch.complex64"),
        (lambda: GroupConv2d(1, True), "fields_out is one whole number, not True"),
        (lambda: GroupConv2d(1, 1)(None), "a map is a tensor, not NoneType"),
        (lambda: GroupPool()(torch.ones(8)), "give a batch"),
        (lambda: GroupConv2d(2.0, 1), "fields_in is one whole number, not 2.0"),
        (lambda: FieldBatchNorm2d(0), "a field at least"),
        (lambda: FieldBatchNorm2d(2, momentum=None), "momentum a number"),
        (lambda: GroupPool("D4")(torch.ones(16, 8, 8)), "give a batch"),
        (lambda: FieldBatchNorm2d(1)(torch.ones(16, 8, 8)), "give a batch"),
        (lambda: cat_fields([torch.ones(16, 8, 8)] * 2), "give a batch"),
        (lambda: cat_fields(torch.ones(2, 16, 8, 8)), "come in a list"),
    ],
)
def test_layers_refuse(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("fields", "name"), [(3, "D4"), (6, "C4"), (12, "D4")])
def test_a_field_norm_refuses_other_channels(training: bool, fields: int, name: str) -> None:
    norm = FieldBatchNorm2d(fields, name).train(training)
    message = f"48 channels are not {fields} fields of {name}, which has {norm.elements} elements"
    with pytest.raises(ValueError, match=message):
        norm(torch.randn(2, 48, 5, 5))
    assert not norm.running_mean.any()


@pytest.mark.parametrize("apply", [GroupPool("D4"), lambda x: cat_fields([x, x], "D4")])
def test_channels_that_are_no_fields_are_refused(apply: Any) -> None:
    with pytest.raises(ValueError, match="12 channels are no fields of D4, which has 8 elements"):
        apply(torch.randn(1, 12, 3, 3))


def test_concatenated_fields_are_compiled_and_exported_whole() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return cat_fields([x, 2 * x], "D4")

    x = torch.randn(1, 16, 3, 3)
    want = Twice()(x)
    assert torch.equal(torch.compile(Twice(), fullgraph=True, backend="eager")(x), want)
    assert torch.equal(torch.export.export(Twice(), (x,), strict=True).module()(x), want)
    assert "cat" in str(torch.fx.symbolic_trace(Twice()).graph)
    torch._dynamo.reset()


# Graphs.


def test_layers_are_one_node_each_and_come_back_as_themselves(tmp_path: Path) -> None:
    model = net()
    graph = traced(model)
    assert [n.op.name for n in graph.nodes.values() if n.params] == [
        "group_conv", "field_norm", "group_conv", "group_conv", "linear",
    ]  # fmt: skip
    lowered = netir.to_torch(graph)
    assert isinstance(lowered.get_submodule("last"), GroupConv2d)
    assert isinstance(lowered.get_submodule("norm"), FieldBatchNorm2d)
    assert lowered.state_dict().keys() == model.state_dict().keys()
    for mode in (True, False):
        assert torch.equal(lowered.train(mode)(MAP), model.train(mode)(MAP))
    assert str(netir.trace(lowered, (MAP,))) == str(graph)
    netir.save(graph, tmp_path / "net.netir")
    again = netir.load(tmp_path / "net.netir")
    assert str(again) == str(graph)
    assert torch.equal(netir.run(again, MAP), model(MAP))


def test_a_mixture_comes_back_as_itself() -> None:
    model = nn.Sequential(MixedGroupConv2d(3, 2, 3, ("C4", "C1"), lifting=True, weight_norm=True))
    graph = traced(model.double())
    lowered = netir.to_torch(graph)
    assert isinstance(lowered.get_submodule("0"), MixedGroupConv2d)
    assert torch.equal(lowered(MAP), model(MAP))
    assert "one norm together, until the pass bake" in graph.spaces()[0].reason


def test_weights_that_are_not_a_layers_own_are_a_call() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = GroupConv2d(3, 2, 3, "C4", lifting=True)
            self.b = GroupConv2d(3, 2, 3, "C4", lifting=True, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    model = Tied().double()
    graph = traced(model)
    lowered = netir.to_torch(graph)
    assert gap(lowered(MAP), model(MAP)) == 0
    lowered(MAP).sum().backward()
    assert str(netir.trace(copy.deepcopy(lowered), (MAP,))) == str(graph)
    with pytest.raises(NetirError, match="is shared"):
        Relax("a.weight")(graph)


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class Steered(nn.Module):
    """A group convolution whose weights depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = GroupConv2d(3, 2, lifting=True)

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.lift, {"weight": self.lift.weight * x.mean()}, (x,))


def test_weights_that_depend_on_the_input_have_no_filter() -> None:
    (error,) = without_lowering(traced(Steered().double()))
    assert "depend on the inputs" in error.what


def test_weights_that_are_computed_are_written_as_one_filter(tmp_path: Path) -> None:
    model = nn.Sequential(GroupConv2d(3, 2, lifting=True), GroupConv2d(2, 2)).double()
    parametrize.register_parametrization(model[1], "weight", Half())
    graph = traced(model)
    lowered = netir.to_torch(graph)
    assert gap(lowered(MAP), model(MAP)) <= 1e-12
    assert gap(torch.compile(lowered, backend="eager", fullgraph=True)(MAP), model(MAP)) <= 1e-12
    torch._dynamo.reset()
    path, x = tmp_path / "net.onnx", MAP.float()
    assert netir.to_onnx(netir.trace(model.float(), (x,)), path, (x,)).way == DIRECT
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Conv", "Conv"]
    model.double()
    with pytest.raises(NetirError, match="which is computed"):
        Relax("group_conv_1")(graph)
    folded = Fold(what="constants", freeze=True)(graph)
    verify(graph, folded, (MAP,))


@pytest.mark.parametrize("groups", ["", "C4 C1"])
def test_computed_weights_change_their_width_and_are_baked(groups: str) -> None:
    graph = traced(net())
    if groups:
        graph = Mix(groups=groups)(graph)
    masked = Mask("lift inner last", amount=0.4)(graph)
    assert [n.op.name for n in masked.nodes.values()].count("mul") == (9 if groups else 3)
    reasons = {space.name: space.reason for space in masked.spaces()}
    assert ("mixture are computed" in reasons["lift:1"]) == bool(groups)
    for rewrite in (Widen("*", factor=1.5), Prune("*", amount=0.5)):
        changed = rewrite(masked)
        assert changed is not masked
        verify(masked, changed, (MAP,))
    baked = Bake()(masked)
    verify(masked, baked, (MAP,))
    assert baked.params.keys() == graph.params.keys()
    assert 0.3 < float((baked.params["inner.weight"].data == 0).double().mean()) < 0.5
    kinds = [type(netir.to_torch(g).get_submodule("inner")) for g in (graph, baked)]
    assert kinds[0] is kinds[1]
    model = net()
    parametrize.register_parametrization(model.inner, "weight", Half())
    halved = Bake("inner")(traced(model))
    assert torch.equal(halved.params["inner.weight"].data, model.inner.weight)


def test_other_turns_are_relaxed_to_exact_ones() -> None:
    layers = [GroupConv2d(3, 2, 3, "C8", lifting=True), GroupConv2d(2, 2, 3, "C8")]
    graph = traced(nn.Sequential(*layers, GroupPool("C8")).double())
    relaxed = Relax("0 1", to="C4")(graph)
    verify(graph, relaxed, (MAP,), bound=1e-12)
    verify(relaxed, Collapse()(relaxed), (MAP,), bound=1e-12)
    assert netir.equivariance(relaxed, "C4", MAP).error <= 1e-12  # type: ignore[operator]


@pytest.mark.parametrize(
    "rewrite",
    [
        Widen("*"), Widen("*", factor=1.5), Prune("*", amount=0.5), Relax(), Relax(to="D2_45"),
        Collapse(), Mix(groups="C4 D1 C1"), Fold(),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("kind", ["mean", "max"])
def test_rewrites_keep_their_contract(rewrite: Pass, kind: str) -> None:
    graph = traced(net(kind=kind))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        result = rewrite.apply(graph)
    verify(graph, result.graph, (MAP,))
    assert gap(netir.to_torch(result.graph)(MAP), netir.run(result.graph, MAP)) <= 1e-12


def test_widths_change_by_fields_and_keep_the_symmetry() -> None:
    graph = traced(net())
    assert [s.name for s in graph.spaces() if not s.frozen] == ["lift:1", "last:1"]
    wide = Widen("*", factor=2)(graph)
    assert wide.params["lift.weight"].data.shape == (1, 4, 5, 5, 1, 3)
    assert wide.params["last.weight"].data.shape == (1, 6, 3, 3, 8, 8)
    assert netir.equivariance(shaken(wide), "D4", MAP).error <= 1e-12  # type: ignore[operator]
    relaxed = Relax(to="C4")(graph)
    for rewrite in (Widen("*", factor=2), Prune("*", amount=0.5)):
        verify(relaxed, rewrite(relaxed), (MAP,))
    thin = Prune("lift:1", amount=0.5)(graph)
    assert thin.params["norm.weight"].data.shape == (1,)
    assert netir.equivariance(thin, "D4", MAP).error <= 1e-12  # type: ignore[operator]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_pass_works_on_equivariant_networks(name: str) -> None:
    graph = traced(net())
    for rewrite in EXAMPLES[name]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NetirWarning)
            result = rewrite.apply(graph)
        verify(graph, result.graph, (MAP,))


def test_onnx_has_one_convolution_for_each_layer(tmp_path: Path) -> None:
    import onnx

    model = net().float()
    for number, graph in enumerate((
        netir.trace(model, (MAP.float(),)), Mix(groups="C1")(netir.trace(model, (MAP.float(),))),
    )):  # fmt: skip
        for each in (graph, Collapse()(graph)):
            path = tmp_path / f"{number}.onnx"
            report = netir.to_onnx(each, path)
            assert report.way == "direct"
            assert report.error <= report.allowed
            kinds = [node.op_type for node in onnx.load(path).graph.node]
            assert kinds.count("Conv") == 3
            assert kinds.count("Concat") == 1  # the network's own
            assert not {"Gather", "Softmax"} & set(kinds)


def test_python_source_wants_plain_layers(tmp_path: Path) -> None:
    graph = traced(net())
    with pytest.raises(NetirError, match="cannot write") as caught:
        netir.to_python(graph, tmp_path / "net.py")
    assert "collapse" in caught.value.fix
    netir.to_python(Collapse()(graph), tmp_path / "net.py")
    text = (tmp_path / "net.py").read_text()
    assert "nn.Conv2d(3, 16, 5, padding=2" in text
    assert "import netir" not in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OPS["group_conv"](groups=("C4", "C4")), "named twice"),
        (lambda: OPS["group_conv"](groups=("X",)), "no group is called"),
        (lambda: OPS["group_conv"](groups=()), "one at least"),
        (lambda: OPS["field_norm"](ambient="D99"), "no group convolution is like this"),
        (lambda: OPS["group_pool"](over="D4", ambient="C4"), "no subgroup"),
        (lambda: OPS["group_pool"](kind="median"), "no 'median'"),
    ],
)
def test_ops_refuse_attributes(make: Any, message: str) -> None:
    with pytest.raises(NetirError, match=message):
        make()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("f64[1, 2, 3, 3, 8, 2]", "f64[2, 2, 3, 3, 8, 2]", "weights of D4 are"),
        ("f64[1, 2, 5, 5, 1, 3]", "f64[1, 2, 5, 5, 3]", "6 dimensions"),
        ("@norm.bias: f64[2]", "@norm.bias: f64[3]", "does not fit 16 channels"),
        ("stride=2", "stride=3", "does not read a map"),
        ("@lift.bias: f64[1, 2]", "@lift.bias: f64[2, 2]", "a bias is"),
    ],
)
def test_graphs_that_do_not_fit_are_refused(old: str, new: str, message: str) -> None:
    from netir.text import parse_graph

    text = str(traced(net()))
    assert old in text
    with pytest.raises(NetirError, match=message):
        netir.check(parse_graph(text.replace(old, new)))


class TwoAmbients(nn.Module):
    """Branches of two ambient groups, and a pool over a part of one."""

    def __init__(self) -> None:
        super().__init__()
        self.large = GroupConv2d(3, 2, 3, "D4", lifting=True, padding=1)
        self.part, self.whole = GroupPool("D4", "C2"), GroupPool("D4")
        self.small = GroupConv2d(3, 2, 3, "D2", lifting=True, padding=1)
        self.next = GroupConv2d(2, 2, 3, "D2", padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.large(x).relu()
        return self.part(y), self.whole(y), self.next(self.small(x).relu())


def test_layers_behind_a_plain_one_are_measured_as_they_are() -> None:
    graph = Collapse("lift")(traced(net()))
    found = netir.equivariance(graph, "D4", MAP)
    assert found.error is not None
    assert found.error <= 1e-12
    assert all(layer.own is None or layer.own <= 1e-12 for layer in found.layers), str(found)


def test_a_module_is_not_measured() -> None:
    with pytest.raises(NetirError, match="takes a graph, not GroupPool"):
        netir.equivariance(GroupPool(), "D4", MAP)  # type: ignore[arg-type]


def test_every_value_is_measured_under_its_own_ambient_group() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model = TwoAmbients().double()
    found = netir.equivariance(netir.trace(model, (x,)), "D2", x)
    assert found.error is not None
    assert max(found.error, *(row.total for row in found.layers)) <= 1e-12  # type: ignore[type-var]
    with torch.no_grad():
        model.next.weight[:] = torch.randn_like(model.next.weight)
        broken = Relax("next", to="C1")(netir.trace(model, (x,)))
        weight = broken.params["next.weight"].data
        weight.add_(torch.randn_like(weight))
    assert netir.equivariance(broken, "D2", x).error > 1e-3  # type: ignore[operator]
