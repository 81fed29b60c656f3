"""The benchmark of fencing works: the same code, with few BMCs. What it measures is judged by whoever reads it."""

from __future__ import annotations

import pytest

from tests.benchmarks import fencing
from tests.benchmarks.fencing_contender import CONTENDERS
from tests.integration.debian import need

pytestmark = [pytest.mark.root, pytest.mark.timeout(150)]


async def test_every_contender_proves_the_healthy_off_and_no_other() -> None:
    """`measure` asserts it."""
    need("ipmitool", "fence-agents")
    results = await fencing.measure([7], 8.0, lambda text: None)
    assert [(r.contender, r.bad) for r in results] == [(name, bad) for bad in (False, True) for name in CONTENDERS]
    for result in results:
        assert 0 < result.last_s < 9
        assert result.cpu_s > 0
    assert "fence_ipmilan" in fencing.table(results)


def test_who_hangs_and_who_refuses() -> None:
    assert fencing.kinds(20, bad=False) == ["good"] * 20
    kinds = fencing.kinds(20, bad=True)
    assert (kinds.count("hang"), kinds.count("refuse"), len(kinds)) == (2, 1, 20)
    assert fencing.kinds(1, bad=True) == ["good"]
