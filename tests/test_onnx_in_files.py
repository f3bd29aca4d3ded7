"""ONNX files as data: damaged and hostile ones end in a message, and nothing outside is read."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import netir
from netir import NetirError
from netir.cli.app import app
from netir.frontends.onnx.table import OPERATORS
from tests.onnx_by_hand import model_of, node


def small() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    return model_of(
        [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "r"),
         node("Shape", "r", "s"), node("Slice", "s zero one", "n"),
         node("Concat", "n rest", "to", axis=0), node("Reshape", "r to", "f"),
         node("Gemm", "f g h", "y", transB=1)],
        {"x": ["n", 2, 4, 4]}, ["y"],
        {"w": rng.random((3, 2, 3, 3)), "b": rng.random(3), "g": rng.random((5, 48)),
         "h": rng.random(5), "zero": [0], "one": [1], "rest": [-1]},
    )  # fmt: skip


def stored_outside(folder: Path, location: str, **entries: int) -> Path:
    """A model whose one weight lies in another file, as it says."""
    model = model_of([node("Add", "x w", "y")], {"x": [4]}, ["y"], {"w": np.ones(4)})
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=str(value))
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def ones(path: Path, count: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.ones(count, np.float32).tobytes())
    return path


def refused(source: Any, match: str, **options: Any) -> NetirError:
    with pytest.raises(NetirError, match=match) as error:
        netir.from_onnx(source, **options)
    assert error.value.fix
    return error.value


# Files that are none


def test_what_is_no_file_says_so(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "there is no such file")
    refused(tmp_path, "this is a folder")
    refused(b"no protobuf at all", "this is no ONNX file")
    refused(b"", "this file holds no ONNX graph")
    refused(7, "cannot read a int as an ONNX model")


def test_half_a_file_says_so() -> None:
    content = small().SerializeToString()
    refused(content[: len(content) // 2], "this is no ONNX file, or only a part of one")


def test_other_opsets_are_refused() -> None:
    refused(model_of([node("Relu", "x", "y")], {"x": [2]}, ["y"], opset=6), "has opset 6")


# External data


def test_data_beside_the_model_is_read(tmp_path: Path) -> None:
    ones(tmp_path / "inner/weights", 8)
    path = stored_outside(tmp_path, "inner/weights", offset=16, length=16)
    assert netir.run(netir.from_onnx(path), torch.ones(4)).tolist() == [2.0] * 4


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "C:\\secret",
                                      "..\\secret", "", "\0"])  # fmt: skip
def test_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    ones(tmp_path / "secret")
    (tmp_path / "models").mkdir()
    refused(stored_outside(tmp_path / "models", location), "external data|no whole ONNX model")


@pytest.mark.parametrize("link", ["soft", "hard", "folder"])
def test_links_are_refused(tmp_path: Path, link: str) -> None:
    secret, models = ones(tmp_path / "other/secret"), tmp_path / "models"
    models.mkdir()
    if link == "folder":
        (models / "data").symlink_to(secret.parent)
        path = stored_outside(models, "data/secret")
    else:
        (os.symlink if link == "soft" else os.link)(secret, models / "data")
        path = stored_outside(models, "data")
    refused(path, "is a link")


def test_data_must_have_the_size_of_its_shape(tmp_path: Path) -> None:
    ones(tmp_path / "data")
    refused(stored_outside(tmp_path, "data", length=12), "has 12 bytes at 0, its shape needs 16")
    refused(stored_outside(tmp_path, "data", offset=4), "has 16 bytes, 20 are needed")
    refused(stored_outside(tmp_path, "data", offset=-4), "bytes at -4|no whole ONNX model")
    refused(stored_outside(tmp_path, "none"), "cannot read external data 'none'")
    os.mkfifo(tmp_path / "pipe")
    refused(stored_outside(tmp_path, "pipe"), "is a link")


def test_external_data_needs_a_path(tmp_path: Path) -> None:
    ones(tmp_path / "data")
    content = stored_outside(tmp_path, "data").read_bytes()
    refused(content, "keeps tensors in another file")


# Graphs that are wrong


def test_operators_that_cannot_be_read_are_all_named() -> None:
    model = model_of(
        [node("Det", "x", "a"), node("Unique", "a", "b"), node("Det", "b", "y")],
        {"x": [2, 2]}, ["y"],
    )
    error = refused(model, r"cannot be read: Det \(2\), Unique \(1\)")
    assert "Det" in error.where
    other = model_of([helper.make_node("Attn", ["x"], ["y"], domain="com.microsoft")],
                     {"x": [2]}, ["y"])  # fmt: skip
    assert "optimiser" in refused(other, r"com.microsoft.Attn \(1\)").fix


def test_unknown_attributes_are_refused() -> None:
    model = model_of([node("Relu", "x", "y", slope=0.5)], {"x": [2]}, ["y"])
    refused(model, "has an attribute 'slope' that cannot be read")


def test_unknown_inputs_are_refused() -> None:
    refused(model_of([node("Relu", "x x", "y")], {"x": [2]}, ["y"]), "has an input 1")
    refused(small(), "has no input 'z'", dynamic={"z": {0: "n"}})
    refused(small(), "has no axis 7", dynamic={"x": {7: "n"}})
    refused(small(), "cannot have size -1", dynamic={"x": {0: -1}})


def test_cycles_are_refused() -> None:
    model = model_of([node("Add", "x b", "a"), node("Relu", "a", "b")], {"x": [2]}, ["b"])
    refused(model, "damaged|cycle")


def test_values_that_nothing_gives_are_refused() -> None:
    refused(model_of([node("Relu", "z", "y")], {"x": [2]}, ["y"]), "nothing gives the value 'z'")


def test_values_that_are_given_twice_are_refused() -> None:
    model = model_of([node("Relu", "x", "y"), node("Exp", "x", "y")], {"x": [2]}, ["y"])
    refused(model, "no whole ONNX model|damaged")


def test_functions_that_call_themselves_are_refused() -> None:
    body = helper.make_function(
        "local", "Loop", ["a"], ["b"], [helper.make_node("Loop", ["a"], ["b"], domain="local")],
        [helper.make_opsetid("local", 1)],
    )  # fmt: skip
    call = helper.make_node("Loop", ["x"], ["y"], domain="local")
    model = model_of([call], {"x": [2]}, ["y"], functions=[body])
    model.opset_import.append(helper.make_opsetid("local", 1))
    refused(model, "calls itself")


def test_functions_that_unfold_without_end_are_refused() -> None:
    opset = [helper.make_opsetid("local", 1), helper.make_opsetid("", 18)]
    bodies = [helper.make_function("local", "F0", ["a"], ["b"], [node("Relu", "a", "b")], opset)]
    for i in range(1, 12):
        calls = [
            helper.make_node(f"F{i - 1}", [f"v{k}" if k else "a"], [f"v{k + 1}" if k < 9 else "b"],
                             domain="local") for k in range(10)
        ]  # fmt: skip
        bodies.append(helper.make_function("local", f"F{i}", ["a"], ["b"], calls, opset))
    call = helper.make_node("F11", ["x"], ["y"], domain="local")
    model = model_of([call], {"x": [2]}, ["y"], functions=bodies)
    model.opset_import.append(opset[0])
    refused(model, "unfold into too many nodes")


@pytest.mark.parametrize(
    ("nodes", "stored"),
    [
        ([node("ConstantOfShape", "big", "c"), node("Add", "c x", "y")], {"big": [2**40, 2**40]}),
        ([node("Tile", "x big", "y")], {"big": [2**62]}),
        ([node("Expand", "x big", "y")], {"big": [2**40, 2**40, 2]}),
        ([node("Unsqueeze", "x axes", "y")], {"axes": list(range(40))}),
        ([node("Reshape", "x to", "y")], {"to": [3, -5]}),
    ],
)
def test_impossible_sizes_are_refused(nodes: Any, stored: Any) -> None:
    refused(model_of(nodes, {"x": [2]}, ["y"], stored), ".")


def test_large_constants_are_not_made_while_reading() -> None:
    nodes = [node("ConstantOfShape", "big", "c"), node("ReduceSum", "c", "s"),
             node("Add", "s x", "y")]  # fmt: skip
    graph = netir.from_onnx(model_of(nodes, {"x": [1]}, ["y"], {"big": [2**20, 2**20]}))
    assert sum(p.data.nbytes for p in graph.params.values()) < 1000


def test_tensors_that_do_not_fill_their_shape_are_refused() -> None:
    model = small()
    model.graph.initializer[0].dims[0] = 2**50
    refused(model, "do not fill the shape|not possible")


def test_inputs_that_are_no_tensors_of_numbers_are_refused() -> None:
    model = model_of([node("Relu", "x", "y")], {"x": [2]}, ["y"])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    refused(model, "type string")
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.input[0].type.tensor_type.ClearField("shape")
    refused(model, "an input has no shape")


def test_names_that_are_no_text_are_refused() -> None:
    content = small().SerializeToString()
    assert content.count(b"\x12\x03net") == 1
    refused(content.replace(b"\x12\x03net", b"\x12\x03n\xfft"), "this is no valid ONNX model")


def test_metadata_that_is_no_text_is_left_out() -> None:
    model = model_of([node("Relu", "x", "y")], {"x": [2]}, ["y"])
    model.graph.node[0].metadata_props.add(key="netir.scope", value="block")
    content = model.SerializeToString()
    assert netir.from_onnx(content).nodes["relu"].scope == "block"
    assert netir.from_onnx(content.replace(b"block", b"bl\xffck")).nodes["relu"].scope == ""


# Fuzz


def read_or_refused(content: bytes) -> None:
    """Reading ends in a graph, or in a message."""
    try:
        graph = netir.from_onnx(content)
    except NetirError:
        return
    assert str(graph)


CONTENT = small().SerializeToString()


FLIPS = st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 255))


@given(st.lists(FLIPS, min_size=1, max_size=8))
def test_flipped_bytes_end_in_a_message(changes: list[tuple[int, int]]) -> None:
    content = bytearray(CONTENT)
    for place, value in changes:
        content[place] = value
    read_or_refused(bytes(content))


@given(st.integers(0, len(CONTENT)), st.binary(max_size=20))
def test_cut_and_stretched_files_end_in_a_message(at: int, extra: bytes) -> None:
    read_or_refused(CONTENT[:at] + extra + CONTENT[at + len(extra) // 2 :])


WILD = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(-5, 5), st.floats(width=32), st.text(max_size=4),
    st.lists(st.integers(-3, 2**62), max_size=5), st.lists(st.floats(width=32), max_size=3),
)  # fmt: skip


@given(data=st.data())
@settings(max_examples=150)
def test_wild_nodes_end_in_a_message(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(k for k in OPERATORS if "." not in k)))
    schema = onnx.defs.get_schema(kind, 9 if kind in ("Upsample", "Scatter") else 18) if kind in {
        s.name for s in onnx.defs.get_all_schemas() if s.since_version <= 18
    } else None  # fmt: skip
    known = sorted(schema.attributes) if schema else []
    wanted = data.draw(st.lists(st.sampled_from(known), max_size=3, unique=True)) if known else []
    attributes = {name: data.draw(WILD) for name in wanted}
    inputs = data.draw(st.lists(st.sampled_from(["x", "v", "s", "t", "_"]), max_size=5))
    try:
        made = node(kind, " ".join(inputs), "y", **attributes)
        model = model_of([made], {"x": ["n", 2, 4, 4], "v": [3]}, ["y"], {
            "s": data.draw(st.lists(st.integers(-5, 2**62), max_size=4)), "t": np.ones((2, 2)),
        })  # fmt: skip
    except (ValueError, TypeError, OverflowError):
        return
    read_or_refused(model.SerializeToString())


def test_a_file_is_read_from_its_folder_only(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(small(), str(path))
    graph = netir.from_onnx(path)
    assert netir.run(graph, torch.rand(3, 2, 4, 4)).shape == (3, 5)
    assert numpy_helper.to_array(small().graph.initializer[0]).shape == (3, 2, 3, 3)


def test_the_command_line_reads_onnx(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(small(), str(path))
    found = CliRunner().invoke(app, ["spaces", str(path)])
    assert found.exit_code == 0
    assert "conv" in found.output
    path.write_bytes(b"damaged")
    damaged = CliRunner().invoke(app, ["show", str(path)])
    assert damaged.exit_code == 2
    assert "this is no ONNX file" in damaged.output
