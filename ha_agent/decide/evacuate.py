"""FORCE_DOWN, ANNOUNCE, EVACUATE: tell Nova, tell everyone, and have the protected servers rebuilt elsewhere, a few at a time."""

from __future__ import annotations

from collections.abc import Iterable

from ha_agent import guards
from ha_agent.decide import fence
from ha_agent.decide.turn import Turn, evidence_data, summary
from ha_agent.model import (
    EVACUATION_LANDED,
    MIGRATION_ENDED,
    STAGES_DONE,
    STAGES_IN_FLIGHT,
    Command,
    CommandKind,
    Incident,
    Kind,
    Migration,
    Mode,
    Outcome,
    Phase,
    ServerProgress,
    ServerStage,
    Status,
    Step,
)
from ha_agent.policy import Recovery
from ha_agent.recovery import select

LOOK_AGAIN_S = 1.0
UNRECORDED_LOOKS = 2
TELL_NOVA_S = 10.0  # at the latest a host's flag is set again: everything waits for it, and it may be said twice
MOVED_OR_MOVING = frozenset({ServerStage.LANDED, ServerStage.STARTING, *STAGES_IN_FLIGHT})
NAMED = 20  # servers that stay, in lines of the log


def retry_pause(recovery: Recovery, attempts: int) -> float:
    """Seconds until the next attempt: doubling, bounded."""
    return min(recovery.retry_max_s, recovery.retry_min_s * float(2 ** min(max(attempts - 1, 0), 10)))


# --- FORCE_DOWN ---


def force_down(turn: Turn, incident: Incident) -> Incident:
    """S3: Nova is told only with evidence in hand."""
    policy = turn.host_policy(incident.host)
    if turn.pending(incident, CommandKind.FORCE_DOWN, CommandKind.CLEAR_FORCE_DOWN):
        return incident
    if not guards.evidence_holds(incident, policy, turn.now.at):
        return fence.revoke(turn, incident, "it aged before Nova was told")
    if incident.next_at > turn.now.at:
        turn.wake(incident, incident.next_at)
        return fence.upkeep(turn, incident)
    refusal = guards.may_act(turn.state, incident.host, turn.policy)
    if refusal is not None:
        turn.wake(incident, turn.now.at + LOOK_AGAIN_S)
        return fence.upkeep(turn, turn.block(incident, refusal))
    evidence = incident.evidence
    assert evidence is not None
    incident = turn.unblock(incident)
    if incident.mode is Mode.NOTIFY and incident.committed_at is None:
        incident = turn.put(incident, committed_at=turn.now.at)
    incident, _ = turn.send(
        turn.put(incident, forced=True),
        CommandKind.FORCE_DOWN,
        not_after=guards.expires_at(evidence, policy.fencing),
    )
    return incident


def forced_down(turn: Turn, incident: Incident, outcome: Outcome) -> Incident:
    """Setting the flag is idempotent: a lost answer is simply asked again."""
    if incident.step is not Step.FORCE_DOWN:
        return incident
    if outcome.status is Status.OK:
        incident = turn.mark(incident, "force_down")
        turn.tell("host.forced_down", incident, evidence=evidence_data(incident.evidence))
        return turn.next_step(incident, "Nova knows that the host is down (forced_down)")
    incident = turn.put(incident, rounds=incident.rounds + 1)
    pause = min(retry_pause(turn.host_policy(incident.host).recovery, incident.rounds), TELL_NOVA_S)
    incident = turn.put(incident, next_at=turn.now.at + pause)
    return turn.wait(incident, f"Nova could not be told: {outcome.error}")


# --- ANNOUNCE ---


def announce(turn: Turn, incident: Incident) -> Incident:
    """One notification; it never waits for anybody."""
    if not incident.announced:
        turn.tell(
            "host.down",
            incident,
            evidence=evidence_data(incident.evidence),
            forced_down=incident.forced,
            servers=summary(incident),
        )
        incident = turn.put(incident, announced=True, rounds=0)
    without = "" if incident.evidence is not None or Step.FENCE not in incident.plan else " (without evidence)"
    return turn.next_step(incident, f"announced{without}")


# --- EVACUATE ---


