"""Planes: what a look over several of them comes to, who is asked, and what is believed of a host that has several."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from ha_agent import planes, witness
from ha_agent.model import Answer, Verdict
from ha_agent.planes import MANAGEMENT
from ha_agent.policy import Detection
from ha_agent.ports import Disconnected, Heartbeat, ProbeAnswered

D = Detection()
SILENT, TCP, SIGNED, FAILED = Answer.SILENT, Answer.TCP, Answer.SIGNED, Answer.FAILED
BOTH = {MANAGEMENT: ("w0", "w1"), "storage": ("w0", "w1")}
LOST = "; the management plane is lost"


@pytest.mark.parametrize(
    ("over", "word"),
    [
        ({}, FAILED),
        ({"a": SILENT}, SILENT),
        ({"a": SILENT, "b": SILENT}, SILENT),
        ({"a": SILENT, "b": FAILED}, FAILED),
        ({"a": FAILED, "b": TCP}, TCP),
        ({"a": TCP, "b": SIGNED, "c": FAILED}, SIGNED),
    ],
)
def test_many_planes_in_one_word(over: dict[str, Answer], word: Answer) -> None:
    assert planes.summed(over) is word


@pytest.mark.parametrize(
    ("over", "may_deny", "word"),
    [
        ({"a": SILENT, "b": FAILED}, ("a",), SILENT),  # it has no route over b and never reached the host there
        ({"a": SILENT, "b": FAILED}, ("a", "b"), FAILED),
        ({"a": SILENT}, ("a", "b"), FAILED),  # an older version: it tried one plane
        ({"a": SILENT, "b": SILENT}, (), FAILED),  # nobody asked for its denial
        ({"a": SILENT, "b": SIGNED}, ("a",), SIGNED),  # a yes needs no leave
        ({"a": SILENT, "b": TCP}, (), TCP),
    ],
)
def test_the_word_of_one_witness(over: dict[str, Answer], may_deny: tuple[str, ...], word: Answer) -> None:
    assert planes.word(over, may_deny) is word


@pytest.mark.parametrize(
    ("by_plane", "probes", "least", "asked"),
    [
        ({"m": "abc"}, 2, 1, "ab"),
        ({"m": "abc", "s": "abc"}, 2, 1, "ab"),
        ({"m": "abc", "s": "xyz"}, 4, 1, "axby"),
        ({"m": "abc", "s": "xyz"}, 1, 1, "ax"),  # each plane has its least
        ({"m": "abc", "s": "xyz"}, 2, 2, "axby"),
        ({"m": "abc", "s": ""}, 2, 1, "ab"),
        ({"m": "ab", "s": "ba", "t": "c"}, 2, 1, "abc"),
    ],
)
def test_whom_to_ask(by_plane: dict[str, str], probes: int, least: int, asked: str) -> None:
    assert "".join(planes.chosen(by_plane, probes, least)) == asked


def test_what_is_lost_and_what_answers() -> None:
    said = {
        "w0": {MANAGEMENT: SILENT, "storage": SIGNED, "tenant": FAILED},
        "w1": {MANAGEMENT: SILENT, "storage": SILENT, "tenant": FAILED},
    }
    assert planes.lost(said) == (MANAGEMENT,)
    assert planes.answering(said) == ("storage",)
    assert planes.lost({"w0": {MANAGEMENT: TCP}, "w1": {MANAGEMENT: SILENT}}) == ()


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), ""),
        (("a",), "; the a plane is lost"),
        (("a", "b"), "; the a and b planes are lost"),
        (("a", "b", "c"), "; the a, b and c planes are lost"),
    ],
)
def test_how_it_is_said(names: tuple[str, ...], text: str) -> None:
    assert planes.lost_text(names) == text


# --- what is believed ---


def judged(
    *said: dict[str, Answer],
    speakers: Mapping[str, tuple[str, ...]] = BOTH,
    own: dict[str, Answer] | None = None,
    detection: Detection = D,
    known: tuple[str, ...] = ("storage",),
    direct: bool = False,
) -> tuple[Verdict, str]:
    """Of a host that is silent since 12 s, asked by w0, w1 … and perhaps by this controller."""
    view = witness.heard(witness.fresh("c1", 90.0), Heartbeat(host="c1", at=100.0, boot_id="b1"))
    view = witness.silent(view, witness.Context(now_s=104.0, detection=detection))
    view = witness.begin_round_over(view, "n", speakers, "us", 110.0, detection)
    if direct:
        view = witness.disconnected(view, Disconnected(host="c1", at=110.0, answered=True))
    words = {f"w{i}": over for i, over in enumerate(said)} | ({"us": own} if own is not None else {})
    for name, over in words.items():
        answer = ProbeAnswered(host="c1", at=0.0, witness=name, nonce="n", answer=planes.summed(over), over=over)
        view = witness.answered(view, answer)
    late_s = 110.0 + detection.probe_timeout_s + witness.ANSWER_SLACK_S
    verdict = witness.judge(view, witness.Context(now_s=late_s, detection=detection, planes=known))
    assert verdict is not None
    return verdict[0], verdict[1].removeprefix("no heartbeat for 12.0 s").lstrip(",; ")


def over(management: Answer, storage: Answer) -> dict[str, Answer]:
    return {MANAGEMENT: management, "storage": storage}


def test_a_host_that_answers_over_any_plane_is_not_down() -> None:
    one = judged(over(SILENT, SIGNED), over(SILENT, SILENT))
    assert one == (Verdict.PARTITIONED, f"but w0 got a signed answer over storage{LOST}")
    both = judged(over(SIGNED, SIGNED), over(SILENT, SIGNED))
    assert both == (Verdict.PARTITIONED, "but w0, w1 got a signed answer over management and storage")
    other = judged(over(SIGNED, SILENT), over(SIGNED, SILENT))
    assert other[1] == "but w0, w1 got a signed answer over management; the storage plane is lost"


def test_it_is_down_where_every_plane_is_denied() -> None:
    assert judged(over(SILENT, SILENT), over(SILENT, SILENT)) == (
        Verdict.DOWN,
        "w0, w1 cannot reach it either; the management and storage planes are lost",
    )


@pytest.mark.parametrize(
    ("storage", "text"),
    [(FAILED, "0 of at least 1 witnesses could be asked over storage"), (None, "0 of at least 1 witnesses")],
    ids=["no route", "an older version"],
)
def test_a_plane_that_a_witness_could_not_try_is_not_denied(storage: Answer | None, text: str) -> None:
    said = {MANAGEMENT: SILENT} | ({"storage": storage} if storage is not None else {})
    verdict, reason = judged(said, said)
    assert verdict is Verdict.UNKNOWN
    assert text in reason
    assert judged(said, over(SILENT, SILENT)) == (Verdict.UNKNOWN, "w0 could not say over storage")


def test_each_plane_is_denied_by_who_may_speak_of_it() -> None:
    apart = {MANAGEMENT: ("w0",), "storage": ("w1",)}
    assert judged(over(SILENT, FAILED), over(FAILED, SILENT), speakers=apart) == (
        Verdict.DOWN,
        "w0, w1 cannot reach it either; the management and storage planes are lost",
    )
    verdict, reason = judged(over(SILENT, SILENT), over(FAILED, FAILED), speakers=apart)
    assert (verdict, reason) == (Verdict.UNKNOWN, "0 of at least 1 witnesses could be asked over storage")


def test_a_plane_that_nobody_may_speak_of_any_more_is_unknown() -> None:
    gone = {MANAGEMENT: ("w0", "w1"), "storage": ()}
    verdict, reason = judged(over(SILENT, SILENT), over(SILENT, SILENT), speakers=gone)
    assert (verdict, reason) == (Verdict.UNKNOWN, "0 of at least 1 witnesses could be asked over storage")
    alone = msgspec.structs.replace(D, witnesses_min=0)
    assert judged(over(SILENT, SILENT), over(SILENT, SILENT), speakers=gone, detection=alone)[0] is Verdict.DOWN


def test_a_plane_over_which_nobody_reached_it_holds_nothing_up() -> None:
    idle = {MANAGEMENT: ("w0", "w1")}
    assert judged(over(SILENT, FAILED), over(SILENT, SILENT), speakers=idle) == (
        Verdict.DOWN,
        "w0, w1 cannot reach it either; the management plane is lost (nobody had reached it over storage lately)",
    )
    assert judged(over(SILENT, SIGNED), over(SILENT, SILENT), speakers=idle)[0] is Verdict.PARTITIONED


def test_our_own_look_counts_where_it_succeeds_and_only_there() -> None:
    denied = (over(SILENT, SILENT), over(SILENT, SILENT))
    assert judged(*denied, own=over(SILENT, SIGNED)) == (
        Verdict.PARTITIONED,
        f"but this controller got a signed answer over storage{LOST}",
    )
    for no in (SILENT, FAILED):
        assert judged(*denied, own=over(SILENT, no))[0] is Verdict.DOWN
    nobody = {MANAGEMENT: (), "storage": ()}
    assert judged(own=over(SILENT, SILENT), speakers=nobody)[0] is Verdict.UNKNOWN


def test_a_kernel_that_answers_over_any_plane_is_half_alive() -> None:
    denied = over(SILENT, SILENT)
    verdict, reason = judged(over(SILENT, TCP), denied)
    assert (verdict, reason) == (Verdict.UNKNOWN, "its kernel answers TCP to w0, and Nova cannot be read")
    for direct in (False, True):
        reason = judged(denied, denied, own=over(SILENT, TCP), direct=direct)[1]
        assert reason == "its kernel answers TCP to this controller, and Nova cannot be read"


def test_our_own_look_is_waited_for() -> None:
    view = witness.heard(witness.fresh("c1", 90.0), Heartbeat(host="c1", at=100.0, boot_id="b1"))
    view = witness.silent(view, witness.Context(now_s=104.0, detection=D))
    view = witness.begin_round_over(view, "n", BOTH, "us", 110.0, D)
    for name in ("w0", "w1"):
        said = over(SILENT, SILENT)
        view = witness.answered(
            view, ProbeAnswered(host="c1", at=0.0, witness=name, nonce="n", answer=SILENT, over=said)
        )
    assert witness.ripe(view, 111.0, D) is None
    word = ProbeAnswered(host="c1", at=0.0, witness="us", nonce="n", answer=FAILED)
    assert witness.ripe(witness.answered(view, word), 111.0, D) is not None


def test_an_answer_of_an_older_version_is_of_the_management_plane() -> None:
    view = witness.heard(witness.fresh("c1", 90.0), Heartbeat(host="c1", at=100.0, boot_id="b1"))
    view = witness.silent(view, witness.Context(now_s=104.0, detection=D))
    view = witness.begin_round_over(view, "n", BOTH, "us", 110.0, D)
    view = witness.answered(view, ProbeAnswered(host="c1", at=0.0, witness="w0", nonce="n", answer=SILENT))
    assert view.round is not None
    assert view.round.over == {"w0": {MANAGEMENT: SILENT}}
    assert view.round.answers == {"w0": FAILED}
    assert witness.mute_over(view, "storage") == {"w0", "w1"}
    assert witness.mute_over(view, MANAGEMENT) == {"w1"}


def test_in_one_word_a_witness_denies_what_it_may_speak_of() -> None:
    view = witness.heard(witness.fresh("c1", 90.0), Heartbeat(host="c1", at=100.0, boot_id="b1"))
    view = witness.silent(view, witness.Context(now_s=104.0, detection=D))
    view = witness.begin_round_over(view, "n", {MANAGEMENT: ("w0",), "storage": ("w1",)}, "us", 110.0, D)
    for who in ("w0", "w1"):
        said = ProbeAnswered(host="c1", at=0.0, witness=who, nonce="n", answer=FAILED, over=over(SILENT, FAILED))
        view = witness.answered(view, said)
    assert view.round is not None
    assert view.round.answers == {"w0": SILENT, "w1": FAILED}
