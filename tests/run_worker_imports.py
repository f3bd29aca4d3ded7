"""What a run imports, for a process that forks others."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import onnxruntime  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch

import netir.cli.outcome
import netir.passes
import netir.runs
import netir.tasks  # noqa: F401

torch.set_num_threads(1)
