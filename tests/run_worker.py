"""Runs of a spec in processes of their own, which tests kill, starve and interrupt.

A server that has imported all that a run needs forks them, so that each starts at once.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.run_worker_imports"])
PATIENCE = 120.0
"""Seconds after which a process that does not come to its point is stuck."""


def started(spec: Path, out: Path, largest: int | None = None) -> ForkServerProcess:
    """`netir run` in a new process; `largest` bounds the bytes of each file that it writes."""
    process = _CONTEXT.Process(target=_run, args=(str(spec), str(out), largest))
    process.start()
    return process


def _run(spec: str, out: str, largest: int | None) -> None:
    from netir.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    sys.argv = ["netir", "run", spec, "--out", out]
    with Path(out).with_suffix(".out").open("a") as said:
        sys.stdout = sys.stderr = said
        main()


def ended(process: ForkServerProcess) -> int:
    """The exit code of a process that ends by itself."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def once(process: ForkServerProcess, reached: Callable[[], bool], send: int, delay: float) -> None:
    """Send a signal as soon as a point is reached and `delay` seconds have passed."""
    end = time.monotonic() + PATIENCE
    while not reached() and process.is_alive():
        assert time.monotonic() < end, "the run hangs"
        time.sleep(0.002)
    time.sleep(delay)
    assert process.pid is not None
    if process.is_alive():
        os.kill(process.pid, send)
    process.join(PATIENCE)


def bytes_of(run: Path) -> dict[str, bytes]:
    """Every file but those that tell times."""
    told = {"journal.jsonl", "log.txt", "report.html", ".lock"}
    files = (file for file in sorted(run.rglob("*")) if file.is_file())
    return {str(f.relative_to(run)): f.read_bytes() for f in files if f.name not in told}


def kinds(run: Path) -> list[str]:
    """The kinds of all events so far; of a line that is being written, none."""
    journal = run / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return [json.loads(line)["event"] for line in lines]
