"""S7: a crash at every boundary of the journal ends in the same final state as no crash, and nothing destructive is done twice.

The controller dies immediately before or immediately after its n-th journal write, for every n of a whole recovery.
"""

from __future__ import annotations

from functools import cache, partial

import msgspec
import pytest

from ha_agent.controller.engine import Engine
from ha_agent.decide import Decision, decide
from ha_agent.model import AnyEvent, Now, Resumed, State
from ha_agent.policy import Policy
from ha_agent.sim.loop import MakeEngine
from ha_agent.sim.simulation import Simulation
from ha_agent.store.memory import Moment
from tests.simulation.clouds import cloud

LIMIT_S = 600.0


def recover(crash: tuple[Moment, int] | None, make: MakeEngine = Engine) -> tuple[Simulation, int, int]:
    """One host dies and comes back. The world at the end, and the journal's writes from death to closure."""
    sim = cloud(make, hosts=4)
    first = sim.store.commits
    if crash is not None:
        sim.processes[0].crash_at.add((crash[0], first + crash[1]))
    sim.world.power_off("h2")
    sim.run(12.0)
    sim.run_until(lambda: sim.calm() and sim.world.nova.hosts["h2"].works, LIMIT_S)
    sim.run(70.0)  # Nova's own bookkeeping follows
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


def forgetful(state: State, event: AnyEvent, rules: Policy, now: Now) -> Decision:
    """A new life does not ask what became of the old one's intents."""
    if isinstance(event, Resumed):
        return Decision(
            state=msgspec.structs.replace(state, fleet=msgspec.structs.replace(state.fleet, epoch=event.epoch))
        )
    return decide(state, event, rules, now)


def test_intents_that_are_forgotten_show() -> None:
    """The planted bug of S7: the comparison can fail."""
    signature, writes = reference()
    make = partial(Engine, decide=forgetful)
    ends = [recover((Moment.AFTER, n), make)[0].signature() for n in range(4, writes, 6)]
    assert any(end != signature for end in ends)
