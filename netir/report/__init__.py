"""The report of a run: what was done to a network and what came of it, as one page to look at.

`Story` is the run as plain data, `drawing` makes a picture's data of a graph, and `write_report`
writes the page: one HTML file that needs no network.
"""

from netir.report.drawing import Drawing, Marks, compare, drawing
from netir.report.page import write_report
from netir.report.story import Epoch, Export, Growth, Measured, Stage, Story, Target

__all__ = [
    "Drawing",
    "Epoch",
    "Export",
    "Growth",
    "Marks",
    "Measured",
    "Stage",
    "Story",
    "Target",
    "compare",
    "drawing",
    "write_report",
]
