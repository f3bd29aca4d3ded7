"""What one step of a run hands to the next, as files: the network and the optimizer's memory.

A step always goes on from the files of the one before it, whether that ran just now or in a process
that was killed. So both give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from netir.errors import NetirError
from netir.files import reason, replacing
from netir.ir import Graph
from netir.runs.journal import damaged
from netir.store import load, save

GRAPH, MEMORY, FACTS = "graph.netir", "optimizer.safetensors", "step.json"


@dataclass(frozen=True, eq=False)
class Memory:
    """An optimizer between two trainings: its name, its settings, and its state by parameter."""

    name: str
    settings: Mapping[str, Any]
    state: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class State:
    """A network between two steps, with the memory of the optimizer that trained it last."""

    graph: Graph
    memory: Memory | None = None


def write_state(folder: Path, state: State, facts: Mapping[str, Any]) -> dict[str, str]:
    """Write a state and `facts` into a folder; gives the checksum of every file."""
    save(state.graph, folder / GRAPH)
    optimizer = None
    if state.memory is not None:
        optimizer = {"name": state.memory.name, "settings": dict(state.memory.settings)}
        own = {key: value.contiguous() for key, value in state.memory.state.items()}
        with replacing(folder / MEMORY) as draft:
            safetensors.torch.save_file(own, draft)
    text = json.dumps({**facts, "optimizer": optimizer}, indent=2, allow_nan=False)
    with replacing(folder / FACTS) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    return {file.name: checksum(file) for file in sorted(folder.iterdir())}


def read_state(folder: Path, files: Mapping[str, str] | None = None) -> State:
    """The state in a folder; with checksums, only if the files are as they were written."""
    for name, wanted in (files or {}).items():
        if name not in (GRAPH, MEMORY, FACTS) or checksum(folder / name) != wanted:
            raise NetirError(
                "a file of the run has changed since it was written", str(folder / name),
                "put it back, or start anew with --fresh",
            )  # fmt: skip
    graph = load(folder / GRAPH)
    with damaged(folder):
        optimizer = read_facts(folder)["optimizer"]
        if optimizer is None:
            return State(graph)
        state = safetensors.torch.load((folder / MEMORY).read_bytes())
        return State(graph, Memory(optimizer["name"], dict(optimizer["settings"]), state))


def read_facts(folder: Path) -> Any:
    """What `write_state` was told to write beside a state."""
    return json.loads((folder / FACTS).read_text(encoding="utf-8"))


def checksum(file: Path) -> str:
    """The SHA-256 of a file."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise NetirError(
            f"cannot read a file of the run: {reason(error)}", str(file),
            "put it back, or start anew with --fresh",
        ) from error  # fmt: skip


__all__ = ["Memory", "State", "checksum", "read_facts", "read_state", "write_state"]
