"""Rewrites of graphs, one family per file; not the machinery they are made of."""
