"""Reading ONNX models by hand: sizes, names, branches, functions, sequences, outputs."""

from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import netir
from netir import NetirError, passes
from netir.ir import TensorType, leaves
from netir.ops.resize import GridSample
from tests.onnx_by_hand import model_of, node


def test_sizes_that_are_computed_become_symbols() -> None:
    model = model_of(
        [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Unsqueeze", "n first", "v"),
         node("Concat", "v rest", "to", axis=0), node("Reshape", "x to", "y")],
        {"x": ["rows", 4, 6]}, ["y"],
        {"zero": 0, "first": [0], "rest": [-1, 3]},
    )  # fmt: skip
    graph = netir.from_onnx(model)
    assert [str(n.op) for n in graph.nodes.values()] == ["Reshape(shape=(rows, 8, 3))"]
    assert netir.run(graph, torch.rand(5, 4, 6)).shape == (5, 8, 3)


def test_open_axes_have_names_and_can_be_named() -> None:
    model = model_of([node("Relu", "x", "y")], {"x": [None, 3, None]}, ["y"])
    assert str(netir.from_onnx(model).inputs["x"]) == "f32[batch, 3, x_2]"
    named = netir.from_onnx(model, dynamic={"x": {0: 7, 2: "length"}})
    assert str(named.inputs["x"]) == "f32[7, 3, length]"
    fixed = model_of([node("Relu", "x", "y")], {"x": [1, 3]}, ["y"])
    assert str(netir.from_onnx(fixed, batch=True).inputs["x"]) == "f32[batch, 3]"


def test_a_batch_that_the_file_fixes_is_not_opened() -> None:
    model = model_of([node("Reshape", "x to", "y")], {"x": [1, 4]}, ["y"], {"to": [1, 2, 2]})
    with pytest.raises(NetirError, match="elements"):
        netir.from_onnx(model, batch=True)


def test_inner_values_can_be_outputs() -> None:
    model = model_of([node("Relu", "x", "h"), node("Exp", "h", "y")], {"x": [2]}, ["y"])
    found = netir.run(netir.from_onnx(model, outputs=["y", "h"]), torch.tensor([-1.0, 1.0]))
    assert list(found) == ["y", "h"]
    assert found["h"].tolist() == [0.0, 1.0]
    with pytest.raises(NetirError, match="has no value 'z'"):
        netir.from_onnx(model, outputs=["z"])


def test_a_product_and_a_sum_are_one_linear_layer() -> None:
    model = model_of(
        [node("MatMul", "x w", "h"), node("Add", "b h", "y")], {"x": ["n", 5, 3]}, ["y"],
        {"w": np.random.rand(3, 2), "b": np.random.rand(2)},
    )  # fmt: skip
    graph = netir.from_onnx(model)
    assert list(graph.params) == ["linear.weight", "linear.bias"]
    assert isinstance(netir.to_torch(graph).linear, nn.Linear)


def test_names_of_other_frameworks_become_paths() -> None:
    weights = {"model/conv/Conv2D/ReadVariableOp:0": np.random.rand(4, 3, 3, 3)}
    conv = node("Conv", "x model/conv/Conv2D/ReadVariableOp:0", "y")
    conv.name = "StatefulPartitionedCall/model/conv/Conv2D"
    module = netir.to_torch(netir.from_onnx(model_of([conv], {"x": [1, 3, 8, 8]}, ["y"], weights)))
    assert isinstance(module.model.conv, nn.Conv2d)


def test_a_table_that_is_read_twice_stays_one_parameter() -> None:
    model = model_of(
        [node("Cast", "x", "i", to=TensorProto.INT64), node("Gather", "table i", "e"),
         node("Transpose", "table", "t", perm=[1, 0]), node("MatMul", "e t", "y")],
        {"x": ["n"]}, ["y"], {"table": np.random.rand(7, 4)},
    )  # fmt: skip
    graph = netir.from_onnx(model)
    assert len(graph.params) == 1
    wide = passes.Widen("*", factor=2)(graph)
    netir.verify(graph, wide, (torch.tensor([0.0, 3.0]),))


def test_branches_with_constant_conditions_are_read() -> None:
    def branch(kind: str) -> onnx.GraphProto:
        made = [helper.make_tensor_value_info("o", TensorProto.FLOAT, [2])]
        return helper.make_graph([node(kind, "x", "o")], kind, [], made)

    def conditional(condition: str, stored: dict[str, Any]) -> onnx.ModelProto:
        chosen = node("If", condition, "y", then_branch=branch("Relu"), else_branch=branch("Loop"))
        return model_of([chosen], {"x": [2]}, ["y"], stored)

    graph = netir.from_onnx(conditional("c", {"c": True}))
    assert netir.run(graph, torch.tensor([-1.0, 1.0])).tolist() == [0.0, 1.0]
    with pytest.raises(NetirError, match="If has a condition that depends on the inputs"):
        netir.from_onnx(conditional("x", {}))


