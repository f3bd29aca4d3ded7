"""Specs: what is to be done to a network, as a YAML file that people write.

`load` reads a file, `parse` a text, and `Spec.dump` writes one back. A spec is data: it names
passes, scores, tasks and networks that are registered, and no code.
"""

from __future__ import annotations

from netir.spec.loading import load, parse
from netir.spec.model import Export, Spec, Targets, Verify
from netir.spec.steps import PassStep, Step, TrainStep

__all__ = [
    "Export", "PassStep", "Spec", "Step", "Targets", "TrainStep", "Verify", "load", "parse",
]  # fmt: skip
