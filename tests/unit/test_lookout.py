"""The lookout: what it tells `decide`, whom it asks, and when it looks again. What it believes is the witness's business."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from ha_agent.controller.effects import AnyEffect, AskWitness, ReadBmc, ReadNova
from ha_agent.controller.lookout import Lookout
from ha_agent.model import (
    Answer,
    AnyEvent,
    Beat,
    ComputeService,
    HostRecord,
    Incident,
    Kind,
    Mode,
    Phase,
    Power,
    PowerRead,
    Reading,
    State,
    Verdict,
    VerdictGiven,
    WitnessesSeen,
)
from ha_agent.plans import RECOVER
from ha_agent.policy import Detection, HostPolicy, Policy
from ha_agent.ports import (
    AnyObservation,
    Disconnected,
    Heartbeat,
    NovaSeen,
    PowerSeen,
    ProbeAnswered,
    Reported,
)
from ha_agent.selfdoubt import Beside, Own

replace = msgspec.structs.replace
SILENT, SIGNED = Answer.SILENT, Answer.SIGNED


class Bench:
    """A lookout over hosts h1, h2, …, all heard at 100 s by a controller that leads."""

    def __init__(
        self,
        hosts: int = 4,
        racks: int = 1,
        leads: bool = True,
        heard: bool = True,
        planes: tuple[str, ...] = (),
        **detection: object,
    ) -> None:
        self.now_s = 100.0
        self.numbers = 0
        self.leads = leads
        self.open: set[str] = set()
        self.told: list[AnyEvent] = []
        self.wanted: list[AnyEffect] = []
        names = [f"h{n}" for n in range(1, hosts + 1)]
        self.state = State(hosts={h: HostRecord(host=h, first_seen_wall=1.0, boot_id="b") for h in names})
        common = replace(Detection(), **detection)
        self.policy = Policy(
            hosts={
                h: HostPolicy(name=h, domain=f"rack{n % racks}" if racks else "", planes=planes, detection=common)
                for n, h in enumerate(names)
            },
            detection=common,
        )
        self.lookout = Lookout(
            name="controller-1",
            policy=self.policy,
            clock=self,
            random=self,
            state=lambda: self.state,
            leading=lambda: self.leads,
            open_hosts=lambda: self.open,
            tell=self.told.append,
            want=self.wanted.append,
        )
        self.lookout.set_policy(self.policy)
        if heard:
            for h in names:
                self.beat(h)
            self.told.clear()

    def now(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return 0.0

    def boot_id(self) -> str:
        return "c"

    def uuid(self) -> str:
        self.numbers += 1
        return f"id-{self.numbers}"

    nonce = uuid

    def uniform(self, low: float, high: float) -> float:
        return high

    def record(self, host: str, **changes: object) -> None:
        self.state = State(
            hosts={**self.state.hosts, host: replace(self.state.hosts[host], **changes)}, incidents=self.state.incidents
        )

    def beat(self, host: str, boot: str = "b", **fields: object) -> None:
        self.lookout.observe(replace(Heartbeat(host=host, at=self.now_s, boot_id=boot), **fields))

    def see(self, obs: AnyObservation) -> None:
        self.lookout.observe(obs)

    def at(self, now_s: float) -> Bench:
        """Time passes; everything older is forgotten."""
        self.now_s = now_s
        self.told.clear()
        self.wanted.clear()
        self.lookout.tick(now_s)
        return self

    def reach(
        self, target: str, *witnesses: str, answer: Answer = SIGNED, over: dict[str, Answer] | None = None
    ) -> None:
        for w in witnesses:
            self.see(
                ProbeAnswered(host=target, at=self.now_s, witness=w, nonce="-", answer=answer, over=dict(over or {}))
            )

    def verdicts(self) -> list[VerdictGiven]:
        return [e for e in self.told if isinstance(e, VerdictGiven)]

    def asked(self, target: str = "h1") -> list[str]:
        return [e.witness for e in self.wanted if isinstance(e, AskWitness) and e.target == target]

    def answer(self, *answers: Answer, target: str = "h1") -> None:
        """The current round is answered, in the order of the asked."""
        current = self.lookout.views[target].round
        assert current is not None
        for w, what in zip(current.asked, answers, strict=False):
            self.see(ProbeAnswered(host=target, at=self.now_s, witness=w, nonce=current.nonce, answer=what))


def keep_alive(bench: Bench, *hosts: str) -> None:
    for h in hosts:
        bench.beat(h)


def silent(answers: Sequence[Answer] = (SILENT, SILENT, SILENT), until: float = 110.0, **fields: object) -> Bench:
    """h1 is silent since 100; the others deny it, or what they say."""
    bench = Bench(**fields)  # type: ignore[arg-type]
    bench.reach("h1", "h2", "h3", "h4")
    bench.at(103.9)
    keep_alive(bench, "h2", "h3", "h4")
    for now_s in (104.0, 106.0, 108.0, 110.0, 112.0, 114.0):
        if now_s > until:
            break
        bench.at(now_s)
        keep_alive(bench, "h2", "h3", "h4")
        bench.answer(*answers)
        bench.see(NovaSeen(host="h1", at=now_s))  # Nova cannot be read
    return bench


# --- what is remembered of hosts ---


def test_a_host_that_the_journal_knows_counts_as_heard() -> None:
    bench = Bench(heard=False)
    view = bench.lookout.views["h1"]
    assert (view.seen, view.boot_id, view.window_at) == (True, "b", 100.0)
    assert bench.lookout._seen == {"h1", "h2", "h3", "h4"}, "they are missed, if all of them are silent"
    bench = Bench(heard=False)
    bench.record("h1", first_seen_wall=0.0)
    del bench.state.hosts["h2"]
    bench.lookout.views.clear()
    bench.lookout._seen.clear()
    bench.lookout.set_policy(bench.policy)
    assert [bench.lookout.views[h].seen for h in ("h1", "h2", "h3")] == [False, False, True]
    assert bench.lookout._seen == {"h3", "h4"}
    assert bench.lookout.views["h2"].boot_id == ""


def test_a_new_leader_learns_from_the_journal_what_it_has_not_seen_itself() -> None:
    bench = Bench(heard=False)
    fresh = {h: replace(v, seen=False, verdict=Verdict.NEVER_SEEN, boot_id="") for h, v in bench.lookout.views.items()}
    bench.lookout.views.update(fresh)
    bench.record("h1", witnesses=("h2",))
    bench.record("h3", first_seen_wall=0.0)
    bench.lookout.reached["h2"] = {"h4": 1.0}
    bench.record("h2", witnesses=("h3",))
    bench.now_s = 200.0
    bench.lookout.remember()
    assert bench.lookout.reached == {"h1": {"h2": 200.0}, "h2": {"h4": 1.0}}, "what was seen is not replaced"
    known = bench.lookout.views["h1"]
    assert (known.seen, known.boot_id, known.verdict, known.window_at) == (True, "b", Verdict.ALIVE, 200.0)
    assert not bench.lookout.views["h3"].seen
    heard = Bench()
    before = dict(heard.lookout.views)
    heard.now_s = 200.0
    heard.lookout.remember()
    assert heard.lookout.views == before, "a host that was heard by us needs no memory"


def test_hosts_of_the_journal_that_left_the_inventory_are_no_trouble() -> None:
    bench = Bench()
    bench.state.hosts["h9"] = HostRecord(host="h9", first_seen_wall=1.0)
    bench.lookout.remember()
    assert "h9" not in bench.lookout.views


def test_a_new_inventory_keeps_known_hosts_and_forgets_others() -> None:
    bench = silent()
    known = bench.lookout.views["h2"]
    smaller = replace(bench.policy, hosts={h: bench.policy.hosts[h] for h in ("h2", "h3")})
    bench.lookout.set_policy(smaller)
    assert sorted(bench.lookout.views) == ["h2", "h3"]
    assert bench.lookout.views["h2"] is known
    bench.at(130.0)
    assert not [e for e in bench.wanted if isinstance(e, AskWitness) and "h1" in (e.target, e.witness)]
    bench.now_s = 131.0
    bench.lookout.set_policy(bench.policy)
    assert bench.lookout.views["h1"].window_at == 131.0


# --- heartbeats ---


@pytest.mark.parametrize(
    ("record", "boot", "verdict"),
    [
        ({}, "b", None),
        ({"first_seen_wall": 0.0}, "b", Verdict.ALIVE),
        ({"boot_id": ""}, "b", Verdict.ALIVE),
        ({"suspect_since": 90.0}, "b", Verdict.ALIVE),
        ({}, "c", Verdict.REBOOTED),
        ({"suspect_since": 90.0}, "c", Verdict.REBOOTED),
    ],
)
def test_only_what_the_journal_does_not_know_is_told(
    record: dict[str, object], boot: str, verdict: Verdict | None
) -> None:
    bench = Bench()
    bench.record("h1", **record)
    bench.beat("h1", boot)
    assert [(v.verdict, v.boot_id, v.last_seen_at) for v in bench.verdicts()] == (
        [] if verdict is None else [(verdict, boot, 100.0)]
    )
    assert all(v.new_id for v in bench.verdicts())
    assert ("b to c" in "".join(v.reason for v in bench.verdicts())) is (boot == "c")


def test_a_host_that_the_journal_does_not_know_is_told() -> None:
    bench = Bench()
    del bench.state.hosts["h1"]
    bench.beat("h1")
    assert [v.verdict for v in bench.verdicts()] == [Verdict.ALIVE]


@pytest.mark.parametrize(
    ("opened", "waits", "tells"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_heartbeats_are_passed_on_where_they_matter(opened: bool, waits: bool, tells: bool) -> None:
    bench = Bench()
    bench.open = {"h1"} if opened else set()
    bench.beat("h1", waiting_gate=waits)
    assert [type(e) for e in bench.told] == ([Beat] if tells else [])


def test_who_does_not_lead_tells_nothing_but_sees_all_the_same() -> None:
    bench = Bench(leads=False)
    bench.open = {"h1"}
    bench.record("h1", boot_id="")
    bench.beat("h1", waiting_gate=True, machine="m")
    assert bench.told == []
    assert bench.lookout.views["h1"].machine == "m"
    follower = silent(leads=False)
    assert follower.told == []
    assert follower.lookout.views["h1"].verdict is Verdict.DOWN


def test_a_suspicion_that_came_to_nothing_is_counted() -> None:
    bench = silent(until=104.0)
    assert bench.lookout.suspicions == 0
    bench.beat("h1")
    assert (bench.lookout.suspicions, bench.lookout.views["h1"].suspect_at) == (1, None)
    bench.beat("h1")
    assert bench.lookout.suspicions == 1
    rebooted = silent(until=104.0)
    rebooted.beat("h1", "c")
    assert rebooted.lookout.suspicions == 0


def test_a_host_is_looked_at_when_its_silence_begins_to_mean_something() -> None:
    bench = Bench()
    assert bench.lookout.next_at() == 102.0, "first of all hosts reach each other"
    assert bench.at(103.9).lookout.views["h1"].suspect_at is None
    assert bench.at(104.0).lookout.views["h1"].suspect_at == 104.0
    beating = Bench()
    beating.now_s = 103.0
    beating.beat("h1")
    beating.at(104.0)
    assert beating.lookout.views["h1"].suspect_at is None
    assert beating.at(107.0).lookout.views["h1"].suspect_at == 107.0


def test_a_heartbeat_of_the_silent_majority_queues_nothing() -> None:
    bench = Bench(heard=False)
    bench.now_s = 101.0
    bench.beat("h1")
    assert bench.lookout._silence.next_at() == 104.0, "of those that were not heard yet"
    for host in ("h2", "h3", "h4"):
        bench.beat(host)
    assert bench.lookout._silence.next_at() == 105.0
    bench.now_s = 102.0
    bench.beat("h1")
    assert bench.lookout._silence.next_at() == 105.0
    assert not bench.lookout._looks
    suspected = silent(until=106.0)
    suspected.now_s = 107.0
    suspected.beat("h1")
    assert "h1" not in suspected.lookout._look_at
    assert suspected.at(111.0).lookout.views["h1"].suspect_at == 111.0


def test_a_host_that_comes_back_is_watched_again() -> None:
    bench = silent()
    bench.beat("h1")
    assert bench.at(113.9).lookout.views["h1"].suspect_at is None
    assert bench.at(114.0).lookout.views["h1"].suspect_at == 114.0


# --- a silent host ---


def test_a_suspect_is_asked_about_read_and_told_at_once() -> None:
    bench = silent(until=103.9)
    bench.at(104.0)
    assert bench.asked() == ["h2", "h3", "h4"]
    assert [e for e in bench.wanted if isinstance(e, ReadBmc | ReadNova)] == [ReadBmc(host="h1"), ReadNova(host="h1")]
    assert [(v.verdict, v.silent, v.last_seen_at) for v in bench.verdicts()] == [(Verdict.SUSPECT, 1, 100.0)]
    assert {e.deadline_s for e in bench.wanted if isinstance(e, AskWitness)} == {1.5}
    bench.answer(SILENT, SILENT, SILENT)
    bench.at(106.0)
    assert [e for e in bench.wanted if isinstance(e, ReadBmc | ReadNova)] == [ReadNova(host="h1")], "its BMC once"
    assert bench.asked() == ["h2", "h3", "h4"]
    assert bench.verdicts() == []


def test_a_verdict_is_given_once_a_round() -> None:
    bench = silent()
    bench.now_s = 110.5
    bench.told.clear()
    bench.see(Disconnected(host="h1", at=110.5, answered=False))
    assert bench.verdicts() == [], "the next round is not over"
    bench.at(112.0)
    bench.answer(SILENT, SILENT, SILENT)
    assert [(v.verdict, v.signed_at) for v in bench.verdicts()] == [(Verdict.DOWN, None)]
    bench.see(Disconnected(host="h1", at=112.0, answered=False))
    assert len(bench.verdicts()) == 1
    bench.at(113.0)
    assert bench.verdicts() == []


def test_a_round_that_is_not_over_does_not_date_the_verdict_of_the_last_one() -> None:
    bench = silent(until=108.0)
    bench.at(109.0)
    bench.see(NovaSeen(host="h1", at=109.2))
    assert bench.at(110.0).verdicts() == [], "the witnesses are asked once more"
    bench.at(110.2)
    assert [v.verdict for v in bench.verdicts()] == [Verdict.DOWN]
    bench.now_s = 110.5
    bench.told.clear()
    bench.see(Disconnected(host="h1", at=110.5, answered=False))
    assert bench.verdicts() == []


def test_nova_is_asked_once_more_before_the_first_verdict() -> None:
    """S5: its nova-compute may have reported since the round before. What does not answer is not waited for."""
    bench = silent(until=108.0)
    assert bench.lookout.next_at() == 109.0
    bench.at(109.0)
    assert reads(bench) == ["h1"]
    bench.at(109.5)
    assert reads(bench) == [], "once"
    bench.at(110.0)
    assert bench.verdicts() == []
    assert bench.at(110.3).verdicts()[-1].verdict is Verdict.DOWN
    for text, verdict in (("t1", Verdict.DOWN), ("t2", Verdict.PARTITIONED)):
        bench = silent(until=106.0)
        for at, row in ((106.1, "t1"), (109.2, text)):
            bench.at(at - 0.1)
            keep_alive(bench, "h2", "h3", "h4")
            bench.see(NovaSeen(host="h1", at=at, service=ComputeService(id="1", host="h1", updated_at=row)))
            bench.answer(SILENT, SILENT, SILENT)
        given = [*bench.at(110.0).verdicts(), *bench.at(110.2).verdicts()]
        assert given[-1].verdict is verdict


def test_the_first_round_may_be_enough() -> None:
    bench = silent(until=106.0, down_after_s=6.0)
    assert Verdict.DOWN in {v.verdict for v in bench.verdicts()}


def test_looks_that_are_superseded_are_dropped() -> None:
    """Each one that was carried out would leave another behind, for ever."""
    bench = silent(until=108.0)
    for n in range(20):
        bench.now_s = 108.1 + n / 100
        bench.see(Disconnected(host="h1", at=bench.now_s, answered=False))
    for now_s in (110.0, 112.0, 114.0):
        bench.at(now_s)
        keep_alive(bench, "h2", "h3", "h4")
    assert sum(host == "h1" for _, host in bench.lookout._looks) == 1


def test_a_signed_answer_is_dated_by_its_question() -> None:
    bench = silent((SILENT, SIGNED, SILENT), until=108.0)
    bench.at(110.0)
    given = bench.verdicts()
    assert [(v.verdict, v.signed_at) for v in given] == [(Verdict.PARTITIONED, 108.0)]


def test_who_could_not_say_is_left_out_of_the_next_round_where_enough_remain() -> None:
    bench = silent((SILENT, Answer.FAILED, SILENT), until=104.0)
    assert bench.at(106.0).asked() == ["h2", "h4", "h3"], "a yes of h3 would still be heard"
    none = silent((Answer.FAILED, Answer.FAILED, Answer.FAILED), until=104.0)
    assert none.at(106.0).asked() == ["h2", "h3", "h4"]
    two = silent((SILENT, SILENT, Answer.FAILED), until=104.0, witnesses_min=2)
    assert two.at(106.0).asked() == ["h2", "h3", "h4"]
    three = silent((SILENT, SILENT, Answer.FAILED), until=104.0, witnesses_min=3)
    assert three.at(106.0).asked() == ["h2", "h3", "h4"]


def last_round(bench: Bench, says: dict[str, Answer]) -> Verdict:
    """h1's verdict where each says that in every round from 106 s on."""
    for now_s in (106.0, 108.0, 110.0):
        bench.at(now_s)
        keep_alive(bench, "h2", "h3", "h4")
        current = bench.lookout.views["h1"].round
        assert current is not None
        for w in current.everybody():
            bench.see(ProbeAnswered(host="h1", at=now_s, witness=w, nonce=current.nonce, answer=says[w]))
    return bench.at(110.3).lookout.views["h1"].verdict


