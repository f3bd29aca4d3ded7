"""Prune: which spaces compete, what must stay, what targets reach, and what is refused."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import netir
from netir.basis import Contract
from netir.calibration import Calibration
from netir.errors import NetirError, NetirWarning
from netir.evaluate import symbol_values
from netir.ir import Graph
from netir.passes import Prune
from netir.passes.pruning import targets as measuring
from netir.passes.pruning.allocate import Rules, structure
from netir.passes.pruning.kinds import Kinds
from netir.passes.pruning.targets import macs_left, parameters_left
from netir.passes.schedule import schedule
from netir.rewrite import Result, parameters
from netir.spaces import Space
from netir.verify import verify
from tests.doubled import doubled, doubled_tensors
from tests.zoo.traced import traced

SAMPLES = ("resnet", "llama", "swin")


def prepared(name: str) -> tuple[Graph, Calibration]:
    """A sample in float64, and its inputs as data."""
    sample, graph = traced(name)
    args, kwargs = doubled_tensors(sample.args), doubled_tensors(sample.kwargs)
    names = list(graph.arguments)
    return doubled(graph), Calibration([{**dict(zip(names, args, strict=False)), **kwargs}])


def pruned(rewrite: Prune, graph: Graph, data: Calibration | None = None) -> Result:
    """Apply a pass, and prove that what it gives keeps its contract."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        result = rewrite.apply(graph, data)
    if data is not None:
        verify(graph, result.graph, (), next(data.inputs(graph)))
    return result


def free(graph: Graph) -> dict[str, Space]:
    return {s.name: s for s in graph.spaces() if not s.frozen and s.producers}


def kept(rewrite: Prune, graph: Graph, data: Calibration | None = None) -> dict[Space, list[int]]:
    """Which indices of every free space stay."""
    spaces = free(graph)
    found = rewrite.bases(graph, list(spaces.values()), data)
    return {
        space: list(range(space.size)) if isinstance(basis, str) else basis.index.tolist()  # type: ignore[union-attr]
        for space, basis in ((spaces[name], basis) for name, basis in found.items())
    }


def stack(*layers: list[float]) -> Graph:
    """Linear layers whose unit i has the norm that is written there, and a last one of two."""
    modules: list[nn.Module] = []
    inputs = 4
    for norms in layers:
        modules += [nn.Linear(inputs, len(norms)), nn.ReLU()]
        with torch.no_grad():
            weight = torch.zeros(len(norms), inputs)
            weight[:, -1] = torch.tensor(norms)
            modules[-2].weight.copy_(weight)  # type: ignore[union-attr, operator]
        inputs = len(norms)
    model = nn.Sequential(*modules, nn.Linear(inputs, 2)).double()
    return netir.trace(model, (torch.randn(3, 4, dtype=torch.float64),))


def left(graph: Graph, before: Graph) -> list[list[float]]:
    """Of a stack, the norms of the units that are left, by layer."""
    weights = [graph.params[n].data for n in before.params if n.endswith("weight")]
    return [w.norm(dim=1).tolist() for w in weights[:-1]]


FIRST, SECOND = [1.0, 2, 3, 4], [10.0, 20, 30, 40, 50, 60]


def test_local_takes_the_same_share_of_every_space() -> None:
    graph = stack(FIRST, SECOND)
    assert left(Prune(amount=0.5)(graph), graph) == [[3, 4], [40, 50, 60]]


def test_global_has_one_threshold() -> None:
    """Half of ten: as they are, all but one of the first layer go, and two of the second."""
    graph = stack(FIRST, SECOND)
    thin = Prune(amount=0.5, scope="global", normalise="none")(graph)
    assert left(thin, graph) == [[4], [30, 40, 50, 60]]


def test_global_compares_normalised_scores() -> None:
    """By the mean: 0.4 0.8 1.2 1.6 against 0.29 0.57 0.86 1.14 1.43 1.71."""
    graph = stack(FIRST, SECOND)
    thin = Prune(amount=0.5, scope="global", normalise="mean")(graph)
    assert left(thin, graph) == [[3, 4], [40, 50, 60]]
    uneven = stack([1.0, 1, 1, 8], SECOND)  # by the maximum: .125 .125 .125 1; .17 .33 .5 .67 ...
    thin = Prune(amount=0.4, scope="global", normalise="max")(uneven)
    assert left(thin, uneven) == [[8], [20, 30, 40, 50, 60]]


