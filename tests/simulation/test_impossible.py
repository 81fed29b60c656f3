"""Pairs that are said to be impossible are struck all the same, and next to nothing comes of them."""

from __future__ import annotations

from collections import Counter

from ha_agent.sim.impossible import reason
from ha_agent.sim.strikes import PAIRS, strikes

STAGES = 20
SELDOM = 0.3  # a second failure of the story, or the look at a device's health, falls into the strike


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
    assert {pair: changed[pair] for pair in tried if changed[pair] > SELDOM * tried[pair]} == {}
    assert sum(changed.values()) < 0.05 * sum(tried.values())
