"""Layers of equivariant networks: group convolution, field batch norm, group pooling, pooling.

Channels are fields times the elements of the *ambient* group, the largest in the network: channel
`a * fields + field` belongs to element `a`. All layers of a network name the same ambient group;
each has a group of its own inside it, and is equivariant to exactly that.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import has_torch_function

from netir.kernels.bank import Remembered
from netir.kernels.group_calls import (
    Dense,
    check_fields,
    check_grid,
    coset_order,
    field_norm,
    group_conv,
    order_of,
    ordered_pool,
    planned,
    planned_conv,
)
from netir.kernels.groups import group as named
from netir.kernels.plan import Plan, Tables, leaves


class MixedGroupConv2d(nn.Module):
    """A convolution whose filter is a mixture of filters equivariant to several groups.

    Its filter is Σ z_G W_G with z = softmax(`logits`), zero at first. The parameters of the first
    group are `weight` and `bias`, of every other `weight_C4` and `bias_C4`, say. With
    `weight_norm` every W_G keeps the norm that it has at first, in the buffer `norms`. `lifting`
    is for the first layer, which reads an image.
    """

    weight: Tensor
    logits: nn.Parameter | None
    norms: Tensor | None

    def __init__(
        self,
        fields_in: int,
        fields_out: int,
        kernel_size: int = 3,
        groups: Sequence[str] = ("D4", "C4", "C1"),
        ambient: str = "",
        *,
        lifting: bool = False,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        weight_norm: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _expect_whole(kernel_size=kernel_size, stride=stride, padding=padding)
        names: Any = groups.split() if isinstance(groups, str) else groups
        self._build(Plan(names, kernel_size, lifting, ambient), fields_in, fields_out,
                    stride, padding, bias, device, dtype)  # fmt: skip
        weights = [w.detach() for w in self._all("weight")]
        self.logits = nn.Parameter(weights[0].new_zeros(len(weights)))
        self.register_buffer("norms", _norms(weights) if weight_norm else None)

    def _build(
        self, plan: Plan, fields_in: int, fields_out: int, stride: int, padding: int, bias: bool,
        device: Any, dtype: torch.dtype | None,
    ) -> None:  # fmt: skip
        _expect_whole(fields_in=fields_in, fields_out=fields_out)
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"weights are real numbers, not {dtype}")
        if min(fields_in, fields_out, stride) < 1 or padding < 0:
            raise ValueError("fields and stride are 1 at least, and padding is not negative")
        self.plan, self.fields_in, self.fields_out = plan, fields_in, fields_out
        self.stride, self.padding = stride, padding
        for name, leaf in zip(plan.groups, leaves("weight", plan.groups), strict=True):
            shape = plan.shape(name, fields_out, fields_in)
            setattr(self, leaf, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        for order, leaf in zip(plan.orders, leaves("bias", plan.groups), strict=True):
            made = torch.empty(plan.elements // order, fields_out, device=device, dtype=dtype)
            self.register_parameter(leaf, nn.Parameter(made) if bias else None)
        self._tables = plan.tables()
        self._kept: Remembered[Dense] = Remembered()
        self.made: Dense | None = None
        """Its filter and bias where together.py makes them; None where it makes its own."""
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and biases as `nn.Conv2d` does for as many channels; mix evenly."""
        bound = (self.plan.size * self.fields_in) ** -0.5
        weights, biases, logits, norms = self.parts()
        for parameter in (*weights, *biases):
            nn.init.uniform_(parameter, -bound, bound)
        if logits is not None:
            nn.init.zeros_(logits)
        if norms is not None:
            norms.copy_(_norms(weights))

    def _all(self, leaf: str) -> list[Tensor]:
        found = [getattr(self, name, None) for name in leaves(leaf, self.plan.groups)]
        return [parameter for parameter in found if parameter is not None]

    def parts(self) -> tuple[list[Tensor], list[Tensor], Tensor | None, Tensor | None]:
        """Its weights, biases, logits and norms."""
        logits, norms = getattr(self, "logits", None), getattr(self, "norms", None)
        return self._all("weight"), self._all("bias"), logits, norms

    def placed(self, device: torch.device) -> Tables:
        """The gather tables of its plan, on that device."""
        if self._tables.table.device != device:
            plan = self.plan
            self._tables = planned(plan.groups, plan.kernel, plan.lifting, plan.ambient, device)[1]
        return self._tables

    def forward(self, x: Tensor) -> Tensor:
        given: object = x
        if not isinstance(given, Tensor):  # torch.fx traces with a stand-in
            if not has_torch_function((given,)):
                raise ValueError(f"a map is a tensor, not {type(given).__name__}")
            plan = self.plan
            return group_conv(
                x, *self.parts(), plan.groups, plan.ambient, plan.lifting, self.stride,
                self.padding,
            )  # fmt: skip
        return planned_conv(
            x, *self.parts(), self.plan, self.stride, self.padding, self.placed(x.device),
            self._kept, self.made,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_kept"] = state["made"] = None  # what it remembers cannot be pickled
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._kept = Remembered()

    def extra_repr(self) -> str:
        plan = self.plan
        kind = "lifting, " if plan.lifting else ""
        norm = ", weight_norm=True" if getattr(self, "norms", None) is not None else ""
        return (
            f"{self.fields_in}, {self.fields_out}, {kind}kernel_size={plan.kernel}, "
            f"groups={' '.join(plan.groups)}, ambient={plan.ambient}, stride={self.stride}, "
            f"padding={self.padding}, bias={bool(self._all('bias'))}{norm}"
        )


class GroupConv2d(MixedGroupConv2d):
    """A convolution that is equivariant to exactly one group.

    Its parameters are `weight` [cosets, fields out, row, column, elements in, fields in], the rows
    of the dense filter at one element of every coset of its group, and `bias` [cosets, fields
    out]. It reads fields of the ambient group, or with `lifting` an image.
    """

    def __init__(
        self,
        fields_in: int,
        fields_out: int,
        kernel_size: int = 3,
        group: str = "D4",
        ambient: str = "",
        *,
        lifting: bool = False,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        _expect_whole(kernel_size=kernel_size, stride=stride, padding=padding)
        self._build(Plan((group,), kernel_size, lifting, ambient), fields_in, fields_out,
                    stride, padding, bias, device, dtype)  # fmt: skip


class FieldBatchNorm2d(nn.Module):
    """Batch norm with one statistic and one affine map per field, shared by its elements.

    A batch norm with one per channel would break equivariance as soon as it trains.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        fields: int,
        ambient: str = "D4",
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _expect_whole(fields=fields)
        if fields < 1 or not _positive(eps) or momentum is None:
            raise ValueError("there is a field at least, eps is positive and momentum a number")
        self.fields, self.ambient, self.eps, self.momentum = fields, ambient, eps, momentum
        self.elements = named(ambient).order
        self.weight = nn.Parameter(torch.ones(fields, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(fields, device=device, dtype=dtype))
        self.register_buffer("running_mean", torch.zeros(fields, device=device, dtype=dtype))
        self.register_buffer("running_var", torch.ones(fields, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """No map, and the statistics of nothing seen yet."""
        for ones in (self.weight, self.running_var):
            nn.init.ones_(ones)
        for zeros in (self.bias, self.running_mean):
            nn.init.zeros_(zeros)

    def forward(self, x: Tensor) -> Tensor:
        return field_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var, self.ambient,
            self.training, self.momentum, self.eps, self.elements,
        )  # fmt: skip

    def extra_repr(self) -> str:
        rest = f"eps={self.eps}, momentum={self.momentum}"
        return f"{self.fields}, ambient={self.ambient}, {rest}"


class GroupPool(nn.Module):
    """The mean, or largest, of every field over its elements: invariant to the group.

    With a subgroup of the ambient group, over each of its cosets: [coset, field] channels remain.
    """

    def __init__(self, ambient: str = "D4", group: str = "", kind: str = "mean") -> None:
        super().__init__()
        self.ambient, self.group, self.kind = ambient, group or ambient, kind
        if kind not in ("mean", "max"):
            raise ValueError(f"a group pool takes the mean or the max, not the {kind}")
        self._order, self._rows = coset_order(self.group, ambient)

    def forward(self, x: Tensor) -> Tensor:
        return ordered_pool(
            x, self.group, self.ambient, self.kind, self._order, self._rows
        )

    def extra_repr(self) -> str:
        return f"{self.ambient}, group={self.group}, kind={self.kind}"


class EquivariantAvgPool2d(nn.AvgPool2d):
    """Average pooling that refuses maps whose size would break equivariance.

    Windows must lie on the map symmetrically: (size + 2·padding - kernel) is a multiple of the
    stride. A kernel of 3 with stride 2 and padding 1 needs odd sizes, a kernel of 2 even ones.
    """

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__(kernel_size, stride, padding)
        stride = kernel_size if stride is None else stride
        _expect_whole(kernel_size=kernel_size, stride=stride, padding=padding)
        if min(kernel_size, stride) < 1 or padding < 0:
            raise ValueError("kernel and stride are 1 at least, and padding is not negative")
        self._windows = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        check_grid(x.shape[-2:], *self._windows)
        return super().forward(x)


def cat_fields(maps: Sequence[Tensor], ambient: str = "D4") -> Tensor:
    """Concatenate maps along their fields: a plain `torch.cat` would mix up the elements."""
    if not isinstance(maps, (list, tuple)):
        raise ValueError("maps to concatenate come in a list")
    elements = order_of(ambient)
    for x in maps:
        check_fields(x, ambient, elements)
    return torch.cat([x.unflatten(1, (elements, -1)) for x in maps], 2).flatten(1, 2)


def _norms(weights: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(weight.detach()) for weight in weights])


def _positive(value: Any) -> bool:
    return isinstance(value, Real) and float(value) > 0


def _expect_whole(**settings: Any) -> None:
    """Raise unless each of these settings is one whole number."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name} is one whole number, not {value!r}")


__all__ = [
    "EquivariantAvgPool2d", "FieldBatchNorm2d", "GroupConv2d", "GroupPool", "MixedGroupConv2d",
    "cat_fields",
]  # fmt: skip
