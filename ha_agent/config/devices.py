"""Fencing devices of hosts: templates filled, secrets found, and nothing that two hosts share."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import string
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ha_agent.config import drivers
from ha_agent.config.drivers import SPECS
from ha_agent.config.findings import Findings
from ha_agent.config.problems import closest
from ha_agent.config.schema import Device, Fencing, Host
from ha_agent.config.values import DeviceSpec
from ha_agent.config.yamlfile import FieldPath

IPMI_NAME_MAX = 16  # IPMI 2.0 table 13-11
_ADDRESS = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?\Z")


class TemplateError(ValueError):
    """A template that cannot be filled; the text says why."""


def fill(template: str, values: Mapping[str, str]) -> str:
    """Puts values for `{name}`; `{{` and `}}` are braces. Nothing of Python's formatting beyond that. Raises TemplateError."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise TemplateError(f"is no template: {error}") from None
    text = ""
    for literal, name, form, conversion in parts:
        text += literal
        if name is None:
            continue
        if form or conversion or not name.isidentifier():
            raise TemplateError(f"has {{{name}}}, which is not a name in braces")
        if name not in values:
            raise TemplateError(f"needs the var {name!r}")
        text += values[name]
    return text


def is_address(text: str) -> bool:
    """Whether it can be a host name or an IP address."""
    try:
        ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return len(text) <= 253 and _ADDRESS.match(text) is not None
    return True


def canonical(address: str) -> str:
    """One spelling for one address, so that duplicates are found."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address.lower().rstrip(".")


class Secrets:
    """Finds the files that hold secrets: systemd's credentials first, then below the configuration's directory."""

    def __init__(self, directory: Path, credentials: str, *, check: bool) -> None:
        self._directory = directory
        self._credentials = Path(credentials) if credentials else None
        self._check = check

    @property
    def checked(self) -> bool:
        """Whether files must be there."""
        return self._check

    def find(self, name: str, *, public: bool = False) -> tuple[Path, str]:
        """The file, and what is wrong with it (or nothing). `public`: it holds no secret."""
        places = [self._directory / name]
        if self._credentials is not None and not Path(name).is_absolute():
            # systemd loads a directory's files as ID_FILE: a credential's name has no slash
            places = [self._credentials / name, self._credentials / name.replace("/", "_"), *places]
        found = next((place for place in places if _exists(place)), places[-1])
        if not self._check:
            return found, ""
        try:
            status = found.stat()
        except OSError as error:
            late = self._credentials is not None and isinstance(error, PermissionError)
            hint = " (systemd hands on what is there at a start)" if late else ""
            return found, f"{found} cannot be read: {error.strerror}{hint}"
        if not stat.S_ISREG(status.st_mode):
            return found, f"{found} is not a file"
        if status.st_mode & stat.S_IROTH and not public:
            return found, f"{found} can be read by everyone"
        if not os.access(found, os.R_OK):
            return found, f"{found} cannot be read by this user"
        return found, ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


class Inventory:
    """Resolves devices host by host, and groups what is wrong: one line for a thousand hosts with the same fault."""

    def __init__(self, findings: Findings, secrets: Secrets) -> None:
        self._findings = findings
        self._secrets = secrets
        self._faults: dict[tuple[FieldPath, str, str], list[str]] = defaultdict(list)
        self._shared: dict[str, list[str]] = defaultdict(list)
        self._owners: dict[tuple[str, ...], tuple[str, str]] = {}

    def levels(self, name: str, host: Host, fencing: Fencing) -> tuple[tuple[DeviceSpec, ...], ...]:
        """The host's levels, hand levels left out."""
        values = {**host.vars, "host": name}
        made: dict[str, DeviceSpec] = {}
        result = []
        for level in fencing.levels:
            usable = [
                device for device in level if device in fencing.devices and fencing.devices[device].driver in SPECS
            ]
            if any(fencing.devices[device].driver == "manual" for device in usable):
                continue
            for device in usable:
                if device not in made:
                    made[device] = self._device(name, device, fencing.devices[device], values)
            result.append(tuple(made[device] for device in usable))
        return tuple(result)

    def _device(self, host: str, name: str, device: Device, values: dict[str, str]) -> DeviceSpec:
        where: FieldPath = ("fencing", "devices", name)

        def filled(field: str, template: str) -> str:
            try:
                return fill(template, values)
            except TemplateError as error:
                known = ", ".join(f"{{{each}}}" for each in values)
                self._fault((*where, field), str(error), f"give it under hosts.NAME.vars; known: {known}", host)
                return ""

        address = filled("address", device.address)
        if address and not is_address(address):
            self._fault(
                (*where, "address"), "is not a host name or an IP address", "the port is a field of its own", host
            )
        username = filled("username", device.username)
        if device.driver == "ipmi" and len(username.encode()) > IPMI_NAME_MAX:
            self._fault(
                (*where, "username"),
                f"is longer than {IPMI_NAME_MAX} bytes, which IPMI does not know",
                "use a BMC user with a shorter name",
                host,
            )
        secret = filled("password_file", device.password_file)
        if secret:
            path, problem = self._secrets.find(secret)
            if problem:
                self._findings_of_secret((*where, "password_file"), problem, host)
            secret = str(path)
        plug = filled("plug", device.plug)
        options = {key: filled("options", value) for key, value in device.options.items()}
        spec = SPECS[device.driver]
        for key in spec.files:
            if options.get(key):
                options[key] = self._file(key, options[key], (*where, "options", key), host, public=key in spec.public)
        result = DeviceSpec(
            name=name,
            driver=device.driver,
            address=address,
            port=device.port or spec.port,
            username=username,
            password_file=secret,
            plug=plug,
            agent=device.agent,
            options=options,
        )
        if device.driver != "manual":
            self._own(host, result, [key for key, value in device.options.items() if "{" in value])
        return result

    def _file(self, key: str, name: str, where: FieldPath, host: str, *, public: bool) -> str:
        path, problem = self._secrets.find(name, public=public)
        if problem and public:
            self._fault(where, problem, "correct the name, or the file's rights", host)
        elif problem:
            self._findings_of_secret(where, problem, host)
        return str(path)

    def _own(self, host: str, device: DeviceSpec, varying: list[str]) -> None:
        """One (address, port, plug) is one host's: a second host that names it would be proven off by the first one's power. A fence
        agent may also tell machines apart by an option, if that differs from host to host (`varying`)."""
        if not device.address and device.driver != "fence_agent":
            return
        agent = device.driver == "fence_agent"
        at = canonical(device.address) if device.address else device.agent
        told = [f"{key}={device.options[key]}" for key in varying] if agent else []
        key = (at, str(device.port), device.plug, *told)
        first = self._owners.setdefault(key, (host, device.name))
        if first != (host, device.name):
            place = f"{device.address}:{device.port}" if device.port else at
            plug = f", plug {device.plug}" if device.plug else ""
            what = f"of {host} is {place}{plug}, which is already {first[1]} of {first[0]}"
            self._shared[device.name].append(what)

    def _findings_of_secret(self, path: FieldPath, problem: str, host: str) -> None:
        """Grouped by kind of fault; the first file is the example."""
        kind = problem.split(" ", 1)[1] if " " in problem else problem
        hosts = self._faults[(path, kind, "secret")]
        hosts.append(f"{problem.split(' ', 1)[0]} (for {host})")

    def _fault(self, path: FieldPath, problem: str, fix: str, host: str) -> None:
        self._faults[(path, problem, fix)].append(host)

    def finish(self) -> None:
        """Tells what was grouped."""
        for name, shared in self._shared.items():
            more = f" (and {len(shared) - 1} more such hosts)" if len(shared) > 1 else ""
            fix = "give each host and device its own address, port or plug (by {host} or a var)"
            self._findings.add(("fencing", "devices", name), shared[0] + more, fix)
        for (path, problem, fix), hosts in self._faults.items():
            more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
            which = ", ".join(hosts[:3]) + more
            if fix == "secret":
                self._findings.add(
                    path, f"{which} {problem}", "make a file that only the user ha-agent can read (mode 0400)"
                )
            else:
                self._findings.add(path, f"{problem} (for {which})", fix)


