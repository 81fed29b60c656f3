"""docs/config.md names each field of the config, with its default, and none that does not exist."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from ha_agent.config import schema

DOC = (Path(__file__).parents[2] / "docs" / "config.md").read_text(encoding="utf-8")
CONTROLLER, REMOTE = DOC.split("\n## remote.yaml\n")


def submodel(annotation: object) -> tuple[type[BaseModel], str] | None:
    """The model inside an annotation, and how its place is written: as it is, a mapping's NAME, or a list's []."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict and (found := submodel(arguments[1])):
        return found[0], ".NAME"
    if origin is list and (found := submodel(arguments[0])):
        return found[0], "[]"
    return submodel(arguments[0]) if origin is typing.Annotated else None


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted path, default as documented) of every leaf."""
    for name, field in model.model_fields.items():
        found = submodel(field.annotation)
        if found:
            yield from fields(found[0], f"{prefix}{name}{found[1]}.")
        elif field.is_required():
            yield prefix + name, "required"
        else:
            default = field.get_default(call_default_factory=True)
            empty = default is None or default in ("", [], {})
            yield prefix + name, "" if empty and default is not False else f"`{json.dumps(default).strip(chr(34))}`"


def documented(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]*?) ?\|", text, re.MULTILINE))


@pytest.mark.parametrize(("text", "model"), [(CONTROLLER, schema.Controller), (REMOTE, schema.Remote)])
def test_every_field_is_documented_with_its_default(text: str, model: type[BaseModel]) -> None:
    assert documented(text) == dict(fields(model))


def test_presets_are_documented_with_their_numbers() -> None:
    for name, values in schema.PRESETS.items():
        line = next(line for line in CONTROLLER.splitlines() if line.startswith(f"| `{name}` preset"))
        for field, value in values.items():
            if not isinstance(value, dict):
                assert f"{field} {value:g}" in line
