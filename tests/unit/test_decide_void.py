"""A destination that was proven off while a server moved there: nothing starts the server there any more, also when the host is back."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent.model import (
    CommandKind,
    Incident,
    Operator,
    Order,
    Server,
    ServerProgress,
    ServerStage,
    Step,
    Survey,
    Verdict,
)
from ha_agent.plans import RESTART
from ha_agent.policy import Recovery, Select
from ha_agent.recovery import select
from tests.unit.decide_support import (
    NOW,
    after,
    answer,
    asked,
    evacuating,
    evacuation,
    incident,
    off,
    sent,
    server,
    turn,
)

ON_ITS_WAY = server(ServerStage.MOVING, dest="h2", record=7, attempts=1)
LISTED = Server(id="s1", name="s1", host="h1", status="ACTIVE")


def other(subject: Incident) -> Incident:
    """The incident of h1, beside one of h2 that is called i1."""
    return msgspec.structs.replace(subject, id="i2")


def fencing_h2() -> Incident:
    return asked(incident(Step.FENCE, host="h2", subject="h2"), CommandKind.FENCE, subject="h2", host="h2")


@pytest.mark.parametrize(
    ("moving", "void"),
    [
        (ON_ITS_WAY, (7,)),
        (ON_ITS_WAY.with_(stage=ServerStage.LOST), (7,)),
        (ON_ITS_WAY.with_(void=(3,)), (3, 7)),
        (ON_ITS_WAY.with_(void=(7,)), (7,)),
        (ON_ITS_WAY.with_(dest="h3"), ()),
        (ON_ITS_WAY.with_(record=0), ()),
        (ON_ITS_WAY.with_(stage=ServerStage.LANDED), ()),
    ],
)
def test_the_proof_is_remembered_for_what_moved_there(moving: ServerProgress, void: tuple[int, ...]) -> None:
    one = other(evacuating(moving))
    proven = answer(fencing_h2(), others=(one,), readings=(off(NOW - 1), off(NOW)))
    assert proven.state.incidents["i2"].servers[0].void == void
    word = Operator(order=Order.CONFIRM_FENCED, actor="anna", host="h2")
    confirmed = turn(msgspec.structs.replace(fencing_h2(), pending=()), word, others=(one,))
    assert confirmed.state.incidents["i2"].servers[0].void == void


def test_a_closed_incident_and_its_own_learn_nothing() -> None:
    own = msgspec.structs.replace(fencing_h2(), servers=(ON_ITS_WAY,))
    assert after(answer(own, readings=(off(NOW - 1), off(NOW)))).servers[0].void == ()


@pytest.mark.parametrize(("stage", "fields"), [(ServerStage.MOVING, {}), (ServerStage.LOST, {"next_at": NOW})])
def test_it_is_moved_again_although_its_destination_is_back(stage: ServerStage, fields: dict[str, float]) -> None:
    one = ON_ITS_WAY.with_(stage=stage, void=(3, 7), **fields)
    survey = Survey(migrations=(evacuation("pre-migrating"),))
    now = after(answer(asked(evacuating(one), CommandKind.FOLLOW), survey=survey)).servers[0]
    assert (now.stage, now.baseline, now.void) == (ServerStage.RETRY, 7, (3, 7))
    assert now.reason == "its destination h2 was proven off"


def test_what_landed_before_the_proof_has_landed() -> None:
    one = ON_ITS_WAY.with_(void=(7,))
    survey = Survey(migrations=(evacuation("done"),))
    assert after(answer(asked(evacuating(one), CommandKind.FOLLOW), survey=survey)).servers[0].stage is (
        ServerStage.LANDED
    )


@pytest.mark.parametrize(("void", "stage"), [((7,), ServerStage.WAITING), ((6,), ServerStage.HELD)])
def test_it_holds_nothing_back(void: tuple[int, ...], stage: ServerStage) -> None:
    recovery = Recovery(shared_storage=True, select=Select(all=True))
    survey = Survey(servers=(LISTED,), migrations=(evacuation("pre-migrating"),))
    assert select.plan(survey, "h1", recovery, (server(ServerStage.RETRY, void=void),))[0].stage is stage
    assert select.plan(survey, "h1", recovery, (server(ServerStage.RETRY, "s2", void=void),))[0].stage is (
        ServerStage.HELD
    )


@pytest.mark.parametrize(("void", "open_now"), [((7,), True), ((6,), False)])
def test_the_gate_does_not_wait_for_it(void: tuple[int, ...], open_now: bool) -> None:
    given_up = server(ServerStage.GIVEN_UP, void=void)
    back = incident(Step.AWAIT_RETURN, settled=True, new_boot_id="new", servers=(given_up,))
    survey = Survey(servers=(LISTED,), migrations=(evacuation("pre-migrating"),))
    decision = answer(asked(back, CommandKind.SURVEY), survey=survey)
    assert (CommandKind.OPEN_GATE in sent(decision)) is open_now


@pytest.mark.parametrize(("void", "stage"), [((7,), ServerStage.STARTING), ((6,), ServerStage.HELD)])
def test_it_does_not_keep_the_server_from_a_start_in_place(void: tuple[int, ...], stage: ServerStage) -> None:
    back = incident(
        Step.RESTART,
        RESTART,
        verdict=Verdict.REBOOTED,
        surveyed=True,
        new_boot_id="new",
        cleared_boot_id="new",
        settle_by=NOW + 100,
        servers=(server(ServerStage.WAITING, void=void),),
    )
    survey = Survey(servers=(LISTED,), migrations=(evacuation("pre-migrating"),))
    assert after(answer(asked(back, CommandKind.SURVEY), survey=survey)).servers[0].stage is stage
