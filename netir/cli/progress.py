"""How a run is told while it goes on: bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from netir.cli.tables import console

if TYPE_CHECKING:
    from rich.progress import Progress

    from netir.runs import Event, Listener


@contextmanager
def telling(quietly: bool) -> Iterator[Listener]:
    """A listener for a run; with `quietly`, standard output stays free for what comes last."""
    if quietly or not console().is_terminal:
        yield lambda event: _lines(event, quietly)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(), transient=True) as progress:
        yield _Bars(progress)


def _lines(event: Event, to_errors: bool) -> None:
    from netir.runs.words import told

    for line in told(event):
        typer.echo(line, err=to_errors)


class _Bars:
    """A bar for the steps, and one for the epochs of a training."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.steps = progress.add_task("steps")
        self.epochs = progress.add_task("epochs", visible=False)

    def __call__(self, event: Event) -> None:
        from netir.runs.words import told

        match event.kind:
            case "step-begun":
                whole, done = event["count"] + 1, event["index"] + 1
                self.progress.update(
                    self.steps, total=whole, completed=done, description=event["name"]
                )
            case "epoch":
                share = {"total": event["epochs"], "completed": event["number"]}
                text = " ".join(told(event)).strip()
                self.progress.update(self.epochs, visible=True, description=text, **share)
                return
            case "step":
                self.progress.update(self.epochs, visible=False)
                self.progress.update(self.steps, completed=event["index"] + 2)
        for line in told(event):
            self.progress.console.print(line)


__all__ = ["telling"]
