"""The command line: one small function for each command, in a file for each group of them.

Commands only call what a program could call. A Python model is named by the person at the
keyboard, never by a file. `netir --help` tells the commands and the exit codes (app.py).
"""

from __future__ import annotations

from netir.cli.app import app, main

__all__ = ["app", "main"]
