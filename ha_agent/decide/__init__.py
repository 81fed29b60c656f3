"""`decide(state, event, policy, now)`: everything that ha-agent does is decided here, without I/O, clock or randomness."""

from __future__ import annotations

from collections.abc import Callable

from ha_agent.decide import believe, comeback, evacuate, fence, guests, orders, reboots, verify
from ha_agent.decide.turn import FAR, LONG_AGO_S, Changed, Decision, Told, Turn
from ha_agent.model import (
    STAGES_IN_FLIGHT,
    AnyEvent,
    Beat,
    Command,
    CommandKind,
    Finished,
    GuestFault,
    Incident,
    Kind,
    MachineSeen,
    Now,
    Operator,
    Outcome,
    Paused,
    Phase,
    PowerRead,
    Resumed,
    State,
    Status,
    Step,
    Tick,
    VerdictGiven,
    WitnessesSeen,
)
from ha_agent.policy import Policy

__all__ = ["Changed", "Decision", "Told", "decide", "next_wake"]

# They change nothing, or idempotently: an unknown answer of another controller is no failure.
ASKED_AGAIN = frozenset(
    {
        CommandKind.FENCE,
        CommandKind.CANCEL_FENCE,
        CommandKind.POWER_ON,
        CommandKind.READ_POWER,
        CommandKind.LAST_REBOOT,
    }
)

Handler = Callable[[Turn, Incident], Incident]

HOST_STEPS: dict[Step, Handler] = {
    Step.FENCE: fence.run,
    Step.FORCE_DOWN: evacuate.force_down,
    Step.ANNOUNCE: evacuate.announce,
    Step.EVACUATE: evacuate.run,
    Step.VERIFY: verify.run,
    Step.SETTLE: verify.settle,
    Step.AWAIT_RETURN: comeback.await_return,
    Step.UNFENCE: comeback.unfence,
    Step.RESTART: comeback.restart,
}
GUEST_STEPS: dict[Step, Handler] = {
    Step.ANNOUNCE: guests.announce,
    Step.REBOOT: guests.reboot,
    Step.VERIFY: verify.run,
}


def decide(state: State, event: AnyEvent, policy: Policy, now: Now) -> Decision:
    """The new state and what is to be done about an event. Raises UsageError for an order that cannot be carried out; nothing is
    changed then. Raises nothing else: every event is answered in every state."""
    turn = Turn(state, policy, now)
    touched: set[str] = set()
    match event:
        case Tick():
            touched = {i.id for i in turn.incidents.values() if _due(i, now)}
        case VerdictGiven():
            believe.on_verdict(turn, event)
        case Beat():
            believe.on_beat(turn, event)
        case Finished():
            touched = _finished(turn, event.outcome)
        case Operator():
            orders.on_order(turn, event)
            touched = {i.id for i in turn.incidents.values() if i.phase is Phase.OPEN}
        case PowerRead():
            believe.on_power(turn, event)
        case MachineSeen():
            record = turn.record(event.host)
            if event.device not in record.machine:
                turn.put_host(event.host, machine={**record.machine, event.device: event.machine})
                turn.log(f"{event.host}: {event.device} is machine {event.machine}")
        case WitnessesSeen():
            for host, names in event.witnesses.items():
                turn.found(host, turn.host_policy(host).place, witnesses=names)
            for host, by_plane in event.over.items():
                turn.found(host, turn.host_policy(host).place, witnesses_over=by_plane)
        case GuestFault():
            guests.on_fault(turn, event)
        case Resumed():
            touched = _resumed(turn, event)
        case Paused():
            # S8: what was believed before the pause is believed again only when it is confirmed
            for incident in list(turn.incidents.values()):
                if incident.phase is Phase.OPEN and incident.committed_at is None:
                    turn.put(incident, verdict_at=now.at - LONG_AGO_S)
            turn.log(f"this process did not run for {event.gap_s:.1f} s: looking again before acting")
    touched |= turn.changed
    for key in sorted(touched, key=lambda k: (turn.incidents[k].opened_at, k)):  # oldest first
        advance(turn, turn.incidents[key])
    return turn.decision()


def next_wake(state: State) -> float | None:
    """Boottime seconds at which some incident wants a Tick."""
    times = [i.wake_at for i in state.incidents.values() if i.phase is Phase.OPEN and i.wake_at is not None]
    return min(times, default=None)


def _due(incident: Incident, now: Now) -> bool:
    return incident.phase is Phase.OPEN and incident.wake_at is not None and incident.wake_at <= now.at


