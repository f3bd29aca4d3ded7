"""Options of a file for a dataclass: from its type hints, with no second list; and the schema."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from netir.errors import NetirError
from netir.passes import PASSES
from netir.passes.scores import SCORES
from netir.spec.options import checked, in_words, made, options
from netir.spec.problems import Problem
from netir.spec.schema import json_schema
from netir.spec.words import choices


@dataclass(frozen=True)
class Part:
    """A nested value."""

    weight: float = 1.0


@dataclass(frozen=True)
class Odd:
    """Options of every kind."""

    needed: int
    choice: Literal["one", "two"] | None = None
    many: tuple[str, ...] = ("a",)
    pairs: tuple[tuple[str, int], ...] = ()
    table: dict[str, float] | None = None
    part: Part = Part()
    function: Callable[[int], int] | None = None
    hook: "str | Hidden" = ""  # type: ignore[name-defined] # noqa: F821
    hidden: "Hidden | None" = None  # type: ignore[name-defined] # noqa: F821


def test_options_of_every_kind() -> None:
    known = options(Odd)
    assert {name: option.takes for name, option in known.items()} == {
        "needed": "a whole number",
        "choice": "one, two or null",
        "many": "a list of text",
        "pairs": "a list of [text, a whole number]",
        "table": "a mapping or null",
        "part": "a Part",
        "function": "what only a program can give",
        "hook": "text",
        "hidden": "what only a program can give",
    }
    given = {"needed": 1, "choice": "two", "pairs": [["a", 1]], "table": {"x": 1}, "hook": "h",
             "part": {"weight": 2}}  # fmt: skip
    values, problems = checked(Odd, given, "odd")
    assert problems == []
    assert made(Odd, values)[0] == Odd(
        1, "two", pairs=(("a", 1),), table={"x": 1.0}, hook="h", part=Part(2.0)
    )
    assert {name: known[name].plain(value) for name, value in values.items()} == {
        "needed": 1, "choice": "two", "pairs": [["a", 1]], "table": {"x": 1.0}, "hook": "h",
        "part": {"weight": 2.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value", "what", "fix"),
    [
        ("choice", "tow", "takes one, two or null, not tow", "did you mean 'two'?"),
        ("choice", 3, "takes one, two or null, not 3", ""),
        ("many", "a", "takes a list of text, not a", ""),
        ("pairs", [["a", "b"]], "takes a list of [text, a whole number]", "0.1: "),
        ("part", {"wait": 1}, "takes a Part", "wait: "),
        ("function", "len", "cannot be given in a file", "give it in a program"),
        ("hidden", 1, "cannot be given in a file", "give it in a program"),
        ("functoin", 1, "odd has no option 'functoin'", "known: choice, hook"),
        ("needed", 1.5, "takes a whole number, not 1.5", ""),
        ("needed", math.inf, "takes a whole number, not .inf", ""),
    ],
)
def test_options_that_are_wrong(option: str, value: Any, what: str, fix: str) -> None:
    _, problems = checked(Odd, {"needed": 1, option: value}, "odd")
    assert [problem.path for problem in problems] == [(option,)]
    assert what in problems[0].what
    assert fix in problems[0].fix


def test_a_needed_option() -> None:
    _, problems = checked(Odd, {}, "odd")
    assert problems[0].what == "odd needs the option 'needed'"


@pytest.mark.parametrize(
    ("name", "option", "given", "meant"),
    [
        ("prune", "scope", "globel", "global"),
        ("prune", "normalise", "maxx", "max"),
        ("prune", "kind", "head", "heads"),
        ("prune", "compensate", "leastsquares", "least-squares"),
        ("prune-branches", "score", "residuals", "residual"),
        ("widen", "split", "unequal", "equal"),
        ("widen", "order", "cyclic", "cycle"),
        ("deepen", "kind", "layers", "layer"),
        ("deepen", "pool", "mx", "max"),
        ("shrink", "kind", "blocks", "block"),
        ("shrink", "score", "identify", "identity"),
        ("factorize", "kind", "tucker2", "tucker"),
        ("mask", "score", "magnitudes", "magnitude"),
        ("mask", "scope", "globally", "global"),
        ("regrow", "score", "gradients", "gradient"),
    ],
)
def test_options_of_a_few_values_name_them(name: str, option: str, given: str, meant: str) -> None:
    """In the schema, in the list of passes, and where another value is given."""
    cls = PASSES[name]
    known = [choice for choice in choices(options(cls)[option].hint) if choice is not None]
    assert meant in known
    steps = json_schema()["properties"]["passes"]["items"]["anyOf"]
    step = next(s for s in steps if s["properties"].get("pass") == {"const": name})
    assert str(known) in str(step["properties"][option])
    _, problems = checked(cls, {option: given}, name)
    assert [problem.path for problem in problems] == [(option,)]
    assert all(choice in problems[0].what for choice in known)
    assert problems[0].fix == f"did you mean '{meant}'?"
    for choice in known:
        values, problems = checked(cls, {option: choice}, name)
        assert values == {option: choice}
        assert problems == []
    with pytest.raises(NetirError, match=f"'{given}'"):
        cls(**{option: given})


def test_types_in_words() -> None:
    assert in_words(bool | float | None) == "true or false, a number or null"


def test_the_schema() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    steps = schema["properties"]["passes"]["items"]["anyOf"]
    assert [s["properties"].get("pass", {}).get("const") for s in steps] == [*PASSES, None]
    prune = next(s for s in steps if s["properties"].get("pass") == {"const": "prune"})
    assert prune["properties"]["score"] == {"enum": list(SCORES), "default": "l2"}
    assert prune["properties"]["round_to"] == {"type": "integer", "default": 1}
    assert {"type": "boolean"} in schema["properties"]["verify"]["anyOf"]
    assert schema["required"] == ["netir_spec"]
    for name, part in schema["properties"].items():
        assert name in ("netir_spec", "name") or "description" in part or "$ref" in part


def test_the_schema_refers_to_what_is_there() -> None:
    schema = json_schema()
    text = json.dumps(schema)
    names = {part.partition('"')[0] for part in text.split('"$ref": "#/$defs/')[1:]}
    assert names == set(schema["$defs"])


def test_checks_of_others_may_raise_anything() -> None:
    @dataclass(frozen=True)
    class Strict:
        count: int = 1

        def __post_init__(self) -> None:
            if self.count > 3:
                raise ValueError(f"{self.count} is too many")

    _, problems = made(Strict, {"count": 4})
    assert problems == [Problem(("count",), "4 is too many")]


def test_only_what_is_wrong_is_told() -> None:
    """An option that is right beside another is no problem, though alone it would be."""
    given = {"kind": "block", "score": "change", "where": "layer1", "count": -1}
    _, problems = made(PASSES["shrink"], given)
    assert [problem.path for problem in problems] == [("count",)]
    given = {"kind": "cell", "score": "change"}
    _, problems = made(PASSES["shrink"], given)
    assert [problem.path for problem in problems] == [()]
    _, problems = made(Depends, {"letter": "b", "number": 2, "other": -1})
    assert [problem.path for problem in problems] == [("other",)]


@dataclass(frozen=True)
class Depends:
    """A number that only one letter allows."""

    letter: str = "a"
    number: int = 1
    other: int = 0

    def __post_init__(self) -> None:
        if self.number > 1 and self.letter == "a":
            raise ValueError("a has no number 2")
        if self.other < 0:
            raise ValueError("other is negative")
