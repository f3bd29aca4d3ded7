"""Readers: each module turns one kind of foreign model into a graph of netir's own ops."""
