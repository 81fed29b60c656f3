"""AWAIT_RETURN, UNFENCE, RESTART: take the host back in the order that Nova accepts (S3), and start in place what is to run there."""

from __future__ import annotations

from typing import Any

from ha_agent import guards
from ha_agent.decide import evacuate, reboots
from ha_agent.decide.evacuate import LOOK_AGAIN_S, free_held, name_left, retry_pause, some
from ha_agent.decide.evacuate import look as survey
from ha_agent.decide.reboots import MEND_PAUSE_S
from ha_agent.decide.turn import Turn
from ha_agent.decide.verify import MISSING_LOOKS
from ha_agent.model import (
    MIGRATION_ENDED,
    STAGES_DONE,
    Command,
    CommandKind,
    EvidenceKind,
    Health,
    Incident,
    Outcome,
    Power,
    Server,
    ServerProgress,
    ServerStage,
    Status,
    Step,
    Verdict,
)
from ha_agent.plans import GATE, IN_PLACE
from ha_agent.policy import Recovery
from ha_agent.recovery import select

# --- AWAIT_RETURN ---


def await_return(turn: Turn, incident: Incident) -> Incident:
    """Power on, look, open the gate, wait for nova-compute to clean up."""
    if Step.FENCE not in incident.plan:
        return await_heard(turn, incident)
    if not incident.settled:  # notify mode: somebody else is moving its servers
        if not incident.released:
            return turn.block(
                incident,
                guards.Refusal(
                    reason="notify mode: the host stays off until its servers were taken care of",
                    release=f"ha-agent release {incident.host}",
                ),
            )
        incident = turn.put(turn.unblock(incident), settled=True)
    incident = power_on(turn, incident)
    if not incident.new_boot_id:
        return turn.wait(incident, "the host to return")
    if not incident.clean:
        incident = look(turn, incident)
    if incident.gate_ok:
        incident = open_gate(turn, incident)
    if not incident.clean or incident.cleared_boot_id != incident.new_boot_id:
        return incident
    return turn.next_step(incident, "the host is back and clean")


def await_heard(turn: Turn, incident: Incident) -> Incident:
    """Plans that fence nothing end when the host is heard; a new boot first gets its gate opened."""
    if incident.beat_at is None:
        if incident.verdict is Verdict.UNKNOWN:  # never only waiting: a person may know better
            refusal = guards.Refusal(
                reason=f"too little is known: {incident.reason}", release=f"ha-agent fence {incident.host}"
            )
            incident = turn.block(incident, refusal)
        else:
            incident = turn.unblock(incident)
        if incident.verdict is Verdict.NEVER_SEEN:
            first = f"the host to be heard for the first time (if it is truly dead: ha-agent fence {incident.host})"
            return turn.wait(incident, first)
        return turn.wait(incident, "the host to be heard again")
    incident = turn.unblock(incident)
    if incident.new_boot_id and incident.cleared_boot_id != incident.new_boot_id:
        return open_gate(turn, incident)
    return turn.next_step(incident, "the gate is open" if incident.plan == GATE else "the host is heard again")


def power_on(turn: Turn, incident: Incident) -> Incident:
    """Only what our own devices switched off is switched on by them, and only after the host is settled."""
    policy = turn.host_policy(incident.host)
    evidence = incident.evidence
    if (
        incident.powered_on
        or incident.new_boot_id
        or not policy.fencing.power_on_after
        or evidence is None
        or evidence.kind is not EvidenceKind.DEVICES
        or turn.pending(incident, CommandKind.POWER_ON, CommandKind.FENCE, CommandKind.CANCEL_FENCE)
    ):
        return incident
    if turn.now.at < incident.next_at:
        turn.wake(incident, incident.next_at)
        return incident
    refusal = guards.may_act(turn.state, incident.host, turn.policy)
    if refusal is not None:
        turn.wake(incident, turn.now.at + LOOK_AGAIN_S)
        return turn.block(incident, refusal)
    incident, _ = turn.send(turn.unblock(incident), CommandKind.POWER_ON, level=evidence.level)
    return turn.put(incident, "power on is sent")


