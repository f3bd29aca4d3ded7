"""The zoo, traced: every sample and its graph, made once for a run of the tests.

A sample and its graph share their tensors and are shared by all tests: do not change either. To
change a model, make a fresh sample by `fresh(name)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

from netir import Graph, NetirWarning
from netir.frontends import trace
from tests.zoo.classics import CLASSICS
from tests.zoo.constructs import CONSTRUCTS
from tests.zoo.families import FAMILIES
from tests.zoo.sample import Sample

SAMPLES: dict[str, Callable[[], Sample]] = {**CLASSICS, **FAMILIES, **CONSTRUCTS}

REFUSED = {"condition": "control flow is not part of a graph"}
"""Samples that netir refuses to trace, and why."""

NAMES = tuple(name for name in (*CONSTRUCTS, *FAMILIES) if name not in REFUSED)
"""The constructs and families that have a graph."""


def fresh(name: str) -> Sample:
    """A new sample, with the same numbers each time."""
    return SAMPLES[name]()


@cache
def traced(name: str) -> tuple[Sample, Graph]:
    """A sample and its graph."""
    sample = fresh(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetirWarning)
        graph = trace(sample.model, sample.args, sample.kwargs, dynamic=sample.dynamic)
    return sample, graph
