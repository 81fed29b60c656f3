"""The configuration: from YAML to plain frozen values, with every problem of a file told at once."""

from __future__ import annotations

import re

from ha_agent.config.load import load, loads
from ha_agent.config.remote import load_remote
from ha_agent.config.values import (
    BusSettings,
    DeviceSpec,
    HostPlace,
    HttpSettings,
    Loaded,
    RemoteLoaded,
    StoreSettings,
)


def without_secrets(url: str) -> str:
    """A URL without its password, to be shown."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]*@", r"\1:***@", url)


__all__ = [
    "BusSettings",
    "DeviceSpec",
    "HostPlace",
    "HttpSettings",
    "Loaded",
    "RemoteLoaded",
    "StoreSettings",
    "load",
    "load_remote",
    "loads",
    "without_secrets",
]
