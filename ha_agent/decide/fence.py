"""FENCE: make sure that the host is off, level by level, until there is evidence. It never gives up."""

from __future__ import annotations

from ha_agent import guards
from ha_agent.decide.turn import Turn, evidence_data
from ha_agent.model import (
    STAGES_IN_FLIGHT,
    Command,
    CommandKind,
    Evidence,
    EvidenceKind,
    FenceRecord,
    Incident,
    Outcome,
    Phase,
    Power,
    Reading,
    ServerStage,
    Status,
    Step,
)
from ha_agent.policy import Fencing

LOOK_AGAIN_S = 1.0
FAILED = "fencing failed"
NOT_SENT = "not sent: "


def run(turn: Turn, incident: Incident) -> Incident:
    """Send the next attempt if nothing forbids it."""
    policy = turn.host_policy(incident.host)
    if guards.evidence_holds(incident, policy, turn.now.at):
        assert incident.evidence is not None
        # S2: the devices of the levels before the one that gave the evidence must not say the opposite
        others = [level for level in range(incident.evidence.level) if level not in incident.crosschecked]
        if others:
            return _crosscheck(turn, incident, others)
        return turn.next_step(incident, f"off is proven: {describe(incident.evidence)}")
    if turn.pending(incident, CommandKind.FENCE, CommandKind.CANCEL_FENCE):
        return incident
    refusal = guards.may_fence(turn.state, incident, turn.policy, turn.now.at)
    if refusal is not None:
        turn.wake(incident, turn.now.at + LOOK_AGAIN_S)
        if refusal.release:
            return turn.block(incident, refusal)
        return turn.wait(incident, refusal.reason)
    contradiction = turn.record(incident.host).contradiction
    if contradiction:  # never a vote: only a person can say that it is off, or that the devices can be trusted again
        mended = f"ha-agent fence {incident.host}, once its devices are mended"
        by_hand = f"switch it off by hand and ha-agent confirm-fenced {incident.host}"
        return turn.block(incident, guards.Refusal(reason=contradiction, release=f"{mended}; or {by_hand}"))
    if not incident.blocked.startswith(FAILED):
        incident = turn.unblock(incident)
    incident = turn.wait(incident, "")
    levels = policy.fencing.levels
    if not levels:
        return turn.block(
            incident,
            guards.Refusal(reason=f"{FAILED}: no fencing device", release=f"ha-agent confirm-fenced {incident.host}"),
        )
    if turn.now.at < incident.next_at:
        turn.wake(incident, incident.next_at)
        return incident
    level = min(incident.level, len(levels) - 1)
    # safety: noted before the sending, so that a crash cannot lose count of it (S6)
    if all(f.incident != incident.id for f in turn.fleet.fences):
        record = FenceRecord(host=incident.host, domain=policy.domain, incident=incident.id, at=turn.now.at)
        kept = guards.recent(turn.fleet.fences, turn.policy.storm.window_s, turn.now.at)
        turn.put_fleet(fences=(*kept, record))
    incident, _ = turn.send(
        incident,
        CommandKind.FENCE,
        level=level,
        not_after=turn.now.at + policy.fencing.attempt_s,
    )
    turn.tell("host.fence.start", incident, level=level, devices=list(levels[level]))
    incident = turn.mark(incident, "fence")
    return turn.put(incident, f"off is sent to level {level + 1} ({', '.join(levels[level])})")


def _crosscheck(turn: Turn, incident: Incident, levels: list[int]) -> Incident:
    """A BMC that still answers "on" although its host's plugs read off is a contradiction; one that is silent is what is expected."""
    asked = {c.level for c in turn.pending(incident, CommandKind.READ_POWER)}
    if turn.now.at < incident.next_at:
        turn.wake(incident, incident.next_at)
        return incident
    for level in levels:
        if level not in asked:
            incident, _ = turn.send(incident, CommandKind.READ_POWER, level=level)
    return incident


