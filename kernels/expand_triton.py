"""Launching the Triton kernels that expand filters: tiles, grids and the tables of a bank.

Imported only where a filter is made on a GPU. Nothing here waits for the GPU but copying a bank's
tables there, once for as long as its parameters lie where they are: so all of it can be captured in
a CUDA graph after a first run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from netir.kernels import expand_kernels as kernels
from netir.kernels.lattice import sum_type

TILE = 1024  # entries that a program makes; 4 warps with 2 loads of 128 bits each
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Tile:
    """How many places of a row × how many fields in."""

    size: int
    inner: int


def tile(size: int, inner: int) -> Tile:
    """As many fields in as there are, up to 64: what is contiguous in memory."""
    across = min(64, _power(inner))
    return Tile(max(1, min(TILE // across, _power(size))), across)


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _tiles(size: int, inner: int, chosen: Tile) -> int:
    return -(-size // chosen.size) * -(-inner // chosen.inner)


def _shape(parameter: Tensor) -> tuple[int, int, int, int]:
    """Cosets, fields out, size, fields in."""
    cosets, fields, *middle, inner = parameter.shape
    return cosets, fields, prod(middle), inner


def _taps(table: Tensor, size: int) -> int:
    return (table.shape[2] - 2) // (2 * size)


def _types(parameter: Tensor) -> dict[str, Any]:
    """The type that sums are formed in, and whether 16-bit numbers are widened at once."""
    double = parameter.dtype == torch.float64
    return {"ACC": tl.float64 if double else tl.float32, "UP": INTERPRETED and not double}


def expand(
    parameters: Sequence[Tensor], coefficients: Tensor, table: Tensor, weights: Tensor | None,
    dtype: torch.dtype, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The filter [elements · fields out, size, fields in], in one launch."""
    owned = tuple(parameter.contiguous() for parameter in parameters)
    _, fields, size, inner = _shape(owned[0])
    elements, chosen = table.shape[1], tile(size, inner)
    if out is None:
        out = owned[0].new_empty((elements * fields, size, inner), dtype=dtype)
    grid = (elements * fields, -(-size // chosen.size), -(-inner // chosen.inner))
    kernels.expand[grid](
        owned, coefficients.contiguous(), table, table if weights is None else weights, out, fields,
        inner, size, ELEMENTS=elements, TAPS=_taps(table, size), SB=chosen.size, CB=chosen.inner,
        num_warps=4, **_types(owned[0]),
    )  # fmt: skip
    return out


def backward(
    parameters: Sequence[Tensor], coefficients: Tensor, gradient: Tensor, table: Tensor,
    weights: Tensor | None, wanted: bool, found: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """The gradients of the parameters, none unless `wanted`, and of the coefficients."""
    owned = tuple(parameter.contiguous() for parameter in parameters)
    _, fields, size, inner = _shape(owned[0])
    chosen = tile(size, inner)
    made = list(found or (torch.empty_like(parameter) for parameter in owned)) if wanted else []
    programs = fields * _tiles(size, inner, chosen)
    parts = owned[0].new_empty(len(owned) * programs, dtype=sum_type(owned[0].dtype))
    kernels.expand_backward[(fields, _tiles(size, inner, chosen), len(owned))](
        owned, tuple(made) or owned, coefficients.contiguous(), gradient.contiguous(), table,
        table if weights is None else weights, parts, fields, inner, size,
        COSETS=tuple(parameter.shape[0] for parameter in owned), ELEMENTS=table.shape[1],
        TAPS=_taps(table, size), SB=chosen.size, CB=chosen.inner, WANTED=wanted, num_warps=4,
        **_types(owned[0]),
    )  # fmt: skip
    starts = _on_device(tuple(programs * g for g in range(len(owned) + 1)), table.device)
    return made, _summed(parts, starts, coefficients)


def _summed(parts: Tensor, starts: Tensor, like: Tensor) -> Tensor:
    """The gradient of every coefficient, from its programs' parts."""
    out = torch.empty_like(like, memory_format=torch.contiguous_format)
    kernels.sum_parts[(len(out),)](parts, starts, out, BLOCK=1024, num_warps=4)
    return out


@lru_cache(maxsize=1024)
def _on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """A table of int64, copied to the device once."""
    return torch.tensor(numbers, dtype=torch.int64).to(device)


@dataclass(frozen=True)
class Layer:
    """What one launch has to know of a layer of a bank; a value, so that tables can be kept."""

    shapes: tuple[tuple[int, int, int, int], ...]
    elements: int
    taps: int
    addresses: tuple[int, ...]
    table: int
    weights: int

    @property
    def filter(self) -> int:
        """How many numbers its filter has."""
        return self.elements * prod(self.shapes[0][1:])


def bank_layers(
    parameters: Sequence[Tensor], tables: Sequence[Tensor], weights: Sequence[Tensor],
    counts: Sequence[int],
) -> tuple[Layer, ...]:  # fmt: skip
    """The layers of a bank. `weights` has an empty tensor for each exact layer."""
    made, first = [], 0
    for count, table, factors in zip(counts, tables, weights, strict=True):
        own = parameters[first : first + count]
        shapes = tuple(_shape(parameter) for parameter in own)
        made.append(Layer(
            shapes, table.shape[1], _taps(table, shapes[0][2]),
            tuple(parameter.data_ptr() for parameter in own), table.data_ptr(),
            factors.data_ptr() if factors.numel() else 0,
        ))  # fmt: skip
        first += count
    return tuple(made)


@dataclass(frozen=True)
class BankTables:
    """A bank's tables on the device, for the layers that have `taps` taps."""

    chosen: tuple[int, ...]
    options: dict[str, Any]
    offsets: Tensor
    layers: Tensor
    groups: Tensor
    work: Tensor
    work_back: Tensor
    starts: Tensor


@lru_cache(maxsize=64)
def _bank_tables(
    layers: tuple[Layer, ...], taps: int, width: int, device: torch.device
) -> BankTables:
    """`width` is the bytes of a number."""
    chosen = _bank_tile(layers)
    align = _alignment(layers, width)
    base = layers[0].addresses[0]
    factors = next((layer.weights for layer in layers if layer.weights), 0)
    rows, groups, work, back, starts, picked = [], [], [], [], [0], []
    first = out = found = 0
    for i, layer in enumerate(layers):
        _, fields, size, inner = layer.shapes[0]
        shares = (layer.weights - factors) // 4 if layer.weights else 0
        rows += [fields, inner // align, size, layer.elements, len(layer.shapes), first,
                 (layer.table - layers[0].table) // 4, shares, out // align]  # fmt: skip
        tiles = _tiles(size, inner, chosen)
        if layer.taps == taps:
            work += [n for t in range(layer.elements * fields * tiles) for n in (i, t)]
        for g, shape in enumerate(layer.shapes, first):
            groups += [i, shape[0], found // align]
            found += prod(shape)
            if layer.taps == taps:
                picked.append(g)
                starts.append(starts[-1] + fields * tiles)
                back += [n for t in range(fields * tiles) for n in (g, t)]
        first += len(layer.shapes)
        out += layer.filter
    offsets = [(at - base) // width // align for layer in layers for at in layer.addresses]
    options = {"TAPS": taps, "SB": chosen.size, "CB": chosen.inner, "ALIGN": align, "num_warps": 4}
    numbers = (torch.tensor(t, dtype=torch.int64).to(device) for t in
               (offsets, rows, groups, work, back, starts))  # fmt: skip
    return BankTables(tuple(picked), options, *numbers)


def _alignment(layers: Sequence[Layer], width: int) -> int:
    """How many numbers may be read at once, for all layers: 16 bytes, or else one."""
    wide = 16 // width
    good = all(layer.shapes[0][3] % wide == 0 for layer in layers) and all(
        address % 16 == 0 for layer in layers for address in layer.addresses
    )
    return wide if good else 1


def _bank_tile(layers: Sequence[Layer]) -> Tile:
    """One tile for all: wide enough for most, no wider than the widest."""
    inner = max(layer.shapes[0][3] for layer in layers)
    return tile(max(layer.shapes[0][2] for layer in layers), inner)


def expand_bank(
    parameters: Sequence[Tensor], coefficients: Tensor, tables: Sequence[Tensor],
    weights: Sequence[Tensor], counts: Sequence[int], dtype: torch.dtype, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """All filters one after the other, in one launch for each number of taps: mostly one."""
    owned = [parameter.contiguous() for parameter in parameters]
    layers = bank_layers(owned, tables, weights, counts)
    if out is None:
        out = owned[0].new_empty(sum(layer.filter for layer in layers), dtype=dtype)
    for taps in sorted({layer.taps for layer in layers}):
        kept = _bank_tables(layers, taps, owned[0].element_size(), out.device)
        kernels.expand_bank[(len(kept.work) // 2,)](
            owned[0], tables[0], _factors(weights, tables), kept.offsets, kept.layers,
            kept.work, coefficients.contiguous(), out, **kept.options, **_types(owned[0]),
        )  # fmt: skip
    return out


def expand_bank_backward(
    parameters: Sequence[Tensor], coefficients: Tensor, gradient: Tensor,
    tables: Sequence[Tensor], weights: Sequence[Tensor], counts: Sequence[int], wanted: bool,
    found: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """All parameters' gradients one after the other, empty unless `wanted`; the coefficients'."""
    owned = [parameter.contiguous() for parameter in parameters]
    layers = bank_layers(owned, tables, weights, counts)
    if found is None:
        found = owned[0].new_empty(sum(p.numel() for p in owned) if wanted else 0)
    products = torch.empty_like(coefficients, memory_format=torch.contiguous_format)
    several = sorted({layer.taps for layer in layers})
    for taps in several:
        kept = _bank_tables(layers, taps, owned[0].element_size(), gradient.device)
        parts = owned[0].new_empty(len(kept.work_back) // 2, dtype=sum_type(owned[0].dtype))
        kernels.expand_bank_backward[(len(parts),)](
            owned[0], tables[0], _factors(weights, tables), kept.offsets, kept.layers,
            kept.groups, kept.work_back, coefficients.contiguous(), gradient.contiguous(),
            found if wanted else owned[0], parts, WANTED=wanted, **kept.options,
            **_types(owned[0]),
        )  # fmt: skip
        summed = _summed(parts, kept.starts, products[: len(kept.chosen)])
        if len(several) == 1:
            return found, summed
        products[_on_device(kept.chosen, gradient.device)] = summed
    return found, products


def _factors(weights: Sequence[Tensor], tables: Sequence[Tensor]) -> Tensor:
    """Some layer's factors; where all are exact any tensor does, for none is read."""
    return next((factors for factors in weights if factors.numel()), tables[0])
