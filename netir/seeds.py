"""Chance: every part of a job draws from a stream of its own, whatever was drawn before it.

What is done again with the same seed draws the same, and nobody else's draws are disturbed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch


def seed_of(seed: int, *names: object) -> int:
    """A seed for one part of a job, which does not depend on the other parts."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The generators of Python, NumPy and PyTorch start from `seed`, and go back afterwards."""
    before = _states()
    try:
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        yield
    finally:
        _go_back(before)


def apart(items: Iterable[Any], seed: int) -> Iterator[Any]:
    """The items; what making them draws comes from a stream that starts at `seed`."""
    with seeded(seed):
        found, own = iter(items), _states()
    while True:
        outside = _states()
        _go_back(own)
        try:
            item = next(found)
        except StopIteration:
            return
        finally:
            own = _states()
            _go_back(outside)
        yield item


def _states() -> tuple[Any, ...]:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), numpy.random.get_state(), torch.get_rng_state(), devices


def _go_back(states: tuple[Any, ...]) -> None:
    python, array, cpu, devices = states
    random.setstate(python)
    numpy.random.set_state(array)
    torch.set_rng_state(cpu)
    if devices:
        torch.cuda.set_rng_state_all(devices)


__all__ = ["apart", "seed_of", "seeded"]
