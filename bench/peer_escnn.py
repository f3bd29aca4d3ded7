"""A small network of escnn, in a process and an environment of its own, that does as it is told.

Every line that it reads is a command and what it needs, as JSON; every line that it writes is the
answer. Times are processor time of one thread. It imports nothing of netir, whose requirements
escnn's environment does not meet; `bench.against_escnn` says how to make that.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

warnings.simplefilter("ignore")

import torch  # noqa: E402
from escnn import gspaces  # noqa: E402
from escnn import nn as enn  # noqa: E402
from torch import Tensor, nn  # noqa: E402

SPACES = {"C4": lambda: gspaces.rot2dOnR2(4), "D4": lambda: gspaces.flipRot2dOnR2(4)}


class Net(nn.Module):
    """As `bench.against_escnn.Net`, of escnn's modules."""

    def __init__(self, group: str, fields: list[int], classes: int) -> None:
        super().__init__()
        space = SPACES[group]()
        self.image = kind = enn.FieldType(space, 3 * [space.trivial_repr])
        layers: list[nn.Module] = []
        for i, count in enumerate(fields):
            made = enn.FieldType(space, count * [space.regular_repr])
            kernel = 3 if i else 5
            layers += [enn.R2Conv(kind, made, kernel, padding=kernel // 2),
                       enn.InnerBatchNorm(made), enn.ReLU(made)]  # fmt: skip
            if i < len(fields) - 1:
                layers.append(enn.PointwiseMaxPool2D(made, 3, 2, 1))
            kind = made
        self.body = enn.SequentialModule(*layers, enn.GroupPooling(kind))
        self.head = nn.Linear(fields[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(enn.GeometricTensor(x, self.image)).tensor
        return self.head(made.mean((2, 3)))

    def exported(self) -> nn.Module:
        """What escnn makes of it for use elsewhere."""
        return nn.Sequential(self.body.eval().export(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             self.head)  # fmt: skip


class Peer:
    """The network, its optimizer and its data; a method for every command."""

    def build(self, group: str, fields: list[int], pixels: int, batch: int, lr: float) -> Any:
        torch.manual_seed(0)
        self.net = Net(group, fields, 10)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=lr)
        self.x, self.y = torch.randn(batch, 3, pixels, pixels), torch.arange(batch) % 10
        self.convs = [m for m in self.net.modules() if isinstance(m, enn.R2Conv)]
        return sum(p.numel() for p in self.net.parameters())

    def step(self, last: bool = False) -> float:
        """Seconds of a training step; `last` gives it its input in channels-last format."""
        x = self.x.to(memory_format=torch.channels_last) if last else self.x
        self.net.train()
        start = time.thread_time()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.net(x), self.y).backward()
        self.optimizer.step()
        return time.thread_time() - start

    def filters(self) -> float:
        """Seconds of making all filters, forward and backward."""
        weights = [conv.weights for conv in self.convs]
        start = time.thread_time()
        made = [conv.expand_parameters()[0] for conv in self.convs]
        torch.autograd.grad(made, weights, [torch.ones_like(f) for f in made])
        return time.thread_time() - start

    @torch.no_grad()
    def predict(self, last: bool = False) -> float:
        """Seconds of a forward pass in eval mode."""
        x = self.x.to(memory_format=torch.channels_last) if last else self.x
        self.net.eval()
        start = time.thread_time()
        self.net(x)
        return time.thread_time() - start

    @torch.no_grad()
    def error(self, turns: list[tuple[bool, int]]) -> float:
        """How far the outputs change when the input is flipped and turned, in float32.

        Its group pool gives float32 whatever it is given.
        """
        return turned_error(self.net.eval(), self.x, turns)

    @torch.no_grad()
    def export(self, path: str) -> Any:
        """Write ONNX; gives what the network says of its first samples."""
        self.net.eval()
        x = self.x[:2]
        torch.onnx.export(self.net.exported(), (x,), path, dynamo=True, verbose=False)
        return [x.tolist(), self.net(x).tolist()]


def turned_error(
    net: Callable[[Tensor], Tensor], x: Tensor, turns: list[tuple[bool, int]]
) -> float:
    """The largest change of a network's outputs, relative to their norm."""
    want, worst = net(x), 0.0
    for flip, turn in turns:
        have = net(torch.rot90(x.flip(-2) if flip else x, turn, (-2, -1)))
        worst = max(worst, float((have - want).norm() / want.norm()))
    return worst


def main() -> None:
    torch.set_num_threads(1)
    peer, answers = Peer(), sys.stdout
    sys.stdout = sys.stderr  # whatever else is printed is no answer
    for line in sys.stdin:
        command, given = json.loads(line)
        print(json.dumps(getattr(peer, command)(**given)), file=answers, flush=True)


if __name__ == "__main__":
    main()
