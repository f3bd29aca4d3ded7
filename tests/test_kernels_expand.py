"""Making filters on a processor: symmetry, gradients, compiling, exporting, banks of layers."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from netir.kernels import lattice
from netir.kernels.bank import FilterBank, Remembered, expand_bank
from netir.kernels.expand import (
    DECOMPOSITIONS,
    _direct,
    expand,
    expand_bias,
    expand_mix,
    expand_mix_backward,
    normalised,
    plain,
)
from netir.kernels.groups import SQUARE, group
from netir.kernels.plan import Plan
from tests.group_layers import MIXED, Mixed, acted, gap

DOUBLE = torch.float64
TREES = "ignore:.*LeafSpec:FutureWarning"  # torch's own decompositions copy one
JIT = "ignore:`torch.jit"  # torch's own forward differentiation uses it
LEAVES = "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"  # torch's opcheck


def parameters(
    plan: Plan, out: int = 2, into: int = 3, dtype: torch.dtype = DOUBLE
) -> list[Tensor]:
    return [
        torch.randn(plan.shape(name, out, into), dtype=dtype, requires_grad=True)
        for name in plan.groups
    ]


@pytest.mark.parametrize("name", SQUARE)
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("lifting", [False, True])
def test_a_layer_has_exactly_the_symmetry_of_its_group(
    name: str, kernel: int, lifting: bool
) -> None:
    plan = Plan((name,), kernel, lifting, ambient="D4")
    weight = expand(parameters(plan), plan)
    bias = expand_bias([torch.randn(8 // group(name).order, 2, dtype=DOUBLE)], plan)
    for size in (8, 9):
        x = torch.randn(1, 3 * plan.elements_in, size, size, dtype=DOUBLE)
        y = F.conv2d(x, weight, bias, padding=kernel // 2)
        for element in group("D4").elements:
            turned = F.conv2d(
                acted(element, x, "D4", lifted=not lifting), weight, bias, padding=kernel // 2
            )
            error = gap(turned, acted(element, y, "D4"))
            assert error <= 1e-12 if element in group(name).elements else error >= 1e-2, element


@pytest.mark.parametrize("names", [MIXED, SQUARE, ("C2", "D1_90"), ("D2_45", "D1_135", "D1_45")])
def test_mixing_filters_is_mixing_layers(names: tuple[str, ...]) -> None:
    plan = Plan(names, 3, ambient="D4")
    made, mix = parameters(plan), torch.rand(len(names), dtype=DOUBLE)
    x = torch.randn(2, 24, 5, 6, dtype=DOUBLE)
    alone = [Plan((name,), 3, ambient="D4") for name in names]
    each = [F.conv2d(x, expand([p], a)) * z for p, a, z in zip(made, alone, mix, strict=True)]
    together = F.conv2d(x, expand(made, plan, mix))
    assert gap(together, torch.stack(each).sum(0)) <= 1e-13


def test_a_mixture_with_one_group_left_is_that_layer() -> None:
    plan = Plan(MIXED)
    made = parameters(plan)
    mix = torch.zeros(len(MIXED), dtype=DOUBLE)
    mix[4] = 1
    assert torch.equal(expand(made, plan, mix), expand([made[4]], Plan(("D2",), ambient="D4")))


@pytest.mark.parametrize("name", ["C3", "C6", "C8", "D8"])
@pytest.mark.parametrize("lifting", [False, True])
def test_what_interpolates_is_exact_where_pixels_meet_pixels(name: str, lifting: bool) -> None:
    plan = Plan((name,), 5, lifting)
    weight = expand(parameters(plan), plan)
    x = torch.randn(1, 3 * plan.elements_in, 9, 9, dtype=DOUBLE)
    y = F.conv2d(x, weight, padding=2)
    for element in (e for e in group(name).elements if e.exact):
        turned = F.conv2d(acted(element, x, name, lifted=not lifting), weight, padding=2)
        assert gap(turned, acted(element, y, name)) <= 1e-12


def test_a_pixel_wide_kernel_has_every_group_exactly() -> None:
    plan = Plan(("C12",), 1)
    weight = expand(parameters(plan), plan).view(12, 2, 12, 3)
    for shift in range(12):
        assert torch.equal(weight.roll((shift, shift), (0, 2)), weight)


def test_turning_a_smooth_filter_by_interpolation_is_nearly_right() -> None:
    across = torch.arange(9, dtype=DOUBLE) - 4
    rows, columns = torch.meshgrid(across, across, indexing="ij")
    plan = Plan(("C8",), 9, lifting=True)
    bump = torch.exp(-((rows - 1) ** 2 + columns**2) / 4)
    weight = expand([bump.view(1, 1, 9, 9, 1, 1)], plan)[:, 0]
    # turning by 45 degrees counter-clockwise moves (1, 0), below the centre, to the right
    down, right = ((weight * along).sum((1, 2)) for along in (rows, columns))
    wrong = (torch.atan2(right, down).rad2deg() - torch.arange(8) * 45 + 180) % 360 - 180
    assert wrong.abs().max() <= 2


PLANS = [
    Plan(MIXED, 3),
    Plan(("D4",), 1),
    Plan(("C4", "C2"), 2, ambient="D4"),
    Plan(("D2_45", "C1", "D1_45"), 3, lifting=True),
    Plan(("C8", "C4"), 3),
    Plan(("C3",), 3, lifting=True),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_fast_way_is_the_plain_one(plan: Plan) -> None:
    made = parameters(plan)
    mix = torch.randn(len(made), dtype=DOUBLE, requires_grad=True)
    args = (made, mix, *plan.tables(), plan.into, DOUBLE)
    slow = plain(*args)
    slope = torch.randn_like(slow)
    want = torch.autograd.grad(slow, [*made, mix], slope)
    for fast in (expand_mix(*args), _direct(*args)):
        assert gap(fast, slow) <= 1e-14
        for a, b in zip(torch.autograd.grad(fast, [*made, mix], slope), want, strict=True):
            assert gap(a, b) <= 1e-13


@pytest.mark.parametrize("kind", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_large_filters_are_summed_by_parts(
    plan: Plan, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [p.detach() for p in parameters(plan, dtype=kind)]
    kept = [p.clone() for p in made]
    mix = torch.tensor([1.0, *torch.randn(len(made) - 1)], dtype=kind)
    args = (made, mix, *plan.tables(), plan.into)
    want = lattice.expand(*args)
    monkeypatch.setattr(lattice, "_WHOLE", 0)
    for part in (1, 20, 10**6):
        monkeypatch.setattr(lattice, "_PART", part)
        found = lattice.expand(*args)
        assert torch.equal(found, want)
        found += 1  # is no parameter
    assert all(torch.equal(a, b) for a, b in zip(made, kept, strict=True))


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_gradients(plan: Plan) -> None:
    made = parameters(plan, 1, 2)
    mix = torch.randn(len(made), dtype=DOUBLE, requires_grad=True)

    def function(mix: Tensor, *own: Tensor) -> Tensor:
        return expand(own, plan, mix)

    assert torch.autograd.gradcheck(function, (mix, *made), fast_mode=plan.kernel > 1)
    assert torch.autograd.gradgradcheck(function, (mix, *made), fast_mode=True)


def test_gradients_of_a_part() -> None:
    plan = Plan(("D4", "C2"))
    made = [p.detach() for p in parameters(plan)]
    mix = torch.randn(2, dtype=DOUBLE, requires_grad=True)
    expand(made, plan, mix).square().sum().backward()
    want = mix.grad
    made[0].requires_grad_()
    mix = mix.detach().requires_grad_()
    expand(made, plan, mix).square().sum().backward()
    assert torch.equal(mix.grad, want)
    assert made[0].grad is not None
    assert made[1].grad is None


@pytest.mark.filterwarnings(LEAVES)
@pytest.mark.parametrize("plan", [PLANS[3], PLANS[5]], ids=str)
def test_the_ops_keep_torchs_rules(plan: Plan) -> None:
    made = parameters(plan, 1, 2)
    mix = torch.rand(len(made), dtype=DOUBLE, requires_grad=True)
    args = (made, mix, *plan.tables(), plan.into, DOUBLE)
    torch.library.opcheck(expand_mix, args)
    slope = torch.randn_like(expand_mix(*args), requires_grad=True)
    for wanted in (True, False):
        torch.library.opcheck(
            expand_mix_backward, (made, mix, slope, *plan.tables(), plan.into, wanted)
        )


def test_a_filter_made_in_inference_mode_can_be_trained_afterwards() -> None:
    plan = Plan(("D2", "C2"), 4, ambient="D4")  # of no other test, so its tables are made here
    made = parameters(plan)
    bias = [torch.zeros(rows, 2, dtype=DOUBLE, requires_grad=True) for rows in (2, 4)]
    with torch.inference_mode():
        before = expand(made, plan)
    after = expand(made, plan)
    (after.sum() + expand_bias(bias, plan).sum()).backward()
    assert torch.equal(before, after)
    assert made[0].grad is not None


def test_tables_lie_where_they_are_asked_for_whatever_the_default_is() -> None:
    plan = Plan(("D2_45", "C2"), 5, ambient="D4")  # of no other test, so its tables are made here
    with torch.device("meta"):
        assert plan.tables().table.device.type == "cpu"
    other = Plan(("D2_45",), 5, ambient="D4")
    with FakeTensorMode():
        expand([torch.empty(shape) for shape in [other.shape("D2_45", 2, 3)]], other)
    for each in (plan, other):
        made = parameters(each)
        assert gap(expand(made, each), plain(made, torch.ones(len(made), dtype=DOUBLE),
                                             *each.tables(), (), DOUBLE).permute(0, 3, 1, 2)) == 0


def test_weight_normalisation() -> None:
    plan = Plan(MIXED)
    made = parameters(plan)
    norms, mix = torch.rand(6, dtype=DOUBLE), torch.rand(6, dtype=DOUBLE)
    scaled = [p * n / p.norm() * z for p, n, z in zip(made, norms, mix, strict=True)]
    assert gap(expand(made, plan, normalised(made, norms, mix)), expand(scaled, plan)) <= 1e-14
    assert torch.autograd.gradcheck(
        lambda *own: expand(own, plan, normalised(own, norms)), made, fast_mode=True
    )
    with torch.no_grad():
        made[0].zero_()
    none = expand(made, plan, normalised(made, norms))
    none.sum().backward()
    assert none.isfinite().all()
    assert made[0].grad.isfinite().all()


def test_filters_are_channels_last_in_autocasts_type() -> None:
    plan = Plan(MIXED)
    made = parameters(plan, dtype=torch.float32)
    assert expand(made, plan).is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert expand(made, plan).dtype == torch.bfloat16
        assert expand(parameters(plan), plan).dtype == DOUBLE
    half = expand(made, plan, dtype=torch.bfloat16)
    assert torch.equal(half, expand(made, plan).bfloat16())
    half.float().sum().backward()
    assert made[0].grad is not None
    assert made[0].grad.dtype == torch.float32


def test_sums_of_short_numbers_are_not_short() -> None:
    plan = Plan(MIXED)
    made = parameters(plan, 4, 4, torch.bfloat16)
    mix = torch.rand(6)
    whole = [p.detach().double().requires_grad_() for p in made]
    ours, theirs = expand(made, plan, mix), expand(whole, plan, mix.double())
    assert ours.dtype == torch.bfloat16
    assert (ours - theirs).norm() <= 2e-3 * theirs.norm()
    slope = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, made, slope),
        torch.autograd.grad(theirs, whole, slope.double()),
        strict=True,
    ):
        assert a.dtype == torch.bfloat16
        assert (a - b).norm() <= 2e-3 * b.norm()


@pytest.mark.filterwarnings(JIT)
@pytest.mark.parametrize("plan", [PLANS[0], PLANS[4]], ids=str)
def test_torch_func_and_forward_differentiation_see_torchs_own_ops(plan: Plan) -> None:
    made, mix = [p.detach() for p in parameters(plan)], torch.rand(len(plan.groups), dtype=DOUBLE)
    own = tuple(made), mix

    def loss(own: tuple[tuple[Tensor, ...], Tensor]) -> Tensor:
        return expand(own[0], plan, own[1]).pow(3).sum()

    leaves = [t.clone().requires_grad_() for t in (*made, mix)]
    value = loss((tuple(leaves[:-1]), leaves[-1]))
    want = torch.autograd.grad(value, leaves)
    found = torch.func.grad(loss)(own)
    for a, b in zip((*found[0], found[1]), want, strict=True):
        assert gap(a, b) <= 1e-13
    three = tree_map(lambda t: torch.stack([t, 2 * t, -t]), own)
    many = torch.func.vmap(lambda own: expand(own[0], plan, own[1]))(three)
    assert gap(many[1], 4 * expand(made, plan, mix)) <= 1e-14
    slope = torch.func.jvp(loss, (own,), (own,))[1]  # along themselves: a form of degree six
    assert gap(slope, 6 * value) <= 1e-12
    with forward_ad.dual_level():
        made[0] = forward_ad.make_dual(made[0], made[0])
        tangent = forward_ad.unpack_dual(expand(made, plan, mix)).tangent
    only = [made[0], *(torch.zeros_like(p) for p in made[1:])]
    assert gap(tangent, expand(only, plan, mix)) <= 1e-14


def ways(plan: Plan) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Parameters, and their filter by every way; coefficients depend on the parameters too."""
    made = parameters(plan, 1, 1)
    mix = torch.rand(len(made), dtype=DOUBLE, requires_grad=True)
    table, weights = plan.tables()
    factors = normalised(made, torch.ones(len(made), dtype=DOUBLE), mix)
    args = (made, factors, table, weights, plan.into, DOUBLE)
    several = [weights if weights is not None else torch.empty(0)]
    bank = expand_bank(made, factors, [table], several, [len(made)], plan.into, DOUBLE)
    filters = {"plain": plain(*args), "direct": _direct(*args), "op": expand_mix(*args)}
    return [*made, mix], {**filters, "bank": bank.view_as(filters["plain"])}


