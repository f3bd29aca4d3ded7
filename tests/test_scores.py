"""Every score against the same formula computed plainly on the model itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from netir.basis import select
from netir.calibration import Calibration
from netir.errors import NetirError, NetirWarning
from netir.ir import Graph
from netir.layout_moves import LayoutMoves
from netir.moves import kept_indices
from netir.passes import Prune
from netir.passes.scores import SCORES, Evidence, scored
from netir.passes.scores.members import positions
from netir.spaces import Space
from tests.zoo.traced import traced

BATCHES = 3


class Residual(nn.Module):
    """Two convolutions make one space of 6 channels; two layers read it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.norm_b = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm_a(self.a(x)))
        y = y + F.relu(self.norm_b(self.b(y)))
        return self.head(y.mean((2, 3)))


class Attention(nn.Module):
    """Three heads of four: queries and keys share a head size, values have their own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(5, 12)
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(2, (3, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


def prepared(model: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for p in model.parameters():
        nn.init.normal_(p)
    return model.double().eval()


@pytest.fixture
def residual() -> Residual:
    return prepared(Residual())  # type: ignore[return-value]


@pytest.fixture
def graph(residual: Residual) -> Graph:
    return netir.trace(residual, (inputs()[0],))


@pytest.fixture
def data() -> Calibration:
    targets = [torch.tensor([0, 3]), torch.tensor([1, 1]), torch.tensor([2, 0])]
    return Calibration(inputs(), targets, F.cross_entropy)


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    shape = (2, 3, 5, 5)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(BATCHES)]


def space(graph: Graph, name: str) -> Space:
    return next(s for s in graph.spaces() if s.name == name)


def score(
    graph: Graph, name: str, where: str = "a", data: Calibration | None = None, **options: Any
) -> Tensor:
    evidence = Evidence(graph, graph.spaces(), data, **options)
    found = scored(SCORES[name], space(graph, where), evidence)
    assert isinstance(found, Tensor), found
    return found


def rows(residual: Residual, readers: bool = False) -> Tensor:
    """All weights of each channel of the residual space, one row for each."""
    parts = [residual.a.weight.flatten(1), residual.b.weight.flatten(1)]
    if readers:
        parts += [residual.b.weight.movedim(1, 0).flatten(1), residual.head.weight.t()]
    return torch.cat(parts, 1).detach()


def test_residual_is_one_space(graph: Graph) -> None:
    made = {(m.param, m.axis) for m in space(graph, "a").producers}
    assert {("a.weight", 0), ("b.weight", 0)} <= made
    read = {(m.param, m.axis) for m in space(graph, "a").members} - made
    assert {("b.weight", 1), ("head.weight", 1)} == read


@pytest.mark.parametrize("readers", [False, True])
@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("l1", lambda w: w.abs().sum(1)),
        ("l2", lambda w: w.square().sum(1).sqrt()),
        ("lamp", lambda w: torch.stack([
            r @ r / sum(o @ o for o in w if o @ o >= r @ r) for r in w])),
        ("cosine", lambda w: torch.stack([
            1 - torch.stack([
                F.cosine_similarity(r, o, 0).abs() for j, o in enumerate(w) if j != i]).mean()
            for i, r in enumerate(w)])),
        ("geometric_median", lambda w: torch.stack([sum(torch.dist(r, o) for o in w) for r in w])),
    ],
)  # fmt: skip
def test_scores_of_weights(
    residual: Residual, graph: Graph, name: str, formula: Callable[[Tensor], Tensor], readers: bool
) -> None:
    want = formula(rows(residual, readers))
    assert torch.allclose(score(graph, name, readers=readers), want, rtol=1e-9)


def test_bn_adds_up_the_scales_of_a_space(residual: Residual, graph: Graph) -> None:
    want = residual.norm_a.weight.abs() + residual.norm_b.weight.abs()
    assert torch.equal(score(graph, "bn"), want.detach())


def test_bn_tells_where_no_norm_is() -> None:
    graph = netir.trace(Attention(), (torch.randn(2, 7, 5),))
    for scope in ("local", "global"):
        with pytest.warns(NetirWarning, match="no normalisation scales it"):
            Prune(score="bn", scope=scope)(graph)


def test_bn_reads_layer_group_and_batch_norms() -> None:
    model = prepared(nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2)))
    graph = netir.trace(model, (torch.randn(2, 3, dtype=torch.float64),))
    assert torch.equal(score(graph, "bn", "0"), model[1].weight.abs().detach())
    model = prepared(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1)))
    graph = netir.trace(model, (torch.randn(2, 3, 4, 4, dtype=torch.float64),))
    scale = model[1].weight.abs().detach()
    assert torch.equal(score(graph, "bn", "0[0]"), scale.view(2, 4).sum(1))
    assert torch.equal(score(graph, "bn", "0[1]"), scale.view(2, 4).sum(0))


def salience(residual: Residual, data: Calibration) -> Tensor:
    """By batch and channel, the sum of w * dL/dw, by torch's own backward on the model."""
    found = []
    assert data.targets is not None
    for x, target in zip(data.batches, data.targets, strict=True):
        residual.zero_grad()
        F.cross_entropy(residual(x), target).backward()
        both = (residual.a.weight, residual.b.weight)
        found.append(sum((w * w.grad).flatten(1).sum(1).detach() for w in both))
    return torch.stack(found)  # type: ignore[arg-type]


