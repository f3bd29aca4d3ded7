"""Side by side with Torch-Pruning: finding all groups, removing 30 % of each, and being right.

Every model runs in a process of its own with a time limit, both tools in turn on one thread, in
processor time. Models, inputs and scores (L2 magnitude) are the same.
"""

from __future__ import annotations

import copy
import multiprocessing
import resource
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch._dynamo
import torch.export

import netir
from bench import peer
from bench.measure import Options, Task, interleaved, milliseconds, options, report, timed
from bench.models import DEEP, PUBLISHED, sample
from bench.peer_tables import Row, tables
from netir import Graph, NetirError
from netir.passes import Prune
from netir.spaces import analyse
from tests.zoo.sample import Sample

FAMILIES = ("resnet", "convnextv2", "regnet_y", "mobilevit", "efficientnet", "swin", "segformer",
            "levit", "deit", "bert", "albert", "gpt2", "llama", "qwen2", "t5_encoder", "bart",
            "whisper_encoder", "wav2vec2", "mamba")  # fmt: skip
CONSTRUCTS = ("channel_shuffle", "native_shuffle", "permute_flatten", "channel_flip",
              "tied_embedding", "grouped_expand", "separate_qkv", "self_mha", "cat_twice",
              "nested_cat", "literal_split", "channel_slices", "einsum_parameter", "pixel_shuffle",
              "glu", "simple_gate", "called_twice", "shared_parameter", "residual_input",
              "transposed", "group_norm", "lstm")  # fmt: skip
CHAINS = ("residual_chain_100", "residual_chain_200", "residual_chain_400", "residual_chain_800")
MODELS = (*CONSTRUCTS, *FAMILIES, *DEEP, *PUBLISHED, *CHAINS)
QUICK = ("resnet18", "channel_shuffle")
FORK = multiprocessing.get_context("fork")
LIMIT = 60
"""Seconds of processor time for the peer's verdict on one model, and twice that for its times."""
PATIENCE = 900.0


def ours(given: Sample, send: Callable[[str, Any], None]) -> Graph:
    """Our times and our verdict."""
    start = time.thread_time()
    graph = netir.trace(given.model, given.args, given.kwargs)
    send("trace", 1e3 * (time.thread_time() - start))
    send("nodes", len(graph.nodes))
    done = Prune(amount=0.3).apply(graph)
    before, after = done.report.parameters
    send("ours removed", 1 - after / before)
    try:
        send("ours", _verdict(given, graph, done.graph))
    except NetirError as error:
        send("ours", f"wrong: {error.what}")
    times = interleaved({**_own(graph), "lower": Task(lambda _: netir.to_torch(done.graph))}, 2, 4)
    for name in times:
        send(name, milliseconds(times, name))
    return graph


def _own(graph: Graph) -> dict[str, Task]:
    return {
        "ours analysis": Task(lambda fresh: analyse(fresh).spaces, graph.replace),
        "ours prune": Task(lambda fresh: Prune(amount=0.3).apply(fresh), graph.replace),
    }


def _verdict(given: Sample, graph: Graph, pruned: Graph) -> str:
    if not pruned.history or pruned.history[-1].contract == "exact":
        return "changes nothing"
    netir.verify(graph, pruned, given.args, given.kwargs, contract="masked")
    with torch.no_grad():
        netir.to_torch(pruned)(*given.args, **given.kwargs)
    return "equal"


def theirs(given: Sample, graph: Graph, quick: bool, send: Callable[[str, Any], None]) -> None:
    """The peer's verdict, then the times of both in turn."""
    ignored = peer.output_layers(graph, given.model)
    fresh = lambda: copy.deepcopy(given.model)  # noqa: E731
    build = Task(lambda model: peer.build(model, given), fresh)
    groups = Task(lambda model: peer.groups(model, given, ignored), fresh)
    prune = Task(lambda model: peer.prune(model, given, ignored), fresh)
    _stop_after(LIMIT)
    try:
        send("peer analysis", 1e3 * timed(build, time.thread_time))
        verdict, removed = peer.judged(given, ignored)
        send("peer removed", removed)
        send("peer", verdict)
    except Exception as error:  # noqa: BLE001 - whatever the peer raises is its answer
        said = str(error).strip().partition("\n")[0]
        send("peer", f"fails: {type(error).__name__}: {said[:70]}".replace("|", "/"))
    tasks = {**_own(graph), "peer analysis": build, "peer groups": groups, "peer prune": prune}
    _stop_after(2 * LIMIT)
    with suppress(Exception):  # a peer that cannot finish has no times, but its verdict
        times = interleaved(tasks, 2 if quick else 5, 5)
        for name in times:
            send(name, milliseconds(times, name))


def _stop_after(seconds: int) -> None:
    """End this process once it has used so much more of the processor."""
    end = int(time.process_time()) + seconds
    hardest = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (end, hardest))


def child(name: str, quick: bool, pipe: Connection) -> None:
    """One model, in a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    given = sample(name)
    graph = ours(given, lambda key, value: pipe.send((key, value)))
    pipe.send(("begun", True))
    theirs(given, graph, quick, lambda key, value: pipe.send((key, value)))
    pipe.send(("done", True))


def measure(name: str, quick: bool) -> Row:
    """Run one model and collect what it says until it ends or its time is over."""
    row = Row(name)
    here, there = FORK.Pipe(duplex=False)
    process = FORK.Process(target=child, args=(name, quick, there))
    process.start()
    there.close()
    end = time.monotonic() + PATIENCE
    with suppress(EOFError):
        while here.poll(max(0.0, end - time.monotonic())):
            key, value = here.recv()
            row.found[key] = value
    if process.is_alive():
        process.kill()
    process.join()
    if not row.get("done"):
        late = process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
        said = f"no answer in {LIMIT} s" if late else f"ends with {process.exitcode}"
        row.found.setdefault("peer" if row.get("begun") else "ours", said)
    return row


def run(given: Options) -> list[Row]:
    rows = []
    for name in given.wanted(MODELS, QUICK):
        rows.append(measure(name, given.quick))
        print(name, rows[-1].found, flush=True)
    return rows


def main() -> None:
    given = options(__doc__ or "")
    found = tables(run(given), PUBLISHED, CONSTRUCTS)
    report("peer_prune", "Pruning, side by side with Torch-Pruning", found, given)


if __name__ == "__main__":
    main()
