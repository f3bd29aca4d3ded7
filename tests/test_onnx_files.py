"""ONNX files: what is in them, and when the file that was there stays."""

from __future__ import annotations

import importlib.util
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from torch import Tensor, nn

import netir
from netir import NetirError, NetirWarning
from netir.dims import Dim, evaluate, maximum, minimum, symbol
from netir.ir import Graph, Node, Ref, TensorType
from netir.lower import onnx_file, proof
from netir.lower.agree import agreement, cases, measured
from netir.lower.export import DIRECT, EXPORTER
from netir.lower.onnx import SCOPE, onnx_model
from netir.lower.session import open_session, provider_of, run_session
from netir.ops.base import NoLowering
from netir.ops.create import Full
from netir.ops.pointwise import Relu
from tests.zoo.traced import traced


class Small(nn.Module):
    """Two convolutions, one of them read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.head = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> dict[str, Any]:
        x = self.block(self.block(self.stem(images)))
        features = x.mean((2, 3))
        return {"logits": self.head(features), "hidden": (features, [x])}


def small(dtype: torch.dtype = torch.float32) -> tuple[Graph, Tensor]:
    torch.manual_seed(0)
    model, images = Small().eval().to(dtype), torch.randn(2, 3, 6, 6, dtype=dtype)
    return netir.trace(model, (images,)), images


def graph_of(function: Callable[..., Any], *args: Tensor) -> Graph:
    """The graph of a function without parameters."""

    class Plain(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
            return function(x) if y is None else function(x, y)

    return netir.trace(Plain(), args)


def file_of(graph: Graph, path: Path, **options: Any) -> onnx.ModelProto:
    netir.to_onnx(graph, path, **options)
    return onnx.load(path)


def names(values: Any) -> list[str]:
    return [value.name for value in values]


def test_names_are_kept(tmp_path: Path) -> None:
    graph, _ = small()
    found = file_of(graph, tmp_path / "net.onnx").graph
    assert names(found.input) == ["images"]
    assert names(found.output) == ["logits", "hidden.0", "hidden.1.0"]
    stored = {t.name for t in found.initializer if not t.name.startswith("constant/")}
    assert stored == set(graph.state_dict())
    scopes = {node.op_type: {p.key: p.value for p in node.metadata_props} for node in found.node}
    assert scopes["Relu"] == {SCOPE: "block.1"}
    assert set(graph.nodes) <= {*names(found.node), *names(found.value_info), *names(found.output)}


def test_batch_is_open(tmp_path: Path) -> None:
    graph, _ = small()
    found = file_of(graph, tmp_path / "net.onnx").graph
    assert found.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert found.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    session = open_session(tmp_path / "net.onnx")
    for batch in (1, 7):
        images = torch.randn(batch, 3, 6, 6)
        logits = run_session(session, {"images": images})[0]
        torch.testing.assert_close(logits, netir.run(graph, images)["logits"])


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    sample, graph = traced("tied_layers")
    assert graph.aliases
    netir.to_onnx(graph, tmp_path / "net.onnx", sample.args, sample.kwargs)
    stored = names(onnx.load(tmp_path / "net.onnx").graph.initializer)
    assert not set(graph.aliases) & set(stored)
    assert len(stored) == len(set(stored))


def test_tensors_are_shared_with_the_graph() -> None:
    graph, _ = small()
    weight = onnx_model(graph).graph.initializers["stem.weight"].const_value
    assert weight is not None
    assert weight.raw.data_ptr() == graph.params["stem.weight"].data.data_ptr()


def test_outputs_that_are_inputs_or_equal(tmp_path: Path) -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        y = x.relu()
        return x, y, y, y.contiguous()

    graph = graph_of(function, torch.randn(2, 3))
    found = file_of(graph, tmp_path / "net.onnx").graph
    assert names(found.output) == ["output.0", "output.1", "output.2", "output.3"]


def test_an_input_called_like_a_parameter(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.weight

    graph = netir.trace(Scaled(), (torch.randn(2, 3),))
    found = file_of(graph, tmp_path / "net.onnx").graph
    assert names(found.input) == ["weight"]
    assert names(found.initializer) == ["param/weight"]


def test_what_nothing_reads_is_left_out(tmp_path: Path) -> None:
    graph, _ = small()
    extra = Node("unread", Relu(), ("images",), (graph.inputs["images"],))
    more = graph.replace(nodes={**graph.nodes, "unread": extra})
    assert onnx_model(more).graph.num_nodes() == onnx_model(graph).graph.num_nodes()


N = symbol("n")


@pytest.mark.parametrize(
    "size",
    [N + 1, 3 * N, N * N + N, (N + 1) // 2, 20 - (20 - N) // 3, -((1 - N) // 3), (N + 2) % 5 + 1,
     maximum(N, 4), minimum(2 * N, 7), 8 * (N // 4) + 1],
    ids=str,
)  # fmt: skip
def test_sizes_are_computed(size: Dim) -> None:
    x = TensorType(torch.float32, (N, 2))
    made = TensorType(torch.float32, (size,))
    node = Node("y", Full((size,), 1.5), (), (made,))
    graph = Graph("sizes", {"x": x}, {"y": node}, {}, Ref("y"), {"x": Ref("x")})
    session = open_session(onnx_ir.to_proto(onnx_model(graph)).SerializeToString())
    for n in (2, 3, 7, 12):
        (found,) = run_session(session, {"x": torch.zeros(n, 2)})
        assert found.tolist() == [1.5] * evaluate(size, {"n": n})


def test_what_the_runtime_finds_out_late_is_proved_in_float32(tmp_path: Path) -> None:
    graph = netir.trace(nn.GRU(3, 4).double(), (torch.randn(2, 5, 3, dtype=torch.float64),))
    found = netir.to_onnx(graph, tmp_path / "net.onnx")
    assert "in float32: GRU operator does not support double" in found.note


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    graph, _ = small(dtype)
    found = netir.to_onnx(graph, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx").graph
    kind = {torch.float16: 10, torch.bfloat16: 16, torch.float64: 11}[dtype]
    stored = {t.data_type for t in model.initializer if not t.name.startswith("constant/")}
    assert stored == {kind}
    assert model.input[0].type.tensor_type.elem_type == kind
    assert dtype == torch.float16 or "in float32" in found.note


def test_tensors_in_a_file_of_their_own(tmp_path: Path) -> None:
    graph, images = small()
    path = tmp_path / "net.onnx"
    found = netir.to_onnx(graph, path, external=True)
    (data,) = tmp_path.glob("net.onnx.*.data")
    assert found.bytes == data.stat().st_size + path.stat().st_size
    first = run_session(open_session(path), {"images": images})[0]
    other = {"stem.bias": replace(graph.params["stem.bias"], data=torch.ones(4))}
    changed = graph.replace(params={**graph.params, **other})
    netir.to_onnx(changed, path, external=True)
    assert len(list(tmp_path.iterdir())) == 2
    assert not data.exists()
    second = run_session(open_session(path), {"images": images})[0]
    torch.testing.assert_close(second, netir.run(changed, images)["logits"])
    assert not torch.equal(first, second)
    netir.to_onnx(graph, path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_is_what_onnx_would_write(dtype: torch.dtype, tmp_path: Path) -> None:
    model = onnx_model(small(dtype)[0])
    onnx_file.save(model, tmp_path / "net.onnx")
    found, wanted = onnx.load(tmp_path / "net.onnx"), onnx_ir.to_proto(model)
    stored = set(names(wanted.graph.initializer))
    types = [value for value in wanted.graph.value_info if value.name not in stored]
    del wanted.graph.value_info[:]
    wanted.graph.value_info.extend(types)
    assert found == wanted
    assert len(model.graph.initializers) > 5


def test_too_much_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "LIMIT", 100)
    netir.to_onnx(small()[0], tmp_path / "net.onnx")
    assert len(list(tmp_path.glob("*.data"))) == 1


def refused(graph: Graph, path: Path, what: str, **options: Any) -> NetirError:
    """A refusal that leaves the file that was there, and nothing beside it."""
    path.write_bytes(b"old")
    with pytest.raises(NetirError, match=what) as caught:
        netir.to_onnx(graph, path, **options)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
    return caught.value


@pytest.mark.parametrize("external", [False, True])
def test_what_differs_is_not_kept(
    external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Relu, "onnx", "Abs")
    refused(small()[0], tmp_path / "net.onnx", "without optimisation, is off by", external=external)


def test_what_the_checker_rejects_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Relu, "onnx", "Rellu")
    refused(small()[0], tmp_path / "net.onnx", "the ONNX checker does not take it")


@pytest.mark.parametrize(
    ("function", "what"),
    [("open_session", "does not take it: broken"), ("run_session", "fails on it: broken")],
)
def test_what_the_runtime_rejects_is_not_kept(
    function: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(proof, function, fail)
    refused(small()[0], tmp_path / "net.onnx", what)


def test_what_the_runtime_has_no_code_for_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = type("NotImplemented", (Exception,), {})  # as ONNX Runtime calls it

    def fail(*args: Any, **options: Any) -> None:
        raise missing("no code")

    monkeypatch.setattr(proof, "open_session", fail)
    refused(small()[0], tmp_path / "net.onnx", "cannot run it: no code")


def test_an_unknown_provider(tmp_path: Path) -> None:
    error = refused(small()[0], tmp_path / "net.onnx", "no provider 'Abacus'", provider="Abacus")
    assert "CPU" in error.fix


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NetirError, match="cannot write the file: No such file"):
        netir.to_onnx(small()[0], tmp_path / "nowhere" / "net.onnx")


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_packages_that_are_missing(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        error = refused(traced("opaque_search")[1], tmp_path / "net.onnx", "not installed")
    assert error.fix == f"pip install {package}"


def test_sizes_without_a_number(tmp_path: Path) -> None:
    graph = netir.trace(nn.ReLU(), (torch.randn(2, 5),), dynamic={"input": {1: "length"}})
    error = refused(graph, tmp_path / "net.onnx", "the size 'length' has no number")
    assert "sizes={'length': …}" in error.fix
    assert netir.to_onnx(graph, tmp_path / "net.onnx", sizes={"length": 6}).way == DIRECT


def test_inputs_that_do_not_fit(tmp_path: Path) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return x[y]

    graph = graph_of(function, torch.randn(4, 5), torch.tensor([2, 3]))
    wrong = (torch.randn(4, 5), torch.tensor([7, 9]))
    refused(graph, tmp_path / "net.onnx", "does not run on given inputs", args=wrong)


def test_whole_numbers_stay_in_the_range_of_the_given() -> None:
    table = nn.Embedding(9, 4)
    graph = netir.trace(table, (torch.tensor([[3, 5, 8], [4, 4, 4]]),))
    drawn = cases(graph, (torch.tensor([[3, 5, 8], [4, 4, 4]]),))
    values = torch.cat([t.flatten() for case in drawn for t in case.inputs.values()])
    assert (int(values.min()), int(values.max())) == (3, 8)
    assert [case.name for case in drawn][-1] == "another batch"


def test_what_no_op_can_write_goes_through_the_exporter(tmp_path: Path) -> None:
    sample, graph = traced("opaque_search")
    with pytest.warns(NetirWarning, match=r"torch.onnx.export, because of %\w+ = opaque"):
        found = netir.to_onnx(graph, tmp_path / "net.onnx", sample.args, sample.kwargs)
    assert found.way == EXPORTER
    model = onnx.load(tmp_path / "net.onnx").graph
    assert names(model.input) == list(graph.inputs)
    assert names(model.output) == ["output"]


def test_what_nobody_can_write(tmp_path: Path) -> None:
    graph = traced("opaque_cdist")[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        refused(graph, tmp_path / "net.onnx", "torch.onnx.export cannot export the graph: .*cdist")


def test_the_report_says_it_all(tmp_path: Path) -> None:
    graph, images = small()
    found = netir.to_onnx(graph, tmp_path / "net.onnx", images, timed=True)
    text = str(found)
    for part in ("net.onnx", "opset 20", "direct", f"on {found.provider}", "6 inputs", " ms "):
        assert part in text
    assert found.latency is not None
    assert found.seconds > 0
    assert found.provider == provider_of(open_session(tmp_path / "net.onnx"))


def test_the_runtime_computes_with_bfloat16_values(tmp_path: Path) -> None:
    """Inputs and outputs cross over, even where only a cast is computed."""
    graph = graph_of(lambda x: x.to(torch.bfloat16), torch.randn(2, 3))
    netir.to_onnx(graph, tmp_path / "net.onnx")
    (found,) = run_session(open_session(tmp_path / "net.onnx"), {"x": torch.ones(1, 3)})
    assert found.dtype == torch.bfloat16
    assert np.asarray(found.float()).tolist() == [[1.0, 1.0, 1.0]]


def test_complex_numbers_are_not_written() -> None:
    graph = graph_of(lambda x: x * x, torch.randn(2, 3, dtype=torch.complex64))
    with pytest.raises(NoLowering, match="take no complex numbers"):
        onnx_model(graph)


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.view_as_complex(x) if x.is_floating_point() else torch.view_as_real(x)


@pytest.mark.parametrize("what", ["input", "output"])
def test_complex_inputs_and_outputs_are_refused(what: str, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 2)
    graph = netir.trace(Complex(), (torch.view_as_complex(x) if what == "input" else x,))
    error = refused(graph, tmp_path / "net.onnx", f"no complex numbers, and the {what} '")
    assert error.where.startswith("%")
    assert error.where.endswith(": c64[batch, 3]")
    assert "torch.view_as_real" in error.fix


def test_a_size_that_no_input_has() -> None:
    node = Node("y", Full((symbol("m"),)), (), (TensorType(torch.float32, (symbol("m"),)),))
    with pytest.raises(NetirError, match="size 'm' is not known"):
        onnx_model(Graph("sizes", {}, {"y": node}, {}, Ref("y"), {}))


class Clash(nn.Module):
    def forward(self, x: torch.Tensor, output: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x.relu(), "y": x + output}


def test_an_output_may_be_called_like_an_input(tmp_path: Path) -> None:
    graph = netir.trace(Clash(), (torch.randn(2, 3), torch.randn(2, 3)))
    netir.to_onnx(graph, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert [o.name for o in model.graph.output] == ["output/x", "y"]


def test_a_file_may_be_called_as_a_draft(tmp_path: Path) -> None:
    """The file keeps the type that was asked for, whatever it is called."""
    graph = netir.trace(nn.Linear(3, 2).bfloat16(), (torch.randn(2, 3).bfloat16(),))
    for name in ("in_float32.onnx", "net.onnx"):
        netir.to_onnx(graph, tmp_path / name)
        kind = onnx.load(tmp_path / name).graph.input[0].type.tensor_type.elem_type
        assert kind == onnx.TensorProto.BFLOAT16


@pytest.mark.parametrize("name", ["a\0b.onnx", "folder"])
def test_strange_places_are_refused_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    graph = netir.trace(nn.Linear(3, 2), (torch.randn(2, 3),))
    with pytest.raises(NetirError, match=r"cannot write the file|this is a folder"):
        netir.to_onnx(graph, tmp_path / name, external=True)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(NetirError):
        netir.from_onnx(tmp_path / name)


def steep() -> tuple[Graph, Tensor]:
    """A network and inputs of which the second row overflows in float32, though not in float64."""
    x = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    return graph_of(lambda x: (x * 50).exp() * torch.tensor([1e-5, 1.0, 0.0]), x), x


def test_what_overflows_proves_the_rest() -> None:
    """Entries that rounding decides are compared, also beside others that it does not decide."""
    graph, x = steep()
    case = measured(graph, "given", {"x": x})
    (out,) = case.outputs
    assert out.isfinite().tolist() == [[True] * 3, [False] * 3]
    assert (case.label, case.sure[0].tolist()) == ("given in part", [[True] * 3, [False] * 3])
    assert case.allowed[0] < 1e-3
    other, wrong = out.clone(), out.clone()
    other[1], wrong[0, 1] = 7.0, 2 * out[0, 1]
    assert agreement(graph, [case], lambda _: [other])
    assert not agreement(graph, [case], lambda _: [wrong])
    infinite = graph_of(lambda x: 1 / (x - x), x)
    case = measured(infinite, "given", {"x": x})
    assert case.label == "given"
    assert not agreement(infinite, [case], lambda _: [torch.full_like(x, -math.inf)])


def test_the_report_says_what_is_proved_in_part(tmp_path: Path) -> None:
    graph, x = steep()
    found = netir.to_onnx(graph, tmp_path / "net.onnx", x)
    assert {"given in part", "zero"} <= set(found.cases)
    assert "given" not in found.cases


def test_places_of_equal_values_are_not_compared() -> None:
    """Of values that are equal to the last bit, any may come first."""
    graph = graph_of(lambda x: x.relu().kthvalue(2).indices, torch.randn(64, 9))
    x = torch.cat([torch.full((64, 5), -1.0), torch.ones(64, 4)], 1)
    case = measured(graph, "given", {"x": x})
    other, wrong = (case.outputs[0] + 1) % 5, torch.full((64,), 8)
    assert agreement(graph, [case], lambda _: [other])
    distinct = measured(graph, "given", {"x": torch.arange(9.0).expand(64, 9)})
    assert not agreement(graph, [distinct], lambda _: [wrong])


def test_a_result_of_another_shape_never_agrees(tmp_path: Path) -> None:
    """Also where numbers overflow, so that nothing is said about them."""
    graph = netir.trace(nn.Identity(), (torch.randn(2, 3),))
    case = measured(graph, "given", {next(iter(graph.inputs)): torch.randn(2, 3)})
    vacuous = replace(case, sure=(torch.zeros(2, 3, dtype=torch.bool),))
    assert agreement(graph, [vacuous], lambda _: [torch.zeros(2, 3)])
    assert not agreement(graph, [vacuous], lambda _: [torch.zeros(1)])