def run(turn: Turn, incident: Incident) -> Incident:
    """Look, then fill the window, then follow."""
    recovery = turn.host_policy(incident.host).recovery
    if incident.settled:
        return turn.next_step(incident, "settled before: nothing is moved any more")
    if incident.settle_by is None:
        incident = turn.put(
            incident, settle_by=turn.now.at + recovery.settle_after_s, window=float(recovery.window_min)
        )
        turn.tell("host.evacuation.start", incident, evidence=evidence_data(incident.evidence))
    if not incident.surveyed:
        incident = fence.upkeep(turn, incident)
        return look(turn, incident) if incident.step is Step.EVACUATE else incident
    incident = give_up(turn, incident)
    if all(s.stage in STAGES_DONE or s.stage in (ServerStage.LANDED, ServerStage.STARTING) for s in incident.servers):
        return turn.next_step(incident, f"no server is left to be moved: {count(incident)}")
    incident = fence.upkeep(turn, incident)
    if incident.step is not Step.EVACUATE:
        return incident
    incident = free_held(turn, incident)
    incident = launch(turn, incident)
    return follow(turn, incident)


def look(turn: Turn, incident: Incident) -> Incident:
    """One list of the host's servers, one of its migrations."""
    if turn.pending(incident, CommandKind.SURVEY):
        return incident
    if turn.now.at < incident.poll_at:
        turn.wake(incident, incident.poll_at)
        return incident
    incident, _ = turn.send(incident, CommandKind.SURVEY)
    return incident


def surveyed(turn: Turn, incident: Incident, outcome: Outcome) -> Incident:
    """Choose what is moved, or bring what was chosen up to date. A failed look-up changes nothing (S9)."""
    recovery = turn.host_policy(incident.host).recovery
    if outcome.status is not Status.OK or outcome.survey is None:
        incident = turn.put(incident, rounds=incident.rounds + 1)
        pause = retry_pause(recovery, incident.rounds)
        incident = turn.put(incident, poll_at=turn.now.at + pause)
        return turn.wait(incident, f"the host's servers cannot be listed: {outcome.error}")
    incident = turn.wait(incident, "")
    prior = _brought_here(turn)
    planned = select.plan(outcome.survey, incident.host, recovery, incident.servers)
    fresh = [s.with_(prior=prior[s.id]) if s.id in prior else s for s in planned]
    known = {s.id: s for s in incident.servers}
    first = incident.committed_at is None
    if first:  # nothing was sent yet: of an earlier plan only what the servers were is remembered
        servers = [s.with_(prior=known[s.id].prior or s.prior) if s.id in known else s for s in fresh]
    else:
        listed = {s.id for s in fresh}
        servers = [_merged(known[s.id], s) if s.id in known else s for s in fresh]
        records = select.newest(outcome.survey.migrations)
        servers += [_gone(s, records.get(s.id)) for s in incident.servers if s.id not in listed]
    moves = select.by_server(outcome.survey.migrations)
    servers = [s.with_(spawns=spawning(turn, s, moves.get(s.id, ()))) for s in servers]
    incident = turn.put(incident, surveyed=True, rounds=0, servers=tuple(servers), poll_at=turn.now.at)
    if first:
        incident = turn.put(incident, f"{some(len(servers), 'server')}: {count(incident)}")
        incident = name_left(turn, incident)
    return name_held(turn, incident, known)


def _brought_here(turn: Turn) -> dict[str, str]:
    """How servers were before: one that another failure's recovery has only just brought here is not yet so again. That recovery knows."""
    prior: dict[str, str] = {}
    for other in turn.incidents.values():
        if other.phase is not Phase.OPEN or other.kind is not Kind.HOST:
            continue
        for s in other.servers:
            if s.prior and s.stage in MOVED_OR_MOVING:
                prior.setdefault(s.id, s.prior)
    return prior


def name_left(turn: Turn, incident: Incident) -> Incident:
    """Every server that is not moved is named, with its reason; of very many the first ones here, all of them in the incident."""
    left = [s for s in incident.servers if s.stage is ServerStage.NOT_MOVED]
    for server in left[:NAMED]:
        incident = turn.put(incident, f"{server.name or server.id} stays: {server.reason}")
    if len(left) > NAMED:
        incident = turn.put(incident, f"{len(left) - NAMED} more stay, each with its reason in the incident")
    return incident


