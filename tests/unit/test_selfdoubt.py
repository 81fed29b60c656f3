"""Whether what a controller sees may be its own sickness: a table for each formula."""

from __future__ import annotations

import pytest

from ha_agent.policy import Detection
from ha_agent.selfdoubt import WORST, Beside, Own, doubt, patience, patient, remembered, sickness

D = Detection()
NOW_S = 1000.0


@pytest.mark.parametrize(
    ("lag_s", "before_s", "gone_s", "now_s"),
    [
        (0.0, 0.0, 1.0, 0.0),
        (0.3, 0.0, 1.0, 0.3),
        (0.0, 2.0, 0.0, 2.0),
        (0.0, 2.0, 5.0, 1.0),
        (0.0, 2.0, 10.0, 0.5),
        (1.5, 2.0, 5.0, 1.5),
        (0.0, 2.0, -3.0, 2.0),  # a clock never goes back; if it did, nothing is forgotten
    ],
)
def test_a_lag_is_forgotten_by_half_and_half_again(lag_s: float, before_s: float, gone_s: float, now_s: float) -> None:
    assert remembered(lag_s, before_s, gone_s) == pytest.approx(now_s)


@pytest.mark.parametrize(
    ("own", "beside", "points"),
    [
        (Own(), Beside(), 0),
        (Own(lag_s=0.49), Beside(), 0),
        (Own(lag_s=0.5), Beside(), 1),
        (Own(lag_s=1.9), Beside(), 3),
        (Own(lag_s=60.0), Beside(), 4),
        (Own(no_carrier=(("eth1", NOW_S - 60.0),)), Beside(), 2),
        (Own(no_carrier=(("eth1", NOW_S), ("eth2", NOW_S - 61.0))), Beside(), 2),
        (Own(gateway_lost_at=NOW_S - 60.0), Beside(), 1),
        (Own(gateway_lost_at=NOW_S - 60.1), Beside(nova=False), 0),  # long ago: it explains nothing new
        (Own(no_carrier=(("eth1", NOW_S - 60.1),)), Beside(), 0),
        (Own(), Beside(nova=False), 0),
        (Own(), Beside(bmcs_mute=3), 0),
        (Own(), Beside(nova=False, bmcs_mute=1), 0),
        (Own(), Beside(nova=False, bmcs_mute=2), 1),
        (Own(), Beside(nova=None, bmcs_mute=2), 0),
        (Own(), Beside(nova=False, bmcs=1, bmcs_mute=3), 0),
        (
            Own(lag_s=9.0, no_carrier=(("e", NOW_S),), gateway_lost_at=NOW_S - 60.0),
            Beside(nova=False, bmcs_mute=2),
            WORST,
        ),
    ],
)
def test_how_sick_it_is(own: Own, beside: Beside, points: int) -> None:
    assert sickness(own, beside, NOW_S) == points


@pytest.mark.parametrize(("sick", "factor"), [(-1, 1.0), (0, 1.0), (2, 1.25), (4, 1.5), (8, 2.0), (99, 2.0)])
def test_the_sick_are_patient(sick: int, factor: float) -> None:
    assert patience(sick) == factor
    longer = patient(D, factor)
    assert (longer.suspect_after_s, longer.down_after_s) == (4.0 * factor, 10.0 * factor)
    assert longer.heartbeat_interval_s == D.heartbeat_interval_s


@pytest.mark.parametrize(
    ("silent", "known", "own", "beside", "says"),
    [
        (1, 1, Own(), Beside(), ""),  # a cloud of one host: nobody else could be heard either
        (1, 2, Own(), Beside(), ""),
        (2, 2, Own(), Beside(), "all 2 hosts"),
        (2, 3, Own(), Beside(), ""),
        (3, 5, Own(), Beside(), "3 of 5 hosts"),
        (3, 6, Own(), Beside(), ""),
        (1, 9, Own(no_carrier=(("eth1", NOW_S - 60.0),)), Beside(), ""),  # one host may well be dead beside it
        (2, 9, Own(no_carrier=(("eth1", NOW_S - 60.0),)), Beside(), "eth1 has no carrier"),
        (2, 9, Own(gateway_lost_at=NOW_S - 60.0), Beside(), ""),
        (2, 9, Own(gateway_lost_at=NOW_S - 60.0), Beside(nova=True), ""),
        (2, 9, Own(gateway_lost_at=NOW_S - 60.0), Beside(nova=False), "neither Nova nor this controller's gateway"),
        (1, 9, Own(gateway_lost_at=NOW_S - 60.0), Beside(nova=False), ""),
        (2, 9, Own(no_carrier=(("eth1", NOW_S - 60.1),)), Beside(), ""),  # these two died since (L1)
        (2, 9, Own(gateway_lost_at=NOW_S - 60.1), Beside(nova=False), ""),
        (2, 9, Own(), Beside(nova=False), ""),
        (2, 9, Own(), Beside(bmcs_mute=2), ""),
        (2, 9, Own(), Beside(bmcs_mute=2, nova=True), ""),  # a rack without power
        (2, 9, Own(), Beside(bmcs_mute=2, nova=False), "neither a device of theirs nor Nova"),
        (2, 9, Own(), Beside(bmcs=1, bmcs_mute=1, nova=False), ""),
        (2, 9, Own(), Beside(bmcs_mute=2, nova=None), ""),  # not tried: unknown is never "yes"
    ],
)
def test_when_it_doubts_itself(silent: int, known: int, own: Own, beside: Beside, says: str) -> None:
    found = doubt(silent, known, D, own, beside, NOW_S)
    assert says in found
    assert bool(found) is bool(says)
