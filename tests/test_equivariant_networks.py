"""Networks of equivariant layers have the symmetry of their groups, and no other, at every size."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import netir
from netir.kernels.groups import SQUARE, Element, group
from netir.kernels.layers import (
    EquivariantAvgPool2d,
    FieldBatchNorm2d,
    GroupConv2d,
    GroupPool,
    MixedGroupConv2d,
)
from tests.equivariant import gap
from tests.group_layers import acted, moved

SIZES = [(5, 8), (5, 9), (7, 8), (7, 9)]


class Maps(nn.Module):
    """Lifting, a norm, a residual, a smaller map, and a layer with a stride where that fits."""

    def __init__(self, groups: Sequence[str], kernel: int, size: int) -> None:
        super().__init__()
        self.lift = self.layer(3, groups, kernel, lifting=True)
        self.norm = FieldBatchNorm2d(2)
        self.inner = self.layer(2, groups, kernel)
        windows = (3, 2, 1) if size % 2 else (2, 2)
        self.shrink = EquivariantAvgPool2d(*windows)
        self.last = self.layer(2, groups, kernel, stride=1 + (size + 1) // 2 % 2)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 1.5)
            self.norm.bias.uniform_(0, 0.5)  # some units stay alive
        self.double().eval()

    def layer(
        self, read: int, groups: Sequence[str], kernel: int, lifting: bool = False, stride: int = 1
    ) -> nn.Module:
        given = {"lifting": lifting, "stride": stride, "padding": kernel // 2}
        if len(groups) == 1:
            return GroupConv2d(read, 2, kernel, groups[0], "D4", **given)  # type: ignore[arg-type]
        return MixedGroupConv2d(read, 2, kernel, groups, "D4", **given)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.lift(x)).relu()
        out: Tensor = self.last(self.shrink(x + self.inner(x).relu()))
        return out


def errors(model: nn.Module, x: Tensor) -> dict[Element, tuple[float, float]]:
    """By element how far maps, and what is pooled of them, are from moving along."""
    y, found = model(x), {}
    for element in group("D4").elements:
        have, want = model(moved(element, x)), acted(element, y, "D4")
        pooled = [GroupPool("D4", kind="max")(m).mean((2, 3)) for m in (have, want)]
        size = float(y.detach().abs().max())
        found[element] = gap(have, want) / size, gap(*pooled) / size
    return found


def holds(model: nn.Module, x: Tensor, names: Sequence[str]) -> None:
    """Equivariant to what all of these groups share, and visibly to nothing else."""
    inside = set.intersection(*(set(group(name).elements) for name in names))
    for element, (maps, pooled) in errors(model, x).items():
        if element in inside:
            assert max(maps, pooled) <= 1e-12
        else:
            assert maps > 1e-2
            # what single pixels give does not depend on where they are
            assert pooled > 1e-5 or model.lift.plan.kernel == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("name", SQUARE)
@pytest.mark.parametrize(("kernel", "size"), SIZES)
def test_a_network_has_exactly_the_symmetry_of_its_group(
    name: str, kernel: int, size: int
) -> None:
    holds(Maps([name], kernel, size), torch.randn(1, 3, size, size).double(), [name])


@pytest.mark.parametrize("names", [("D4", "C4"), ("D4", "D2", "D1_90"), ("C4", "D2_45"), SQUARE])
@pytest.mark.parametrize(("kernel", "size"), [(5, 8), (7, 9)])
def test_a_mixture_has_the_symmetry_that_its_groups_share(
    names: Sequence[str], kernel: int, size: int
) -> None:
    model = Maps(names, kernel, size)
    x = torch.randn(1, 3, size, size).double()
    holds(model, x, names)
    graph = netir.trace(model, (x.repeat(2, 1, 1, 1),))
    plain = netir.to_torch(netir.passes.Collapse()(graph))
    assert gap(plain(x), model(x)) <= 1e-12


@pytest.mark.soak
@pytest.mark.parametrize("name", SQUARE)
@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("size", range(8, 18))
def test_networks_of_all_sizes_have_the_symmetry_of_their_group(
    name: str, kernel: int, size: int
) -> None:
    for mode in (True, False):
        model = Maps([name], kernel, size).train(mode)
        holds(model, torch.randn(2, 3, size, size).double(), [name])
