"""Layers as parts of a network: where they stand, and what takes their place."""
