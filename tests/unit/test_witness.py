"""What is believed of a silent host, as a table."""

from __future__ import annotations

import msgspec
import pytest

from ha_agent import selfdoubt, witness
from ha_agent.model import Answer, ComputeService, Power, Reading, Verdict
from ha_agent.policy import Detection
from ha_agent.ports import Disconnected, Heartbeat, NovaSeen, PowerSeen, ProbeAnswered, Reported

D = Detection()
SILENT, TCP, SIGNED, FAILED = Answer.SILENT, Answer.TCP, Answer.SIGNED, Answer.FAILED


def alive(at: float = 100.0) -> witness.View:
    return witness.heard(witness.fresh("c1", 90.0), Heartbeat(host="c1", at=at, boot_id="b1"))


def ctx(now_s: float, doubt: str = "", detection: Detection = D) -> witness.Context:
    return witness.Context(now_s=now_s, detection=detection, doubt=doubt)


def suspect(*answers: Answer, silence: float = 12.0) -> witness.View:
    """Silent since 100, asked at 110, judged at 100 + silence."""
    view = witness.silent(alive(), ctx(104.0))
    names = tuple(f"w{i}" for i in range(len(answers)))
    view = witness.begin_round(view, "n", names, 100.0 + silence - 2)
    for name, answer in zip(names, answers, strict=True):
        view = witness.answered(view, ProbeAnswered(host="c1", at=0.0, witness=name, nonce="n", answer=answer))
    return view


def nova(view: witness.View, at: float, text: str) -> witness.View:
    return witness.nova_seen(
        view, NovaSeen(host="c1", at=at, service=ComputeService(id="1", host="c1", updated_at=text))
    )


def test_silence_makes_a_suspect_and_no_sooner() -> None:
    view = alive()
    assert witness.silent(view, ctx(103.9)) is view
    assert witness.silent(view, ctx(104.0)).verdict is Verdict.SUSPECT
    assert witness.next_look(view, D, 101.0) == 104.0


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ((SILENT,), Verdict.DOWN),
        ((SILENT, SILENT, SILENT), Verdict.DOWN),
        ((SILENT, SIGNED), Verdict.PARTITIONED),
        ((SILENT, TCP), Verdict.UNKNOWN),  # Nova cannot be read
        ((FAILED, FAILED), Verdict.UNKNOWN),
        ((SILENT, FAILED), Verdict.UNKNOWN),
        ((), Verdict.UNKNOWN),
    ],
)
def test_verdicts_by_what_the_witnesses_say(answers: tuple[Answer, ...], verdict: Verdict) -> None:
    judged = witness.judge(suspect(*answers), ctx(112.0))
    assert judged is not None
    assert judged[0] is verdict
    assert judged[1]


def test_no_verdict_before_the_full_suspicion_time_nor_from_an_unfinished_round() -> None:
    assert witness.judge(suspect(SILENT, silence=9.0), ctx(109.9)) is None
    waiting = witness.begin_round(witness.silent(alive(), ctx(104.0)), "n", ("w0",), 109.5)
    assert witness.judge(waiting, ctx(110.0)) is None
    late = witness.judge(waiting, ctx(109.5 + D.probe_timeout_s + witness.ANSWER_SLACK_S))
    assert late is not None
    assert late[0] is Verdict.UNKNOWN, "a witness that says nothing denies nothing"


def test_no_witness_is_enough_only_where_the_operator_said_so() -> None:
    none = msgspec.structs.replace(D, witnesses_min=0)
    judged = witness.judge(suspect(), ctx(112.0, detection=none))
    assert judged is not None
    assert judged[0] is Verdict.DOWN
    two = msgspec.structs.replace(D, witnesses_min=2)
    judged = witness.judge(suspect(SILENT, FAILED), ctx(112.0, detection=two))
    assert judged is not None
    assert judged[0] is Verdict.UNKNOWN


def test_a_report_to_nova_after_the_silence_began_is_a_sign_of_life() -> None:
    view = nova(nova(suspect(SILENT), 105.0, "t1"), 109.0, "t2")
    judged = witness.judge(view, ctx(112.0))
    assert judged is not None
    assert judged[0] is Verdict.PARTITIONED


