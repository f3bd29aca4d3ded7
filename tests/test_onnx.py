"""Whole networks as ONNX: every sample that can be written agrees with ONNX Runtime."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import netir
from netir import NetirWarning
from netir.ir import Graph
from netir.lower.export import DIRECT
from netir.rewrite import Pass
from tests.pass_examples import EXAMPLES
from tests.zoo.constructs import CONSTRUCTS
from tests.zoo.families import FAMILIES
from tests.zoo.traced import REFUSED, traced

IN_FLOAT32 = {"bfloat16", "mixed_precision"}
"""Samples in bfloat16, for which ONNX Runtime has no code on a CPU."""

UNWRITTEN = {
    "unet": "slices by sizes of other values",
    "projected_lstm": "ONNX has no projection",
    "orthogonal": "matrix_exp",
    "dynamic_conv": "as many groups as the batch has samples",
    "bags": "embedding_bag",
    "opaque_cdist": "cdist",
    "opaque_solve": "linalg_solve",
    "opaque_special": "i0e and lgamma",
    "opaque_search": "bucketize",
}
"""Samples that netir cannot write as ONNX by itself, and why."""

STEPS: tuple[Pass, ...] = tuple(example for several in EXAMPLES.values() for example in several)

BUILT = [name for name in CONSTRUCTS if name not in REFUSED | UNWRITTEN]


def exports(name: str, path: Path, rewrite: Callable[[Graph], Graph] = lambda graph: graph) -> None:
    sample, graph = traced(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        graph = rewrite(graph)
    found = netir.to_onnx(graph, path, sample.args, sample.kwargs)
    assert found.way == DIRECT
    assert bool(found.note) == (name in IN_FLOAT32)
    assert found.error <= found.allowed
    assert {"given", "random"} <= set(found.cases)
    assert {"large", "large in part"} & set(found.cases)
    assert ("zero" in found.cases) != any(node.op.ties for node in graph.nodes.values())


def by_chance(seed: str) -> Callable[[Graph], Graph]:
    """A pipeline of two to four passes, or of fewer where no more have anything to change.

    The seed draws them, so that every network gets another one, and the same each time.
    """

    def rewrite(graph: Graph) -> Graph:
        chance = random.Random(seed)
        most = chance.randint(2, 4)
        for step in chance.sample(STEPS, len(STEPS)):
            after = step(graph)
            graph = after if after.params else graph
            if len(graph.history) == most:
                break
        return graph

    return rewrite


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_agrees(name: str, tmp_path: Path) -> None:
    exports(name, tmp_path / "net.onnx")


@pytest.mark.parametrize("name", list(FAMILIES)[::7])
def test_families_agree_after_passes(name: str, tmp_path: Path) -> None:
    exports(name, tmp_path / "net.onnx", by_chance(name))


@pytest.mark.parametrize("name", BUILT[::9])
def test_constructs_agree(name: str, tmp_path: Path) -> None:
    exports(name, tmp_path / "net.onnx")


@pytest.mark.soak
@pytest.mark.parametrize("name", BUILT)
def test_every_construct_agrees(name: str, tmp_path: Path) -> None:
    exports(name, tmp_path / "net.onnx")


@pytest.mark.soak
@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("name", [*FAMILIES, *BUILT])
def test_all_agree_after_passes(name: str, turn: int, tmp_path: Path) -> None:
    exports(name, tmp_path / "net.onnx", by_chance(f"{name} {turn}"))
