"""Sizes: a dimension is an int or a `Sym`, an integer expression over named symbols.

Expressions are kept as sums of products in one canonical order, so that equal sizes are equal
objects as far as polynomials and floor division by a constant can tell. Not a computer algebra
system: it knows only what shapes of networks need.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Union

import torch

from netir.errors import NetirError

Dim = Union[int, "Sym"]
Factor = Union[str, "Call"]
Product = tuple[Factor, ...]


@dataclass(frozen=True)
class Call:
    """A function of sizes that is not a polynomial: `//`, `%`, `max` or `min`."""

    function: str
    arguments: tuple[Dim, ...]

    def __str__(self) -> str:
        if self.function in ("//", "%"):
            left, right = self.arguments
            return f"(({left})//({right}))" if self.function == "//" else f"(({left})%({right}))"
        return f"{self.function}({', '.join(map(str, self.arguments))})"


@dataclass(frozen=True)
class Sym:
    """A sum of products of symbols, such as `8*batch + 1`; never a plain number."""

    terms: tuple[tuple[Product, int], ...]

    def __hash__(self) -> int:
        return hash(self.terms)

    def __str__(self) -> str:
        parts = []
        for product, coefficient in self.terms:
            names = "*".join(map(str, product))
            if not names:
                parts.append(str(coefficient))
            else:
                parts.append(names if coefficient == 1 else f"{coefficient}*{names}")
        return " + ".join(parts).replace("+ -", "- ")

    __repr__ = __str__

    def __add__(self, other: Dim) -> Dim:
        total = dict(self.terms)
        for product, coefficient in _terms(other):
            total[product] = total.get(product, 0) + coefficient
        return _dim(total)

    def __mul__(self, other: Dim) -> Dim:
        if isinstance(other, int):
            return Sym(tuple((names, c * other) for names, c in self.terms)) if other else 0
        total: dict[Product, int] = {}
        for a, x in self.terms:
            for b, y in _terms(other):
                product = tuple(sorted(a + b, key=str))
                total[product] = total.get(product, 0) + x * y
        return _dim(total)

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return -self + other

    def __floordiv__(self, other: Dim) -> Dim:
        exact = divide(self, other)
        if exact is not None:
            return exact
        if not isinstance(other, int):
            return symbol(Call("//", (self, other)))
        whole: dict[Product, int] = {}
        rest: dict[Product, int] = {}
        for product, coefficient in self.terms:
            whole[product], rest[product] = divmod(coefficient, other)
        return symbol(Call("//", (_dim(rest), other))) + _dim(whole)

    def __mod__(self, other: Dim) -> Dim:
        return 0 if divide(self, other) is not None else symbol(Call("%", (self, other)))

    __radd__ = __add__
    __rmul__ = __mul__

    def __rfloordiv__(self, other: Dim) -> Dim:
        return symbol(Call("//", (other, self)))

    def __rmod__(self, other: Dim) -> Dim:
        return symbol(Call("%", (other, self)))


def symbol(factor: Factor) -> Sym:
    """The size called `factor`."""
    return Sym((((factor,), 1),))


def maximum(*dims: Dim) -> Dim:
    """The largest of some sizes."""
    return _extreme("max", max, dims)


def minimum(*dims: Dim) -> Dim:
    """The smallest of some sizes."""
    return _extreme("min", min, dims)


def product(dims: Iterable[Dim]) -> Dim:
    """The product of sizes; 1 for none."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def divide(a: Dim, b: Dim) -> Dim | None:
    """`a / b` where that is exact for every value of the symbols, else None."""
    if a == b:
        return 1
    if isinstance(b, int):
        if b == 0:
            return None
        if isinstance(a, int):
            return a // b if a % b == 0 else None
        if any(coefficient % b for _, coefficient in a.terms):
            return None
        return _dim({names: coefficient // b for names, coefficient in a.terms})
    if isinstance(a, int):
        return None
    return _divide_sums(a, b)


def evaluate(dim: Dim, env: Mapping[str, Any]) -> Any:
    """The value of `dim` with symbols replaced by `env`: numbers, or any objects that add up."""
    if isinstance(dim, int):
        return dim
    total: Any = None
    for names, coefficient in dim.terms:
        value = reduce(lambda left, right: left * right, (_value(f, env) for f in names), 1)
        value = value if coefficient == 1 else value * coefficient
        total = value if total is None else total + value
    return total


def symbols(dim: Dim) -> frozenset[str]:
    """The names of the symbols in `dim`."""
    if isinstance(dim, int):
        return frozenset()
    found: set[str] = set()
    pending: list[Dim] = [dim]
    while pending:
        current = pending.pop()
        for names, _ in () if isinstance(current, int) else current.terms:
            for factor in names:
                if isinstance(factor, str):
                    found.add(factor)
                else:
                    pending.extend(factor.arguments)
    return frozenset(found)


def same(a: Dim, b: Dim) -> bool:
    """Whether two sizes are equal: by form, else by value at several sample points."""
    if a == b:
        return True
    names = sorted(symbols(a) | symbols(b))
    if not names:
        return False
    points = [{n: base + 2 * step * i for i, n in enumerate(names)} for base, step in _SAMPLES]
    return all(evaluate(a, p) == evaluate(b, p) for p in points)


def parse_dim(text: str) -> Dim:
    """Read what `str(dim)` printed."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _read(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError, ZeroDivisionError) as error:
        raise NetirError(
            f"'{text[:60]}' is not a size", fix="write an int or an expression such as 8*batch + 1"
        ) from error


_SAMPLES = ((2, 1), (3, 5), (16, 7), (64, 3), (97, 11), (224, 13))
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}


def _read(node: ast.expr) -> Dim:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_read(operand)
        case ast.BinOp(op=op) if type(op) in _BINARY:
            found: Dim = _BINARY[type(op)](_read(node.left), _read(node.right))
            return found
        case ast.Call(func=ast.Name(id="max" | "min" as name), args=args, keywords=[]):
            return (maximum if name == "max" else minimum)(*map(_read, args))
    raise ValueError("unexpected part of a size")


def _extreme(name: str, function: Callable[..., int], dims: Iterable[Dim]) -> Dim:
    known = [d for d in dims if isinstance(d, int)]
    rest = sorted({d for d in dims if not isinstance(d, int)}, key=str)
    if not rest:
        return function(known)
    if not known and len(rest) == 1:
        return rest[0]
    if name == "max" and known and function(known) <= 0 and len(rest) == 1:
        return rest[0]
    return symbol(Call(name, (*rest, function(known)) if known else tuple(rest)))


def _terms(dim: Dim) -> tuple[tuple[Product, int], ...]:
    return (((), dim),) if isinstance(dim, int) else dim.terms


def _dim(total: dict[Product, int]) -> Dim:
    terms = {names: c for names, c in total.items() if c}
    if not terms:
        return 0
    if set(terms) == {()}:
        return terms[()]
    return Sym(tuple(sorted(terms.items(), key=lambda t: (not t[0], str(t[0])))))


def _divide_sums(a: Sym, b: Sym) -> Dim | None:
    lead, scale = b.terms[0]
    total: dict[Product, int] = {}
    remainder: Dim = a
    for _ in range(len(a.terms)):
        if isinstance(remainder, int):
            break
        names, coefficient = remainder.terms[0]
        rest = list(names)
        for factor in lead:
            if factor not in rest:
                return None
            rest.remove(factor)
        if coefficient % scale:
            return None
        part = {tuple(rest): coefficient // scale}
        total.update(part)
        remainder = remainder - b * _dim(part)
    return _dim(total) if remainder == 0 else None


def _value(factor: Factor, env: Mapping[str, Any]) -> Any:
    if isinstance(factor, str):
        if factor not in env:
            raise NetirError(f"size '{factor}' is not known", fix="it must be a size of an input")
        return env[factor]
    values = [evaluate(a, env) for a in factor.arguments]
    match factor.function:
        case "//":
            return values[0] // values[1]
        case "%":
            return values[0] % values[1]
        case "max":
            return reduce(torch.sym_max, values)
        case _:
            return reduce(torch.sym_min, values)
