"""A host whose heartbeats are irregular is suspected later, and judged no later than any other."""

from __future__ import annotations

import random

import msgspec
import pytest

from ha_agent import witness
from ha_agent.policy import Detection
from ha_agent.ports import Heartbeat
from ha_agent.rhythm import Rhythm
from tests.unit.test_witness import D, alive, ctx

MOST_S = 8.0  # 10 s until the verdict, less a probe of 1.5 s and its slack of 0.5 s


def beats(view: witness.View, *gaps_s: float, boot_id: str = "b1") -> witness.View:
    for gap_s in gaps_s:
        view = witness.heard(view, Heartbeat(host="c1", at=view.window_at + gap_s, boot_id=boot_id))
    return view


@pytest.mark.parametrize(
    ("gap_s", "dev_s", "peak_s", "after_s"),
    [
        (1.0, 0.0, 1.0, 4.0),
        (1.0, 0.5, 2.6, 4.0),
        (1.0, 0.5, 2.7, 4.5),
        (1.0, 0.55, 2.0, 4.5),
        (1.0, 0.7, 2.0, 5.0),
        (2.0, 0.9, 2.0, 7.5),
        (1.0, 0.1, 4.0, 6.0),
        (3.0, 0.9, 3.0, MOST_S),
        (1.0, 9.0, 3.0, MOST_S),
        (1.0, 0.0, 60.0, MOST_S),
    ],
)
def test_the_silence_that_makes_a_suspect(gap_s: float, dev_s: float, peak_s: float, after_s: float) -> None:
    known = Rhythm(mean_s=gap_s, dev_s=dev_s, peak_s=peak_s, gaps=16)
    view = msgspec.structs.replace(alive(), rhythm=known)
    early = msgspec.structs.replace(view, rhythm=msgspec.structs.replace(known, gaps=15))
    assert witness.suspect_after_s(early, D) == 4.0, "not known for long enough"
    assert witness.suspect_after_s(view, D) == after_s
    assert witness.next_look(view, D, 100.0) == 100.0 + after_s
    assert witness.silent(view, ctx(99.9 + after_s)) is view
    assert witness.silent(view, ctx(100.0 + after_s)).suspect_at == 100.0 + after_s


def test_where_there_is_no_room_before_the_verdict_it_stays_as_it_is() -> None:
    rough = msgspec.structs.replace(alive(), rhythm=Rhythm(mean_s=3.0, dev_s=3.0, peak_s=9.0, gaps=16))
    for down_after_s, after_s in ((5.0, 4.0), (6.0, 4.0), (6.25, 4.25)):
        tight = Detection(suspect_after_s=4.0, down_after_s=down_after_s)
        assert witness.suspect_after_s(rough, tight) == after_s


def test_the_rhythm_is_learnt_and_forgotten() -> None:
    assert alive().rhythm is None, "one heartbeat has no rhythm"
    assert beats(alive(), 1.0).rhythm == Rhythm(mean_s=1.0, dev_s=0.0, peak_s=1.0, gaps=1)
    assert beats(alive(), 1.0, 3.0).rhythm == Rhythm(mean_s=1.125, dev_s=0.125, peak_s=3.0, gaps=2)
    fading = beats(alive(), 1.0, 3.0, 1.125).rhythm
    assert fading == Rhythm(mean_s=1.125, dev_s=0.125 * 15 / 16, peak_s=3.0 * 0.995, gaps=3)
    steady = beats(alive(), *[1.0] * 50)
    assert steady.rhythm == Rhythm(mean_s=1.0, dev_s=0.0, peak_s=1.0, gaps=16)
    rough = beats(steady, *[0.5, 3.5] * 40)
    assert rough.rhythm is not None
    assert rough.rhythm.mean_s == pytest.approx(2.0, abs=0.2)
    assert rough.rhythm.dev_s == pytest.approx(1.5, abs=0.2)
    assert witness.suspect_after_s(rough, D) == MOST_S
    assert witness.suspect_after_s(beats(rough, *[1.0] * 60), D) == 4.0


def test_a_new_boot_and_a_restart_of_ours_begin_a_new_rhythm() -> None:
    steady = beats(alive(), *[1.0] * 50)
    assert beats(steady, 1.0, boot_id="b2").rhythm is None
    remembered = witness.fresh("c1", 90.0, seen=True, boot_id="b1")
    assert beats(remembered, 7.0).rhythm is None, "it was heard for the first time since"


def test_neither_a_pause_of_ours_nor_a_long_silence_is_in_the_rhythm() -> None:
    steady = beats(alive(), *[1.0] * 50)
    paused = beats(msgspec.structs.replace(steady, window_at=steady.window_at + 30.0), 0.5)
    assert paused.rhythm is not None
    assert paused.rhythm.dev_s < 0.1
    suspected = witness.silent(steady, ctx(steady.window_at + 4.0))
    back = witness.heard(suspected, Heartbeat(host="c1", at=steady.window_at + 40.0, boot_id="b1"))
    assert back.rhythm is not None
    assert back.rhythm.mean_s == pytest.approx(1.0 + 3.0 / 16)


def test_a_bad_line_is_suspected_more_rarely() -> None:
    """Every heartbeat may be lost several times over: each loss costs a retransmission, twice as long as the one before."""

    def suspicions(*, adapts: bool) -> int:
        chance, view, count = random.Random(7), alive(), 0
        for _ in range(20_000):
            gap_s, rto_s = 1.0, 0.4
            while chance.random() < 0.3:
                gap_s, rto_s = gap_s + rto_s, 2 * rto_s
            if not adapts:
                view = msgspec.structs.replace(view, rhythm=None)
            at = view.window_at + gap_s
            suspect = witness.silent(view, ctx(at))
            count += suspect.suspect_at is not None
            view = witness.heard(suspect, Heartbeat(host="c1", at=at, boot_id="b1"))
        return count

    fixed, adaptive = suspicions(adapts=False), suspicions(adapts=True)
    assert fixed > 100
    assert adaptive < 0.7 * fixed, "what is longer than the verdict takes stays suspicious"
