"""Long trainings in a run: their state is kept now and then, for a killed run to go on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from netir.report import Epoch, codec
from netir.runs.folder import RunFolder
from netir.runs.journal import damaged
from netir.runs.state import State, read_facts, read_state, write_state

EVERY = 15.0
"""Seconds between two checkpoints, at least; a checkpoint comes after an epoch."""


class Checkpoints:
    """The checkpoint of one training: at most one, the newest."""

    def __init__(self, folder: RunFolder, step: Path) -> None:
        self._folder = folder
        self._place = step.with_name(f".{step.name}.part")
        self._last = time.monotonic()

    def read(self) -> tuple[State | None, tuple[Epoch, ...]]:
        """The state that was kept last and the epochs that led to it; None if there is none."""
        if not self._place.exists():
            return None, ()
        with damaged(self._place):
            told = read_facts(self._place)["epochs"]
            epochs: tuple[Epoch, ...] = codec.read(tuple[Epoch, ...], told, "epochs")
        return read_state(self._place), epochs

    def keep(self, epochs: Sequence[Epoch], state: Callable[[], State]) -> None:
        """Keep the state after these epochs, if it is time."""
        if time.monotonic() - self._last < EVERY:
            return
        with self._folder.making(self._place) as draft:
            write_state(draft, state(), {"epochs": codec.plain(epochs)})
        self._last = time.monotonic()

    def forget(self) -> None:
        """The training is finished."""
        self._folder.remove(self._place)


__all__ = ["EVERY", "Checkpoints"]