def test_functions_are_inlined() -> None:
    body = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 18)]
    )
    call = helper.make_node("Twice", ["x"], ["y"], domain="local")
    model = model_of([call], {"x": [2]}, ["y"], functions=[body])
    model.opset_import.append(helper.make_opsetid("local", 1))
    assert netir.run(netir.from_onnx(model), torch.ones(2)).tolist() == [2.0, 2.0]


def test_sequences_are_taken_apart() -> None:
    model = model_of(
        [node("SplitToSequence", "x two", "s", axis=0), node("SequenceAt", "s zero", "a"),
         node("SequenceEmpty", "", "e"), node("SequenceInsert", "e a", "i"),
         node("SequenceConstruct", "a a", "c"), node("SequenceLength", "s", "n"),
         node("ConcatFromSequence", "c", "y", axis=0),
         node("ConcatFromSequence", "i", "z", axis=0)],
        {"x": [6, 2]}, ["y", "z", "n"], {"two": 2, "zero": 0},
    )  # fmt: skip
    x = torch.rand(6, 2)
    found = netir.run(netir.from_onnx(model), x)
    assert torch.equal(found["y"], torch.cat([x[:2], x[:2]]))
    assert torch.equal(found["z"], x[:2])
    assert int(found["n"]) == 3


def test_gru_as_torch_has_it_is_read() -> None:
    layer = nn.GRU(3, 4)
    order = [1, 0, 2]  # torch has reset, update, new; ONNX has update, reset, new
    gates = [p.detach().reshape(3, 4, -1)[order] for p in layer.parameters()]
    parts = [g.reshape(1, 12, -1).numpy() for g in gates]
    stored = {"w": parts[0], "r": parts[1], "b": np.concatenate(parts[2:], 1)[..., 0]}
    gru = node("GRU", "x w r b", "y", hidden_size=4, linear_before_reset=1)
    graph = netir.from_onnx(model_of([gru], {"x": [5, "n", 3]}, ["y"], stored))
    x = torch.rand(5, 2, 3)
    torch.testing.assert_close(netir.run(graph, x)[:, 0], layer(x)[0].detach())


def test_models_in_memory_are_left_as_they_are() -> None:
    proto = model_of([node("Relu", "x", "y")], {"x": [2]}, ["y"])
    model = onnx_ir.from_proto(proto)
    for given in (proto, proto.SerializeToString(), model):
        assert netir.run(netir.from_onnx(given), torch.tensor([-1.0, 1.0])).tolist() == [0, 1]
    assert [n.op_type for n in model.graph] == ["Relu"]
    assert list(leaves(netir.from_onnx(model).output))


def test_a_bound_that_is_never_reached_is_left_out() -> None:
    model = model_of(
        [node("Shape", "x", "s", start=1, end=2), node("Min", "s most", "least"),
         node("Concat", "least rest", "to", axis=0), node("Reshape", "x to", "y")],
        {"x": [2, "length", 6]}, ["y"], {"most": [16], "rest": [4, 3]},
    )  # fmt: skip
    assert str(netir.from_onnx(model).nodes["reshape"].op) == "Reshape(shape=(length, 4, 3))"


def test_sizes_may_be_counted_in_floats() -> None:
    model = model_of(
        [node("Shape", "x", "s", start=0, end=1), node("Squeeze", "s", "n"),
         node("Cast", "n", "last", to=TensorProto.FLOAT), node("Range", "first last step", "y")],
        {"x": ["batch", 2]}, ["y"], {"first": 1.0, "step": 2.0},
    )  # fmt: skip
    found = netir.run(netir.from_onnx(model), torch.rand(6, 2))
    assert (found.dtype, found.tolist()) == (torch.float32, [1, 3, 5])


def test_batch_norm_by_computed_statistics_is_trained_through() -> None:
    model = model_of(
        [node("ReduceMean", "x over", "m", keepdims=0),
         node("BatchNormalization", "x w w m v", "y", epsilon=0.5)],
        {"x": ["batch", 3, 4]}, ["y"],
        {"w": np.array([1.0, 2.0, 3.0]), "v": np.full(3, 3.5), "over": [0, 2]},
    )  # fmt: skip
    x = torch.rand(5, 3, 4, requires_grad=True)
    scale = torch.tensor([1.0, 2.0, 3.0])[:, None]
    want = (x - x.mean((0, 2))[:, None]) / 2 * scale + scale
    found = netir.to_torch(netir.from_onnx(model)).train()(x)
    torch.testing.assert_close(found, want)
    (wanted,), (given,) = (torch.autograd.grad(y.square().sum(), x) for y in (want, found))
    torch.testing.assert_close(given, wanted)