def name_held(turn: Turn, incident: Incident, known: dict[str, ServerProgress]) -> Incident:
    """Every server that has to wait from now on is named, with what it waits for and how to end that."""
    held = [s for s in incident.servers if s.stage is ServerStage.HELD]
    for server in [s for s in held if s.id not in known or known[s.id].stage is not ServerStage.HELD][:NAMED]:
        why = f"{server.reason} (to give it up: ha-agent release {incident.host})"
        incident = turn.put(incident, f"{server.name or server.id} is held: {why}")
    return incident


def _merged(old: ServerProgress, new: ServerProgress) -> ServerProgress:
    """A server that is still on the host: what we know of its past stays."""
    if old.stage is ServerStage.NOT_MOVED:
        return new.with_(prior=old.prior or new.prior)
    if old.stage not in (ServerStage.WAITING, ServerStage.RETRY):
        return old
    if new.stage is ServerStage.HELD:
        return old.with_(stage=ServerStage.HELD, wait_for=new.wait_for, reason=new.reason, baseline=new.baseline)
    # an ERROR after our own attempt is not the server's prior state, and no reason to leave it
    keep = new.stage is ServerStage.NOT_MOVED and old.attempts == 0
    return new.with_(prior=old.prior) if keep else old.with_(baseline=max(old.baseline, new.baseline))


def _gone(old: ServerProgress, record: Migration | None) -> ServerProgress:
    """A server that is on the host no more: landed by its record, or moved or deleted by somebody else. The survey lists servers first, so
    of one that has landed it has the record; of one that moves, only a deletion hides it."""
    deleted = old.stage is ServerStage.MOVING and (record is None or record.id <= old.baseline)
    if not deleted and old.stage not in (ServerStage.WAITING, ServerStage.RETRY, ServerStage.HELD):
        return old
    if record is not None and record.status in EVACUATION_LANDED:
        return old.with_(stage=ServerStage.LANDED, dest=record.dest, reason="", wait_for=())
    return old.with_(
        stage=ServerStage.NOT_MOVED, reason="it left the host meanwhile: moved or deleted by somebody else"
    )


def spawning(turn: Turn, server: ServerProgress, migrations: Iterable[Migration]) -> dict[str, tuple[int, str]]:
    """The unfinished evacuations of the server by their destinations, each with the boot in which it was first seen at work there."""
    found: dict[str, tuple[int, str]] = {}
    for m in sorted(migrations, key=lambda m: m.id):
        if m.server == server.id and m.kind == select.EVACUATION and m.dest and m.status not in MIGRATION_ENDED:
            known = server.spawns.get(m.dest)
            found[m.dest] = known if known is not None and known[0] == m.id else (m.id, turn.record(m.dest).boot_id)
    return found


def free_held(turn: Turn, incident: Incident) -> Incident:
    """S2: a server that another host may run waits until that host is proven off, or its remote reports the domain absent at two
    looks that lie the longest API request apart. Where it may still be at work on an evacuation, absence says nothing."""
    recovery = turn.host_policy(incident.host).recovery
    asked = {(c.subject, c.host) for c in turn.pending(incident, CommandKind.CHECK_ABSENT)}
    for server in [s for s in incident.servers if s.stage is ServerStage.HELD]:
        left = tuple(h for h in server.wait_for if not guards.proven_off(turn.state, h, turn.policy, turn.now.at))
        if not left:
            incident = turn.put_server(
                incident,
                server,
                f"{server.name or server.id} is free to be moved",
                stage=ServerStage.WAITING,
                wait_for=(),
                reason="",
            )
            continue
        if left != server.wait_for:
            incident = turn.put_server(incident, server, wait_for=left)
        if turn.now.at < server.next_at:
            turn.wake(incident, server.next_at)
            continue
        for host in left:
            if (server.id, host) not in asked and host != select.NOBODY_KNOWS:
                incident, _ = turn.send(incident, CommandKind.CHECK_ABSENT, server.id, host=host)
        current = turn.server(incident, server.id)
        incident = turn.put_server(
            incident, current, next_at=turn.now.at + max(recovery.poll_s, recovery.api_max_s / 4)
        )
        turn.wake(incident, turn.now.at + max(recovery.poll_s, recovery.api_max_s / 4))
    return incident


