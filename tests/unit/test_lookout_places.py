"""The lookout and hosts that are somewhere else by now: what was heard or reached at another place says nothing of this one (S5)."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent.decide import decide
from ha_agent.model import Answer, ComputeService, HostRecord, Now, State, Verdict, WitnessesSeen
from ha_agent.planes import MANAGEMENT
from ha_agent.policy import HostPolicy, Policy
from ha_agent.ports import Disconnected, NovaSeen, ProbeAnswered
from tests.unit.test_lookout import Bench, keep_alive

replace = msgspec.structs.replace
EVERYWHERE = {MANAGEMENT: Answer.SIGNED, "storage": Answer.SIGNED}


def put(bench: Bench, **places: str | None) -> None:
    """A reload: these hosts are there now; None: in no place at all."""
    hosts = dict(bench.policy.hosts)
    for host, place in places.items():
        if place is None:
            hosts.pop(host)
        else:
            hosts[host] = replace(hosts.get(host, hosts["h2"]), name=host, place=place)
    bench.policy = replace(bench.policy, hosts=hosts)
    bench.lookout.set_policy(bench.policy)


def reached(**changes: object) -> Bench:
    """Every host is at a place that is called like it, and the others reached h1 there."""
    bench = Bench(**changes)  # type: ignore[arg-type]
    put(bench, **{h: f"place of {h}" for h in bench.policy.hosts})
    bench.now_s = 120.0  # what was asked before that has come
    keep_alive(bench, *bench.policy.hosts)
    bench.reach("h1", "h2", "h3", "h4", over=EVERYWHERE if changes.get("planes") else None)
    bench.at(120.5)
    noted(bench)
    return bench


def noted(bench: Bench) -> None:
    """What is told of witnesses is journalled."""
    for event in bench.told:
        if isinstance(event, WitnessesSeen):
            bench.state = decide(bench.state, event, bench.policy, Now(at=bench.now_s, wall=0.0)).state


def judged(bench: Bench) -> tuple[Verdict, str]:
    """h1 is silent from now on, and whoever is asked denies it."""
    start = bench.now_s
    for n in range(80):
        bench.now_s = start + n / 4
        keep_alive(bench, "h2", "h3", "h4")
        bench.at(bench.now_s)
        current = bench.lookout.views["h1"].round
        if current is not None:
            bench.answer(*[Answer.SILENT] * len(current.asked))
    view = bench.lookout.views["h1"]
    return view.verdict, view.reason


def restarted(bench: Bench) -> Bench:
    """A controller that finds the same journal and the same inventory."""
    after = Bench(heard=False)
    after.now_s = bench.now_s
    after.state, after.policy = bench.state, bench.policy
    after.lookout.views.clear()
    after.lookout.set_policy(after.policy)
    after.lookout.remember()
    return after


def test_who_reached_a_host_where_it_is_may_deny_it() -> None:
    """And the journal knows the place."""
    bench = reached()
    assert bench.state.hosts["h1"].place == "place of h1"
    assert bench.state.hosts["h1"].witnesses == ("h2", "h3", "h4")
    assert judged(bench)[0] is Verdict.DOWN
    assert judged(restarted(reached()))[0] is Verdict.DOWN


@pytest.mark.parametrize("witnesses_min", [0, 1])
def test_nobody_may_deny_a_host_at_an_address_where_it_never_was(witnesses_min: int) -> None:
    """By a reload, or by a restart; even where no witness is asked for."""
    bench = reached(witnesses_min=witnesses_min)
    put(bench, h1="nowhere")
    assert bench.lookout.reached.get("h1") is None
    for made in (bench, restarted(bench)):
        verdict, reason = judged(made)
        assert verdict is Verdict.UNKNOWN
        assert "neither heard nor reached at its present address" in reason


@pytest.mark.parametrize(("place", "verdict"), [("place of h1", Verdict.HUNG), ("nowhere", Verdict.UNKNOWN)])
def test_another_machine_that_answers_at_that_address_is_not_the_host_that_hangs(place: str, verdict: Verdict) -> None:
    bench = reached(hung_patience_s=2.0)
    put(bench, h1=place)
    row = ComputeService(id="1", host="h1", state="up", status="enabled", updated_at="then")
    for n in range(60):
        bench.now_s = 120.5 + n / 4
        keep_alive(bench, "h2", "h3", "h4")
        bench.at(bench.now_s)
        moves = replace(row, host="h2", updated_at=str(n))  # Nova hears others
        bench.see(NovaSeen(host="h2", at=bench.now_s, service=moves))
        bench.see(NovaSeen(host="h1", at=bench.now_s, service=row))
        bench.see(Disconnected(host="h1", at=bench.now_s, answered=True))
    assert bench.lookout.views["h1"].verdict is verdict


def test_a_suspicion_begins_anew_at_another_address() -> None:
    bench = reached()
    bench.now_s = 125.0
    keep_alive(bench, "h2", "h3", "h4")
    bench.at(125.0)
    bench.answer(Answer.SILENT, Answer.SILENT, Answer.SILENT)
    assert bench.lookout.views["h1"].suspect_at == 125.0
    put(bench, h1="elsewhere")
    view = bench.lookout.views["h1"]
    assert (view.window_at, view.suspect_at, view.round, view.judged) == (125.0, None, None, None)
    assert bench.at(128.9).verdicts() == []
    assert bench.lookout.next_at() == pytest.approx(129.0)


def test_a_host_that_was_heard_and_reached_at_its_new_address_can_be_denied_there() -> None:
    bench = reached()
    put(bench, h1="new")
    bench.now_s = 130.0
    keep_alive(bench, *bench.policy.hosts)
    bench.reach("h1", "h3")
    bench.at(130.5)
    noted(bench)
    assert (bench.state.hosts["h1"].place, bench.state.hosts["h1"].witnesses) == ("new", ("h3",))
    assert judged(restarted(bench))[0] is Verdict.DOWN
    assert judged(bench)[0] is Verdict.DOWN


def test_an_address_that_is_put_right_has_its_witnesses_again() -> None:
    """From the journal, which knows no other place."""
    bench = reached()
    put(bench, h1="nowhere")
    assert judged(bench)[0] is Verdict.UNKNOWN
    put(bench, h1="place of h1")
    assert set(bench.lookout.reached["h1"]) == {"h2", "h3", "h4"}
    assert judged(bench)[0] is Verdict.DOWN


@pytest.mark.parametrize(("place", "verdict"), [("place of h1", Verdict.DOWN), ("nowhere", Verdict.UNKNOWN)])
def test_a_host_that_left_and_is_added_again(place: str, verdict: Verdict) -> None:
    bench = reached()
    put(bench, h1=None)
    assert "h1" not in bench.lookout.reached
    put(bench, h1=place)
    assert judged(bench)[0] is verdict


@pytest.mark.parametrize(("late_s", "counts"), [(6.4, False), (6.6, True)])
def test_an_answer_from_the_old_address_does_not_count(late_s: float, counts: bool) -> None:
    """It may come as late as its time-out after the reload, and a while."""
    bench = reached()
    put(bench, h1="nowhere")
    bench.now_s += late_s
    bench.reach("h1", "h2")
    assert ("h1" in bench.lookout.reached) is counts
    assert ("h1" in bench.lookout._elsewhere) is not counts


def test_a_heartbeat_that_was_on_its_way_does_not_count() -> None:
    bench = reached(witnesses_min=0)
    put(bench, h1="nowhere")
    bench.beat("h1")
    noted(bench.at(121.5))
    assert bench.state.hosts["h1"].place == "place of h1"
    assert judged(bench)[0] is Verdict.UNKNOWN


def test_where_a_host_is_heard_is_noted_even_if_nobody_reaches_it() -> None:
    """With few writes for many of them."""
    bench = Bench(hosts=20, witnesses_min=0)
    put(bench, **{h: f"place of {h}" for h in bench.policy.hosts})
    bench.now_s = 120.0
    keep_alive(bench, *bench.policy.hosts)
    bench.at(120.5)
    (told,) = [e for e in bench.told if isinstance(e, WitnessesSeen)]
    assert told.witnesses == dict.fromkeys(bench.policy.hosts, ())
    noted(bench)
    assert {r.place for r in bench.state.hosts.values()} == {f"place of {h}" for h in bench.policy.hosts}
    keep_alive(bench, *bench.policy.hosts)
    assert [e for e in bench.at(121.5).told if isinstance(e, WitnessesSeen)] == [], "once"


def test_a_journal_that_does_not_know_places_gives_no_witnesses() -> None:
    """Of an older version: until a host is heard or reached, nobody may deny it."""
    bench = reached()
    bench.record("h1", place="")
    assert judged(restarted(bench))[0] is Verdict.UNKNOWN


def test_a_host_that_was_never_heard_is_that_and_nothing_else() -> None:
    bench = reached()
    bench.record("h1", first_seen_wall=0.0)
    put(bench, h1="nowhere")
    assert judged(restarted(bench))[0] is Verdict.NEVER_SEEN


def test_a_standby_that_hears_a_host_knows_where_it_is() -> None:
    """Whatever the journal of its predecessor says."""
    bench = reached()
    bench.record("h1", place="old")
    bench.lookout.remember()
    assert judged(bench)[0] is Verdict.DOWN


def test_a_standby_that_alone_hears_a_host_knows_where_it_is() -> None:
    """Nobody else was asked to reach it yet."""
    bench = reached(witnesses_min=0)
    bench.lookout.reached.clear()
    bench.record("h1", place="old", witnesses=())
    bench.lookout.remember()
    assert judged(bench)[0] is Verdict.DOWN


def test_who_does_not_reach_a_host_has_not_found_it() -> None:
    """Silence at an address where it never was says nothing of where it is."""
    bench = reached(witnesses_min=0)
    put(bench, h1="nowhere")
    bench.now_s += 60.0
    for witness in ("h2", "h3", "h4"):
        for answer in (Answer.SILENT, Answer.TCP):
            bench.see(ProbeAnswered(host="h1", at=bench.now_s, witness=witness, nonce="n", answer=answer))
    assert judged(bench)[0] is Verdict.UNKNOWN


def test_the_journal_may_know_hosts_that_left() -> None:
    bench = reached()
    left = replace(bench.state.hosts["h1"], host="h9", place="place of h9")
    bench.state = replace(bench.state, hosts={**bench.state.hosts, "h9": left})
    bench.lookout.remember()
    assert "h9" not in bench.lookout.views


def test_a_standby_whose_witnesses_reached_a_host_knows_where_it_is() -> None:
    """It never heard the host itself."""
    bench = restarted(reached())
    bench.lookout.reached.clear()
    bench.reach("h1", "h2", "h3", "h4")
    assert bench.lookout.views["h1"].heard_at is None
    bench.record("h1", place="old")
    bench.lookout.remember()
    assert judged(bench)[0] is Verdict.DOWN


def test_the_planes_of_another_place_do_not_count() -> None:
    for place, speakers in (("place of h1", {"storage", MANAGEMENT}), ("new", {MANAGEMENT})):
        bench = reached(planes=("storage",))
        assert bench.state.hosts["h1"].witnesses_over == {"storage": ("h2", "h3", "h4")}
        put(bench, h1=place)
        bench.now_s = 130.0
        keep_alive(bench, "h2", "h3", "h4")
        bench.at(130.0)
        current = bench.lookout.views["h1"].round
        assert current is not None
        assert set(current.speakers) == speakers


def test_all_that_move_at_once_get_the_time_that_their_dials_take() -> None:
    bench = reached(hosts=200)
    put(bench, **dict.fromkeys(bench.policy.hosts, "new"))
    assert bench.lookout.views["h1"].window_at == bench.now_s + 20.0


def test_the_journal_keeps_nothing_of_another_place() -> None:
    policy = Policy(hosts={"h1": HostPolicy(name="h1", place="new")})
    record = HostRecord(host="h1", place="old", witnesses=("h2",), witnesses_over={"storage": ("h3",)})
    over = WitnessesSeen(witnesses={}, over={"h1": {"storage": ("h4",)}})
    kept = decide(State(hosts={"h1": record}), over, policy, Now(at=1.0, wall=1.0)).state.hosts["h1"]
    assert kept == HostRecord(host="h1", place="new", witnesses_over={"storage": ("h4",)})
