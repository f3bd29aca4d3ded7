"""Which torch module an op can be, where one module owns exactly the parameters that it reads.

A table: for each op the names that the module gives to its operands, and how the module is made.
An op that stands here keeps its original path in the lowered module; others become plain calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from torch import nn

from netir.ir import Graph, Node
from netir.ops.base import per_axis

Shapes = Mapping[str, tuple[Any, ...]]

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORM = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
_VECTORS = (None, "weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Form:
    """How an op is a module: its operands' names there, None for what it is called with."""

    slots: tuple[str | None, ...]
    make: Callable[[Any, Shapes, int], nn.Module | None]
    named_by: Callable[[Any], tuple[str | None, ...]] | None = None
    """For an op whose operands depend on its attributes: the names, in place of `slots`."""

    def slots_of(self, op: Any) -> tuple[str | None, ...]:
        """What the module calls the operands of an op."""
        return self.slots if self.named_by is None else self.named_by(op)

    def named(self, node: Node) -> dict[str, str]:
        """The parameters that a node reads, by the module's names; empty if it has no form."""
        found = {}
        slots = self.slots_of(node.op)
        if len(node.operands) > len(slots):
            return {}
        for slot, operand in zip(slots, node.operands, strict=False):
            if slot is None and operand is None:
                return {}
            if slot is not None and operand is not None:
                if operand[0] != "@":
                    return {}
                found[slot] = operand[1:]
        return found


@dataclass(frozen=True)
class Place:
    """A module of the lowered network: where it stands and which parameters it has."""

    path: str
    module: nn.Module
    node: Node
    names: Mapping[str, str]


def _empty(form: Any, *args: Any, **options: Any) -> nn.Module:
    """A module that waits for its tensors; making first values would take most of the time."""
    module: nn.Module = _without_values(form)(*args, device="meta", **options)
    module.__class__ = form
    return module


@cache
def _without_values(form: type[nn.Module]) -> type[nn.Module]:
    return type(form.__name__, (form,), {"reset_parameters": lambda module: None})