@pytest.mark.parametrize(
    ("h2", "h3", "h4", "verdict"),
    [
        (SILENT, Answer.FAILED, SILENT, Verdict.DOWN),
        (SILENT, SILENT, SILENT, Verdict.DOWN),
        (SILENT, SIGNED, SILENT, Verdict.PARTITIONED),  # S5: who could not say before, and reaches it
        (SILENT, Answer.FAILED, SIGNED, Verdict.PARTITIONED),
        (SILENT, Answer.FAILED, Answer.FAILED, Verdict.UNKNOWN),
    ],
)
def test_another_is_asked_in_place_of_a_mute_witness(h2: Answer, h3: Answer, h4: Answer, verdict: Verdict) -> None:
    """Two are asked and two must deny; three may speak."""
    bench = silent((SILENT, Answer.FAILED), until=104.0, probes=2, witnesses_min=2)
    current = bench.at(106.0).lookout.views["h1"].round
    assert current is not None
    assert (current.asked, current.beside) == (("h2", "h4"), ("h3",))
    assert last_round(bench, {"h2": h2, "h3": h3, "h4": h4}) is verdict
    last = bench.lookout.views["h1"].round
    assert last is not None
    mute_still = h3 is Answer.FAILED and h4 is not Answer.FAILED
    assert (last.asked == ("h2", "h4")) is mute_still, "until it can say something again"


