"""The rules that say no. Pure predicates over plain values; `decide` asks them before it plans, `Engine.permit` again before the sending."""

from __future__ import annotations

from collections.abc import Iterable

from ha_agent.model import (
    DESTRUCTIVE,
    Command,
    CommandKind,
    Evidence,
    EvidenceKind,
    FenceRecord,
    Incident,
    Phase,
    Power,
    Reading,
    State,
    Step,
    Value,
    Verdict,
)
from ha_agent.plans import FENCING_VERDICTS
from ha_agent.policy import Fencing, HostPolicy, Policy, Storm

# An open gate is a permission to a host of which nothing is unsettled. Withholding it would keep nova-compute from
# starting on every host of a cloud whose agent is disarmed.
GUARDED = DESTRUCTIVE - {CommandKind.OPEN_GATE}


class Refusal(Value, frozen=True, kw_only=True):
    """Why not: `reason` for a human, `release`: the command or event that ends it."""

    reason: str
    release: str = ""


def may_act(state: State, host: str, policy: Policy) -> Refusal | None:
    """S6: disarmed, paused, in maintenance, or unknown: nothing destructive."""
    if host not in policy.hosts:
        return Refusal(reason=f"{host} is not in the inventory", release="add it to hosts in controller.yaml")
    if state.fleet.foreign:
        return Refusal(reason=f"another controller claims these hosts: {state.fleet.foreign}", release="ha-agent arm")
    if not state.fleet.armed:
        return Refusal(reason="the controller is disarmed", release="ha-agent arm")
    if state.fleet.paused:
        return Refusal(reason=f"paused: {state.fleet.paused}", release="ha-agent unpause")
    record = state.hosts.get(host)
    if record is not None and record.maintenance:
        return Refusal(
            reason=f"{host} is in maintenance: {record.maintenance}", release=f"ha-agent maintenance off {host}"
        )
    return None


def storm_limit(storm: Storm, known: int) -> int:
    """S6: a share is rounded down, but never below one host."""
    return min(storm.max_hosts, max(1, int(storm.max_share * known)))


def wants_fence(incident: Incident) -> bool:
    """Whether the incident is at its first fence, and has none yet."""
    return (
        incident.phase is Phase.OPEN
        and incident.step is Step.FENCE
        and incident.evidence is None
        and incident.committed_at is None
        and incident.verdict in FENCING_VERDICTS
    )


def storm(state: State, incident: Incident, policy: Policy, now_s: float) -> Refusal | None:
    """S6: over the limit, in all or per failure domain, nothing is fenced. Hosts fenced within the window, hosts that wait to be
    fenced and hosts that are silent at this moment count. An order by a person for this very host is not held back."""
    if incident.ordered_by:
        return None
    limits = policy.storm
    limit = storm_limit(limits, len(policy.hosts))
    if incident.silent > limit:  # enough is known: thousands that fail together are not counted thousands of times
        return _too_many(incident, incident.silent, limit, limits)
    domain = _domain(policy, incident.host)
    fenced = [f for f in recent(state.fleet.fences, limits.window_s, now_s) if f.host != incident.host]
    waiting = [
        i.host
        for i in state.incidents.values()
        if i.host != incident.host
        and wants_fence(i)
        and i.opened_at > now_s - limits.window_s
        and may_act(state, i.host, policy) is None
    ]
    hosts = {f.host for f in fenced} | set(waiting)
    if len(hosts) + 1 > limit:
        return _too_many(incident, len(hosts) + 1, limit, limits)
    in_domain = {f.host for f in fenced if f.domain == domain} | {h for h in waiting if _domain(policy, h) == domain}
    count = max(len(in_domain) + 1, incident.silent_domain)
    if domain and count > max(1, limits.domain_max_hosts):
        return Refusal(
            reason=f"storm guard: {count} hosts of failure domain {domain} fenced or failing within "
            f"{limits.window_s:.0f} s, the limit is {limits.domain_max_hosts}",
            release=f"ha-agent fence {incident.host}",
        )
    return None


def _too_many(incident: Incident, count: int, limit: int, limits: Storm) -> Refusal:
    return Refusal(
        reason=f"storm guard: {count} hosts fenced or failing within {limits.window_s:.0f} s, the limit is {limit}",
        release=f"ha-agent fence {incident.host}",
    )


def _domain(policy: Policy, host: str) -> str:
    known = policy.hosts.get(host)
    return known.domain if known else ""


