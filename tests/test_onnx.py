"""Whole networks as ONNX: every sample that can be written agrees with ONNX Runtime."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import netir
from netir import NetirWarning
from netir.ir import Graph
from netir.lower.export import DIRECT
from netir.passes import Prune, Widen
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
    assert {"given", "random", "large"} <= set(found.cases)
    assert ("zero" in found.cases) != any(node.op.ties for node in graph.nodes.values())


def reshaped(graph: Graph) -> Graph:
    """What a pipeline leaves: narrower and wider."""
    return Widen(factor=1.5)(Prune(amount=0.3, score="random")(graph))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_agrees(name: str, tmp_path: Path) -> None:
    exports(name, tmp_path / "net.onnx")


@pytest.mark.parametrize("name", list(FAMILIES)[::7])
def test_families_agree_after_passes(name: str, tmp_path: Path) -> None:
    exports(name, tmp_path / "net.onnx", reshaped)


@pytest.mark.parametrize("name", BUILT[::9])
def test_constructs_agree(name: str, tmp_path: Path) -> None:
    exports(name, tmp_path / "net.onnx")


@pytest.mark.soak
@pytest.mark.parametrize("name", BUILT)
def test_every_construct_agrees(name: str, tmp_path: Path) -> None:
    exports(name, tmp_path / "net.onnx")


@pytest.mark.soak
@pytest.mark.parametrize("name", [*FAMILIES, *BUILT])
def test_all_agree_after_passes(name: str, tmp_path: Path) -> None:
    exports(name, tmp_path / "net.onnx", reshaped)
