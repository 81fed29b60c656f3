"""The planes of a cloud that is made from a seed: most clouds have that of management alone, some have another one, and some of those are in
the middle of an upgrade, in which not every host uses it yet."""

from __future__ import annotations

import random

import msgspec

from ha_agent.policy import Policy

WITH_PLANES = 0.3
UPGRADING = 0.3
PLANES = ("storage",)


def with_planes(policy: Policy, chance: random.Random) -> tuple[Policy, tuple[str, ...]]:
    """The policy with planes, and those of the controllers. `chance`: a stream of its own, so that nothing else of a seed depends on it."""
    if chance.random() >= WITH_PLANES:
        return policy, ()
    share = 0.6 if chance.random() < UPGRADING else 1.0
    hosts = {
        name: msgspec.structs.replace(host, planes=PLANES) if chance.random() < share else host
        for name, host in policy.hosts.items()
    }
    return msgspec.structs.replace(policy, hosts=hosts), PLANES if chance.random() < 0.5 else ()
