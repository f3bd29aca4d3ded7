"""Maps smaller than their kernel: what torch computes, by one product for every tap."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netir.kernels import group_calls, small_maps
from netir.kernels.groups import group
from netir.kernels.layers import GroupConv2d, MixedGroupConv2d
from tests.group_layers import acted, gap

DOUBLE = torch.float64
FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("laid", FORMATS, ids=str)
@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [((4, 4), 5, 2), ((2, 2), 3, 1), ((1, 1), 3, 1), ((1, 4), 5, 2), ((3, 2), 4, 1),
     ((2, 3), 4, 2), ((2, 2), 5, 4), ((4, 3), 7, 3), ((6, 6), 7, 1)],
)  # fmt: skip
def test_it_is_torchs_convolution(
    size: tuple[int, int], kernel: int, padding: int, laid: torch.memory_format
) -> None:
    x = torch.randn(3, 4, *size, dtype=DOUBLE).to(memory_format=laid).requires_grad_()
    filters = torch.randn(5, 4, kernel, kernel, dtype=DOUBLE)
    weight = filters.to(memory_format=torch.channels_last).requires_grad_()
    want, made = F.conv2d(x, weight, padding=padding), small_maps.conv2d(x, weight, padding)
    assert made.shape == want.shape
    assert made.is_contiguous(memory_format=laid)
    assert gap(made, want) <= 1e-13
    slope = torch.randn_like(want)
    ours, theirs = (torch.autograd.grad(y, (x, weight), slope) for y in (made, want))
    for a, b in zip(ours, theirs, strict=True):
        assert gap(a, b) <= 1e-13
        assert a.is_contiguous(memory_format=laid) or a.shape == weight.shape


@pytest.mark.parametrize(
    ("maps", "into", "out"), [(0, 4, 5), (1, 1, 1), (3, 1, 4), (3, 4, 1), (1, 4, 5)]
)
@pytest.mark.parametrize("width", [3, 4])
def test_few_maps_and_channels(maps: int, into: int, out: int, width: int) -> None:
    x = torch.randn(maps, into, 2, width, dtype=DOUBLE, requires_grad=True)
    weight = torch.randn(out, into, 5, 5, dtype=DOUBLE, requires_grad=True)
    want, made = F.conv2d(x, weight, padding=2), small_maps.conv2d(x, weight, 2)
    assert made.shape == want.shape
    slope = torch.randn_like(want)
    ours, theirs = (torch.autograd.grad(y, (x, weight), slope) for y in (made, want))
    for a, b in zip((made, *ours), (want, *theirs), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-13)


def test_maps_that_are_views() -> None:
    whole = torch.randn(4, 2, 3, 6, dtype=DOUBLE, requires_grad=True)
    weight = torch.randn(1, 6, 5, 5, dtype=DOUBLE).expand(3, 6, 5, 5)
    for x in (whole.movedim(-1, 1), whole[:1].movedim(-1, 1).expand(5, -1, -1, -1),
              whole.movedim(-1, 1)[:, :, ::2]):  # fmt: skip
        slope = torch.randn_like(F.conv2d(x, weight, padding=2))
        ours, theirs = (torch.autograd.grad(conv(x, weight), whole, slope) for conv in (
            lambda x, w: small_maps.conv2d(x, w, 2), lambda x, w: F.conv2d(x, w, padding=2)
        ))  # fmt: skip
        assert gap(ours[0], theirs[0]) <= 1e-13


def test_maps_under_another_default_device() -> None:
    x, weight = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 3, 3)
    with torch.device("meta"):
        made = small_maps.conv2d(x, weight, 1)
    assert gap(made, F.conv2d(x, weight, padding=1)) <= 1e-5


def test_gradients() -> None:
    x = torch.randn(2, 3, 2, 3, dtype=DOUBLE, requires_grad=True)
    weight = torch.randn(2, 3, 4, 4, dtype=DOUBLE, requires_grad=True)

    def convolved(x: Tensor, weight: Tensor) -> Tensor:
        return small_maps.conv2d(x, weight, 2)

    assert torch.autograd.gradcheck(convolved, (x, weight))
    assert torch.autograd.gradgradcheck(convolved, (x, weight))
    for part in ((x, weight.detach()), (x.detach(), weight)):
        assert torch.autograd.gradcheck(convolved, part)
    made, want = convolved(x, weight), F.conv2d(x, weight, padding=2)
    slopes = torch.randn(3, *want.shape, dtype=DOUBLE)
    ours, theirs = (
        torch.autograd.grad(y, (x, weight), slopes, is_grads_batched=True, retain_graph=True)
        for y in (made, want)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert gap(a, b) <= 1e-13
    many = torch.func.vmap(lambda s: torch.autograd.grad(made, (x, weight), s, retain_graph=True))
    for a, b in zip(many(slopes), theirs, strict=True):
        assert gap(a, b) <= 1e-13


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding", "dtype", "suits"),
    [((64, 256, 4, 4), 5, 1, 2, torch.float32, True),
     ((64, 256, 4, 4), 5, 1, 2, DOUBLE, True),
     ((64, 256, 4, 4), 5, 1, 2, torch.bfloat16, False),
     ((64, 256, 4, 4), 5, 2, 2, torch.float32, False),
     ((64, 256, 5, 4), 5, 1, 2, torch.float32, False),
     ((64, 256, 2, 2), 5, 1, 1, torch.float32, False),  # smaller than the kernel, padded
     ((8, 256, 4, 4), 5, 1, 2, torch.float32, False),
     ((64, 256, 6, 6), 7, 1, 3, torch.float32, False),  # few of its taps read padding
     ((64, 256, 2, 2), 3, 1, 1, torch.float32, True),
     ((256, 4, 4), 5, 1, 2, torch.float32, False)],
)  # fmt: skip
def test_when_it_pays(
    shape: tuple[int, ...], kernel: int, stride: int, padding: int, dtype: torch.dtype,
    suits: bool,
) -> None:  # fmt: skip
    x, weight = torch.empty(shape, dtype=dtype), torch.empty(256, 256, kernel, kernel, dtype=dtype)
    assert small_maps.suits(x, weight, stride, padding) == suits


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the maps that were convolved this way."""
    seen: list[torch.Size] = []
    ours: Callable[..., Tensor] = small_maps.conv2d

    def conv2d(x: Tensor, weight: Tensor, padding: int) -> Tensor:
        seen.append(x.shape)
        return ours(x, weight, padding)

    monkeypatch.setattr(small_maps, "conv2d", conv2d)
    return seen


