"""Laws that hold for every network, tried on random ones (networks.py).

A law is a function of a `Case`. All are tried on every network: on a few each time the tests run,
on 10,000 by `make soak`.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import netir
from netir import (
    Basis,
    Contract,
    NetirError,
    NetirWarning,
    change_basis,
    extend,
    linear,
    replicate,
    select,
)
from netir.basis import kept
from netir.ir import Graph
from netir.moves import move_optimizer
from netir.passes import Prune, Widen
from netir.rewrite import Pass
from netir.spaces import Space
from netir.text import parse_graph, print_graph
from netir.verify import check, verify
from tests.networks import Network, networks


@dataclass(frozen=True)
class Case:
    """A network, its graph, and a seed for what a law chooses."""

    network: Network
    graph: Graph
    seed: int

    @cached_property
    def random(self) -> random.Random:
        return random.Random(self.seed)

    @cached_property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    @property
    def free(self) -> list[Space]:
        return [s for s in self.graph.spaces() if not s.frozen]

    def one(self) -> list[Space]:
        """One free space, if there is any."""
        return [self.random.choice(self.free)] if self.free else []

    def permutation(self, size: int) -> Tensor:
        return torch.randperm(size, generator=self.generator)

    def holds(self, before: Graph, after: Graph, **options: Any) -> None:
        check(after)
        verify(before, after, self.network.args, **options)

    def changed(self, before: Graph, bases: dict[str, Basis], contract: str) -> Graph:
        """The graph after a change of basis that keeps a contract."""
        done = change_basis(before, bases)
        self.holds(before, done.graph, contract=contract, moves=done.moves)
        return done.graph


def gap(want: Any, have: Any) -> float:
    """The largest difference between two results, relative to the largest entry."""
    pairs = zip(pytree.tree_leaves(want), pytree.tree_leaves(have), strict=True)
    return max(float((a - b).abs().max() / (a.abs().max() + 1e-30)) for a, b in pairs)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning that a pass changes nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        yield


def rewritten(rewrite: Pass, graph: Graph) -> Graph:
    with quiet():
        return rewrite(graph)


def same_tensors(left: Graph, right: Graph) -> None:
    """The parameters of the left graph, bit for bit."""
    for name, param in left.params.items():
        assert torch.equal(param.data, right.params[name].data), name


# The laws


def traced_graph_computes_the_model(case: Case) -> None:
    with torch.no_grad():
        want = case.network.model(*case.network.args)
        assert gap(want, netir.run(case.graph, *case.network.args)) < 1e-12


def lowering_undoes_tracing(case: Case) -> None:
    model, args = copy.deepcopy(case.network.model), case.network.args
    module = netir.to_torch(case.graph)
    assert module.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        assert gap(model(*args), module(*args)) < 1e-12
    gradients = []
    for net in (model, module):
        torch.manual_seed(case.seed)
        loss(net.train(), args).backward()
        gradients.append({n: p.grad for n, p in net.named_parameters() if p.grad is not None})
    want, have = gradients
    assert want.keys() == have.keys()
    scale = max((float(g.abs().max()) for g in want.values()), default=0.0) + 1e-30
    for name, gradient in want.items():
        assert float((gradient - have[name]).abs().max()) < 1e-11 * scale, name
    again = netir.trace(module)
    assert print_graph(again) == print_graph(case.graph)


def loss(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
    leaves = pytree.tree_leaves(module(*args))
    return sum(torch.tanh(x).square().sum() for x in leaves)  # type: ignore[return-value]


def parsing_undoes_printing(case: Case) -> None:
    text = print_graph(case.graph)
    again = parse_graph(text, {n: p.data for n, p in case.graph.params.items()})
    check(again)
    assert print_graph(again) == text
    assert [described(s) for s in again.spaces()] == [described(s) for s in case.graph.spaces()]
    same_tensors(case.graph, again)


def described(space: Space) -> tuple[Any, ...]:
    return space.name, space.size, space.reason, space.members, space.values


def widening_all_is_exact(case: Case) -> None:
    factor = case.random.choice([1.5, 2, 3])
    case.holds(case.graph, rewritten(Widen(factor=factor), case.graph), contract="exact")


def widening_one_is_exact(case: Case) -> None:
    """Any number of copies of any index, and any shares."""
    for space in case.one():
        extra = torch.randint(space.size, (case.random.randint(1, 5),), generator=case.generator)
        index = torch.cat([case.permutation(space.size), extra])
        if case.random.random() < 0.3:
            index = torch.arange(2 * space.size) % space.size
        share = torch.rand(len(index), generator=case.generator, dtype=torch.float64)
        total = torch.zeros(space.size, dtype=torch.float64).index_add(0, index, share)
        basis = replicate(index, share / total[index] if case.seed % 2 else None)
        if kept(space, basis)[0] is Contract.EXACT:
            case.changed(case.graph, {space.name: basis}, "exact")


def pruning_all_is_masked(case: Case) -> None:
    """Twice in a row, each by itself and both together."""
    first = rewritten(Prune(amount=0.4, score="random", seed=case.seed), case.graph)
    case.holds(case.graph, first)
    second = rewritten(Prune(amount=0.4, score="l1"), first)
    case.holds(first, second)
    case.holds(case.graph, second)


def pruning_one_is_masked(case: Case) -> None:
    for space in case.one():
        count = case.random.randint(1, space.size)
        basis = select(case.permutation(space.size)[:count])
        contract = "exact" if count == space.size else "masked"
        once = case.changed(case.graph, {space.name: basis}, contract)
        names = {s.name for s in once.spaces() if not s.frozen}
        if space.name in names and count > 1:
            case.changed(once, {space.name: select([count - 1])}, "masked")


def pruning_undoes_widening(case: Case) -> None:
    """Bit for bit, where the originals keep all the weight."""
    for space in (*case.one(), *case.one()):
        size, more = space.size, case.random.randint(1, 4)
        copies = torch.randint(size, (more,), generator=case.generator)
        whole = torch.cat([torch.ones(size), torch.zeros(more)])
        for basis in (
            extend(size, more),
            replicate(torch.cat([torch.arange(size), copies]), whole),
        ):
            if kept(space, basis)[0] is not Contract.EXACT:
                continue
            wide = case.changed(case.graph, {space.name: basis}, "exact")
            back = change_basis(wide, {space.name: select(torch.arange(size))}).graph
            check(back)
            same_tensors(case.graph, back)
            args = case.network.args
            assert gap(netir.run(case.graph, *args), netir.run(back, *args)) < 1e-12


def permuting_is_exact_and_reversible(case: Case) -> None:
    orders = {s.name: case.permutation(s.size) for s in case.free}
    there = case.changed(case.graph, {n: select(p) for n, p in orders.items()}, "exact")
    back = case.changed(there, {n: select(p.argsort()) for n, p in orders.items()}, "exact")
    same_tensors(case.graph, back)
    assert print_graph(back) == print_graph(case.graph)


def pipelines_keep_every_contract(case: Case) -> None:
    graph = case.graph
    for _ in range(3):
        names = ["*", *(s.name for s in graph.spaces() if not s.frozen)]
        where, number = case.random.choice(names), case.random.randint(0, 99)
        rewrite: Pass = case.random.choice([
            Widen(where, factor=case.random.choice([1.25, 2])),
            Prune(where, amount=case.random.choice([0.2, 0.5]), score="random", seed=number),
        ])  # fmt: skip
        after = rewritten(rewrite, graph)
        case.holds(graph, after)
        text = print_graph(after)
        again = parse_graph(text, {n: p.data for n, p in after.params.items()})
        assert print_graph(again) == text
        assert [described(s) for s in again.spaces()] == [described(s) for s in after.spaces()]
        graph = after


def linear_bases_are_exact_or_refused(case: Case) -> None:
    for space in case.free:
        wide = space.size + case.random.randint(0, 2)
        matrix = torch.randn(wide, wide, generator=case.generator, dtype=torch.float64)
        into = torch.linalg.qr(matrix)[0][:, : space.size]
        try:
            done = change_basis(case.graph, {space.name: linear(into, into.t())})
        except NetirError as error:
            if not error.fix:
                raise
            continue
        check(done.graph)
        args = case.network.args
        assert gap(netir.run(case.graph, *args), netir.run(done.graph, *args)) < 1e-9, space


OPTIMIZERS: tuple[Callable[[Any], torch.optim.Optimizer], ...] = (
    lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01),
    lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-3, weight_decay=0.01),
    lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-3, amsgrad=True),
    lambda p: torch.optim.RMSprop(p, lr=0.01, eps=1e-3, momentum=0.9, centered=True),
    lambda p: torch.optim.Adagrad(p, lr=0.01, eps=1e-3, lr_decay=0.1),
)


def trained(case: Case) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The lowered network and an optimizer after its first step."""
    module = netir.to_torch(case.graph).train()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    optimizer = OPTIMIZERS[case.seed % len(OPTIMIZERS)](module.parameters())
    step(module, optimizer, case)
    return module, optimizer