def may_fence(state: State, incident: Incident, policy: Policy, now_s: float) -> Refusal | None:
    """Everything that stands between a verdict and the first off command. Once servers have begun to move (committed) only
    `may_act` holds: S1 outranks S5 then."""
    host = incident.host
    refusal = may_act(state, host, policy)
    if refusal is not None or incident.committed_at is not None:
        return refusal
    record = state.hosts.get(host)
    if (record is None or not record.first_seen_wall) and not incident.ordered_by:
        return Refusal(reason=f"{host} was never seen alive", release=f"ha-agent fence {host}")
    if not incident.ordered_by:
        if incident.verdict not in FENCING_VERDICTS:
            release = f"ha-agent fence {host}" if incident.verdict is Verdict.UNKNOWN else ""
            return Refusal(reason=f"the verdict is {incident.verdict}: no fence", release=release)
        age = now_s - incident.verdict_at
        if age > policy.hosts[host].detection.verdict_max_age_s:
            return Refusal(reason="the verdict is being confirmed")
    refusal = storm(state, incident, policy, now_s)
    if refusal is not None:
        return refusal
    interval = policy.hosts[host].fencing.host_interval_s
    others = [f for f in state.fleet.fences if f.host == host and f.incident != incident.id]
    if any(f.at > now_s - interval for f in others) and not incident.ordered_by:
        return Refusal(reason=f"{host} was fenced less than {interval:.0f} s ago, the least interval")
    return None


def recent(fences: Iterable[FenceRecord], window_s: float, now_s: float) -> list[FenceRecord]:
    """The fences that still count."""
    return [f for f in fences if f.at > now_s - window_s]


def evidence_of(level: int, devices: tuple[str, ...], readings: Iterable[Reading], since: float) -> Evidence | str:
    """S2: evidence if every device of the level read off at least twice after `since` and nothing but off after the first of these;
    otherwise the reason why not."""
    by_device: dict[str, list[Reading]] = {}
    for reading in sorted(readings, key=lambda r: r.at):
        by_device.setdefault(reading.device, []).append(reading)
    if not devices:
        return "the level has no device"
    kept: list[Reading] = []
    newest: list[Reading] = []
    for device in devices:
        mine = [r for r in by_device.get(device, []) if r.at >= since]
        if not mine:
            return f"{device} gave no reading"
        last = mine[-2:]
        if mine[-1].power is not Power.OFF:
            return f"{device} reads {mine[-1].power}" + (f": {mine[-1].error}" if mine[-1].error else "")
        if len(last) < 2 or last[0].power is not Power.OFF or last[0].at >= last[1].at:
            return f"{device} read off only once"
        kept += last
        newest.append(last[1])
    oldest = min(newest, key=lambda r: r.at)
    return Evidence(
        kind=EvidenceKind.DEVICES,
        at=oldest.at,
        wall=oldest.wall,
        level=level,
        readings=tuple(kept),
        by="fencing devices",
    )


def expires_at(evidence: Evidence, fencing: Fencing) -> float | None:
    """Boottime seconds after which the evidence no longer allows an evacuate intent; None: it does not age."""
    if evidence.kind is EvidenceKind.DEVICES and evidence.level not in fencing.trusted_levels:
        return evidence.at + fencing.evidence_max_age_s
    return None


def evidence_holds(incident: Incident, policy: HostPolicy, now_s: float) -> bool:
    """S2: there is evidence, gathered in this incident, and it is young enough."""
    if incident.evidence is None:
        return False
    end = expires_at(incident.evidence, policy.fencing)
    return end is None or now_s < end


def proven_off(state: State, host: str, policy: Policy, now_s: float) -> bool:
    """Whether an open incident of another host holds evidence right now (S2: a destination that froze)."""
    host_policy = policy.hosts.get(host)
    return host_policy is not None and any(
        i.host == host and i.phase is Phase.OPEN and not i.settled and evidence_holds(i, host_policy, now_s)
        for i in state.incidents.values()
    )


TAKES_BACK = frozenset({CommandKind.POWER_ON, CommandKind.OPEN_GATE, CommandKind.CLEAR_FORCE_DOWN})
COMING_BACK = frozenset({Step.AWAIT_RETURN, Step.UNFENCE, Step.RESTART})


def may_send(state: State, command: Command, policy: Policy, now_s: float) -> str:
    """The last look before the sending, on the newest state: empty, or why not. The lease is looked at elsewhere."""
    incident = state.incidents.get(command.incident)
    if incident is None or incident.phase is Phase.CLOSED or all(c.id != command.id for c in incident.pending):
        return "the incident no longer waits for it"
    if command.kind is CommandKind.FENCE and any(c.kind is CommandKind.CANCEL_FENCE for c in incident.pending):
        return "it is being cancelled"
    if command.not_after is not None and now_s >= command.not_after:
        return "its time is over" if command.kind is CommandKind.FENCE else "its evidence has aged meanwhile"
    if command.kind in GUARDED:
        refusal = may_act(state, command.host, policy)
        if refusal is not None:
            return refusal.reason
    needs_evidence = {CommandKind.EVACUATE, CommandKind.FORCE_DOWN}
    if command.kind in needs_evidence and not evidence_holds(incident, policy.hosts[command.host], now_s):
        return "there is no evidence any more"
    if command.kind is CommandKind.EVACUATE and incident.settled:
        return "the incident is settled"
    # safety: an off may be under way by now, and what takes a host back must not meet it (S3, S4)
    if command.kind in TAKES_BACK and incident.step not in COMING_BACK:
        return f"the incident is at {incident.step} again"
    return ""
