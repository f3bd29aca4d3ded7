"""The command line: `netir trace|show|spaces|verify|lower|demo`.

Commands only call what a program could call. A Python model is named by the person at the
keyboard, never by a file. Exit codes: 0, done; 2, a request that cannot be met, told without a
traceback; 1, a fault of netir's own, with one.
"""

from __future__ import annotations

from netir.cli.app import app, main

__all__ = ["app", "main"]
