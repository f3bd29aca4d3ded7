"""The commands, their options, and how errors end a run; torch is imported only where needed."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from netir.cli import bench, demo, diff, runs, specs
from netir.cli.arguments import Allowed, Inputs, Model, Sizes
from netir.errors import ContractError, NetirError

EXIT_CODES = """\b
Exit codes:
  0    done; what was to be proved or reached is
  1    a contract does not hold or a target is missed; with a traceback, a fault of netir
  2    a request that cannot be met: the message says what, where, and what to do
  130  interrupted
"""
_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What the system says where the output can go no further."""


class _Group(TyperGroup):
    """A group of commands in which a refused request is told, not traced."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except NetirError as error:
            _tell(f"error: {error}")
            raise typer.Exit(1 if isinstance(error, ContractError) else 2) from None
        except KeyboardInterrupt:
            _tell("interrupted")
            raise typer.Exit(130) from None


def _tell(text: str) -> None:
    """Say how a run ends, where that can be said."""
    with suppress(OSError):
        typer.echo(text, err=True)


app = typer.Typer(
    cls=_Group,
    help="Rewrite trained neural networks: trace, look, verify, lower.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Rewrite trained neural networks: trace, look, verify, lower."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"netir {installed('netir')}")
        raise typer.Exit


@app.command()
def trace(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .netir file to write.")],
    inputs: Inputs = None,
    sizes: Sizes = None,
    allow_op: Allowed = None,
) -> None:
    """Trace a model and write it as a .netir file."""
    from netir.cli.models import find
    from netir.cli.tables import summary
    from netir.store import expect_savable, save

    expect_savable(out)  # before the trace, which takes long
    graph = find(model, inputs, sizes, allow_op)
    save(graph, out)
    typer.echo(f"{summary(graph)}\nwrote {out}")


@app.command()
def show(
    model: Model,
    cost: Annotated[bool, typer.Option("--cost", help="Add what each node costs.")] = False,
    inputs: Inputs = None,
    sizes: Sizes = None,
    allow_op: Allowed = None,
) -> None:
    """Print a graph in its text form."""
    from netir.cli.models import find, numbers

    graph = find(model, inputs, sizes, allow_op)
    typer.echo(str(graph), nl=False)
    if cost:
        from netir.cli.tables import print_cost
        from netir.cost import cost as count

        wanted = {n: v for n, v in numbers(sizes).items() if n in graph.symbols}
        print_cost(graph, count(graph, wanted))


@app.command()
def spaces(
    model: Model,
    layer: Annotated[
        str, typer.Option(help="Only spaces that touch a layer or parameter matching this glob.")
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Also frozen spaces one by one, and all members.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    inputs: Inputs = None,
    sizes: Sizes = None,
    allow_op: Allowed = None,
) -> None:
    """Tell which widths can change, and what moves with each."""
    from netir.cli.describe import described
    from netir.cli.models import find
    from netir.cli.tables import print_json, print_spaces

    graph = find(model, inputs, sizes, allow_op)
    found = described(graph, layer)
    if as_json:
        print_json(found)
    else:
        print_spaces(found, everything or bool(layer))


@app.command()
def verify(
    before: Model,
    after: Model,
    contract: Annotated[
        str,
        typer.Option(help="exact, exact-eval, bounded or changed; default: what the passes keep."),
    ] = "",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="For the random inputs.")] = 0,
    inputs: Inputs = None,
    sizes: Sizes = None,
    allow_op: Allowed = None,
) -> None:
    """Compare two networks in float64 on random inputs."""
    from netir.cli.models import find_all, numbers
    from netir.samples import random_arguments
    from netir.verify import verify as compare

    first, second = find_all((before, after), inputs, sizes, allow_op)
    if dict(first.inputs) != dict(second.inputs):
        raise NetirError(
            "the two networks take different inputs",
            where=" and ".join(", ".join(f"{n}: {t}" for n, t in g.inputs.items())
                               for g in (first, second)),
            fix="trace both with the same example inputs",
        )  # fmt: skip
    arguments = random_arguments(first, numbers(sizes), seed)
    verdict = compare(first, second, (), arguments, contract=contract or None)
    typer.echo(
        f"{verdict.contract.value}: holds, error {verdict.error:.2g}, allowed {verdict.bound:.2g}"
    )


@app.command()
def lower(
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A .py file, or a folder for model.py.")
    ],
    inputs: Inputs = None,
    sizes: Sizes = None,
    allow_op: Allowed = None,
) -> None:
    """Write a graph as readable Python, its weights beside it."""
    from netir.cli.models import find
    from netir.files import new_folder
    from netir.lower.python import to_python

    graph = find(model, inputs, sizes, allow_op)
    if out.suffix not in ("", ".py"):
        raise NetirError(f"cannot lower to '{out.suffix}'", str(out), "name a .py file or a folder")
    if out.suffix:
        to_python(graph, out)
    else:
        with new_folder(out):
            out = out / "model.py"
            to_python(graph, out)
    typer.echo(f"wrote {out}")


for command in (
    runs.run, runs.report, runs.export, specs.plan, diff.diff, bench.bench, specs.passes,
    specs.methods, specs.schema, demo.demo,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    """The console script; a terminal that lacks a character shows another in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        sys.exit(app())
    except OSError as error:
        if error.errno not in _LOST or error.filename is not None:
            raise
        from netir.files import reason

        _tell(f"error: cannot write the output: {reason(error)}")
        sys.exit(2)
    finally:
        _let_go()


def _let_go() -> None:
    """Drop what a full disk did not take: Python would fail at it again when it ends."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
