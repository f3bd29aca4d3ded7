"""Equivariant layers: group convolution, field batch norm, group pooling.

Channels are [element, field]: fields times the elements of the ambient group. Fields are spaces,
which may change; elements are an extent. What the layers compute is in netir.kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from netir.errors import NetirError
from netir.kernels.groups import group
from netir.kernels.plan import Plan
from netir.ops.base import (
    AtenCall,
    Dim,
    NoLowering,
    Op,
    Tensor,
    TensorType,
    expect,
    product,
)

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


@dataclass(frozen=True)
class GroupConv(Op):
    """A convolution equivariant to a group, or one whose filter is a mixture over several.

    Operands: x, a weight [cosets, fields out, row, column, elements in, fields in] for every
    group, with `biased` as many biases [cosets, fields out], then logits, whose softmax mixes the
    filters, and norms, which every filter is given first; both may be left out.
    """

    name = "group_conv"
    custom = "group_conv.default"
    numeric = True
    groups: tuple[str, ...] = ("C1",)
    ambient: str = ""
    lifting: bool = False
    stride: int = 1
    padding: int = 0
    biased: bool = False

    def __post_init__(self) -> None:
        plan_of(self.groups, 1, self.lifting, self.ambient)

    def plan(self, weight: TensorType | Tensor) -> Plan:
        """The kind of layer, for weights of these types."""
        expect(len(weight.shape) == 6, "weights of a group convolution have 6 dimensions")
        return plan_of(self.groups, _known(weight.shape[2]), self.lifting, self.ambient)

    def parts(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any], Any, Any]:
        """The weights, biases, logits and norms among the operands; x is the first."""
        count = len(self.groups)
        start = 1 + count * (2 if self.biased else 1)
        logits, norms = (*operands[start:], None, None)[:2]
        return list(operands[1 : 1 + count]), list(operands[1 + count : start]), logits, norms

    def layouts(self, site: Any) -> Any:
        positions = range(len(site.node.operands))
        weights, biases, logits, norms = self.parts(positions)
        plan = self.plan(site.type(1))
        first = site.shape(1)
        fields_out, fields_in = first[1], first[5]
        for position in weights:
            shape = site.shape(position)
            site.unify(shape[1], fields_out)
            site.unify(shape[5], fields_in)
            self._fix(site, position, (0, 2, 3, 4))
        for position in biases:
            site.unify(site.shape(position)[1], fields_out)
            self._fix(site, position, (0,))
        for position in (logits, norms):
            if position is not None and site.node.operands[position] is not None:
                self._fix(site, position, (0,))
        x = site.shape(0)
        for axis in (2, 3):
            site.freeze(x[axis], "its positions are not channels")
        site.unify(x[1], (*site.extent(plan.elements_in), *fields_in))
        self._uses(site, weights, norms, fields_out, fields_in)
        size = site.node.types[0].shape
        channels = (*site.extent(plan.elements), *fields_out)
        return [(x[0], channels, site.extent(size[2]), site.extent(size[3]))]

    def _fix(self, site: Any, position: int, axes: tuple[int, ...]) -> None:
        """Axes that are no channels: cosets, rows, columns, elements, groups."""
        for axis in axes:
            site.unify(site.shape(position)[axis], site.extent(site.type(position).shape[axis]))

    def _uses(
        self, site: Any, weights: list[int], norms: int | None, made: Any, read: Any
    ) -> None:
        operands = site.node.operands
        for position in weights:
            site.use("contract", read, (0, 1), (position, 5))
        if norms is not None and operands[norms] is not None:
            why = "all weights of a group have one norm together, until the pass bake"
            site.freeze(made, why)
            site.freeze(read, why)
        elif len(weights) > 1 and any(operands[position][0] != "@" for position in weights):
            site.freeze(read, "some of the weights of its mixture are computed")

    def linear(self) -> bool:
        return True

    def infer(self, *operands: TensorType | None) -> TensorType:
        x, first = (*operands, None, None)[:2]
        if x is None or first is None:
            raise NetirError("a group convolution reads a map and weights")
        expect(x.rank == 4, f"input has {x.rank} dimensions, a group convolution reads 4")
        weights, biases, logits, norms = self.parts(operands)
        expect(len(weights) == len(self.groups), "a weight is missing")
        plan = self.plan(first)
        fields_out, fields_in = _known(first.shape[1]), _known(first.shape[5])
        for name, weight in zip(self.groups, weights, strict=True):
            wanted = plan.shape(name, fields_out, fields_in)
            expect(weight is not None and weight.shape == wanted,
                   f"weights of {name} are {weight}, not of shape {wanted}")  # fmt: skip
            expect(weight.dtype == x.dtype, f"weights are {weight}, the input is {x}")
        expect(len(biases) == (len(self.groups) if self.biased else 0), "a bias is missing")
        for order, bias in zip(plan.orders, biases, strict=False):
            fits = bias is not None and bias.shape == (plan.elements // order, fields_out)
            expect(fits, f"a bias is {bias}, for {fields_out} fields out")
        for vector in (logits, norms):
            expect(vector is None or vector.shape == (len(self.groups),),
                   f"{vector} for {len(self.groups)} groups")  # fmt: skip
        expect(x.shape[1] == plan.elements_in * fields_in,
               f"input has {x.shape[1]} channels, the weights read {fields_in} fields of "
               f"{plan.elements_in} elements")  # fmt: skip
        self._expect_grid(plan, x.shape[2:])
        size = [(s + 2 * self.padding - plan.kernel) // self.stride + 1 for s in x.shape[2:]]
        return x.with_shape((x.shape[0], plan.elements * fields_out, *size))

    def _expect_grid(self, plan: Plan, sizes: tuple[Dim, ...]) -> None:
        """Refuse a stride that reads a map of this size from one side."""
        rest = {s + 2 * self.padding - plan.kernel for s in sizes if isinstance(s, int)}
        expect(max(plan.orders) == 1 or not any(r % self.stride for r in rest),
               f"a stride of {self.stride} does not read a map of {sizes} symmetrically, so "
               "equivariance would break")  # fmt: skip

    def macs(self, out: TensorType, x: TensorType, *params: TensorType | None) -> Dim:
        weight = params[0]
        assert weight is not None
        return product(out.shape) * product(weight.shape[2:])

    def to_torch(self, x: Tensor, *params: Any) -> Tensor:
        from netir.kernels.group_calls import group_conv

        weights, biases, logits, norms = self.parts((x, *params))
        return group_conv(x, weights, biases, logits, norms, self.groups, self.ambient,
                          self.lifting, self.stride, self.padding)  # fmt: skip

    def dense(self, *params: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Filter and bias of the plain convolution that it is, in float64 until the end."""
        from netir.kernels.group_calls import group_bias, group_filter

        wide = [None if p is None else p.detach().double() for p in params]
        weights, biases, logits, norms = self.parts((None, *wide))
        plan, kind = self.plan(weights[0]), params[0].dtype  # type: ignore[union-attr]
        bias = group_bias(biases, logits, plan)
        weight = group_filter(weights, logits, norms, plan).contiguous()
        return weight.to(kind), None if bias is None else bias.to(kind)

    def to_onnx(self, g: Tape, x: OnnxValue, *params: OnnxValue | None) -> Any:
        weight, bias = self.dense(*(None if p is None else stored(p, self.name) for p in params))
        attributes = {
            "kernel_shape": weight.shape[2:],
            "strides": (self.stride,) * 2,
            "pads": (self.padding,) * 4,
        }
        return g.op("Conv", [x, g.constant(weight), bias if bias is None else g.constant(bias)],
                    attributes)  # fmt: skip

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        options = dict(call.options)
        groups = tuple(str(options.pop("groups", "C1")).split())
        biased = "biases" not in options
        options.pop("biases", None)
        return cls(groups=groups, biased=biased, **options)


