"""`explain`: the story of a host, from what was seen to what releases it. Pure: it only arranges what the controller said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ha_agent.api.facade import DeviceHealth, EventLine
from ha_agent.api.views import HostDetail, HostRow
from ha_agent.cli.show import clock, duration, when
from ha_agent.cli.status import counted
from ha_agent.model import (
    Entry,
    Evidence,
    EvidenceKind,
    Incident,
    Phase,
    Reading,
    ServerProgress,
    ServerStage,
    Step,
    Verdict,
)
from ha_agent.plans import FENCING_VERDICTS

Part = tuple[str, list[str]]
LATELY = 10  # lines of a host without an incident
FORMER = 5
LISTED = 200  # servers of one kind; more are counted

STAGE_MEANS = {
    ServerStage.WAITING: "waits for its turn",
    ServerStage.HELD: "may still run elsewhere",
    ServerStage.SENT: "its evacuation is being asked for",
    ServerStage.LOST: "Nova's answer was lost; it is looked for",
    ServerStage.MOVING: "Nova moves it",
    ServerStage.RETRY: "failed, is tried again",
    ServerStage.LANDED: "has arrived, is being verified",
    ServerStage.STARTING: "has arrived, is being started",
}
STAYS = frozenset({ServerStage.NOT_MOVED, ServerStage.GIVEN_UP})


def story(found: HostDetail, events: Sequence[EventLine], now_wall: float) -> Iterator[Part]:
    """(heading, lines) of each part; a part without a heading stands by itself. `now_wall`: Unix seconds, for ages only."""
    row, host = found.row, found.row.view.host
    incident = next((i for i in found.incidents if i.id == row.incident), None)
    current = incident or next(iter(found.incidents), None)
    yield "", _in_short(row, incident)
    yield "Now", _now(row)
    if current is not None:
        yield from _incident(current, found.now, past=incident is None)
    elif events:
        yield "What happened lately", [f"{clock(each.wall)}  {each.text}" for each in events[-LATELY:]]
    former = [each for each in found.incidents if each is not current]
    if former:
        yield "Earlier incidents", [_former(each) for each in former[:FORMER]]
    if incident is not None:
        yield "What it waits for", [incident.waiting or _nothing_named(incident, found.now)]
        yield "What you can do", _exits(incident, host)
    elif row.maintenance:
        yield "What you can do", [f"end the maintenance: ha-agent maintenance off {host}"]


def _in_short(row: HostRow, incident: Incident | None) -> list[str]:
    view = row.view
    seen = "it was never heard" if view.last_seen_age_s is None else f"last heard {duration(view.last_seen_age_s)} ago"
    lines = [f"{view.host} is {view.verdict.value}; {seen}."]
    if row.maintenance:
        lines.append(f"It is in maintenance: {row.maintenance}. Nothing destructive is done to it.")
    if incident is None:
        lines.append("It has no open incident.")
    else:
        place = f"step {incident.step.value} ({incident.position + 1} of {len(incident.plan)})"
        lines.append(f"Its incident {incident.id} is open, at {place}, mode {incident.mode.value}.")
        if incident.blocked:
            lines.append(f"BLOCKED: {incident.blocked}")
            if incident.release:
                lines.append(f"to release it: {incident.release}")
    return lines


def _now(row: HostRow) -> list[str]:
    view = row.view
    lines = [f"believed {view.verdict.value}" + (f": {view.reason}" if view.reason else "")]
    link = "connected" if view.connected else "not connected"
    services = f"nova-compute {view.nova_compute.value}, libvirt {view.libvirt.value}"
    lines.append(f"{link}; {services}; {view.witnesses} other hosts may speak of it")
    if view.boot_id:
        lines.append(f"boot {view.boot_id}" + (f"; its gate is {view.gate}" if view.gate else ""))
    lines += [_device(each) for each in row.devices] or [
        "it has no fencing device: only a person can confirm that it is off"
    ]
    return lines


def _device(each: DeviceHealth) -> str:
    name = f"fencing level {each.level}, {each.device}" + (f" ({each.driver})" if each.driver else "")
    if each.checked_age_s is None:
        return f"{name}: not looked at yet"
    looked = f"looked at {duration(each.checked_age_s)} ago"
    return f"{name}: reads {each.power.value}, {looked}" if each.ok else f"{name}: FAILED: {each.error} ({looked})"


def _incident(incident: Incident, now: float, *, past: bool) -> Iterator[Part]:
    if past:
        ended = when(incident.closed_wall) if incident.closed_wall else "?"
        yield "", [f"The story of its last incident {incident.id}, closed {ended}."]
    yield "What was seen", _seen(incident)
    yield (
        "What was believed, and why",
        [
            f"{clock(incident.opened_wall + incident.verdict_at - incident.opened_at)}  {incident.verdict.value}: {incident.reason}",
            _meaning(incident),
        ],
    )
    if Step.FENCE in incident.plan:
        yield "Why we believe that it is off", _evidence(incident)
    yield "What was done", [_entry(incident, each) for each in incident.history] + _dropped(incident)
    if incident.servers:
        yield "Its servers", _servers(incident, now)
    stays = [each for each in incident.servers if each.stage in STAYS]
    if stays:
        yield (
            "Not moved, and why",
            _limited([f"{_name(each)}: {each.reason or 'no reason is known'}" for each in stays]),
        )


def _seen(incident: Incident) -> list[str]:
    lines = []
    if incident.last_seen_at is None:
        lines.append("no heartbeat was kept")
    else:
        silent = incident.opened_at - incident.last_seen_at
        at = clock(incident.opened_wall - silent)
        lines.append(f"{at}  the last heartbeat, {duration(silent)} before the incident was opened")
    if incident.boot_id:
        lines.append(f"it ran in boot {incident.boot_id}")
    if incident.new_boot_id and incident.new_boot_id != incident.boot_id:
        lines.append(f"it is back in boot {incident.new_boot_id}")
    if incident.silent > 1:
        lines.append(f"{incident.silent} hosts were silent together, {incident.silent_domain} in its failure domain")
    return lines


def _meaning(incident: Incident) -> str:
    if incident.ordered_by:
        return f"a fence was ordered by {incident.ordered_by}"
    if incident.verdict in FENCING_VERDICTS:
        return "so it is made sure that it is off before anything of it is started elsewhere"
    return MEANINGS.get(incident.verdict, "")


MEANINGS = {
    Verdict.PARTITIONED: "somebody reaches it, so its instances run on: it is not fenced",
    Verdict.AGENT_LOST: "only our remote is gone, its instances run on: it is not fenced",
    Verdict.UNKNOWN: "too little is known to fence it",
    Verdict.NEVER_SEEN: "it was never heard, so its silence says nothing: it is not fenced",
    Verdict.REBOOTED: "it is back, its instances are not: they are started in place",
    Verdict.ALIVE: "it was heard again",
    Verdict.SUSPECT: "others are being asked",
}


def _evidence(incident: Incident) -> list[str]:
    evidence = incident.evidence
    lines = [f"earlier evidence was revoked: {incident.revoked}"] if incident.revoked else []
    if evidence is None:
        return [*lines, "there is no evidence: nothing is started elsewhere"]
    return [*lines, _proof(evidence), *(_reading(each) for each in evidence.readings)]


def _proof(evidence: Evidence) -> str:
    at = clock(evidence.wall)
    if evidence.kind is EvidenceKind.CONFIRMATION:
        return f"{at}  {evidence.by or 'somebody'} confirmed it, for this incident"
    level = f"fencing level {evidence.level + 1}"
    if evidence.kind is EvidenceKind.TRUSTED:
        return f"{at}  {level} says so, and is declared trusted"
    return f"{at}  every device of {level} read off, twice"


def _reading(each: Reading) -> str:
    machine = f", machine {each.machine}" if each.machine else ""
    return f"{clock(each.wall)}  {each.device} reads {each.power.value}{machine}" + (
        f": {each.error}" if each.error else ""
    )


def _entry(incident: Incident, each: Entry) -> str:
    since = f"+{max(0.0, each.at - incident.opened_at):.1f} s"
    step = f"[{each.step.value}]" if each.step else ""
    return f"{clock(each.wall)}  {since:>9}  {step:<14} {each.text}" + (
        f" (by {each.actor})" if each.actor and each.actor not in each.text else ""
    )


def _dropped(incident: Incident) -> list[str]:
    return [f"({incident.dropped_history} older lines are not kept)"] if incident.dropped_history else []


def _servers(incident: Incident, now: float) -> list[str]:
    stages = Counter(each.stage.value for each in incident.servers)
    under_way = [each for each in incident.servers if each.stage in STAGE_MEANS]
    return [
        f"{len(incident.servers)} in all: {counted(stages)}",
        *_limited([_under_way(each, incident, now) for each in under_way]),
    ]


def _under_way(each: ServerProgress, incident: Incident, now: float) -> str:
    text = f"{_name(each)}: {STAGE_MEANS[each.stage]}"
    if each.dest:
        text += f", to {each.dest}"
    if each.wait_for:
        text += f"; waits until {', '.join(each.wait_for)} is proven not to run it"
    if each.stage is ServerStage.RETRY and incident.phase is Phase.OPEN and each.next_at > now:
        text += f" in {duration(each.next_at - now)} (attempt {each.attempts + 1})"
    return text + (f": {each.reason}" if each.reason else "")


def _limited(lines: list[str]) -> list[str]:
    return lines if len(lines) <= LISTED else [*lines[:LISTED], f"and {len(lines) - LISTED} more: --json lists all"]


def _name(server: ServerProgress) -> str:
    return f"{server.name} ({server.id})" if server.name else server.id


def _former(each: Incident) -> str:
    return f"{when(each.opened_wall)}  {each.verdict.value}, {each.phase.value}, {len(each.servers)} servers, {each.id}"


def _nothing_named(incident: Incident, now: float) -> str:
    if incident.blocked:
        return f"blocked: {incident.blocked}"
    if incident.pending:
        return "an answer: " + ", ".join(f"{each.kind.value} {each.subject}" for each in incident.pending)
    return f"its next look in {duration(incident.next_at - now)}" if incident.next_at > now else "nothing: it goes on"


def _exits(incident: Incident, host: str) -> list[str]:
    """Commands that make sense now, the one that releases it first."""
    lines = [f"release what is blocked: {incident.release}"] if incident.release else []
    fencing = incident.step is Step.FENCE and incident.evidence is None
    if fencing and incident.verdict in FENCING_VERDICTS:
        lines.append(f"if you know that it is off and stays off: ha-agent confirm-fenced {host}")
    if incident.committed_at is not None and not incident.released:
        lines.append(f"stop retrying, and let the host come back: ha-agent release {host}")
    if Step.FENCE not in incident.plan:
        lines.append(f"if it is dead all the same, fence it: ha-agent fence {host}")
    lines.append(f"hold everything back: ha-agent maintenance on {host}")
    if not incident.acked_by:
        lines.append(f"tell others that you know of it: ha-agent ack {host}")
    return list(dict.fromkeys(lines))
