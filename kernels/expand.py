"""From all groups' parameters to one dense filter: W = Σ c_G · expanded(ψ_G), one op, any device.

A mixed-group convolution is an ordinary convolution with this filter. `expand` makes it and is
all that a layer needs: on a GPU it is one launch, on a processor a few gathers; both ways, with
gradients of parameters and coefficients, of any order. It can be compiled and exported:
`DECOMPOSITIONS` replaces the op by plain torch for `run_decompositions`, and constant folding then
leaves one convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from netir.kernels import lattice
from netir.kernels.plan import Plan, Tables


def expand(
    parameters: Sequence[Tensor],
    plan: Plan,
    coefficients: Tensor | None = None,
    tables: Tables | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The dense filter, [out, in, row, column] in channels-last strides, from compact parameters.

    `parameters` has one tensor per group of the plan (`plan.shape`), `coefficients` one factor per
    group; none means 1. What is compiled or exported gives `tables`, its buffers. The filter has
    `dtype`, or autocast's, or that of the parameters.
    """
    parameters = list(parameters)
    if not torch.compiler.is_compiling():
        plan.check(parameters, coefficients, tables)
    first = parameters[0]
    if tables is None:
        tables = plan.tables(first.device)
    if coefficients is None:
        coefficients = first.new_ones(len(parameters))
    if dtype is None:
        dtype = filter_dtype(first)
    if not dtype.is_floating_point:
        raise ValueError(f"a filter has real numbers, not {dtype}")
    given = tables.table, tables.weights  # by name: not every torch can compile `*tables`
    made = _way([*parameters, coefficients])(
        parameters, coefficients, *given, plan.into, dtype
    )
    return made.permute(0, 3, 1, 2)


def _way(sources: Sequence[Tensor]) -> Callable[..., Tensor]:
    """The op, or what does the same: in less time, or for those who know torch's ops alone."""
    if transformed():
        return plain
    if torch.compiler.is_exporting() or sources[0].device.type != "cpu":
        return expand_mix
    if torch.compiler.is_compiling():  # it fuses gathers well, but would add atomically backwards
        wanted = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        return expand_mix if wanted else plain
    return _direct if at_once(sources[0]) else expand_mix


def at_once(given: Tensor) -> bool:
    """Whether calls run as they come: nothing compiles, records or transforms them."""
    if torch.compiler.is_compiling() or transformed():
        return False
    return type(given) in (Tensor, torch.nn.Parameter) and _get_current_dispatch_mode() is None


def transformed() -> bool:
    """Whether `torch.func`, forward differentiation or `torch.jit` wants to see torch's own ops."""
    functional: bool = torch._C._are_functorch_transforms_active()
    if functional or torch.compiler.is_compiling():
        return functional
    return forward_ad._current_level >= 0 or torch._C._get_tracing_state() is not None


def filter_dtype(parameter: Tensor) -> torch.dtype:
    """What a convolution would read: autocast's type where it is on."""
    device = parameter.device.type
    if torch.is_autocast_enabled(device) and parameter.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return parameter.dtype