def net() -> nn.Module:
    return nn.Sequential(
        MixedGroupConv2d(32, 32, 3, ("D4", "C1"), padding=1), nn.ReLU(),
        GroupConv2d(32, 32, 3, "C4", "D4", padding=1),
    ).double()  # fmt: skip


def test_layers_on_small_maps_take_it_and_nothing_else_changes(
    calls: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = net(), torch.randn(64, 256, 2, 2, dtype=DOUBLE)
    made = model(x)
    assert calls == [x.shape, x.shape]
    found = torch.autograd.grad(made.square().sum(), list(model.parameters()))
    monkeypatch.setattr(group_calls.small_maps, "suits", lambda *_: False)
    want = model(x)
    assert len(calls) == 2
    assert gap(made, want) <= 1e-13
    expected = torch.autograd.grad(want.square().sum(), list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        assert gap(a, b) <= 1e-12


def test_equivariance_is_kept(calls: list[torch.Size]) -> None:
    layer = GroupConv2d(32, 32, 3, "D4", padding=1).double()
    x = torch.randn(32, 256, 2, 2, dtype=DOUBLE)
    y = layer(x)
    for element in group("D4").elements:
        turned = layer(acted(element, x, "D4"))
        assert gap(turned, acted(element, y, "D4")) <= 1e-12
    assert len(calls) == 9


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_compilers_tracers_and_short_numbers_take_torchs_own(calls: list[torch.Size]) -> None:
    layer, x = GroupConv2d(32, 32, 3, "D4", padding=1), torch.randn(32, 256, 2, 2)
    want = layer(x)
    del calls[:]
    assert gap(torch.compile(layer, backend="eager")(x), want) <= 1e-5
    torch._dynamo.reset()
    assert gap(torch.func.vmap(lambda x: layer(x[None])[0])(x), want) <= 1e-5
    assert gap(torch.jit.trace(layer, x, check_trace=False)(x), want) <= 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert not calls


def test_a_map_that_its_kernel_does_not_fit_is_refused_as_ever() -> None:
    layer = GroupConv2d(32, 32, 5, "D4", padding=1)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        layer(torch.randn(64, 256, 2, 2))