def test_who_is_asked_beside_the_others_is_heard_and_there_are_not_too_many() -> None:
    bench = Bench(hosts=24, probes=3)
    others = [f"h{n}" for n in range(2, 25) if n != 10]
    bench.reach("h1", "h10", *others)
    bench.now_s = 101.0
    keep_alive(bench, "h10")  # then it is silent, too
    bench.at(103.9)
    keep_alive(bench, *others)
    beside = []
    for now_s in (104.0, 106.0, 108.0, 110.0, 112.0, 114.0):
        bench.at(now_s)
        keep_alive(bench, *others)
        current = bench.lookout.views["h1"].round
        assert current is not None
        assert ("h10" in current.everybody()) is (now_s == 104.0)
        assert len(current.asked) == 3, "others are left each time"
        beside.append(len(current.beside))
    assert beside == [0, 2, 5, 8, 11, 12]


def test_it_is_not_looked_at_more_often_than_twenty_times_a_second() -> None:
    bench = silent()
    assert bench.lookout.next_at() >= 110.0
    bench.at(111.95)
    bench.see(Disconnected(host="h1", at=111.95, answered=False))
    assert bench.lookout._look_at["h1"] == 112.0
    bench.at(111.99)
    bench.see(Disconnected(host="h1", at=111.99, answered=False))
    assert bench.lookout._look_at["h1"] == pytest.approx(112.04)


def test_a_report_is_looked_into_at_once() -> None:
    bench = Bench()
    bench.now_s = 101.0
    bench.see(Reported(host="h1", at=101.0, source="nagios", text="no ping"))
    assert [v.reason for v in bench.verdicts()] == ["nagios: no ping"]
    calm = Bench()
    calm.now_s = 101.0
    calm.see(Disconnected(host="h1", at=101.0, answered=False))
    assert (calm.verdicts(), calm.lookout.views["h1"].misses) == ([], 1)


