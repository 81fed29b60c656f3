"""A hard reboot is sent once: the newest one is looked up before it, and again where its answer was lost.

Nova takes a hard reboot at any time and resets the guest once more; a list of servers does not tell whether it was taken. Its list of a
server's actions does: a reboot that was not there before is ours, or another one that did the same to the guest meanwhile.
"""

from __future__ import annotations

from ha_agent.decide.evacuate import retry_pause
from ha_agent.decide.turn import Turn
from ha_agent.model import CommandKind, Incident, Outcome, ServerProgress, ServerStage, Status, Step

MEND_PAUSE_S = 30.0
SENDERS = frozenset({Step.REBOOT, Step.RESTART, Step.VERIFY})
NO_RECORD = "its request left no record"


def must_look(server: ServerProgress, kind: CommandKind) -> bool:
    """Whether the newest reboot is to be looked up before a command of this kind: none without a look before it, and nothing at all
    while it is unknown what came of the last one."""
    return bool(server.lost_until) or (kind is CommandKind.REBOOT and server.last_reboot is None)


def look(turn: Turn, incident: Incident, server: ServerProgress) -> Incident:
    """Ask for the newest reboot."""
    incident, _ = turn.send(incident, CommandKind.LAST_REBOOT, server.id)
    return incident


def lost(turn: Turn, incident: Incident, subject: str, outcome: Outcome) -> Incident:
    """The answer to a reboot was lost: it is looked for, and until the longest request is over nothing is sent again (S9)."""
    server = _server(incident, subject)
    if server is None or incident.step not in SENDERS:
        return incident
    until = turn.now.at + turn.host_policy(incident.host).recovery.api_max_s
    known = server.last_reboot is not None  # else there is nothing to compare with: it is only waited out
    return turn.put_server(
        incident,
        server,
        f"{server.name or server.id}: the answer to its reboot was lost; looking whether Nova took it",
        stage=ServerStage.WAITING if incident.step is Step.RESTART else server.stage,
        reason=f"the answer to its reboot was lost: {outcome.error}",
        lost_until=until if known else 0.0,
        next_at=turn.now.at if known else until,
    )


def looked_up(turn: Turn, incident: Incident, subject: str, outcome: Outcome) -> tuple[Incident, Outcome | None]:
    """The newest reboot, or that it could not be looked up. With what came of the reboot whose answer was lost, once that is known."""
    server = _server(incident, subject)
    if server is None or incident.step not in SENDERS:
        return incident, None
    if outcome.status is not Status.OK:
        return _failed(turn, incident, server, outcome.error), None
    if not server.lost_until:
        # what was listed before this look is old by now
        incident = turn.put(incident, poll_at=min(incident.poll_at, turn.now.at))
        return turn.put_server(incident, server, last_reboot=outcome.last_reboot), None
    if outcome.last_reboot not in ("", server.last_reboot):
        starting = incident.step is Step.RESTART
        incident = turn.put_server(
            incident,
            server,
            f"{server.name or server.id}: Nova took the reboot whose answer was lost",
            stage=ServerStage.STARTING if starting else server.stage,
            reason="",
            next_at=turn.now.at + MEND_PAUSE_S,
        )
        return incident, Outcome(command=outcome.command, status=Status.OK)
    if server.next_at < server.lost_until:  # asked before the longest request was over: it may still come
        recovery = turn.host_policy(incident.host).recovery
        pause = max(recovery.poll_s, recovery.api_max_s / 4)
        return turn.put_server(incident, server, next_at=min(server.lost_until, turn.now.at + pause)), None
    return incident, Outcome(command=outcome.command, status=Status.FAILED, error=NO_RECORD)


def known(turn: Turn, incident: Incident, subject: str) -> Incident:
    """What came of the last request is known: the next reboot gets a look of its own."""
    server = _server(incident, subject)
    if server is None:
        return incident
    return turn.put_server(incident, server, last_reboot=None, lost_until=0.0)


def _failed(turn: Turn, incident: Incident, server: ServerProgress, error: str) -> Incident:
    """Unknown: asked again later, and nothing is sent meanwhile (S9)."""
    at = turn.now.at + retry_pause(turn.host_policy(incident.host).recovery, 1)
    text = f"its reboots cannot be looked up: {error}"
    if incident.step is Step.REBOOT:  # it may be gone: its host is asked first
        incident = turn.put(incident, rounds=incident.rounds + 1, next_at=at)
    turn.wake(incident, at)
    line = f"{server.name or server.id}: {text}" if server.reason != text else ""
    return turn.put_server(incident, server, line, reason=text, next_at=at)


def _server(incident: Incident, subject: str) -> ServerProgress | None:
    return next((s for s in incident.servers if s.id == subject), None)