def test_taylor(residual: Residual, graph: Graph, data: Calibration) -> None:
    want = salience(residual, data).mean(0).abs()
    assert torch.allclose(score(graph, "taylor", data=data), want, rtol=1e-9)


def test_fisher(residual: Residual, graph: Graph, data: Calibration) -> None:
    want = salience(residual, data).square().mean(0)
    assert torch.allclose(score(graph, "fisher", data=data), want, rtol=1e-9)


def test_taylor_is_the_derivative_by_a_factor_on_a_channel(graph: Graph, data: Calibration) -> None:
    """Scaling all weights of channel 2 by 1 + h changes the mean loss by h times its salience."""
    step, change = 1e-6, {}
    for sign in (1, -1):
        with graph.edit() as edit:
            for name in ("a.weight", "b.weight"):
                weight = graph.params[name].data.clone()
                weight[2] *= 1 + sign * step
                edit.set_param(name, weight)
        assert data.targets is not None
        losses = [
            F.cross_entropy(netir.run(edit.graph, x), t)
            for x, t in zip(data.batches, data.targets, strict=True)
        ]
        change[sign] = sum(losses) / len(losses)
    slope = abs(float(change[1] - change[-1]) / (2 * step))
    assert math.isclose(slope, float(score(graph, "taylor", data=data)[2]), rel_tol=1e-5)


def read_values(residual: Residual, data: Calibration) -> list[list[Tensor]]:
    """What b and the head read, by batch; channels first, then samples, then the rest."""
    seen: dict[nn.Module, list[Tensor]] = {residual.b: [], residual.head: []}
    hooks = [
        m.register_forward_pre_hook(lambda m, a: seen[m].append(a[0].detach().movedim(1, 0)))
        for m in seen
    ]
    with torch.no_grad():
        for x in data.batches:
            residual(x)
    for hook in hooks:
        hook.remove()
    return [[v.flatten(2) if v.dim() > 2 else v[..., None] for v in vs] for vs in seen.values()]


def test_activation_and_apoz(residual: Residual, graph: Graph, data: Calibration) -> None:
    places = [torch.cat(values, 1) for values in read_values(residual, data)]
    size = sum(v.abs().mean((1, 2)) for v in places) / len(places)
    alive = sum((v != 0).double().mean((1, 2)) for v in places) / len(places)
    assert torch.allclose(score(graph, "activation", data=data), size, rtol=1e-9)
    assert torch.allclose(score(graph, "apoz", data=data), alive, rtol=1e-9)
    assert 0 < float(alive.min()) < 1


def test_dormancy_counts_the_inputs_on_which_a_channel_sleeps(
    residual: Residual, data: Calibration
) -> None:
    """Channel 1 is dead; channel 4 fires for the inputs whose mean is positive alone."""
    with torch.no_grad():
        for norm in (residual.norm_a, residual.norm_b):
            norm.weight[1] = norm.bias[1] = 0
        residual.a.weight[4], residual.a.bias[4] = 100.0, 0
        residual.norm_a.weight[4], residual.norm_a.bias[4] = 1, -1
        residual.norm_b.weight[4] = residual.norm_b.bias[4] = 0
    batches = [torch.full((1, 3, 5, 5), v, dtype=torch.float64) for v in (1.0, -1.0, -2.0, 3.0)]
    graph = netir.trace(residual, (batches[0],))
    found = score(graph, "dormancy", data=Calibration(batches))
    assert found[1] == 0
    assert found[4] == 0.5


def test_dormancy_against_the_formula(
    residual: Residual, graph: Graph, data: Calibration
) -> None:
    places = [torch.cat(values, 1).abs().mean(2) for values in read_values(residual, data)]
    awake = [(v > 0.025 * v.mean(0)).double().mean(1) for v in places]
    assert torch.allclose(score(graph, "dormancy", data=data), sum(awake) / 2, rtol=1e-9)


def test_heads_are_scored_by_all_their_rows() -> None:
    model = prepared(Attention())
    graph = netir.trace(model, (torch.randn(2, 7, 5, dtype=torch.float64),))
    three = [model.q.weight, model.k.weight, model.v.weight]
    want = sum(w.detach().view(3, 4, 5).square().sum((1, 2)) for w in three).sqrt()
    assert torch.allclose(score(graph, "l2", "q[0]"), want)
    size = sum(w.detach().view(3, 4, 5).square().sum((0, 2)) for w in three[:2]).sqrt()
    assert torch.allclose(score(graph, "l2", "q[1]"), size)
    heads = torch.cat([w.detach().view(3, 20) for w in three], 1)
    distances = torch.cdist(heads, heads).sum(1)
    assert torch.allclose(score(graph, "geometric_median", "q[0]"), distances)