def absence(turn: Turn, incident: Incident, command: Command, outcome: Outcome) -> Incident:
    """A remote answered whether it has a domain."""
    recovery = turn.host_policy(incident.host).recovery
    server = next((s for s in incident.servers if s.id == command.subject), None)
    if server is None or command.host not in server.wait_for:
        return incident
    present = outcome.presence.present if outcome.status is Status.OK and outcome.presence is not None else None
    if present is not False:
        since = {h: at for h, at in server.absent_at.items() if h != command.host}
        says = "has it" if present else "cannot say whether it has it"
        return turn.put_server(incident, server, absent_at=since, reason=f"{command.host} {says}")
    _, boot = server.spawns.get(command.host, (0, None))
    if boot is not None and (not boot or turn.record(command.host).boot_id == boot):
        # safety: a rebuild defines the domain late; only a reboot ends the work that was begun before it (S1)
        return turn.put_server(incident, server, reason=f"{command.host} does not have it yet, and may still start it")
    first = server.absent_at.get(command.host)
    if first is None:
        return turn.put_server(incident, server, absent_at={**server.absent_at, command.host: turn.now.at})
    if turn.now.at - first < recovery.api_max_s:
        return incident
    return turn.put_server(incident, server, wait_for=tuple(h for h in server.wait_for if h != command.host))


def launch(turn: Turn, incident: Incident) -> Incident:
    """As many intents as the window has room for; each with evidence young enough (S2), one per server at a time."""
    policy = turn.host_policy(incident.host)
    in_flight = sum(s.stage in STAGES_IN_FLIGHT for s in incident.servers)
    ready = [s for s in incident.servers if s.stage is ServerStage.WAITING]
    for server in incident.servers:
        if server.stage is ServerStage.RETRY:
            if server.next_at <= turn.now.at:
                ready.append(server)
            else:
                turn.wake(incident, server.next_at)
    if not ready:
        return incident
    refusal = guards.may_act(turn.state, incident.host, turn.policy)
    if refusal is not None:
        turn.wake(incident, turn.now.at + LOOK_AGAIN_S)
        return turn.block(incident, refusal)
    incident = turn.unblock(incident)
    assert incident.evidence is not None
    end = guards.expires_at(incident.evidence, policy.fencing)
    for server in ready[: max(0, int(incident.window) - in_flight)]:
        if not guards.evidence_holds(incident, policy, turn.now.at):
            break
        if incident.committed_at is None:
            incident = turn.put(incident, committed_at=turn.now.at)
        incident = turn.mark(incident, "first_evacuate")
        incident, _ = turn.send(incident, CommandKind.EVACUATE, server.id, not_after=end, judged=server.baseline)
        incident = turn.put_server(
            incident,
            server,
            f"{server.name or server.id} is evacuated"
            + (f" (attempt {server.attempts + 1})" if server.attempts else ""),
            stage=ServerStage.SENT,
            attempts=server.attempts + 1,
            reason="",
        )
        turn.tell("server.evacuate.start", incident, **_server(server))
    return incident


def evacuated(turn: Turn, incident: Incident, command: Command, outcome: Outcome) -> Incident:
    """Nova's answer to one evacuate. It only says that the request was taken."""
    recovery = turn.host_policy(incident.host).recovery
    server = next((s for s in incident.servers if s.id == command.subject), None)
    if server is None or server.stage is not ServerStage.SENT:
        return incident
    if outcome.status is Status.OK:
        return turn.put_server(incident, server, stage=ServerStage.MOVING)
    if outcome.status is Status.LOST:
        return turn.put_server(
            incident,
            server,
            f"{server.name or server.id}: the answer was lost; looking again after {recovery.api_max_s:.0f} s",
            stage=ServerStage.LOST,
            reason=f"the answer was lost: {outcome.error}",
            next_at=turn.now.at + recovery.api_max_s,
        )
    return again(turn, incident, server, outcome.error)


