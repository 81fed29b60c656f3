"""S7: a crash at every boundary of the journal ends in the same final state as no crash, and nothing destructive is done twice.

The controller dies immediately before or immediately after its n-th journal write, for every n of a whole recovery.
"""

from __future__ import annotations

from functools import cache

import pytest

from ha_agent.sim.simulation import Simulation
from ha_agent.store.memory import Moment
from tests.simulation.clouds import cloud

LIMIT_S = 600.0


def recover(crash: tuple[Moment, int] | None) -> tuple[Simulation, int, int]:
    """One host dies and comes back. The world at the end, and the journal's writes from death to closure."""
    sim = cloud(hosts=4)
    first = sim.store.commits
    if crash is not None:
        sim.processes[0].crash_at.add((crash[0], first + crash[1]))
    sim.world.power_off("h2")
    sim.run(12.0)
    sim.run_until(lambda: sim.calm() and sim.world.nova.hosts["h2"].works, LIMIT_S)
    return sim, first, sim.store.commits


@cache
def reference() -> tuple[dict[str, object], int]:
    sim, first, last = recover(None)
    assert sim.violations == []
    assert sim.calm()
    return sim.signature(), last - first


def crash_at(moment: Moment, number: int) -> None:
    signature, _ = reference()
    sim, _, _ = recover((moment, number))
    assert [str(v) for v in sim.violations] == []
    assert sim.processes[0].lives == 2, "it did not crash"
    assert sim.signature() == signature
    evacuated = [server for _, server in sim.world.nova.evacuate_calls]
    assert len(evacuated) == len(set(evacuated)), "a server was evacuated twice"


def test_a_recovery_has_many_boundaries() -> None:
    assert reference()[1] > 20


@pytest.mark.parametrize("moment", list(Moment))
def test_a_crash_anywhere_changes_nothing(moment: Moment) -> None:
    for number in range(1, reference()[1] + 1):
        crash_at(moment, number)