def advance(turn: Turn, incident: Incident) -> None:
    """Walk as far as it goes now."""
    incident = turn.incidents[incident.id]
    turn.wakes.setdefault(incident.id, FAR)
    for _ in range(4 * len(Step)):
        if incident.phase is Phase.CLOSED:
            return
        if incident.step in (Step.FENCE, Step.FORCE_DOWN) and any(
            s.stage in STAGES_IN_FLIGHT for s in incident.servers
        ):
            incident = evacuate.follow(turn, incident)  # what Nova was asked before goes on meanwhile
        steps = GUEST_STEPS if incident.kind is Kind.GUEST else HOST_STEPS
        before = (incident.plan, incident.position)
        handler = orders.withdrawn if incident.withdrawn else steps[incident.step]
        incident = handler(turn, incident)
        if (incident.plan, incident.position) == before:
            return


def _finished(turn: Turn, outcome: Outcome) -> set[str]:
    """Hand an answer to whoever asked. An answer with an unknown id is dropped."""
    for incident in turn.incidents.values():
        command = next((c for c in incident.pending if c.id == outcome.command), None)
        if command is not None and incident.phase is Phase.OPEN:
            incident = turn.put(incident, pending=tuple(c for c in incident.pending if c.id != command.id))
            _answered(turn, incident, command, outcome)
            return {incident.id}
    return set()


def _answered(turn: Turn, incident: Incident, command: Command, outcome: Outcome) -> Incident:
    match command.kind:
        case CommandKind.FENCE:
            return fence.fenced(turn, incident, command, outcome)
        case CommandKind.CANCEL_FENCE:
            return fence.cancelled(turn, incident, outcome)
        case CommandKind.READ_POWER:
            return fence.reread(turn, incident, command, outcome)
        case CommandKind.FORCE_DOWN:
            return evacuate.forced_down(turn, incident, outcome)
        case CommandKind.SURVEY if incident.step is Step.RESTART:
            return comeback.restart_surveyed(turn, incident, outcome)
        case CommandKind.SURVEY if incident.step is Step.AWAIT_RETURN:
            return comeback.looked(turn, incident, outcome)
        case CommandKind.SURVEY if incident.step is Step.EVACUATE:
            return evacuate.surveyed(turn, incident, outcome)
        case CommandKind.FOLLOW:
            return evacuate.followed(turn, incident, outcome)
        case CommandKind.CHECK_ABSENT:
            return evacuate.absence(turn, incident, command, outcome)
        case CommandKind.EVACUATE:
            return evacuate.evacuated(turn, incident, command, outcome)
        case CommandKind.LIST_SERVERS if incident.step is Step.REBOOT:
            return guests.looked(turn, incident, outcome)
        case CommandKind.LIST_SERVERS:
            return verify.listed(turn, incident, command.hosts, outcome)
        case CommandKind.LAST_REBOOT:
            incident, known = reboots.looked_up(turn, incident, command.subject, outcome)
            return incident if known is None else _mended(turn, incident, command.subject, known)
        case CommandKind.REBOOT if outcome.status is Status.LOST:
            return reboots.lost(turn, incident, command.subject, outcome)
        case CommandKind.START | CommandKind.STOP | CommandKind.REBOOT:
            return _mended(turn, incident, command.subject, outcome)
        case CommandKind.POWER_ON:
            return comeback.powered_on(turn, incident, outcome)
        case CommandKind.OPEN_GATE:
            return comeback.gate_opened(turn, incident, command, outcome)
        case CommandKind.CLEAR_FORCE_DOWN:
            return comeback.cleared(turn, incident, outcome)
        case _:
            return incident


def _mended(turn: Turn, incident: Incident, subject: str, outcome: Outcome) -> Incident:
    incident = reboots.known(turn, incident, subject)
    if incident.step is Step.REBOOT:
        return guests.rebooted(turn, incident, outcome)
    return verify.mended(turn, incident, subject, outcome)


def _resumed(turn: Turn, event: Resumed) -> set[str]:
    """S7: every intent of the last controller has lost its answer."""
    turn.put_fleet(epoch=event.epoch)
    turn.log(f"leading since epoch {event.epoch}")
    turn.tell_controller("controller.leader")
    touched = set()
    for incident in list(turn.incidents.values()):
        if incident.phase is Phase.CLOSED:
            continue
        touched.add(incident.id)
        if incident.committed_at is None:
            incident = turn.put(incident, verdict_at=turn.now.at - LONG_AGO_S)
        for command in incident.pending:
            current = turn.incidents[incident.id]
            current = turn.put(current, pending=tuple(c for c in current.pending if c.id != command.id))
            if command.kind in ASKED_AGAIN:
                turn.put(current, f"what came of the last controller's {command.kind} is unknown: it is asked again")
                continue
            lost = Outcome(
                command=command.id, status=Status.LOST, error="the controller changed or restarted meanwhile"
            )
            _answered(turn, current, command, lost)
    return touched