def check_fencing(
    findings: Findings, fencing: Fencing, *, needed: bool, at: FieldPath, base: bool, files: bool
) -> None:
    """Devices and levels by themselves, before hosts are looked at. `needed`: some host is fenced by these levels. `at`: where
    the section stands. `base`: it is the common one, whose devices are judged once. `files`: whether programs must be there."""
    if base:
        for name, device in fencing.devices.items():
            drivers.check(findings, (*at, "devices", name), device, files=files)
    if needed and not fencing.levels:
        findings.add(
            (*at, "levels"),
            "is missing: hosts could not be fenced",
            "name a level, e.g. [[bmc]]; by hand: [[hand]] with a device of driver manual",
            (*at, "devices"),
        )
    for number, level in enumerate(fencing.levels):
        where = (*at, "levels", number)
        if not level:
            findings.add(where, "has no device", "name at least one, or remove the level")
        for device_name in sorted({each for each in level if level.count(each) > 1}):
            findings.add(where, f"names {device_name} twice", "name each device of a level once")
        for device_name in level:
            if device_name not in fencing.devices:
                fix = closest(device_name, fencing.devices) or f"known: {', '.join(fencing.devices) or 'none'}"
                findings.add(
                    where,
                    f"names the device {device_name}, which is not under devices",
                    fix,
                    ("fencing", "devices", device_name),
                )
        if len(level) > 1 and any(
            each in fencing.devices and fencing.devices[each].driver == "manual" for each in level
        ):
            findings.add(
                where, "mixes a device and a person", "give the manual device a level of its own, the last one"
            )
    for number, level_number in enumerate(fencing.trusted_levels):
        if level_number > len(fencing.levels):
            findings.add(
                (*at, "trusted_levels", number),
                f"there is no level {level_number}",
                f"levels count from 1 to {len(fencing.levels)}",
                (*at, "levels"),
            )
