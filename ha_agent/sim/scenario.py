"""Scenarios: a small script of what happens when, replayed in virtual time; its log is compared with the expected one.

hosts: 4                       # h1 … h4; or a list of names
domains: 2                     # racks, dealt out in turn
planes: [storage]              # of each host besides the management plane; or by host: {h1: [storage, tenant]}
controller_planes: []          # of those, which the controllers have
servers:                       # per host; without it two protected ones each
  - {host: h1, name: web1}     # also: tags, volume, stopped
policy: {storm: {max_share: 0.5}, recovery: {mode: notify}, fencing: {}, detection: {}, guest_mode: auto}
armed: true
breaks: [S1]                   # of a documented limit: exactly the rules that it breaks
at:                            # seconds -> one action, or a list of them
  30: kill h2
  95.5: [order arm, heal h1 h3]
until: 300
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ha_agent.errors import UsageError
from ha_agent.model import STAGES_DONE
from ha_agent.policy import Detection, Fencing, HostPolicy, Policy, Recovery, Storm
from ha_agent.sim.actions import parsed, perform
from ha_agent.sim.simulation import PROTECTED, Simulation

KEYS = frozenset(
    {
        "hosts",
        "domains",
        "planes",
        "controller_planes",
        "servers",
        "policy",
        "armed",
        "controllers",
        "breaks",
        "at",
        "until",
    }
)


def load(path: Path) -> dict[str, Any]:
    """The script. Raises UsageError, naming the field, where it is wrong."""
    script = yaml.safe_load(path.read_text())
    if not isinstance(script, dict):
        raise UsageError(f"{path}: a script is a mapping with {', '.join(sorted(KEYS))}")
    unknown = set(script) - KEYS
    if unknown:
        raise UsageError(
            f"{path}: unknown: {', '.join(sorted(map(str, unknown)))}; known are {', '.join(sorted(KEYS))}"
        )
    if "until" not in script:
        raise UsageError(f"{path}: until is missing; add the second at which it ends")
    for at, actions in (script.get("at") or {}).items():
        for line in _lines(actions):
            try:
                parsed(line)
            except UsageError as error:
                raise UsageError(f"{path}: at {at}: {error}") from None
    return script


def replay(script: Mapping[str, Any]) -> tuple[list[str], Simulation]:
    """The log of a script, ending with where every server is, and the world at its end."""
    lines: list[str] = []
    sim = Simulation("scenario", policy_of(script), controllers=script.get("controllers", 1), log=lines.append)
    sim.world.controller_planes = tuple(script.get("controller_planes", ()))
    servers = script.get("servers")
    if servers is None:
        servers = [{"host": h} for h in sim.policy.hosts for _ in range(2)]
    for n, row in enumerate(servers, 1):
        fields = {"name": f"vm{n}", "tags": (PROTECTED,), **row}
        sim.world.nova.add_server(fields.pop("host"), **fields)
    timeline = sorted((float(at), actions) for at, actions in (script.get("at") or {}).items())
    early = [row for row in timeline if row[0] <= 0]
    for _, actions in early:
        _act(sim, actions)
    sim.start(armed=bool(script.get("armed", True)))
    for at, actions in timeline[len(early) :]:
        sim.run_to(at)
        _act(sim, actions)
    sim.run_to(float(script["until"]))
    for incident in sim.open():
        left = [s for s in incident.servers if s.stage not in STAGES_DONE]
        servers = ", ".join(f"{s.name or s.id} is {s.stage} ({s.reason or 'no reason'})" for s in left)
        what = incident.blocked or incident.waiting or servers
        lines.append(f"open: {incident.subject} at {incident.step}: {what}")
    nova = sim.world.nova
    for row in nova.servers.values():
        runs = ", ".join(sorted(nova.runs.get(row.id, ()))) or "nowhere"
        locked = ", locked" if row.locked else ""
        lines.append(f"end: {row.name} is {row.status}, Nova says on {row.host}, runs on {runs}{locked}")
    return lines, sim


def broken(sim: Simulation) -> list[str]:
    """The rules that were broken, promised there or not."""
    return sorted({v.rule for v in (*sim.violations, *sim.judge.beyond)})


def policy_of(script: Mapping[str, Any]) -> Policy:
    """The script's policy: the defaults, and what it says otherwise."""
    names = script.get("hosts", 4)
    if isinstance(names, int):
        names = [f"h{n}" for n in range(1, names + 1)]
    racks = script.get("domains", 2)
    given = script.get("policy") or {}
    recovery = {"settle_after_s": 300.0, "api_max_s": 10.0, **given.get("recovery", {})}
    detection = msgspec.convert(given.get("detection", {}), Detection)
    planes = script.get("planes") or []
    hosts = {
        name: HostPolicy(
            name=name,
            domain=f"rack{i % racks + 1}",
            planes=tuple(planes.get(name, ()) if isinstance(planes, Mapping) else planes),
            detection=detection,
            fencing=msgspec.convert(given.get("fencing", {}), Fencing),
            recovery=msgspec.convert(recovery, Recovery),
        )
        for i, name in enumerate(names)
    }
    storm, guests = msgspec.convert(given.get("storm", {}), Storm), given.get("guest_mode", "notify")
    return Policy(hosts=hosts, detection=detection, storm=storm, guest_mode=guests)


def _act(sim: Simulation, actions: object) -> None:
    for line in _lines(actions):
        perform(sim, line)


def _lines(actions: object) -> list[str]:
    return [str(a) for a in actions] if isinstance(actions, list) else [str(actions)]
