"""What each fencing driver needs, what it has no use for, and which options it knows."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from ha_agent.config.findings import Findings
from ha_agent.config.problems import closest
from ha_agent.config.schema import Device
from ha_agent.config.yamlfile import FieldPath

BMC_NEEDS = {
    "address": "give the BMC's address or name",
    "username": "give the BMC user that may switch power",
    "password_file": "give a file that only the user ha-agent can read",
}
AGENT_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_AGENT_NAME = re.compile(r"fence_[A-Za-z0-9_.-]+")
_AGENT_OPTION = re.compile(r"[a-z][a-z0-9_-]{0,63}")
# What we say ourselves, and under which of our fields.
_OURS = {
    "action": "",
    "ip": "address",
    "ipaddr": "address",
    "ipport": "port",
    "username": "username",
    "login": "username",
    "plug": "plug",
    "port": "plug",
    "nodename": "plug",
}
_SECRET = re.compile(r"pass(?!ive)|secret|token|api_?key|credential|(?:^|_)kg")
_TALKATIVE = re.compile(r"verbose.*|debug.*|quiet|version|help")


class Spec(NamedTuple):
    """A driver. `port`: where none is given. `needs`: field -> what to do where it is missing. `unused`: fields that mean nothing to it.
    `options`: name -> the values it may have, none for any. `files`: options that name a file; `public`: of these, everyone may
    read it."""

    port: int = 0
    needs: dict[str, str] = {}
    unused: tuple[str, ...] = ()
    options: dict[str, tuple[str, ...]] | None = None
    files: tuple[str, ...] = ()
    public: tuple[str, ...] = ()


SPECS = {
    "ipmi": Spec(
        port=623,
        needs=BMC_NEEDS,
        unused=("plug", "agent"),
        options={"privilege": ("operator", "administrator"), "cipher": ("17", "3"), "kg_file": ()},
        files=("kg_file",),
    ),
    "redfish": Spec(
        port=443,
        needs=BMC_NEEDS,
        unused=("agent",),
        options={"ca_file": (), "insecure": ("true", "false"), "auth": ("session", "basic")},
        files=("ca_file",),
        public=("ca_file",),
    ),
    "fence_agent": Spec(needs={"agent": "name the program, e.g. fence_apc, or give its absolute path"}),
    "manual": Spec(),
}


def check(findings: Findings, where: FieldPath, device: Device, *, files: bool) -> None:
    """A device by itself, before hosts are looked at. `files`: whether programs must be there."""
    spec = SPECS.get(device.driver)
    if spec is None:
        findings.add(
            (*where, "driver"), f"{device.driver} is not built into this version", f"use one of {', '.join(SPECS)}"
        )
        return
    if device.driver == "manual":
        return
    for field, fix in spec.needs.items():
        if not getattr(device, field):
            findings.add((*where, field), "is missing", fix)
    for field in spec.unused:
        if getattr(device, field):
            findings.add((*where, field), f"means nothing to the driver {device.driver}", "remove it")
    if spec.options is None:
        _agent(findings, where, device, files=files)
        return
    for key, value in device.options.items():
        at = (*where, "options", key)
        if key not in spec.options:
            fix = closest(key, spec.options) or f"known: {', '.join(spec.options)}"
            findings.add(at, f"is unknown to the driver {device.driver}", fix)
        elif spec.options[key] and value not in spec.options[key]:
            findings.add(at, "is not one of the choices", f"use {' or '.join(spec.options[key])}")
    if device.options.get("insecure") == "true":
        if "ca_file" in device.options:
            findings.add(
                (*where, "options", "insecure"), "is true, so ca_file would not be looked at", "remove one of them"
            )
        findings.warn(
            (*where, "options", "insecure"),
            "the BMC's certificate is not verified: whoever stands between gets its password, and can say off for it",
        )


def _agent(findings: Findings, where: FieldPath, device: Device, *, files: bool) -> None:
    _program(findings, (*where, "agent"), device.agent, files=files)
    for key, value in device.options.items():
        at = (*where, "options", key)
        if key in _OURS:
            fix = f"use the device's field {_OURS[key]}" if _OURS[key] else "remove it"
            findings.add(at, "is said by the driver itself", fix)
        elif _SECRET.search(key):
            findings.add(at, "may be a secret, which has no place in this file", "use password_file")
        elif _TALKATIVE.fullmatch(key):
            findings.add(at, "makes the agent write what it is told, passwords too, or say nothing", "remove it")
        elif not _AGENT_OPTION.fullmatch(key):
            findings.add(
                at, "is not the name of an option", "use lower-case letters, digits and _, as the agent's metadata does"
            )
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            findings.add(at, "is not one line of plain text", "remove line ends and control characters")


def _program(findings: Findings, where: FieldPath, agent: str, *, files: bool) -> None:
    if not agent:
        return
    if "/" in agent:
        if not agent.startswith("/") or ".." in agent.split("/"):
            findings.add(
                where, "is neither a name nor an absolute path", "use a name, e.g. fence_apc, or /usr/sbin/fence_apc"
            )
            return
        places = [Path(agent)]
    elif not _AGENT_NAME.fullmatch(agent):
        findings.add(
            where, "is not the name of a fence agent", "use a name that begins with fence_, or an absolute path"
        )
        return
    else:
        places = [Path(directory, agent) for directory in AGENT_DIRECTORIES]
    if files and not any(place.is_file() and os.access(place, os.X_OK) for place in places):
        looked = ", ".join(str(place.parent) for place in places)
        findings.add(
            where, f"is not installed (looked in {looked})", "install it (package fence-agents), or correct the name"
        )
