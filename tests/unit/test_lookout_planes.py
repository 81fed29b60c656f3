"""The lookout and hosts with several planes: whom it asks, over which planes they may deny, and what it remembers of that."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ha_agent.api import views
from ha_agent.cli.story import story
from ha_agent.metrics import Snapshot, render
from ha_agent.model import Answer, Verdict, WitnessesSeen
from ha_agent.planes import MANAGEMENT
from ha_agent.ports import Heartbeat, ProbeAnswered
from tests.unit.heartbeat_support import certificates
from tests.unit.test_lookout import Bench, keep_alive
from tests.unit.test_pki_cli import controller

SILENT, SIGNED, FAILED = Answer.SILENT, Answer.SIGNED, Answer.FAILED
EVERYWHERE = {MANAGEMENT: SIGNED, "storage": SIGNED}
NOWHERE = {MANAGEMENT: SILENT, "storage": SILENT}


def bench(**changes: object) -> Bench:
    return Bench(planes=("storage",), **changes)  # type: ignore[arg-type]


def asked_at(made: Bench, now_s: float) -> Bench:
    """h1 is silent, the others are heard."""
    made.now_s = now_s
    keep_alive(made, "h2", "h3", "h4")
    return made.at(now_s)


def said(made: Bench, over: dict[str, Answer], *names: str) -> None:
    """The current round is answered over each plane."""
    current = made.lookout.views["h1"].round
    assert current is not None
    word = next((a for a in (SIGNED, SILENT, FAILED) if a in over.values()), FAILED)
    for name in names or (*current.asked, current.own):
        made.see(ProbeAnswered(host="h1", at=made.now_s, witness=name, nonce=current.nonce, answer=word, over=over))


def test_this_controller_tries_too_where_there_are_planes() -> None:
    plain, planed = Bench(), bench()
    for made in (plain, planed):
        made.reach("h1", "h2", "h3", over=EVERYWHERE if made is planed else None)
        asked_at(made, 104.0)
    assert plain.asked() == ["h2", "h3"]
    assert planed.asked() == ["h2", "h3", "controller-1"]


def test_who_reached_it_over_a_plane_may_deny_that_plane() -> None:
    made = bench()
    made.reach("h1", "h2", over=EVERYWHERE)
    made.reach("h1", "h3", over={MANAGEMENT: SIGNED, "storage": FAILED})
    made.reach("h1", "h4", over={MANAGEMENT: SILENT, "storage": SIGNED})
    made.reach("h1", "controller-1", over=EVERYWHERE)  # it speaks for itself
    asked_at(made, 104.0)
    current = made.lookout.views["h1"].round
    assert current is not None
    assert current.speakers == {MANAGEMENT: ("h2", "h3"), "storage": ("h2", "h4")}


@pytest.mark.parametrize(("age_s", "counts"), [(299.0, True), (301.0, False)])
def test_a_plane_counts_as_long_as_it_was_seen_to_work(age_s: float, counts: bool) -> None:
    made = bench()
    made.now_s = 104.0 - age_s
    made.reach("h1", "h2", over=EVERYWHERE)
    made.now_s = 100.0
    made.reach("h1", "h2", over={MANAGEMENT: SIGNED, "storage": SILENT})
    asked_at(made, 104.0)
    current = made.lookout.views["h1"].round
    assert current is not None
    assert ("storage" in current.speakers) is counts
    assert made.lookout.planes_lost("h1") == (() if counts else ("storage",))


def test_down_on_every_plane_and_alive_on_any() -> None:
    for over, verdict in ((NOWHERE, Verdict.DOWN), ({**NOWHERE, "storage": SIGNED}, Verdict.PARTITIONED)):
        made = bench()
        made.reach("h1", "h2", "h3", over=EVERYWHERE)
        for at in (104.0, 106.0, 108.0):
            asked_at(made, at)
            said(made, over)
        asked_at(made, 110.0)
        asked_at(made, 110.3)
        assert made.lookout.views["h1"].verdict is verdict


def test_who_could_not_try_a_plane_is_asked_about_the_others_only() -> None:
    made = bench()
    made.reach("h1", "h2", "h3", over=EVERYWHERE)
    asked_at(made, 104.0)
    said(made, {MANAGEMENT: SILENT, "storage": FAILED}, "h2")
    said(made, NOWHERE, "h3")
    asked_at(made, 106.1)
    current = made.lookout.views["h1"].round
    assert current is not None
    assert current.speakers == {MANAGEMENT: ("h2", "h3"), "storage": ("h3",)}


def test_the_witnesses_of_planes_outlive_a_restart() -> None:
    made = bench()
    made.record("h1", witnesses=("h2",))
    made.reach("h1", "h2", over=EVERYWHERE)
    made.at(100.5)
    (told,) = [e for e in made.told if isinstance(e, WitnessesSeen)]
    assert told.over == {"h1": {"storage": ("h2",)}}
    made.record("h1", witnesses_over=told.over["h1"])
    made.reach("h1", "h2", over=EVERYWHERE)
    assert [e for e in made.at(101.5).told if isinstance(e, WitnessesSeen)] == [], "once"

    after = bench()
    after.record("h1", witnesses=("h2",), witnesses_over={"storage": ("h2",)})
    after.lookout.remember()
    asked_at(after, 104.0)
    current = after.lookout.views["h1"].round
    assert current is not None
    assert current.speakers == {MANAGEMENT: ("h2",), "storage": ("h2",)}


@pytest.mark.parametrize(
    ("noted", "storage", "at_once"),
    [
        ({"storage": ("h2",)}, SILENT, False),
        ({"storage": ("h2",)}, SIGNED, False),
        ({}, SILENT, False),
        ({}, SIGNED, True),
    ],
)
def test_the_first_who_reached_a_plane_is_noted_at_once(
    noted: dict[str, tuple[str, ...]], storage: Answer, at_once: bool
) -> None:
    """The others have time, over every plane as where there is one."""
    made = bench()
    made.record("h1", witnesses=("h2",), witnesses_over=noted)
    made.reach("h1", "h4", over={MANAGEMENT: SIGNED})
    made.reach("h1", "h3", over={MANAGEMENT: SIGNED, "storage": storage})
    told = [e for e in made.at(max(made.now_s, made.lookout._note_at)).told if isinstance(e, WitnessesSeen)]
    assert bool(told) is at_once


@pytest.mark.parametrize(("noted", "first_s"), [({"storage": ("h2",)}, 100.0), ({}, 1.0)])
def test_a_plane_that_the_journal_does_not_know_is_tried_soon(
    noted: dict[str, tuple[str, ...]], first_s: float
) -> None:
    made = bench(heard=False)
    made.record("h1", witnesses=("h2",), witnesses_over=noted)
    made.now_s = 200.0
    made.lookout.remember()
    assert made.lookout._probe_at["h1"] == 200.0 + first_s


def test_what_was_seen_is_not_replaced_by_what_the_journal_knows() -> None:
    made = bench()
    made.reach("h1", "h2", over=EVERYWHERE)
    made.record("h1", witnesses_over={"storage": ("h3",)})
    made.now_s = 200.0
    made.lookout.remember()
    assert made.lookout.over.over("h1", "storage") == {"h2": 100.0}
    assert made.lookout.over.over("h1", MANAGEMENT) == {}, "that is kept elsewhere, of every host"


def test_a_host_that_left_the_inventory_is_forgotten() -> None:
    made = bench()
    made.reach("h1", "h2", over=EVERYWHERE)
    rest = {name: host for name, host in made.policy.hosts.items() if name != "h1"}
    made.lookout.set_policy(msgspec.structs.replace(made.policy, hosts=rest))
    assert made.lookout.over.over("h1", "storage") == {}


def test_nothing_is_held_of_hosts_with_one_plane() -> None:
    made = Bench()
    made.reach("h1", "h2", "h3")
    assert made.lookout.over._at == {}
    assert made.lookout.planes_lost("h1") == ()


def test_a_plane_that_is_lost_is_noted_and_told(tmp_path: Path) -> None:
    """In status, its metric, and the story of the host."""
    made = controller(certificates("controller", "c"), planes=("storage", "tenant"))
    made.engine.start()
    made.engine.observe(Heartbeat(host="h", at=made.clock.now(), boot_id="b"))
    made.engine.observe(
        ProbeAnswered(host="h", at=made.clock.now(), witness="h2", nonce="-", answer=SIGNED, over=EVERYWHERE)
    )
    assert views.status(made).notes == ("no other host reaches h over tenant",)
    assert 'ha_agent_host_planes_lost{host="h"} 1.0' in render(Snapshot.of(made)).decode().splitlines()
    told = story(views.host(made, "h"))
    assert "  no other host reaches it over tenant" in told


def test_no_plane_of_a_host_that_was_never_heard_is_lost() -> None:
    assert bench(heard=False).lookout.planes_lost("h1") == ()
    assert Bench().lookout.planes_lost("h1") == (), "it has no others"