def _conv(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    made, read, *kernel = shapes["weight"]
    stride, dilation = per_axis(op.stride, op.rank), per_axis(op.dilation, op.rank)
    padding = op.padding if isinstance(op.padding, str) else per_axis(op.padding, op.rank)
    return _empty(
        _CONV[op.rank], read * op.groups, made, tuple(kernel), stride, padding, dilation, op.groups,
        "bias" in shapes,
    )  # fmt: skip


def _conv_transpose(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    read, made, *kernel = shapes["weight"]
    attributes = (op.stride, op.padding, op.output_padding, op.dilation)
    stride, padding, extra, dilation = (per_axis(a, op.rank) for a in attributes)
    return _empty(
        _TRANSPOSED[op.rank], read, made * op.groups, tuple(kernel), stride, padding, extra,
        op.groups, "bias" in shapes, dilation,
    )  # fmt: skip


def _linear(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    made, read = shapes["weight"]
    return _empty(nn.Linear, read, made, "bias" in shapes)


def _bilinear(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    made, first, second = shapes["weight"]
    return nn.Bilinear(first, second, made, "bias" in shapes, device="meta")


def _embedding(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    rows, width = shapes["weight"]
    padding = None if op.padding_idx == -1 else op.padding_idx
    return nn.Embedding(
        rows, width, padding, scale_grad_by_freq=op.scale_grad_by_freq, sparse=op.sparse,
        device="meta",
    )  # fmt: skip


def _batch_norm(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    kind = _BATCH_NORM.get(rank)
    (width,) = next(iter(shapes.values()))
    affine, tracked = "weight" in shapes, "running_mean" in shapes
    return kind and _empty(kind, width, op.eps, op.momentum, affine, tracked)


def _instance_norm(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    kind, tracked = _INSTANCE_NORM.get(rank), "running_mean" in shapes
    if op.use_input_stats == tracked or kind is None:
        return None
    (width,) = next(iter(shapes.values()))
    return kind(width, op.eps, op.momentum, "weight" in shapes, tracked, device="meta")


def _layer_norm(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    shape, biased = op.normalized_shape, "bias" in shapes
    return _empty(nn.LayerNorm, shape, op.eps, "weight" in shapes, biased)


def _rms_norm(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    return nn.RMSNorm(op.normalized_shape, op.eps, "weight" in shapes, device="meta")


def _group_norm(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    (width,) = next(iter(shapes.values()))
    return nn.GroupNorm(op.num_groups, width, op.eps, "weight" in shapes, device="meta")


def _prelu(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    (slopes,) = shapes["weight"]
    return nn.PReLU(slopes, device="meta")


def _group_conv(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    from netir.kernels.layers import GroupConv2d, MixedGroupConv2d

    _, made, kernel, _, _, read = shapes["weight"]
    form: Any = MixedGroupConv2d if "logits" in shapes else GroupConv2d
    if form is GroupConv2d and (len(op.groups) > 1 or "norms" in shapes):
        return None
    groups = op.groups if form is MixedGroupConv2d else op.groups[0]
    more = {"weight_norm": "norms" in shapes} if form is MixedGroupConv2d else {}
    found: nn.Module = form(
        read, made, kernel, groups, op.ambient, lifting=op.lifting, stride=op.stride,
        padding=op.padding, bias=op.biased, device="meta", **more,
    )  # fmt: skip
    return found


def _group_names(op: Any) -> tuple[str | None, ...]:
    from netir.kernels.plan import leaves

    biases = leaves("bias", op.groups) if op.biased else []
    return (None, *leaves("weight", op.groups), *biases, "logits", "norms")


def _field_norm(op: Any, shapes: Shapes, rank: int) -> nn.Module | None:
    from netir.kernels.layers import FieldBatchNorm2d

    (fields,) = shapes["weight"]
    return FieldBatchNorm2d(fields, op.ambient, op.eps, op.momentum, device="meta")


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "conv": Form((None, "weight", "bias"), _conv),
        "conv_transpose": Form((None, "weight", "bias"), _conv_transpose),
        "linear": Form((None, "weight", "bias"), _linear),
        "bilinear": Form((None, None, "weight", "bias"), _bilinear),
        "embedding": Form(("weight", None), _embedding),
        "batch_norm": Form(_VECTORS, _batch_norm),
        "instance_norm": Form(_VECTORS, _instance_norm),
        "layer_norm": Form((None, "weight", "bias"), _layer_norm),
        "rms_norm": Form((None, "weight"), _rms_norm),
        "group_norm": Form((None, "weight", "bias"), _group_norm),
        "prelu": Form((None, "weight"), _prelu),
        "group_conv": Form((), _group_conv, _group_names),
        "field_norm": Form(_VECTORS, _field_norm),
    }
)


class Owners:
    """Which parameters stand directly at each path, by the names in the state dict."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._local: dict[str, dict[str, str]] = {}
        self._inner: set[str] = set()
        for name in (*graph.params, *graph.aliases):
            path, _, leaf = name.rpartition(".")
            self._local.setdefault(path, {})[leaf] = graph.aliases.get(name, name)
            while path:
                path = path.rpartition(".")[0]
                if path in self._inner:
                    break
                self._inner.add(path)

    def taken(self, path: str) -> bool:
        """Whether parameters stand at this path or below it."""
        return path in self._local or path in self._inner

    def place(self, node: Node, path: str) -> Place | None:
        """The module that a node can be at this path."""
        form = FORMS.get(node.op.name)
        names = form.named(node) if form else {}
        local = self._local.get(path)
        if form is None or not names or not local or path in self._inner or not path:
            return None
        counter = {"num_batches_tracked"} & local.keys()
        if any(local.get(leaf) != name for leaf, name in names.items()):
            return None
        if names.keys() | counter != local.keys():
            return None
        shapes = {leaf: tuple(self._graph.params[name].data.shape) for leaf, name in names.items()}
        types = (self._graph.type_of(o) for o in node.operands if o is not None and o[0] != "@")
        module = form.make(node.op, shapes, next((t.rank for t in types), 0))
        if module is None or not self._fits(module, local):
            return None
        return Place(path, module, node, local)

    def _fits(self, module: nn.Module, local: Mapping[str, str]) -> bool:
        """Whether a fresh module has exactly these parameters and buffers."""
        params = {k: v for k, v in module._parameters.items() if v is not None}
        buffers = {k: v for k, v in module._buffers.items() if v is not None}
        if params.keys() | buffers.keys() != local.keys():
            return False
        for kind, tensors in (("param", params), ("buffer", buffers)):
            for leaf, tensor in tensors.items():
                given = self._graph.params[local[leaf]]
                if given.kind != kind or given.data.shape != tensor.shape:
                    return False
        return True


def places(graph: Graph, owners: Owners) -> dict[str, Place]:
    """For every node that can be a module: its place. Equal calls share one."""
    by_path: dict[str, Place] = {}
    found: dict[str, Place] = {}
    for paths in (lambda node: iter((node.scope,)), _prefixes):
        for node in graph.nodes.values():
            if node.op.name not in FORMS or node.name in found:
                continue
            for path in paths(node):
                place = by_path.get(path) or owners.place(node, path)
                if place and place.node.op == node.op and place.node.params == node.params:
                    found[node.name] = by_path[path] = place
                    break
    return found


def _prefixes(node: Node) -> Iterator[str]:
    yield from dict.fromkeys(name.rpartition(".")[0] for name in node.params)
