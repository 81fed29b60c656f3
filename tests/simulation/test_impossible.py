"""Pairs that are said to be impossible are struck all the same, and next to nothing comes of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ha_agent.controller.engine import Engine
from ha_agent.sim.impossible import DEVICES, reason
from ha_agent.sim.loop import MakeEngine
from ha_agent.sim.strikes import PAIRS, STEPS, Strike, strikes
from ha_agent.sim.timeline import VirtualClock

STAGES = 42  # every story three times
# The share of its strikes in which a pair may change something. A broken device shows where the look at its health, every 30 s, falls into the
# strike: 3 of 24 strikes once, 8 % of 531 in 861 stages more. A lag that begins with `verify` or `settle` puts off a look at the dead
# host: 3 % of 597 and 2 % of 333 there.
SHARE = {
    **{("unfence", fault): 0.15 for fault in DEVICES if fault != "BMC slow"},
    ("verify", "controller lags"): 0.1,
    ("settle", "controller lags"): 0.1,
}
# Of any other pair one is let pass, whichever it is: the person who switches hosts on waits until what is broken is mended, and may come
# a moment later than in the twin. One pair in 84 stages.
ONCE = 1


def test_what_is_called_impossible_changes_nothing() -> None:
    wanted: dict[str, list[str]] = {}
    for step, fault in PAIRS:
        if reason(step, fault):
            wanted.setdefault(step, []).append(fault)
    tried: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for seed in range(STAGES):
        for strike in strikes(seed, wanted):
            assert not strike.violations, strike.replay
            tried[f"{strike.step}/{strike.fault}"] += 1
            changed[f"{strike.step}/{strike.fault}"] += strike.changed
    assert set(tried) == {f"{step}/{fault}" for step in wanted for fault in wanted[step]}
    share = {f"{step}/{fault}": share for (step, fault), share in SHARE.items()}
    most = {pair: share[pair] * tried[pair] if pair in share else ONCE for pair in tried}
    assert {pair: changed[pair] for pair in tried if changed[pair] > most[pair]} == {}


# --- the wall clock ---


class Stepped:
    """A planted bug: durations go with the wall clock where somebody sets it."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock.now() + self._clock.wall_step_s

    def wall(self) -> float:
        return self._clock.wall()

    def boot_id(self) -> str:
        return self._clock.boot_id()


def by_the_wall_clock(*, clock: VirtualClock, **given: Any) -> Engine:
    return Engine(clock=Stepped(clock), **given)


def clock_steps(stages: int, make: MakeEngine = Engine) -> list[Strike]:
    """Somebody sets the wall clock, at every step of so many stages."""
    return [s for seed in range(stages) for s in strikes(seed, {step: ["clock stepped"] for step in STEPS}, make)]


def test_a_stepped_wall_clock_changes_nothing_at_all() -> None:
    struck = clock_steps(20)
    assert {s.step for s in struck} == set(STEPS)
    assert [s.replay for s in struck if s.changed or s.violations] == []


def test_an_engine_that_goes_by_the_wall_clock_is_noticed() -> None:
    assert any(s.changed for s in clock_steps(1, by_the_wall_clock))