def powered_on(turn: Turn, incident: Incident, outcome: Outcome) -> Incident:
    """A failed power-on does not undo the fence."""
    if outcome.status is Status.OK and outcome.readings and all(r.power is Power.ON for r in outcome.readings):
        return turn.put(turn.unblock(incident), "the devices read on", powered_on=True, rounds=0)
    if incident.step is not Step.AWAIT_RETURN:
        return incident  # it is to be fenced again, and nothing is to delay that
    error = outcome.error or ", ".join(f"{r.device} reads {r.power} {r.error}".strip() for r in outcome.readings)
    incident = turn.put(incident, rounds=incident.rounds + 1)
    pause = retry_pause(turn.host_policy(incident.host).recovery, incident.rounds)
    incident = turn.put(incident, f"power on failed: {error}; again in {pause:g} s", next_at=turn.now.at + pause)
    turn.wake(incident, incident.next_at)
    return incident


def look(turn: Turn, incident: Incident) -> Incident:
    """The host's migration records, until they allow the gate, and then the clearing of the flag."""
    return survey(turn, ask_absent(turn, incident))


def ask_absent(turn: Turn, incident: Incident) -> Incident:
    """An unfinished record that no longer moves: does its destination have the domain?"""
    asked = {(c.subject, c.host) for c in turn.pending(incident, CommandKind.CHECK_ABSENT)}
    for server in incident.servers:
        if not server.wait_for or turn.now.at < server.next_at:
            continue
        for host in server.wait_for:
            if (server.id, host) not in asked:
                incident, _ = turn.send(incident, CommandKind.CHECK_ABSENT, server.id, host=host)
        current = turn.server(incident, server.id)
        incident = turn.put_server(incident, current, next_at=turn.now.at + MEND_PAUSE_S / 2)
    return incident


def looked(turn: Turn, incident: Incident, outcome: Outcome) -> Incident:
    """S3: the gate opens when no evacuation off the host is unfinished; the flag is cleared when none is `done` either."""
    recovery = turn.host_policy(incident.host).recovery
    incident = turn.put(incident, poll_at=turn.now.at + recovery.poll_s)
    turn.wake(incident, incident.poll_at)
    if outcome.status is not Status.OK or outcome.survey is None:
        return turn.wait(incident, f"its migrations cannot be listed: {outcome.error}")
    mine = [m for m in outcome.survey.migrations if m.kind == select.EVACUATION and m.source == incident.host]
    # a server that is not on the host any more cannot be started by it, whatever an old record says
    listed = {s.id: s for s in outcome.survey.servers}
    newest = select.newest(mine).values()
    held: list[str] = []
    for m in newest:
        if m.status in MIGRATION_ENDED or m.server not in listed:
            continue
        if guards.proven_off(turn.state, m.dest, turn.policy, turn.now.at):
            continue
        server = next((s for s in incident.servers if s.id == m.server), None)
        if server is not None and m.id in server.void:
            continue
        if server is None:
            server = _somebody_elses(listed[m.server])
            incident = turn.put(incident, servers=(*incident.servers, server))
        if server.baseline == m.id and not server.wait_for and m.dest in server.absent_at:
            continue  # its destination reported the domain absent, twice
        held.append(f"{server.name or m.server} to {m.dest or select.NOBODY_KNOWS}")
        if m.dest and server.wait_for != (m.dest,):
            incident = turn.put_server(
                incident,
                server,
                baseline=m.id,
                wait_for=(m.dest,),
                absent_at={},
                next_at=turn.now.at,
                spawns=evacuate.spawning(turn, server, (m,)),
            )
    if held:  # safety: nobody's release of the host stops a destination that is at work (S3)
        what = f"unfinished evacuations: {', '.join(held[:5])}"
        incident = turn.put(incident, gate_ok=False, clean=False)
        if turn.now.at >= incident.stage_at.get("settled", incident.opened_at) + 2 * recovery.api_max_s:
            release = "ha-agent remote gate --override --reason TEXT, there, once nothing can start them elsewhere"
            incident = turn.block(incident, guards.Refusal(reason=what, release=release))
        return turn.wait(incident, what)
    if incident.blocked.startswith("unfinished evacuations"):
        incident = turn.unblock(incident)
    incident = turn.put(incident, gate_ok=True)
    done = [m for m in mine if m.status == "done"]
    if done:
        return turn.wait(incident, f"nova-compute to clean up {some(len(done), 'evacuated server')}")
    if incident.cleared_boot_id != incident.new_boot_id:
        return turn.wait(incident, "the gate to open")
    if incident.nova_compute is not Health.UP:
        return turn.wait(incident, f"nova-compute, which is {incident.nova_compute}")
    return turn.wait(turn.put(incident, clean=True), "")


