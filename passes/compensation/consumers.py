"""Consumers: the nodes that sum over channels against a weight of their own, seen as one product.

A linear layer, a convolution of any rank, its transpose and `addmm` all give, for each position of
their result, windows of what they read times a matrix. `matrix` is that matrix, `windows` are those
rows. It says nothing about which of them a pass changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from netir.ir import Graph, Node
from netir.ops.base import per_axis

_SLOTS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"linear": (0, 1, 2), "conv": (0, 1, 2), "conv_transpose": (0, 1, 2), "addmm": (1, 2, 0)}
)
"""Where each op reads its input, its weight and its bias."""


@dataclass(frozen=True)
class Consumer:
    """A node that multiplies windows of `x` by a weight and adds a bias, if it has one."""

    node: Node
    x: str
    weight: str
    bias: str | None

    @property
    def spatial(self) -> bool:
        """Whether channels stand on axis 1 and positions behind it, rather than channels last."""
        return self.node.op.name in ("conv", "conv_transpose")

    @property
    def axis(self) -> int:
        """The channel axis of what it reads and of what it gives."""
        return 1 if self.spatial else -1

    @property
    def weight_axis(self) -> int:
        """The axis of the weight along which it sums."""
        return 0 if self.node.op.name in ("conv_transpose", "addmm") else 1

    @property
    def groups(self) -> int:
        return getattr(self.node.op, "groups", 1)

    @property
    def partial(self) -> bool:
        """Whether some positions of the result may see less than a whole window of the input."""
        op: Any = self.node.op
        if op.name == "conv":
            return op.padding == "same" or (op.padding != "valid" and any(op.padding))
        return self.spatial

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as groups x inputs of a group x taps x outputs of a group."""
        taps = prod(weight.shape[2:])
        blocks = weight.reshape(self.groups, -1, weight.shape[1], taps)
        return blocks.permute(0, 2, 3, 1) if self.weight_axis else blocks.permute(0, 1, 3, 2)

    def weight_of(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """The weight of this shape whose matrix is given."""
        order = (0, 3, 1, 2) if self.weight_axis else (0, 1, 3, 2)
        return matrix.permute(order).reshape(shape)

    def rows(self, tensor: Tensor) -> Tensor:
        """What it reads or gives, as positions x channels; a view where that is possible."""
        return tensor.movedim(self.axis, -1).reshape(-1, tensor.shape[self.axis])

    def along(self, vector: Tensor, rank: int) -> Tensor:
        """One number for each channel, in a shape that broadcasts over a result of this rank."""
        return vector.view(-1, *[1] * (rank - 2)) if self.spatial else vector


def summing(graph: Graph, node: Node) -> Consumer | None:
    """The node as a consumer; None if it is something else or its weight is an activation."""
    slots = _SLOTS.get(node.op.name)
    if slots is None:
        return None
    x, weight, bias = (node.operands[s] if s < len(node.operands) else None for s in slots)
    op: Any = node.op
    if x is None or x[0] == "@" or weight is None or weight[0] != "@":
        return None
    if bias is not None and (bias[0] != "@" or len(graph.type_of(bias).shape) != 1):
        return None
    if op.name == "addmm" and (op.batched or op.alpha != 1 or op.beta != 1):
        return None
    return Consumer(node, x, weight[1:], bias and bias[1:])


def owned(graph: Graph, param: str) -> bool:
    """Whether one node alone reads a parameter, so that changing it changes nothing else."""
    operand = f"@{param}"
    return len(graph.users.get(operand, ())) == 1 and operand not in graph.outputs


class Windows:
    """The rows of a consumer's matrix product: for each position of its result what it sees there.

    They are a view of the padded input, so that only the rows that are asked for take memory.
    """

    def __init__(self, consumer: Consumer, x: Tensor, kernel: tuple[int, ...]) -> None:
        self._groups, rank = consumer.groups, len(kernel)
        self._turned: tuple[int, ...] = ()
        self._sizes: tuple[int, ...] = (prod(x.shape[:-1]),)
        self._view = x
        if not consumer.spatial:
            self._view = x.reshape(-1, x.shape[-1])
            return
        op: Any = consumer.node.op
        step, dilation = per_axis(op.stride, rank), per_axis(op.dilation, rank)
        if op.name == "conv_transpose":
            x, ends, step = _spread(x, step), _transposed_ends(op, kernel, dilation), (1,) * rank
            self._turned = tuple(range(2, 2 + rank))
        else:
            ends = _ends(op.padding, kernel, dilation)
        view = F.pad(x, [side for pair in reversed(ends) for side in pair])
        for axis, (k, s, d) in enumerate(zip(kernel, step, dilation, strict=True), 2):
            view = view.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
        self._view = view.movedim(1, 1 + rank)
        self._sizes = tuple(self._view.shape[: 1 + rank])

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many rows there are: of a convolution by samples and along each spatial axis."""
        return self._sizes

    def __len__(self) -> int:
        return prod(self._sizes)

    def every(self) -> Tensor:
        """All rows, as rows x groups x (inputs of a group times taps), in the type of the input."""
        found = self._view.flip(self._turned) if self._turned else self._view
        return found.reshape(len(self), self._groups, -1)

    def at(self, rows: Tensor) -> Tensor:
        """The given rows, as rows x groups x (inputs of a group times taps), in float64."""
        places = torch.unravel_index(rows.to(self._view.device), self._sizes)
        found = self._view[places].double()
        found = found.flip(self._turned) if self._turned else found
        return found.reshape(len(rows), self._groups, -1)


def _spread(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The input of a transposed convolution with the zeros between positions written out."""
    for axis, step in enumerate(stride, 2):
        if step > 1:
            zeros = x.new_zeros(*x.shape[: axis + 1], step - 1, *x.shape[axis + 1 :])
            x = torch.cat([x.unsqueeze(axis + 1), zeros], axis + 1).flatten(axis, axis + 1)
            x = x.narrow(axis, 0, x.shape[axis] - step + 1)
    return x


def _transposed_ends(
    op: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> list[tuple[int, int]]:
    """How much is put around the input so that sliding over it gives the transpose."""
    extra, padding = (per_axis(v, len(kernel)) for v in (op.output_padding, op.padding))
    sizes = zip(kernel, dilation, padding, extra, strict=True)
    return [(d * (k - 1) - p, d * (k - 1) - p + e) for k, d, p, e in sizes]


def _ends(
    padding: tuple[int, ...] | str, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> list[tuple[int, int]]:
    """How much padding stands before and after each spatial axis."""
    if padding == "same":
        spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(span // 2, span - span // 2) for span in spans]
    given = (0,) if isinstance(padding, str) else padding
    return [(p, p) for p in per_axis(given, len(kernel))]


__all__ = ["Consumer", "Windows", "owned", "summing"]
