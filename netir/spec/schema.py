"""The JSON schema of specs, made from the models and from the fields of passes and tasks.

Editors complete and check specs with it. It knows every registered pass and task of this
installation, so it is made anew by `netir schema` and kept nowhere.
"""

from __future__ import annotations

import inspect
from typing import Any

from netir import registry
from netir.spec.model import Export, Spec
from netir.spec.options import Option, options
from netir.train_options import TrainOptions

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema of a whole spec."""
    found = Spec.model_json_schema()
    definitions: dict[str, Any] = found.setdefault("$defs", {})
    parts: dict[str, Any] = found["properties"]
    steps = [_made("pass", name, "pass", definitions) for name in registry.names("pass")]
    parts["passes"]["items"] = {"anyOf": [*steps, _train(definitions)]}
    parts["task"] = {**parts["task"], **_named("task", "name", definitions)}
    parts["exports"]["items"] = {
        "anyOf": [parts["exports"]["items"], {"enum": _formats()}],
    }
    parts["verify"]["anyOf"].append({"type": "boolean"})
    found["required"] = ["netir_spec"]
    return {"$schema": _DRAFT, **found, "title": "netir spec"}


def _formats() -> list[str]:
    formats: list[str] = Export.model_json_schema()["properties"]["format"]["enum"]
    return formats


def _made(kind: str, name: str, key: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """A mapping that names a registered class and gives its options."""
    cls = registry.called(kind, name)
    about = inspect.cleandoc(cls.__doc__ or "")
    return _mapping(cls, {key: {"const": name}}, about, definitions)


def _train(definitions: dict[str, Any]) -> dict[str, Any]:
    about = inspect.cleandoc(TrainOptions.__doc__ or "")
    given = _mapping(TrainOptions, {}, about, definitions)
    given["properties"]["grow"] = {"default": None, **_named("grower", "method", definitions)}
    return {
        "type": "object",
        "properties": {"train": {"anyOf": [given, {"type": "null"}]}},
        "required": ["train"],
        "additionalProperties": False,
        "description": "Train the network on the task.",
    }


def _named(kind: str, key: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """A registered name, alone or in a mapping with options; or nothing."""
    names = registry.names(kind)
    made = [_made(kind, name, key, definitions) for name in names]
    return {"anyOf": [*made, {"enum": names}, {"type": "null"}]}


def _mapping(
    cls: type, first: dict[str, Any], about: str, definitions: dict[str, Any]
) -> dict[str, Any]:
    """The fields of a dataclass as the keys of a mapping, after those of `first`."""
    usable = [option for option in options(cls).values() if option.in_files]
    return {
        "type": "object",
        "description": about,
        "properties": {**first, **{o.name: _option(o, definitions) for o in usable}},
        "required": [*first, *(option.name for option in usable if option.required)],
        "additionalProperties": False,
    }


def _option(option: Option, definitions: dict[str, Any]) -> dict[str, Any]:
    if option.made:
        schema = _named(option.kind, "name", definitions)
    elif option.kind:
        schema = {"enum": registry.names(option.kind)}
    else:
        schema, more = option.schema()
        definitions |= more
    return schema if option.required else {**schema, "default": option.plain(option.default)}


__all__ = ["json_schema"]