@pytest.mark.parametrize("plan", [PLANS[0], PLANS[4]], ids=str)
def test_many_gradients_at_once(plan: Plan) -> None:
    leaves, filters = ways(plan)
    slopes = torch.randn(3, *filters["plain"].shape, dtype=DOUBLE)
    for some in (leaves[-1:], leaves[:1], leaves):
        want = [torch.autograd.grad(filters["plain"], some, s, retain_graph=True) for s in slopes]
        for way, filter in filters.items():
            many = torch.autograd.grad(
                filter, some, slopes, retain_graph=True, is_grads_batched=True
            )
            for i, one in enumerate(want):
                assert all(gap(a[i], b) <= 1e-13 for a, b in zip(many, one, strict=True)), way


@pytest.mark.parametrize("plan", [PLANS[0], PLANS[4]], ids=str)
def test_gradients_that_are_differentiated_themselves(plan: Plan) -> None:
    leaves, filters = ways(plan)
    found = {}
    for way, filter in filters.items():
        first = torch.autograd.grad(filter.pow(3).sum(), leaves, create_graph=True)
        total = torch.stack([g.pow(2).sum() for g in first]).sum()
        found[way] = first, torch.autograd.grad(total, leaves, retain_graph=True)
    for way, orders in found.items():
        for ours, theirs in zip(orders, found["plain"], strict=True):
            assert all(gap(a, b) <= 1e-12 for a, b in zip(ours, theirs, strict=True)), way