def again(turn: Turn, incident: Incident, server: ServerProgress, reason: str) -> Incident:
    """An attempt failed: the window shrinks, the server is looked at anew and tried later."""
    recovery = turn.host_policy(incident.host).recovery
    pause = retry_pause(recovery, server.attempts)
    turn.tell("server.evacuate.error", incident, **_server(server), error=reason, retry_s=pause)
    turn.wake(incident, turn.now.at + pause)
    incident = turn.put(
        incident,
        surveyed=False,
        poll_at=max(incident.poll_at, turn.now.at + min(pause, recovery.poll_s)),
        window=max(float(recovery.window_min), incident.window / 2),
    )
    return turn.put_server(
        incident,
        server,
        f"{server.name or server.id} was not moved: {reason}; again in {pause:g} s",
        stage=ServerStage.RETRY,
        reason=reason,
        dest="",
        next_at=turn.now.at + pause,
    )


def follow(turn: Turn, incident: Incident) -> Incident:
    """One query for all servers in flight."""
    watched = [s for s in incident.servers if s.stage in STAGES_IN_FLIGHT or s.stage is ServerStage.HELD]
    if not watched or turn.pending(incident, CommandKind.FOLLOW):
        return incident
    if turn.now.at < incident.poll_at:
        turn.wake(incident, incident.poll_at)
        return incident
    incident, _ = turn.send(incident, CommandKind.FOLLOW)
    return incident


def followed(turn: Turn, incident: Incident, outcome: Outcome) -> Incident:
    """Judge every server in flight by its newest record."""
    recovery = turn.host_policy(incident.host).recovery
    incident = turn.put(incident, poll_at=turn.now.at + recovery.poll_s)
    turn.wake(incident, incident.poll_at)
    if outcome.status is not Status.OK or outcome.survey is None:
        return turn.wait(incident, f"the evacuations cannot be followed: {outcome.error}")
    incident = turn.wait(incident, "")
    records = select.newest(outcome.survey.migrations)
    landed = 0
    for server in incident.servers:
        record = records.get(server.id)
        if server.stage is ServerStage.HELD:
            incident = _followed_held(turn, incident, server, record)
            continue
        if server.stage not in STAGES_IN_FLIGHT:
            continue
        stage, reason, dest = select.judge(server, record)
        if stage is not None and stage is not ServerStage.LANDED and turn.now.at < server.next_at:
            # the answer was lost: whatever is found, nothing is sent again before the longest request is over (S9)
            turn.wake(incident, server.next_at)
            if dest:
                assert record is not None
                off = guards.proven_off(turn.state, dest, turn.policy, turn.now.at) and record.id not in server.void
                if off or dest != server.dest:
                    void = (*server.void, record.id) if off else server.void
                    spawns = spawning(turn, server, (record,))
                    incident = turn.put_server(incident, server, dest=dest, record=record.id, void=void, spawns=spawns)
            continue
        if stage is ServerStage.LANDED:
            landed += 1
            incident = turn.put_server(
                incident, server, f"{server.name or server.id} is on {dest}", stage=stage, reason="", dest=dest, looks=0
            )
        elif stage is ServerStage.RETRY:
            assert record is not None
            incident = again(turn, incident, server.with_(baseline=record.id), reason)
        elif stage is ServerStage.MOVING and server.stage is not ServerStage.SENT:
            assert record is not None
            if record.id in server.void or guards.proven_off(turn.state, dest, turn.policy, turn.now.at):
                void = (*(number for number in server.void if number != record.id), record.id)
                reason = f"its destination {dest} was proven off"
                incident = again(turn, incident, server.with_(baseline=record.id, void=void), reason)
            elif (stage, reason, dest, record.id) != (server.stage, server.reason, server.dest, server.record):
                spawns = spawning(turn, server, (record,))
                incident = turn.put_server(
                    incident, server, stage=stage, reason=reason, dest=dest, record=record.id, spawns=spawns
                )
        elif server.stage is ServerStage.LOST and turn.now.at >= server.next_at:
            incident = again(turn, incident, server, "its request left no record")
        elif server.stage is ServerStage.MOVING:
            incident = _unrecorded(turn, incident, server)
    if landed:
        window = min(float(recovery.window_max), incident.window + landed)
        # while servers land, those that wait for their turn are late and not lost
        incident = turn.put(incident, window=window, settle_by=turn.now.at + recovery.settle_after_s)
        turn.tell("host.evacuation.progress", incident, **counts(incident))
    return incident


