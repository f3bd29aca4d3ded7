"""The commands about specs: `plan`, `passes`, `methods`, `schema`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from netir.cli.arguments import Allowed, Inputs, Json, OwnModel, Sets, Sizes, SpecFile


def plan(
    spec: SpecFile,
    sets: Sets = None,
    model: OwnModel = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Every changed layer, and all that is left.")
    ] = False,
    as_json: Json = False,
    inputs: Inputs = None,
    sizes: Sizes = None,
    allow_op: Allowed = None,
) -> None:
    """Tell what a spec would change and save, without training or writing anything."""
    from netir.cli.models import numbers, of_spec
    from netir.cli.plans import plain_plan, print_plan
    from netir.spec import load
    from netir.spec.planning import plan as planned

    found = load(spec, sets or ())
    graph = of_spec(found, model, inputs, sizes, allow_op)
    result = planned(found, graph, numbers(sizes))
    if as_json:
        typer.echo(json.dumps(plain_plan(found, result), indent=2))
    else:
        print_plan(found, result, everything)


def passes(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One pass, in full.")] = "",
    as_json: Json = False,
) -> None:
    """List the passes, or tell all about one."""
    from netir.cli.catalogue import plain_passes, print_pass, print_passes

    if as_json:
        typer.echo(json.dumps(plain_passes(name), indent=2))
    elif name:
        print_pass(name)
    else:
        print_passes()


def methods(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One of them, in full.")] = "",
    as_json: Json = False,
) -> None:
    """List the growers, triggers and inits of trainings that grow, or tell all about one."""
    from netir.cli.catalogue import plain_methods, print_method, print_methods

    if as_json:
        typer.echo(json.dumps(plain_methods(name), indent=2))
    elif name:
        print_method(name)
    else:
        print_methods()


def schema() -> None:
    """Print the JSON schema of specs, for editors."""
    from netir.spec.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


__all__ = ["methods", "passes", "plan", "schema"]
