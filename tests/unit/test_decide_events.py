"""What each kind of event touches, and what a new life of the controller asks again."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent.decide import next_wake
from ha_agent.model import (
    CommandKind,
    Finished,
    Incident,
    MachineSeen,
    Outcome,
    Phase,
    Resumed,
    ServerStage,
    State,
    Status,
    Step,
    Tick,
    WitnessesSeen,
)
from tests.unit.decide_support import NOW, after, asked, evacuating, incident, lines, on, proof, sent, server, told

replace = msgspec.structs.replace


@pytest.mark.parametrize(
    ("wake_at", "phase", "acts"),
    [
        (NOW, Phase.OPEN, True),
        (NOW - 1, Phase.OPEN, True),
        (NOW + 0.1, Phase.OPEN, False),
        (None, Phase.OPEN, False),
        (NOW, Phase.CLOSED, False),
    ],
)
def test_time_touches_what_is_due(wake_at: float | None, phase: Phase, acts: bool) -> None:
    decision = on(Tick(), incident(Step.FENCE, wake_at=wake_at, phase=phase))
    assert (sent(decision) == [CommandKind.FENCE]) is acts


def test_the_next_time_is_the_earliest_of_what_is_open() -> None:
    times = {"a": NOW + 3, "b": NOW + 2, "c": None}
    incidents = {k: incident(Step.FENCE, id=k, wake_at=at) for k, at in times.items()}
    assert next_wake(State(incidents=incidents)) == NOW + 2
    closed = {k: replace(i, phase=Phase.CLOSED) for k, i in incidents.items()}
    assert next_wake(State(incidents=closed)) is None


def test_which_machine_a_device_guards_is_learnt_once() -> None:
    first = on(MachineSeen(host="h1", device="bmc", machine="m1"), machine={"pdu": "m9"})
    assert first.state.hosts["h1"].machine == {"pdu": "m9", "bmc": "m1"}
    assert "bmc is machine m1" in lines(first)
    second = on(MachineSeen(host="h1", device="bmc", machine="m2"), machine={"bmc": "m1"})
    assert (second.state.hosts["h1"].machine, second.lines) == ({"bmc": "m1"}, ())


def test_who_reached_a_host_is_kept() -> None:
    assert on(WitnessesSeen(witnesses={"h1": ("h2",)})).state.hosts["h1"].witnesses == ("h2",)


@pytest.mark.parametrize("step", [Step.FENCE, Step.FORCE_DOWN])
@pytest.mark.parametrize(
    ("stage", "follows"),
    [(ServerStage.MOVING, True), (ServerStage.SENT, True), (ServerStage.HELD, False), (ServerStage.WAITING, False)],
)
def test_what_nova_was_asked_before_goes_on_while_the_host_is_fenced_again(
    step: Step, stage: ServerStage, follows: bool
) -> None:
    """Each step waits for its own command meanwhile."""
    evidence = proof() if step is Step.FORCE_DOWN else None
    kind = CommandKind.FENCE if step is Step.FENCE else CommandKind.FORCE_DOWN
    again = incident(step, evidence=evidence, committed_at=NOW - 50, servers=(server(stage),), wake_at=NOW)
    assert sent(on(Tick(), asked(again, kind))) == ([CommandKind.FOLLOW] if follows else [])


def test_no_other_step_follows_what_it_did_not_ask() -> None:
    back = incident(Step.UNFENCE, settled=True, forced=True, servers=(server(ServerStage.MOVING),), wake_at=NOW)
    assert sent(on(Tick(), asked(back, CommandKind.CLEAR_FORCE_DOWN))) == []


def test_an_answer_that_nobody_waits_for_changes_nothing() -> None:
    answer = Finished(outcome=Outcome(command="asked", status=Status.OK))
    closed = replace(asked(incident(Step.UNFENCE, forced=True), CommandKind.CLEAR_FORCE_DOWN), phase=Phase.CLOSED)
    for subject in (closed, incident(Step.UNFENCE, forced=True)):
        decision = on(answer, subject)
        assert (decision.state.incidents, decision.lines) == ({"i1": subject}, ())


@pytest.mark.parametrize(
    ("subject", "kind"),
    [
        (incident(Step.FENCE), CommandKind.FENCE),
        (incident(Step.FENCE), CommandKind.CANCEL_FENCE),
        (incident(Step.AWAIT_RETURN, evidence=proof(), settled=True), CommandKind.POWER_ON),
        (incident(Step.FENCE, evidence=proof(level=1, device="pdu")), CommandKind.READ_POWER),
    ],
)
def test_what_is_idempotent_is_asked_again_at_once_by_the_next_controller(subject: Incident, kind: CommandKind) -> None:
    """The last one's answer is unknown, which is no failure of the device."""
    decision = on(Resumed(epoch=2), asked(replace(subject, verdict_at=NOW, committed_at=NOW - 1), kind))
    asks = CommandKind.FENCE if kind is CommandKind.CANCEL_FENCE else kind
    assert [(c.kind, c.level, c.epoch) for c in decision.commands] == [(asks, 0, 2)]
    assert (after(decision).rounds, after(decision).level) == (0, 0)
    assert told(decision, "host.fence.error") == []
    assert f"{kind} is unknown: it is asked again" in lines(decision)


def test_every_lost_answer_of_one_incident_counts() -> None:
    servers = [server(ServerStage.SENT, n) for n in ("s1", "s2")]
    first = asked(evacuating(*servers), CommandKind.EVACUATE, subject="s1")
    second = replace(first.pending[0], id="other", subject="s2")
    decision = on(Resumed(epoch=2), replace(first, pending=(*first.pending, second)))
    assert [s.stage for s in after(decision).servers] == [ServerStage.LOST, ServerStage.LOST]
    assert decision.state.fleet.epoch == 2


def test_a_new_controller_confirms_a_verdict_before_it_fences_but_not_once_servers_move() -> None:
    assert sent(on(Resumed(epoch=2), incident(Step.FENCE))) == []
    assert sent(on(Resumed(epoch=2), incident(Step.FENCE, committed_at=NOW - 1))) == [CommandKind.FENCE]
    closed = replace(incident(Step.FENCE, committed_at=NOW - 1), phase=Phase.CLOSED)
    assert on(Resumed(epoch=2), closed).state.incidents == {"i1": closed}
