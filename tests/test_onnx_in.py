"""Reading ONNX, operator by operator: the node tests of onnx give what they must give."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from netir.frontends.onnx.table import OPERATORS
from tests.marked import embedded
from tests.onnx_cases import EXCLUDED, cases, disagreement, excluded
from tests.onnx_table import table

GROUPS = 40


def groups() -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for number, name in enumerate(sorted(cases())):
        found[number * GROUPS // len(cases())].append(name)
    return found


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
@pytest.mark.parametrize("group", range(GROUPS))
def test_node_tests_agree(group: int) -> None:
    claimed = [name for name in groups()[group] if not excluded(name)]
    assert [d for d in map(disagreement, claimed) if d] == []


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_what_is_excluded_does_not_agree() -> None:
    if torch.__version__ >= "2.14":
        pytest.skip("the exclusions are those of older versions of torch")
    assert [n for n in cases() if excluded(n) and not disagreement(n)] == []


@pytest.mark.parametrize("pattern", EXCLUDED)
def test_every_exclusion_is_used(pattern: str) -> None:
    assert any(re.search(pattern, name) for name in cases())


# Operators that no node test of onnx covers; test_onnx_in_models.py reads them.
UNCOVERED = {
    "ConcatFromSequence", "GRU", "GlobalLpPool", "SequenceAt", "SequenceConstruct",
    "SequenceEmpty", "SequenceInsert", "SequenceLength", "SplitToSequence",
    "ai.onnx.ml.LinearClassifier", "ai.onnx.ml.LinearRegressor", "ai.onnx.ml.Normalizer",
    "ai.onnx.ml.Scaler", "ai.onnx.ml.ZipMap",
}  # fmt: skip


def test_every_operator_has_a_node_test() -> None:
    seen = set()
    for name, case in cases().items():
        if not excluded(name):
            for node in case.model.graph.node:
                seen.add(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
    assert set(OPERATORS) - seen == UNCOVERED


def test_the_page_has_the_table() -> None:
    page = Path(__file__).parents[1] / "docs/onnx-in.md"
    assert embedded(page.read_text(), "operators") == table()
