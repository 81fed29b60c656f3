"""What the witness says of a host: open an incident, bring it up to date, cancel it, or revoke its evidence."""

from __future__ import annotations

from ha_agent.decide import comeback, fence
from ha_agent.decide.turn import LONG_AGO_S, Turn
from ha_agent.model import (
    Beat,
    CommandKind,
    Health,
    Incident,
    Mode,
    Power,
    PowerRead,
    ServerProgress,
    ServerStage,
    Step,
    Verdict,
    VerdictGiven,
)
from ha_agent.plans import (
    FENCING_VERDICTS,
    GATE,
    IN_PLACE,
    RESTART,
    TELL,
    UNFORCE,
    UNFORCE_AND_RESTART,
    UNFORCE_AND_TELL,
    plan_for,
)


def on_verdict(turn: Turn, event: VerdictGiven) -> None:
    """One verdict of the witness."""
    if event.host not in turn.policy.hosts:
        return
    verdict = event.verdict
    record = turn.record(event.host)
    incident = turn.open_for(event.host)
    if verdict is Verdict.SUSPECT:
        if record.suspect_since is None:
            turn.put_host(event.host, suspect_since=turn.now.at)
            turn.log(f"{event.host} is suspect: {event.reason}")
            turn.tell_host("host.suspected", event.host, verdict, event.reason, last_seen_s=_silence(turn, event))
        return
    if verdict in (Verdict.ALIVE, Verdict.REBOOTED):
        _alive(turn, event, incident)
        return
    if incident is None:
        if not record.maintenance:
            _open(turn, event)
        return
    if verdict in FENCING_VERDICTS and incident.plan == IN_PLACE:
        turn.close(incident, f"the host failed again: {event.reason}")
        if not record.maintenance:
            left = [s for s in incident.servers if s.stage is not ServerStage.VERIFIED]
            _open(turn, event, tuple(ServerProgress(id=s.id, name=s.name, prior=s.prior) for s in left))
        return
    # safety: only a verdict that calls for a fence confirms one, and any other ends the confirmation (S5)
    confirmed_at = turn.now.at if verdict in FENCING_VERDICTS else turn.now.at - LONG_AGO_S
    incident = turn.put(incident, verdict_at=confirmed_at, silent=event.silent, silent_domain=event.silent_domain)
    if incident.settled:
        if verdict in FENCING_VERDICTS:
            turn.put(incident, beat_at=None, new_boot_id="", nova_compute=Health.UNKNOWN, gate_ok=False, clean=False)
        return
    if _heard_since(incident, event):
        incident = fence.revoke(turn, incident, "it was heard after its evidence")
    if incident.committed_at is not None:
        if _signed_since(incident, event):
            fence.revoke(turn, incident, f"{verdict}: {event.reason}")
        return
    _before_commit(turn, incident, event)


def _before_commit(turn: Turn, incident: Incident, event: VerdictGiven) -> None:
    """Nothing was moved yet: the plan follows the verdict."""
    verdict = event.verdict
    policy = turn.host_policy(incident.host).recovery
    if incident.ordered_by and Step.FENCE in incident.plan:
        return  # a person ordered this fence: the witnesses were not asked
    changed = verdict is not incident.verdict
    if verdict in FENCING_VERDICTS:
        plan = plan_for(verdict, policy.mode, fence=policy.fence)
        if Step.FENCE in plan and Step.FENCE not in incident.plan:
            life = event.boot_id or turn.record(incident.host).boot_id
            turn.replan(turn.put(incident, mode=policy.mode), plan, verdict, event.reason, boot_id=life, same_life=True)
        elif changed:
            turn.put(incident, f"now {verdict}: {event.reason}", verdict=verdict, reason=event.reason, beat_at=None)
        return
    if Step.FENCE not in incident.plan:
        if changed and not (verdict is Verdict.UNKNOWN and incident.plan != TELL):
            incident = turn.put(
                incident, f"now {verdict}: {event.reason}", verdict=verdict, reason=event.reason, beat_at=None
            )
            turn.tell("host.down", incident, evidence=None, forced_down=False, servers=[])
        return
    if incident.evidence is not None and not _signed_since(incident, event):
        return  # Nova's view, and answers to questions from before the off, are older than the evidence
    if verdict is Verdict.UNKNOWN:
        # Evidence, where there is some, stands: it says more than a witness that cannot be asked.
        if changed and incident.evidence is None:
            incident = turn.put(incident, f"now {verdict}: {event.reason}", verdict=verdict, reason=event.reason)
            fence.cancel(turn, incident)
        return
    incident = fence.cancel(turn, turn.put(incident, verdict=verdict, reason=event.reason))
    if any(c.step is Step.FENCE for c in incident.pending):
        return  # replanned when the attempt is dead and the verdict is given again
    plan = UNFORCE_AND_TELL if incident.forced else TELL
    turn.replan(incident, plan, verdict, event.reason, same_life=True)


