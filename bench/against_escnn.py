"""Networks equivariant to C4 and D4 in training, side by side with escnn.

Both have the same layers, channels, batch norms, pools and optimizer, and run in turn on one
thread, in processor time, float32. escnn wants older libraries than netir does, so it runs in a
process with an environment of its own, which waits while ours works. Make that first:

    make build/escnn

which is a virtual environment of bench/escnn.txt and `pip install --no-deps escnn==1.0.11`.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import netir
from bench.measure import Cell, Options, Table, Times, milliseconds, options, ratio
from bench.measure import report as written
from netir.kernels.group_calls import group_filter
from netir.kernels.groups import group as named
from netir.kernels.layers import FieldBatchNorm2d, GroupConv2d, GroupPool

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / "build" / "escnn" / "bin" / "python"
RATE = 1e-3


@dataclass(frozen=True)
class Shape:
    """A network: its group, fields after each convolution, and what it reads."""

    group: str
    fields: tuple[int, ...]
    pixels: int
    batch: int = 16

    def __str__(self) -> str:
        channels = "-".join(str(f * named(self.group).order) for f in self.fields)
        return f"{self.group} {channels} {self.pixels}² B{self.batch}"


SHAPES = {str(shape): shape for shape in (
    Shape("C4", (8, 16, 16), 33), Shape("C4", (16, 32, 64), 33), Shape("C4", (32, 64, 64), 17),
    Shape("D4", (4, 8, 8), 33), Shape("D4", (8, 16, 32), 33), Shape("D4", (16, 32, 32), 17),
)}  # fmt: skip
QUICK = (str(Shape("C4", (8, 16, 16), 33)),)


class Net(nn.Module):
    """Lifting, group convolutions with norms and pools between, a group pool, a head."""

    def __init__(self, group: str, fields: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (read, made) in enumerate(pairwise((3, *fields))):
            kernel = 3 if i else 5
            layers += [GroupConv2d(read, made, kernel, group, padding=kernel // 2, lifting=not i),
                       FieldBatchNorm2d(made, group), nn.ReLU()]  # fmt: skip
            if i < len(fields) - 1:
                layers.append(nn.MaxPool2d(3, 2, 1))
        self.body = nn.Sequential(*layers, GroupPool(group, kind="max"))
        self.head = nn.Linear(fields[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.body(x).mean((2, 3)))
        return made


def plain(group: str, fields: Sequence[int]) -> nn.Sequential:
    """An ordinary network of as many channels."""
    order = named(group).order
    layers: list[nn.Module] = []
    for i, (read, made) in enumerate(pairwise((3 / order, *fields))):
        kernel, into, out = (3 if i else 5), round(read * order), made * order
        layers += [nn.Conv2d(into, out, kernel, padding=kernel // 2), nn.BatchNorm2d(out),
                   nn.ReLU()]  # fmt: skip
        if i < len(fields) - 1:
            layers.append(nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(fields[-1] * order, 10))  # fmt: skip


class Trained:
    """A network of ours, or a plain one, that answers as escnn's process does."""

    def __init__(self, net: nn.Module, shape: Shape) -> None:
        self.net = net
        self.optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
        self.x = torch.randn(shape.batch, 3, shape.pixels, shape.pixels)
        self.y = torch.arange(shape.batch) % 10

    def step(self, last: bool = False) -> float:
        x = self.x.to(memory_format=torch.channels_last) if last else self.x
        self.net.train()
        start = time.thread_time()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.net(x), self.y).backward()
        self.optimizer.step()
        return time.thread_time() - start

    def filters(self) -> float:
        layers = [m for m in self.net.modules() if isinstance(m, GroupConv2d)]
        start = time.thread_time()
        made = [group_filter([m.weight], None, None, m.plan) for m in layers]
        torch.autograd.grad(made, [m.weight for m in layers], [torch.ones_like(f) for f in made])
        return time.thread_time() - start

    @torch.no_grad()
    def predict(self) -> float:
        self.net.eval()
        start = time.thread_time()
        self.net(self.x)
        return time.thread_time() - start

    @torch.no_grad()
    def error(self, turns: list[tuple[bool, int]], dtype: torch.dtype = torch.float32) -> float:
        net, x = self.net.eval().to(dtype), self.x.to(dtype)
        want = net(x)
        moved = (torch.rot90(x.flip(-2) if flip else x, turn, (-2, -1)) for flip, turn in turns)
        found = max(float((net(given) - want).norm() / want.norm()) for given in moved)
        net.float()
        return found


