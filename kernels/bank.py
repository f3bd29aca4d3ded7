"""The filters of a whole network at once: one launch instead of one per layer, and none in eval.

Filters depend on parameters alone, so all can be made before the first layer runs; deep layers on
small maps, whose convolutions take no longer than making a filter, gain most. `FilterBank` makes
them, `Remembered` keeps whatever was made from parameters that have not changed since; together.py
uses both for networks of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from netir.kernels import lattice
from netir.kernels.expand import (
    batched,
    expand,
    filter_dtype,
    plain,
    plain_gradients,
    transformed,
)
from netir.kernels.plan import Plan, Tables

T = TypeVar("T")


class FilterBank:
    """The layers of a network, by their plans; call it to have all their filters."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        if not plans:
            raise ValueError("a filter bank has a layer at least")
        self.plans = tuple(plans)

    def __call__(
        self,
        parameters: Sequence[Sequence[Tensor]],
        coefficients: Sequence[Tensor] | None = None,
        tables: Sequence[Tables] | None = None,
        dtype: torch.dtype | None = None,
    ) -> list[Tensor]:
        """What `expand` makes of every layer, in order."""
        self._check(parameters, coefficients, tables)
        flat = [parameter for own in parameters for parameter in own]
        if coefficients is None:
            coefficients = [flat[0].new_ones(len(own)) for own in parameters]
        if tables is None:
            tables = [plan.tables(flat[0].device) for plan in self.plans]
        dtype = dtype or filter_dtype(flat[0])
        if flat[0].device.type == "cpu" or transformed():  # launches cost nothing, copies do
            each = zip(parameters, self.plans, coefficients, tables, strict=True)
            return [expand(p, plan, c, t, dtype) for p, plan, c, t in each]
        none = flat[0].new_empty(0)
        made: Tensor = expand_bank(
            flat, torch.cat(list(coefficients)), [t.table for t in tables],
            [none if t.weights is None else t.weights for t in tables],
            [len(own) for own in parameters], [g for plan in self.plans for g in plan.into], dtype,
        )  # fmt: skip
        shapes = [_filter(plan, own[0]) for plan, own in zip(self.plans, parameters, strict=True)]
        parts = made.split([prod(shape) for shape in shapes])
        return [p.view(s).permute(0, 3, 1, 2) for p, s in zip(parts, shapes, strict=True)]

    def _check(
        self,
        parameters: Sequence[Sequence[Tensor]],
        coefficients: Sequence[Tensor] | None,
        tables: Sequence[Tables] | None,
    ) -> None:
        count = len(self.plans)
        for what, given in (("parameters", parameters), ("coefficients", coefficients),
                            ("tables", tables)):  # fmt: skip
            if given is not None and len(given) != count:
                raise ValueError(f"{what} of {len(given)} layers for {count} plans")
        for i, plan in enumerate(self.plans):
            mix = coefficients[i] if coefficients else None
            plan.check(parameters[i], mix, tables[i] if tables else None)
        kinds = {(p.dtype, p.device) for own in parameters for p in own}
        if len(kinds) > 1:
            raise ValueError(f"a bank's parameters have one dtype and device, not {len(kinds)}")


def _filter(plan: Plan, parameter: Tensor) -> tuple[int, int, int, int]:
    """The filter as [out, row, column, in]."""
    fields, inner = parameter.shape[1], parameter.shape[-1]
    return plan.elements * fields, plan.kernel, plan.kernel, plan.elements_in * inner