def _heard_since(incident: Incident, event: VerdictGiven) -> bool:
    """S2: it was heard after what proves it off, and that could not be journalled when it came: the verdict that follows still knows."""
    evidence = incident.evidence
    if evidence is None or event.last_seen_at is None:
        return False
    return event.last_seen_at > max((r.at for r in evidence.readings), default=evidence.at)


def _signed_since(incident: Incident, event: VerdictGiven) -> bool:
    """S2: a witness got a signed answer to a question that was asked after the evidence. Only that revokes it, beside heartbeats and
    readings: what Nova last heard of the host may be from before the off, and our own call changes its row too."""
    evidence = incident.evidence
    since = (
        max((r.at for r in evidence.readings), default=evidence.at) if evidence is not None else incident.evidence_since
    )
    return event.signed_at is not None and event.signed_at > since


def _open(turn: Turn, event: VerdictGiven, servers: tuple[ServerProgress, ...] = ()) -> None:
    """A new incident for a host that is not heard. `servers`: what is remembered of them from a restart that did not end."""
    recovery = turn.host_policy(event.host).recovery
    record = turn.record(event.host)
    turn.open(
        new_id=event.new_id,
        event=event,
        host=event.host,
        plan=plan_for(event.verdict, recovery.mode, fence=recovery.fence),
        mode=recovery.mode,
        verdict=event.verdict,
        reason=event.reason,
        boot_id=event.boot_id or record.boot_id,
        last_seen_at=event.last_seen_at,
        silent=event.silent,
        silent_domain=event.silent_domain,
        servers=servers,
    )


def _alive(turn: Turn, event: VerdictGiven, incident: Incident | None) -> None:
    """The host is heard."""
    host = event.host
    record = turn.record(host)
    if not record.first_seen_wall:
        turn.put_host(host, first_seen_wall=max(turn.now.wall, 1.0))
        turn.log(f"{host} is seen for the first time")
    if record.suspect_since is not None:
        turn.put_host(host, suspect_since=None)
        turn.log(f"{host} is heard again")
        if incident is None:
            turn.tell_host("host.cleared", host, Verdict.ALIVE, event.reason)
    turn.put_host(host, boot_id=event.boot_id)
    if incident is not None:
        heard(turn, incident, event.boot_id, rebooted=event.verdict is Verdict.REBOOTED)
        return
    if event.verdict is not Verdict.REBOOTED:
        return
    recovery = turn.host_policy(host).recovery
    planned = bool(record.maintenance)
    plan = GATE if planned else plan_for(Verdict.REBOOTED, recovery.mode, fence=recovery.fence)
    turn.open(
        new_id=event.new_id,
        event=event,
        host=host,
        plan=plan,
        mode=recovery.mode,
        verdict=Verdict.REBOOTED,
        reason=event.reason,
        boot_id=record.boot_id,
        new_boot_id=event.boot_id,
        beat_at=turn.now.at,
    )


def on_beat(turn: Turn, event: Beat) -> None:
    """A heartbeat that matters: its host has an open incident, or waits at its gate."""
    if event.host not in turn.policy.hosts:
        return
    incident = turn.open_for(event.host)
    if incident is not None:
        incident = turn.put(incident, nova_compute=event.nova_compute)
        heard(turn, incident, event.boot_id)
    elif event.waiting_gate and turn.record(event.host).boot_id == event.boot_id:
        # a boot that is not known yet is first judged: it may be a reboot whose guests are to be remembered
        turn.open(
            new_id=event.new_id,
            event=event,
            host=event.host,
            plan=GATE,
            verdict=Verdict.ALIVE,
            reason="its nova-compute waits at the gate and nothing of the host is unsettled",
            boot_id=turn.record(event.host).boot_id,
            new_boot_id=event.boot_id,
            beat_at=turn.now.at,
        )


def on_power(turn: Turn, event: PowerRead) -> None:
    """S2: any reading "on" that is younger than the evidence revokes it, whoever took it. One that is taken during an attempt counts among
    the attempt's own: a device that reads off, on and off again was not off in between."""
    incident = turn.open_for(event.host)
    if incident is None or incident.settled:
        return
    if incident.evidence is None:
        seen = {r.device: r.at for r in event.readings if r.power is Power.ON}
        if seen and turn.pending(incident, CommandKind.FENCE):
            turn.put(incident, read_on={**incident.read_on, **seen})
        return
    since = max((r.at for r in incident.evidence.readings), default=incident.evidence.at)
    on = [r.device for r in event.readings if r.power is Power.ON and r.at > since]
    if on:
        fence.revoke(turn, incident, f"{on[0]} reads on")


