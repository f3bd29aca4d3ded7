"""What is wrong with a spec: every problem with its path, gathered and told in one error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from netir.errors import NetirError, nearest
from netir.spec.yaml import Document, Path, inline

_MOST = 20


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, at one part of a spec; with `key`, it is the key that is wrong."""

    path: Path
    what: str
    fix: str = ""
    key: bool = False


def refuse(problems: Iterable[Problem]) -> NoReturn:
    """Raise problems inside a validator; pydantic puts the path so far before each."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("netir", "{what}", asdict(problem)),
            loc=problem.path,
            input=None,
        )
        for problem in problems
    ]
    raise ValidationError.from_exception_data("spec", details)


def problems_of(
    error: ValidationError, known: Callable[[Path], Iterable[str]]
) -> list[Problem]:
    """What pydantic found, in words; `known` tells which keys the mapping at a path has."""
    return [_problem(found, known) for found in error.errors(include_url=False)]


def _problem(found: ErrorDetails, known: Callable[[Path], Iterable[str]]) -> Problem:
    path, context = tuple(found["loc"]), found.get("ctx", {})
    if found["type"] == "netir":
        return Problem(path, context["what"], context["fix"], context["key"])
    what = found["msg"].replace("Input should", "it should")
    if found["type"] == "string_pattern_mismatch":
        what = "it may have letters, digits, '.', '-' and '_', up to 100 in all"
    if found["type"] == "extra_forbidden":
        fix = nearest(str(path[-1]), known(path[:-1]))
        return Problem(path, f"{_dotted(path[:-1])} has no '{path[-1]}'", fix, key=True)
    if found["type"] == "missing":
        return Problem(path[:-1], f"'{path[-1]}' is missing", f"add '{path[-1]}: …'")
    return Problem(path, f"{_dotted(path)} is {shown(found['input'])}: {what}")


def _dotted(path: Path) -> str:
    return f"'{'.'.join(map(str, path))}'" if path else "the spec"


def shown(value: Any) -> str:
    """A value in a message, shortened."""
    plain = isinstance(value, (str, int, float, bool, list, dict, type(None)))
    text = inline(value) if plain else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


class SpecError(NetirError):
    """A spec with problems, each told with its place in the text."""

    def __init__(self, problems: Iterable[Problem], document: Document) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        if len(self.problems) == 1:
            only = self.problems[0]
            super().__init__(only.what, document.where(only.path, only.key), only.fix)
        else:
            super().__init__("\n".join(_lines(self.problems, document)))

    def __reduce__(self) -> tuple[type[NetirError], tuple[str, str, str]]:
        return NetirError, (self.what, self.where, self.fix)


def _lines(problems: Sequence[Problem], document: Document) -> Iterator[str]:
    yield f"the spec has {len(problems)} problems"
    for item in problems[:_MOST]:
        fix = f" ({item.fix})" if item.fix else ""
        yield f"  {document.where(item.path, item.key)}: {item.what}{fix}"
    if len(problems) > _MOST:
        yield f"  and {len(problems) - _MOST} more"


__all__ = ["Problem", "SpecError", "problems_of", "refuse", "shown"]