def _followed_held(turn: Turn, incident: Incident, server: ServerProgress, record: Migration | None) -> Incident:
    """The record of a server that another host may run ended after all."""
    if record is not None and record.status in EVACUATION_LANDED and record.id >= server.baseline:
        return turn.put_server(incident, server, stage=ServerStage.LANDED, dest=record.dest, reason="", wait_for=())
    if record is not None and record.status in MIGRATION_ENDED and record.id == server.baseline:
        return turn.put_server(incident, server, stage=ServerStage.WAITING, reason="", wait_for=())
    return incident


def _unrecorded(turn: Turn, incident: Incident, server: ServerProgress) -> Incident:
    """Nova took the request, so there is a record of it: one that is not shown is hidden with its server, which somebody deleted. A list that
    was asked for before the request does not show it either, so it is believed at the second time; and then only looked at anew."""
    looks = server.looks + 1
    if looks < UNRECORDED_LOOKS and server.record <= server.baseline:
        return turn.put_server(incident, server, looks=looks)
    return turn.put_server(turn.put(incident, surveyed=False), server, looks=0)


def give_up(turn: Turn, incident: Incident) -> Incident:
    """After settle_after_s in which none landed, or an operator's release: what is not on its way stays where it is, and is named."""
    assert incident.settle_by is not None
    if turn.now.at < incident.settle_by and not incident.released:
        turn.wake(incident, incident.settle_by)
        return incident
    why = f"released by {incident.released}" if incident.released else "settle_after_s has passed"
    moving: list[str] = []
    for server in incident.servers:
        # a request that is under way is waited for: Nova may still carry it out
        if server.stage in STAGES_DONE or server.stage in (ServerStage.SENT, ServerStage.LANDED, ServerStage.STARTING):
            continue
        if server.stage is ServerStage.LOST and turn.now.at < server.next_at:
            continue
        # nothing is declared over by a time-out while it moves: slow is not failed, and only a person may know better
        if server.stage is ServerStage.MOVING and not incident.released:
            moving.append(f"{server.name or server.id} to {server.dest or 'a host that Nova has not chosen yet'}")
            continue
        reason = f"{why}; last: {server.reason or server.stage}"
        # safety: a move that is not known to have ended may still start it on its destination (S1)
        wait_for = (server.dest,) if server.dest else server.wait_for
        incident = turn.put_server(
            incident,
            server,
            f"{server.name or server.id} is given up: {reason}",
            stage=ServerStage.GIVEN_UP,
            dest="",
            wait_for=wait_for,
            reason=reason,
        )
    if moving:
        text = f"settle_after_s has passed, and Nova still moves {', '.join(moving[:3])}" + (" …" * (len(moving) > 3))
        incident = turn.block(incident, guards.Refusal(reason=text, release=f"ha-agent release {incident.host}"))
    return incident


def counts(incident: Incident) -> dict[str, int]:
    """Numbers for a progress bar: total to be moved, moved, in flight, waiting, not moved."""
    stages = [s.stage for s in incident.servers]
    left = sum(s in (ServerStage.NOT_MOVED, ServerStage.GIVEN_UP) for s in stages)
    moved = sum(s in (ServerStage.LANDED, ServerStage.STARTING, ServerStage.VERIFIED) for s in stages)
    flying = sum(s in STAGES_IN_FLIGHT for s in stages)
    return {
        "total": len(stages),
        "moved": moved,
        "in_flight": flying,
        "waiting": len(stages) - left - moved - flying,
        "not_moved": left,
    }


def some(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def count(incident: Incident) -> str:
    """The same in words."""
    n = counts(incident)
    parts = [f"{n[k]} {k.replace('_', ' ')}" for k in ("moved", "in_flight", "waiting", "not_moved") if n[k]]
    return ", ".join(parts) or "none"


def _server(server: ServerProgress) -> dict[str, object]:
    return {
        "server": server.id,
        "name": server.name,
        "project_id": server.project_id,
        "tags": list(server.tags),
        "attempt": server.attempts + (0 if server.stage is ServerStage.SENT else 1),
    }