def step(module: nn.Module, optimizer: torch.optim.Optimizer, case: Case) -> None:
    optimizer.zero_grad()
    loss(module, case.network.args).backward()
    optimizer.step()


def training_goes_on_after_an_extension(case: Case) -> None:
    """With zero fan-out, the next step of the old entries is the one they would have taken."""
    module, optimizer = trained(case)
    graph = netir.trace(module)
    bases = {s.name: extend(s.size, case.random.randint(1, 3)) for s in graph.spaces()
             if not s.frozen}  # fmt: skip
    bases = {s.name: bases[s.name] for s in graph.spaces()
             if s.name in bases and kept(s, bases[s.name])[0] is Contract.EXACT}  # fmt: skip
    done = change_basis(graph, bases)
    wide = same_modes(netir.to_torch(done.graph), module)
    plain, reference = copy.deepcopy((module, optimizer))
    move_optimizer(optimizer, done.moves, module, wide)
    step(plain, reference, case)
    step(wide, optimizer, case)
    found = dict(wide.named_parameters())
    for name, parameter in plain.named_parameters():
        move = done.moves.params.get(name)
        want = parameter.detach()
        old = torch.ones_like(want)
        if move is not None:
            want, old = move.apply(want), move.apply(old)
        change = ((found[name].detach() - want) * old).abs().max()
        assert float(change) < 1e-10 * (1 + float(want.abs().max())), name


