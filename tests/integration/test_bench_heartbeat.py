"""The heartbeat benchmark works: the same code, with few hosts and short times."""

from __future__ import annotations

from typing import Any

import pytest

from ha_agent.policy import Detection
from tests.benchmarks.heartbeat import FENCE, Options, judge, measure
from tests.benchmarks.heartbeat_report import Result, table

HOSTS = 20
QUICK = Options(
    detection=Detection(
        heartbeat_interval_s=0.5,
        suspect_after_s=1.5,
        down_after_s=3.0,
        probe_interval_s=0.8,
        probe_timeout_s=0.7,
        pause_s=1.0,
        verdict_max_age_s=3.0,
    ),
    calm_s=0.2,
    quiet_s=2.0,
    silences=2,
    stagger_s=1.0,
    yardstick_s=1.0,
)


async def test_the_dead_are_found_and_nobody_else() -> None:
    result = await measure(HOSTS, QUICK)
    assert result.harmless(), (result.false, result.latencies)
    assert result.silenced == result.fenced == len(result.latencies) == 2
    assert min(result.latencies) >= QUICK.detection.down_after_s, "found before it could be known"
    assert result.beats_s > HOSTS
    assert result.cpu > 0
    assert result.rss > 10
    assert result.yardstick_us > 0
    assert result.complete_s >= result.heard_s > 0
    assert "met" in table([result])


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ("most memory so far", {"rss": 500.0, "rss_most": 1100.0}),
        ("suspected in vain until then", {"restart_suspicions": 1}),
    ],
)
def test_a_goal_that_is_missed_is_told(row: str, fields: dict[str, Any]) -> None:
    """With as many hosts as the goals are for."""

    def told(**fields: Any) -> str:
        text = table([Result(hosts=5000, bound_s=11.5, yardstick_us=1.0, **fields)])
        return next(line for line in text.splitlines() if row in line)

    assert told().endswith("  met")
    assert told(**fields).endswith("NOT MET")


def test_a_healthy_host_that_is_harmed_is_told() -> None:
    farm = [{"silenced": "dead", "beat_at": 100.0}]
    verdict = {"verdict": "down", "reason": "no heartbeat", "at": 110.0}

    def judged(*lines: dict[str, object]) -> Result:
        result = Result(hosts=2, bound_s=11.5, silenced=1)
        judge(lines, farm, result)
        return result

    found = {"host": "dead", **verdict}
    assert judged(found).latencies == [10.0]
    assert judged(found, {"fenced": "dead", "at": 111.0}).harmless()
    assert not judged().harmless(), "the dead one was not found"
    assert not judged(found, {"host": "alive", **verdict}).harmless()
    assert not judged(found, {"fenced": "alive", "at": 111.0}).harmless()
    assert not judged({**found, "at": 99.0}).harmless(), "it was alive then"
    assert judged(found, {"host": "alive", **verdict, "verdict": "unknown"}).beside
    assert "down" in FENCE
