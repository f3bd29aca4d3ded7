"""Running a spec in a folder: steps that are journalled, so that a killed run goes on.

`run_spec` does it, `report` writes the report of a folder again. The journal (journal.py) tells
what is finished; all else in the folder follows from it (folder.py).
"""

from __future__ import annotations

from netir.runs.journal import Event
from netir.runs.run import Listener, Outcome, report, run_spec

__all__ = ["Event", "Listener", "Outcome", "report", "run_spec"]
