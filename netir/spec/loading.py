"""From a file or a text to a spec, with what the command line sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from netir.errors import NetirError
from netir.files import reason
from netir.spec.model import FORMAT, Spec
from netir.spec.overrides import overridden
from netir.spec.problems import SpecError
from netir.spec.yaml import LARGEST, Document, read


def load(path: str | os.PathLike[str], sets: Sequence[str] = ()) -> Spec:
    """The spec in a file; a model file that it names lies relative to it.

    `sets` are values that take the place of others: `passes.0.amount=0.3`.
    """
    source = Path(path)
    return parse(_text(source), str(source), sets).at(source.parent)


def parse(text: str, source: str = "the spec", sets: Sequence[str] = ()) -> Spec:
    """The spec in a text."""
    document = overridden(read(text, source), sets)
    _check_format(document)
    try:
        return Spec(**document.value)
    except SpecError as error:
        raise SpecError(error.problems, document) from None


def _check_format(document: Document) -> None:
    if not isinstance(document.value, dict):
        raise NetirError(
            "this is no spec: it is not a mapping", document.where(()),
            "start with 'netir_spec: 1'; docs/spec.md tells the rest",
        )  # fmt: skip
    version = document.value.get("netir_spec")
    if version is None:
        raise NetirError(
            "the spec does not say its version", document.where(()), "start with 'netir_spec: 1'"
        )
    if type(version) is not int or version != FORMAT:
        raise NetirError(
            f"the spec has version {str(version)[:20]}, this netir reads {FORMAT}",
            document.where(("netir_spec",)),
            "use the netir that it was written for",
        )


def _text(source: Path) -> str:
    try:
        with source.open("rb") as file:
            data = file.read(4 * LARGEST + 1)
        if len(data) > 4 * LARGEST:
            raise NetirError("the file is too large for a spec", str(source))
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise NetirError("there is no such file", str(source), "check the path") from None
    except OSError as error:
        raise NetirError(f"cannot read the file: {reason(error)}", str(source)) from None
    except UnicodeDecodeError:
        raise NetirError("the file is not in UTF-8", str(source), "save it as UTF-8") from None


__all__ = ["load", "parse"]
