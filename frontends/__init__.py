"""Readers: each module turns one kind of foreign model into a graph of netir's own ops."""

from netir.frontends.torch_export import trace

__all__ = ["trace"]