def test_isomorphic_ranks_within_one_structure() -> None:
    """The two spaces between linear layers compete; the one behind a batch norm does not."""
    model = nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
    ).double().eval()  # fmt: skip
    norms = {"0": [1.0, 2, 3, 4], "2": [10.0, 20, 30, 40], "3": [15.0, 25, 35, 100]}
    with torch.no_grad():
        for name, values in norms.items():
            weight = model.get_submodule(name).weight
            weight.zero_()
            weight[:, -1] = torch.tensor(values)  # type: ignore[index]
    graph = netir.trace(model, (torch.randn(3, 4, dtype=torch.float64),))
    assert structure(graph, free(graph)["2"]) == structure(graph, free(graph)["3"])
    assert structure(graph, free(graph)["0"]) != structure(graph, free(graph)["2"])
    thin = Prune(amount=0.625, scope="isomorphic", normalise="none")(graph)
    kept = {n: thin.params[f"{n}.weight"].data.norm(dim=1).tolist() for n in norms}
    assert kept == {"0": [3, 4], "2": [40], "3": [35, 100]}


@pytest.mark.parametrize("scope", ["global", "isomorphic"])
@pytest.mark.parametrize("name", SAMPLES)
def test_what_stays_is_worth_more_than_what_goes(name: str, scope: str) -> None:
    """Over all spaces that compete, in units of their space's mean; one index of each must stay."""
    graph, data = prepared(name)
    stays: dict[Any, list[float]] = {}
    goes: dict[Any, list[float]] = {}
    rewrite = Prune(amount=0.4, scope=scope, score=drawn)
    for space, index in kept(rewrite, graph).items():
        scores = drawn(space, None) / drawn(space, None).mean()
        pool = structure(graph, space) if scope == "isomorphic" else None
        stays.setdefault(pool, []).extend(scores[index].tolist() if len(index) > 1 else [])
        gone = sorted(set(range(space.size)) - set(index))
        goes.setdefault(pool, []).extend(scores[gone].tolist())
    for pool, values in stays.items():
        assert min(values, default=9) >= max(goes[pool], default=0)
    counts = [sum(map(len, side.values())) for side in (stays, goes)]
    assert 0.35 < counts[1] / sum(counts) < 0.45
    pruned(rewrite, graph, data)