def test_a_resize_to_the_same_size_does_nothing() -> None:
    model = model_of(
        [node("Resize", "x _ _ to", "y", mode="linear", axes=[2])], {"x": [1, 3, 8]}, ["y"],
        {"to": [8]},
    )  # fmt: skip
    assert not netir.from_onnx(model).nodes


RECURRENT = {"w": np.ones((1, 12, 2)), "r": np.ones((1, 12, 3)), "p": np.ones((1, 9))}


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (node("LSTM", "x w r _ _ _ _ p", "y", hidden_size=3), "has peepholes"),
        (node("LSTM", "x w r", "y", hidden_size=3, clip=1.0), "clips, or ties"),
        (node("LSTM", "x w r _ x", "y", hidden_size=3), "sequences of several lengths"),
        (node("GRU", "x w r", "y", hidden_size=3), "resets before its product"),
        (node("RNN", "x w r", "y", activations=["Elu"]), "has the activations"),
        (node("LSTM", "x w w", "y", hidden_size=3), "has states that are projected"),
        (node("LSTM", "x w r _ _ x _", "y", hidden_size=3), "has a state of 2 numbers"),
        (node("AveragePool", "i", "y", kernel_shape=[2, 2], dilations=[2, 2]), "has dilations"),
        (node("BatchNormalization", "i c c c c", "y", training_mode=1), "is in training mode"),
        (node("Shrink", "x", "y", bias=0.1), "has a bias that is not its threshold"),
        (node("Cast", "x", "y", to=TensorProto.FLOAT8E4M3FN), "floats of 8 bits"),
        (node("Conv", "x c", "y"), "this Conv is not valid"),
        (node("Squeeze", "x axes", "y"), "which are not 1"),
        (node("Transpose", "x", "y", perm=[0, 0, 1]), "orders axes"),
        (node("Softmax", "x", "y", axis=7), "names axis 7 of a tensor of 3 dimensions"),
        (node("Concat", "x x", "y"), "has no 'axis'"),
        (node("Split", "x axes", "y z"), "has 1 sizes for 2 pieces"),
        (node("Reshape", "x x", "y"), "depend on the values of other inputs"),
        (node("Gather", "c far", "y"), "reads beyond an axis of size 3"),
        (node("TopK", "x x", "y z"), "reads sizes from input 1"),
        (node("OneHot", "x x c", "y"), "reads input 1, which is not constant"),
        (node("Resize", "i _ half", "y", coordinate_transformation_mode="tf_crop_and_resize"),
         "coordinates 'tf_crop_and_resize'"),
        (node("ScatterND", "x places x", "y", reduction="mul"), "has the reduction 'mul'"),
        (node("GridSample", "i i", "y", mode="other"), "mode 'other'"),
        (node("GridSample", "i i", "y"), "does not lead into"),
        (node("GridSample", "x x", "y"), "is no batch of planes or volumes"),
        (node("GridSample", "v u", "y", mode="cubic"), "is cubic over three axes"),
        (node("Pad", "x four", "y"), "has 4 numbers for 3 axes"),
    ],
)  # fmt: skip
def test_what_torch_has_not_is_refused(made: onnx.NodeProto, match: str) -> None:
    stored = RECURRENT | {
        "c": np.ones(3), "axes": [0], "far": [9], "half": [1.0, 1.0, 0.5, 0.5], "places": [[0]],
        "four": [1, 1, 1, 1],
    }  # fmt: skip
    inputs = {"x": [4, 5, 2], "i": [1, 3, 8, 8], "v": [1, 3, 4, 4, 4], "u": [1, 2, 2, 2, 3]}
    with pytest.raises(NetirError, match=match) as error:
        netir.from_onnx(model_of([made], inputs, ["y"], stored))
    assert error.value.fix
    assert made.op_type in error.value.where


def test_volumes_are_not_sampled_by_cubics() -> None:
    volume, grid = (TensorType(torch.float32, (1, 3, 4, 4, last)) for last in (4, 3))
    with pytest.raises(NetirError, match="torch has no cubic sampling of volumes"):
        GridSample(mode=2).infer(volume, grid)


def test_sizes_that_do_not_fit_can_be_fixed() -> None:
    model = model_of([node("Add", "x z", "y")], {"x": ["a", 3], "z": ["b", 3]}, ["y"])
    with pytest.raises(NetirError, match="do not broadcast") as error:
        netir.from_onnx(model)
    assert "dynamic=" in error.value.fix
    graph = netir.from_onnx(model, dynamic={"x": {0: "n"}, "z": {0: "n"}})
    assert netir.run(graph, torch.ones(2, 3), torch.ones(2, 3)).sum() == 12
