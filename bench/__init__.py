"""Measurements. Run one from the root with `python -m bench.analysis`, all with `make bench`."""