def test_what_is_seen_of_a_suspect_is_judged_at_once() -> None:
    bench = silent((), until=108.0)
    bench.now_s = 109.9
    bench.told.clear()
    bench.answer(SILENT, SILENT, SILENT)
    assert bench.verdicts() == []
    bench.now_s = 110.0
    row = ComputeService(id="1", host="h1", updated_at="t1")
    bench.see(NovaSeen(host="h1", at=110.0, service=row))
    assert bench.lookout.views["h1"].nova_base == "t1"
    assert bench.verdicts() == [], "they are asked once more"
    bench.answer(SILENT, SILENT, SILENT)
    assert [v.verdict for v in bench.verdicts()] == [Verdict.DOWN]


# --- whether Nova hears anybody ---


def rows_of(bench: Bench, at: float, **texts: str) -> Verdict | None:
    """Nova's rows of some hosts are read; the verdict on h1, whose own row stands still and whose kernel answers."""
    bench.now_s = at
    for host in ("h2", "h3", "h4"):
        bench.beat(host)
    bench.lookout.tick(at)
    bench.answer(Answer.TCP, Answer.TCP, Answer.TCP)
    for host, text in {"h1": "t", **texts}.items():
        bench.see(NovaSeen(host=host, at=at, service=ComputeService(id=host, host=host, updated_at=text)))
    return bench.lookout.views["h1"].verdict


def reads(bench: Bench) -> list[str]:
    return [e.host for e in bench.wanted if isinstance(e, ReadNova)]


def test_rows_of_others_are_read_only_beside_that_of_a_host_whose_kernel_answers() -> None:
    bench = silent(until=104.0)
    bench.answer(SILENT, SILENT, SILENT)
    assert reads(bench.at(106.0)) == ["h1"]
    keep_alive(bench, "h2", "h3", "h4")
    bench.answer(Answer.TCP, SILENT, SILENT)
    assert reads(bench.at(108.0)) == ["h1", "h2", "h3"]
    keep_alive(bench, "h2", "h3", "h4")
    bench.answer(SILENT, SILENT, SILENT)
    bench.see(Disconnected(host="h1", at=108.0, answered=True))
    assert reads(bench.at(110.0)) == ["h1", "h2", "h3"]
    keep_alive(bench, "h2", "h3", "h4")
    bench.answer(SILENT, SILENT, SILENT)
    bench.see(Disconnected(host="h1", at=112.0, answered=False))
    assert reads(bench.at(112.0)) == ["h1"]


@pytest.mark.parametrize(
    ("texts", "verdict"),
    [
        (("a", "b", "c", "d"), Verdict.HUNG),
        (("a", "a", "a", "a"), Verdict.UNKNOWN),
        (("", "", "", ""), Verdict.UNKNOWN),
        (("a", "", "", "d"), Verdict.UNKNOWN),  # how old is a change over so long a time?
        (("a", "b", "b", "b"), Verdict.UNKNOWN),
        (("a", "a", "b", "b"), Verdict.HUNG),
        (("a", "a", "a", "b"), Verdict.HUNG),
    ],
)
def test_where_nova_hears_nobody_its_silence_about_one_host_says_nothing(
    texts: tuple[str, ...], verdict: Verdict
) -> None:
    bench = silent(until=104.0, hung_patience_s=60.0, nova_report_interval_s=10.0)
    seen = None
    for n in range(4):
        for at in (110.0 + 20 * n, 111.0 + 20 * n):
            seen = rows_of(bench, at, h2=texts[n])
    assert seen is verdict


def test_how_long_a_change_of_a_row_counts_and_how_long_a_look_at_it() -> None:
    """Two reports and some slack: 25 s."""

    def hears(second_look: float, now_s: float) -> bool:
        bench = Bench()
        for at, text in ((100.0, "a"), (second_look, "b")):
            bench.see(NovaSeen(host="h2", at=at, service=ComputeService(id="2", host="h2", updated_at=text)))
        return bench.lookout._nova_hears("h1", now_s)

    assert hears(125.0, 125.0)
    assert not hears(125.1, 125.1), "how old is a change over so long a time?"
    assert hears(110.0, 135.0)
    assert not hears(110.0, 135.1)


def test_a_host_does_not_speak_for_itself_and_one_that_left_for_nobody() -> None:
    bench = silent(until=104.0)
    for text in ("a", "b"):
        bench.see(NovaSeen(host="h1", at=104.0, service=ComputeService(id="1", host="h1", updated_at=text)))
        bench.see(NovaSeen(host="h2", at=104.0, service=ComputeService(id="2", host="h2", updated_at=text)))
    assert bench.lookout._nova_hears("h1", 104.0)
    bench.lookout.set_policy(replace(bench.policy, hosts={h: p for h, p in bench.policy.hosts.items() if h != "h2"}))
    assert not bench.lookout._nova_hears("h1", 104.0)


@pytest.mark.parametrize(("leads", "opened", "tells"), [(True, True, True), (False, True, False), (True, False, False)])
def test_readings_are_passed_on_where_there_is_an_incident(leads: bool, opened: bool, tells: bool) -> None:
    bench = Bench(leads=leads)
    bench.open = {"h1"} if opened else set()
    readings = (Reading(device="bmc", power=Power.ON, at=100.0),)
    bench.see(PowerSeen(host="h1", at=100.0, readings=readings))
    assert bench.told == ([PowerRead(host="h1", readings=readings)] if tells else [])


# --- several at once ---


def together(bench: Bench) -> list[tuple[str, int, int]]:
    lookout = bench.lookout
    suspects = [v for _, v in sorted(lookout.views.items()) if v.suspect_at is not None and v.host in lookout._silent]
    return [(v.host, *lookout._together(v)) for v in suspects]


def test_hosts_that_fall_silent_together_are_counted_in_all_and_by_failure_domain() -> None:
    bench = Bench(hosts=6, racks=2)
    bench.at(103.0)
    keep_alive(bench, "h4", "h5", "h6")
    bench.at(104.0)
    assert together(bench) == [("h1", 3, 2), ("h2", 3, 1), ("h3", 3, 2)]
    assert {(v.silent, v.silent_domain) for v in bench.verdicts()} == {(1, 1)}, "a suspicion counts nobody"
    bench.beat("h1")
    assert together(bench) == [("h2", 2, 1), ("h3", 2, 1)]


def test_who_is_silent_is_counted_anew_now_and_then() -> None:
    bench = Bench()
    bench.at(103.0)
    keep_alive(bench, "h3", "h4")
    bench.at(104.0)
    assert together(bench) == [("h1", 2, 2), ("h2", 2, 2)]
    bench.record("h2", maintenance="planned")
    bench.now_s = 104.2
    assert together(bench)[0] == ("h1", 2, 2)
    bench.now_s = 104.3
    assert together(bench)[0] == ("h1", 1, 1)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ("", 2),
        ("maintenance", 1),
        ("settled", 1),
        ("settled, closed", 2),
        ("unsettled", 2),
        ("never seen", 1),
        ("partitioned", 1),
        ("no record", 2),
    ],
)
def test_who_is_not_counted_among_the_silent(change: str, count: int) -> None:
    """h2 fell silent with h1."""
    bench = Bench()
    bench.at(103.0)
    keep_alive(bench, "h1", "h3", "h4")
    bench.at(104.0)
    if change == "maintenance":
        bench.record("h2", maintenance="planned")
    if change == "no record":
        del bench.state.hosts["h2"]
    if "settled" in change:
        incident = Incident(
            id="i",
            kind=Kind.HOST,
            host="h2",
            subject="h2",
            mode=Mode.AUTO,
            plan=RECOVER,
            opened_at=0.0,
            opened_wall=0.0,
            verdict=Verdict.DOWN,
            verdict_at=0.0,
            reason="",
            settled=change != "unsettled",
            phase=Phase.CLOSED if "closed" in change else Phase.OPEN,
        )
        bench.state = State(hosts=bench.state.hosts, incidents={"i": incident})
    view = bench.lookout.views["h2"]
    if change == "never seen":
        bench.lookout.views["h2"] = replace(view, seen=False)
    if change == "partitioned":
        bench.lookout.views["h2"] = replace(view, verdict=Verdict.PARTITIONED)
    bench.now_s = 106.0
    keep_alive(bench, "h3", "h4")
    bench.at(107.0)
    assert [(h, n) for h, n, _ in together(bench) if h == "h1"] == [("h1", count)]


