"""The README's support table is what the code gives, and the promise behind it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.marked import embedded
from tests.support import free_share, row
from tests.zoo.families import FAMILIES
from tests.zoo.traced import traced

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_readme_has_the_row(name: str) -> None:
    lines = embedded(README.read_text(), "support").splitlines()
    assert row(name) in lines, "run `python -m tests.support README.md`"


@pytest.mark.parametrize("name", FAMILIES)
def test_most_parameters_can_change(name: str) -> None:
    assert free_share(traced(name)[1]) > 0.5