def fenced(turn: Turn, incident: Incident, command: Command, outcome: Outcome) -> Incident:
    """An attempt ended. Success is what was read, never what was answered."""
    policy = turn.host_policy(incident.host)
    devices = _devices(policy.fencing, command.level)
    since = max(incident.opened_at, incident.evidence_since)
    if outcome.status is Status.OK:
        seen_on = [Reading(device=device, power=Power.ON, at=at) for device, at in incident.read_on.items()]
        result = guards.evidence_of(command.level, devices, (*outcome.readings, *seen_on), since)
    else:
        result = outcome.error or f"the attempt ended as {outcome.status}"
    if outcome.status is Status.FAILED and outcome.error.startswith(NOT_SENT):
        # our own refusal says nothing of the device
        turn.wake(incident, turn.now.at + LOOK_AGAIN_S)
        return turn.put(incident, f"the off was {outcome.error}", next_at=turn.now.at + LOOK_AGAIN_S)
    if isinstance(result, Evidence):
        late = "it is off already: too late to withdraw its fence" if incident.withdrawn else ""
        incident = turn.put(
            incident,
            late,
            evidence=result,
            read_on={},
            revoked="",
            rounds=0,
            read_at=turn.now.at,
            crosschecked=(),
            next_at=0.0,
            withdrawn="",
        )
        incident = turn.mark(turn.unblock(incident), "evidence")
        turn.tell("host.fence.end", incident, level=command.level, evidence=evidence_data(result))
        nothing_starts_there(turn, incident)
        return incident
    if incident.step is not Step.FENCE:
        return incident
    turn.tell("host.fence.error", incident, level=command.level, devices=list(devices), error=result)
    last = command.level + 1 >= len(policy.fencing.levels)
    if not last:
        return turn.put(
            incident, f"level {command.level + 1} failed: {result}; the next level is tried", level=command.level + 1
        )
    rounds = incident.rounds + 1
    pause = min(policy.fencing.retry_max_s, policy.fencing.retry_min_s * 2 ** min(rounds - 1, 10))
    incident = turn.put(
        incident,
        f"level {command.level + 1} failed: {result}; again in {pause:g} s",
        level=0,
        rounds=rounds,
        next_at=turn.now.at + pause,
    )
    release = f"ha-agent confirm-fenced {incident.host}"
    if living(turn, incident):  # a person ordered the fence of a living host: it can only be withdrawn
        release = f"ha-agent release {incident.host}"
    return turn.block(incident, guards.Refusal(reason=f"{FAILED}: {result}", release=release))


def _devices(fencing: Fencing, level: int) -> tuple[str, ...]:
    """None where the config has no such level any more."""
    return next(iter(fencing.levels[level:]), ())


def nothing_starts_there(turn: Turn, proven: Incident) -> None:
    """The host is proven off: what moved there does not any more. Remembered, for the host may be back before its records are looked at."""
    host = proven.host
    for incident in [i for i in turn.incidents.values() if i.phase is Phase.OPEN and i.host != host]:
        for server in incident.servers:
            if server.stage in STAGES_IN_FLIGHT and server.dest == host and server.record not in (0, *server.void):
                incident = turn.put_server(incident, server, void=(*server.void, server.record))


def living(turn: Turn, incident: Incident) -> bool:
    """Whether its heartbeats still arrive."""
    silence = turn.host_policy(incident.host).detection.down_after_s
    return incident.beat_at is not None and turn.now.at - incident.beat_at < silence


def cancel(turn: Turn, incident: Incident) -> Incident:
    """S2b: a queued or running attempt is ended. Evidence starts anew."""
    incident = turn.put(incident, evidence=None, evidence_since=turn.now.at)
    if turn.pending(incident, CommandKind.FENCE) and not turn.pending(incident, CommandKind.CANCEL_FENCE):
        incident, _ = turn.send(incident, CommandKind.CANCEL_FENCE)
        incident = turn.put(incident, "the fence is cancelled")
    return incident


def cancelled(turn: Turn, incident: Incident, outcome: Outcome) -> Incident:
    """No attempt is alive any more; whatever the attempt still answers is too old to be evidence."""
    if outcome.status is not Status.OK:
        return turn.put(incident, f"the cancelling answered: {outcome.error or outcome.status}")
    return turn.put(incident, pending=tuple(c for c in incident.pending if c.kind is not CommandKind.FENCE))


def upkeep(turn: Turn, incident: Incident) -> Incident:
    """Evidence is kept fresh while servers move: its devices are read again well before it ages (S2)."""
    policy = turn.host_policy(incident.host)
    evidence = incident.evidence
    if evidence is None:
        return revoke(turn, incident, "there is none")
    end = guards.expires_at(evidence, policy.fencing)
    if end is None:
        return incident
    # safety: without young evidence no intent is written; a fence is only repeated when one is to be
    if turn.now.at >= end and _intents_to_come(incident):
        return revoke(turn, incident, f"its readings are older than {policy.fencing.evidence_max_age_s:.0f} s")
    if turn.now.at < end:
        turn.wake(incident, end)
    if turn.pending(incident, CommandKind.READ_POWER):
        return incident
    due = max(incident.read_at, evidence.at + policy.fencing.evidence_max_age_s / 3)
    if turn.now.at < due:
        turn.wake(incident, due)
        return incident
    incident, _ = turn.send(incident, CommandKind.READ_POWER, level=evidence.level)
    return incident


