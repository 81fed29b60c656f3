"""Which fencing devices guard which host: frozen values, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from ha_agent.model import Value

DRIVERS = frozenset({"ipmi", "redfish", "fence_agent", "manual"})
# IPMI 2.0 table 13-11: the name field of RAKP message 1.
IPMI_NAME_MAX = 16
IPMI_PRIVILEGES = frozenset({"operator", "administrator"})

# (field, problem, fix), as ConfigError shows them.
Problem = tuple[str, str, str]


class Device(Value, frozen=True):
    """One fencing device of one host. The secret is not here: `password_file` is read by the worker at each use, so
    that a changed password works at once and no value, log or error of the controller can hold it. `plug`: which
    outlet, or which system, where a device has many. `agent`: of the driver fence_agent, its name or path. `options`: what
    the driver understands; docs/fencing.md lists them."""

    name: str
    driver: str = "ipmi"
    address: str = ""
    port: int = 623
    username: str = ""
    password_file: str = ""
    plug: str = ""
    agent: str = ""
    options: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def where(self) -> str:
        """How errors name the device: its address and port, or its agent and what it was told."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        place = f"{address}:{self.port}" if address and self.port else address
        plug = f"plug {self.plug}" if self.plug else ""
        return " ".join(part for part in (self.agent.rpartition("/")[2], place, plug) if part)


class Topology(Value, frozen=True):
    """Per host its levels, in the order in which they are tried; per level the devices that must all read off."""

    levels: dict[str, tuple[tuple[Device, ...], ...]] = msgspec.field(default_factory=dict)

    def of(self, host: str) -> tuple[tuple[Device, ...], ...]:
        """The host's levels; none where the host is not known."""
        return self.levels.get(host, ())

    def devices(self, host: str, level: int) -> tuple[Device, ...]:
        """The devices of one level, counted from 0; none where there is no such level."""
        levels = self.of(host)
        return levels[level] if 0 <= level < len(levels) else ()

    @property
    def drivers(self) -> tuple[str, ...]:
        """Those that some device needs."""
        return tuple(sorted({d.driver for levels in self.levels.values() for level in levels for d in level}))


def problems(topology: Topology) -> list[Problem]:
    """Everything that is wrong with it; empty when it can be used."""
    return [
        *(
            problem
            for host, levels in topology.levels.items()
            for number, level in enumerate(levels, start=1)
            for problem in _of_level(f"hosts.{host}.fencing.levels[{number}]", level)
        ),
        *_shared(topology.levels),
    ]


def _of_level(field: str, level: tuple[Device, ...]) -> Iterator[Problem]:
    if not level:
        yield field, "the level has no device", "name at least one device, or remove the level"
    names = [device.name for device in level]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield field, f"device {name} is named twice", "name each device of a level once"
    for device in level:
        yield from _of_device(f"{field}.{device.name}", device)


def _of_device(field: str, device: Device) -> Iterator[Problem]:
    if device.driver not in DRIVERS:
        yield f"{field}.driver", f"there is no driver {device.driver!r}", f"use one of {', '.join(sorted(DRIVERS))}"
    if device.driver == "fence_agent" and not device.agent:
        yield f"{field}.agent", "missing", "name the program, e.g. fence_apc, or give its absolute path"
    if device.driver not in ("ipmi", "redfish"):
        return
    if not device.address:
        yield f"{field}.address", "missing", "give the BMC's address or name"
    if not 0 < device.port < 65536:
        yield f"{field}.port", f"{device.port} is no port", "use a number from 1 to 65535 (IPMI: 623, Redfish: 443)"
    if not device.username:
        yield f"{field}.username", "missing", "give the BMC user that may switch power"
    if device.driver == "ipmi" and len(device.username.encode()) > IPMI_NAME_MAX:
        yield (
            f"{field}.username",
            f"longer than {IPMI_NAME_MAX} bytes",
            "IPMI knows no longer names: make a BMC user with a short one",
        )
    if not device.password_file:
        yield f"{field}.password_file", "missing", "give a file that only the user ha-agent can read"
    privilege = device.options.get("privilege", "administrator")
    if privilege not in IPMI_PRIVILEGES:
        yield (
            f"{field}.options.privilege",
            f"{privilege!r} is unknown",
            f"use one of {', '.join(sorted(IPMI_PRIVILEGES))}",
        )


def _shared(levels: Mapping[str, tuple[tuple[Device, ...], ...]]) -> Iterator[Problem]:
    """One (address, port, plug) guards one host: a second host that names it would be proven off by the first one's
    power."""
    owner: dict[tuple[str, int, str], str] = {}
    for host, mine in levels.items():
        for device in (device for level in mine for device in level):
            if device.driver == "manual" or not device.address:
                continue
            key = (device.address.lower().rstrip("."), device.port, device.plug)
            first = owner.setdefault(key, host)
            if first != host:
                plug = f", plug {device.plug}" if device.plug else ""
                yield (
                    f"hosts.{host}.fencing",
                    f"{device.address}:{device.port}{plug} is already the device of {first}",
                    "give each host its own address, port or plug",
                )
