"""VERIFY and SETTLE: each moved server is in its prior state on another host; then nothing of the dead host moves any more."""

from __future__ import annotations

from ha_agent import guards
from ha_agent.decide import reboots
from ha_agent.decide.evacuate import LOOK_AGAIN_S, count, counts, retry_pause
from ha_agent.decide.reboots import MEND_PAUSE_S
from ha_agent.decide.turn import Turn, evidence_data, summary
from ha_agent.model import (
    CommandKind,
    Incident,
    Kind,
    Outcome,
    Server,
    ServerProgress,
    ServerStage,
    Status,
    Step,
)

MISSING_LOOKS = 3  # a server that complete listings of its destination lack this often is not there
SHUTDOWN, CRASHED = 4, 6  # of OS-EXT-STS:power_state


def run(turn: Turn, incident: Incident) -> Incident:
    """One list per destination, until each landed server was seen in its prior state."""
    landed = [s for s in incident.servers if s.stage in (ServerStage.LANDED, ServerStage.STARTING)]
    if not landed:
        return turn.next_step(incident, _outcome(incident))
    if turn.pending(incident, CommandKind.LIST_SERVERS):
        return incident
    looked = bool(incident.poll_at)  # nobody is given up without one look
    if _late(turn, incident) and looked:
        owed = _owed(turn, incident, landed)
        for server in landed:
            if server.id in owed:
                continue
            why = server.reason or "not verified in time"
            incident = turn.put_server(
                incident,
                server,
                f"{server.name or server.id} is given up: {why}",
                stage=ServerStage.GIVEN_UP,
                reason=why,
            )
        if not owed:
            return turn.next_step(incident, _outcome(incident))
    if turn.now.at < incident.poll_at:
        turn.wake(incident, incident.poll_at)
        return incident
    hosts = tuple(sorted({s.dest or incident.host for s in landed}))
    incident, _ = turn.send(incident, CommandKind.LIST_SERVERS, hosts=hosts)
    return incident


def _outcome(incident: Incident) -> str:
    """In words: what was moved, what was started in place, or how the one guest is that was rebooted."""
    if Step.EVACUATE in incident.plan:
        return f"verified: {count(incident)}"
    again = [s for s in incident.servers if s.stage is ServerStage.VERIFIED]
    if incident.kind is Kind.HOST:
        return f"{len(again)} run again"
    return "rebooted: it runs again" if again else f"not verified: {incident.servers[0].reason}"


def _owed(turn: Turn, incident: Incident, landed: list[ServerProgress]) -> frozenset[str]:
    """Servers that something was sent for a short while ago: what comes of it is still looked at, and nothing is sent again."""
    asked = {c.subject for c in incident.pending}
    return frozenset(
        s.id for s in landed if s.id in asked or (s.stage is ServerStage.STARTING and turn.now.at < s.next_at)
    )


def _late(turn: Turn, incident: Incident) -> bool:
    return incident.settle_by is not None and (turn.now.at >= incident.settle_by or bool(incident.released))


def listed(turn: Turn, incident: Incident, hosts: tuple[str, ...], outcome: Outcome) -> Incident:
    """Compare what Nova lists with what each server was before."""
    recovery = turn.host_policy(incident.host).recovery
    incident = turn.put(incident, poll_at=turn.now.at + recovery.poll_s)
    turn.wake(incident, incident.poll_at)
    if outcome.status is not Status.OK or outcome.survey is None:
        return turn.wait(incident, f"the moved servers cannot be listed: {outcome.error}")
    incident = turn.wait(incident, "")
    rows = {s.id: s for s in outcome.survey.servers}
    for server in incident.servers:
        if server.stage not in (ServerStage.LANDED, ServerStage.STARTING):
            continue
        if (server.dest or incident.host) not in hosts:
            continue
        incident = judge(turn, incident, server, rows.get(server.id))
    return incident


