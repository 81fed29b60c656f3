"""Broken forms of a good JSON document: bytes changed, and values replaced, removed, added, or nested without end."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

DEEP = "@@deep@@"  # stands for a value that no Python object can hold
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    2**70,
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "x" * 2000,
    "\x00",
    "\ud800",
    "é\u202e",
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"type": "Hello"},
    DEEP,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something can be changed."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, each in inside for place in places(each, (*at, key)))]


def changed(draw: st.DrawFn, value: Any, at: tuple[Any, ...]) -> Any:
    """The document with one change at one place."""
    if not at:
        return draw(st.sampled_from(ODD))
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(at) > 1:
        copy[at[0]] = changed(draw, value[at[0]], at[1:])
        return copy
    how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename"]))
    if how == "replace":
        copy[at[0]] = draw(st.sampled_from(ODD))
    elif how == "remove" or isinstance(copy, list):
        del copy[at[0]]
    else:
        copy[f"{at[0]}_"] = copy.pop(at[0])
    return copy


@st.composite
def broken_value(draw: st.DrawFn, good: Any) -> Any:
    """A plain value with one or two changes."""
    value = good
    for _ in range(draw(st.integers(1, 2))):
        value = changed(draw, value, draw(st.sampled_from(places(value))))
    return value


@st.composite
def broken(draw: st.DrawFn, bodies: tuple[bytes, ...], depth: int = 5000) -> bytes:
    """A document that is likely not good any more."""
    body = draw(st.sampled_from(bodies))
    how = draw(st.sampled_from(["value", "value", "value", "value", "cut", "byte", "noise", "deep", "twice"]))
    if how == "value":
        text = json.dumps(draw(broken_value(json.loads(body))))
        return text.replace(json.dumps(DEEP), "[" * depth + "]" * depth).encode()
    at = draw(st.integers(0, len(body)))
    if how == "cut":
        return body[:at]
    if how == "byte":
        return body[:at] + draw(st.binary(min_size=1, max_size=3)) + body[at + 1 :]
    if how == "deep":
        return body[:at] + draw(st.sampled_from([b"[", b'{"a":'])) * depth + body[at:]
    return body + body if how == "twice" else draw(st.binary(max_size=80))