def test_a_hessian_by_many_gradients_at_once() -> None:
    plan = Plan(("D4", "C4"))
    own = tuple(p.detach() for p in parameters(plan, 1, 1))

    def loss(*own: Tensor) -> Tensor:
        return expand(own, plan).pow(3).sum()

    one, many = (torch.autograd.functional.hessian(loss, own, vectorize=v) for v in (False, True))
    for a, b in zip(one, many, strict=True):
        assert all(gap(x, y) <= 1e-13 for x, y in zip(a, b, strict=True))


def net() -> nn.Sequential:
    return nn.Sequential(
        Mixed(Plan(MIXED, 3, lifting=True), 3, 2), nn.ReLU(), Mixed(Plan(MIXED, 3), 2, 2)
    ).eval()


def test_compiled_whole() -> None:
    torch._dynamo.reset()
    model, x = net(), torch.randn(2, 3, 8, 8)
    want = model(x)
    want.square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    made = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    made.square().sum().backward()
    assert gap(made, want) <= 1e-5
    assert max(gap(p.grad, e) for p, e in zip(model.parameters(), expected, strict=True)) <= 1e-4
    torch._dynamo.reset()


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")  # what torch's compiler says of itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler needs g++")
@pytest.mark.parametrize("wanted", [True, False])
def test_compiled_to_machine_code_where_there_is_a_compiler(wanted: bool) -> None:
    torch._dynamo.reset()
    model, x = net(), torch.randn(2, 3, 8, 8)
    with torch.set_grad_enabled(wanted):
        made = torch.compile(model, fullgraph=True)(x)
    want = model(x)
    assert gap(made, want) <= 1e-5
    if wanted:
        leaves = list(model.parameters())
        expected = torch.autograd.grad(want.square().sum(), leaves)
        for a, b in zip(torch.autograd.grad(made.square().sum(), leaves), expected, strict=True):
            assert gap(a, b) <= 1e-4
    torch._dynamo.reset()