def _somebody_elses(row: Server) -> ServerProgress:
    return ServerProgress(
        id=row.id,
        name=row.name,
        project_id=row.project_id,
        prior=row.status,
        stage=ServerStage.NOT_MOVED,
        reason="somebody else's evacuation of it never ended",
    )


def open_gate(turn: Turn, incident: Incident) -> Incident:
    """The host's nova-compute may start in this boot."""
    if incident.cleared_boot_id == incident.new_boot_id or turn.pending(incident, CommandKind.OPEN_GATE):
        return incident
    if turn.now.at < incident.next_at:
        turn.wake(incident, incident.next_at)
        return incident
    incident, _ = turn.send(incident, CommandKind.OPEN_GATE, boot_id=incident.new_boot_id)
    return incident


def gate_opened(turn: Turn, incident: Incident, command: Command, outcome: Outcome) -> Incident:
    """Its remote has stored the word, or it is said again."""
    if outcome.status is Status.OK:
        turn.put_host(incident.host, cleared_boot_id=command.boot_id)
        incident = turn.put(incident, "the gate is open", cleared_boot_id=command.boot_id)
        return turn.mark(incident, "gate")
    if incident.step not in (Step.AWAIT_RETURN, Step.RESTART):
        return incident
    incident = turn.put(incident, next_at=turn.now.at + LOOK_AGAIN_S)
    turn.wake(incident, incident.next_at)
    return turn.wait(incident, f"the gate could not be opened: {outcome.error}")


# --- UNFENCE ---


def unfence(turn: Turn, incident: Incident) -> Incident:
    """Clear forced_down, last of all."""
    if not incident.forced:
        return unfenced(turn, incident)
    if turn.pending(incident, CommandKind.FORCE_DOWN, CommandKind.CLEAR_FORCE_DOWN):
        return incident
    if turn.now.at < incident.next_at:
        turn.wake(incident, incident.next_at)
        return incident
    refusal = guards.may_act(turn.state, incident.host, turn.policy)
    if refusal is not None:
        turn.wake(incident, turn.now.at + LOOK_AGAIN_S)
        return turn.block(incident, refusal)
    incident, _ = turn.send(turn.unblock(incident), CommandKind.CLEAR_FORCE_DOWN)
    return incident


def cleared(turn: Turn, incident: Incident, outcome: Outcome) -> Incident:
    """Nova takes the host back, or says why not."""
    if incident.step is not Step.UNFENCE:  # it failed again meanwhile: only what Nova knows now is noted
        return turn.put(incident, forced=incident.forced and outcome.status is not Status.OK)
    if outcome.status is Status.OK:
        incident = turn.mark(turn.put(incident, "forced_down is cleared", forced=False, rounds=0), "unfenced")
        turn.tell("host.returned", incident, boot_id=incident.new_boot_id or incident.boot_id)
        return incident
    incident = turn.put(incident, rounds=incident.rounds + 1, clean=False)
    pause = retry_pause(turn.host_policy(incident.host).recovery, incident.rounds)
    incident = turn.put(incident, next_at=turn.now.at + pause)
    turn.wake(incident, incident.next_at)
    return turn.wait(incident, f"forced_down could not be cleared: {outcome.error}")