def expand_bias(
    biases: Sequence[Tensor],
    plan: Plan,
    coefficients: Tensor | None = None,
    tables: Tables | None = None,
) -> Tensor:
    """The bias of every output channel, from one per group: [cosets, fields out]."""
    if not torch.compiler.is_compiling():
        plan.check_biases(biases, coefficients)
    if tables is None:
        tables = plan.tables(biases[0].device)
    owners = [tables.table[g, :, -2] for g in range(len(biases))]
    parts = [_repeated(bias, owner) for bias, owner in zip(biases, owners, strict=True)]
    if coefficients is not None:
        parts = [part * c for part, c in zip(parts, coefficients.unbind(), strict=True)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _repeated(bias: Tensor, owners: Tensor) -> Tensor:
    """The biases of the cosets that own the elements, field by field."""
    if not torch.compiler.is_compiling():
        return bias[owners].flatten()  # whose gradient is added up in order, on a GPU too
    fields = torch.arange(bias.shape[1], dtype=owners.dtype, device=owners.device)
    places = (owners[:, None] * len(fields) + fields).flatten()
    return bias.flatten().index_select(0, places)  # torch 2.11 cannot compile a bias that is a view


def normalised(parameters: Sequence[Tensor], norms: Tensor, mix: Tensor | None = None) -> Tensor:
    """Coefficients that give every group's parameters its norm: mix · norms / ‖parameters‖.

    Parameters that are all zero stay so.
    """
    if norms.shape != (len(parameters),):
        raise ValueError(f"norms of shape {list(norms.shape)} for {len(parameters)} groups")
    lengths = torch.stack([torch.linalg.vector_norm(p) for p in parameters])
    factors = norms / torch.where(lengths > 0, lengths, 1)
    return factors if mix is None else factors * mix


@torch.library.custom_op("netir::expand_mix", mutates_args=(), device_types="cpu")
def expand_mix(
    parameters: Sequence[Tensor],
    coefficients: Tensor,
    table: Tensor,
    weights: Tensor | None,
    into: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """The op: a filter [out, row, column, in]. Use `expand`, which checks what it gets."""
    made = lattice.expand(parameters, coefficients, table, weights, into)
    return made.to(dtype).view(_shape(parameters, table))


@expand_mix.register_kernel("cuda")
def _(
    parameters: Sequence[Tensor], coefficients: Tensor, table: Tensor, weights: Tensor | None,
    into: Sequence[int], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    from netir.kernels import expand_triton

    with torch.cuda.device(table.device):
        made = expand_triton.expand(parameters, coefficients, table, weights, dtype)
    return made.view(_shape(parameters, table))


@expand_mix.register_fake
def _(
    parameters: Sequence[Tensor], coefficients: Tensor, table: Tensor, weights: Tensor | None,
    into: Sequence[int], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    return parameters[0].new_empty(_shape(parameters, table), dtype=dtype)


@torch.library.custom_op("netir::expand_mix_backward", mutates_args=(), device_types="cpu")
def expand_mix_backward(
    parameters: Sequence[Tensor],
    coefficients: Tensor,
    gradient: Tensor,
    table: Tensor,
    weights: Tensor | None,
    into: Sequence[int],
    wanted: bool,
) -> list[Tensor]:
    """The gradient of every parameter, empty unless `wanted`, and at last the coefficients'."""
    return _backward(parameters, coefficients, gradient, table, weights, into, wanted)


def _backward(
    parameters: Sequence[Tensor], coefficients: Tensor, gradient: Tensor, table: Tensor,
    weights: Tensor | None, into: Sequence[int], wanted: bool,
) -> list[Tensor]:  # fmt: skip
    dense = gradient.reshape(_dense(parameters, table))
    found, products = lattice.backward(
        parameters, coefficients, dense, table, weights, into, wanted
    )
    return [*found, products]


@expand_mix_backward.register_kernel("cuda")
def _(
    parameters: Sequence[Tensor], coefficients: Tensor, gradient: Tensor, table: Tensor,
    weights: Tensor | None, into: Sequence[int], wanted: bool,
) -> list[Tensor]:  # fmt: skip
    from netir.kernels import expand_triton

    with torch.cuda.device(table.device):
        found, products = expand_triton.backward(
            parameters, coefficients, gradient, table, weights, wanted
        )
    return [*(found or _empty(parameters)), products]


@expand_mix_backward.register_fake
def _(
    parameters: Sequence[Tensor], coefficients: Tensor, gradient: Tensor, table: Tensor,
    weights: Tensor | None, into: Sequence[int], wanted: bool,
) -> list[Tensor]:  # fmt: skip
    found = [torch.empty_like(p, memory_format=torch.contiguous_format) for p in parameters]
    return [*(found if wanted else _empty(parameters)), torch.empty_like(coefficients)]


def _empty(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.new_empty(0) for parameter in parameters]


def _shape(parameters: Sequence[Tensor], table: Tensor) -> list[int]:
    """The filter as [out, row, column, in]."""
    _, fields, kernel, _, inner, fields_in = parameters[0].shape
    return [table.shape[1] * fields, kernel, kernel, inner * fields_in]


def _dense(parameters: Sequence[Tensor], table: Tensor) -> list[int]:
    """The filter as [elements, fields out, size, fields in]."""
    _, fields, kernel, _, inner, fields_in = parameters[0].shape
    return [table.shape[1], fields, kernel * kernel * inner, fields_in]


def plain(
    parameters: Sequence[Tensor],
    coefficients: Tensor,
    table: Tensor,
    weights: Tensor | None,
    into: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """What the op computes, in plain torch: the definition, and what it decomposes into."""
    width, kind = (table.shape[2] - 2) // 2, lattice.sum_type(parameters[0].dtype)
    total: Tensor | None = None
    for g, parameter in enumerate(parameters):
        cosets, fields, *_, inner = parameter.shape
        own = parameter.reshape(cosets, fields, -1, inner).to(kind) * coefficients[g]
        factors = None if weights is None else weights[g, :, :width]
        part = _gathered(own, table[g, :, -2], table[g, :, :width], factors)
        total = part if total is None else total + part
    assert total is not None
    return total.to(dtype).reshape(_shape(parameters, table))


def _gathered(source: Tensor, rows: Tensor, taps: Tensor, factors: Tensor | None) -> Tensor:
    """The rows of a filter with their places exchanged, or summed over several taps."""
    _, fields, size, inner = source.shape
    flat = source.reshape(-1, inner)
    total: Tensor | None = None
    for tap, each in enumerate(taps.split(size, 1)):
        chosen = flat.index_select(0, lattice.lines(rows, each, fields, size))
        part = chosen.view(-1, fields, size, inner)
        if factors is not None:
            share = factors[:, None, tap * size : (tap + 1) * size, None]
            part = part * share.to(source.dtype)
        total = part if total is None else total + part
    assert total is not None
    return total


class _Direct(torch.autograd.Function):
    """The op without the dispatcher, whose handling of lists takes longer than a small filter."""

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, weights: Tensor | None, into: tuple[int, ...], dtype: torch.dtype,
        coefficients: Tensor, *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.into = into
        ctx.save_for_backward(table, weights, coefficients, *parameters)
        made = lattice.expand(parameters, coefficients, table, weights, into)
        return made.to(dtype).view(_shape(parameters, table))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        table, weights, coefficients, *parameters = ctx.saved_tensors
        needed = ctx.needs_input_grad[4:]
        if torch.is_grad_enabled() or batched(gradient):
            sources = coefficients, *parameters
            return *[None] * 4, *_by_plain(sources, needed, gradient, table, weights)
        wanted = any(needed[1:])
        args = (parameters, coefficients, gradient, table, weights, ctx.into, wanted)
        *found, products = _backward(*args)
        none = [None] * len(parameters)
        return None, None, None, None, products, *(found if wanted else none)


def batched(gradient: Tensor) -> bool:
    """Whether this stands for many gradients, as with `vmap` or `is_grads_batched`."""
    kinds = torch._C._functorch
    found: bool = kinds.is_legacy_batchedtensor(gradient) or kinds.is_batchedtensor(gradient)
    return found


def plain_gradients(
    make: Callable[[list[Tensor]], Tensor], sources: Sequence[Tensor], needed: Sequence[bool],
    gradient: Tensor,
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of what some sources make, by torch's own ops, which know all its ways."""
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        own = [source.view_as(source) for source in sources]  # what they come from is not asked for
        made = make(own)
    leaves = [source for source, need in zip(own, needed, strict=True) if need]
    found = iter(torch.autograd.grad(made, leaves, gradient, create_graph=further))
    return [next(found) if need else None for need in needed]


def _by_plain(
    sources: Sequence[Tensor], needed: Sequence[bool], gradient: Tensor, table: Tensor,
    weights: Tensor | None,
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of the coefficients, which come first, and of the parameters."""
    kind = gradient.dtype
    return plain_gradients(
        lambda own: plain(own[1:], own[0], table, weights, (), kind), sources, needed, gradient
    )


def _direct(
    parameters: list[Tensor], coefficients: Tensor, table: Tensor, weights: Tensor | None,
    into: tuple[int, ...], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    args = (table, weights, into, dtype, coefficients, *parameters)
    made: Tensor = _Direct.apply(*args)  # type: ignore[no-untyped-call]
    return made


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    parameters, coefficients, table, weights, into, _ = inputs
    ctx.count, ctx.into, ctx.exact = len(parameters), list(into), weights is None
    ctx.save_for_backward(coefficients, table, *([] if weights is None else [weights]), *parameters)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    coefficients, table, *rest = ctx.saved_tensors
    weights, parameters = (None, rest) if ctx.exact else (rest[0], rest[1:])
    if batched(gradient):
        needed = ctx.needs_input_grad[1], *ctx.needs_input_grad[0]
        sources = coefficients, *parameters
        products, *found = _by_plain(sources, needed, gradient, table, weights)
        return found, products, None, None, None, None
    wanted = any(ctx.needs_input_grad[0])
    *found, products = expand_mix_backward(
        parameters, coefficients, gradient, table, weights, ctx.into, wanted
    )
    return found if wanted else [None] * ctx.count, products, None, None, None, None


expand_mix.register_autograd(_differentiate, setup_context=_remember)


def _remember_twice(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    parameters, coefficients, gradient, table, weights, into, wanted = inputs
    ctx.into, ctx.wanted, ctx.exact = list(into), wanted, weights is None
    ctx.save_for_backward(
        coefficients, gradient, table, *([] if weights is None else [weights]), *parameters
    )


def _differentiate_twice(ctx: Any, gradients: list[Tensor]) -> tuple[Any, ...]:
    """The op and its backward are linear in each argument, so each is the other's gradient."""
    coefficients, gradient, table, *rest = ctx.saved_tensors
    weights, parameters = (None, rest) if ctx.exact else (rest[0], rest[1:])
    *tangents, scales = gradients
    if not ctx.wanted:
        tangents = [torch.zeros_like(p) for p in parameters]
    sides = zip(tangents, coefficients.unbind(), parameters, scales.unbind(), strict=True)
    mixed = [tangent * c + parameter * scale for tangent, c, parameter, scale in sides]
    ones = torch.ones_like(coefficients)
    dense = expand_mix(mixed, ones, table, weights, ctx.into, gradient.dtype)
    *found, products = expand_mix_backward(
        tangents, scales, gradient, table, weights, ctx.into, True
    )
    return found, products, dense, None, None, None, None


expand_mix_backward.register_autograd(_differentiate_twice, setup_context=_remember_twice)

DECOMPOSITIONS = {torch.ops.netir.expand_mix.default: plain}
