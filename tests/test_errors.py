"""Every message that the page of errors lists is given where somebody makes that mistake.

docs/errors.md is the list. A message in it is the first line of an error or of a warning, with
`…` for what differs from case to case.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from netir.errors import NetirError, NetirWarning
from tests import mistakes, mistakes_in_files, mistakes_in_onnx, mistakes_in_training

PAGE = (Path(__file__).parents[1] / "docs" / "errors.md").read_text()
TABLES = [
    module.MISTAKES
    for module in (mistakes, mistakes_in_files, mistakes_in_onnx, mistakes_in_training)
]
MISTAKES = {message: mistake for table in TABLES for message, mistake in table.items()}


def listed() -> list[str]:
    """The messages of the page: the first column of its tables."""
    rows = re.findall(r"^\| (.*?) \|", PAGE, re.MULTILINE)
    return [row for row in rows if row != "message"]


def gives(message: str, text: str) -> bool:
    """Whether a text is this message, with something in every open place."""
    return bool(re.fullmatch(".+".join(map(re.escape, message.split("…"))), text))


def test_the_page_lists_what_is_tested_here() -> None:
    messages = listed()
    assert len(messages) > 200
    assert sorted(messages) == sorted(MISTAKES)
    assert len(MISTAKES) == sum(map(len, TABLES))


@pytest.fixture
def _errors_of_torch() -> Iterator[list[str]]:
    """What torch writes about a mistake, past everybody, beside what netir says of it."""
    written: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(n) for n in logging.root.manager.loggerDict if n[:5] == "torch"]
    for logger in loggers:
        logger.addHandler(handler)
    yield written
    for logger in loggers:
        logger.removeHandler(handler)
    assert written == []


@pytest.mark.parametrize("message", MISTAKES)
@pytest.mark.usefixtures("_errors_of_torch")
def test_message(message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((NetirError, NetirWarning)) as caught:
        MISTAKES[message]()
    said = str(caught.value)
    assert gives(message, said.partition("\n")[0]), said
    assert "\n" in said or isinstance(caught.value, NetirWarning), "no word of where or what to do"