def test_a_report_to_nova_ages_or_a_host_that_dies_after_one_would_never_be_fenced() -> None:
    view = nova(nova(suspect(SILENT, silence=60.0), 105.0, "t1"), 109.0, "t2")
    assert witness.judge(nova(view, 158.0, "t2"), ctx(160.0)) == (
        Verdict.DOWN,
        "no heartbeat for 60.0 s; w0 cannot reach it either",
    )


def test_tcp_with_nova_tells_a_lost_agent_from_a_hung_host() -> None:
    moved = nova(nova(suspect(TCP), 105.0, "t1"), 111.0, "t2")
    judged = witness.judge(moved, ctx(112.0))
    assert judged is not None
    assert judged[0] is Verdict.AGENT_LOST
    frozen = nova(nova(suspect(TCP, silence=70.0), 105.0, "t1"), 164.9, "t1")
    judged = witness.judge(frozen, ctx(170.0))
    assert judged is not None
    assert judged[0] is Verdict.UNKNOWN
    judged = witness.judge(nova(frozen, 165.0, "t1"), ctx(170.0))
    assert judged is not None
    assert judged[0] is Verdict.HUNG
    deaf = msgspec.structs.replace(ctx(170.0), nova_hears=False)
    judged = witness.judge(nova(frozen, 165.0, "t1"), deaf)
    assert judged is not None
    assert judged[0] is Verdict.UNKNOWN
    assert "nothing of other hosts either" in judged[1]
    stale = witness.judge(nova(frozen, 165.0, "t1"), ctx(190.0))
    assert stale is not None
    assert stale[0] is Verdict.UNKNOWN, "an old look at Nova says nothing"


def test_our_own_refused_connection_is_an_answer_of_its_kernel() -> None:
    view = witness.disconnected(suspect(SILENT), Disconnected(host="c1", at=111.0, answered=True))
    judged = witness.judge(view, ctx(112.0))
    assert judged is not None
    assert judged[0] is Verdict.UNKNOWN
    assert "this controller" in judged[1]


def test_off_is_a_verdict_only_if_every_device_reads_off() -> None:
    reads = (Reading(device="a", power=Power.OFF, at=105), Reading(device="b", power=Power.OFF, at=105))
    judged = witness.judge(
        witness.power_seen(suspect(SILENT), PowerSeen(host="c1", at=105, readings=reads)), ctx(112.0)
    )
    assert judged is not None
    assert judged[0] is Verdict.OFF
    unsure = (*reads[:1], Reading(device="b", power=Power.UNKNOWN, at=105))
    judged = witness.judge(
        witness.power_seen(suspect(SILENT), PowerSeen(host="c1", at=105, readings=unsure)), ctx(112.0)
    )
    assert judged is not None
    assert judged[0] is Verdict.DOWN


def test_doubt_in_ourselves_fences_nobody() -> None:
    judged = witness.judge(suspect(SILENT), ctx(112.0, doubt="5 of 6 hosts are silent"))
    assert judged is not None
    assert judged[0] is Verdict.UNKNOWN


def test_what_was_denied_before_our_doubt_ended_is_asked_again() -> None:
    """What ended the doubt may have ended the silence too."""
    view = suspect(SILENT)
    assert view.round is not None
    asked_at = view.round.at
    assert witness.judge(msgspec.structs.replace(view, doubted_at=asked_at), ctx(112.0)) is None
    again = witness.judge(msgspec.structs.replace(view, doubted_at=asked_at - 0.1), ctx(112.0))
    assert again is not None
    assert again[0] is Verdict.DOWN
    beat = Heartbeat(host="c1", at=113.0, boot_id=view.boot_id)
    assert witness.heard(msgspec.structs.replace(view, doubted_at=112.0), beat).doubted_at is None


@pytest.mark.parametrize(
    ("silent", "known", "doubts"),
    [
        (1, 6, False),
        (2, 6, False),
        (3, 6, False),
        (4, 6, True),
        (1, 1, False),
        (2, 2, True),
        (1, 2, False),
        (2, 3, False),
        (3, 3, True),
    ],
)
def test_the_formula_of_doubt(silent: int, known: int, doubts: bool) -> None:
    assert bool(selfdoubt.doubt(silent, known, D)) is doubts


