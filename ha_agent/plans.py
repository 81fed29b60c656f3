"""Plans are data: which steps an incident walks, in which order. `decide` has one handler per step."""

from __future__ import annotations

from ha_agent.model import Mode, Step, Verdict

RECOVER = (
    Step.FENCE,
    Step.FORCE_DOWN,
    Step.ANNOUNCE,
    Step.EVACUATE,
    Step.VERIFY,
    Step.SETTLE,
    Step.AWAIT_RETURN,
    Step.UNFENCE,
)
"""A dead host whose servers we move."""

FENCE_AND_TELL = (Step.FENCE, Step.FORCE_DOWN, Step.ANNOUNCE, Step.AWAIT_RETURN, Step.UNFENCE)
"""A dead host whose servers somebody else moves: it stays off until they release it."""

TELL = (Step.ANNOUNCE, Step.AWAIT_RETURN)
"""Announced without evidence, and alarms that call for no fence. It ends when the host is heard again."""

RESTART = (Step.ANNOUNCE, Step.RESTART, Step.VERIFY)
"""A host that is back by itself: its guests are gone, nothing is to be fenced."""

UNFORCE_AND_RESTART = (Step.ANNOUNCE, Step.UNFENCE, Step.RESTART, Step.VERIFY)
"""The same after we had told Nova that it is down, before anything was evacuated."""

UNFORCE_AND_TELL = (Step.UNFENCE, *TELL)
"""A host of which we had told Nova that it is down, and that calls for no fence any more: Nova is told first."""

UNFORCE = (Step.UNFENCE,)
"""A host that was heard again after we had told Nova that it is down, before anything was evacuated."""

GATE = (Step.AWAIT_RETURN,)
"""A host waits at its gate and nothing of it is unsettled: planned work, or a first boot. Quiet."""

IN_PLACE = (Step.RESTART, Step.VERIFY)
"""What remains of a recovery when its host is back: servers that could not be moved are started where they are."""

GUEST_RECOVER = (Step.ANNOUNCE, Step.REBOOT, Step.VERIFY)
GUEST_TELL = (Step.ANNOUNCE,)

FENCING_VERDICTS = frozenset({Verdict.DOWN, Verdict.OFF, Verdict.HUNG})
"""Verdicts that call for a fence. Every other one only alarms (S5)."""


def plan_for(verdict: Verdict, mode: Mode, *, fence: bool) -> tuple[Step, ...]:
    """The plan of a host's new incident."""
    if verdict is Verdict.REBOOTED:
        return RESTART if mode is Mode.AUTO else TELL
    if verdict not in FENCING_VERDICTS:
        return TELL
    if mode is Mode.AUTO:
        return RECOVER
    return FENCE_AND_TELL if fence else TELL