def same_modes(module: nn.Module, like: nn.Module) -> nn.Module:
    modes = {name: part.training for name, part in like.named_modules()}
    for name, part in module.named_modules():
        part.training = modes.get(name, True)
    return module


def moments_follow_a_selection(case: Case) -> None:
    """Where a weight went is read off its value, which no other weight has."""
    module, optimizer = trained(case)
    graph = netir.trace(module)
    bases = {
        s.name: select(case.permutation(s.size)[: max(1, s.size - case.random.randint(0, 2))])
        for s in graph.spaces() if not s.frozen
    }  # fmt: skip
    done = change_basis(graph, bases)
    thin = netir.to_torch(done.graph)
    before = {n: (p.detach().clone(), copy.copy(optimizer.state[p]))
              for n, p in module.named_parameters()}  # fmt: skip
    move_optimizer(optimizer, done.moves, module, thin)
    for name, parameter in thin.named_parameters():
        old, state = before[name]
        assert state.keys() == optimizer.state[parameter].keys()
        values, order = old.flatten().sort()
        if (values[1:] == values[:-1]).any():
            continue
        place = order[torch.searchsorted(values, parameter.detach().flatten())]
        assert torch.equal(old.flatten()[place], parameter.detach().flatten()), name
        for key, moment in state.items():
            have = optimizer.state[parameter][key]
            if isinstance(moment, Tensor) and moment.shape == old.shape:
                assert torch.equal(have.flatten(), moment.flatten()[place]), (name, key)
            else:
                assert have is moment


LAWS = (
    traced_graph_computes_the_model,
    lowering_undoes_tracing,
    parsing_undoes_printing,
    widening_all_is_exact,
    widening_one_is_exact,
    pruning_all_is_masked,
    pruning_one_is_masked,
    pruning_undoes_widening,
    permuting_is_exact_and_reversible,
    pipelines_keep_every_contract,
    linear_bases_are_exact_or_refused,
    training_goes_on_after_an_extension,
    moments_follow_a_selection,
)


def holds(network: Network, number: int) -> None:
    """Try all laws on a network."""
    with torch.no_grad():
        outputs = pytree.tree_leaves(network.model(*network.args))
    assume(all(bool(torch.isfinite(x).all()) and x.abs().max() < 1e4 for x in outputs))
    graph = netir.trace(network.model, network.args)
    check(graph)
    for law in LAWS:
        law(Case(network, graph, number))


numbers = st.integers(0, 9)
slow = settings(suppress_health_check=list(HealthCheck), database=None)


@pytest.mark.parametrize("part", range(4))
def test_laws(part: int) -> None:
    seed(part)(settings(slow, max_examples=40)(given(networks(), numbers)(holds)))()


@pytest.mark.soak
@pytest.mark.parametrize("part", range(20))
def test_many_networks(part: int) -> None:
    settings(slow, max_examples=500)(given(networks(14), numbers)(holds))()
