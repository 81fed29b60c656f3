"""Self-doubt: whether what a controller sees may be its own sickness. Pure formulas, each with its table of tests.

A sick controller is patient: its windows grow up to twofold (the idea of Lifeguard: who answers late itself should not call others late).
And where many fall silent while nothing else answers either, it believes nothing: the verdict is unknown, which fences nobody (S5, S9).
L1's bounds hold for a controller in good health; a sick one may take up to `MOST_PATIENT` times as long. What broke in its own network
explains a silence that began soon after; it counts for OWN_COUNTS_S, or a cable nobody mends would keep the dead of next month down (L1).
"""

from __future__ import annotations

import msgspec

from ha_agent.model import Value
from ha_agent.policy import Detection

OWN_COUNTS_S = 60.0
LAG_STEP_S = 0.5
LAG_HALVES_S = 5.0
WORST = 8  # as many points as there are
MOST_PATIENT = 2.0
SEVERAL = 2  # silent hosts: one may well be dead while something of ours is broken too


class Own(Value, frozen=True, kw_only=True):
    """What a controller knows of itself. `lag_s`: how late its loop ran lately (see `remembered`). `no_carrier`: its own interfaces that had
    a carrier and lost it, and when, by the clock of durations. `gateway_lost_at`: since when its gateway, which did answer, does not."""

    lag_s: float = 0.0
    no_carrier: tuple[tuple[str, float], ...] = ()
    gateway_lost_at: float | None = None


class Beside(Value, frozen=True, kw_only=True):
    """What answers beside the hosts. `bmcs`, `bmcs_mute`: silent hosts with a fencing device that could be read, and with none. `nova`:
    whether Nova could be read; None: it was not tried lately."""

    bmcs: int = 0
    bmcs_mute: int = 0
    nova: bool | None = None


WELL = Own()
UNASKED = Beside()


def remembered(lag_s: float, before_s: float, gone_s: float) -> float:
    """A lag is forgotten by half in LAG_HALVES_S: the next one is more likely soon after."""
    faded: float = before_s * 0.5 ** (max(0.0, gone_s) / LAG_HALVES_S)
    return max(lag_s, faded)


def cut_off(own: Own, now_s: float) -> tuple[str, ...]:
    """Its interfaces that lost their carrier lately."""
    return tuple(name for name, lost_at in own.no_carrier if _lately(lost_at, now_s))


def astray(own: Own, now_s: float) -> bool:
    """Whether it lost its gateway lately."""
    return own.gateway_lost_at is not None and _lately(own.gateway_lost_at, now_s)


def _lately(lost_at: float, now_s: float) -> bool:
    return now_s - lost_at <= OWN_COUNTS_S


def sickness(own: Own, beside: Beside, now_s: float) -> int:
    """0: in good health; WORST: nothing that it sees can be trusted. One host without power beside a Nova that is away is no sickness of
    ours: L1 holds for it."""
    alone = beside.nova is False and beside.bmcs_mute >= SEVERAL and beside.bmcs == 0
    points = (min(4, int(own.lag_s / LAG_STEP_S)), 2 * bool(cut_off(own, now_s)), astray(own, now_s), alone)
    return min(WORST, sum(points))


def patience(sick: int) -> float:
    """By how much its windows grow."""
    return 1.0 + (MOST_PATIENT - 1.0) * min(max(sick, 0), WORST) / WORST


def patient(detection: Detection, factor: float) -> Detection:
    """The detection of a controller that waits longer."""
    return msgspec.structs.replace(
        detection, suspect_after_s=detection.suspect_after_s * factor, down_after_s=detection.down_after_s * factor
    )


def doubt(
    silent: int, known: int, detection: Detection, own: Own = WELL, beside: Beside = UNASKED, now_s: float = 0.0
) -> str:
    """Why our own network is more likely at fault than so many hosts; empty: it is not. Many suspects at once are more likely our network
    than theirs: every one of several, more than `doubt_share` of the hosts that were ever heard (and at least `doubt_min`), or fewer while
    something of our own is broken or nothing else answers."""
    ours = "it is more likely this controller's network"
    if known >= SEVERAL and silent >= known:
        return f"all {known} hosts fell silent: {ours}"
    if silent >= detection.doubt_min and silent > detection.doubt_share * known:
        return f"{silent} of {known} hosts are silent: {ours}"
    if silent < SEVERAL:
        return ""
    if names := cut_off(own, now_s):
        return f"{silent} hosts are silent and this controller's {', '.join(names)} has no carrier"
    if astray(own, now_s) and beside.nova is False:
        return f"{silent} hosts are silent, and neither Nova nor this controller's gateway answers"
    if beside.bmcs_mute and not beside.bmcs and beside.nova is False:
        return f"{silent} hosts are silent, and neither a device of theirs nor Nova answers: {ours}"
    return ""