@pytest.mark.parametrize(
    ("verdict", "counts"),
    [
        *((v, True) for v in (Verdict.SUSPECT, Verdict.DOWN, Verdict.OFF, Verdict.HUNG, Verdict.UNKNOWN)),
        *((v, False) for v in (Verdict.PARTITIONED, Verdict.AGENT_LOST, Verdict.NEVER_SEEN, Verdict.REBOOTED)),
    ],
)
def test_which_verdicts_count_among_the_silent(verdict: Verdict, counts: bool) -> None:
    bench = Bench()
    bench.at(103.0)
    keep_alive(bench, "h1", "h3", "h4")
    bench.at(104.0)
    bench.lookout.views["h2"] = replace(bench.lookout.views["h2"], verdict=verdict)
    bench.now_s = 106.0
    keep_alive(bench, "h3", "h4")
    bench.at(107.0)
    assert [(h, n) for h, n, _ in together(bench) if h == "h1"] == [("h1", 2 if counts else 1)]


def test_the_host_itself_always_counts() -> None:
    bench = Bench()
    bench.record("h1", maintenance="planned")
    bench.at(103.0)
    keep_alive(bench, "h2", "h3", "h4")
    bench.at(104.0)
    assert together(bench) == [("h1", 1, 1)]


@pytest.mark.parametrize(("gap_s", "count"), [(20.0, 2), (20.1, 1), (-20.0, 2), (-20.1, 1)])
def test_only_hosts_that_fell_silent_at_about_the_same_time_count(gap_s: float, count: int) -> None:
    bench = Bench()
    bench.at(103.0)
    keep_alive(bench, "h1", "h3", "h4")
    bench.at(104.0)
    bench.lookout.views["h2"] = replace(bench.lookout.views["h2"], suspect_at=107.0 - gap_s)
    bench.now_s = 106.0
    keep_alive(bench, "h3", "h4")
    bench.at(107.0)
    assert [(h, n) for h, n, _ in together(bench) if h == "h1"] == [("h1", count)]


def test_when_too_many_are_silent_our_own_network_is_doubted() -> None:
    bench = Bench()
    bench.reach("h1", "h4")
    bench.at(103.0)
    keep_alive(bench, "h4")
    for now_s in (104.0, 106.0, 108.0, 110.0):
        bench.at(now_s)
        keep_alive(bench, "h4")
        bench.answer(SILENT)
    given = [v for v in bench.verdicts() if v.host == "h1"]
    assert {v.verdict for v in given} == {Verdict.UNKNOWN}
    assert "3 of 4 hosts are silent" in given[0].reason


# --- quiet times ---


def test_hosts_reach_each_other_other_failure_domains_first() -> None:
    bench = Bench(hosts=5, racks=2, probes=2)
    bench.at(102.0)
    assert bench.asked("h1") == ["h2", "h4"]
    assert bench.asked("h5") == ["h2", "h4"]
    assert bench.asked("h2") == ["h1", "h3"]
    assert {e.deadline_s for e in bench.wanted if isinstance(e, AskWitness)} == {1.5}
    same = Bench(hosts=5, racks=1, probes=3)
    assert same.at(102.0).asked("h4") == ["h5", "h1", "h2"]


@pytest.mark.parametrize("sizes", [(100, 100, 100), (3, 200), (40,) * 8, (1,) * 60])
def test_other_failure_domains_are_asked_however_large_they_are(sizes: tuple[int, ...]) -> None:
    """A hall that dies takes no witness of its hosts with it; and nobody is asked much more than others."""
    bench = Bench(hosts=sum(sizes))
    halls = [f"hall{n}" for n, size in enumerate(sizes) for _ in range(size)]
    names = sorted(bench.policy.hosts)  # neighbours by name are neighbours in the hall
    domains = dict(zip(names, halls, strict=True))
    hosts = {h: replace(p, domain=domains[h]) for h, p in bench.policy.hosts.items()}
    bench.lookout.set_policy(replace(bench.policy, hosts=hosts))
    most: dict[str, int] = {}
    for host in names:
        asked = bench.lookout._volunteers(host, 5)
        assert len(set(asked)) == 5
        others = min(5, sum(sizes) - sizes[int(domains[host].removeprefix("hall"))])
        assert sum(domains[w] != domains[host] for w in asked) == others
        for w in asked:
            most[w] = most.get(w, 0) + 1
    if len(set(sizes)) == 1:
        assert max(most.values()) <= 6


def test_whose_neighbours_are_dead_asks_others() -> None:
    """Where nobody of the other domains is heard, those of its own."""
    bench = Bench(hosts=60, racks=3, probes=5)
    views = bench.lookout.views
    dead = [h for h in views if bench.policy.hosts[h].domain == "rack1"]
    views.update({h: replace(views[h], suspect_at=101.0) for h in dead})
    assert {bench.policy.hosts[h].domain for h in bench.lookout._volunteers("h1", 5)} == {"rack2"}
    dead = [h for h in views if bench.policy.hosts[h].domain == "rack2"]
    views.update({h: replace(views[h], suspect_at=101.0) for h in dead})
    alone = bench.lookout._volunteers("h1", 5)
    assert len(set(alone)) == 5
    assert {bench.policy.hosts[h].domain for h in alone} == {"rack0"}
    assert "h1" not in alone


def test_a_look_at_the_neighbours_costs_the_same_in_any_cloud() -> None:
    for hosts, racks in ((2000, 2), (2000, 1000)):
        bench = Bench(hosts=hosts, racks=racks, heard=False)
        assert len(list(bench.lookout._neighbours("h1", 40))) <= 80
        assert bench.lookout._volunteers("h1", 5) == []


def test_only_hosts_that_are_heard_are_asked_and_asked_about() -> None:
    bench = Bench()
    views = bench.lookout.views
    views["h2"] = replace(views["h2"], heard_at=None)
    views["h3"] = replace(views["h3"], suspect_at=101.0)
    bench.at(102.0)
    assert (bench.asked("h1"), bench.asked("h2"), bench.asked("h3")) == (["h4"], [], [])


@pytest.mark.parametrize(
    ("probes", "reached", "next_s"), [(3, 3, 102.0), (3, 2, 2.0), (9, 3, 102.0), (9, 2, 2.0), (1, 0, 2.0)]
)
def test_who_is_reached_by_few_is_asked_about_again_soon(probes: int, reached: int, next_s: float) -> None:
    """A third of the time that a witness stays fresh otherwise; but hosts are only four."""
    bench = Bench(probes=probes, witness_fresh_s=306.0)
    bench.reach("h1", *[f"h{n + 2}" for n in range(reached)])
    bench.at(102.0)
    assert [at for at, host in bench.lookout._probes if host == "h1"] == [102.0 + next_s]