def unfenced(turn: Turn, incident: Incident) -> Incident:
    """Past UNFENCE: servers that were given up are started in place."""
    left = tuple(
        s.with_(stage=ServerStage.HELD if s.wait_for else ServerStage.WAITING, next_at=0.0, looks=0)
        for s in incident.servers
        if s.stage is ServerStage.GIVEN_UP and not s.dest and s.prior == "ACTIVE"
    )
    if left and incident.settled:
        others = tuple(s for s in incident.servers if s.id not in {x.id for x in left})
        return turn.put(
            incident,
            f"the host is back: what could not be moved is started in place ({some(len(left), 'server')})",
            plan=IN_PLACE,
            position=0,
            released="",
            servers=(*others, *left),
            surveyed=True,
            settle_by=turn.now.at + turn.host_policy(incident.host).recovery.settle_after_s,
        )
    return turn.next_step(incident, "the host is back")


# --- RESTART ---


def restart(turn: Turn, incident: Incident) -> Incident:
    """Remember what ran, open the gate, start it again (its guests are gone: the boot is new)."""
    recovery = turn.host_policy(incident.host).recovery
    if incident.settle_by is None:
        incident = turn.put(incident, settle_by=turn.now.at + recovery.settle_after_s)
    if not incident.surveyed:
        return survey(turn, incident)
    incident = open_gate(turn, incident)
    if incident.new_boot_id and incident.cleared_boot_id != incident.new_boot_id:
        return incident
    todo = [s for s in incident.servers if s.stage not in STAGES_DONE]
    if not todo:
        return turn.next_step(incident, "what ran before runs again")
    assert incident.settle_by is not None
    if turn.now.at >= incident.settle_by or incident.released:
        for server in todo:
            why = server.reason or "it did not start in time"
            incident = turn.put_server(
                incident,
                server,
                f"{server.name or server.id} is given up: {why}",
                stage=ServerStage.GIVEN_UP,
                reason=why,
            )
        return incident
    if incident.nova_compute is not Health.UP:
        return turn.wait(incident, f"nova-compute, which is {incident.nova_compute}")
    held = [s for s in incident.servers if s.stage is ServerStage.HELD]
    what = ", ".join(f"{s.name or s.id} ({s.reason})" for s in held[:3]) + (" …" if len(held) > 3 else "")
    proof = f"proof that these do not run elsewhere: {what}; to give them up: ha-agent release {incident.host}"
    incident = turn.wait(incident, proof if held else "")
    return survey(turn, free_held(turn, incident))


def restart_surveyed(turn: Turn, incident: Incident, outcome: Outcome) -> Incident:
    """The snapshot before the gate opens, then the progress."""
    recovery = turn.host_policy(incident.host).recovery
    incident = turn.put(incident, poll_at=turn.now.at + recovery.poll_s)
    turn.wake(incident, incident.poll_at)
    if outcome.status is not Status.OK or outcome.survey is None:
        return turn.wait(incident, f"the host's servers cannot be listed: {outcome.error}")
    rows = {s.id: s for s in outcome.survey.servers}
    if not incident.surveyed:
        prior = {s.id: s.prior for s in incident.servers}
        running = {s.id: s for s in incident.servers if s.stage is ServerStage.VERIFIED}  # started in this very boot
        servers = tuple(
            running.get(s.id) or _snapshot(s, prior.get(s.id, s.status), select.chosen(s, recovery.select), recovery)
            for s in outcome.survey.servers
            if prior.get(s.id, s.status) == "ACTIVE"
        )
        ours = sum(s.stage is ServerStage.WAITING for s in servers)
        incident = turn.put(
            incident, f"{some(ours, 'protected server')} ran here", surveyed=True, servers=servers, poll_at=turn.now.at
        )
        return name_left(turn, incident)
    if incident.new_boot_id and incident.cleared_boot_id != incident.new_boot_id:
        return incident
    moves = select.by_server(outcome.survey.migrations)
    for server in incident.servers:
        migrations = [m for m in moves.get(server.id, ()) if m.id not in server.void]
        named = select.elsewhere(server.id, incident.host, migrations)
        named = tuple(h for h in named if h not in server.absent_at)
        if server.stage is ServerStage.WAITING and named:
            # safety: it may run on the other side of a move that never ended (S1)
            incident = turn.put_server(
                incident,
                server,
                f"{server.name or server.id} is not started: an unfinished migration names {', '.join(named)}",
                stage=ServerStage.HELD,
                wait_for=named,
                spawns=evacuate.spawning(turn, server, migrations),
                reason=f"an unfinished migration names {', '.join(named)}",
            )
        elif server.stage not in STAGES_DONE and server.stage is not ServerStage.HELD:
            incident = _start(turn, incident, server, rows.get(server.id))
    return incident