@pytest.mark.parametrize("names", [("D4",), ("D4", "C1"), ("D4", "C4", "C1")])
def test_compiled_with_and_without_gradients_of_any_order(names: tuple[str, ...]) -> None:
    torch._dynamo.reset()
    plan = Plan(names)
    made, x, tables = parameters(plan), torch.randn(2, 24, 5, 5, dtype=DOUBLE), plan.tables()

    def layer(*own: Tensor) -> Tensor:
        return F.conv2d(x, expand(own, plan, tables=tables)).pow(3)

    fast = torch.compile(layer, fullgraph=True, backend="eager")
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert gap(fast(*made), layer(*made)) <= 1e-13
    second = []
    for way in (fast, layer):
        first = torch.autograd.grad(way(*made).sum(), made, create_graph=True)
        second.append(torch.autograd.grad(sum(f.square().sum() for f in first), made))
    for a, b in zip(*second, strict=True):
        assert gap(a, b) <= 1e-12
    torch._dynamo.reset()


@pytest.mark.filterwarnings(TREES)
def test_exported_as_one_op_and_decomposed_to_plain_ones() -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    program = torch.export.export(model, (x,), strict=True)
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("netir.expand_mix.default") == 2
    table = torch.export.default_decompositions()
    table.update(DECOMPOSITIONS)
    done = program.run_decompositions(table)
    assert not any("netir" in str(node.target) for node in done.graph.nodes)
    assert gap(done.module()(x), model(x)) <= 1e-5