def drawn(space: Space, evidence: Any) -> Tensor:
    """Scores that differ by the size of a space alone."""
    generator = torch.Generator().manual_seed(sum(map(ord, space.name)))
    return torch.rand(space.size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("name", SAMPLES)
def test_limits_hold(name: str, scope: str) -> None:
    graph, data = prepared(name)
    rewrite = Prune(amount=0.6, scope=scope, score=drawn, round_to=4, least=3, most=0.7)
    changed = 0
    for space, index in kept(rewrite, graph).items():
        size, width = space.size, len(index)
        changed += width < size
        assert width == size or width % 4 == 0
        assert width >= min(3, size)
        assert size - width <= 0.7 * size
    assert changed > 2
    pruned(rewrite, graph, data)


@pytest.mark.parametrize("scope", ["global", "isomorphic"])
@pytest.mark.parametrize("name", SAMPLES)
def test_uniform_spaces_keep_equally_many(name: str, scope: str) -> None:
    graph, data = prepared(name)
    widths: dict[Any, set[int]] = {}
    loose: dict[Any, set[int]] = {}
    rewrite = Prune(amount=0.5, scope=scope, score=drawn, uniform=True)
    for found, uniform in ((loose, False), (widths, True)):
        for space, index in kept(replace(rewrite, uniform=uniform), graph).items():
            key = (space.size, structure(graph, space))
            found.setdefault(key, set()).add(len(index))
    assert all(len(found) == 1 for found in widths.values())
    assert name == "resnet" or any(len(found) > 1 for found in loose.values())
    pruned(rewrite, graph, data)


def test_layers_of_a_transformer_are_alike() -> None:
    graph, _ = prepared("llama")
    both = [s for n, s in free(graph).items() if n.endswith("mlp.gate_proj")]
    assert len({structure(graph, s) for s in both}) == 1
    heads = [s for s in free(graph).values() if Kinds(graph).of(s) == "heads"]
    assert len({structure(graph, s) for s in heads}) == 2  # of keys, and of queries for each


@pytest.mark.parametrize(
    ("size", "width", "rules", "want"),
    [
        (64, 45, Rules(), 45),
        (64, 45, Rules(round_to=8), 48),
        (64, 44, Rules(round_to=8), 48),
        (64, 43, Rules(round_to=8), 40),
        (12, 11, Rules(round_to=8), 12),
        (12, 9, Rules(round_to=8), 8),
        (12, 1, Rules(round_to=8), 8),
        (6, 1, Rules(round_to=8), 6),
        (20, 1, Rules(least=5), 5),
        (20, 1, Rules(least=5, round_to=4), 8),
        (3, 1, Rules(least=5), 3),
        (20, 1, Rules(most=0.5), 10),
        (5, 1, Rules(most=0.5), 3),
        (20, 5.5, Rules(), 6),
        (20, 0, Rules(), 1),
    ],
)
def test_the_nearest_width_that_is_allowed(
    size: int, width: float, rules: Rules, want: int
) -> None:
    assert rules.fitted(width, size) == want


KINDS = {
    "bert": {"attention.self.query[0]": "heads", "attention.self.query[1]": "head_size",
             "attention.self.value[1]": "head_size", "intermediate.dense": "units",
             "attention.output.dense": "units"},
    "gpt2": {"attn.c_attn:1[0]": "heads", "attn.c_attn:1[1]": "head_size",
             "attn.c_attn:1[2]": "head_size", "wte:1": "units", "mlp.c_fc:1": "units"},
    "llama": {"q_proj[0]": "heads", "q_proj[1]": "heads", "q_proj[2]": "head_size",
              "v_proj[1]": "head_size", "gate_proj": "units"},
    "einsum_attention": {"q:1": "heads", "q:2": "head_size", "v:2": "head_size"},
    "channel_attention": {"temperature": "heads", "qkv[1]": "head_size"},
    "group_norm": {"stem[0]": "groups", "stem[1]": "units"},
    "regnet_x": {"stages.1.layers.0.layer.0.convolution[0]": "groups",
                 "stages.1.layers.0.layer.0.convolution[1]": "units"},
    "bilinear_pooling": {"stem": "units"},
    "mobilenet": {"0": "units"},
    "mamba": {"mixer.A_log": "units"},
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_kinds(name: str) -> None:
    graph = traced(name)[1]
    found = {n: Kinds(graph).of(s) for n, s in free(graph).items()}
    for ending, kind in KINDS[name].items():
        ours = {k for n, k in found.items() if n.endswith(ending)}
        assert ours == {kind}, (ending, ours)


@pytest.mark.parametrize("kind", ["heads", "head_size", "units"])
def test_only_the_kind_that_was_asked_for_changes(kind: str) -> None:
    graph, data = prepared("llama")
    result = pruned(Prune(amount=0.5, kind=kind), graph, data)
    spaces, kinds = free(graph), Kinds(graph)
    assert {kinds.of(spaces[n]) for n in result.report.changed} == {kind}
    others = [why for n, why in result.report.skipped if n in spaces]
    assert others
    assert all(why.startswith("its indices are") for why in others)


@pytest.mark.parametrize("name", ["resnet", "llama", "swin", "lstm", "regnet_x", "gpt2", "unet"])
def test_costs_are_counted_from_sizes(name: str) -> None:
    """What is counted beforehand is what netir counts on the network that comes out."""
    sample, graph = traced(name)
    names = list(graph.arguments)
    data = Calibration([{**dict(zip(names, sample.args, strict=False)), **sample.kwargs}])
    sizes = symbol_values(graph, next(data.inputs(graph)))
    for amount in (0.2, 0.5, 0.9):
        rewrite = Prune(amount=amount)
        widths = {space: len(index) for space, index in kept(rewrite, graph).items()}
        after = rewrite(graph)
        macs = netir.cost(after, sizes).macs / netir.cost(graph, sizes).macs
        assert math.isclose(macs_left(graph, data)(widths), macs, rel_tol=1e-12)
        assert parameters_left(graph)(widths) == parameters(after) / parameters(graph)


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("target", ["parameters", "macs"])
@pytest.mark.parametrize("name", ["resnet", "swin", "deit"])
def test_targets_are_hit_within_one_step(name: str, target: str, scope: str) -> None:
    """No more is left than asked for, and less than one index of some space fewer."""
    graph, data = prepared(name)
    count = parameters_left(graph) if target == "parameters" else macs_left(graph, data)
    step = max(1 - count({space: space.size - 1}) for space in free(graph).values())
    for share in (0.8, 0.5):
        rewrite = Prune(scope=scope, **{target: share})  # type: ignore[arg-type]
        widths = {space: len(index) for space, index in kept(rewrite, graph, data).items()}
        assert share - step < count(widths) <= share
        result = pruned(rewrite, graph, data)
        if target == "parameters":
            assert parameters(result.graph) / parameters(graph) == count(widths)


def test_targets_with_limits() -> None:
    graph, data = prepared("swin")
    rewrite = Prune(macs=0.6, scope="global", round_to=2, uniform=True, score=drawn)
    found = kept(rewrite, graph, data)
    widths = {space: len(index) for space, index in found.items()}
    assert macs_left(graph, data)(widths) <= 0.6
    assert all(n % 2 == 0 or n == space.size for space, n in widths.items())
    roles: dict[Any, set[int]] = {}
    for space, n in widths.items():
        roles.setdefault((space.size, structure(graph, space)), set()).add(n)
    assert all(len(found) == 1 for found in roles.values())


@pytest.mark.parametrize("target", ["parameters", "macs"])
def test_a_target_out_of_reach_tells_what_is_in_reach(target: str) -> None:
    graph, data = prepared("resnet")
    with pytest.raises(NetirError, match=f"cannot reach {target}=0.1") as caught:
        Prune(most=0.5, **{target: 0.1})(graph, data)  # type: ignore[arg-type]
    least = float(caught.value.where.split()[0])
    assert 0.1 < least < 1
    pruned(Prune(most=0.5, **{target: least}), graph, data)  # type: ignore[arg-type]
    with pytest.raises(NetirError):
        Prune(most=0.5, **{target: least - 2e-4})(graph, data)  # type: ignore[arg-type]


def test_macs_of_open_sizes_need_data() -> None:
    graph, _ = prepared("llama")
    with pytest.raises(NetirError, match="depend on the size 'n'") as caught:
        Prune(macs=0.5)(graph)
    assert "calibration" in caught.value.fix


def test_latency_is_measured_on_what_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that counts numbers instead of seconds, the target is met and not by far."""

    def counted(one: nn.Module, other: nn.Module, batch: Any) -> float:
        tries.append(sum(p.numel() for p in one.parameters()))
        return tries[-1] / sum(p.numel() for p in other.parameters())

    tries: list[int] = []
    monkeypatch.setattr(measuring, "time_ratio", counted)
    graph, data = prepared("swin")
    result = pruned(Prune(latency=0.5), graph, data)
    assert 0.45 < parameters(result.graph) / parameters(graph) <= 0.5
    assert len(tries) <= 8
    with pytest.raises(NetirError, match="cannot reach latency="):
        Prune(latency=0.0001)(graph, data)


def test_latency_by_the_clock() -> None:
    """A network of large products takes about as long as it has parameters."""
    torch.manual_seed(0)
    layers = [nn.Linear(512, 512) for _ in range(4)]
    graph = netir.trace(nn.Sequential(*layers), (torch.randn(256, 512),))
    data = Calibration([torch.randn(256, 512)])
    result = pruned(Prune(latency=0.6), graph, data)
    assert 0.05 < parameters(result.graph) / parameters(graph) < 0.95
    with pytest.raises(NetirError, match="'latency' needs data"):
        Prune(latency=0.6)(graph)


@pytest.mark.parametrize("shape", ["linear", "cubic", "geometric"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_of_a_schedule_make_up_the_whole(shape: str, steps: int) -> None:
    parts = schedule(Prune(amount=0.6, score="l1", most=0.8), steps, shape)
    assert len(parts) == steps
    assert math.isclose(math.prod(1 - part.amount for part in parts), 0.4)
    assert math.isclose(math.prod(1 - part.most for part in parts), 0.2)
    assert all(part.score == "l1" for part in parts)
    parts = schedule(Prune(macs=0.3), steps, shape)
    assert math.isclose(math.prod(part.macs or 0 for part in parts), 0.3)


def test_shapes_of_schedules() -> None:
    """How much is gone after each of four steps, of 0.5 in all."""
    gone = {}
    for shape in ("linear", "cubic", "geometric"):
        left, gone[shape] = 1.0, []
        for part in schedule(Prune(amount=0.5), 4, shape):
            left *= 1 - part.amount
            gone[shape].append(round(1 - left, 6))
    assert gone["linear"] == [0.125, 0.25, 0.375, 0.5]
    assert gone["cubic"] == [round(0.5 * (1 - (1 - t / 4) ** 3), 6) for t in (1, 2, 3, 4)]
    assert gone["geometric"] == [round(1 - 0.5 ** (t / 4), 6) for t in (1, 2, 3, 4)]


def test_a_schedule_takes_a_network_to_the_total() -> None:
    graph = stack([float(i) for i in range(1, 65)])
    thin = graph
    for part in schedule(Prune(amount=0.5), 5, "cubic"):
        thin = pruned(part, thin).graph
    (norms,) = left(thin, graph)
    assert abs(len(norms) - 32) <= 1
    assert norms == [float(i) for i in range(65 - len(norms), 65)]


@pytest.mark.parametrize("how", ["constant", "mean", "least-squares"])
def test_compensation_comes_after_the_choice(how: str) -> None:
    """The same channels go; what is left is closer to the original on the data."""
    graph, data = prepared("resnet")
    inputs = next(data.inputs(graph))
    plain = Prune("*layer.0.convolution", amount=0.5, score="random")
    helped = replace(plain, compensate=how)
    assert kept(plain, graph) == kept(helped, graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        found = [netir.run(p(graph, data), **inputs) for p in (plain, helped)]
    want = netir.run(graph, **inputs)
    errors = [float((f["logits"] - want["logits"]).norm()) for f in found]
    assert errors[1] <= errors[0] if how != "constant" else math.isclose(*errors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 0.3, "macs": 0.5}, "two targets: amount and macs"),
        ({"parameters": 0.5, "latency": 0.5}, "two targets: parameters and latency"),
        ({"macs": 1.0}, "keep 1.0 of the macs"),
        ({"parameters": 0}, "keep 0 of the parameters"),
        ({"latency": float("nan")}, "keep nan of the latency"),
        ({"amount": -0.1}, "remove -0.1"),
        ({"scope": "locl"}, "no scope 'locl'"),
        ({"normalise": "median"}, "no normalisation 'median'"),
        ({"kind": "head"}, "no kind 'head'"),
        ({"round_to": 0}, "round_to is 0"),
        ({"least": 0}, "least is 0"),
        ({"most": 0}, "most is 0"),
        ({"most": 1.1}, "most is 1.1"),
        ({"compensate": "mode"}, "no compensation 'mode'"),
        ({"score": "l3"}, "no score 'l3'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetirError, match=message) as caught:
        Prune(**options)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("steps", "shape", "message"), [(0, "linear", "0 steps"), (3, "cubical", "no schedule")]
)
def test_bad_schedules(steps: int, shape: str, message: str) -> None:
    with pytest.raises(NetirError, match=message) as caught:
        schedule(Prune(), steps, shape)
    assert caught.value.fix


def test_options_are_printed() -> None:
    rewrite = Prune("layer*", macs=0.5, scope="global", round_to=8, score="lamp")
    text = "prune(where='layer*', macs=0.5, score='lamp', scope='global', round_to=8)"
    assert str(rewrite) == text
    assert eval(text, {"prune": Prune}) == rewrite


def test_reasons() -> None:
    graph = stack([1.0, 2, 3, 4], [1.0, 2])
    for rewrite, name, why in (
        (Prune(amount=0.1), "0", "0.1 of 4 is less than one"),
        (Prune(round_to=8), "0", "none of its 4 may go"),
        (Prune(least=9), "0", "none of its 4 may go"),
        (Prune(amount=0.2, scope="global", normalise="none"), "2", "has to go"),
    ):
        assert why in dict(pruned(rewrite, graph).report.skipped).get(name, ""), rewrite


def test_nothing_that_came_in_is_changed() -> None:
    graph, data = prepared("swin")
    text, tensors = str(graph), {n: p.data.clone() for n, p in graph.params.items()}
    pruned(Prune(macs=0.5, scope="global", score="activation"), graph, data)
    assert str(graph) == text
    assert all(torch.equal(p.data, tensors[n]) for n, p in graph.params.items())


def test_the_contract_is_masked() -> None:
    graph, data = prepared("llama")
    rewrite = Prune(parameters=0.6, scope="isomorphic", score="geometric_median")
    result = pruned(rewrite, graph, data)
    assert result.report.contract is Contract.MASKED
