"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A .netir or .onnx file, a factory pkg.module:function, or builtin:NAME.",
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="An example input where the factory gives only a module: 'x=f32[batch, 3, 32, 32]'.",
    ),
]
Sizes = Annotated[
    list[str] | None, typer.Option("--size", help="The number that a symbolic size stands for.")
]
Allowed = Annotated[
    list[str] | None,
    typer.Option("--allow-op", help="An operator that is not torch's own and that you trust."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value than in the spec: passes.0.amount=0.3. Repeatable."),
]
SpecFile = Annotated[str, typer.Argument(metavar="SPEC", help="A spec file: YAML.")]
OwnModel = Annotated[
    str, typer.Option("--model", help="The model, in place of the one in the spec: see MODEL.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

__all__ = ["Allowed", "Inputs", "Json", "Model", "OwnModel", "Sets", "Sizes", "SpecFile"]
