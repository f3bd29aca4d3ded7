"""The pages tell the truth: their Python runs, and the messages that they list exist."""

import re
import runpy
from pathlib import Path

import pytest

from netir.cli import app
from netir.text import parse_graph, print_graph
from tests.marked import embedded
from tests.reference import reference

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNNABLE = [page for page in PAGES if "```python\n" in page.read_text()]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page, moved down to their lines so that tracebacks point there."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, m.start(1)) + m[1] for m in found]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec", dont_inherit=True), names)


@pytest.mark.parametrize(
    "example", sorted((ROOT / "examples").glob("*.py")), ids=lambda file: file.stem
)
def test_examples_run(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")


def test_the_printed_graph_is_one() -> None:
    text = blocks(ROOT / "docs/text.md", "")[0].lstrip("\n")
    assert print_graph(parse_graph(text)) == text


def test_every_command_has_its_line() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    for command in app.registered_commands:
        assert command.callback is not None
        assert f"\nnetir {command.callback.__name__}" in page


def test_listed_messages_exist() -> None:
    """Each part of a message between its open places stands somewhere in the source."""
    folders = ("netir", "passes", "frontends")
    files = (file for folder in folders for file in sorted((ROOT / folder).rglob("*.py")))
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(file.read_text() for file in files))
    for row in re.findall(r"^\| (.*?) \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE):
        if row in ("message", "---"):
            continue
        for part in re.split(r"…|; |'|@|\(|\)|`", row):
            if len(part.split()) > 2:
                assert part.strip(" ,") in source, row


def test_every_pass_is_described_as_it_is() -> None:
    found = embedded((ROOT / "docs/passes.md").read_text(), "reference")
    assert found == reference(), "run `python -m tests.reference docs/passes.md`"


def test_pages_are_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [p.name for p in (ROOT / "docs").glob("*.md") if p.name not in menu] == []
