"""When the witness looks, at whom, and how long what it saw is worth something: each bound at its very second."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent import selfdoubt, witness
from ha_agent.model import Answer, ComputeService, Health, Power, Reading, Verdict
from ha_agent.ports import Disconnected, Heartbeat, NovaSeen, PowerSeen, ProbeAnswered, Reported
from tests.unit.test_witness import SIGNED, SILENT, TCP, D, alive, ctx, nova, suspect

SUSPECT = witness.silent(alive(), ctx(104.0))


def judged(view: witness.View, now_s: float) -> Verdict | None:
    result = witness.judge(view, ctx(now_s))
    return result[0] if result is not None else None


def answer(view: witness.View, name: str, nonce: str, what: Answer = SILENT) -> witness.View:
    return witness.answered(view, ProbeAnswered(host="c1", at=0.0, witness=name, nonce=nonce, answer=what))


# --- what is known of a host ---


def test_at_our_start_nothing_is_known_of_a_host() -> None:
    view = witness.fresh("c1", 100.0)
    assert (view.verdict, view.seen, view.window_at) == (Verdict.NEVER_SEEN, False, 100.0)
    assert (view.nova_compute, view.libvirt, view.waiting_gate) == (Health.UNKNOWN, Health.UNKNOWN, False)
    assert (view.connected, view.rtt_s, view.misses, view.false_suspicions) == (False, 0.0, 0, 0)


def test_a_host_that_was_heard_in_an_earlier_life_of_ours_counts_as_alive_for_one_window() -> None:
    view = witness.fresh("c1", 100.0, seen=True, boot_id="b1")
    assert (view.verdict, view.seen, view.boot_id) == (Verdict.ALIVE, True, "b1")


def test_a_heartbeat_says_how_the_host_is() -> None:
    beat = Heartbeat(host="c1", at=100.0, boot_id="b1", nova_compute=Health.UP, libvirt=Health.DOWN, rtt_s=0.1)
    view = witness.heard(witness.fresh("c1", 90.0), msgspec.structs.replace(beat, waiting_gate=True, machine="m"))
    assert (view.nova_compute, view.libvirt, view.waiting_gate) == (Health.UP, Health.DOWN, True)
    assert (view.connected, view.rtt_s, view.machine, view.window_at) == (True, 0.1, "m", 100.0)
    assert witness.heard(view, beat).machine == "m", "a frame that does not name the machine takes nothing back"


def test_a_connection_that_ended_is_counted_and_nothing_more() -> None:
    view = witness.disconnected(alive(), Disconnected(host="c1", at=101.0, answered=False))
    assert (view.connected, view.misses, view.direct_tcp_at, view.verdict) == (False, 1, None, Verdict.ALIVE)


def test_false_suspicions_are_counted_only_where_the_host_was_a_suspect() -> None:
    beat = Heartbeat(host="c1", at=113.0, boot_id="b1")
    assert witness.heard(alive(), beat).false_suspicions == 0
    unknown_boot = witness.silent(witness.fresh("c1", 90.0, seen=True), ctx(104.0))
    assert witness.heard(unknown_boot, beat).false_suspicions == 1


def test_readings_mean_something_only_during_a_suspicion() -> None:
    reads = PowerSeen(host="c1", at=105, readings=(Reading(device="a", power=Power.OFF, at=105),))
    assert witness.power_seen(alive(), reads).power == ()
    assert witness.power_seen(SUSPECT, reads).power == reads.readings


# --- Nova's row ---


def test_nova_is_looked_at_only_during_a_suspicion_and_only_where_it_says_something() -> None:
    assert nova(alive(), 105.0, "t1").nova_base is None
    nothing = (None, ComputeService(id="1", host="c1", updated_at=""))
    for service in nothing:
        tried = msgspec.structs.replace(SUSPECT, nova_tried_at=105.0)
        assert witness.nova_seen(SUSPECT, NovaSeen(host="c1", at=105.0, service=service)) == tried
    assert witness.nova_seen(alive(), NovaSeen(host="c1", at=105.0)) == alive()


def test_the_first_row_is_the_base_and_a_later_change_is_a_sign_of_life() -> None:
    first = nova(SUSPECT, 105.0, "t1")
    assert (first.nova_base, first.nova_base_at, first.nova_at, first.nova_moved_at) == ("t1", 105.0, 105.0, None)
    same = nova(first, 106.0, "t1")
    assert (same.nova_base_at, same.nova_at, same.nova_moved_at) == (105.0, 106.0, None)
    moved = nova(same, 107.0, "t2")
    assert (moved.nova_base, moved.nova_base_at, moved.nova_at, moved.nova_moved_at) == ("t2", 107.0, 107.0, 107.0)


# --- reports ---


def report(view: witness.View, at: float = 101.0) -> witness.View:
    return witness.reported(view, Reported(host="c1", at=at, source="nagios", text="no ping"), D)


def test_a_report_names_its_source_as_the_reason_of_the_suspicion() -> None:
    assert witness.silent(report(alive()), ctx(101.0)).reason == "nagios: no ping"
    assert SUSPECT.reason == "no heartbeat for 4.0 s"


def test_a_report_never_shortens_a_silence_that_was_already_counted() -> None:
    assert report(alive(), at=101.0).window_at == 97.0
    assert report(alive(), at=105.0).window_at == 100.0


def test_a_report_of_a_suspect_or_of_a_host_never_heard_changes_nothing() -> None:
    assert report(SUSPECT) == SUSPECT
    unknown = witness.fresh("c1", 100.0)
    assert report(unknown) == unknown


# --- when to look ---


def test_a_suspect_without_a_round_is_looked_at_at_once() -> None:
    assert witness.next_look(SUSPECT, D, 104.0) == 104.0
    assert witness.wants_round(SUSPECT, ctx(104.0))
    assert not witness.wants_round(alive(), ctx(103.0))


@pytest.mark.parametrize(
    ("asked_at", "answered", "now_s", "wants"),
    [
        (108.1, True, 109.9, False),
        (108.1, True, 110.0, True),
        (108.1, False, 110.0, False),  # one round at a time
        (109.9, True, 110.0, True),
        (110.0, True, 110.1, False),  # this was the last one
        (110.0, True, 111.9, False),
        (110.0, True, 112.0, True),
    ],
)
def test_the_witnesses_are_asked_once_more_before_the_first_verdict(
    asked_at: float, answered: bool, now_s: float, wants: bool
) -> None:
    view = witness.begin_round(SUSPECT, "n", ("w0",), asked_at)
    if answered:
        view = answer(view, "w0", "n")
    assert witness.wants_round(view, ctx(now_s)) is wants


@pytest.mark.parametrize(
    ("asked_at", "now_s", "at"),
    [
        (104.0, 104.0, 106.0),  # the end of the time of the witnesses, and the next round
        (104.0, 106.0, 109.0),  # Nova is asked once more
        (104.0, 109.0, 110.0),  # the full suspicion time
        (109.0, 109.5, 110.0),
        (109.0, 110.0, 110.2),  # a yes of the last round is not waited for any longer
        (109.0, 110.2, 110.3),  # nor is Nova
        (109.0, 110.3, 111.0),
        (110.5, 110.6, 110.7),
        (110.9, 110.9, 111.0),
        (109.0, 111.0, 111.0),  # everything is over: now
    ],
)
def test_the_next_look_is_at_the_next_second_that_changes_something(asked_at: float, now_s: float, at: float) -> None:
    assert witness.next_look(witness.begin_round(SUSPECT, "n", ("w0",), asked_at), D, now_s) == at


def test_a_long_time_out_of_the_witnesses_puts_off_the_next_round() -> None:
    slow = msgspec.structs.replace(D, probe_timeout_s=3.0)
    view = witness.begin_round(SUSPECT, "n", ("w0",), 112.0)
    assert witness.next_look(view, slow, 112.0) == 115.5
    assert not witness.wants_round(view, ctx(115.4, detection=slow))
    assert witness.wants_round(view, ctx(115.5, detection=slow))
    assert witness.wants_round(answer(view, "w0", "n"), ctx(114.0, detection=slow)), "all have answered"


def test_the_next_round_begins_at_its_interval_and_no_sooner() -> None:
    view = answer(witness.begin_round(SUSPECT, "n", ("w0",), 104.0), "w0", "n")
    assert not witness.wants_round(view, ctx(105.9))
    assert witness.wants_round(view, ctx(106.0))


def test_a_round_is_complete_when_all_have_answered_or_had_the_time_to() -> None:
    view = witness.begin_round(SUSPECT, "n", ("w0", "w1"), 104.0)
    half = answer(view, "w0", "n").round
    both = answer(answer(view, "w0", "n"), "w1", "n").round
    assert half is not None
    assert both is not None
    assert not half.complete(105.9, D)
    assert half.complete(106.0, D), "1.5 s to try, and half a second for the answer to arrive"
    assert both.complete(104.0, D)


def test_who_could_not_say_is_who_denied_nothing() -> None:
    assert witness.could_not_say(SUSPECT) == frozenset()
    view = witness.begin_round(SUSPECT, "n", ("w0", "w1", "w2", "w3"), 104.0)
    for name, what in (("w0", SILENT), ("w1", Answer.FAILED), ("w2", SIGNED)):
        view = answer(view, name, "n", what)
    assert witness.could_not_say(view) == {"w1", "w3"}


# --- the verdict ---


def test_only_a_suspect_is_judged() -> None:
    assert judged(suspect(SILENT), 112.0) is Verdict.DOWN
    assert judged(msgspec.structs.replace(suspect(SILENT), suspect_at=None), 112.0) is None


def test_the_full_suspicion_time_is_enough() -> None:
    assert judged(suspect(SILENT, silence=10.0), 109.9) is None
    last = asked_last()
    tried = msgspec.structs.replace(last, nova_tried_at=108.5)
    assert judged(answer(tried, "w0", "last"), 110.0) is Verdict.DOWN
    late = answer(msgspec.structs.replace(last, nova_tried_at=108.4), "w0", "last")
    assert judged(late, 110.0) is None, "it may have reported since"
    assert (judged(late, 110.29), judged(late, 110.3)) == (None, Verdict.DOWN), "what does not answer is not waited for"
    assert judged(suspect(SIGNED, silence=10.0), 110.0) is Verdict.PARTITIONED, "that is known without Nova"


def asked_last() -> witness.View:
    """All denied it before; at the end of the full suspicion time they are asked once more."""
    return witness.begin_round(suspect(SILENT, silence=10.0), "last", ("w0",), 110.0)


def test_a_yes_of_the_last_round_is_waited_for_a_moment() -> None:
    """S5: a path that heals in the moment of the verdict. A denial takes longer than that, and says what is known already."""
    before = msgspec.structs.replace(suspect(SILENT, silence=10.0), nova_tried_at=109.0)
    assert judged(before, 110.0) is None
    assert (judged(before, 110.9), judged(before, 111.0)) == (None, Verdict.DOWN), "it could not begin for long"
    view = msgspec.structs.replace(asked_last(), nova_tried_at=109.0)
    assert (judged(view, 110.19), judged(view, 110.2)) == (None, Verdict.DOWN)
    assert judged(answer(view, "w0", "last", SIGNED), 110.1) is Verdict.PARTITIONED
    for known in (Verdict.DOWN, Verdict.OFF):
        assert judged(msgspec.structs.replace(view, verdict=known), 110.1) is Verdict.DOWN, "only the first time"
    wan = msgspec.structs.replace(D, down_after_s=30.0)
    assert witness.last_round_s(wan) == 0.6


def test_nova_is_asked_once_more_before_the_first_verdict() -> None:
    view = suspect(SILENT, silence=10.0)
    assert not witness.wants_row(view, 108.9, D)
    assert witness.wants_row(view, 109.0, D)
    assert witness.wants_row(msgspec.structs.replace(view, row_asked_at=108.9), 109.0, D)
    assert not witness.wants_row(msgspec.structs.replace(view, row_asked_at=109.0), 112.0, D)
    assert not witness.wants_row(alive(), 120.0, D)


def test_while_a_round_runs_the_last_complete_one_counts() -> None:
    view = witness.begin_round(suspect(SIGNED), "n2", ("w0",), 112.0)
    assert judged(view, 112.5) is Verdict.PARTITIONED
    assert judged(answer(view, "w0", "n2"), 112.5) is Verdict.DOWN


def test_a_round_that_was_cut_short_counts_for_nothing() -> None:
    view = witness.begin_round(SUSPECT, "n1", ("w0",), 110.0)
    view = witness.begin_round(view, "n2", ("w0",), 110.5)
    assert judged(view, 111.0) is None


def test_without_a_round_there_is_no_verdict() -> None:
    assert judged(SUSPECT, 112.0) is None


def test_a_host_never_heard_is_no_suspect_but_stays_never_seen() -> None:
    assert witness.silent(witness.fresh("c1", 100.0), ctx(104.0)).verdict is Verdict.NEVER_SEEN


def test_our_own_refused_connection_ages() -> None:
    refused = witness.disconnected(suspect(SILENT), Disconnected(host="c1", at=105.0, answered=True))
    assert judged(refused, 112.0) is Verdict.UNKNOWN, "five seconds and one interval of the probes"
    assert judged(refused, 112.1) is Verdict.DOWN


def test_a_sign_of_life_in_nova_ages_after_two_reports_and_some_slack() -> None:
    view = nova(nova(suspect(SILENT, silence=40.0), 105.0, "t1"), 109.0, "t2")
    assert judged(view, 134.0) is Verdict.PARTITIONED
    assert judged(view, 134.1) is Verdict.DOWN


def test_while_the_kernel_answers_a_look_at_nova_must_be_young() -> None:
    view = nova(nova(suspect(TCP, silence=80.0), 105.0, "t1"), 170.0, "t1")
    assert judged(view, 180.0) is Verdict.HUNG
    assert judged(view, 180.1) is Verdict.UNKNOWN


def test_while_the_kernel_answers_nova_must_have_been_read() -> None:
    view = nova(suspect(TCP), 105.0, "t1")
    assert judged(msgspec.structs.replace(view, nova_at=None), 112.0) is Verdict.UNKNOWN
    assert judged(msgspec.structs.replace(view, nova_base_at=None), 112.0) is Verdict.UNKNOWN


def test_a_rare_probe_makes_an_old_look_at_nova_good_enough() -> None:
    rare = msgspec.structs.replace(D, probe_interval_s=6.0)
    view = nova(nova(suspect(TCP, silence=80.0), 105.0, "t1"), 170.0, "t1")
    for now_s, verdict in ((182.0, Verdict.HUNG), (182.1, Verdict.UNKNOWN)):
        result = witness.judge(view, ctx(now_s, detection=rare))
        assert result is not None
        assert result[0] is verdict


def test_a_few_witnesses_are_named_and_of_many_the_number() -> None:
    three = witness.judge(suspect(*[SIGNED] * 3), ctx(112.0))
    four = witness.judge(suspect(*[SIGNED] * 4), ctx(112.0))
    assert three is not None
    assert "but w0, w1, w2 got" in three[1]
    assert four is not None
    assert "but w0, w1, w2 and 1 more got" in four[1]


def test_our_network_is_doubted_from_the_least_number_on() -> None:
    for silent, doubts in ((2, False), (3, True)):
        assert bool(selfdoubt.doubt(silent, 4, D)) is doubts


# --- who may speak ---


def eligible(now_s: float = 110.0, at: float = 109.0, **changes: object) -> tuple[str, ...]:
    target = SUSPECT
    view = msgspec.structs.replace(alive(109.0), host="w1", **changes)
    return witness.eligible(target, {"w1": view, "c1": alive(109.0)}, {"w1": at, "c1": 109.0}, {}, D, now_s)


def test_a_host_does_not_speak_of_itself() -> None:
    assert eligible() == ("w1",)


def test_a_witness_must_be_fresh_itself() -> None:
    assert eligible(112.9) == ("w1",)
    assert eligible(113.0) == ()
    assert eligible(suspect_at=109.5) == ()
    assert eligible(heard_at=None) == ()
    assert eligible(3.0, heard_at=None) == (), "in the first seconds of our own machine, too"


def test_a_witness_must_have_reached_the_target_before_it_fell_silent() -> None:
    """Recently, as seen from when its silence began at 104."""
    assert eligible(at=104.0 - 300.0) == ("w1",)
    assert eligible(at=104.0 - 300.1) == ()


# --- whether Nova can be believed ---


def test_whether_a_kernel_answers_is_said_by_the_last_round_and_lately_by_ourselves() -> None:
    assert not witness.answers_tcp(alive(), 112.0)
    asked = suspect(TCP)
    assert not witness.answers_tcp(asked, 112.0), "its round is not judged yet"
    assert witness.answers_tcp(witness.begin_round(asked, "n2", ("w0",), 112.0), 112.0)
    assert not witness.answers_tcp(witness.begin_round(suspect(SILENT), "n2", ("w0",), 112.0), 112.0)
    refused = witness.disconnected(alive(), Disconnected(host="c1", at=105.0, answered=True))
    assert witness.answers_tcp(refused, 110.0)
    assert not witness.answers_tcp(refused, 110.1)


@pytest.mark.parametrize(
    ("hears", "frozen_s", "verdict", "why"),
    [
        (True, 60.0, Verdict.HUNG, "nothing else moves"),
        (True, 59.9, Verdict.UNKNOWN, "of 60 s"),
        (False, 60.0, Verdict.UNKNOWN, "Nova hears nothing of other hosts either"),
        (False, 59.9, Verdict.UNKNOWN, "of 60 s"),
    ],
)
def test_a_host_is_hung_only_where_nova_hears_others(hears: bool, frozen_s: float, verdict: Verdict, why: str) -> None:
    view = nova(nova(suspect(TCP, silence=80.0), 105.0, "t1"), 105.0 + frozen_s, "t1")
    result = witness.judge(view, msgspec.structs.replace(ctx(172.0), nova_hears=hears))
    assert result is not None
    assert result[0] is verdict
    assert why in result[1]


def test_a_host_whose_programs_speak_is_not_hung() -> None:
    """Its certificate is refused, and Nova hears nothing of it either: its nova-compute is being upgraded, for instance."""
    frozen = nova(nova(suspect(TCP, silence=170.0), 105.0, "t1"), 170.0, "t1")
    refused = Disconnected(host="c1", at=168.0, answered=True, spoke=True, error="certificate has expired")
    speaks = witness.disconnected(frozen, refused)
    result = witness.judge(speaks, ctx(172.0))
    assert result is not None
    assert result[0] is Verdict.AGENT_LOST
    assert "a program there answers, but with nothing that is trusted" in result[1]
    assert judged(speaks, 175.0) is Verdict.AGENT_LOST
    later = witness.disconnected(speaks, Disconnected(host="c1", at=175.0, answered=True))
    assert judged(nova(later, 175.1, "t1"), 175.1) is Verdict.UNKNOWN, "since then it may stand still"
    for now_s, verdict in ((227.9, Verdict.UNKNOWN), (228.0, Verdict.HUNG)):
        assert judged(nova(later, now_s, "t1"), now_s) is verdict
    assert witness.heard(speaks, Heartbeat(host="c1", at=176.0, boot_id="b1")).spoke_at is None


def test_a_kernel_that_answered_in_this_silence_is_not_called_down_without_nova() -> None:
    """S9: the queue of a remote that stands still runs full, and then nobody gets an answer any more."""
    early = witness.begin_round(SUSPECT, "n1", ("w0",), 104.0)
    hung = answer(early, "w0", "n1", TCP)
    silent = answer(witness.begin_round(hung, "n2", ("w0",), 112.0), "w0", "n2")
    assert judged(silent, 114.0) is Verdict.UNKNOWN
    assert judged(nova(silent, 113.0, "t1"), 114.0) is Verdict.DOWN, "Nova can be read, and heard nothing"
    assert judged(nova(silent, 103.9, "t1"), 114.0) is Verdict.UNKNOWN, "it could be read once"
    off = Reading(device="bmc", power=Power.OFF, at=113.0)
    assert judged(witness.power_seen(silent, PowerSeen(host="c1", at=113.0, readings=(off,))), 114.0) is Verdict.OFF
    never = answer(witness.begin_round(SUSPECT, "n2", ("w0",), 112.0), "w0", "n2")
    assert judged(never, 114.0) is Verdict.DOWN
    assert witness.heard(silent, Heartbeat(host="c1", at=115.0, boot_id="b1")).tcp_at is None