class Process:
    """escnn's process: a command goes in, an answer comes out."""

    def __init__(self) -> None:
        if not PYTHON.exists():
            raise SystemExit("escnn has no environment yet: run `make build/escnn` first")
        command = [PYTHON, "-m", "bench.peer_escnn"]
        self.process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)  # fmt: skip

    def __call__(self, command: str, **given: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([command, given]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"escnn's process ended at '{command}'")
        return json.loads(line)

    def end(self) -> None:
        self.process.communicate()


def in_turn(ways: dict[str, Callable[[], float]], repeat: int) -> Times:
    """Seconds that each way says it took, one after the other; every second turn backwards."""
    for way in ways.values():
        way()
    times: Times = {name: [] for name in ways}
    for turn in range(repeat):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            times[name].append(ways[name]())
    return times


def faster(times: Times, way: str) -> str:
    """The memory format of the input with which this way is faster."""
    return min((way, f"{way}, channels last"), key=lambda name: milliseconds(times, name))


def convolutions(path: Path, x: Tensor, want: Tensor) -> str:
    """The nodes with weights of a file, and how far ONNX Runtime is from the network with it."""
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    (have,) = session.run(None, {name: x.numpy()})
    error = float((torch.as_tensor(have) - want).abs().max() / want.abs().max())
    return f"{kinds.count('Conv')} Conv of {len(kinds)}, off by {error:.1g}"


def ours_exported(net: nn.Module, x: Tensor, folder: Path) -> str:
    net.eval()
    netir.to_onnx(netir.trace(net, (x,)), folder / "ours.onnx")
    return convolutions(folder / "ours.onnx", x, net(x).detach())


def theirs_exported(peer: Process, folder: Path) -> str:
    x, want = (torch.tensor(given) for given in peer("export", path=str(folder / "theirs.onnx")))
    return convolutions(folder / "theirs.onnx", x, want)


def compared(shape: Shape, quick: bool) -> tuple[list[Cell], list[Cell]]:
    """A row of times and one of what holds."""
    ours = Trained(Net(shape.group, shape.fields), shape)
    usual = Trained(plain(shape.group, shape.fields), shape)
    peer = Process()
    count = peer("build", group=shape.group, fields=list(shape.fields), pixels=shape.pixels,
                 batch=shape.batch, lr=RATE)  # fmt: skip
    repeat = 3 if quick else 15
    steps = in_turn({
        "ours": ours.step, "escnn": lambda: float(peer("step")), "plain": usual.step,
        "escnn, channels last": lambda: float(peer("step", last=True)),
        "plain, channels last": lambda: usual.step(last=True),
    }, repeat)  # fmt: skip
    filters = in_turn({"ours": ours.filters, "escnn": lambda: float(peer("filters"))}, repeat)
    evals = in_turn({
        "ours": ours.predict, "escnn": lambda: float(peer("predict")),
        "escnn, channels last": lambda: float(peer("predict", last=True)),
    }, repeat)  # fmt: skip
    turns = [(e.flip, int(4 * e.turn)) for e in named(shape.group).elements]
    with tempfile.TemporaryDirectory() as folder:
        files = ours_exported(ours.net, ours.x[:2], Path(folder)), theirs_exported(
            peer, Path(folder)
        )
    usual_way, their_way = faster(steps, "plain"), faster(steps, "escnn")
    times = [milliseconds(steps, way) for way in (usual_way, "ours", their_way)]
    made = sum(p.numel() for p in ours.net.parameters())
    errors = ours.error(turns, torch.float64), ours.error(turns), peer("error", turns=turns)
    peer.end()
    return (
        [str(shape), *times, ratio(steps, "ours", usual_way), ratio(steps, their_way, "ours"),
         ratio(filters, "escnn", "ours"), ratio(evals, faster(evals, "escnn"), "ours")],
        [str(shape), made, count, *errors, *files],
    )  # fmt: skip


def run(given: Options) -> list[Table]:
    times: list[list[Cell]] = []
    facts: list[list[Cell]] = []
    for name in given.wanted(tuple(SHAPES), QUICK):
        for rows, row in zip((times, facts), compared(SHAPES[name], given.quick), strict=True):
            rows.append(row)
            print(*row, flush=True)
    return [
        Table("Time", ("network", "plain, ms a step", "ours, ms a step", "escnn, ms a step",
                       "ours over plain", "escnn over ours", "filters alone, escnn over ours",
                       "eval, escnn over ours"), times, (
            "A network is named by its group and its channels, fields times elements. A step is "
            "forward, backward and SGD. `plain` is an ordinary network of the same channels; it "
            "and escnn read their input in whichever memory format is faster. `filters alone` are "
            "made from the weights and back, without a convolution. In eval mode both keep their "
            "filters.",
        )),
        Table("What holds", ("network", "parameters of ours", "of escnn", "error of ours in "
                             "float64", "in float32", "of escnn in float32", "ONNX of ours",
                             "of escnn"), facts, (
            "escnn's filters are of limited frequency and have fewer parameters; ours have every "
            "filter that is equivariant. An error is how far the logits of a turned or mirrored "
            "input are off after the steps above; escnn's group pool gives float32 only. ONNX "
            "files were written with `netir.to_onnx`, and with escnn's `export` followed by "
            "`torch.onnx.export`.",
        )),
    ]  # fmt: skip


def main() -> None:
    given = options(__doc__ or "")
    title = "Equivariant networks, side by side with escnn 1.0.11"
    written("against_escnn", title, run(given), given)


if __name__ == "__main__":
    main()
