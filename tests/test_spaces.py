"""Channel spaces: what must change together, what reads it how, and why a space is frozen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import netir
from netir.errors import NetirWarning
from netir.layouts import resolve
from netir.spaces import Space, analyse
from tests.zoo.traced import NAMES, traced

EXPECTED: dict[str, dict[str, tuple[int, str]]] = {
    "shufflenet": {
        "units.0.0.0": (6, "free"),
        "units.1.0.0": (6, "free"),
        "head": (5, "graph output"),
        "stem.0:1": (3, "graph input 'x'"),
    },
    "native_shuffle": {"stem.0[0]": (3, "free"), "stem.0[1]": (4, "free"), "conv.0": (10, "free")},
    "dense": {
        "stem": (6, "free"),
        "convs.0": (4, "free"),
        "convs.1": (4, "free"),
        "convs.2": (4, "free"),
    },
    "fused_unbind": {
        "stem": (10, "free"),
        "qkv[0]": (3, "its indices become values of their own"),
        "qkv[1]": (3, "free"),
        "qkv[2]": (4, "free"),
    },
    "grouped_expand": {
        "q[0]": (2, "free"),
        "q[1]": (3, "free"),
        "q[2]": (4, "free"),
        "v[1]": (4, "free"),
    },
    "rotary": {"q[0]": (3, "free"), "q[1]": (3, "free"), "v[1]": (6, "free")},
    "tied_embedding": {"body": (10, "free")},
    "cat_twice": {"one": (6, "free"), "two": (10, "free")},
    "literal_split": {"stem[0]": (4, "free"), "stem[1]": (7, "free"), "stem[2]": (9, "free")},
    "pixel_shuffle": {"up[0]": (10, "free")},
    "glu": {"conv[0]": (6, "free"), "one[0]": (10, "free"), "two[0]": (14, "free")},
    "group_norm": {"stem[0]": (5, "free"), "stem[1]": (2, "free")},
    "permute_flatten": {"conv": (10, "free"), "hidden": (14, "free")},
    "channel_flip": {"one": (10, "its indices are reversed")},
    "channel_roll": {"stem": (10, "its indices move in a circle")},
    "lstm": {"stem": (6, "free"), "lstm.weight_ih_l0[1]": (10, "free")},
    "residual_input": {"body.0.0": (10, "free"), "body.1": (6, "graph input 'x'")},
    "self_mha": {
        "attend.in_proj_weight[0]": (3, "index 0 is picked from it"),
        "attend.in_proj_weight[1]": (3, "free"),
        "attend.in_proj_weight[2]": (4, "free"),
    },
    "routed_experts": {"up": (4, "written by position"), "up:2": (14, "free")},
}


def spaces_of(name: str) -> dict[str, Space]:
    return {s.name: s for s in traced(name)[1].spaces()}


@pytest.mark.parametrize("name", EXPECTED)
def test_spaces_of_constructs(name: str) -> None:
    found = spaces_of(name)
    for space, (size, state) in EXPECTED[name].items():
        assert found[space].size == size, space
        if state == "free":
            assert not found[space].frozen, found[space].reason
        else:
            assert state in found[space].reason


def members(space: Space) -> set[str]:
    return {f"{m.param}:{m.axis}" for m in space.members}


def test_what_moves_together_in_a_tied_model() -> None:
    space = spaces_of("tied_embedding")["body"]
    assert members(space) == {"embed.weight:1", "body.weight:0", "body.weight:1", "body.bias:0"}
    assert {u.kind for u in space.uses} == {"contract"}


def test_query_heads_are_key_heads_times_repeats() -> None:
    found = spaces_of("grouped_expand")
    assert {"q.weight:0", "k.weight:0", "v.weight:0", "out.weight:1"} <= members(found["q[0]"])
    assert "k.weight:0" not in members(found["q[1]"])
    assert {u.kind for u in found["q[2]"].uses} == {"pair"}


def test_an_lstm_has_one_hidden_space_for_all_gates() -> None:
    hidden = spaces_of("lstm")["lstm.weight_ih_l0[1]"]
    assert members(hidden) == {
        "lstm.weight_ih_l0:0", "lstm.weight_hh_l0:0", "lstm.weight_hh_l0:1",
        "lstm.bias_ih_l0:0", "lstm.bias_hh_l0:0", "head.weight:1",
    }  # fmt: skip


class Chunks(nn.Module):
    """Tokens in chunks, with a mask of numbers whose size is that of a chunk only in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        x = F.pad(x, (0, 0, 0, (4 - tokens % 4) % 4))
        x = x.reshape(batch, x.shape[1] // 4, -1, 6)
        return self.head(x * torch.arange(4.0)[:, None])


class Seam(nn.Module):
    """A group norm whose groups reach over the seam of a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 32), nn.Linear(3, 16)
        self.norm, self.head = nn.GroupNorm(8, 48), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([self.one(x), self.two(x)], 1)))


def test_layouts_that_cannot_be_made_one_are_shown() -> None:
    spaces = {s.name: s.reason for s in netir.trace(Seam(), (torch.randn(2, 3),)).spaces()}
    why = "group_norm (group_norm): two layouts meet that cannot be made one: [32 | 16] and 8·6"
    assert spaces["one"] == spaces["two"] == why


def test_a_size_that_is_equal_only_in_the_end_is_frozen() -> None:
    x = torch.randn(2, 7, 6)
    with pytest.warns(NetirWarning, match="does not fit every size"):
        graph = netir.trace(Chunks().eval(), (x,), dynamic={"x": {1: "n"}})
    (found,) = (s for s in graph.spaces() if s.name == "unsqueeze")
    assert "equal only when it runs" in found.reason


def test_what_is_between_two_open_sizes_is_frozen() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(5, 12), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            flat = self.inner(x).transpose(1, 2).reshape(-1).tanh()
            return self.head(flat.view(-1, 12, x.shape[1]).transpose(1, 2))

    graph = netir.trace(Flat().eval(), (torch.randn(2, 9, 5),), dynamic={"x": {1: "n"}})
    assert "between two open sizes" in graph.spaces()[0].reason


@pytest.mark.parametrize("name", NAMES)
def test_layouts_have_the_sizes_of_their_axes(name: str) -> None:
    graph = traced(name)[1]
    for value, kind in graph.types.items():
        shape = graph.analysis.shapes[value]
        assert tuple(map(netir.layouts.size_of, map(resolve, shape))) == kind.shape, value
    for param, layouts in graph.analysis.shapes.items():
        if param[0] == "@":
            size = tuple(graph.params[param[1:]].data.shape)
            assert tuple(map(netir.layouts.size_of, map(resolve, layouts))) == size, param


@pytest.mark.parametrize("name", NAMES)
def test_frozen_spaces_say_why_and_names_are_unique(name: str) -> None:
    spaces = traced(name)[1].spaces()
    assert len({s.name for s in spaces}) == len(spaces)
    assert all(s.reason for s in spaces if s.frozen)
    assert all(s.members and s.size > 1 for s in spaces)


def test_an_unknown_op_freezes_what_it_touches_and_nothing_else() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 7), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.special.airy_ai(self.b(torch.relu(self.a(x)))))

    graph = netir.trace(Strange(), (torch.randn(2, 4),))
    found = {s.name: s for s in graph.spaces()}
    assert not found["a"].frozen
    assert "airy_ai" in found["b"].reason
    assert "netir does not know" in found["b"].reason


def test_a_deep_network_exhausts_no_recursion() -> None:
    class Residuals(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 3)
            self.gains = nn.ParameterList(nn.Parameter(torch.randn(3)) for _ in range(500))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            for gain in self.gains:
                x = x + torch.relu(x * gain)
            return x.sum(1)

    graph = netir.trace(Residuals(), (torch.randn(2, 2),))
    analysis = analyse(graph)
    (space,) = (s for s in analysis.spaces if not s.frozen)
    assert len(space.members) == 502
    assert space.size == 3
