"""Measurements. Run one from the root with `python -m bench.analysis`, all with `make bench`."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy reads it once; torch is told in measure
