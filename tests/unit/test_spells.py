"""What people are told of a controller that is not well."""

from __future__ import annotations

import pytest

from ha_agent.controller.spells import LATELY_S, Spells


@pytest.mark.parametrize(
    ("pauses", "now_s", "trouble", "notes"),
    [
        ((), 100.0, "", []),
        ((100.0,), 100.0, "", ["this controller stood still once in the last 10 minutes"]),
        ((100.0, 200.0), 300.0, "", ["this controller stood still twice in the last 10 minutes"]),
        ((100.0, 200.0, 300.0), 300.0, "stood still 3 times in the last 10 minutes", []),
        ((100.0, 200.0, 300.0), 100.0 + LATELY_S, "3 times", []),
        ((100.0, 200.0, 300.0), 100.1 + LATELY_S, "", ["this controller stood still twice in the last 10 minutes"]),
        ((100.0, 200.0, 300.0), 1000.0, "", []),
    ],
)
def test_pauses_are_named_and_many_are_trouble(
    pauses: tuple[float, ...], now_s: float, trouble: str, notes: list[str]
) -> None:
    spells = Spells()
    for at in pauses:
        spells.paused(at)
    assert trouble in spells.trouble(now_s)
    assert bool(spells.trouble(now_s)) is bool(trouble)
    assert spells.notes(now_s) == notes
    assert spells.pauses == len(pauses)


@pytest.mark.parametrize(
    ("felt", "now_s", "says"),
    [
        ([(100.0, 1)], 500.0, ""),
        ([(100.0, 2)], 159.9, ""),
        ([(100.0, 2)], 160.0, "has not been well for 60 s"),
        ([(100.0, 2), (150.0, 8)], 400.0, "has not been well for 300 s"),
        ([(100.0, 2), (150.0, 1)], 160.0, ""),
        (
            [(at, n) for at in (100.0, 200.0, 300.0) for n in (4, 0)],
            310.0,
            "was not well 3 times in the last 10 minutes",
        ),
        ([(at, n) for at in (100.0, 200.0, 300.0) for n in (4, 0)], 701.0, ""),
    ],
)
def test_a_long_sickness_and_many_short_ones_are_noted(felt: list[tuple[float, int]], now_s: float, says: str) -> None:
    spells = Spells()
    for at, sickness in felt:
        spells.felt(sickness, at)
    notes = spells.notes(now_s)
    assert spells.trouble(now_s) == ""
    assert (says in notes[0], len(notes)) == (True, 1) if says else notes == []
