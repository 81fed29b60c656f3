"""Turns what pydantic found into problems that a human can act on: field, problem, fix. Values are not echoed: they may be secrets."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from ha_agent.config.yamlfile import FieldPath

Problem = tuple[str, str, str]
Found = tuple[FieldPath, str, str]  # the same, before the path is written out

# pydantic's kind of error -> problem, fix; both are filled from its context.
_TEXTS = {
    "missing": ("is missing", "add it"),
    "string_type": ("is not a text", "put it in quotes"),
    "string_too_short": ("is empty", "give it a value, or remove it"),
    "string_too_long": ("is too long", "use at most {max_length} characters"),
    "bool_type": ("is neither true nor false", "write true or false"),
    "int_type": ("is not a whole number", "write a whole number, without quotes"),
    "float_type": ("is not a number", "write a number, without quotes; seconds have no unit"),
    "finite_number": ("is not a finite number", "write a number"),
    "list_type": ("is not a list", "write it as [a, b]"),
    "dict_type": ("is not a mapping", "write it as {{key: value}}"),
    "model_type": ("is not a mapping", "write it as {{key: value}}"),
    "greater_than": ("is too small", "use a value above {gt}"),
    "greater_than_equal": ("is too small", "use at least {ge}"),
    "less_than_equal": ("is too large", "use at most {le}"),
    "literal_error": ("is not one of the choices", "use {expected}"),
    "too_short": ("is empty", "name at least one"),
    "too_long": ("has too many entries", "use at most {max_length}"),
}


def from_pydantic(error: ValidationError, model: type[BaseModel]) -> list[Found]:
    """Every error, once per field."""
    found: dict[FieldPath, Found] = {}
    for item in error.errors(include_url=False, include_input=False):
        path = tuple(_plain(item["loc"]))
        if item["type"] == "extra_forbidden":
            found.setdefault(path, (path, "is unknown", _did_you_mean(path, model)))
            continue
        problem, fix = _TEXTS.get(item["type"], (item["msg"], "see the commented example"))
        context = {key: value for key, value in item.get("ctx", {}).items() if isinstance(value, int | float | str)}
        if path and path[-1] == "[key]":
            path, problem = (*path[:-2], str(path[-2])), f"as a name {problem}"
        found.setdefault(path, (path, problem, fix.format(**context)))
    return list(found.values())


def _plain(loc: Iterable[str | int]) -> Iterable[str | int]:
    """A union adds the names of its members to the path; those are not fields."""
    return (
        part
        for part in loc
        if not (isinstance(part, str) and (part == "str" or part.startswith(("list[", "constrained-"))))
    )


def closest(word: str, choices: Iterable[str]) -> str:
    """ "did you mean …", or nothing."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


def _did_you_mean(path: FieldPath, model: type[BaseModel]) -> str:
    fields = _fields_at(path[:-1], model)
    known = ", ".join(sorted(fields))
    return closest(str(path[-1]), fields) or (f"known here: {known}" if known else "remove it")


def _fields_at(path: FieldPath, model: type[BaseModel]) -> list[str]:
    """The fields that a section has."""
    annotation: Any = model
    for part in path:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:
            arguments = typing.get_args(annotation)
            annotation = arguments[-1] if arguments else None
        while typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
    return list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
