"""Incidents of one guest: announced, and rebooted where policy says so."""

from __future__ import annotations

from ha_agent import guards
from ha_agent.decide import reboots
from ha_agent.decide.evacuate import LOOK_AGAIN_S, retry_pause
from ha_agent.decide.turn import Turn
from ha_agent.decide.verify import MISSING_LOOKS
from ha_agent.model import (
    CommandKind,
    GuestFault,
    Incident,
    Kind,
    Mode,
    Outcome,
    Phase,
    ServerProgress,
    ServerStage,
    Status,
    Verdict,
)
from ha_agent.plans import GUEST_RECOVER, GUEST_TELL


def on_fault(turn: Turn, event: GuestFault) -> None:
    """One event of a guest. While its host or the guest itself has an open incident it is only noted there."""
    if event.host not in turn.policy.hosts or turn.policy.guest_mode == "ignore":
        return
    if event.report and any(i.report == event.report for i in turn.incidents.values()):
        return  # its remote was not told that it was taken, and reports it again
    what = f"{event.fault} ({event.action})" if event.action else event.fault
    open_ones = [i for i in turn.incidents.values() if i.phase is Phase.OPEN and i.host == event.host]
    for incident in open_ones:
        if incident.kind is Kind.HOST or incident.subject == event.server:
            turn.put(incident, f"guest {event.server}: {what}")
            return
    # safety: what is in doubt is told, and never acted on
    mode = Mode.AUTO if turn.policy.guest_mode == "auto" and not event.doubt else Mode.NOTIFY
    incident = turn.open(
        new_id=event.new_id,
        event=event,
        host=event.host,
        plan=GUEST_RECOVER if mode is Mode.AUTO else GUEST_TELL,
        kind=Kind.GUEST,
        subject=event.server,
        mode=mode,
        verdict=Verdict.ALIVE,
        reason=what,
        report=event.report,
        servers=(ServerProgress(id=event.server, prior="ACTIVE"),),
    )
    turn.tell("guest.event", incident, server=event.server, fault=event.fault)
    if event.doubt and turn.policy.guest_mode == "auto":
        turn.put(incident, f"only announced: {event.doubt}")


def announce(turn: Turn, incident: Incident) -> Incident:
    """The owner was told when the incident was opened."""
    return turn.next_step(turn.put(incident, announced=True), "announced")


def reboot(turn: Turn, incident: Incident) -> Incident:
    """A hard reboot through Nova."""
    server = incident.servers[0]
    if turn.pending(incident, CommandKind.REBOOT, CommandKind.LAST_REBOOT):
        return incident
    if server.stage is ServerStage.NOT_MOVED:
        return turn.next_step(incident, server.reason)
    due_at = max(incident.next_at, server.next_at)
    if turn.now.at < due_at:
        turn.wake(incident, due_at)
        return incident
    refusal = guards.may_act(turn.state, incident.host, turn.policy)
    if refusal is not None:
        turn.wake(incident, turn.now.at + LOOK_AGAIN_S)
        return turn.block(incident, refusal)
    if incident.rounds and incident.poll_at < incident.next_at:  # it failed: is the guest still there?
        if not turn.pending(incident, CommandKind.LIST_SERVERS):
            incident, _ = turn.send(incident, CommandKind.LIST_SERVERS, hosts=(incident.host,))
        return incident
    incident = turn.unblock(incident)
    if reboots.must_look(server, CommandKind.REBOOT):
        return reboots.look(turn, incident, server)
    incident, _ = turn.send(incident, CommandKind.REBOOT, incident.subject)
    turn.tell("guest.recovery.start", incident, server=incident.subject)
    return turn.put(incident, "hard reboot is sent")


def rebooted(turn: Turn, incident: Incident, outcome: Outcome) -> Incident:
    """Taken, or tried again."""
    if outcome.status is not Status.OK:
        turn.tell("guest.recovery.error", incident, server=incident.subject, error=outcome.error)
        incident = turn.put(incident, rounds=incident.rounds + 1)
        pause = retry_pause(turn.host_policy(incident.host).recovery, incident.rounds)
        return turn.put(incident, f"the reboot failed: {outcome.error}", next_at=turn.now.at + pause)
    server = incident.servers[0].with_(stage=ServerStage.LANDED)
    turn.tell("guest.recovery.end", incident, server=incident.subject)
    settle_by = turn.now.at + turn.host_policy(incident.host).recovery.settle_after_s
    return turn.next_step(turn.put(incident, servers=(server,), settle_by=settle_by), "Nova took the reboot")


def looked(turn: Turn, incident: Incident, outcome: Outcome) -> Incident:
    """Before another attempt: a guest that complete listings lack was deleted or moved, and is nobody's to reboot here."""
    recovery = turn.host_policy(incident.host).recovery
    if outcome.status is not Status.OK or outcome.survey is None:
        text = f"the servers of {incident.host} cannot be listed: {outcome.error}"
        return turn.wait(turn.put(incident, next_at=turn.now.at + recovery.poll_s), text)
    incident = turn.wait(incident, "")
    server = incident.servers[0]
    if any(row.id == server.id for row in outcome.survey.servers):
        return turn.put(incident, poll_at=turn.now.at)
    if server.looks + 1 < MISSING_LOOKS:
        incident = turn.put_server(incident, server, looks=server.looks + 1)
        return turn.put(incident, next_at=turn.now.at + recovery.poll_s)
    why = f"no longer on {incident.host}: deleted, or moved by somebody else"
    return turn.put_server(incident, server, why, stage=ServerStage.NOT_MOVED, reason=why)
