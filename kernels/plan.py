"""What a group convolution gathers: for every entry of its dense filter, which parameter it is.

Layout. Fields are repeated for every element of the *ambient* group, the largest one in the
network: channel `a * fields + field` belongs to element `a`. A dense filter is stored as
[element, field out][row, column, element in, field in], which is a channels-last weight. A layer
that is equivariant to a subgroup keeps the rows of its dense filter at one element per coset, and
nothing else: shape [coset, field out, row, column, element in, field in]. Every other row has the
same numbers in another order, W[g·a](g·p, g·b) = W[a](p, b). A lifting layer reads an ordinary
image: one element in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import floor
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode

from netir.kernels.groups import Element, Group, cosets, generated, group


class Tables(NamedTuple):
    """The gather tables of a plan as tensors: make them buffers of a module.

    `table` is int32 [groups, elements, 2·taps·size + 2]. A row tells of one element of the
    ambient group: where in its coset's parameters every entry lies (taps × size), which entries
    every parameter goes to (the same, inverted), its coset, and in its place of the row list of
    elements by coset, an element. `weights` holds the interpolation's factors of the first two
    parts, or is None where all is exact.
    """

    table: Tensor
    weights: Tensor | None

    def each(self, change: Callable[[Tensor], Tensor]) -> Tables:
        """These with a change made to both."""
        return Tables(change(self.table), None if self.weights is None else change(self.weights))


@dataclass(frozen=True)
class Plan:
    """A kind of layer: its groups, the width of its square kernel, and whether it lifts.

    Several groups make a mixed layer, whose filter is the sum of one per group.
    """

    groups: tuple[str, ...]
    kernel: int = 3
    lifting: bool = False
    ambient: str = ""
    elements: int = field(init=False, repr=False)
    """How many output channels a field has: the elements of the ambient group."""
    orders: tuple[int, ...] = field(init=False, repr=False)
    """How many elements each group has."""
    into: tuple[int, ...] = field(init=False, repr=False)
    """For every group the place of the one it is gathered into first, or -1: the filter."""

    def __post_init__(self) -> None:
        members = _checked(self.groups)
        kernel: Any = self.kernel
        if isinstance(kernel, bool) or not isinstance(kernel, Integral) or kernel < 1:
            raise ValueError(f"a kernel is a whole number of pixels, not {kernel!r}")
        ambient = self.ambient or generated(members).name
        for member in members:
            if not member <= group(ambient):
                raise ValueError(f"{member.name} is no subgroup of {ambient}, the ambient group")
        object.__setattr__(self, "groups", tuple(self.groups))
        object.__setattr__(self, "ambient", ambient)
        # facts are fields, not calls, so that a compiler can look at a plan
        object.__setattr__(self, "elements", group(ambient).order)
        object.__setattr__(self, "orders", tuple(member.order for member in members))
        object.__setattr__(self, "into", _lattice(members))

    @property
    def elements_in(self) -> int:
        return 1 if self.lifting else self.elements

    @property
    def size(self) -> int:
        """Entries of one row of a filter, per field in."""
        return self.kernel**2 * self.elements_in

    def shape(self, name: str, fields_out: int, fields_in: int) -> tuple[int, ...]:
        """The shape of one group's parameters."""
        if name not in self.groups:
            raise ValueError(f"{name} is not among the groups: {', '.join(self.groups)}")
        rows = self.elements // self.orders[self.groups.index(name)]
        return rows, fields_out, self.kernel, self.kernel, self.elements_in, fields_in

    def tables(self, device: torch.device | str = "cpu") -> Tables:
        """The gather tables, made once per kind of layer and device."""
        made = _tables(self, torch.device(device))
        if torch.compiler.is_compiling():
            return made
        mode = _get_current_dispatch_mode()
        if not isinstance(mode, FakeTensorMode):
            return made
        return made.each(mode.from_tensor)

    def check(
        self, parameters: Sequence[Tensor], coefficients: Tensor | None = None,
        tables: Tables | None = None,
    ) -> None:  # fmt: skip
        """Raise unless all fits: a parameter and a coefficient for every group, and the tables."""
        if len(parameters) != len(self.groups):
            raise ValueError(f"{len(parameters)} parameters for {len(self.groups)} groups")
        if not all(isinstance(parameter, Tensor) for parameter in parameters):
            raise ValueError("parameters are tensors, one for every group")
        if any(parameter.dim() != 6 or not parameter.numel() for parameter in parameters):
            shapes = [list(parameter.shape) for parameter in parameters]
            raise ValueError(f"parameters have six axes and are not empty: {shapes}")
        if not parameters[0].is_floating_point():
            raise ValueError(f"parameters of {parameters[0].dtype}, not of real numbers")
        fields = parameters[0].shape[1], parameters[0].shape[-1]
        for name, parameter in zip(self.groups, parameters, strict=True):
            if tuple(parameter.shape) != (expected := self.shape(name, *fields)):
                found = list(parameter.shape)
                raise ValueError(f"parameters of {name} have shape {found}, not {list(expected)}")
            if parameter.dtype != parameters[0].dtype:
                raise ValueError(f"parameters of {parameter.dtype} and of {parameters[0].dtype}")
        self._check_coefficients(coefficients)
        if tables is not None:
            *first, width = tables.table.shape
            if first != [len(self.groups), self.elements] or (width - 2) % (2 * self.size):
                raise ValueError(f"a table of shape {list(tables.table.shape)} of another plan")

    def check_biases(self, biases: Sequence[Tensor], coefficients: Tensor | None = None) -> None:
        """Raise unless there is a bias for every group, [cosets, fields], and a coefficient."""
        found = [list(bias.shape) for bias in biases]
        fields = found[0][-1] if found and found[0] else 0
        if found != (expected := [[self.elements // order, fields] for order in self.orders]):
            raise ValueError(f"biases have shapes {found}, not {expected}")
        if len({bias.dtype for bias in biases}) > 1:
            raise ValueError(f"biases of {' and of '.join(sorted({str(b.dtype) for b in biases}))}")
        self._check_coefficients(coefficients)

    def _check_coefficients(self, coefficients: Tensor | None) -> None:
        if coefficients is None:
            return
        found: Any = coefficients
        if not isinstance(found, Tensor) or not found.is_floating_point():
            kind = getattr(found, "dtype", type(found).__name__)
            raise ValueError(f"coefficients are a tensor of real numbers, not {kind}")
        if coefficients.shape != (len(self.groups),):
            shape = list(coefficients.shape)
            raise ValueError(f"coefficients of shape {shape} for {len(self.groups)} groups")


def leaves(leaf: str, groups: Sequence[str]) -> list[str]:
    """What a layer calls the weights, or biases, of its groups."""
    return [leaf if i == 0 else f"{leaf}_{name}" for i, name in enumerate(groups)]


def _checked(names: Any) -> list[Group]:
    if not names or not isinstance(names, (tuple, list)):
        raise ValueError("a plan names its groups in a tuple, one at least")
    if len(set(names)) < len(names):
        raise ValueError(f"a group is named twice: {', '.join(names)}")
    return [group(name) for name in names]


def _lattice(members: Sequence[Group]) -> tuple[int, ...]:
    """Gather every group into the largest exact subgroup present, which costs least."""
    into = []
    for member in members:
        inside = [(other.order, -i) for i, other in enumerate(members)
                  if other.exact and other.order < member.order and other <= member]  # fmt: skip
        into.append(-max(inside)[1] if inside else -1)
    return tuple(into)


# One entry of a filter: the parameters it is made of, and their factors.
Taps = list[tuple[int, float]]


def spread(element: Element, kernel: int) -> list[Taps]:
    """For every pixel, the pixels that the element's action takes it from, by bilinear weights."""
    middle = (kernel - 1) / 2
    pixels = [(i, j) for i in range(kernel) for j in range(kernel)]
    made: list[Taps] = []
    for i, j in pixels:
        row, column = element.source(i - middle, j - middle)
        near = ((round_down(row + middle) + a, round_down(column + middle) + b)
                for a in (0, 1) for b in (0, 1))  # fmt: skip
        factors = [
            (y * kernel + x, (1 - abs(row - (y - middle))) * (1 - abs(column - (x - middle))))
            for y, x in near
            if 0 <= y < kernel and 0 <= x < kernel
        ]
        made.append([(at, factor) for at, factor in factors if factor > 1e-9])
    return made


def round_down(number: float) -> int:
    """The pixel at or before a coordinate; a hair below a pixel is that pixel."""
    return floor(number + 1e-9)


def rows(member: Group, ambient: Group, kernel: int, lifting: bool) -> list[list[Taps]]:
    """For every element of the ambient group and entry of its row, the parameters it reads."""
    place = {element: i for i, element in enumerate(ambient.elements)}
    inner = [None] if lifting else list(ambient.elements)
    made = []
    for part in cosets(member, ambient).part:
        turned = [0 if b is None else place[part.inverse * b] for b in inner]
        pixels = spread(part, kernel)
        made.append([
            [(at * len(inner) + b, factor) for at, factor in taps]
            for taps in pixels
            for b in turned
        ])  # fmt: skip
    return made


def inverted(row: list[Taps]) -> list[Taps]:
    """For every parameter, the entries that read it."""
    made: list[Taps] = [[] for _ in row]
    for entry, taps in enumerate(row):
        for at, factor in taps:
            made[at].append((entry, factor))
    return made


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # what is kept may be used in training later, on any device
def _tables(plan: Plan, device: torch.device) -> Tables:
    with _disable_current_modes(), torch.device("cpu"):
        return _made(plan).each(lambda table: table.to(device))


def _made(plan: Plan) -> Tables:
    ambient = group(plan.ambient)
    members = [group(name) for name in plan.groups]
    forward = [rows(member, ambient, plan.kernel, plan.lifting) for member in members]
    backward = [[inverted(row) for row in element] for element in forward]
    taps = max(len(entry) for way in (forward, backward) for part in way for row in part
               for entry in row)  # fmt: skip
    places = [_stacked(way, taps, 0) for way in (forward, backward)]
    table = torch.cat([*places, _owners(members, ambient)], dim=2).to(torch.int32)
    if all(member.exact for member in members):
        return Tables(table, None)
    factors = [_stacked(way, taps, 1) for way in (forward, backward)]
    return Tables(table, torch.cat(factors, dim=2).to(torch.float32))


def _stacked(way: list[list[list[Taps]]], taps: int, which: int) -> Tensor:
    """[groups, elements, taps · size]: indices (0) or factors (1), short lists filled with 0."""
    filled = [
        [[(entry + [(0, 0.0)] * taps)[tap][which] for tap in range(taps) for entry in row]
         for row in part]
        for part in way
    ]  # fmt: skip
    return torch.tensor(filled, dtype=torch.float64)


def _owners(members: Sequence[Group], ambient: Group) -> Tensor:
    """[groups, elements, 2]: the coset of every element, and all elements in order of coset."""
    made = []
    for member in members:
        coset = cosets(member, ambient).coset
        made.append(list(zip(coset, sorted(range(len(coset)), key=coset.__getitem__), strict=True)))
    return torch.tensor(made, dtype=torch.float64)
