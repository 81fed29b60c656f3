"""Presets and overrides: how the sections that hold for one host come about."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from ha_agent.config.schema import PRESETS, Host, Override


def merged(base: Any, over: Any) -> Any:
    """`over` over `base`: mappings key by key, anything else (lists too) replaced."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {**base, **{key: merged(base[key], value) if key in base else value for key, value in over.items()}}
    return copy.deepcopy(over)


def with_preset(detection: Any) -> Any:
    """A detection section over the preset that it names. Whatever is not usable is left for the schema to refuse."""
    if not isinstance(detection, Mapping):
        return detection
    preset = detection.get("preset")
    return merged(PRESETS.get(preset, {}) if isinstance(preset, str) else {}, detection)


def first_match(overrides: list[Override], name: str, host: Host) -> int | None:
    """The index of the override that holds for the host: the first that matches."""
    for index, override in enumerate(overrides):
        if _any(override.match.hosts, name) and _any(override.match.domain, host.domain):
            return index
    return None


def _any(patterns: str | list[str], text: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))