def _known(size: Dim) -> int:
    """A size that cannot be open."""
    if not isinstance(size, int):
        raise NetirError(f"a size of a group convolution's weights is open: {size}")
    return size


@lru_cache(maxsize=256)
def plan_of(groups: tuple[str, ...], kernel: int, lifting: bool, ambient: str) -> Plan:
    """The plan of a layer, or what is wrong with it."""
    try:
        return Plan(groups, kernel, lifting, ambient)
    except (ValueError, TypeError, AttributeError) as error:
        raise NetirError(
            f"no group convolution is like this: {error}", fix="see netir.kernels.groups"
        ) from error


def stored(value: OnnxValue, name: str) -> Tensor:
    """The numbers of a parameter, from what stands for it on a tape."""
    data = getattr(value.value.const_value, "raw", None)
    if not isinstance(data, Tensor):
        raise NoLowering(f"the weights of a '{name}' depend on the inputs, so they are not known",
                         fix="export a network in which parameters alone decide them")  # fmt: skip
    return data


@dataclass(frozen=True)
class FieldNorm(Op):
    """Batch norm with one set of numbers for each field, shared by its elements.

    Operands: x, weight, bias, running mean, running variance.
    """

    name = "field_norm"
    modal = True
    custom = "field_norm.default"
    numeric = True
    fills = {1: 1.0, 4: 1.0}
    ambient: str = "C1"
    momentum: float = 0.1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        plan_of((self.ambient,), 1, False, self.ambient)

    @property
    def elements(self) -> int:
        return group(self.ambient).order

    def layouts(self, site: Any) -> Any:
        rule = "n (a c) ..., c, c, c, c -> n (a c) ..."
        return site.apply(rule, fixed={"a": self.elements})

    def infer(self, x: TensorType, *vectors: TensorType | None) -> TensorType:
        expect(len(vectors) == 4, "a field norm reads four vectors")
        channels, each = x.shape[1], self.elements
        for vector in vectors:
            fits = vector is not None and vector.rank == 1 and vector.shape[0] * each == channels
            expect(fits, f"{vector} does not fit {channels} channels of {each} elements")
        return x

    def to_torch(
        self, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor,
        training: bool = False,
    ) -> Tensor:  # fmt: skip
        from netir.kernels.group_calls import field_norm

        return field_norm(x, weight, bias, mean, variance, self.ambient, training, self.momentum,
                          self.eps)  # fmt: skip

    def to_onnx(self, g: Tape, x: OnnxValue, *vectors: OnnxValue) -> Any:
        given = [self._shared_out(g, v) for v in vectors]
        return g.op("BatchNormalization", [x, *given], {"epsilon": self.eps})

    def _shared_out(self, g: Tape, vector: OnnxValue) -> Any:
        """A number for every channel: known ones as a constant, others where the file runs."""
        try:
            return g.constant(stored(vector, self.name).repeat(self.elements))
        except NoLowering:
            return g.concat([vector] * self.elements, 0)


