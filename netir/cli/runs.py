"""The commands that run: `run`, `report`, `export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netir.cli.arguments import Allowed, Inputs, Json, Model, OwnModel, Sets, Sizes, SpecFile
from netir.errors import NetirError

if TYPE_CHECKING:
    from netir.spec import Spec


def run(
    spec: SpecFile,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder of the run; default: runs/NAME.")
    ] = None,
    sets: Sets = None,
    model: OwnModel = "",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew, without what the folder holds of a run.")
    ] = False,
    as_json: Json = False,
    inputs: Inputs = None,
    sizes: Sizes = None,
    allow_op: Allowed = None,
) -> None:
    """Do what a spec says, in a folder; the same command goes on after an interruption."""
    from netir.spec import load

    found = _with(load(spec, sets or ()), model, inputs, sizes)
    given = _given(found, model, inputs, sizes, allow_op)
    run_and_tell(found, out or Path("runs", found.name), as_json, fresh=fresh, **given)


def _with(spec: Spec, model: str, inputs: list[str] | None, sizes: list[str] | None) -> Spec:
    """The spec with what the command says in place of its own, for the folder to know."""
    from netir.cli.models import numbers
    from netir.models import BUILTIN

    changes: dict[str, Any] = {}
    if model:
        data = model.startswith(BUILTIN) or model.endswith((".netir", ".onnx"))
        changes["model"] = model if data else None
    if inputs:
        changes["inputs"] = tuple(inputs)
    if sizes:
        changes["sizes"] = {**spec.sizes, **numbers(sizes)}
    return spec.model_copy(update=changes).at(Path()) if changes else spec


def _given(
    spec: Spec,
    model: str,
    inputs: list[str] | None,
    sizes: list[str] | None,
    allow_op: list[str] | None,
) -> dict[str, Any]:
    """The network, where a run cannot read it by the spec alone."""
    from netir.cli.models import of_spec

    if spec.model is not None and not allow_op:
        return {}
    if spec.model is None and not model:
        return {}
    return {
        "model": lambda: of_spec(spec, model, inputs, sizes, allow_op),
        "name": spec.model or model,
    }


def run_and_tell(spec: Spec, out: Path, as_json: bool = False, **options: Any) -> None:
    """Run a spec and tell of it; ends in code 1 if a target is not met."""
    from netir.cli.outcome import plain_outcome, print_outcome
    from netir.cli.progress import telling
    from netir.runs import run_spec

    with telling(as_json) as listen:
        outcome = run_spec(spec, out, listen=listen, **options)
    if as_json:
        typer.echo(json.dumps(plain_outcome(outcome), indent=2))
    else:
        print_outcome(outcome)
    if not outcome.met:
        raise typer.Exit(1)


def export(
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A file that ends in .onnx, .py or .netir.")
    ],
    inputs: Inputs = None,
    sizes: Sizes = None,
    allow_op: Allowed = None,
) -> None:
    """Write a network as ONNX, proved in ONNX Runtime, as readable Python, or as .netir."""
    from netir.cli.models import find, numbers
    from netir.lower.export import to_onnx
    from netir.lower.python import to_python
    from netir.store import save

    if out.suffix not in (".onnx", ".py", ".netir"):
        raise NetirError(
            f"cannot export to '{out.name}'", fix="name a file that ends in .onnx, .py or .netir"
        )
    graph = find(model, inputs, sizes, allow_op)
    match out.suffix:
        case ".onnx":
            wanted = {n: v for n, v in numbers(sizes).items() if n in graph.symbols}
            typer.echo(str(to_onnx(graph, out, sizes=wanted)))
        case ".py":
            to_python(graph, out)
        case _:
            save(graph, out)
    typer.echo(f"wrote {out}")


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a run.")],
) -> None:
    """Write the report of a run again, also of one that is not finished."""
    from netir.runs import report as write

    typer.echo(f"wrote {write(folder)}")


__all__ = ["export", "report", "run", "run_and_tell"]
