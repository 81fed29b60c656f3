"""What an absent domain says: nothing while its host may be at work on an evacuation of it. Only that host's next boot ends such work."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent.model import CommandKind, Migration, Presence, Server, ServerProgress, ServerStage, Survey
from tests.unit.decide_support import NOW, after, answer, asked, evacuating, evacuation, server
from tests.unit.test_decide_evacuate import held

replace = msgspec.structs.replace
# in these states every host is known with the boot "old"


@pytest.mark.parametrize(
    ("spawns", "counts"),
    [
        ({}, True),  # a live migration: its source is dead, and makes nothing anywhere any more
        ({"h2": (7, "old")}, False),
        ({"h2": (7, "older")}, True),
        ({"h2": (7, "")}, False),
        ({"h3": (7, "old")}, True),
    ],
)
def test_an_absence_counts_only_when_nothing_can_follow_it(spawns: dict[str, tuple[int, str]], counts: bool) -> None:
    for first in ({}, {"h2": 1.0}):
        waiting = evacuating(held("h2", next_at=NOW + 99, absent_at=first, spawns=spawns))
        question = asked(waiting, CommandKind.CHECK_ABSENT, subject="s1", host="h2")
        now = after(answer(question, presence=Presence(present=False))).servers[0]
        if not counts:
            assert (now.wait_for, now.absent_at) == (("h2",), first)
            assert now.reason == "h2 does not have it yet, and may still start it"
        elif first:
            assert "h2" not in now.wait_for
        else:
            assert now.absent_at == {"h2": NOW}


def seen(known: ServerProgress, *records: Migration) -> dict[str, tuple[int, str]]:
    """What is remembered once the host was surveyed."""
    subject = asked(replace(evacuating(known), surveyed=False), CommandKind.SURVEY)
    rows = Survey(servers=(), migrations=records)
    return after(answer(subject, survey=rows)).servers[0].spawns


def test_the_boot_in_which_an_evacuation_was_first_seen_at_work_is_kept() -> None:
    on_its_way = server(ServerStage.MOVING, dest="h2", record=7)
    assert seen(on_its_way, evacuation("pre-migrating")) == {"h2": (7, "old")}
    earlier = on_its_way.with_(spawns={"h2": (7, "older")})
    assert seen(earlier, evacuation("pre-migrating")) == {"h2": (7, "older")}
    assert seen(earlier, evacuation("pre-migrating", number=8)) == {"h2": (8, "old")}, "another one, in this boot"
    assert seen(earlier, evacuation("error"), evacuation("accepted", 8, dest="")) == {}
    live = replace(evacuation("running"), kind="live-migration")
    assert seen(on_its_way, live, replace(evacuation("accepted"), server="s9")) == {}


@pytest.mark.parametrize("stage", [ServerStage.MOVING, ServerStage.LOST])
def test_it_is_kept_as_soon_as_nova_names_the_destination(stage: ServerStage) -> None:
    waiting = evacuating(server(stage, attempts=1, next_at=NOW + 9 if stage is ServerStage.LOST else 0.0))
    question = asked(waiting, CommandKind.FOLLOW)
    now = after(answer(question, survey=Survey(migrations=(evacuation("pre-migrating"),)))).servers[0]
    assert (now.dest, now.spawns) == ("h2", {"h2": (7, "old")})


def test_a_server_that_waits_knows_whom_it_waits_for() -> None:
    listed = Survey(
        servers=(Server(id="s1", host="h1", status="ACTIVE", tags=("automatic-recovery",), local_disk=False),),
        migrations=(evacuation("pre-migrating"),),
    )
    subject = asked(replace(evacuating(), servers=(), surveyed=False, committed_at=None), CommandKind.SURVEY)
    now = after(answer(subject, survey=listed)).servers[0]
    assert (now.stage, now.wait_for, now.spawns) == (ServerStage.HELD, ("h2",), {"h2": (7, "old")})
