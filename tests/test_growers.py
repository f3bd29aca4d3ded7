"""Growing inside a training loop: triggers, bounds, and what happens to the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netir
from netir.calibration import Calibration
from netir.errors import NetirError
from netir.passes.growth.buffer import Buffer
from netir.passes.growth.hidden import hidden
from netir.passes.growth.seen import Seen
from netir.passes.growth.triggers import (
    Activations,
    Every,
    Gradients,
    Linear,
    Plateau,
    Reading,
    Trigger,
    Weights,
    orthogonality,
)
from netir.passes.methods import GROWERS, AutoRgn, Dyno, Firefly, GradMax, Grower, Nest, North


def mlp(width: int = 8, inputs: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
                         nn.Linear(width, 3))  # fmt: skip


def sleep(model: nn.Sequential, first: int) -> None:
    """Let the units from `first` on of the first layer give nothing."""
    with torch.no_grad():
        model[0].weight[first:] = 0  # type: ignore[index,operator]
        model[0].bias[first:] = 0  # type: ignore[index,operator]


def batches(count: int, size: int = 40, inputs: int = 6) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(inputs, 3, generator=generator)
    for _ in range(count):
        x = torch.randn(size, inputs, generator=generator)
        yield x, (x @ truth).argmax(1)


def train(
    grower: Any,
    steps: int,
    model: nn.Module | None = None,
    seen: Callable[[nn.Module, Any], None] | None = None,
) -> tuple[nn.Module, list[float]]:
    model = mlp() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    live = netir.Live(model, optimizer)
    losses = []
    for x, y in batches(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if seen is not None:
            seen(model, optimizer)
        grower.step(live, x, y, loss=loss.item())
    return model, losses


def reading(rows: Tensor, trigger: Trigger, **memory: Any) -> int:
    """What a trigger says of a layer whose activations are given."""
    net = nn.Sequential(nn.Identity(), nn.Linear(rows.shape[1], rows.shape[1], bias=False),
                        nn.Linear(rows.shape[1], 1)).double()  # fmt: skip
    nn.init.eye_(net[1].weight)  # type: ignore[arg-type]
    graph = netir.trace(net, (rows,))
    layer = hidden(graph, next(s for s in graph.spaces() if s.name == "1"))
    return trigger(Reading(layer, Seen(graph, (layer,), Calibration([rows])), 1, memory))


def of_rank(rank: int, width: int = 10, samples: int = 200) -> Tensor:
    torch.manual_seed(rank)
    return torch.randn(samples, rank, dtype=torch.float64) @ torch.linalg.qr(
        torch.randn(width, rank, dtype=torch.float64)
    ).Q.mT


# --- triggers


@pytest.mark.parametrize(("rank", "first", "gamma", "lacking", "whole"), [
    (10, 1.0, 0.9, 1, 1), (9, 1.0, 0.9, 0, 0), (8, 1.0, 0.9, 0, 0), (10, 0.5, 1.0, 5, 5),
    (10, 0.55, 1.0, 5, 4), (5, 0.5, 1.0, 0, 0), (10, 1.0, 0.97, 1, 0),
])  # fmt: skip
def test_activations_lack_what_the_rank_is_above(
    rank: int, first: float, gamma: float, lacking: int, whole: int
) -> None:
    """M (φ - γ φ₀), up or down; at φ = γ φ₀ exactly nothing."""
    assert reading(of_rank(rank), Activations(gamma=gamma), first=first) == lacking
    assert reading(of_rank(rank), Activations(gamma=gamma, whole=True), first=first) == whole


def test_the_first_reading_is_what_others_are_held_against() -> None:
    memory: dict[str, Any] = {}
    assert reading(of_rank(6), Activations(gamma=1.0), **memory) == 0
    assert reading(of_rank(10), Activations(gamma=0.8)) == 2


def test_too_few_samples_say_nothing() -> None:
    assert reading(of_rank(10, samples=10), Activations(gamma=0.1)) == 0


def test_what_is_not_finite_has_no_rank() -> None:
    rows = of_rank(5)
    rows[3, 2] = torch.inf
    for metric in ("rank", "gap"):
        with pytest.raises(NetirError, match=r"the activations of '1' cannot be used.*not finite"):
            reading(rows, Activations(metric=metric))
    net = nn.Sequential(nn.Linear(20, 8), nn.Linear(8, 2))
    graph = netir.trace(net, (torch.randn(4, 20),))
    layer = hidden(graph, next(s for s in graph.spaces() if s.name == "0"))
    graph.params["0.weight"].data[0, 0] = torch.nan
    with pytest.raises(NetirError, match=r"the weights of '0' cannot be used.*not finite"):
        Weights()(Reading(layer, Seen(graph, (layer,), None), 1, {}))


def test_orthogonality_is_that_of_the_samples() -> None:
    h = torch.randn(7, 30, dtype=torch.float64)  # a column for each sample
    n = h.shape[1]
    want = 1 - torch.linalg.matrix_norm(h.mT @ h / h.square().sum() - torch.eye(n) / n)
    assert orthogonality(h @ h.mT / n, n) == pytest.approx(float(want), abs=1e-12)
    assert orthogonality(torch.zeros(3, 3), n) == pytest.approx(1 - (1 - 1 / n) ** 0.5)
    assert reading(of_rank(10), Activations(gamma=0.5, metric="gap")) > 0


def test_weights_are_read_as_a_matrix() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 8), nn.Linear(8, 2)).double()
    with torch.no_grad():
        net[0].weight[5:] = net[0].weight[:3]  # type: ignore[index,operator]
    graph = netir.trace(net, (torch.randn(3, 20, dtype=torch.float64),))
    layer = hidden(graph, next(s for s in graph.spaces() if s.name == "0"))
    seen = Seen(graph, (layer,), None)
    memory: dict[str, Any] = {"first": 0.25}
    assert Weights(gamma=1.0)(Reading(layer, seen, 1, memory)) == 3, "rank 5 of 8, first 2 of 8"
    assert memory["value"] == 5 / 8


def test_schedules() -> None:
    def counts(trigger: Trigger, steps: int, width: int = 4) -> list[int]:
        net = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))
        graph = netir.trace(net, (torch.randn(3, 3),))
        layer = hidden(graph, next(s for s in graph.spaces() if s.name == "0"))
        seen, memory = Seen(graph, (layer,), None), {"width": width}
        return [trigger(Reading(layer, seen, n, memory)) for n in range(1, steps + 1)]

    assert counts(Every(3, count=2, start=2, times=2), 12) == [0, 0, 0, 0, 2, 0, 0, 2, 0, 0, 0, 0]
    assert counts(Every(2, share=0.5), 4) == [0, 2, 0, 2]
    assert counts(Linear(to=10, steps=6), 7) == [1, 2, 3, 4, 5, 6, 6], "of a width that stays 4"
    assert counts(Linear(to=10, steps=6, batches=2), 7) == [0, 0, 3, 3, 3, 6, 6]


def test_a_plateau_is_a_loss_that_does_not_fall() -> None:
    trigger, memory = Plateau(patience=2, count=3), {}  # type: ignore[var-annotated]
    losses = (1.0, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.1)
    readings = (Reading(None, None, 1, memory, loss) for loss in losses)  # type: ignore[arg-type]
    assert [trigger(r) for r in readings] == [0, 0, 0, 3, 0, 0, 0, 3]
    with pytest.raises(NetirError, match="needs the loss"):
        trigger(Reading(None, None, 1, memory))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [
    lambda: Activations(gamma=0), lambda: Activations(metric="rang"), lambda: Every(0),
    lambda: Linear(0, 3), lambda: Plateau(patience=0), lambda: Weights(epsilon=-1),
    lambda: Activations(gamma=float("inf")), lambda: Every(1, share=float("nan")),
])  # fmt: skip
def test_triggers_refuse_strange_options(bad: Callable[[], Any]) -> None:
    with pytest.raises(NetirError, match="a trigger cannot use"):
        bad()


# --- the loop


def test_old_entries_of_the_optimizer_stay_bit_for_bit() -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    live = netir.Live(model, optimizer)
    grower = Grower(Every(5, count=2), init="select", candidates=10)
    x, y = next(batches(1))
    for step in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        before = {n: (p.detach().clone(), {k: v.clone() for k, v in optimizer.state[p].items()})
                  for n, p in model.named_parameters()}  # fmt: skip
        out = model(x).detach()
        events = grower.step(live, x, y)
        assert bool(events) == (step == 4)
    assert torch.allclose(model(x), out, atol=1e-6)
    assert model[0].weight.shape == (10, 6)  # type: ignore[index]
    for name, parameter in model.named_parameters():
        data, state = before[name]
        places = tuple(slice(0, n) for n in data.shape)
        assert torch.equal(parameter.detach()[places], data)
        for key, old in state.items():
            new = optimizer.state[parameter][key]
            assert torch.equal(new[places] if old.dim() else new, old)
            if old.dim() and new.shape != old.shape:
                rest = new.clone()
                rest[places] = 0
                assert not bool(rest.any()), "moments of new entries start at zero"


@pytest.mark.parametrize("make", [
    lambda: North(gamma=0.5, candidates=10, most=14),
    lambda: North(gamma=0.5, candidates=10, most=14, observe="batch"),
    lambda: North(init="pre", gamma=0.5, candidates=10, most=14),
    lambda: North(init="weight", trigger=Weights(gamma=0.5), most=14),
    lambda: GradMax(trigger=Every(4), loss=F.cross_entropy, most=14),
    lambda: Firefly(trigger=Every(4), loss=F.cross_entropy, most=14),
    lambda: Nest(trigger=Every(4), loss=F.cross_entropy, most=14),
    lambda: Grower(Every(4), init="tiny", loss=F.cross_entropy, most=14),
    lambda: Grower(Linear(14, 20), init="net2wider"),
])  # fmt: skip
def test_every_method_trains_on(make: Callable[[], Grower]) -> None:
    grower = make()
    model, losses = train(grower, 40)
    assert grower.events
    widths = {e.space: e.after for e in grower.events}
    assert model[0].out_features == widths["0"] <= 14  # type: ignore[index,union-attr]
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
    assert all(e.after > e.before for e in grower.events)
    assert max(b - a for a, b in pairwise(losses)) < 0.6, "no jump of the loss"


def test_gradients_ask_for_the_loss() -> None:
    with pytest.raises(NetirError, match="there is no loss"):
        train(Grower(Gradients()), 1)
    grower = Grower(Gradients(), loss=F.cross_entropy, most=12)
    train(grower, 5)


def test_bounds_hold() -> None:
    steady = Every(1, count=3)
    for bound, holds in (
        ({"most": 13}, lambda w, n: w <= 13),
        ({"factor": 1.5}, lambda w, n: w <= 12),
        ({"parameters": 250}, lambda w, n: n <= 250),
        ({"macs": 220}, lambda w, n: w * (6 + w + 3) <= 220),
        ({"round_to": 8}, lambda w, n: w % 8 == 0),
    ):  # fmt: skip
        grower = Grower(steady, **bound)  # type: ignore[arg-type]
        model, _ = train(grower, 6)
        width = model[0].out_features  # type: ignore[index,union-attr]
        numbers = sum(p.numel() for p in model.parameters())
        assert width > 8, bound
        assert holds(int(width), numbers), bound  # type: ignore[no-untyped-call]


def test_a_cool_down_and_readings_now_and_then() -> None:
    grower = Grower(Every(1), cool_down=4)
    train(grower, 12)
    assert [e.step for e in grower.events if e.space == "0"] == [1, 5, 9]
    grower = Grower(Every(1), every=5)
    train(grower, 12)
    assert [e.step for e in grower.events if e.space == "0"] == [5, 10]


def test_layers_that_cannot_grow_unseen_are_told_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 3))
    grower = Grower(Every(1), where="*")
    train(grower, 3, model)
    assert "takes in every index" in grower.left["0"]
    assert {e.space for e in grower.events} == {"2"}


def test_an_event_says_where_an_init_could_not_do_what_it_is_for() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 8), nn.ReLU(),
                          nn.Linear(8, 3))  # fmt: skip
    grower = GradMax(trigger=Every(2), loss=F.cross_entropy)
    train(grower, 2, model)
    notes = {e.space: e.note for e in grower.events}
    assert "stands between" in notes["0"], "softplus is not zero at zero"
    assert notes["2"] == ""
    assert {e.init for e in grower.events} == {"gradmax"}


def test_every_grower_has_a_name() -> None:
    assert set(GROWERS) >= {"north", "gradmax", "firefly", "nest", "dyno", "grow_and_prune"}
    assert all(issubclass(cls, Grower) for cls in GROWERS.values())
    with pytest.raises(NetirError, match="needs a trigger"):
        Grower()


@pytest.mark.parametrize("options", [
    {"every": 0}, {"buffer": -1}, {"most": 0}, {"factor": 0.5}, {"init": "selekt"},
    {"round_to": 0}, {"cool_down": -1}, {"candidates": -1}, {"factor": float("inf")},
    {"scale": float("nan")},
])  # fmt: skip
def test_growers_refuse_strange_options(options: dict[str, Any]) -> None:
    with pytest.raises(NetirError, match=r"cannot use|no init"):
        Grower(Every(1), **options)


def test_a_watch_sees_what_the_buffer_would_show() -> None:
    """Of one batch and in eval mode both see the same, also after a rewrite."""
    model = mlp(10, inputs=6).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    found = {}
    for observe in ("buffer", "batch"):
        grower = North(gamma=2.0, buffer=40, observe=observe)
        live = netir.Live(model, optimizer)
        for step, (x, _) in enumerate(batches(4)):
            model(x)
            if step == 1:
                live.apply(netir.passes.Widen("0", count=2))
                model(x)
            grower.step(live, x)
        found[observe] = {n: m["value"] for n, m in grower._memory.items()}
    assert found["buffer"].keys() == found["batch"].keys() == {"0", "2"}
    widths = model[0].out_features, model[2].out_features  # type: ignore[union-attr]
    assert widths == (14, 10)
    with pytest.raises(NetirError, match="cannot observe 'bach'"):
        North(observe="bach")


# --- the buffer


def test_the_buffer_keeps_the_newest_samples() -> None:
    buffer = Buffer()
    for start in range(0, 50, 10):
        x = torch.arange(start, start + 10.0)
        buffer.add((x[:, None],), x)
    buffer.trim(25)
    kept = buffer.calibration(lambda out, target: out.sum())
    assert kept is not None
    assert kept.targets is not None
    assert torch.cat(list(kept.targets)).tolist() == list(range(25, 50))
    assert torch.cat([b[0][:, 0] for b in kept.batches]).tolist() == list(range(25, 50))
    assert Buffer().calibration(None) is None
    with pytest.raises(NetirError, match="no tensor"):
        buffer.add((3,), None)


# --- DYNO


def test_dyno_prunes_what_fell_and_grows_what_rose() -> None:
    grower = Dyno(every=1)
    model = mlp(10)
    x, _ = next(batches(1, size=300))
    live = netir.Live(model, torch.optim.SGD(model.parameters(), lr=0.1), x)
    assert grower.step(live, x) == [], "the first reading is what others are held against"
    assert all(m["star"] == m["value"] for m in grower._memory.values())
    assert grower.step(live, x) == [], "no change at φ = φ*"
    sleep(model, 6)
    before, weight = model(x).detach(), model[0].weight.detach().clone()  # type: ignore[operator]
    events = {e.space: e for e in grower.step(live, x)}
    assert (events["0"].before, events["0"].after) == (10, 7), "⌊10 (0.97 · 1 - 0.6)⌋ = 3 go"
    assert torch.equal(model[0].weight, weight[:7]), "the units that stay are the same"  # type: ignore[arg-type]
    assert torch.allclose(model(x), before, atol=1e-6), "those that slept are not missed"
    assert "star" not in grower._memory["0"]


def test_dyno_can_be_told_what_to_hold_the_first_reading_against() -> None:
    grower = Dyno(every=1, star=1.0)
    model = mlp(10)
    sleep(model, 6)
    x, _ = next(batches(1, size=300))
    live = netir.Live(model, torch.optim.SGD(model.parameters(), lr=0.1), x)
    events = {e.space: e for e in grower.step(live, x)}
    assert (events["0"].before, events["0"].after) == (10, 7), "⌊10 (0.97 - 0.6)⌋ = 3 go"
    assert grower.step(live, x) == [], "after a change φ* is what was measured then"


def test_dyno_grows_where_the_rank_rose() -> None:
    grower = Dyno(every=1, most=20, candidates=10)
    model = mlp(10)
    sleep(model, 5)
    x, _ = next(batches(1, size=300))
    live = netir.Live(model, torch.optim.SGD(model.parameters(), lr=0.1), x)
    grower.step(live, x)
    with torch.no_grad():
        model[0].weight[5:].normal_()  # type: ignore[index,operator]
    before = model(x).detach()
    events = {e.space: e for e in grower.step(live, x)}
    assert events["0"].after == 10 + 4, "⌊10 (1 - 1.03 · 0.5)⌋ = 4 come"
    assert torch.allclose(model(x), before, atol=1e-6)


def test_dyno_rounds_widths_and_cools_down() -> None:
    grower = Dyno(every=1, round_to=4, cool_down=3)
    model = mlp(12)
    x, _ = next(batches(1, size=300))
    live = netir.Live(model, torch.optim.SGD(model.parameters(), lr=0.1), x)

    grower.step(live, x)
    sleep(model, 7)
    found = {e.space: e.after for e in grower.step(live, x)}
    assert found["0"] == 8, "8 of 12 are enough: ⌊12 (0.97 - 7/12)⌋ = 4 go"
    assert grower.step(live, x) == []
    sleep(model, 3)
    assert grower.step(live, x) == [], "within the cool-down"
    assert grower.step(live, x)


@pytest.mark.parametrize("star", [0.3, 0.6, 0.9, 1.0])
def test_never_both_from_one_reading(star: float) -> None:
    grower = Dyno(every=1)
    model = mlp(10)
    graph = netir.trace(model, (torch.randn(300, 6),))
    layers = grower.layers(graph)
    for memory in map(grower._remembered, layers):
        memory["star"] = star
    seen = Seen(graph, layers, Calibration([torch.randn(300, 6)]))
    gone, come = grower._wanted(layers, seen)
    assert not gone.keys() & come.keys()


@pytest.mark.parametrize(
    "options", [{"delta": 1.0}, {"epsilon": 0.0}, {"least": 0}, {"star": 2.0}]
)
def test_dyno_refuses_strange_options(options: dict[str, Any]) -> None:
    with pytest.raises(NetirError, match=f"cannot use {next(iter(options))}"):
        Dyno(**options)


# --- Auto-RGN


def test_rates_follow_relative_gradients() -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.01)
    state_before: dict[Tensor, Any] = {}
    tune = AutoRgn(optimizer, batches=2)
    ratios = None
    for x, y in batches(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        state_before = {p: s["exp_avg"].clone() for p, s in optimizer.state.items()}
        ratios = tune.observe()
    assert ratios is not None
    values = list(ratios.values())
    assert max(values) == 1
    assert all(0 < v <= 1 for v in values)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.1 * ratios[group["params"][0]])
        assert group["weight_decay"] == 0.01
    assert all(torch.equal(optimizer.state[p]["exp_avg"], m) for p, m in state_before.items())


def test_rates_by_the_formula() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.weight.grad = torch.full((2, 3), 2.0)
    model.bias.grad = torch.full((2,), 0.5)
    tune = AutoRgn(optimizer, batches=1)
    ratios = tune.observe()
    assert ratios is not None
    raw = {p: float(p.grad.norm() / p.detach().norm()) for p in model.parameters()}  # type: ignore[union-attr]
    want = {p: r / max(raw.values()) for p, r in raw.items()}
    assert all(ratios[p] == pytest.approx(want[p]) for p in want)


def test_rates_need_gradients() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    with pytest.raises(NetirError, match="no parameter has a gradient"):
        AutoRgn(optimizer, batches=1).observe()
    with pytest.raises(NetirError, match="average over 0"):
        AutoRgn(optimizer, batches=0)
