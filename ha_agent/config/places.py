"""Hosts, HTTP and the store: addresses that are addresses, names that are one host's, files that can be read."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from ha_agent.config import schema
from ha_agent.config.devices import Secrets, canonical, is_address
from ha_agent.config.findings import Findings
from ha_agent.config.values import HttpSettings, StoreSettings
from ha_agent.config.yamlfile import FieldPath
from ha_agent.planes import MANAGEMENT, MAX_PLANES

PLANE = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def name_problem(name: str) -> str:
    """Why a host cannot be called so; empty when it can."""
    if not name.isprintable() or any(letter.isspace() for letter in name):
        return "holds a blank or an unprintable character"
    if "/" in name or name[0] in ".-":
        return "begins with a dot or a dash, or holds a slash"
    return ""


def check_hosts(findings: Findings, hosts: dict[str, schema.Host]) -> None:
    """One name per host; each address:port one host's, and there one plane's."""
    places: dict[tuple[str, int], tuple[str, str]] = {}
    owners = {name: name for name in hosts}
    for name, host in hosts.items():
        where: FieldPath = ("hosts", name)
        problem = name_problem(name)
        if problem:
            fix = "use the host as `openstack compute service list` names it"
            findings.unusable((where, f"as a name {problem}", fix))
            continue
        _check_planes(findings, (*where, "planes"), host.planes)
        for plane, address in ((MANAGEMENT, host.address), *host.planes.items()):
            at = (*where, "address") if plane == MANAGEMENT else (*where, "planes", plane)
            if not is_address(address):
                findings.add(at, "is not a host name or an IP address", "the port is a field of its own")
            first = places.setdefault((canonical(address), host.port), (name, plane))
            if first[0] != name:
                findings.add(
                    at,
                    f"{address}:{host.port} is already the remote of {first[0]}",
                    "give each host its own address or port",
                )
            elif first[1] != plane:
                findings.add(
                    at,
                    f"{address}:{host.port} is already this host's {first[1]} plane",
                    "a plane is another network: give its address there, or leave the plane out",
                )
        for index, alias in enumerate(host.aliases):
            owner = owners.setdefault(alias, name)
            if owner != name:
                findings.add((*where, "aliases", index), f"{alias} already means {owner}", "one name means one host")


def _check_planes(findings: Findings, where: FieldPath, planes: dict[str, str]) -> None:
    """Names that can be told from each other, and not too many."""
    if len(planes) > MAX_PLANES - 1:
        findings.add(
            where,
            f"are {len(planes)}: a host has at most {MAX_PLANES - 1} planes beside that of management",
            "name the ones that fail independently",
        )
    for plane in planes:
        if plane == MANAGEMENT:
            findings.add((*where, plane), "is the plane of `address`", "give that address as `address` only")
        elif not PLANE.fullmatch(plane):
            findings.add(
                (*where, plane),
                "as the name of a plane is not lower-case letters, digits, - and _",
                "call it storage, tenant, …",
            )


def split_listen(text: str) -> tuple[str, int] | None:
    """`address:port`, IPv6 in brackets; None where it is not that."""
    address, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5 or int(port) > 65_535:
        return None
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        return None
    return (address, int(port)) if is_address(address) else None


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def http(findings: Findings, model: schema.Controller, secrets: Secrets, directory: Path) -> HttpSettings:
    """The API's settings."""
    listen = split_listen(model.http.listen)
    if listen is None:
        findings.add(("http", "listen"), "is not address:port", 'write it as "127.0.0.1:7421" (IPv6 in brackets)')
        listen = ("127.0.0.1", 0)
    tokens = ""
    if model.http.tokens_file is not None:
        path, problem = secrets.find(model.http.tokens_file)
        tokens = str(path)
        if problem:
            findings.add(
                ("http", "tokens_file"), problem, "make a file that only the user ha-agent can read (mode 0400)"
            )
    elif not is_loopback(listen[0]):
        findings.add(
            ("http", "listen"),
            "is reachable from other machines, but there is no tokens_file",
            "listen on 127.0.0.1, or set http.tokens_file",
            ("http", "tokens_file"),
        )
    roles = model.http.socket_roles
    return HttpSettings(
        listen=listen[0],
        port=listen[1],
        socket=str(directory / model.http.socket),
        tokens_file=tokens,
        allowed_hosts=tuple(model.http.allowed_hosts),
        socket_roles={"admin": tuple(roles.admin), "operate": tuple(roles.operate), "read": tuple(roles.read)},
    )


def store(findings: Findings, model: schema.Controller, directory: Path) -> StoreSettings:
    """The store's settings."""
    scheme, _, path = model.store.url.partition(":///")
    if scheme != "sqlite" or not path:
        findings.add(("store", "url"), "is not a store of this version", 'use "sqlite:////absolute/path/store.db"')
    return StoreSettings(path=str(directory / path))
