"""YAML as specs use it: what is read, what is refused and where, and the way back."""

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netir.errors import NetirError
from netir.spec.yaml import LARGEST, read, write


def refused(text: str) -> str:
    with pytest.raises(NetirError) as error:
        read(text, "a.yaml")
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("a:", {"a": None}),
        ("[null, ~, true, FALSE, no, yes, on]", [None, None, True, False, "no", "yes", "on"]),
        ("[1, -1, +1, 012, 0o17, 0x1F]", [1, -1, 1, 12, 15, 31]),
        ("[1e6, .5, 1., -2.5E-3, .inf, -.inf]", [1e6, 0.5, 1.0, -2.5e-3, math.inf, -math.inf]),
        ("[1_000, 1:30, 2026-01-01, '1', \"1\"]", ["1_000", "1:30", "2026-01-01", "1", "1"]),
        ("a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
        ("{a: {b: [1, {c: 2}]}}", {"a": {"b": [1, {"c": 2}]}}),
        ("1: x\ntrue: y\n", {"1": "x", "true": "y"}),
        ("%YAML 1.2\n---\na: 1\n...\n", {"a": 1}),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = read(text).value
    assert found == value
    assert repr(found) == repr(value)


def test_places() -> None:
    found = read("a: 1\nb:\n  - x: 2\n    y: [3, 4]\n", "a.yaml")
    assert found.where(("b", 0, "y")) == "a.yaml:4:8"
    assert found.where(("b", 0, "y"), key=True) == "a.yaml:4:5"
    assert found.where(("b", 0, "y", 1)) == "a.yaml:4:12"
    assert found.where(("b", 0, "z")) == "a.yaml:3:5"
    assert found.where(("c",)) == "a.yaml:1:1"


@pytest.mark.parametrize(
    ("text", "what", "place"),
    [
        ("a: 1\na: 2", "'a' is there twice", "a.yaml:2:1"),
        ("x: {a: 1, 'a': 2}", "'a' is there twice", "a.yaml:1:11"),
        ("a: &x 1", "anchors and aliases", "a.yaml:1:4"),
        ("a: *x", "anchors and aliases", "a.yaml:1:4"),
        ("&x a: 1", "a key must be a plain word", "a.yaml:1:1"),
        ("a: !!str 1", "the tag tag:yaml.org,2002:str is not for specs", "a.yaml:1:4"),
        ("a: !!python/object:os.system {}", "the tag", "a.yaml:1:4"),
        ("? [a]\n: 1", "a key must be a plain word", "a.yaml:1:3"),
        ("a: 1\n---\nb: 2", "there is a second document", "a.yaml:2:1"),
        ("%YAML 1.1\n---\na: 1", "another version of YAML", "a.yaml:2:1"),
        ("a: [1, 2", "this is no YAML", "a.yaml:1:9"),
        ("a: b: c", "this is no YAML", "a.yaml:1:5"),
        ("a: .nan", ".nan is no value for a spec", "a.yaml:1:4"),
        (f"a: {'9' * 500}", "this number is too long", "a.yaml:1:4"),
        ("[" * 40 + "]" * 40, "nested too deeply", "a.yaml:1:34"),
        ('a: "\\ud800"', "half of a character", "a.yaml:1:4"),
        ('a: "\\e[31m"', "control character", "a.yaml:1:4"),
        (f"{'k' * 300}: 1", "a key is too long", "a.yaml:1:1"),
        ("a: \x00", "this is no YAML", "a.yaml"),
        ("- " * LARGEST, "a spec has at most", "a.yaml"),
    ],
)
def test_refused(text: str, what: str, place: str) -> None:
    message = refused(text)
    assert what in message
    assert f"at  {place}\n" in f"{message}\n"


def test_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    assert "anchors" in refused("\n".join(lines))


TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
TREES = st.recursive(
    SCALARS,
    lambda part: st.lists(part, max_size=4) | st.dictionaries(TEXTS, part, max_size=4),
    max_leaves=20,
)


@given(TREES)
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_read(tree: Any) -> None:
    text = write(tree)
    found = read(text).value
    assert found == tree
    assert write(found) == text
    assert repr(found) == repr(tree)


@given(st.text(max_size=60) | st.text("abc:-[]{}&*!|>'\"#%@`,? \n\t0123.~", max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_is_data_or_refused(text: str) -> None:
    with suppress(NetirError):
        assert write(read(text).value)


def test_layout() -> None:
    tree = {"a": [1, 2], "b": [{"c": "x", "d": [{"e": None}]}, []], "f": {}, "g": {"h": "1"}}
    assert write(tree) == (
        'a: [1, 2]\nb:\n  - c: x\n    d:\n      - e: null\n  - []\nf: {}\ng:\n  h: "1"\n'
    )


def test_what_has_no_place() -> None:
    with pytest.raises(NetirError, match="a object has no place in a spec"):
        write({"a": object()})
