"""`explain HOST` as a story: what was seen, what was believed and why, what was done, what was not moved, what it waits for.

Pure: a host's detail in, lines out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ha_agent.api.facade import DeviceHealth
from ha_agent.api.views import HostDetail
from ha_agent.cli.common import clock, day, span
from ha_agent.model import (
    EvidenceKind,
    Incident,
    Kind,
    Mode,
    Phase,
    ServerProgress,
    ServerStage,
    Step,
    Verdict,
)
from ha_agent.planes import listed
from ha_agent.plans import FENCING_VERDICTS

EARLIER_MAX = 5
STAY = frozenset({ServerStage.NOT_MOVED, ServerStage.GIVEN_UP})


def story(detail: HostDetail) -> list[str]:
    """The lines, without a trailing newline each."""
    lines = list(_now(detail))
    told = [each for each in detail.incidents if each.phase is Phase.OPEN] or list(detail.incidents[:1])
    for incident in told:
        lines += ["", *_incident(incident, detail.now)]
    earlier = [each for each in detail.incidents if each not in told]
    if earlier:
        lines += ["", "Earlier incidents:"]
        lines += [
            f"  {day(each.opened_wall)}  {each.verdict}: {each.reason}  ({each.id})" for each in earlier[:EARLIER_MAX]
        ]
        if len(earlier) > EARLIER_MAX:
            lines.append(f"  and {len(earlier) - EARLIER_MAX} more")
    return lines


def _now(detail: HostDetail) -> Iterator[str]:
    row, view = detail.row, detail.row.view
    yield f"{view.host} is {view.verdict}" + (f": {view.reason}" if view.reason else "")
    if view.last_seen_age_s is None:
        yield "  it was never heard since this controller started"
    else:
        link = "connected" if view.connected else "not connected"
        yield f"  last heard {span(view.last_seen_age_s)} ago, {link}, boot {view.boot_id or 'unknown'}"
    yield f"  nova-compute {view.nova_compute}, libvirt {view.libvirt}, gate {view.gate or 'unknown'}"
    yield f"  {view.witnesses} other hosts are eligible to speak of it"
    if view.planes_lost:
        yield f"  no other host reaches it over {listed(view.planes_lost)}"
    for device in row.devices:
        yield f"  {_device(device)}"
    if row.maintenance:
        yield f"  in maintenance: {row.maintenance}; nothing is done about it. It ends with: ha-agent maintenance off {view.host}"
    if not detail.incidents and view.verdict is Verdict.ALIVE:
        yield "  nothing has happened to it"


def _device(device: DeviceHealth) -> str:
    # The level is known from the first look on.
    level = f"fencing level {device.level}: " if device.level else "fencing device "
    name = f"{level}{device.device}" + (f" ({device.driver})" if device.driver else "")
    if device.checked_age_s is None:
        return f"{name} has not been looked at yet"
    when = f"{span(device.checked_age_s)} ago"
    return f"{name} read {device.power} {when}" if device.ok else f"{name} FAILED {when}: {device.error}"


def _incident(incident: Incident, now: float) -> Iterator[str]:
    what = "server " + incident.subject if incident.kind is Kind.GUEST else incident.host
    state = "open" if incident.phase is Phase.OPEN else f"closed {day(incident.closed_wall or 0.0)}"
    yield f"Incident {incident.id} of {what}, {state}"
    yield from _believed(incident)
    yield ""
    yield from _done(incident)
    yield from _evidence(incident, now)
    yield from _servers(incident, now)
    yield from _waits(incident, now)


def _believed(incident: Incident) -> Iterator[str]:
    yield f"  {day(incident.opened_wall)}  it was believed {incident.verdict}, because: {incident.reason}"
    if incident.last_seen_at is not None:
        silent = incident.opened_at - incident.last_seen_at
        yield f"  its last heartbeat was {span(max(0.0, silent))} before that"
    plan = " > ".join(str(step) for step in incident.plan)
    doing = "we recover" if incident.mode is Mode.AUTO else "we announce, somebody else recovers"
    yield f"  mode {incident.mode} ({doing}); the plan: {plan}"
    if incident.phase is Phase.OPEN:
        yield f"  it is at step {incident.step} ({min(incident.position, len(incident.plan) - 1) + 1} of {len(incident.plan)})"


def _done(incident: Incident) -> Iterator[str]:
    yield "  What happened:"
    if incident.dropped_history:
        yield f"    ({incident.dropped_history} older lines were dropped)"
    for entry in incident.history:
        step = f"[{entry.step}] " if entry.step else ""
        actor = f" (by {entry.actor})" if entry.actor and entry.actor not in entry.text else ""
        yield f"    {clock(entry.wall)}  {entry.at - incident.opened_at:+8.1f} s  {step}{entry.text}{actor}"


def _evidence(incident: Incident, now: float) -> Iterator[str]:
    evidence = incident.evidence
    if incident.revoked:
        yield f"  Evidence that was revoked: {incident.revoked}"
    if evidence is None:
        if Step.FENCE in incident.plan:
            yield "  There is no evidence that it is off, so nothing of it is started elsewhere."
        return
    when = f"at {clock(evidence.wall)}" if evidence.wall else f"{span(max(0.0, now - evidence.at))} ago"
    if evidence.kind is EvidenceKind.CONFIRMATION:
        yield f"  Evidence that it is off: {evidence.by} confirmed it {when}"
        return
    trusted = "declared trusted, " if evidence.kind is EvidenceKind.TRUSTED else ""
    yield f"  Evidence that it is off: every device of level {evidence.level + 1} read off, twice ({trusted}{when})"
    for reading in evidence.readings:
        machine = f", it says it is machine {reading.machine}" if reading.machine else ""
        yield f"    {clock(reading.wall)}  {reading.device} read {reading.power}{machine}"


def _servers(incident: Incident, now: float) -> Iterator[str]:
    servers = incident.servers
    if not servers:
        return
    counts = Counter(server.stage for server in servers)
    yield f"  Servers ({len(servers)}): " + ", ".join(
        f"{counts[stage]} {stage}" for stage in ServerStage if counts[stage]
    )
    for server in servers:
        if server.stage is ServerStage.VERIFIED:
            yield f"    {_name(server)} runs on {server.dest or 'another host'}"
    for server in servers:
        if server.stage not in STAY and server.stage is not ServerStage.VERIFIED:
            due = (
                f", next try in {span(server.next_at - now)}"
                if server.next_at > now and incident.phase is Phase.OPEN
                else ""
            )
            wait = (
                f", until it is proven that it does not run on {', '.join(server.wait_for)}" if server.wait_for else ""
            )
            reason = f": {server.reason}" if server.reason else ""
            yield f"    {_name(server)} is {server.stage}{reason}{wait}{due}"
    stay = [server for server in servers if server.stage in STAY]
    if stay:
        yield "  Not moved:"
        for server in stay:
            yield f"    {_name(server)}: {server.reason or 'no reason was noted'}"


def _name(server: ServerProgress) -> str:
    return f"{server.name} ({server.id})" if server.name else server.id


def _waits(incident: Incident, now: float) -> Iterator[str]:
    if incident.phase is Phase.CLOSED:
        return
    if incident.blocked:
        yield f"  BLOCKED: {incident.blocked}"
        yield (
            f"  It is released by: {incident.release}"
            if incident.release
            else "  It goes on by itself when that is over."
        )
    if incident.waiting:
        due = f" (next try in {span(incident.next_at - now)})" if incident.next_at > now else ""
        yield f"  It waits: {incident.waiting}{due}"
    elif not incident.blocked:
        yield "  It is under way and waits for nobody."
    commands = list(_commands(incident))
    if commands:
        yield "  What you can do:"
        yield from (f"    {text}" for text in commands)


def _commands(incident: Incident) -> Iterator[str]:
    """Orders that make sense now, besides the one that releases what is blocked."""
    if incident.kind is not Kind.HOST:
        return
    host = incident.host
    if incident.step is Step.FENCE and incident.evidence is None and incident.verdict in FENCING_VERDICTS:
        yield f"if you made sure that it is off and stays off: ha-agent confirm-fenced {host}"
    if Step.FENCE not in incident.plan and incident.verdict is not Verdict.REBOOTED:
        yield f"if it is dead all the same: ha-agent fence {host}"
    if incident.committed_at is not None and not incident.released:
        yield f"stop retrying and let it come back: ha-agent release {host}"
    yield f"hold everything back: ha-agent maintenance on {host}"
    if not incident.acked_by:
        yield f"tell others that you know of it: ha-agent ack {host}"