@torch.library.custom_op("netir::expand_bank", mutates_args=(), device_types="cpu")
def expand_bank(
    parameters: Sequence[Tensor],
    coefficients: Tensor,
    tables: Sequence[Tensor],
    weights: Sequence[Tensor],
    counts: Sequence[int],
    into: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """The op: all filters as [out, row, column, in], one after the other. Use `FilterBank`."""
    made = [
        lattice.expand(parameters[own], coefficients[own], table, _weights(factors), into[own])
        for own, table, factors in zip(_slices(counts), tables, weights, strict=True)
    ]
    return torch.cat([dense.to(dtype).flatten() for dense in made])


@expand_bank.register_kernel("cuda")
def _(
    parameters: Sequence[Tensor], coefficients: Tensor, tables: Sequence[Tensor],
    weights: Sequence[Tensor], counts: Sequence[int], into: Sequence[int], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    from netir.kernels import expand_triton

    with torch.cuda.device(tables[0].device):
        return expand_triton.expand_bank(parameters, coefficients, tables, weights, counts, dtype)


@expand_bank.register_fake
def _(
    parameters: Sequence[Tensor], coefficients: Tensor, tables: Sequence[Tensor],
    weights: Sequence[Tensor], counts: Sequence[int], into: Sequence[int], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    sizes = [prod(shape) for shape in _dense(parameters, tables, counts)]
    return parameters[0].new_empty(sum(sizes), dtype=dtype)


@torch.library.custom_op("netir::expand_bank_backward", mutates_args=(), device_types="cpu")
def expand_bank_backward(
    parameters: Sequence[Tensor],
    coefficients: Tensor,
    gradient: Tensor,
    tables: Sequence[Tensor],
    weights: Sequence[Tensor],
    counts: Sequence[int],
    into: Sequence[int],
    wanted: bool,
) -> tuple[Tensor, Tensor]:
    """All parameters' gradients one after the other, empty unless `wanted`; the coefficients'."""
    shapes = _dense(parameters, tables, counts)
    parts = gradient.split([prod(shape) for shape in shapes])
    found: list[Tensor] = []
    products: list[Tensor] = []
    for own, part, shape, table, factors in zip(
        _slices(counts), parts, shapes, tables, weights, strict=True
    ):
        some, product = lattice.backward(
            parameters[own], coefficients[own], part.view(shape), table, _weights(factors),
            into[own], wanted,
        )  # fmt: skip
        found += [f.flatten() for f in some]
        products.append(product)
    made = torch.cat(found) if wanted else parameters[0].new_empty(0)
    return made, torch.cat(products)


@expand_bank_backward.register_kernel("cuda")
def _(
    parameters: Sequence[Tensor], coefficients: Tensor, gradient: Tensor,
    tables: Sequence[Tensor], weights: Sequence[Tensor], counts: Sequence[int],
    into: Sequence[int], wanted: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from netir.kernels import expand_triton

    with torch.cuda.device(tables[0].device):
        return expand_triton.expand_bank_backward(
            parameters, coefficients, gradient, tables, weights, counts, wanted
        )


@expand_bank_backward.register_fake
def _(
    parameters: Sequence[Tensor], coefficients: Tensor, gradient: Tensor,
    tables: Sequence[Tensor], weights: Sequence[Tensor], counts: Sequence[int],
    into: Sequence[int], wanted: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    size = sum(parameter.numel() for parameter in parameters) if wanted else 0
    return parameters[0].new_empty(size), torch.empty_like(coefficients)


def _slices(counts: Sequence[int]) -> list[slice]:
    """Which of all groups belong to each layer."""
    made, first = [], 0
    for count in counts:
        made.append(slice(first, first + count))
        first += count
    return made


def _weights(factors: Tensor) -> Tensor | None:
    return factors if factors.numel() else None


def _dense(
    parameters: Sequence[Tensor], tables: Sequence[Tensor], counts: Sequence[int]
) -> list[tuple[int, int, int, int]]:
    """Every layer's filter as [elements, fields out, size, fields in]."""
    made = []
    for own, table in zip(_slices(counts), tables, strict=True):
        _, fields, *size, inner = parameters[own][0].shape
        made.append((table.shape[1], fields, prod(size), inner))
    return made


def _plain(
    parameters: Sequence[Tensor], coefficients: Tensor, tables: Sequence[Tensor],
    weights: Sequence[Tensor], counts: Sequence[int], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """What the op computes, in plain torch."""
    made = [
        plain(parameters[own], coefficients[own], table, _weights(factors), (), dtype)
        for own, table, factors in zip(_slices(counts), tables, weights, strict=True)
    ]
    return torch.cat([dense.flatten() for dense in made])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    parameters, coefficients, tables, weights, counts, into, _ = inputs
    ctx.counts, ctx.into = list(counts), list(into)
    ctx.save_for_backward(coefficients, *tables, *weights, *parameters)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    coefficients, *rest = ctx.saved_tensors
    layers = len(ctx.counts)
    tables, weights, parameters = rest[:layers], rest[layers : 2 * layers], rest[2 * layers :]
    none = [None] * layers
    if torch.is_grad_enabled() or batched(gradient):
        products, *found = plain_gradients(
            lambda own: _plain(own[1:], own[0], tables, weights, ctx.counts, gradient.dtype),
            (coefficients, *parameters), (ctx.needs_input_grad[1], *ctx.needs_input_grad[0]),
            gradient,
        )  # fmt: skip
        return found, products, none, none, None, None, None
    wanted = any(ctx.needs_input_grad[0])
    made, products = expand_bank_backward(
        parameters, coefficients, gradient, tables, weights, ctx.counts, ctx.into, wanted
    )
    found = [None] * len(parameters)
    if wanted:
        parts = made.split([parameter.numel() for parameter in parameters])
        found = [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]
    return found, products, none, none, None, None, None


expand_bank.register_autograd(_differentiate, setup_context=_remember)


class Remembered(Generic[T]):
    """What was made from some tensors, until one of them is another or was written to.

    Nothing is kept while a gradient could be wanted, or of tensors that count no writes, nor past
    the step of an optimizer: fused ones write without being counted. Writing through `.data` is not
    noticed: call `forget` after it.
    """

    def __init__(self) -> None:
        self._made: T | None = None
        self._seen: list[tuple[int, int, Tensor]] = []
        self._key: object = None

    def __call__(self, sources: Sequence[Tensor], make: Callable[[], T], key: object = None) -> T:
        """`make()`, or what it gave last time; `key` is whatever else it depends on."""
        wanted = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        if wanted or torch.compiler.is_compiling() or any(s.is_inference() for s in sources):
            self.forget()
            return make()
        # what is made in inference mode is of no use outside
        key = key, torch.is_inference_mode_enabled(), _STEPS[0]
        if self._made is None or self._key != key or not self._same(sources):
            self._made, self._key = make(), key
            # what is detached keeps the memory, so that nothing else can have its address
            self._seen = [(id(s), s._version, s.detach()) for s in sources]
        return self._made

    def forget(self) -> None:
        self._made, self._key, self._seen = None, None, []

    def _same(self, sources: Sequence[Tensor]) -> bool:
        return len(sources) == len(self._seen) and all(
            id(source) == seen and source._version == version
            and source.data_ptr() == values.data_ptr() and source.dtype == values.dtype
            for source, (seen, version, values) in zip(sources, self._seen, strict=True)
        )


_STEPS = [0]
"""How many steps all optimizers have made."""


def _stepped(*_: Any) -> None:
    _STEPS[0] += 1


register_optimizer_step_post_hook(_stepped)