def test_nobody_is_asked_to_reach_a_host_that_is_not_heard_until_it_is() -> None:
    bench = Bench(heard=False)
    bench.at(102.0)
    assert bench.lookout._probes == []
    bench.now_s = 110.0
    bench.beat("h1")
    bench.beat("h1")
    assert bench.lookout._probes == [(111.0, "h1")]
    bench.lookout.set_policy(replace(bench.lookout.policy, hosts={}))
    bench.at(111.0)
    assert bench.lookout._probes == []


def test_first_questions_about_thousands_of_hosts_are_spread() -> None:
    bench = Bench(hosts=2000, racks=4)
    assert {at for at, _ in bench.lookout._probes} == {105.0}, "2,000 hosts, five questions about each, 2,000 a second"


def test_who_reached_a_host_is_asked_again_without_haste_where_the_journal_knows() -> None:
    bench = Bench(heard=False)
    bench.record("h1", witnesses=("h2",))
    bench.now_s = 200.0
    bench.lookout.remember()
    at = bench.lookout._probe_at
    assert (at["h1"] - 200.0, at["h2"] - 100.0) == (100.0, 2.0), "a third of the time for which a witness counts"
    del at["h1"]
    bench.beat("h1")
    assert bench.lookout._probe_at["h1"] - 200.0 == 100.0
    del at["h1"]
    bench.now_s = 300.0
    bench.beat("h1")
    assert bench.lookout._probe_at["h1"] - 300.0 == 1.0, "they will be forgotten before long"


@pytest.mark.parametrize(("witnesses", "after_s"), [(("h2",), 2.0), (("h2", "h3"), 100.0)])
def test_too_few_that_are_remembered_are_in_haste_like_none(witnesses: tuple[str, ...], after_s: float) -> None:
    bench = Bench(heard=False, witnesses_min=2)
    bench.record("h1", witnesses=witnesses)
    bench.lookout.remember()
    bench.lookout._probe_at.pop("h1", None)
    bench.beat("h1")
    assert bench.lookout._probe_at["h1"] - bench.now_s == pytest.approx(after_s, abs=1.1)


def test_the_first_windows_are_long_enough_for_thousands_of_dials() -> None:
    """200 ms for each host, unless it was dialled before; the first 20 s are nothing to speak of."""
    few, many = Bench(hosts=100, heard=False), Bench(hosts=2100, heard=False)
    assert (few.lookout.views["h1"].window_at, many.lookout.views["h1"].window_at) == (100.0, 500.0)
    assert (few.lookout._silence.next_at(), many.lookout._silence.next_at()) == (104.0, 504.0)
    many.now_s = 101.0
    many.beat("h2")
    refused = Disconnected(host="h3", at=101.0, answered=False)
    many.see(refused)
    many.now_s = 103.0
    many.see(refused)
    assert many.lookout.views["h3"].window_at == 101.0, "its silence counts from the first dial"
    many.at(105.0)
    suspects = {h for h, v in many.lookout.views.items() if v.suspect_at is not None}
    assert suspects == {"h2", "h3"}, "who was heard or dialled is missed as soon as ever"
    few.now_s = 101.0
    few.see(refused)
    assert few.lookout.views["h3"].window_at == 100.0, "never later than from our start"


def test_who_was_heard_does_not_wait_behind_those_whose_window_is_still_to_begin() -> None:
    bench = Bench(hosts=103, heard=False)
    assert bench.lookout.views["h1"].window_at == pytest.approx(100.6)
    bench.now_s = 100.1
    bench.beat("h2")
    bench.at(104.2)
    assert [h for h, v in bench.lookout.views.items() if v.suspect_at is not None] == ["h2"]


def test_a_single_host_needs_nobody_it_cannot_have() -> None:
    bench = Bench(hosts=1, witness_fresh_s=306.0)
    bench.at(102.0)
    assert bench.wanted == []
    assert [at for at, _ in bench.lookout._probes] == [104.0]


def noted(bench: Bench) -> list[dict[str, tuple[str, ...]]]:
    """What was told of witnesses, until half a second later."""
    bench.at(bench.now_s + 0.5)
    return [e.witnesses for e in bench.told if isinstance(e, WitnessesSeen)]


def test_who_reached_a_host_lately_is_kept() -> None:
    bench = Bench()
    bench.reach("h1", "h3", "h2")
    bench.reach("h1", "h4", answer=SILENT)
    bench.lookout.reached["h1"]["h4"] = 100.5 - 300.1
    assert bench.told == []
    assert bench.lookout.next_at() == pytest.approx(100.004)
    assert noted(bench) == [{"h1": ("h2", "h3")}]
    assert noted(bench) == [], "once"


def test_the_witnesses_of_many_hosts_are_noted_together() -> None:
    bench = Bench(hosts=40, racks=4)
    for n in range(1, 40):
        bench.reach(f"h{n}", "h40")
    bench.at(100.03)
    assert bench.lookout.next_at() == pytest.approx(100.04)
    assert [len(each) for each in noted(bench)] == [39]


@pytest.mark.parametrize(("known", "reached"), [(("h2", "h3"), ("h2", "h3")), (("h9",), ())])
def test_only_a_change_of_the_witnesses_is_told_and_never_that_there_are_none(
    known: tuple[str, ...], reached: tuple[str, ...]
) -> None:
    bench = Bench()
    bench.record("h1", witnesses=known)
    bench.reach("h1", *reached)
    bench.at(102.0)
    assert noted(bench) == []


def test_who_reached_a_host_that_the_journal_does_not_know_is_not_kept() -> None:
    bench = Bench()
    del bench.state.hosts["h1"]
    bench.reach("h1", "h2")
    bench.at(102.0)
    assert noted(bench) == []


@pytest.mark.parametrize(("age_s", "kept"), [(300.0, True), (300.1, False)])
def test_who_reached_it_long_ago_is_not_kept(age_s: float, kept: bool) -> None:
    bench = Bench()
    bench.lookout.reached["h1"] = {"h2": 102.5 - age_s}
    bench.at(102.0)
    assert bool(noted(bench)) is kept


@pytest.mark.parametrize(
    ("leads", "record", "known", "kept"),
    [
        (True, True, (), True),
        (True, True, ("h9",), False),
        (False, True, (), False),
        (True, False, (), False),
    ],
)
def test_the_first_witness_is_kept_at_once(leads: bool, record: bool, known: tuple[str, ...], kept: bool) -> None:
    bench = Bench(leads=leads)
    bench.record("h1", witnesses=known)
    if not record:
        del bench.state.hosts["h1"]
    bench.reach("h1", "h2")
    assert noted(bench) == ([{"h1": ("h2",)}] if kept else [])


def test_how_many_may_speak_of_a_host() -> None:
    bench = Bench()
    bench.reach("h1", "h2", "h3", "gone")
    assert (bench.lookout.witnesses("h1"), bench.lookout.witnesses("h2"), bench.lookout.witnesses("h9")) == (2, 0, 0)


