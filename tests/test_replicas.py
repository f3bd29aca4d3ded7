"""Live rewriting of replicas: two processes over gloo, one decides, both follow."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from netir import Calibration, Live, NetirError
from netir.passes import Prune, Widen

ROOT = Path(__file__).parents[1]


class Net(nn.Module):
    """Two convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
                                  nn.Conv2d(6, 8, 3), nn.ReLU())  # fmt: skip
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def everywhere(tensor: Tensor) -> list[Tensor]:
    """The tensor as each process has it."""
    found = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(found, tensor.contiguous())
    return found


def replica(rank: int, port: int) -> None:
    """Train, rewrite, train: what every process runs."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = DistributedDataParallel(Net(), bucket_cap_mb=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    torch.manual_seed(rank)  # from here on the processes see other data
    x, y = torch.randn(4, 3, 8, 8), torch.randint(5, (4,))
    calls: list[int] = []
    buckets: list[int] = []

    def counted(state, bucket):  # type: ignore[no-untyped-def]  # torch reads annotations as types
        state.append(1)
        return allreduce_hook(dist.group.WORLD, bucket)

    model.register_forward_hook(lambda *_: calls.append(1))
    model.register_comm_hook(buckets, counted)
    live = Live(model, optimizer, x)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    step()
    live.apply(Widen("body.0", factor=1.5))
    step()
    # each process would prune other channels: the score looks at its own data
    seen = Calibration([x], [y], nn.functional.cross_entropy)
    live.apply(Prune("*", amount=0.4, score="random", seed=rank), seen)
    before = len(buckets)
    for _ in range(2):
        step()
    assert len(calls) == 4
    assert len(buckets) >= before + 2 > 2
    for parameter in model.parameters():
        for copy in (parameter.detach(), optimizer.state[parameter]["exp_avg"]):
            one, two = everywhere(copy)
            assert torch.equal(one, two)
            assert one.shape == parameter.shape
    assert model.module.body[0].out_channels == 5
    with pytest.raises(NetirError, match="names no space"):  # the error of rank 0 reaches both
        live.apply(Widen("nothing" if rank == 0 else "*"))
    step()
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found: int = taken.getsockname()[1]
        return found


def test_two_processes_stay_equal() -> None:
    port = free_port()
    code = "import sys; from tests.test_replicas import replica; replica(*map(int, sys.argv[1:]))"
    settings: dict[str, Any] = {"stdout": PIPE, "stderr": STDOUT, "text": True, "cwd": ROOT}
    processes = [Popen([sys.executable, "-c", code, str(r), str(port)], **settings)
                 for r in range(2)]  # fmt: skip
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
