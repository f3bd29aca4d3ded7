"""netir: a graph-IR compiler whose programs are neural networks."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netir import passes, tasks
    from netir.basis import Basis, Contract, extend, linear, replicate, select
    from netir.calibration import Calibration
    from netir.change import change_basis
    from netir.compare import compare
    from netir.cost import cost
    from netir.equivariance import Equivariance, equivariance
    from netir.errors import NetirError, NetirWarning
    from netir.evaluate import run
    from netir.frontends import trace
    from netir.frontends.onnx import from_onnx
    from netir.ir import Graph
    from netir.latency import latency
    from netir.live import Live
    from netir.lower.export import OnnxReport, to_onnx
    from netir.lower.python import to_python
    from netir.lower.torch import to_torch
    from netir.moves import Moves, move_optimizer
    from netir.pipeline import Pipeline
    from netir.runs import run_spec
    from netir.score import evaluate
    from netir.spec import Spec
    from netir.store import load, save
    from netir.task import Task
    from netir.train import TrainOptions, train
    from netir.verify import check, verify

__version__ = version("netir")

_HOMES = {
    "netir.basis": ("Basis", "Contract", "extend", "linear", "replicate", "select"),
    "netir.calibration": ("Calibration",),
    "netir.change": ("change_basis",),
    "netir.compare": ("compare",),
    "netir.cost": ("cost",),
    "netir.equivariance": ("Equivariance", "equivariance"),
    "netir.errors": ("NetirError", "NetirWarning"),
    "netir.evaluate": ("run",),
    "netir.frontends": ("trace",),
    "netir.frontends.onnx": ("from_onnx",),
    "netir.ir": ("Graph",),
    "netir.latency": ("latency",),
    "netir.live": ("Live",),
    "netir.lower.export": ("OnnxReport", "to_onnx"),
    "netir.lower.python": ("to_python",),
    "netir.lower.torch": ("to_torch",),
    "netir.moves": ("Moves", "move_optimizer"),
    "netir.score": ("evaluate",),
    "netir.spec": ("Spec",),
    "netir.pipeline": ("Pipeline",),
    "netir.runs": ("run_spec",),
    "netir.store": ("load", "save"),
    "netir.task": ("Task",),
    "netir.train": ("TrainOptions", "train"),
    "netir.verify": ("check", "verify"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: `import netir` costs nothing."""
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    if name in ("passes", "tasks"):
        return import_module(f"netir.{name}")
    raise AttributeError(f"module 'netir' has no attribute '{name}'")


class _Package(ModuleType):
    """`netir.verify` is the function, also once the module of that name has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOME_OF or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

__all__ = [
    "Basis",
    "Calibration",
    "Contract",
    "Equivariance",
    "Graph",
    "Live",
    "Moves",
    "NetirError",
    "NetirWarning",
    "OnnxReport",
    "Pipeline",
    "Spec",
    "Task",
    "TrainOptions",
    "change_basis",
    "check",
    "compare",
    "cost",
    "equivariance",
    "evaluate",
    "extend",
    "from_onnx",
    "latency",
    "linear",
    "load",
    "move_optimizer",
    "passes",
    "replicate",
    "run",
    "run_spec",
    "save",
    "select",
    "tasks",
    "to_onnx",
    "to_python",
    "to_torch",
    "trace",
    "train",
    "verify",
]
