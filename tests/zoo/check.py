"""Run and export every sample: `python -m tests.zoo.check [table/name-glob ...]` from the root.

It needs no more than PyTorch and transformers: what fails here is a fault of the zoo, not of the
compiler.
"""

import sys
import time
import warnings
from fnmatch import fnmatch

import torch

from tests.zoo.classics import CLASSICS
from tests.zoo.constructs import CONSTRUCTS
from tests.zoo.families import FAMILIES
from tests.zoo.sample import Sample

TABLES = {"constructs": CONSTRUCTS, "families": FAMILIES, "classics": CLASSICS}


def problem(sample: Sample) -> str | None:
    """Why this sample is no use, or None."""
    try:
        with torch.no_grad():
            sample.run()
        torch.export.export(
            sample.model,
            sample.args,
            sample.kwargs,
            dynamic_shapes=sample.dynamic_shapes(),
            strict=False,
        )
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the finding
        return f"{type(error).__name__}: {error}"
    return None


def main(patterns: list[str]) -> int:
    """Check the samples whose `table/name` matches; the exit code is the number that failed."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    entries = {f"{table}/{name}": make for table, made in TABLES.items()
               for name, make in made.items()}
    failed = 0
    for name, make in entries.items():
        if not any(fnmatch(name, pattern) for pattern in patterns or ["*"]):
            continue
        start = time.perf_counter()
        found = problem(make())
        failed += found is not None
        spent = time.perf_counter() - start
        verdict = "FAIL" if found else "ok"
        sys.stdout.write(f"{verdict:4} {spent:6.2f} s  {name}  {found or ''}\n")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 100))
