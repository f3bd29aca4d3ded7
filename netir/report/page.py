"""The page: a story and the files beside this one, put together as one HTML file.

What a story says, above all the names of layers, is not trusted: it stands in the page as JSON
in which no tag can begin, or escaped, and the page's policy lets no other script run and nothing
be fetched.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html import escape
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from netir.errors import NetirError
from netir.files import replacing
from netir.report.drawing import Drawing, compare
from netir.report.headline import headline
from netir.report.story import Story

SCRIPTS = (
    "dom.js", "data.js", "summary.js", "scales.js", "widths.js", "curves.js", "growth.js",
    "pareto.js", "layout.js", "graph.js", "panel.js", "gestures.js", "main.js",
)  # fmt: skip
"""The scripts of the page, each of which may use those before it."""


def write_report(story: Story, path: str | Path) -> Path:
    """Write the report of a run as one HTML file that needs nothing else; returns its path."""
    target = Path(path)
    if target.is_dir():
        raise NetirError("the report needs the name of a file, not of a folder", str(target),
                         f"write it to {target / 'report.html'}")  # fmt: skip
    text = report_html(story)
    with replacing(target) as draft:
        draft.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    return target


def report_html(story: Story) -> str:
    """The page as text."""
    style = _file("report.css")
    script = f'"use strict";\n(() => {{\n{"".join(map(_file, SCRIPTS))}}})();\n'
    parts = {
        "policy": _policy(script, style),
        "title": escape(story.title or "Report"),
        "headline": escape(headline(story)),
        "style": style,
        "script": script,
        "data": _safe_json({"story": story.to_json(), "comparisons": list(_comparisons(story))}),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _file("report.html"))


def _file(name: str) -> str:
    return (files("netir.report") / name).read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    """Only the page's own script and style, and no request to anywhere."""
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _safe_json(data: Mapping[str, Any]) -> str:
    """JSON in plain ASCII in which no tag, comment or entity can begin."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _comparisons(story: Story) -> Iterator[dict[str, Any]]:
    """Which boxes differ between the first and the last drawing, then for each step.

    Boxes are told by their place in their drawing, `from` and `to` are stages.
    """
    drawn = [(i, stage.drawing) for i, stage in enumerate(story.stages) if stage.drawing]
    if not drawn:
        return
    yield _comparison(*drawn[0], *drawn[-1])
    if len(drawn) > 2:
        for before, after in pairwise(drawn):
            yield {**_comparison(*before, *after), "step": after[0]}


def _comparison(first: int, before: Drawing, last: int, after: Drawing) -> dict[str, Any]:
    marks = compare(before, after)
    places = {box.name: i for i, box in enumerate(after.boxes)}
    gone = {box.name: i for i, box in enumerate(before.boxes)}
    return {
        "from": first,
        "to": last,
        "added": [places[name] for name in marks.added],
        "changed": [places[name] for name in marks.changed],
        "removed": [gone[name] for name in marks.removed],
    }