@pytest.mark.filterwarnings(TREES, "ignore::DeprecationWarning")
def test_onnx_sees_one_convolution_for_each_layer() -> None:
    import onnxruntime

    model, x = net(), torch.randn(2, 3, 8, 8)
    program = torch.export.export(model, (x,), strict=True)
    table = torch.export.default_decompositions()
    table.update(DECOMPOSITIONS)
    made = torch.onnx.export(program.run_decompositions(table), (x,), dynamo=True, verbose=False)
    kinds = [node.op_type for node in made.model.graph]
    assert kinds == ["Conv", "Relu", "Conv"]
    session = onnxruntime.InferenceSession(made.model_proto.SerializeToString())
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.abs(y - model(x).detach().numpy()).max() <= 1e-5


def test_what_records_ops_sees_one() -> None:
    plan = Plan(("D4", "C1"))
    made, tables = [p.detach() for p in parameters(plan)], plan.tables()
    graph = make_fx(lambda *own: expand(own, plan, None, tables))(*made)
    assert [str(node.target) for node in graph.graph.nodes].count("netir.expand_mix.default") == 1
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        shape = expand([mode.from_tensor(p) for p in made], plan, None, tables).shape
    assert shape == (16, 24, 3, 3)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE, torch.bfloat16])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_any_type_in_any_layout(plan: Plan, dtype: torch.dtype) -> None:
    order = (5, 4, 3, 2, 1, 0)
    made = [p.detach().permute(order).contiguous().permute(order).to(dtype).requires_grad_()
            for p in parameters(plan)]  # fmt: skip
    mix = torch.rand(len(made), requires_grad=True)
    fast = expand(made, plan, mix)
    slow = plain(made, mix, *plan.tables(), plan.into, dtype).permute(0, 3, 1, 2)
    bound = 0.02 if dtype == torch.bfloat16 else 1e-5
    assert gap(fast, slow) <= bound
    slope = torch.randn_like(fast).mT.contiguous().mT
    found = [torch.autograd.grad(way, [*made, mix], slope) for way in (fast, slow)]
    for ours, theirs in zip(*found, strict=True):
        size = float(theirs.abs().max())
        assert gap(ours, theirs) <= bound * max(size, 1.0)


