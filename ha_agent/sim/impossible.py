"""Pairs of a step and a fault that cannot meet by themselves, and why.

Where such a pair counts all the same, a look at a device's health fell into the strike, or the person on call came a moment later than
without it; tests/simulation/test_impossible.py says how often that may be.
"""

from __future__ import annotations

from ha_agent.model import Step

STEPS = ("suspect", *map(str, Step))
AFTER_FENCE = ("force_down", "announce", "evacuate", "verify", "settle", "await_return", "unfence", "restart", "reboot")
ONLY_AFTER_FENCE = tuple(
    step for step in AFTER_FENCE if step not in ("announce", "await_return")
)  # an alarm may come first
AFTER_MOVES = ("verify", "settle", "await_return", "unfence", "restart", "reboot")
AFTER_POWER_ON = ("unfence", "restart", "reboot")

DESTINATION = ("destination dies", "destination freezes")
OFF = ("BMC stays on", "BMC slow to switch")
DEVICES = (
    "controllers to BMCs",
    "BMC slow",
    "BMC hanging",
    "BMC refusing",
    "BMC flapping",
    "another machine's BMC",
    "lying BMC",
)

RULES: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (("spawn fails",), AFTER_MOVES, "no evacuation is under way any more, and none follows"),
    (("BMC restores power",), ("verify", "settle"), "it is switched on by us before its policy does"),
    (DESTINATION, ("reboot",), "nothing was moved"),
    (OFF, ONLY_AFTER_FENCE, "the fault shows only when the device is told to switch off, and that is over"),
    (DEVICES, ("unfence", "reboot"), "no device is asked anything any more, but for its health now and then"),
    (("BMC slow",), ("restart",), "devices are asked only for their health, and a late answer is one all the same"),
    (("switched on", "BMC restores power"), AFTER_POWER_ON, "the host is on already"),
    (("no valid host",), ("reboot",), "a guest is rebooted where it is: nothing is scheduled"),
    (
        ("controller lags",),
        ("verify", "settle", *AFTER_POWER_ON),
        "a controller that lags waits longer for hosts that are silent, and none is",
    ),
    (("unknown rows",), ("reboot",), "a guest is asked for by its own row: its host's service is not looked at"),
    (("reload",), ("reboot",), "what a reboot waits for is decided when it is announced"),
    (("clock stepped",), STEPS, "no duration and no order of things is by the wall clock: its times are only shown"),
    (
        ("hasty confirmation",),
        ("suspect", *ONLY_AFTER_FENCE),
        "refused: a person's word is taken while a fence is under way, or where nothing was fenced",
    ),
    (("release order",), ("suspect", "fence"), "refused: nothing is proven or moved yet that could be left as it is"),
    (
        ("release order",),
        ("verify", "settle", "unfence"),
        "nothing is tried again any more, so there is nothing to give up",
    ),
    (("release order",), ("reboot",), "refused: a host is released, and only its guest has an incident"),
    (("live migration",), ("settle",), "the host's servers are elsewhere, and nobody asks about theirs any more"),
)


def reason(step: str, fault: str) -> str:
    """Why nothing that a controller sees or does can differ; empty where it can."""
    return next((why for faults, steps, why in RULES if fault in faults and step in steps), "")
