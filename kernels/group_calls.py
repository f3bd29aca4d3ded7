"""What the layers of equivariant networks compute, as functions (layers.py has the modules).

While `recorded()` is on, each call is one operator of torch's, `netir::group_conv` and so on,
which a tracer sees as one node. Stand-ins for tensors, as `torch.fx` has them, may be passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from netir.kernels import small_maps
from netir.kernels.bank import Remembered
from netir.kernels.expand import at_once, expand, expand_bias, filter_dtype, normalised
from netir.kernels.groups import cosets, group
from netir.kernels.plan import Plan, Tables

Dense = tuple[Tensor, Tensor | None]
"""The filter and the bias of a plain convolution."""
_RECORDED: ContextVar[bool] = ContextVar("recorded", default=False)
_SMALL = 32
"""A map with so many times fewer pixels than channels convolves faster in contiguous format."""


@contextmanager
def recorded() -> Iterator[None]:
    """Let every call be one operator, for a tracer to see."""
    token = _RECORDED.set(True)
    try:
        yield
    finally:
        _RECORDED.reset(token)


def recording() -> bool:
    """Whether every call is one operator."""
    return not torch.compiler.is_dynamo_compiling() and _RECORDED.get()


def group_conv(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    logits: Tensor | None,
    norms: Tensor | None,
    groups: Sequence[str],
    ambient: str,
    lifting: bool,
    stride: int,
    padding: int,
) -> Tensor:
    """Convolve with a filter equivariant to one group, or with a mixture over several.

    `biases` is empty where there are none. The filters are mixed by softmax(`logits`), or summed;
    with `norms` each of them is given its norm first.
    """
    given = (x, *weights, *biases)
    if has_torch_function(given):
        return handle_torch_function(
            group_conv, given, x, tuple(weights), tuple(biases), logits, norms, tuple(groups),
            ambient, lifting, stride, padding,
        )  # fmt: skip
    plan, tables = planned(tuple(groups), weights[0].shape[2], lifting, ambient, x.device)
    return planned_conv(x, weights, biases, logits, norms, plan, stride, padding, tables)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def planned(
    groups: tuple[str, ...], kernel: int, lifting: bool, ambient: str, device: torch.device
) -> tuple[Plan, Tables]:
    """A plan and its tables, which a compiler takes as they are."""
    plan = Plan(groups, kernel, lifting, ambient)
    return plan, plan.tables(device)


def planned_conv(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    logits: Tensor | None,
    norms: Tensor | None,
    plan: Plan,
    stride: int,
    padding: int,
    tables: Tables | None = None,
    kept: Remembered[Dense] | None = None,
    made: Dense | None = None,
) -> Tensor:
    """`group_conv` of a layer whose plan is made.

    `kept` remembers its filter and bias; or they were `made` before.
    """
    if max(plan.orders) > 1:
        check_grid(x.shape[-2:], plan.kernel, stride, padding)
    if recording():
        seen: Tensor = group_conv_op(
            x, list(weights), list(biases), logits, norms, " ".join(plan.groups), plan.ambient,
            plan.lifting, stride, padding,
        )  # fmt: skip
        return seen
    tables = tables or plan.tables(x.device)

    def make() -> Dense:
        weight = group_filter(weights, logits, norms, plan, tables)
        return weight, group_bias(biases, logits, plan, tables)

    if made is None and kept is not None and at_once(weights[0]):
        sources = [t for t in (*weights, *biases, logits, norms) if t is not None]
        made = kept(sources, make, filter_dtype(weights[0]))
    weight, bias = made or make()
    return _convolved(x, weight, bias, stride, padding)


def group_filter(
    weights: Sequence[Tensor], logits: Tensor | None, norms: Tensor | None, plan: Plan,
    tables: Tables | None = None,
) -> Tensor:  # fmt: skip
    """The dense filter of a layer."""
    return expand(weights, plan, coefficients_of(weights, logits, norms), tables)


def coefficients_of(
    weights: Sequence[Tensor], logits: Tensor | None, norms: Tensor | None
) -> Tensor | None:
    """By how much the filter of every group counts; None if each counts once."""
    mix = None if logits is None else logits.softmax(0)
    return mix if norms is None else normalised(weights, norms, mix)


def group_bias(
    biases: Sequence[Tensor], logits: Tensor | None, plan: Plan, tables: Tables | None = None
) -> Tensor | None:
    """The dense bias of a layer."""
    if not biases:
        return None
    return expand_bias(biases, plan, None if logits is None else logits.softmax(0), tables)


def _convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
) -> Tensor:
    """`F.conv2d`, in whatever way is fastest for a map of this size."""
    if x.device.type == "cpu" and at_once(x):
        if small_maps.suits(x, weight, stride, padding):
            made = small_maps.conv2d(x, weight, padding)
            return made if bias is None else made + bias[:, None, None]
        if _SMALL * x.shape[-1] * x.shape[-2] <= weight.shape[1]:
            x, weight = x.contiguous(), weight.contiguous()
    if bias is not None and torch.compiler.is_dynamo_compiling():
        # torch's compiler gets the gradient of a mixture's bias wrong in a convolution
        return F.conv2d(x, weight, None, stride, padding) + bias[:, None, None]
    return F.conv2d(x, weight, bias, stride, padding)


@torch.library.custom_op("netir::group_conv", mutates_args=())
def group_conv_op(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    logits: Tensor | None,
    norms: Tensor | None,
    groups: str,
    ambient: str,
    lifting: bool,
    stride: int,
    padding: int,
) -> Tensor:
    """`group_conv` as one operator, for tracers."""
    plan = Plan(tuple(groups.split()), weights[0].shape[2], lifting, ambient)
    weight = group_filter(weights, logits, norms, plan)
    return F.conv2d(x, weight, group_bias(biases, logits, plan), stride, padding)


@group_conv_op.register_fake
def _(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], logits: Tensor | None,
    norms: Tensor | None, groups: str, ambient: str, lifting: bool, stride: int, padding: int,
) -> Tensor:  # fmt: skip
    plan = Plan(tuple(groups.split()), weights[0].shape[2], lifting, ambient)
    _, fields, kernel, _, inner, fields_in = weights[0].shape
    dense = x.new_empty(plan.elements * fields, inner * fields_in, kernel, kernel)
    return F.conv2d(x, dense, None, stride, padding)


def field_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    ambient: str,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    elements: int = 0,
) -> Tensor:
    """Batch norm with one set of numbers per field; channels are [element, field].

    A compiler that cannot look a group up is told how many `elements` it has.
    """
    given = (x, weight, bias, mean, variance)
    if has_torch_function(given):
        return handle_torch_function(
            field_norm, given, *given, ambient, training, momentum, eps
        )
    if recording():
        seen: Tensor = field_norm_op(*given, ambient, momentum, eps)
        return seen
    elements, fields = elements or order_of(ambient), len(mean)
    check_fields(x, ambient, elements, fields)
    if not training:
        return _normed(x, given[1:], elements, eps)
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        last = x.permute(0, 2, 3, 1)
        rows = last.reshape(-1, fields)
        made = F.batch_norm(rows, mean, variance, weight, bias, True, momentum, eps)
        return made.view(last.shape).permute(0, 3, 1, 2)
    apart = x.reshape(-1, fields, *x.shape[2:])
    made = F.batch_norm(apart, mean, variance, weight, bias, True, momentum, eps)
    return made.view(x.shape)


def _normed(x: Tensor, vectors: Sequence[Tensor], elements: int, eps: float) -> Tensor:
    """`field_norm` in eval mode."""
    weight, bias, mean, variance = (v.repeat(elements) for v in vectors)
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


@torch.library.custom_op("netir::field_norm", mutates_args=())
def field_norm_op(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, ambient: str,
    momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    """`field_norm` in eval mode as one operator, for tracers."""
    return _normed(x, (weight, bias, mean, variance), group(ambient).order, eps)


@field_norm_op.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, ambient: str,
    momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    return torch.empty_like(x)


def group_pool(x: Tensor, over: str, ambient: str, kind: str = "mean") -> Tensor:
    """The mean or max of every field over each coset of a group; channels become [coset, field]."""
    if has_torch_function((x,)):
        made: Tensor = handle_torch_function(group_pool, (x,), x, over, ambient, kind)
        return made
    return ordered_pool(x, over, ambient, kind, *coset_order(over, ambient))


def ordered_pool(
    x: Tensor, over: str, ambient: str, kind: str, order: Sequence[int], rows: int
) -> Tensor:
    """`group_pool` with the order of the elements by coset, and the number of cosets."""
    if recording():
        made: Tensor = group_pool_op(x, over, ambient, kind)
        return made
    check_fields(x, ambient, len(order))
    return _pooled(x, kind, order, rows)


def _pooled(x: Tensor, kind: str, order: Sequence[int], rows: int) -> Tensor:
    fields = x.unflatten(1, (len(order), -1))
    if list(order) != sorted(order):  # an index would be copied to a GPU each time
        fields = torch.stack([fields[:, element] for element in order], 1)
    apart = fields.unflatten(1, (rows, -1))
    pooled = apart.mean(2) if kind == "mean" else apart.amax(2)
    flat: Tensor = pooled.flatten(1, 2)
    return flat


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def order_of(ambient: str) -> int:
    """How many elements a group has, which a compiler takes as it is."""
    return group(ambient).order


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def coset_order(over: str, ambient: str) -> tuple[list[int], int]:
    """The elements of a group in the order of a subgroup's cosets, and how many cosets it has."""
    found = cosets(group(over), group(ambient))
    order = sorted(range(len(found.coset)), key=lambda a: (found.coset[a], a))
    return order, len(found.representatives)


