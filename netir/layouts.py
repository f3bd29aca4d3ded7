"""Layouts: how one axis is built from channel spaces, and the unification that finds them.

A layout is a product of terms, outer to inner; a term is an `Atom` (one space) or a `Concat` of
layouts. An axis of size 1 is the empty product. Unification refines atoms, binding one to a
product or a concatenation, rather than failing; what cannot be expressed is left to the caller,
who freezes it. Frozen atoms never change and so are never bound: a piece of one is a new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Union

from netir.dims import Dim, divide, product

Layout = tuple["Term", ...]
Term = Union["Atom", "Concat"]


class Atom:
    """One channel space, as a logic variable: `bound` says what it turned out to be made of."""

    __slots__ = ("bound", "reason", "size")

    def __init__(self, size: Dim, reason: str | None = None) -> None:
        self.size = size
        self.reason = reason
        self.bound: Layout | None = None

    def __repr__(self) -> str:
        return f"{self.size}{'!' if self.reason else ''}"


class Concat:
    """Layouts laid one after another on the same axis."""

    __slots__ = ("parts", "size")
    bound: ClassVar[None] = None

    def __init__(self, parts: tuple[Layout, ...], size: Dim) -> None:
        self.parts = parts
        self.size = size

    def __repr__(self) -> str:
        return f"[{' | '.join(map(show, self.parts))}]"


def show(layout: Layout) -> str:
    """A layout in short: `8·[32 | 32]`."""
    return "·".join(map(repr, resolve(layout))) or "1"


def outline(layout: Layout) -> str:
    """A layout for people, however large it is: its outermost sizes, as in `8·[32 | 32 | …]`."""
    return "·".join(map(_outline, resolve(layout))) or "1"


def _outline(term: Term) -> str:
    if isinstance(term, Atom):
        return str(term.size)
    parts = [str(size_of(part)) for part in term.parts[:4]]
    return f"[{' | '.join(parts)}{' | …' if len(term.parts) > 4 else ''}]"


def size_of(layout: Layout) -> Dim:
    """The number of indices of an axis."""
    if len(layout) == 1:
        return layout[0].size
    return product(t.size for t in layout)


def resolve(layout: Layout) -> Layout:
    """The layout with every bound atom replaced by what it is bound to."""
    if len(layout) == 1:
        only = layout[0]
        return layout if only.bound is None else _follow(only)
    if all(term.bound is None for term in layout):
        return layout
    found: list[Term] = []
    for term in layout:
        found.extend((term,) if term.bound is None else _follow(term))
    return tuple(found)


def _follow(atom: Atom) -> Layout:
    """What an atom is bound to in the end; all atoms on a chain that leads there learn it."""
    bound = atom.bound
    assert bound is not None
    path = [atom]
    while len(bound) == 1 and bound[0].bound is not None:
        path.append(bound[0])
        bound = bound[0].bound
    if len(bound) > 1:
        bound = _expanded(bound)
    for each in path:
        each.bound = bound
    return bound


def _expanded(layout: Layout) -> Layout:
    """A product with each of its atoms replaced by what it is bound to."""
    found: list[Term] = []
    pending = list(layout)
    while pending:
        term = pending.pop()
        if term.bound is None:
            found.append(term)
        else:
            pending.extend(term.bound)
    found.reverse()
    return tuple(found)


def atoms(layout: Layout) -> list[Atom]:
    """Every atom of a layout, with repetitions, from first to last."""
    found: list[Atom] = []
    pending = list(resolve(layout))
    while pending:
        term = pending.pop()
        if isinstance(term, Atom):
            found.append(term)
        else:
            for part in term.parts:
                pending.extend(resolve(part))
    found.reverse()
    return found


def frozen(layout: Layout) -> bool:
    """Whether no part of the layout can change."""
    return all(atom.reason is not None for atom in atoms(layout))


def freeze(layout: Layout, reason: str) -> None:
    """Forbid any change of what the layout is made of; the first reason is kept."""
    for atom in atoms(layout):
        if atom.reason is None:
            atom.reason = reason


def concat(parts: Iterable[Layout]) -> Layout:
    """The layout of layouts laid end to end."""
    flat: list[Layout] = []
    total: Dim = 0
    for part in parts:
        found = resolve(part)
        only = found[0] if len(found) == 1 else None
        size = size_of(found) if only is None else only.size
        if isinstance(only, Concat):
            flat.extend(only.parts)
        elif size != 0:
            flat.append(found)
        total = size + total
    if len(flat) == 1:
        return flat[0]
    return (Concat(tuple(flat), total),) if flat else (Atom(0, "an empty axis"),)


def unify(left: Layout, right: Layout) -> bool:
    """Make two layouts of one size the same; False where that cannot be expressed."""
    if left is right:
        return True
    pending = [(left, right)]
    while pending:
        a, b = pending.pop()
        a, b = resolve(a), resolve(b)
        if a == b:
            continue
        if not a or not b:
            return False
        if not (_bound(a, b) or _bound(b, a) or _unify_last(a, b, pending)):
            return False
    return True


def _bound(left: Layout, right: Layout) -> bool:
    """Bind a layout that is one free atom to another layout of its size, which is most common."""
    atom = left[0]
    if len(left) > 1 or isinstance(atom, Concat) or atom.reason is not None:
        return False
    if atom.size != (right[0].size if len(right) == 1 else size_of(right)) or atom.size == 0:
        return False  # an empty axis may be part of another one
    atom.bound = right
    return True


def _unify_last(a: Layout, b: Layout, pending: list[tuple[Layout, Layout]]) -> bool:
    """Unify the innermost terms; what is left goes onto `pending`."""
    x, y = a[-1], b[-1]
    if x.size == y.size:
        pending.append((a[:-1], b[:-1]))
        return _merge(x, y, pending)
    if divide(y.size, x.size) is not None:
        a, b, x, y = b, a, y, x
    pieces = split(x, y.size)
    if pieces is None:
        return False
    outer, inner = pieces
    pending.append((a[:-1] + outer, b[:-1]))
    pending.append((inner, (y,)))
    return True


def _merge(x: Term, y: Term, pending: list[tuple[Layout, Layout]]) -> bool:
    match x, y:
        case Atom(), Atom():
            if x is not y:
                _join(x, y)
        case Atom(), Concat():
            _bind(x, (y,))
        case Concat(), Atom():
            _bind(y, (x,))
        case Concat(), Concat():
            return _align(x, y, pending)
    return True


def _join(x: Atom, y: Atom) -> None:
    if x.reason is None:
        x.bound = (y,)
    elif y.reason is None:
        y.bound = (x,)


def _bind(atom: Atom, layout: Layout) -> None:
    if atom.reason is None:
        atom.bound = layout
    else:
        freeze(layout, atom.reason)


def _align(x: Concat, y: Concat, pending: list[tuple[Layout, Layout]]) -> bool:
    """Unify two concatenations of one size piece by piece."""
    left, right = list(reversed(x.parts)), list(reversed(y.parts))
    while left and right:
        a, b = left.pop(), right.pop()
        m, n = size_of(a), size_of(b)
        if m != n:
            if not isinstance(m, int) or not isinstance(n, int):
                return False
            (big, rest), small = ((a, left), n) if m > n else ((b, right), m)
            pieces = cut(big, small)
            if pieces is None:
                return False
            rest.append(pieces[1])
            a, b = (pieces[0], b) if m > n else (a, pieces[0])
        pending.append((a, b))
    return not left and not right


def split(term: Term, inner: Dim) -> tuple[Layout, Layout] | None:
    """A term as outer times inner, where the inner part has the given size."""
    outer = divide(term.size, inner)
    if outer is None:
        return None
    if isinstance(term, Atom):
        if outer == 1:
            return (), (term,)
        pieces = (Atom(outer, term.reason), Atom(inner, term.reason))
        if term.reason is None:
            term.bound = pieces
        return (pieces[0],), (pieces[1],)
    return _split_concat(term, inner)


def _split_concat(term: Concat, inner: Dim) -> tuple[Layout, Layout] | None:
    rests: list[Layout] = []
    shared: Layout | None = None
    for part in term.parts:
        pieces = split_layout(part, inner)
        if pieces is None:
            return None
        rests.append(pieces[0])
        if shared is None:
            shared = pieces[1]
        elif not unify(shared, pieces[1]):
            return None
    assert shared is not None
    if all(not resolve(rest) for rest in rests):
        return (Atom(len(rests), "counts concatenated parts"),), shared
    return concat(rests), shared


def split_layout(layout: Layout, inner: Dim) -> tuple[Layout, Layout] | None:
    """A layout as outer times inner, where the inner part has the given size."""
    terms = list(resolve(layout))
    taken: Layout = ()
    need = inner
    while need != 1:
        if not terms:
            return None
        term = terms.pop()
        rest = divide(need, term.size)
        if rest is not None:
            taken, need = (term, *taken), rest
            continue
        pieces = split(term, need)
        if pieces is None:
            return None
        terms.extend(resolve(pieces[0]))
        taken, need = pieces[1] + taken, 1
    return tuple(terms), taken


def cut(layout: Layout, position: int) -> tuple[Layout, Layout] | None:
    """A layout as two, one after the other, the first of `position` indices."""
    terms = resolve(layout)
    if not terms:
        return None
    first, rest = terms[0], terms[1:]
    block = size_of(rest)
    if not isinstance(first.size, int) or not isinstance(block, int) or position % block:
        return None
    pieces = _cut_term(first, position // block)
    return None if pieces is None else (pieces[0] + rest, pieces[1] + rest)


def _cut_term(term: Term, position: int) -> tuple[Layout, Layout] | None:
    assert isinstance(term.size, int)
    if isinstance(term, Atom):
        left = _piece(position, term.reason)
        right = _piece(term.size - position, term.reason)
        if term.reason is None:
            term.bound = (Concat((left, right), term.size),)
        return left, right
    before: list[Layout] = []
    for number, part in enumerate(term.parts):
        size = size_of(part)
        assert isinstance(size, int)
        if position == 0:
            return concat(before), concat(term.parts[number:])
        if position < size:
            pieces = cut(part, position)
            if pieces is None:
                return None
            after = (pieces[1], *term.parts[number + 1 :])
            return concat([*before, pieces[0]]), concat(after)
        before.append(part)
        position -= size
    return None


def _piece(size: int, reason: str | None) -> Layout:
    return () if size == 1 else (Atom(size, reason),)


def regroup(terms: Layout, sizes: tuple[Dim, ...]) -> tuple[list[Layout | None], Layout]:
    """The terms of several axes dealt out to new axes of the given sizes, None where impossible.

    The dealing goes from the innermost axis outwards and, where that gets stuck, from the
    outermost inwards, so that one strange axis spoils no more than it must. The terms in the
    middle that make up no axes are told too.
    """
    found: list[Layout | None] = [None] * len(sizes)
    rest = list(resolve(terms))
    last = len(sizes)
    while last > 0:
        size = sizes[last - 1]
        if rest and rest[-1].size == size and rest[-1].bound is None:
            found[last - 1] = (rest.pop(),)
        else:
            pieces = split_layout(tuple(rest), size)
            if pieces is None:
                break
            rest, found[last - 1] = list(resolve(pieces[0])), pieces[1]
        last -= 1
    for first in range(last):
        taken = _take_first(rest, sizes[first])
        if taken is None:
            break
        found[first] = taken
    return found, tuple(rest)


def _take_first(rest: list[Term], size: Dim) -> Layout | None:
    """Remove whole terms from the front until they make up `size`."""
    total: Dim = 1
    for count in range(len(rest) + 1):
        if total == size:
            taken = tuple(rest[:count])
            del rest[:count]
            return taken
        if count < len(rest):
            total = total * rest[count].size
    return None
