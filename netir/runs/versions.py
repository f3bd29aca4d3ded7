"""What a run ran with: versions and the machine, which its numbers depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

_PACKAGES = ("netir", "torch", "numpy", "onnxruntime-gpu", "onnxruntime")


def versions() -> dict[str, str]:
    """The versions that matter to a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Processor, cores and threads, and the GPU if there is one."""
    threads = torch.get_num_threads()
    parts = [platform.machine(), f"{os.cpu_count()} cores", f"{threads} threads in PyTorch"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


__all__ = ["machine", "versions"]
