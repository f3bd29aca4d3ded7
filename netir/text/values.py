"""Values of the text form, printed and read: attributes, sizes, types, and trees.

Sizes are computed while they are read, so a size that would grow without bound is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch

from netir.dims import Dim, Sym, maximum, minimum, symbol, symbols
from netir.errors import NetirError
from netir.ir import DTYPE_NAMES, DTYPES, Record, Ref, TensorType, Tree
from netir.ops.opaque import Slot
from netir.text.lexer import Tokens, quote, show_name, show_word

_WORDS: dict[str, Any] = {
    "None": None, "True": True, "False": False, "inf": math.inf, "nan": math.nan,
}  # fmt: skip
RESERVED = frozenset(_WORDS) | frozenset(DTYPES)
"""Words that mean something by themselves, and so cannot name a symbol."""

_DEEPEST = 32
_LARGEST = 2**64
_LONGEST_SIZE = 500

Leaf = Callable[[Tokens], Ref]


def show_value(value: Any) -> str:
    """An attribute of an op."""
    match value:
        case str():
            return quote(value)
        case Sym():
            return show_size(value)
        case None | bool() | int() | float():
            return repr(value)
        case tuple():
            return _show_tuple([show_value(v) for v in value])
        case torch.dtype() if value in DTYPE_NAMES:
            return DTYPE_NAMES[value]
        case Slot(operand):
            return f"${operand}"
    raise NetirError(
        f"a {type(value).__name__} has no text form",
        fix="use numbers, strings, None, sizes, dtypes, and tuples of these",
    )


def show_tree(tree: Tree, leaf: Callable[[Ref], str]) -> str:
    """An input or output structure, its leaves as `leaf` shows them."""
    match tree:
        case Ref():
            return leaf(tree)
        case tuple():
            return _show_tuple([show_tree(t, leaf) for t in tree])
        case list():
            return f"[{', '.join(show_tree(t, leaf) for t in tree)}]"
        case dict():
            pairs = (f"{quote(k)}: {show_tree(t, leaf)}" for k, t in tree.items())
            return f"{{{', '.join(pairs)}}}"
        case Record(type_name, parts):
            pairs = (f"{show_word(k)}={show_tree(t, leaf)}" for k, t in parts.items())
            return f"{show_word(type_name, RESERVED)}{{{', '.join(pairs)}}}"
    return show_value(tree)


def _show_tuple(items: list[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def show_operand(operand: str | None) -> str:
    """An operand of a node: `%value`, `@parameter`, or `_` where it is left out."""
    if operand is None:
        return "_"
    return f"@{show_name(operand[1:])}" if operand[0] == "@" else f"%{show_name(operand)}"


def show_size(size: Dim) -> str:
    """A size; one whose symbols could not be read back is refused."""
    for name in symbols(size):
        if name in RESERVED or not name.isidentifier() or not name.isascii():
            raise NetirError(
                f"the size '{name}' has no text form", fix="give the symbol a plain name"
            )
    return str(size)


def show_type(kind: TensorType) -> str:
    """A type such as `f32[batch, 3]`."""
    return f"{DTYPE_NAMES[kind.dtype]}[{', '.join(map(show_size, kind.shape))}]"


def read_value(tokens: Tokens, leaf: Leaf | None = None, depth: int = 0) -> Any:
    """A value; with `leaf`, also the containers of trees, and references as `leaf` reads them."""
    return _Reader(tokens, leaf).value(depth)


def read_size(tokens: Tokens) -> Dim:
    """A size: a number, a symbol, or an expression of these."""
    kind, place = tokens.kind, tokens.place()
    size = _Reader(tokens, None).value(0)
    if isinstance(size, bool) or not isinstance(size, (int, Sym)):
        tokens.fail(f"a {kind} is no size", "write a number or a symbol", place)
    if isinstance(size, int) and not 0 <= size < 2**63:
        tokens.fail(f"no axis has size {size}", "write a number from 0 to 2**63 - 1", place)
    return size


def read_type(tokens: Tokens) -> TensorType:
    """A type such as `f32[batch, 3]`."""
    if tokens.kind != "word":
        tokens.expected("a type")
    place = tokens.place()
    name = tokens.next()
    if name not in DTYPES:
        tokens.unknown("there is no element type", name, DTYPES, place)
    tokens.need("[", "an element type")
    shape: list[Dim] = []
    while not tokens.at("]"):
        shape.append(read_size(tokens))
        if not tokens.take(","):
            break
    tokens.need("]", "the sizes")
    return TensorType(DTYPES[name], tuple(shape))


class _Reader:
    """One value: sums of products of atoms, of which only sizes and numbers can be combined."""

    def __init__(self, tokens: Tokens, leaf: Leaf | None) -> None:
        self._tokens = tokens
        self._leaf = leaf

    def value(self, depth: int) -> Any:
        tokens = self._tokens
        found = self._product(depth)
        while tokens.kind == "mark" and tokens.text in ("+", "-"):
            place, sign = tokens.place(), tokens.next()
            found = self._combine(sign, found, self._product(depth), place)
        return found

    def _product(self, depth: int) -> Any:
        tokens = self._tokens
        found = self._atom(depth)
        while tokens.kind == "mark" and tokens.text in ("*", "//", "%"):
            place, sign = tokens.place(), tokens.next()
            found = self._combine(sign, found, self._atom(depth), place)
        return found

    def _combine(self, sign: str, left: Any, right: Any, place: int) -> Any:
        if any(isinstance(v, bool) or not isinstance(v, (int, Sym)) for v in (left, right)):
            self._tokens.fail(f"'{sign}' stands between sizes only", "write a plain value", place)
        if _work(sign, left, right) > _LONGEST_SIZE:
            self._tokens.fail("this size is too long", "give its parts names of their own", place)
        try:
            match sign:
                case "+":
                    found = left + right
                case "-":
                    found = left - right
                case "*":
                    found = left * right
                case "//":
                    found = left // right
                case _:
                    found = left % right
        except ZeroDivisionError:
            self._tokens.fail("a size is divided by zero", "correct the divisor", place)
        return self._bounded(found, place)

    def _bounded(self, value: Any, place: int) -> Any:
        largest = abs(value) if isinstance(value, int) else max(abs(c) for _, c in value.terms)
        if largest > _LARGEST:
            self._tokens.fail("a whole number is too large", "stay below 2**64", place)
        return value

    def _atom(self, depth: int) -> Any:
        tokens = self._tokens
        if depth > _DEEPEST:
            tokens.fail("values are nested too deeply", f"nest at most {_DEEPEST} of them")
        match tokens.kind:
            case "number":
                return self._number()
            case "word":
                return self._word(depth)
            case "string":
                text = tokens.string("a string")
                return self._record(text, depth) if self._leaf and tokens.at("{") else text
            case "slot":
                return Slot(self._whole(tokens.place(), tokens.next()))
            case "value" | "param" if self._leaf is not None:
                return self._leaf(tokens)
            case "mark":
                return self._marked(depth)
        tokens.expected("a value")

    def _number(self) -> int | float:
        place, text = self._tokens.place(), self._tokens.next()
        return self._whole(place, text) if text.isdigit() else float(text)

    def _whole(self, place: int, text: str) -> int:
        if len(text) > 20:
            self._tokens.fail("a whole number is too large", "stay below 2**64", place)
        return cast(int, self._bounded(int(text), place))

    def _word(self, depth: int) -> Any:
        tokens, place = self._tokens, self._tokens.place()
        word = tokens.next()
        if self._leaf is not None and tokens.at("{"):
            return self._record(word, depth)
        if word in _WORDS:
            return _WORDS[word]
        if word in DTYPES:
            return DTYPES[word]
        if word in ("max", "min") and tokens.at("("):
            return self._extreme(word, depth)
        if "." in word:
            tokens.fail(f"'{word[:60]}' is no value", "quote strings", place)
        return symbol(word)

    def _extreme(self, word: str, depth: int) -> Dim:
        place = self._tokens.place()
        items = self._marked(depth)
        items = items if isinstance(items, tuple) else (items,)
        plain = all(isinstance(i, (int, Sym)) and not isinstance(i, bool) for i in items)
        if not items or not plain or sum(map(_weight, items)) > _LONGEST_SIZE:
            self._tokens.fail(f"'{word}' is of a few sizes", f"write {word}(a, b)", place)
        return maximum(*items) if word == "max" else minimum(*items)

    def _marked(self, depth: int) -> Any:
        tokens = self._tokens
        place = tokens.place()
        if tokens.take("-"):
            value = self._atom(depth + 1)
            if isinstance(value, bool) or not isinstance(value, (int, float, Sym)):
                tokens.fail("'-' stands before numbers and sizes only", "drop it", place)
            return -value
        if tokens.take("("):
            items, trailing = self._items(")", depth)
            return items[0] if len(items) == 1 and not trailing else tuple(items)
        if self._leaf is not None and tokens.take("["):
            return self._items("]", depth)[0]
        if self._leaf is not None and tokens.take("{"):
            return self._fields(":", depth)
        tokens.expected("a value")

    def _items(self, end: str, depth: int) -> tuple[list[Any], bool]:
        tokens = self._tokens
        found: list[Any] = []
        trailing = False
        while not tokens.at(end):
            found.append(self.value(depth + 1))
            trailing = tokens.take(",")
            if not trailing:
                break
        tokens.need(end, "the values")
        return found, trailing

    def _record(self, name: str, depth: int) -> Record:
        self._tokens.need("{")
        return Record(name, self._fields("=", depth))

    def _fields(self, between: str, depth: int) -> dict[str, Any]:
        tokens = self._tokens
        found: dict[str, Any] = {}
        while not tokens.at("}"):
            place = tokens.place()
            if between == "=" and tokens.kind == "word":
                name = tokens.next()
            else:
                name = tokens.string("a quoted key")
            if name in found:
                tokens.fail(f"'{name[:60]}' is given twice", "keep one of them", place)
            tokens.need(between, "a key")
            found[name] = self.value(depth + 1)
            if not tokens.take(","):
                break
        tokens.need("}", "the values")
        return found


def _work(sign: str, left: Any, right: Any) -> int:
    """A bound on how long the result is, and on the steps that dividing by a symbol takes."""
    if sign == "*":
        return _weight(left) * _weight(right)
    longest = _weight(left) + _weight(right)
    return 5 * longest if sign in ("//", "%") and isinstance(right, Sym) else longest


def _weight(size: Any) -> int:
    """How many symbols and numbers a size is written with."""
    if not isinstance(size, Sym):
        return 1
    return sum(
        1 + sum(1 if isinstance(f, str) else 1 + sum(map(_weight, f.arguments)) for f in product)
        for product, _ in size.terms
    )