def judge(turn: Turn, incident: Incident, server: ServerProgress, row: Server | None) -> Incident:
    """One server: verified, mended, or waited for."""
    name, there = server.name or server.id, server.dest or incident.host
    if row is None:
        looks = server.looks + 1
        if looks < MISSING_LOOKS:
            return turn.put_server(incident, server, looks=looks, reason=f"not listed on {there} yet")
        why = f"no longer on {there}: moved on or deleted by somebody else"
        return turn.put_server(incident, server, f"{name}: {why}", stage=ServerStage.NOT_MOVED, reason=why)
    if row.task_state:
        return turn.put_server(incident, server, reason=f"Nova is still {row.task_state}")
    wanted = server.prior if server.prior in ("ACTIVE", "SHUTOFF") else row.status
    if row.status == wanted and row.status in ("ACTIVE", "SHUTOFF") and not without_power(row):
        if incident.kind is Kind.HOST and server.dest:
            turn.tell(
                "server.evacuate.end",
                incident,
                server=server.id,
                name=server.name,
                project_id=server.project_id,
                tags=list(server.tags),
                dest=server.dest,
                prior=server.prior,
                attempt=server.attempts,
            )
        where = f"is {row.status} on {row.host}"
        return turn.put_server(incident, server, f"{name} {where}", stage=ServerStage.VERIFIED, reason="")
    return mend(turn, incident, server, row, wanted)


def without_power(row: Server) -> bool:
    """Nova calls it ACTIVE, and knows that its guest does not run: somebody has set its state by hand."""
    return row.status == "ACTIVE" and row.power_state in (SHUTDOWN, CRASHED)


def mend(turn: Turn, incident: Incident, server: ServerProgress, row: Server, wanted: str) -> Incident:
    """Bring a landed server to its prior state; each attempt at most every MEND_PAUSE_S."""
    name = server.name or server.id
    state = f"{row.status} without power" if without_power(row) else row.status
    incident = turn.put_server(incident, server, reason=f"it is {state}, it was {server.prior}")
    current = turn.server(incident, server.id)
    if turn.now.at < server.next_at or any(c.subject == server.id for c in incident.pending):
        return incident
    if server.stage is ServerStage.STARTING and _late(turn, incident):
        return incident
    refusal = guards.may_act(turn.state, incident.host, turn.policy)
    if refusal is not None:
        turn.wake(incident, turn.now.at + LOOK_AGAIN_S)
        return turn.block(incident, refusal)
    kind = CommandKind.START if wanted == "ACTIVE" else CommandKind.STOP
    if row.status not in ("ACTIVE", "SHUTOFF") or without_power(row):
        kind = CommandKind.REBOOT  # Nova starts only what it calls SHUTOFF
    if reboots.must_look(current, kind):
        return reboots.look(turn, incident, current)
    incident, _ = turn.send(incident, kind, server.id)
    return turn.put_server(
        incident,
        current,
        f"{name} is {state}, it was {server.prior}: {kind} is sent",
        stage=ServerStage.STARTING,
        next_at=turn.now.at + MEND_PAUSE_S,
    )


def mended(turn: Turn, incident: Incident, subject: str, outcome: Outcome) -> Incident:
    """The answer to a start, stop or reboot: only looked at for its error; the list says how the server is."""
    server = next((s for s in incident.servers if s.id == subject), None)
    if server is None or outcome.status is Status.OK:
        return incident
    # What Nova lists may be older than the failure: the server is not believed to run before a request was taken.
    recovery = turn.host_policy(incident.host).recovery
    pause = retry_pause(recovery, 1)
    if outcome.status is Status.LOST and _late(turn, incident):
        pause = max(pause, recovery.api_max_s)  # S9: until then it may still come about
    stage = ServerStage.WAITING if incident.step is Step.RESTART else server.stage
    turn.wake(incident, turn.now.at + pause)
    return turn.put_server(
        incident,
        server,
        reason=f"it could not be brought to {server.prior}: {outcome.error}",
        stage=stage,
        next_at=turn.now.at + pause,
    )


def settle(turn: Turn, incident: Incident) -> Incident:
    """From here on no evacuate intent is written; heartbeats are expected again (S2b)."""
    incident = turn.mark(turn.put(incident, settled=True), "settled")
    for server in incident.servers:
        if server.stage in (ServerStage.NOT_MOVED, ServerStage.GIVEN_UP):
            turn.tell(
                "server.not_moved",
                incident,
                server=server.id,
                name=server.name,
                project_id=server.project_id,
                tags=list(server.tags),
                why=server.reason,
            )
    turn.tell(
        "host.evacuation.end",
        incident,
        evidence=evidence_data(incident.evidence),
        servers=summary(incident),
        **counts(incident),
    )
    return turn.next_step(incident, f"settled: {count(incident)}")