def _intents_to_come(incident: Incident) -> bool:
    """Whether anything may still be sent that needs evidence. (FORCE_DOWN looks at its evidence itself.)"""
    stages = (ServerStage.WAITING, ServerStage.RETRY, ServerStage.HELD)
    return not incident.servers or any(s.stage in stages for s in incident.servers)


def reread(turn: Turn, incident: Incident, command: Command, outcome: Outcome) -> Incident:
    """The devices were read again: younger evidence, none, or the opposite."""
    policy = turn.host_policy(incident.host)
    evidence = incident.evidence
    if evidence is None or evidence.kind is not EvidenceKind.DEVICES:
        return incident
    if command.level < evidence.level:
        says_on = [r.device for r in outcome.readings if r.power is Power.ON]
        if says_on:
            text = f"contradiction: {says_on[0]} reads on although level {evidence.level + 1} reads off"
            turn.put_host(incident.host, contradiction=text)
            turn.tell("fencing_device.failed", host=incident.host, device=says_on[0], level=command.level, error=text)
            return revoke(turn, turn.put(incident, text), text)
        if outcome.status is not Status.OK:  # we could not ask: that is no silence of the device (S9)
            return turn.put(incident, next_at=turn.now.at + LOOK_AGAIN_S)
        return turn.put(incident, crosschecked=(*incident.crosschecked, command.level))
    on = [r for r in outcome.readings if r.power is Power.ON]
    if on and not incident.settled:
        return revoke(turn, incident, f"{on[0].device} reads on")
    newer = guards.evidence_of(
        evidence.level,
        _devices(policy.fencing, evidence.level),
        (*evidence.readings, *outcome.readings),
        max(incident.opened_at, incident.evidence_since),
    )
    if outcome.status is Status.OK and isinstance(newer, Evidence):
        return turn.put(incident, evidence=newer, read_at=turn.now.at)
    return turn.put(incident, read_at=turn.now.at + min(2.0, policy.fencing.evidence_max_age_s / 10))


def revoke(turn: Turn, incident: Incident, reason: str) -> Incident:
    """S2, S2b: stop, fence again, resume. In a plan without a fence there is nothing to revoke."""
    if Step.FENCE not in incident.plan:
        return incident
    if incident.step is Step.FENCE and incident.evidence is None:
        return turn.put(incident, evidence_since=turn.now.at)
    incident = turn.put(incident, evidence=None, evidence_since=turn.now.at, revoked=reason, rounds=0, powered_on=False)
    return turn.go_to(incident, Step.FENCE, f"evidence revoked: {reason}; it is fenced again")


def contradicted(turn: Turn, incident: Incident, *, at_once: bool) -> Incident:
    """S2: heartbeats of the boot that our devices read off. One that comes after servers began to move may have been on its way
    before the off; a second one, after another fence, was not. Then the devices guard something else, or lie: blocked, and said loudly."""
    evidence = incident.evidence
    if evidence is None or evidence.kind is not EvidenceKind.DEVICES:
        return incident
    incident = turn.put(incident, contradicted=incident.contradicted + 1)
    if not at_once and incident.contradicted < 2:
        return incident
    devices = sorted({r.device for r in evidence.readings})
    text = f"contradiction: {', '.join(devices)} read off while the same boot of {incident.host} sent heartbeats"
    turn.put_host(incident.host, contradiction=text)
    for device in devices:
        turn.tell("fencing_device.failed", host=incident.host, device=device, level=evidence.level, error=text)
    return turn.put(incident, text)


def describe(evidence: Evidence) -> str:
    """Evidence in words."""
    if evidence.kind is EvidenceKind.DEVICES:
        return f"{', '.join(sorted({r.device for r in evidence.readings}))} read off twice"
    if evidence.kind is EvidenceKind.CONFIRMATION:
        return f"confirmed by {evidence.by}"
    return f"level {evidence.level + 1} is declared trusted"
