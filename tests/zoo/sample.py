"""What a zoo entry is: a small network with random weights, and inputs that it accepts.

Everything is deterministic by the sample's name. No parameter is left at zeros or ones, since a
unit that equals its neighbour hides mistakes (weights.py). Nothing here knows the compiler.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from tests.zoo.weights import calibrate, randomise

Dynamic = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True)
class Sample:
    """One network in eval mode with example inputs.

    `dynamic` names the dimensions, beyond the batch, that are wanted symbolic:
    `{input name: {axis: symbol name}}`.
    """

    name: str
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    dynamic: Dynamic | None = None

    def run(self) -> Any:
        """The model's outputs on the example inputs."""
        return self.model(*self.args, **self.kwargs)

    def in_float64(self) -> "Sample":
        """The same sample with every floating tensor in float64; converts the model in place."""

        def convert(leaf: Any) -> Any:
            floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
            return leaf.double() if floating else leaf

        args, kwargs = pytree.tree_map(convert, (self.args, self.kwargs))
        return replace(self, model=self.model.double(), args=args, kwargs=kwargs)

    def dynamic_shapes(self) -> dict[str, Any]:
        """The `dynamic_shapes` for `torch.export.export`: batch and the wanted axes as AUTO."""
        bound = inspect.signature(self.model.forward).bind(*self.args, **self.kwargs)
        wanted = self.dynamic or {}
        return {
            name: _dimensions(value, wanted.get(name, {}))
            for name, value in bound.arguments.items()
        }


def _dimensions(value: Any, axes: Mapping[int, str]) -> Any:
    match value:
        case Tensor():
            return {axis: Dim.AUTO for axis in (0, *axes) if axis < value.ndim}
        case dict():
            return {key: _dimensions(part, axes) for key, part in value.items()}
        case list() | tuple():
            return type(value)(_dimensions(part, axes) for part in value)
        case None | int() | float() | str():
            return None
    leaves = pytree.tree_leaves(value)  # a registered class: export wants the list of its parts
    return [_dimensions(leaf, axes) for leaf in leaves]


@dataclass(frozen=True)
class Recipe:
    """How to make a sample: called, it gives a fresh one, always with the same numbers.

    Callables among the inputs (`floats`, `whole`, `flags`) are called to make tensors.
    """

    build: Callable[[], nn.Module]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic: Dynamic | None = None
    name: str = ""

    def __call__(self) -> Sample:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(crc32(self.name.encode()))
            model = randomise(self.build()).eval()
            args, kwargs = pytree.tree_map(
                lambda leaf: leaf() if callable(leaf) else leaf, (self.args, self.kwargs)
            )
            calibrate(model, args, kwargs)
        model.train().eval()  # drops what a model caches in eval mode (LeViT's biases)
        return Sample(self.name, model, args, kwargs, self.dynamic)


def recipe(
    build: Callable[[], nn.Module], *args: Any, dynamic: Dynamic | None = None, **kwargs: Any
) -> Recipe:
    """A recipe whose positional and keyword inputs are written as for a call of the model."""
    return Recipe(build, args, kwargs, dynamic)


def catalogue(**recipes: Recipe) -> dict[str, Callable[[], Sample]]:
    """Recipes by name; each learns its own name, from which its seed follows."""
    return {name: replace(entry, name=name) for name, entry in recipes.items()}


def floats(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], Tensor]:
    """Makes a normally distributed input."""
    return lambda: torch.randn(shape).to(dtype)


def whole(*shape: int, below: int) -> Callable[[], Tensor]:
    """Makes an input of whole numbers in `[0, below)`."""
    return lambda: torch.randint(below, shape)


def flags(*shape: int) -> Callable[[], Tensor]:
    """Makes a boolean input whose last axis starts with True (so no mask is empty)."""

    def make() -> Tensor:
        drawn = torch.rand(shape) < 0.7
        drawn[..., 0] = True
        return drawn

    return make
