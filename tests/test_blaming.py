"""Memory or depth that runs out is told as what it is, and never blamed on a file or a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch

import netir
from netir import NetirError, store
from netir.errors import blaming, first_line
from netir.frontends.onnx import load, walk
from netir.ir import Graph, Node, Ref, TensorType
from netir.lower import exporter, proof
from netir.lower.onnx import onnx_model
from netir.ops.activation import Dropout
from netir.ops.base import Op
from netir.ops.create import Full
from netir.ops.order import Argsort
from netir.ops.pointwise import Relu
from netir.ops.reduce import Softmax
from tests.onnx_by_hand import model_of, node
from tests.zoo.traced import traced

MEMORY = "this needs more memory than there is"
DEEP = "this is nested too deeply"


def full(*_: Any, **options: Any) -> Any:
    raise MemoryError


def full_torch(*_: Any, **options: Any) -> Any:
    return torch.empty(2**62, dtype=torch.uint8)


def endless(*given: Any, **options: Any) -> Any:
    return endless(*given, **options)


failures = pytest.mark.parametrize(
    ("fail", "what"), [(full, MEMORY), (full_torch, MEMORY), (endless, DEEP)]
)


def told(what: str, call: Callable[[], object]) -> NetirError:
    """The error of a call: what ran out, and what to do."""
    with pytest.raises(NetirError, match=what) as caught:
        call()
    assert caught.value.fix
    return caught.value


def read(fail: Callable[[], object]) -> None:
    with blaming(lambda error: NetirError(f"the file is damaged: {first_line(error)}", fix="mend")):
        fail()


def test_what_torch_does_not_compute_is_told() -> None:
    graph = netir.trace(torch.nn.Embedding(5, 2), (torch.tensor([[1, 2], [3, 4]]),))
    error = told("'embedding' cannot be computed: index out of range",
                 lambda: netir.run(graph, torch.tensor([[9, 9]])))  # fmt: skip
    assert error.where == "embedding of shapes (5, 2), (1, 2)"


@failures
def test_what_ran_out_is_told(fail: Callable[[], object], what: str) -> None:
    assert told(what, lambda: read(fail)).__cause__ is not None


def test_everything_else_is_blamed() -> None:
    error = told("the file is damaged: .nothing", lambda: read(lambda: {}["nothing"]))
    assert isinstance(error.__cause__, KeyError)
    own = NetirError("no such node", fix="name another")
    assert told("no such node", lambda: read(lambda: throw(own))) is own


@pytest.mark.parametrize(
    "words",
    ["CUDA out of memory. Tried to allocate 20.00 MiB", "std::bad_alloc",
     "Error parsing message with type 'onnx.ModelProto': Arena alloc failed",
     "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9"],
)
def test_the_words_of_others_for_memory(words: str) -> None:
    told(MEMORY, lambda: read(lambda: throw(Exception(words))))


def throw(error: Exception) -> None:
    raise error


def test_a_line_of_an_error() -> None:
    assert first_line(ValueError(" one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("x" * 400)) == "x" * 300 + "…"


@failures
@pytest.mark.parametrize(
    ("place", "name"),
    [(ir.serde, "deserialize_model"), (load, "_expect_bounded"), (walk.Walk, "_called"),
     (ir.TensorProtoTensor, "numpy"), (walk.Walk, "read")],
)  # fmt: skip
def test_onnx_files_are_not_blamed(
    place: Any, name: str, fail: Any, what: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(model_of([node("Add", "x w", "y")], {"x": [2]}, ["y"], {"w": [1.0, 2.0]}), path)
    monkeypatch.setattr(place, name, fail)
    assert str(path) in told(what, lambda: netir.from_onnx(path)).where


@failures
def test_netir_files_are_not_blamed(
    fail: Any, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.netir"
    netir.save(netir.trace(torch.nn.ReLU(), (torch.ones(2, 3),)), path)
    monkeypatch.setattr(Relu, "infer", fail)
    assert str(path) in told(what, lambda: netir.load(path)).where
    monkeypatch.setattr(store, "safe_open", fail)
    assert told(what, lambda: netir.load(path)).where == str(path)


@failures
@pytest.mark.parametrize(
    ("place", "name"),
    [(proof, "open_session"), (proof, "run_session"), (exporter.torch.onnx, "export")],
)
@pytest.mark.filterwarnings("ignore::netir.NetirWarning")
def test_networks_are_not_blamed(
    place: Any, name: str, fail: Any, what: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sample, graph = traced("opaque_search" if name == "export" else "tied_layers")
    monkeypatch.setattr(place, name, fail)
    told(what, lambda: netir.to_onnx(graph, tmp_path / "a.onnx", sample.args, sample.kwargs))
    assert list(tmp_path.iterdir()) == []


def graph_of(op: Op, shape: tuple[int, ...] = (2, 3)) -> Graph:
    """A graph of one node whose attributes nobody has held against its operands."""
    kind = TensorType(torch.float32, shape)
    node = Node("y", op, ("x",), (kind,))
    return Graph("g", {"x": kind}, {"y": node}, {}, Ref("y"), {"x": Ref("x")})


def test_attributes_that_do_not_fit_are_told() -> None:
    wrong = graph_of(Softmax(dim=7))
    told("the axes of 'y' cannot be told: tuple index out of range", wrong.spaces)
    told("'y' cannot be computed: Dimension out of range",
         lambda: netir.run(wrong, torch.ones(2, 3)))  # fmt: skip
    told("'y' cannot be written as a module: dropout", lambda: netir.to_torch(graph_of(Dropout(7))))
    told("'y' cannot be written as ONNX: .* index out of range",
         lambda: onnx_model(graph_of(Argsort(dim=7))))  # fmt: skip


def test_a_network_of_nothing_is_told() -> None:
    kind = TensorType(torch.float32, (2,))
    graph = Graph("g", {}, {"y": Node("y", Full((2,)), (), (kind,))}, {}, Ref("y"), {})
    told("the network reads no input and no parameter", lambda: netir.to_torch(graph))