def restart_left(incident: Incident) -> bool:
    """Whether servers are remembered that were being started, or were to be as soon as somebody can say which."""
    if incident.restarting and not incident.servers:
        return True
    return any(s.stage is not ServerStage.VERIFIED for s in incident.servers)


def restart_again(turn: Turn, incident: Incident) -> Incident:
    """The host rebooted once more: whatever was started on it died with that boot."""
    begun = (ServerStage.STARTING, ServerStage.VERIFIED)
    lost = [s for s in incident.servers if not s.dest and (s.stage in begun or s.lost_until)]
    for server in lost:
        incident = turn.put_server(
            incident,
            server,
            stage=ServerStage.WAITING,
            looks=0,
            next_at=server.lost_until,  # a reboot whose answer was lost may yet come: of this boot it says nothing
            last_reboot=None,
            lost_until=0.0,
            reason="its host rebooted again",
        )
    if not lost:
        return incident
    settle_by = turn.now.at + turn.host_policy(incident.host).recovery.settle_after_s
    text = f"{some(len(lost), 'server')} died with the last boot, to be started again"
    return turn.go_to(turn.put(incident, settle_by=settle_by), Step.RESTART, text)


def _snapshot(row: Server, prior: str, unprotected: str, recovery: Recovery) -> ServerProgress:
    return ServerProgress(
        id=row.id,
        name=row.name,
        project_id=row.project_id,
        tags=row.tags,
        prior=prior,
        priority=select.priority(row, recovery.select),
        stage=ServerStage.NOT_MOVED if unprotected else ServerStage.WAITING,
        reason=unprotected,
    )


def _start(turn: Turn, incident: Incident, server: ServerProgress, row: Server | None) -> Incident:
    name = server.name or server.id
    if row is None:
        if server.looks + 1 < MISSING_LOOKS:
            return turn.put_server(incident, server, looks=server.looks + 1)
        why = "no longer on the host: moved or deleted by somebody else"
        return turn.put_server(incident, server, f"{name}: {why}", stage=ServerStage.NOT_MOVED, reason=why)
    if row.task_state:
        return turn.put_server(incident, server, reason=f"Nova is still {row.task_state}")
    if any(c.subject == server.id for c in incident.pending):
        return incident  # its request is not answered yet
    if server.stage is ServerStage.STARTING and row.status == "ACTIVE" and row.power_state in (None, 1):
        turn.tell("guest.recovery.end", incident, **_guest(server))
        return turn.put_server(incident, server, f"{name} runs again", stage=ServerStage.VERIFIED, reason="")
    if turn.now.at < server.next_at:
        return incident
    refusal = guards.may_act(turn.state, incident.host, turn.policy)
    if refusal is not None:
        turn.wake(incident, turn.now.at + LOOK_AGAIN_S)
        return turn.block(incident, refusal)
    incident = turn.unblock(incident)
    # What Nova lists as ACTIVE right after a reboot is a memory: the guest died with the last boot.
    kind = CommandKind.START if row.status == "SHUTOFF" else CommandKind.REBOOT
    if reboots.must_look(server, kind):
        return reboots.look(turn, incident, server)
    incident, _ = turn.send(incident, kind, server.id)
    turn.tell("guest.recovery.start", incident, **_guest(server))
    return turn.put_server(
        incident, server, f"{name} is started in place", stage=ServerStage.STARTING, next_at=turn.now.at + MEND_PAUSE_S
    )


def _guest(server: ServerProgress) -> dict[str, Any]:
    return {
        "server": server.id,
        "name": server.name,
        "project_id": server.project_id,
        "tags": list(server.tags),
        "prior": server.prior,
        "fault": "its host was gone",
    }