def test_a_host_never_heard_is_never_down() -> None:
    view = witness.silent(witness.fresh("c1", 100.0), ctx(104.0))
    view = witness.begin_round(view, "n", ("w",), 105.0)
    view = witness.answered(view, ProbeAnswered(host="c1", at=0, witness="w", nonce="n", answer=SILENT))
    judged = witness.judge(view, ctx(112.0))
    assert judged is not None
    assert judged[0] is Verdict.NEVER_SEEN


def test_answers_of_another_round_or_of_strangers_do_not_count() -> None:
    view = witness.begin_round(witness.silent(alive(), ctx(104.0)), "n2", ("w0",), 110.0)
    for nonce, name in (("n1", "w0"), ("n2", "w9")):
        view = witness.answered(view, ProbeAnswered(host="c1", at=0, witness=name, nonce=nonce, answer=SILENT))
    assert view.round is not None
    assert view.round.answers == {}


def test_a_heartbeat_ends_the_suspicion_and_counts_it() -> None:
    view = witness.heard(suspect(SILENT), Heartbeat(host="c1", at=113.0, boot_id="b1"))
    assert (view.verdict, view.suspect_at, view.round, view.false_suspicions) == (Verdict.ALIVE, None, None, 1)
    assert witness.heard(suspect(SILENT), Heartbeat(host="c1", at=113.0, boot_id="b2")).false_suspicions == 0


def test_a_report_makes_a_suspect_at_once_but_nothing_more() -> None:
    view = witness.reported(alive(), Reported(host="c1", at=101.0, source="nagios", text="no ping"), D)
    view = witness.silent(view, ctx(101.0))
    assert view.verdict is Verdict.SUSPECT
    assert witness.judge(view, ctx(101.0)) is None


def test_who_may_speak_of_a_host() -> None:
    views = {h: msgspec.structs.replace(alive(109.0), host=h) for h in ("w1", "w2", "w3", "w4")}
    views["w3"] = witness.silent(msgspec.structs.replace(alive(100.0), host="w3"), ctx(109.0))  # a suspect itself
    target = witness.silent(alive(), ctx(104.0))
    reached = {"w1": 50.0, "w2": 60.0, "w3": 70.0, "gone": 70.0}
    domains = {"c1": "a", "w1": "a", "w2": "b"}
    assert witness.eligible(target, views, reached, domains, D, 110.0) == ("w2", "w1")
    one = msgspec.structs.replace(D, probes=1)
    assert witness.eligible(target, views, reached, domains, one, 110.0) == ("w2",)
    stale = {"w1": 104.0 - D.witness_fresh_s - 1}
    assert witness.eligible(target, views, stale, domains, D, 110.0) == ()


@pytest.mark.parametrize(
    ("word", "verdict"), [(SIGNED, Verdict.PARTITIONED), (TCP, Verdict.UNKNOWN), (SILENT, Verdict.DOWN)]
)
def test_who_reached_it_is_believed_before_the_others_have_answered(word: Answer, verdict: Verdict) -> None:
    """S5: the round before was denied by all, the current one has a signature and still waits for somebody."""
    view = suspect(SILENT, SILENT, silence=10.0)
    view = witness.begin_round(view, "later", ("w0", "w1"), 110.0)
    assert verdict_at(view, 110.3) is Verdict.DOWN, "a round that only waits says nothing"
    view = witness.answered(view, ProbeAnswered(host="c1", at=110.2, witness="w0", nonce="later", answer=word))
    assert verdict_at(view, 110.3) is verdict
    asked = witness.ripe(view, 110.3, D)
    assert asked is not None
    assert (asked.nonce == "later") is (word is not SILENT), "what it tells is told with its question"


def verdict_at(view: witness.View, now_s: float) -> Verdict | None:
    judged = witness.judge(view, ctx(now_s))
    return judged[0] if judged is not None else None
