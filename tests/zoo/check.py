"""Run and export every sample: `python -m tests.zoo.check [name-glob ...]`, from the root.

It needs only PyTorch: what fails here is a fault of the zoo, not of the compiler.
"""

import sys
import time
import warnings
from fnmatch import fnmatch

import torch

from tests.zoo import ZOO
from tests.zoo.sample import Sample


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
    except Exception as error:  # any failure at all is the finding
        return f"{type(error).__name__}: {error}"
    return None


def main(patterns: list[str]) -> int:
    """Check the samples whose names match; the exit code is the number that failed."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    failed = 0
    for name, make in ZOO.items():
        if patterns and not any(fnmatch(name, pattern) for pattern in patterns):
            continue
        start = time.perf_counter()
        found = problem(make())
        failed += found is not None
        spent = time.perf_counter() - start
        print(f"{'FAIL' if found else 'ok  '} {spent:6.2f} s  {name}  {found or ''}")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 100))
