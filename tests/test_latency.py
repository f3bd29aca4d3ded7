"""Latency: what is called, how often, in which order and mode, and what is said of it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import netir
from netir.builtin import BUILTINS
from netir.errors import NetirError
from netir.latency import Latency, latencies, latency

X = torch.randn(4, 6)


def asleep(seconds: float) -> Callable[[Tensor], None]:
    return lambda x: time.sleep(seconds)


def test_median_and_spread() -> None:
    found = Latency((0.004, 0.001, 0.002, 0.003, 0.1), "cpu", 1)
    assert found.seconds == 0.003
    assert found.spread == (0.002, 0.004)
    assert str(found) == "3 ms (2 to 4, 5 calls; cpu, threads: 1)"
    assert Latency((0.5,), "cpu", None).spread == (0.5, 0.5)
    assert str(Latency((0.5,), "cpu", None)).endswith("1 calls; cpu)")


def test_what_takes_longer_is_longer() -> None:
    found = latencies({"short": asleep(0.002), "long": asleep(0.008)}, X, calls=5)
    assert found["short"].seconds < found["long"].seconds
    assert all(t >= 0.008 for t in found["long"].times)


def test_networks_run_in_turn_after_a_warm_up() -> None:
    order: list[str] = []
    found = latencies(
        {"a": lambda x: order.append("a"), "b": lambda x: order.append("b")}, X, calls=3, warmup=2
    )
    assert "".join(order) == "aabb" + "abbaab"
    assert len(found["a"].times) == len(found["b"].times) == 3


def test_time_ends_it_but_not_before_five_calls() -> None:
    assert len(latency(asleep(0.001), X, seconds=0.0).times) == 5
    assert len(latency(asleep(0.01), X, seconds=0.1, calls=1000).times) < 50


def test_modules_run_in_eval_mode_without_gradients_and_stay_as_they_were() -> None:
    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Dropout()
            self.inner.eval()

        def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
            states.add((self.training, torch.is_grad_enabled(), gc.isenabled()))
            return x * scale

    states: set[tuple[bool, ...]] = set()
    module = Watched()
    latency(module, {"x": X, "scale": X}, calls=1)
    assert states == {(False, False, False)}
    assert (module.training, module.inner.training, gc.isenabled()) == (True, False, True)


def test_threads_are_those_asked_for() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    found = latency(lambda x: seen.append(torch.get_num_threads()), X, calls=1, threads=2)
    assert set(seen) == {2}
    assert found.threads == 2
    assert torch.get_num_threads() == before
    assert latency(lambda x: x, X, calls=1).threads == before


def test_graphs_and_sessions() -> None:
    model, args = BUILTINS["digits_mlp"]()
    flat = helper.make_node("Flatten", ["x"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 1, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 64])
    opset = [helper.make_opsetid("", 18)]
    written = helper.make_model(
        helper.make_graph([flat], "flat", [x], [y]), opset_imports=opset, ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        written.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    graph = netir.trace(model, args)
    found = latencies({"graph": graph, "onnx": session}, args, calls=5)
    assert (found["onnx"].device, found["onnx"].threads) == ("cpu", 1)
    assert (found["graph"].device, found["graph"].threads) == ("cpu", torch.get_num_threads())
    with pytest.raises(NetirError, match="2 tensors for a network that takes 1"):
        latency(session, (args[0], args[0]))


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    module = nn.Linear(4096, 4096).cuda()
    found = latencies({"one": module, "two": nn.Sequential(module, module, module)},
                      torch.randn(4096, 4096))  # fmt: skip
    assert found["one"].seconds < found["two"].seconds
    assert found["one"].device == torch.cuda.get_device_name()
    assert found["one"].threads is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: latency(7, X), "a int cannot be timed"),
        (lambda: latency(asleep(0), X, calls=0), "with calls=0"),
        (lambda: latency(asleep(0), X, warmup=-1), "warmup=-1"),
        (lambda: latency(asleep(0), X, threads=0), "threads=0"),
    ],
)
def test_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(NetirError, match=message):
        make()
