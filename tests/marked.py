"""A part of a page that is written by a program: what stands between two markers of one name."""

from __future__ import annotations

from pathlib import Path


def embedded(text: str, name: str) -> str:
    """The part of a page."""
    return text.partition(f"<!-- {name}:begin -->")[2].partition(f"<!-- {name}:end -->")[0].strip()


def embed(path: Path, name: str, part: str) -> None:
    """Put a part into a page."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, _, rest = path.read_text().partition(begin)
    after = rest.partition(end)[2]
    path.write_text(f"{before}{begin}\n{part}\n{end}{after}")