LAYERS = [
    (Plan(MIXED), 2, 2),
    (Plan(("D4", "C2"), 3, lifting=True), 2, 3),
    (Plan(("D4", "C8"), 1), 1, 2),
]


def bank(dtype: torch.dtype = DOUBLE) -> tuple[FilterBank, list[list[Tensor]], list[Tensor]]:
    made = [parameters(plan, out, into, dtype) for plan, out, into in LAYERS]
    mixes = [torch.randn(len(own), dtype=dtype, requires_grad=True) for own in made]
    return FilterBank([plan for plan, _, _ in LAYERS]), made, mixes


def each(made: Sequence[Sequence[Tensor]], mixes: Sequence[Tensor]) -> list[Tensor]:
    args = zip(made, LAYERS, mixes, strict=True)
    return [expand(own, plan, mix) for own, (plan, _, _), mix in args]


def test_a_bank_makes_what_its_layers_make() -> None:
    whole, made, mixes = bank()
    filters, expected = whole(made, mixes), each(made, mixes)
    slopes = [torch.randn_like(f) for f in filters]
    leaves = [*(p for own in made for p in own), *mixes]
    ours = torch.autograd.grad(filters, leaves, slopes)
    theirs = torch.autograd.grad(expected, leaves, slopes)
    for a, b in zip([*filters, *ours], [*expected, *theirs], strict=True):
        assert torch.equal(a, b)
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in filters)


@pytest.mark.filterwarnings(LEAVES)
def test_a_bank_keeps_torchs_rules_and_compiles() -> None:
    torch._dynamo.reset()
    made, mixes = bank()[1:]
    whole, made, mixes = FilterBank([plan for plan, _, _ in LAYERS[1:]]), made[1:], mixes[1:]
    tables = [plan.tables() for plan in whole.plans]
    none = torch.empty(0, dtype=DOUBLE)
    leaves = [p for own in made for p in own]
    args = (
        leaves, torch.cat(mixes).detach().requires_grad_(), [t.table for t in tables],
        [none if t.weights is None else t.weights for t in tables], [len(own) for own in made],
        [g for plan in whole.plans for g in plan.into], DOUBLE,
    )  # fmt: skip
    torch.library.opcheck(expand_bank, args)
    at_once = expand_bank(*args)
    apart = torch.cat([f.permute(0, 2, 3, 1).reshape(-1) for f in whole(made, mixes)])
    assert torch.equal(at_once, apart)
    slope = torch.randn_like(apart)
    found = [torch.autograd.grad(way, leaves, slope) for way in (at_once, apart)]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    compiled = torch.compile(
        lambda made, mixes: whole(made, mixes, tables), fullgraph=True, backend="aot_eager"
    )
    for a, b in zip(compiled(made, mixes), whole(made, mixes), strict=True):
        assert gap(a, b) <= 1e-13
    torch._dynamo.reset()