def heard(turn: Turn, incident: Incident, boot_id: str, *, rebooted: bool = False) -> None:
    """S2b: what a heartbeat means depends on how far the incident is. `rebooted`: the journal knew another boot, even if the incident was
    opened in this one already (a reboot while nobody led)."""
    new = bool(boot_id) and boot_id != incident.boot_id
    if Step.FENCE in incident.plan:
        _heard_of_the_dead(turn, incident, boot_id, new=new, rebooted=rebooted)
        return
    if incident.mode is Mode.AUTO and incident.plan in (TELL, UNFORCE_AND_TELL):
        # it was only alarmed about: its guests died with its last boot, or were being started when it fell silent
        same_life = not (new or rebooted)
        if not same_life or comeback.restart_left(incident):
            incident = turn.put(incident, new_boot_id=boot_id, beat_at=turn.now.at)
            plan = UNFORCE_AND_RESTART if incident.forced else RESTART
            reason = "it is heard again, its servers were being started" if same_life else "it is back with a new boot"
            turn.replan(incident, plan, Verdict.REBOOTED, reason, same_life=same_life)
            return
    if new:
        _returning(turn, incident, boot_id)
    elif incident.beat_at is None or incident.verdict is not Verdict.ALIVE:
        turn.put(incident, beat_at=turn.now.at)


def _heard_of_the_dead(turn: Turn, incident: Incident, boot_id: str, *, new: bool, rebooted: bool) -> None:
    """A heartbeat of a host that is to be fenced, or was."""
    if incident.settled:
        if new:
            _returning(turn, incident, boot_id)
        else:
            _lied(turn, incident)
        return
    if incident.committed_at is not None:
        if not new:
            incident = fence.contradicted(turn, incident, at_once=False)
        fence.revoke(turn, incident, "it sends heartbeats" + (" after a new boot" if new else ""))
        return
    if incident.ordered_by and not new:
        if incident.evidence is not None:
            incident = _lied(turn, incident)
        turn.put(incident, beat_at=turn.now.at)
        return  # a person ordered the fence of a living host
    if incident.ordered_by:  # of its last life: nobody knows whether this one is to end too
        incident = turn.put(incident, "the order to fence it ended with its reboot", ordered_by="", withdrawn="")
    _cancelled_by_heartbeat(turn, incident, boot_id, new=new or rebooted)


def _lied(turn: Turn, incident: Incident) -> Incident:
    """Evidence and heartbeats of the same boot."""
    incident = fence.contradicted(turn, incident, at_once=True)
    return fence.revoke(turn, incident, "it sends heartbeats of the boot that was proven off")


def _returning(turn: Turn, incident: Incident, boot_id: str) -> None:
    """A new life of the host. Another boot than the one we knew needs its own word for the gate."""
    if incident.new_boot_id != boot_id:
        again = bool(incident.new_boot_id)
        incident = turn.put(
            incident, f"heard with a new boot ({boot_id[:8]})", new_boot_id=boot_id, gate_ok=False, clean=False
        )
        if again and Step.RESTART in incident.plan:
            incident = comeback.restart_again(turn, incident)
    turn.put(incident, beat_at=turn.now.at)


def _cancelled_by_heartbeat(turn: Turn, incident: Incident, boot_id: str, *, new: bool) -> None:
    """Before anything was moved: queued fences are cancelled, and the incident ends or becomes a reboot."""
    verdict = Verdict.REBOOTED if new else Verdict.ALIVE
    if incident.verdict is not verdict:
        incident = turn.put(incident, "it sends heartbeats" + (" after a new boot" if new else ""), verdict=verdict)
    if not new:
        incident = fence.contradicted(turn, incident, at_once=True)
    incident = fence.cancel(turn, incident)
    if any(c.step is Step.FENCE for c in incident.pending):
        return  # the next heartbeat finds the attempt dead
    reason = "heard again before anything was moved"
    if not new:
        if comeback.restart_left(incident) and incident.mode is Mode.AUTO:
            # its servers were being started after a reboot when it fell silent: that is not over
            incident = turn.put(incident, new_boot_id=boot_id, beat_at=turn.now.at)
            again = UNFORCE_AND_RESTART if incident.forced else RESTART
            turn.replan(incident, again, Verdict.REBOOTED, reason, same_life=True)
        elif incident.forced:
            turn.replan(incident, UNFORCE, verdict, reason)
        else:
            turn.tell_host("host.cleared", incident.host, Verdict.ALIVE, reason)
            turn.close(incident, reason)
        return
    auto = incident.mode is Mode.AUTO
    plan = (
        (UNFORCE_AND_RESTART if incident.forced else RESTART)
        if auto
        else (UNFORCE_AND_TELL if incident.forced else TELL)
    )
    incident = turn.put(incident, new_boot_id=boot_id, beat_at=turn.now.at)
    turn.replan(incident, plan, verdict, "it rebooted by itself before anything was moved")


def _silence(turn: Turn, event: VerdictGiven) -> float | None:
    return None if event.last_seen_at is None else round(turn.now.at - event.last_seen_at, 3)