@dataclass(frozen=True)
class GroupPool(Op):
    """The mean or max of every field over each coset of a group: [coset, field] channels."""

    name = "group_pool"
    custom = "group_pool.default"
    over: str = "C1"
    ambient: str = "C1"
    kind: str = "mean"

    def __post_init__(self) -> None:
        plan_of((self.over,), 1, False, self.ambient)
        expect(self.kind in ("mean", "max"), f"a group pool takes no '{self.kind}'")

    @property
    def elements(self) -> int:
        return group(self.ambient).order

    @property
    def rows(self) -> int:
        """How many cosets remain."""
        return self.elements // group(self.over).order

    def layouts(self, site: Any) -> Any:
        fixed = {"a": self.elements, "r": self.rows}
        return site.apply("n (a c) ... -> n (r c) ...", fixed=fixed)

    def linear(self) -> bool:
        return self.kind == "mean"

    def infer(self, x: TensorType) -> TensorType:
        channels = x.shape[1]
        expect(isinstance(channels, int) and channels % self.elements == 0,
               f"{channels} channels are no fields of {self.elements} elements")  # fmt: skip
        return x.with_shape((x.shape[0], channels // self.elements * self.rows, *x.shape[2:]))

    def to_torch(self, x: Tensor) -> Tensor:
        from netir.kernels.group_calls import group_pool

        return group_pool(x, self.over, self.ambient, self.kind)

    def to_onnx(self, g: Tape, x: OnnxValue) -> Any:
        from netir.kernels.group_calls import coset_order

        order, rows = coset_order(self.over, self.ambient)
        n, channels, *size = x.shape
        fields = _known(channels) // len(order)
        if order != sorted(order):
            x = g.gather(x, [a * fields + c for a in order for c in range(fields)], 1)
        apart = g.reshape(x, (n, rows, len(order) // rows, fields, *size))
        kind = "ReduceMean" if self.kind == "mean" else "ReduceMax"
        return g.reshape(g.reduce(kind, apart, [2], keepdims=False), (n, rows * fields, *size))


__all__ = ["FieldNorm", "GroupConv", "GroupPool", "plan_of"]
