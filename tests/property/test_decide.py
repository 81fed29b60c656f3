"""`decide` on any sequence of events."""

from __future__ import annotations

import random

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ha_agent.model import CommandKind, Step
from ha_agent.notify.catalogue import EVENTS
from tests.property.conftest import TIMES
from tests.property.walk import Tape, Walk

LENGTH = 600
NOT_BY_DECIDE = {"fencing_device.restored", "host.evacuation.error"}


# A tape is not worth shrinking: the failure names the last events, and the seed plays it again.
@settings(max_examples=12 * max(TIMES, 1), phases=[Phase.generate])
@given(st.integers(0, 2**32))
def test_whatever_happens_the_rules_hold(seed: int) -> None:
    Walk(Tape(random.Random(seed).randbytes(LENGTH))).run()


def test_the_walks_go_everywhere() -> None:
    """Otherwise the test above would promise more than it looks at."""
    kinds: set[CommandKind] = set()
    steps: set[Step] = set()
    told: set[str] = set()
    for seed in range(24):
        walk = Walk(Tape(random.Random(seed).randbytes(1500)))
        walk.run()
        kinds |= walk.kinds
        steps |= walk.steps
        told |= walk.told
    assert set(CommandKind) - kinds == {CommandKind.NOTIFY}
    assert set(Step) - steps == {Step.ANNOUNCE, Step.SETTLE}, "these send nothing"
    assert set(EVENTS) - told <= NOT_BY_DECIDE