def test_an_index_without_weights_is_the_most_redundant(residual: Residual) -> None:
    with torch.no_grad():
        residual.a.weight[3] = residual.b.weight[3] = 0
    graph = netir.trace(residual, (inputs()[0],))
    assert score(graph, "cosine").argmin() == 3


def test_equal_indices_are_redundant(residual: Residual) -> None:
    with torch.no_grad():
        for weight in (residual.a.weight, residual.b.weight):
            weight[[2, 5]] = -weight[[0, 0]]
    graph = netir.trace(residual, (inputs()[0],))
    assert set(score(graph, "cosine").argsort()[:3].tolist()) == {0, 2, 5}


@pytest.mark.parametrize("name", ["gpt2", "llama", "native_shuffle", "glu", "nested_cat", "lstm"])
def test_positions_are_what_a_change_of_basis_keeps(name: str) -> None:
    """Keeping index i alone keeps the entries of i, and those in which the space has no part."""
    graph = traced(name)[1]
    for each in graph.spaces():
        for member in each.members:
            layout = graph.analysis.shape(f"@{member.param}")[member.axis]
            total = graph.params[member.param].data.shape[member.axis]
            found = positions(layout, each.atom)
            outside = set(range(total)) - set(found.flatten().tolist())
            for i in range(each.size):
                move = LayoutMoves({each.atom: select([i])}).of(layout)
                kept = kept_indices(move, total)
                assert kept is not None
                assert set(kept.tolist()) == set(found[i].tolist()) | outside


class Counted(Calibration):
    """Counts how often the batches are run."""

    runs = 0

    def values(self, graph: Graph, wanted: Collection[str]) -> Iterator[dict[str, Tensor]]:
        Counted.runs += 1
        yield from super().values(graph, wanted)

    def gradients(self, graph: Graph) -> Iterator[dict[str, Tensor]]:
        Counted.runs += 1
        yield from super().gradients(graph)


@pytest.mark.parametrize("name", ["taylor", "fisher", "dormancy", "apoz", "activation"])
def test_data_is_read_once_for_all_spaces(name: str, data: Calibration) -> None:
    _, graph = traced("resnet")
    assert sum(not s.frozen for s in graph.spaces()) > 3
    batches = [torch.randn(2, 3, 32, 32) for _ in range(2)]
    counted = Counted(batches, None, lambda output, _: output["logits"].square().sum())
    Counted.runs = 0
    result = Prune(score=name).apply(graph, counted)
    assert Counted.runs == 1
    assert len(result.report.changed) > 3


@pytest.mark.parametrize("name", ["taylor", "fisher", "dormancy", "apoz", "activation"])
def test_scores_of_data_need_data(graph: Graph, name: str) -> None:
    with pytest.raises(NetirError, match=f"'{name}' needs data") as caught:
        Prune(score=name)(graph)
    assert "Calibration" in caught.value.fix


def test_gradients_need_a_loss(graph: Graph) -> None:
    with pytest.raises(NetirError, match="needs gradients"):
        Prune(score="taylor")(graph, Calibration(inputs()))


def test_a_loss_that_does_not_reach_a_space(graph: Graph) -> None:
    still = Calibration(inputs(), None, lambda output, _: output.sum() * 0)
    with pytest.warns(NetirWarning, match="the loss does not depend on it"):
        Prune(score="taylor")(graph, still)


def last_first(space: Space, evidence: Evidence) -> Tensor:
    return -torch.arange(space.size)


def test_a_function_of_ones_own(graph: Graph) -> None:
    rewrite = Prune("a", amount=0.5, score=last_first)
    assert str(rewrite) == "prune(where='a', amount=0.5, score=last_first)"
    thin = rewrite(graph)
    assert torch.equal(thin.params["a.weight"].data, graph.params["a.weight"].data[:3])
    assert thin.history[-1].text == str(rewrite)


def test_a_score_sees_the_weights_row_by_row(residual: Residual, graph: Graph) -> None:
    seen = Evidence(graph, graph.spaces()).weights(space(graph, "a"))
    assert torch.equal(torch.cat(seen, 1), rows(residual))


def test_a_score_of_the_wrong_shape(graph: Graph) -> None:
    with pytest.raises(NetirError, match=r"wrong gives Tensor of shape .*1") as caught:
        Prune(score=wrong)(graph)
    assert "one number for each of its 6" in caught.value.fix


def wrong(space: Space, evidence: Evidence) -> Tensor:
    return torch.zeros(1)


def test_a_score_may_refuse(graph: Graph) -> None:
    with pytest.warns(NetirWarning, match="not today"):
        Prune(score=lambda space, evidence: "not today")(graph)


def test_half_precision_is_summed_in_full() -> None:
    """Squares of 1000 overflow float16, their sum does not overflow float32."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).half()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1000.0], [2000.0], [500.0]]).expand(3, 4))
    graph = netir.trace(model, (torch.randn(2, 4).half(),))
    assert score(graph, "l2", "0").tolist() == [2000, 4000, 1000]