def test_a_bank_refuses_what_does_not_fit() -> None:
    whole, made, _ = bank()
    with pytest.raises(ValueError, match="a layer at least"):
        FilterBank([])
    with pytest.raises(ValueError, match="parameters of 2 layers for 3 plans"):
        whole(made[:2])
    with pytest.raises(ValueError, match="tables of 1 layers for 3 plans"):
        whole(made, tables=[LAYERS[0][0].tables()])
    with pytest.raises(ValueError, match=r"coefficients of shape \[2\] for 6 groups"):
        whole(made, [torch.ones(2)] * 3)
    with pytest.raises(ValueError, match="of another plan"):
        expand(made[0], LAYERS[0][0], tables=LAYERS[1][0].tables())
    with pytest.raises(ValueError, match="one dtype and device, not 2"):
        whole([*made[:2], [p.float() for p in made[2]]])
    with pytest.raises(ValueError, match=r"biases have shapes \[\[2, 3\]\], not \[\[1, 3\]\]"):
        expand_bias([torch.zeros(2, 3)], Plan(("C4",)))
    plan = Plan(("C1", "C2"))
    with pytest.raises(ValueError, match="biases have shapes"):
        expand_bias([torch.zeros(2, 3), torch.zeros(1, 4)], plan)
    with pytest.raises(ValueError, match=r"coefficients of shape \[3\] for 2 groups"):
        expand_bias([torch.zeros(2, 3), torch.zeros(1, 3)], plan, torch.ones(3))
    with pytest.raises(ValueError, match="six axes and are not empty"):
        expand([torch.zeros(3), torch.zeros(3)], plan)
    with pytest.raises(ValueError, match="not of real numbers"):
        expand([p.detach().long() for p in parameters(plan)], plan)
    with pytest.raises(ValueError, match=r"biases of torch\.float32 and of torch\.float64"):
        expand_bias([torch.zeros(2, 3), torch.zeros(1, 3, dtype=DOUBLE)], plan)
    with pytest.raises(ValueError, match=r"real numbers, not torch\.int32"):
        expand(parameters(plan), plan, dtype=torch.int32)
    for wrong, name in ((torch.ones(2) * 1j, "torch.complex64"), ([1.0, 1.0], "list")):
        with pytest.raises(ValueError, match=f"coefficients are a tensor.* not {name}"):
            expand(parameters(plan), plan, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="parameters are tensors"):
        expand([p.tolist() for p in parameters(plan)], plan)  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"norms of shape \[3\] for 2 groups"):
        normalised(parameters(plan), torch.ones(3))


def test_parameters_may_come_one_by_one() -> None:
    plan = Plan(("C1", "C2"))
    made = parameters(plan)
    assert torch.equal(expand((p for p in made), plan), expand(made, plan))  # type: ignore[arg-type]


class Counted:
    """Makes filters, and counts how often."""

    def __init__(self) -> None:
        self.whole, self.made, self.mixes = bank()
        self.sources = [*(p for own in self.made for p in own), *self.mixes]
        self.times = 0

    def __call__(self) -> list[Tensor]:
        self.times += 1
        return self.whole(self.made, self.mixes)


def test_filters_are_remembered_until_a_parameter_changes() -> None:
    counted, kept = Counted(), Remembered[list[Tensor]]()
    with torch.no_grad():
        first = kept(counted.sources, counted)
        assert kept(counted.sources, counted) is first
        counted.mixes[0].add_(1)
        second = kept(counted.sources, counted)
        assert counted.times == 2
        assert not torch.equal(first[0], second[0])
        kept(counted.sources, counted, key=torch.bfloat16)
        assert counted.times == 3
        kept.forget()
        kept(counted.sources, counted, key=torch.bfloat16)
        assert counted.times == 4
        counted.sources[0] = counted.sources[0].clone()
        gc.collect()
        kept(counted.sources, counted, key=torch.bfloat16)
        assert counted.times == 5


def test_values_that_are_exchanged_are_noticed_even_at_the_same_address() -> None:
    counted, kept = Counted(), Remembered[list[Tensor]]()
    with torch.no_grad():
        for times in range(1, 20):
            kept(counted.sources, counted)
            assert counted.times == times
            for _ in range(2):  # the memory of the values before may be given to these
                for source in counted.sources:
                    source.data = source.data * 2


def test_nothing_is_remembered_while_a_gradient_could_be_wanted() -> None:
    counted, kept = Counted(), Remembered[list[Tensor]]()
    kept(counted.sources, counted)
    kept(counted.sources, counted)
    assert counted.times == 2
    with torch.inference_mode():
        copies = [source.clone() for source in counted.sources]
        kept(copies, counted)
        kept(copies, counted)
    assert counted.times == 4
