"""What is known of a value of an ONNX graph while it is read.

A value is an operand of the graph that is being built, a tensor that is known already, or whole
numbers that are sizes: exporters compute shapes by chains of nodes, which become the sizes in
attributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netir.dims import Dim, Sym
from netir.errors import NetirError
from netir.ir import TensorType

LARGEST = 2**63 - 1
_KNOWN = 4096
_LONGEST = 400
_TERMS = 1000


@dataclass(eq=False)
class Value:
    """A tensor: an operand, or its content.

    `trained` marks a parameter of the network, `shared` one that several nodes read. `name` is
    what the file calls it.
    """

    type: TensorType
    operand: str | None = None
    data: Tensor | None = None
    sizes: np.ndarray[Any, Any] | None = None
    name: str = ""
    trained: bool = False
    shared: bool = False
    transposed: Value | None = None
    """The same matrix with its axes exchanged, where that is at hand."""
    counted: Value | None = None
    """The sizes that it was cast from, where it is made of them."""

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def rank(self) -> int:
        return self.type.rank

    @property
    def dtype(self) -> torch.dtype:
        return self.type.dtype

    def number(self) -> int | float | bool | None:
        """The one number that it is, unless that is trained."""
        if self.data is None or self.trained or self.data.numel() != 1:
            return None
        if self.dtype.is_complex:
            return None
        if self.dtype == torch.float32:
            return shortest(self.data.item())
        found: int | float | bool = self.data.item()
        return found

    def known(self) -> np.ndarray[Any, Any] | None:
        """Its content as whole numbers and sizes, where that is known and short."""
        if self.sizes is not None or self.data is None:
            return self.sizes
        whole = not self.dtype.is_floating_point and not self.dtype.is_complex
        if not whole or self.data.numel() > _KNOWN:
            return None
        return objects(self.data.reshape(-1).tolist(), tuple(self.data.shape))


@dataclass(eq=False)
class Items:
    """A sequence of tensors whose length is known."""

    items: list[Value] = field(default_factory=list)


def constant(data: Tensor, name: str = "", trained: bool = False, shared: bool = False) -> Value:
    """A value whose content is known."""
    kind = TensorType(data.dtype, tuple(data.shape))
    return Value(kind, data=data, name=name, trained=trained, shared=shared)


def shortest(value: float) -> float:
    """The shortest number that is the same as a 32-bit float: 1e-05, not 9.99999974e-06."""
    with np.errstate(over="ignore"):
        short = float(str(np.float32(value)))
    return short if abs(short) <= float(np.finfo(np.float32).max) else value


def objects(items: Iterable[Any], shape: tuple[int, ...] | None = None) -> np.ndarray[Any, Any]:
    """An array of whole numbers and sizes."""
    given = list(items)
    found = np.empty(len(given), object)
    found[:] = given
    return found if shape is None else found.reshape(shape)


def of_sizes(sizes: np.ndarray[Any, Any], dtype: torch.dtype = torch.int64) -> Value:
    """A value made of sizes; a plain tensor where none of them is open."""
    flat = [bounded(s) for s in sizes.reshape(-1)]
    if not any(isinstance(s, Sym) for s in flat):
        return constant(torch.tensor(flat, dtype=dtype).reshape(sizes.shape))
    return Value(TensorType(dtype, tuple(sizes.shape)), sizes=sizes)


def bounded(size: Any) -> Any:
    """A size, unless it is beyond all bounds."""
    if isinstance(size, Sym):
        if len(size.terms) > 50 or len(str(size)) > _LONGEST:
            raise NetirError(f"the size {str(size)[:60]}… has too many terms")
    elif abs(size) > LARGEST:
        raise NetirError(f"the size {str(size)[:40]} is too large")
    return size


def checked_type(kind: TensorType) -> TensorType:
    """A type whose sizes and whose number of elements are possible."""
    count = terms = 1
    if kind.rank > 32:
        raise NetirError(f"a tensor of {kind.rank} dimensions", fix="at most 32 can be read")
    for size in kind.shape:
        bounded(size)
        terms *= len(size.terms) if isinstance(size, Sym) else 1
        if isinstance(size, int):
            if size < 0:
                raise NetirError(f"an axis of size {size}")
            count *= size
    if terms > _TERMS:
        raise NetirError(f"a tensor of {kind.rank} dimensions has too many open sizes")
    if count > LARGEST:
        raise NetirError(f"a tensor of shape {kind.shape} has too many elements")
    return kind