@torch.library.custom_op("netir::group_pool", mutates_args=())
def group_pool_op(x: Tensor, over: str, ambient: str, kind: str) -> Tensor:
    """`group_pool` as one operator, for tracers."""
    return _pooled(x, kind, *coset_order(over, ambient)).clone()


@group_pool_op.register_fake
def _(x: Tensor, over: str, ambient: str, kind: str) -> Tensor:
    elements, rows = group(ambient).order, coset_order(over, ambient)[1]
    return x.new_empty(x.shape[0], x.shape[1] // elements * rows, *x.shape[2:])


def check_fields(x: Tensor, ambient: str, elements: int, fields: int | None = None) -> None:
    """Raise unless the channels are fields of a group, and so many where that is known."""
    given: object = x
    if isinstance(given, Tensor) and given.dim() in (1, 3):
        raise ValueError(f"a map of {given.dim()} axes has no batch, or no channels: give a batch, "
                         "as x[None]")  # fmt: skip
    channels: object = x.shape[1]
    if not isinstance(channels, int):
        return  # a stand-in, or an open size
    if channels % elements if fields is None else channels != elements * fields:
        known = "no fields" if fields is None else f"not {fields} fields"
        raise ValueError(
            f"{channels} channels are {known} of {ambient}, which has {elements} elements"
        )


def check_grid(map: Sequence[object], kernel: int, stride: int, padding: int) -> None:
    """Raise where windows do not lie symmetrically on a map: turned, it would be read elsewhere."""
    if stride == 1:
        return
    for size in (map[0], map[1]):  # which a tracer may stand for
        if isinstance(size, int) and (size + 2 * padding - kernel) % stride:
            raise ValueError(
                f"a map of {size} pixels is not read symmetrically by a kernel of {kernel} with "
                f"stride {stride} and padding {padding}, so equivariance would break: its size "
                f"plus {2 * padding - kernel} must be a multiple of {stride}"
            )
