"""The demo: a packaged spec that trains, shrinks, regrows and exports a small network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netir.cli.arguments import Json


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for everything.")
    ] = Path("netir-demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew.")] = False,
    as_json: Json = False,
) -> None:
    """Train a small network on digits, shrink it, let it grow again, export it: in a minute."""
    from importlib.resources import as_file, files

    import torch

    from netir.cli.runs import run_and_tell
    from netir.spec import load

    torch.set_num_threads(1)  # more only get in each other's way on so small a network
    with as_file(files("netir") / "demo" / "digits.yaml") as file:
        spec = load(file)
    run_and_tell(spec, out, as_json, fresh=fresh)


__all__ = ["demo"]
