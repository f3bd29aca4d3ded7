"""Lowering: what turns a graph into something that runs without netir, one target in each file."""