def restarted(*witnesses: str) -> Bench:
    """A controller that remembers who reached h1, some time before its start."""
    bench = Bench(heard=False)
    bench.record("h1", witnesses=witnesses)
    bench.lookout.remember()
    keep_alive(bench, "h1", "h2", "h3", "h4")
    bench.now_s = 200.0
    keep_alive(bench, "h1", "h2", "h3", "h4")
    assert bench.at(200.0).asked(), "now others are to reach it"
    assert bench.lookout.witnesses("h1") == len(witnesses)
    return bench


def test_who_is_remembered_and_cannot_reach_a_host_that_lives_may_not_deny_it() -> None:
    """Its way may have been lost while nobody watched: dated by our start, its denial would count when our own way is lost, too (S5)."""
    bench = restarted("h2", "h3")
    bench.now_s = 201.0
    bench.reach("h1", "h2", answer=SILENT)
    bench.reach("h1", "h3")
    assert bench.lookout.witnesses("h1") == 2, "it may just have died"
    bench.now_s = 201.5
    bench.beat("h1")
    assert set(bench.lookout.reached["h1"]) == {"h2", "h3"}, (
        "once: it may have stood still for a moment, and be denied rightly soon"
    )
    keep_alive(bench, "h2", "h3", "h4")
    bench.at(203.5)
    assert "h2" in bench.asked(), "soon again: it may have been a lost packet"
    bench.reach("h1", "h2", answer=SILENT)
    bench.now_s = 204.0
    bench.beat("h1")
    assert set(bench.lookout.reached["h1"]) == {"h3"}
    bench.reach("h1", "h2")
    assert set(bench.lookout.reached["h1"]) == {"h2", "h3"}


def test_a_denial_of_a_host_that_then_falls_silent_may_be_right() -> None:
    bench = restarted("h2", "h3")
    bench.now_s = 202.0
    bench.reach("h1", "h2", answer=SILENT)
    bench.at(204.0)
    bench.reach("h1", "h3", answer=SILENT)
    bench.now_s = 240.0
    bench.beat("h1", boot="next")
    assert set(bench.lookout.reached["h1"]) == {"h2", "h3"}
    for _ in range(2):
        bench.reach("h1", "h2", answer=SILENT)  # to a question from the silence, late
        bench.beat("h1", boot="next")
    assert set(bench.lookout.reached["h1"]) == {"h2", "h3"}


def test_who_reached_a_host_since_our_start_may_deny_it_although_a_packet_was_lost() -> None:
    bench = restarted("h2", "h3")
    bench.now_s = 201.0
    bench.reach("h1", "h2")
    bench.reach("h1", "h2", answer=SILENT)
    bench.reach("h1", "h3", answer=Answer.FAILED)  # it could not ask
    bench.reach("h1", "h3", answer=SILENT)
    bench.reach("h1", "h3")
    bench.now_s = 201.5
    bench.beat("h1")
    assert set(bench.lookout.reached["h1"]) == {"h2", "h3"}


def test_a_witness_that_could_not_ask_has_denied_nothing() -> None:
    bench = restarted("h2", "h3")
    for now_s in (201.0, 203.5, 206.0):
        bench.at(now_s)
        keep_alive(bench, "h1", "h2", "h3", "h4")
        bench.reach("h1", "h2", "h3", answer=Answer.FAILED)
        bench.reach("h1", "h2", "h3", answer=Answer.TCP)
        bench.beat("h1")
    assert set(bench.lookout.reached["h1"]) == {"h2", "h3"}


# --- after a pause of our own ---


def test_after_a_pause_every_host_gets_a_full_window() -> None:
    bench = silent(until=108.0)
    bench.now_s = 140.0
    bench.lookout.paused()
    for host in ("h1", "h2"):
        view = bench.lookout.views[host]
        assert (view.window_at, view.suspect_at, view.round, view.judged) == (140.0, None, None, None)
    assert bench.at(143.9).verdicts() == []
    bench.at(144.0)
    assert ("h1", Verdict.SUSPECT) in {(v.host, v.verdict) for v in bench.verdicts()}
    early = Bench()
    early.now_s = 90.0
    early.lookout.paused()
    assert early.lookout.views["h1"].window_at == 100.0


def pause(bench: Bench, until: float) -> Bench:
    """It ends then; what it does first."""
    bench.now_s = until
    bench.lookout.paused()
    return bench.at(until)


def stalls() -> Bench:
    """h1 is silent since 100; it stood still from 102 to 106, and from 111 to 115."""
    bench = Bench()
    bench.reach("h1", "h2", "h3", "h4")
    bench.at(102.0)
    pause(bench, 106.0)
    for now_s in (106.5, 109.0, 111.0):
        bench.now_s = now_s
        keep_alive(bench, "h2", "h3", "h4")
        bench.at(now_s)
    assert bench.lookout.views["h1"].window_at == 106.0, "a full one after the first"
    return pause(bench, 115.0)


def test_a_further_pause_in_one_silence_takes_nothing_away_from_it() -> None:
    """Else a controller that stands still again and again would never fence anybody."""
    bench = stalls()
    assert bench.lookout.views["h1"].window_at == 110.0, "the 5 s between the pauses count, the pauses do not"
    assert bench.verdicts() == []
    bench.now_s = 115.5
    keep_alive(bench, "h2", "h3", "h4")
    assert bench.at(116.9).verdicts() == [], "two heartbeats may still come"
    assert bench.at(117.0).asked() == ["h2", "h3", "h4"]
    keep_alive(bench, "h2", "h3", "h4")
    assert bench.at(119.0).lookout.views["h1"].verdict is Verdict.SUSPECT
    bench.answer(SILENT, SILENT, SILENT)
    for now_s in (120.0, 120.3, 121.0):
        keep_alive(bench, "h2", "h3", "h4")
        bench.at(now_s)
    view = bench.lookout.views["h1"]
    assert view.verdict is Verdict.DOWN
    assert view.judged is not None
    assert view.judged.at >= 117.0, "from a round that began after the pause (S8)"


def test_after_each_pause_there_is_time_for_a_look_however_long_was_watched() -> None:
    bench = stalls()
    for now_s in (115.5, 119.0, 123.0):
        bench.now_s = now_s
        keep_alive(bench, "h2", "h3", "h4")
        bench.at(now_s)
    pause(bench, 180.0)
    assert bench.lookout.views["h1"].window_at == 174.0, "13 s were watched; 4 s are left, two heartbeats and a round"


def test_a_heartbeat_between_two_pauses_ends_the_silence() -> None:
    bench = stalls()
    bench.now_s = 115.2
    bench.beat("h1")
    bench.at(120.0)
    pause(bench, 125.0)
    assert bench.lookout.views["h1"].window_at == 125.0


def test_a_suspicion_that_a_pause_cut_short_counts_when_the_host_is_heard() -> None:
    bench = silent(until=106.0)
    pause(bench, 112.0)
    assert bench.lookout.views["h1"].suspect_at is None
    assert not bench.lookout._silent
    bench.beat("h1")
    assert (bench.lookout.suspicions, bench.lookout.views["h1"].false_suspicions) == (1, 1)
    pause(bench, 120.0)
    bench.beat("h1")
    assert (bench.lookout.suspicions, bench.lookout.views["h1"].false_suspicions) == (1, 1), "once"


