"""Running tests of kernels in Triton's interpreter, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import triton

ROOT = Path(__file__).parents[1]
OLD = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7)
"""Whether Triton's interpreter makes numbers of arrays with one entry, which numpy forbids now."""


def interpret(file: str) -> None:
    """Run the tests of a file with TRITON_INTERPRET set."""
    if OLD and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("this Triton interprets kernels with numpy before 2.4 only")
    allowed = ["-W", "ignore:Conversion of an array with ndim:DeprecationWarning"] if OLD else []
    command = [sys.executable, "-m", "pytest", file, "-p", "no:cacheprovider", *allowed]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
