"""What a person orders. Each order is journalled with its actor; one that makes no sense changes nothing and says why."""

from __future__ import annotations

from ha_agent.decide import comeback, fence
from ha_agent.decide.turn import Turn, evidence_data
from ha_agent.errors import UsageError
from ha_agent.model import (
    CommandKind,
    Evidence,
    EvidenceKind,
    Incident,
    Mode,
    Operator,
    Order,
    Phase,
    Step,
    Verdict,
)
from ha_agent.plans import FENCE_AND_TELL, FENCING_VERDICTS, RECOVER, RESTART, plan_for


def on_order(turn: Turn, event: Operator) -> None:
    """Raises UsageError, which changes nothing, where the order cannot be carried out."""
    if event.order in _NEEDS_HOST and event.host not in turn.policy.hosts:
        raise UsageError(f"{event.host or 'no host'} is not in the inventory", "see: ha-agent status")
    _ORDERS[event.order](turn, event)


def _arm(turn: Turn, event: Operator) -> None:
    turn.put_fleet(armed=True, armed_by=event.actor, foreign="")
    turn.log(f"armed by {event.actor}")
    turn.tell_controller("controller.armed", event.actor, event.reason)


def _disarm(turn: Turn, event: Operator) -> None:
    turn.put_fleet(armed=False, armed_by="")
    turn.log(f"disarmed by {event.actor}" + (f": {event.reason}" if event.reason else ""))
    turn.tell_controller("controller.disarmed", event.actor, event.reason)
    _cancel_all(turn, None)


def _foreign(turn: Turn, event: Operator) -> None:
    """Another claimant was met: disarm and alarm. Only a person arms again."""
    if turn.fleet.foreign == event.reason:
        return
    turn.put_fleet(armed=False, armed_by="", foreign=event.reason)
    turn.log(f"disarmed: another controller claims these hosts: {event.reason}")
    turn.tell_controller("controller.disarmed", "", f"another controller claims these hosts: {event.reason}")
    _cancel_all(turn, None)


def _pause(turn: Turn, event: Operator) -> None:
    turn.put_fleet(paused=f"{event.reason or 'no reason given'} ({event.actor})")
    turn.log(f"paused by {event.actor}: {event.reason}")
    _cancel_all(turn, None)


def _unpause(turn: Turn, event: Operator) -> None:
    turn.put_fleet(paused="")
    turn.log(f"no longer paused, by {event.actor}")


def _maintenance_on(turn: Turn, event: Operator) -> None:
    turn.put_host(event.host, maintenance=f"{event.reason or 'no reason given'} ({event.actor})")
    turn.log(f"{event.host} is in maintenance, by {event.actor}: {event.reason}")
    _cancel_all(turn, event.host)


def _maintenance_off(turn: Turn, event: Operator) -> None:
    turn.put_host(event.host, maintenance="", contradiction="")
    turn.log(f"{event.host} is no longer in maintenance, by {event.actor}")


def _cancel_all(turn: Turn, host: str | None) -> None:
    """Attempts that run are ended: the order holds from now on, not from the next attempt on."""
    for incident in list(turn.incidents.values()):
        if incident.phase is Phase.OPEN and host in (None, incident.host) and turn.pending(incident, CommandKind.FENCE):
            fence.cancel(turn, incident)


def _fence(turn: Turn, event: Operator) -> None:
    """Fence now, whatever the witnesses say. The storm guard does not hold back an order for one host."""
    incident = turn.open_for(event.host)
    if incident is not None and incident.settled and incident.step is not Step.FENCE:
        raise UsageError(
            f"{event.host} was fenced and settled in incident {incident.id}", f"see: ha-agent explain {event.host}"
        )
    turn.put_host(event.host, contradiction="")
    recovery = turn.host_policy(event.host).recovery
    plan = RECOVER if recovery.mode is Mode.AUTO else FENCE_AND_TELL
    reason = f"fence ordered by {event.actor}" + (f": {event.reason}" if event.reason else "")
    if incident is None:
        record = turn.record(event.host)
        turn.open(
            new_id=event.new_id,
            event=event,
            host=event.host,
            plan=plan,
            mode=recovery.mode,
            verdict=Verdict.DOWN,
            reason=reason,
            boot_id=record.boot_id,
            beat_at=event.heard_at,
            ordered_by=event.actor,
        )
        return
    incident = turn.put(incident, reason, actor=event.actor, ordered_by=event.actor, withdrawn="")
    if Step.FENCE not in incident.plan:
        life = turn.record(event.host).boot_id
        incident = turn.replan(incident, plan, Verdict.DOWN, reason, boot_id=life, same_life=True)
    turn.put(incident, beat_at=event.heard_at)


