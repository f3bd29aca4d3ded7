"""What specs can name, in words: a list, or all about one: options, defaults, a part of a spec.

Passes with their contracts; and what grows a network while it trains: growers, triggers, inits.
"""

from __future__ import annotations

import inspect
from typing import Any

import typer

from netir import registry
from netir.cli.tables import console, table
from netir.errors import NetirError, nearest
from netir.rewrite import Pass
from netir.spec.options import Option, options
from netir.spec.yaml import inline, write


def print_passes() -> None:
    """Every pass with its contract and one sentence."""
    made = table(("pass", "keeps", "does"))
    for name in registry.names("pass"):
        cls: type[Pass] = registry.called("pass", name)
        made.add_row(name, cls.preserves.value, first_sentence(cls))
    console().print(made)
    typer.echo("\nnetir passes NAME tells the options of one")


def print_pass(name: str) -> None:
    """One pass: what it says of itself, its options, and how a spec writes it."""
    cls: type[Pass] = registry.called("pass", name)
    typer.echo(f"{name}: keeps the contract '{cls.preserves.value}'\n")
    typer.echo(f"{inspect.cleandoc(cls.__doc__ or '')}\n")
    _print_options(cls)
    typer.echo(f"\nin a spec:\n\n{snippet(cls)}", nl=False)


def _print_options(cls: type) -> None:
    made = table(("option", "takes", "default"))
    for option in options(cls).values():
        made.add_row(option.name, option.takes, _default(option))
    console().print(made)
    for kind in {option.kind: None for option in options(cls).values() if option.kind}:
        typer.echo(f"{kind}s: {', '.join(registry.names(kind))}")


_GROWTH = ("grower", "trigger", "init")


def print_methods() -> None:
    """Every grower, trigger and init with one sentence."""
    for kind in _GROWTH:
        made = table((kind, "does"))
        for name in registry.names(kind):
            made.add_row(name, first_sentence(registry.called(kind, name)))
        console().print(made)
        typer.echo("")
    typer.echo("netir methods NAME tells the options of one")


def print_method(name: str) -> None:
    """All that has a name: what it says of itself, its options, and how a spec writes it."""
    for place, kind in enumerate(_kinds(name)):
        thing = registry.called(kind, name)
        if place:
            typer.echo("")
        typer.echo(f"{name} ({kind})\n\n{inspect.cleandoc(thing.__doc__ or '')}\n")
        if isinstance(thing, type) and options(thing):
            _print_options(thing)
            typer.echo("")
        typer.echo(f"in a spec:\n\n{_growth_snippet(kind, name)}", nl=False)


def plain_methods(name: str = "") -> list[dict[str, Any]]:
    """Growers, triggers and inits as plain data, for other programs."""
    return [
        _plain_method(kind, each)
        for kind in (_kinds(name) if name else _GROWTH)
        for each in ([name] if name else registry.names(kind))
    ]


def _plain_method(kind: str, name: str) -> dict[str, Any]:
    thing = registry.called(kind, name)
    known = options(thing).values() if isinstance(thing, type) else ()
    return {
        "name": name,
        "kind": kind,
        "about": inspect.cleandoc(thing.__doc__ or ""),
        "options": [_plain_option(option) for option in known],
    }


def _kinds(name: str) -> list[str]:
    """The kinds that have a name."""
    found = [kind for kind in _GROWTH if name in registry.names(kind)]
    if not found:
        known = dict.fromkeys(each for kind in _GROWTH for each in registry.names(kind))
        raise NetirError(
            f"there is no grower, trigger or init '{name}'", fix=nearest(name, known)
        )
    return found


def _growth_snippet(kind: str, name: str) -> str:
    """A part of a spec that names a grower, a trigger or an init."""
    thing = registry.called(kind, name)
    grow: dict[str, Any] = {"method": "grower", "trigger": "activations"}
    if kind == "grower":
        grow = {**grow, **_given(thing)} if name == "grower" else {"method": name, **_given(thing)}
    elif kind == "trigger":
        grow = {"method": "grower", "trigger": {"name": name, **_given(thing)}}
    else:
        grow["init"] = name
    return write({"passes": [{"train": {"epochs": 10, "grow": grow}}]})


def _given(cls: type) -> dict[str, Any]:
    """What the options of a class are without being given, where that is something."""
    return {
        option.name: option.plain(option.default)
        for option in options(cls).values()
        if option.in_files and option.default is not None
    }


def plain_passes(name: str = "") -> list[dict[str, Any]]:
    """The passes as plain data, for other programs."""
    names = [name] if name else registry.names("pass")
    return [_plain(registry.called("pass", each)) for each in names]


def _plain(cls: type[Pass]) -> dict[str, Any]:
    return {
        "name": cls.name,
        "contract": cls.preserves.value,
        "about": inspect.cleandoc(cls.__doc__ or ""),
        "options": [_plain_option(option) for option in options(cls).values()],
    }


def _plain_option(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "takes": option.takes,
        "required": option.required,
        "in_files": option.in_files,
        "default": option.plain(option.default) if option.in_files else repr(option.default),
    }


def first_sentence(thing: Any) -> str:
    """The first sentence of a docstring."""
    return " ".join(inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0].split())


def snippet(cls: type[Pass]) -> str:
    """A part of a spec with what its options are without being given, where that is something."""
    return write({"passes": [{"pass": cls.name, **_given(cls)}]})


def _default(option: Option) -> str:
    if option.required:
        return "must be given"
    return inline(option.plain(option.default)) if option.in_files else repr(option.default)


__all__ = ["first_sentence", "plain_methods", "plain_passes", "print_method", "print_methods",
           "print_pass", "print_passes", "snippet"]  # fmt: skip