def test_who_may_speak_of_a_host_does_not_age_with_our_pauses() -> None:
    """Nobody reaches a dead host again: counted from the last suspicion, its witnesses would be too old after a few minutes of pauses."""
    bench = silent(until=106.0)
    for until in range(130, 700, 30):
        pause(bench, float(until))
    bench.now_s = 691.0
    keep_alive(bench, "h2", "h3", "h4")
    assert bench.at(692.1).asked() == ["h2", "h3", "h4"]


def test_what_waited_in_our_sockets_is_not_judged_before_the_pause_was_noticed() -> None:
    """Answers from before it come before the heartbeats that came meanwhile."""
    bench = silent((SILENT,), until=108.0)
    bench.told.clear()
    bench.now_s = 112.0
    current = bench.lookout.views["h1"].round
    assert current is not None
    for w in current.asked:
        bench.see(ProbeAnswered(host="h1", at=112.0, witness=w, nonce=current.nonce, answer=SILENT))
    assert bench.verdicts() == []
    assert bench.lookout.next_at() <= 112.0, "in the next turn"
    assert pause(bench, 112.0).verdicts() == []


def test_devices_that_could_not_be_read_are_read_again() -> None:
    def reads(power: Power | None, until: float) -> list[float]:
        bench, found = silent(until=104.0, down_after_s=200.0, hung_patience_s=40.0), [104.0]
        if power is not None:
            bench.see(PowerSeen(host="h1", at=104.3, readings=(Reading(device="bmc", power=power, at=104.3),)))
        for now_s in range(106, int(until), 2):
            bench.at(float(now_s))
            keep_alive(bench, "h2", "h3", "h4")
            found += [bench.now_s for e in bench.wanted if isinstance(e, ReadBmc)]
        return found

    assert reads(Power.OFF, 200) == [104.0]
    assert reads(Power.UNKNOWN, 140) == [104.0, 120.0, 136.0]
    assert reads(None, 140) == [104.0, 120.0, 136.0]
    assert max(reads(None, 400)) <= 304.0, "not for ever: it may be dead for days"


def test_after_a_pause_a_host_that_was_silent_is_silent_no_more() -> None:
    bench = silent(until=104.0)
    bench.now_s = 140.0
    bench.lookout.paused()
    assert bench.lookout._together(replace(bench.lookout.views["h2"], suspect_at=140.0)) == (1, 1)


# --- self-doubt ---


def test_a_sick_controller_is_patient_with_everybody() -> None:
    bench = Bench()
    bench.lookout.feel(Own(lag_s=9.0))
    assert bench.lookout.sickness == 4
    bench.now_s = 101.0
    keep_alive(bench, "h1", "h2", "h3", "h4")
    assert bench.at(106.9).lookout.views["h1"].suspect_at is None
    assert bench.at(107.0).lookout.views["h1"].suspect_at == 107.0, "6 s instead of 4"
    bench.at(115.9)
    assert bench.lookout.views["h1"].verdict is Verdict.SUSPECT
    bench.lookout.feel(Own())
    assert bench.lookout.sickness == 0
    keep_alive(bench, "h1")
    assert bench.at(119.9).lookout.views["h1"].suspect_at == 119.9


def test_a_silence_that_seems_over_too_early_is_waited_for_again() -> None:
    """The windows grew while the host was silent."""
    bench = Bench()
    bench.now_s = 103.0
    bench.lookout.feel(Own(lag_s=9.0))
    assert bench.at(104.0).lookout.views["h1"].suspect_at is None
    assert bench.lookout.next_at() <= 106.0
    assert not bench.lookout._looks, "no suspect yet: it waits among those that are heard"
    assert bench.at(106.0).lookout.views["h1"].suspect_at == 106.0


@pytest.mark.parametrize(
    ("hosts", "power", "row", "nova"), [(6, Power.UNKNOWN, False, False), (6, Power.ON, True, True)]
)
def test_what_answers_beside_the_hosts_is_counted(hosts: int, power: Power, row: bool, nova: bool) -> None:
    bench = Bench(hosts=hosts)
    bench.at(103.0)
    keep_alive(bench, "h3", "h4", "h5", "h6")
    bench.at(104.0)
    assert bench.lookout._beside(104.0) == Beside()
    for host in ("h1", "h2"):
        reading = Reading(device="bmc", power=power, at=104.1, wall=0.0)
        bench.now_s = 104.1
        bench.see(PowerSeen(host=host, at=104.1, readings=(reading,)))
    service = ComputeService(id="1", host="h1", updated_at="t") if row else None
    bench.see(NovaSeen(host="h1", at=104.1, service=service))
    mute = 2 if power is Power.UNKNOWN else 0
    assert bench.lookout._beside(104.5) == Beside(bmcs=2 - mute, bmcs_mute=mute, nova=nova)
    assert bench.lookout._beside(119.2).nova is None, "that was too long ago"


@pytest.mark.parametrize("answers", [False, True])
def test_two_silent_hosts_cast_doubt_where_nothing_else_answers(answers: bool) -> None:
    """A Nova that answers and does not list them does answer."""
    bench = Bench(hosts=6)
    bench.reach("h1", "h5")
    bench.reach("h2", "h5")
    bench.at(103.0)
    keep_alive(bench, "h3", "h4", "h5", "h6")
    for now_s in (104.0, 106.0, 108.0, 110.0, 112.0):
        bench.at(now_s)
        keep_alive(bench, "h3", "h4", "h5", "h6")
        for host in ("h1", "h2"):
            bench.see(
                PowerSeen(
                    host=host, at=now_s, readings=(Reading(device="bmc", power=Power.UNKNOWN, at=now_s, wall=0.0),)
                )
            )
            bench.see(NovaSeen(host=host, at=now_s, no_such_row=answers))
        bench.answer(SILENT)
    given = [v for v in bench.verdicts() if v.host == "h1"]
    assert given[-1].verdict is (Verdict.DOWN if answers else Verdict.UNKNOWN)
    assert ("neither a device of theirs nor Nova answers" in given[-1].reason) is not answers


def test_that_nothing_beside_two_silent_hosts_answers_makes_it_sick() -> None:
    bench = Bench(hosts=6)
    bench.at(103.0)
    keep_alive(bench, "h3", "h4", "h5", "h6")
    bench.at(104.1)
    for host in ("h1", "h2"):
        bench.see(
            PowerSeen(host=host, at=104.1, readings=(Reading(device="bmc", power=Power.UNKNOWN, at=104.1, wall=0.0),))
        )
    bench.see(NovaSeen(host="h1", at=104.1))
    bench.lookout.feel(Own())
    assert bench.lookout.sickness == 1


def test_at_first_a_controller_is_well_and_nothing_beside_the_hosts_was_asked() -> None:
    lookout = Bench().lookout
    assert (lookout.sickness, lookout.own) == (0, Own())
    assert lookout._beside(10.0) == Beside()
    assert lookout._detection("h1") is lookout.policy.hosts["h1"].detection


def test_nobody_volunteers_twice() -> None:
    """In domains of different sizes."""
    bench = Bench(hosts=5, racks=3)
    assert bench.lookout._volunteers("h1", 10) == ["h2", "h3", "h5", "h4"]