def _confirm_fenced(turn: Turn, event: Operator) -> None:
    """S2: evidence by a person, bound to this incident."""
    incident = _open_incident(turn, event)
    if incident.verdict not in FENCING_VERDICTS | {Verdict.UNKNOWN}:
        raise UsageError(
            f"{event.host} is {incident.verdict}: it cannot be confirmed off while it is not believed down",
            f"see: ha-agent explain {event.host}; to fence it all the same: ha-agent fence {event.host}",
        )
    silence = turn.host_policy(event.host).detection.down_after_s
    if event.heard_at is not None and turn.now.at - event.heard_at < silence:
        raise UsageError(
            f"{event.host} sends heartbeats: it is not off", f"to withdraw the fence: ha-agent release {event.host}"
        )
    if Step.FENCE not in incident.plan:  # too little was known for a fence; now a person knows
        recovery = turn.host_policy(event.host).recovery
        plan = plan_for(Verdict.DOWN, recovery.mode, fence=True)
        life = turn.record(event.host).boot_id
        why = f"confirmed off by {event.actor}"
        incident = turn.replan(incident, plan, incident.verdict, why, boot_id=life, same_life=True)
    if incident.evidence is not None or incident.step is not Step.FENCE:
        raise UsageError(f"{event.host} is at step {incident.step}: a confirmation is not needed")
    evidence = Evidence(kind=EvidenceKind.CONFIRMATION, at=turn.now.at, wall=turn.now.wall, by=event.actor)
    incident = fence.cancel(turn, incident)
    incident = turn.put(
        turn.unblock(incident),
        f"confirmed off by {event.actor}" + (f": {event.reason}" if event.reason else ""),
        actor=event.actor,
        evidence=evidence,
        revoked="",
        withdrawn="",
        waiting="",
    )
    incident = turn.mark(incident, "evidence")
    turn.tell("host.fence.end", incident, level=-1, evidence=evidence_data(evidence))
    fence.nothing_starts_there(turn, incident)


def _release(turn: Turn, event: Operator) -> None:
    """Stop retrying: what could not be moved stays, and the host may come back."""
    incident = _open_incident(turn, event)
    if event.host not in turn.policy.hosts:
        turn.close(turn.put(incident, actor=event.actor), f"released by {event.actor}; the host left the inventory")
        return
    if Step.FENCE not in incident.plan and Step.RESTART not in incident.plan:
        raise UsageError(
            f"the incident of {event.host} only waits for the host to be heard; it ends by itself then",
            f"to be left alone with it meanwhile: ha-agent maintenance on {event.host}",
        )
    if incident.ordered_by and incident.committed_at is None and incident.evidence is None and not incident.forced:
        by = event.actor + (f": {event.reason}" if event.reason else "")
        fence.cancel(turn, turn.put(incident, actor=event.actor, withdrawn=by))
        return
    if incident.committed_at is None and Step.FENCE in incident.plan:
        raise UsageError(
            f"{event.host} is not proven off yet; nothing can be released",
            f"ha-agent confirm-fenced {event.host}, or ha-agent maintenance on {event.host}",
        )
    turn.put(
        incident,
        f"released by {event.actor}" + (f": {event.reason}" if event.reason else ""),
        actor=event.actor,
        released=event.actor,
    )


def withdrawn(turn: Turn, incident: Incident) -> Incident:
    """The order to fence was taken back: it is over once no attempt is alive (S4)."""
    text = f"the ordered fence is withdrawn by {incident.withdrawn}"
    if turn.pending(incident, CommandKind.FENCE, CommandKind.CANCEL_FENCE):
        return turn.wait(incident, f"{text}; the attempt that runs is being ended")
    if incident.mode is Mode.AUTO and comeback.restart_left(incident):
        # its servers were being started after a reboot: that is not over
        incident = turn.put(incident, new_boot_id=incident.boot_id)
        return turn.replan(incident, RESTART, Verdict.REBOOTED, text, same_life=True)
    return turn.close(incident, text)


def _ack(turn: Turn, event: Operator) -> None:
    incident = _open_incident(turn, event)
    turn.put(incident, f"acknowledged by {event.actor}", actor=event.actor, acked_by=event.actor)


def _report(turn: Turn, event: Operator) -> None:
    """Somebody says that the host failed. Written down here; the engine makes it a suspect, and only what we see ourselves does more (S2)."""
    text = f"reported failed by {event.actor}" + (f": {event.reason}" if event.reason else "")
    incident = turn.open_for(event.host)
    if incident is None:
        turn.log(f"{event.host} is {text}")
    else:
        turn.put(incident, text, actor=event.actor)


def _open_incident(turn: Turn, event: Operator) -> Incident:
    incident = turn.open_for(event.host)
    if incident is None:
        raise UsageError(f"{event.host} has no open incident", "see: ha-agent incidents")
    if event.incident and event.incident != incident.id:
        raise UsageError(
            f"the open incident of {event.host} is {incident.id}, not {event.incident}; nothing was changed",
            f"look again: ha-agent explain {event.host}",
        )
    return incident


_NEEDS_HOST = frozenset(
    {
        Order.MAINTENANCE_ON,
        Order.MAINTENANCE_OFF,
        Order.FENCE,
        Order.CONFIRM_FENCED,
        Order.REPORT,
    }
)
_ORDERS = {
    Order.ARM: _arm,
    Order.DISARM: _disarm,
    Order.PAUSE: _pause,
    Order.UNPAUSE: _unpause,
    Order.MAINTENANCE_ON: _maintenance_on,
    Order.MAINTENANCE_OFF: _maintenance_off,
    Order.FENCE: _fence,
    Order.CONFIRM_FENCED: _confirm_fenced,
    Order.RELEASE: _release,
    Order.ACK: _ack,
    Order.REPORT: _report,
    Order.FOREIGN: _foreign,
}
