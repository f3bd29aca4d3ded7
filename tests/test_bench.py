"""A smoke test of the benches: the cheapest one runs, through all that they share."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_analysis_runs_quickly() -> None:
    command = [sys.executable, "-m", "bench.analysis", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Synthetic graphs" in done.stdout
    assert "attention" in done.stdout
    assert "resnet18" in done.stdout
